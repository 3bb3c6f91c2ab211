"""The field's checkpoints, a small file of every layout: each loads whole, or is refused in a sentence of its own."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.data.sources import load
from harness.errors import InputError
from harness.files import file_sha256
from harness.inputs import check_readable
from harness.models.build import build
from harness.models.checkpoints import load_into, read_state
from harness.models.registry import resolve_params
from harness.published.papers import published
from harness.spec import NetworkSpec
from harness.store.store import Store
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from tests.command import bench

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
WRITER = runpy.run_path(str(PAGE.with_name("write_networks.py")))
MEAN, STD, network = WRITER["MEAN"], WRITER["STD"], WRITER["small"]
LAYOUTS = {
    f"{layout.holds} {number}": (layout, form)
    for layout in WRITER["LAYOUTS"]
    for number, form in enumerate(layout.forms)
}


def test_the_page_is_what_becomes_of_a_file_of_every_layout():
    page = PAGE.read_text()
    assert page == WRITER["written"](page), "docs/networks.md is stale: run python docs/write_networks.py"


def test_the_networks_on_the_page_are_those_whose_numbers_are_published():
    zoo = {(each.dataset, name): each for each in WRITER["ZOO"] for name in each.names.split()}
    frame = published()
    named = frame[frame["link"].str.contains("robustbench/blob")]
    found = {(row.dataset, Path(row.file).stem): row.network for row in named.itertuples()}
    common = found.keys() & zoo.keys()
    assert len(common) >= 7
    for key in common:
        settings = resolve_params(zoo[key].model, zoo[key].params)
        assert found[key] == NetworkSpec(name=zoo[key].model, params=settings).label


def test_the_first_command_of_the_page_runs(tmp_path: Path):
    """On a small network in the layout of the file that it names, whose clean accuracy it finds."""
    words = shlex.split(re.search(r"```bash\nrun-bench (.*)\n", PAGE.read_text())[1])
    small = {"depth": 10, "widen": 1}
    torch.manual_seed(0)
    model = build("wrn", small, in_channels=1, num_classes=10).eval()
    torch.save(WRITER["unused"]()(model.state_dict()), tmp_path / words[1])
    test = load("digits", "test")
    accuracy = 100 * float((model(test.images / 255).argmax(1) == test.labels).double().mean())
    here = ["--dataset", "digits", "--param", str(small), "--expect-clean", f"{accuracy:.2f}", "--serial"]
    done = bench(*words, *here, cwd=tmp_path)
    assert f"clean accuracy: {accuracy:.2f} %" in done.stdout
    rows = Store(tmp_path / "results/runs/evaluations").read("class_accuracy")
    assert 100 * rows["correct"].sum() / rows["n"].sum() == pytest.approx(accuracy)


@pytest.mark.parametrize(
    "layout", [name for name, (layout, _) in LAYOUTS.items() if WRITER["outcome"](layout).startswith("loads")]
)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_of_every_layout_computes_what_its_network_did(tmp_path: Path, layout: str, legacy: bool):
    written, form = LAYOUTS[layout]
    origin = network(0, **({"mean": MEAN, "std": STD} if written.normalised else {}))
    content, path = form(origin.state_dict()), tmp_path / f"net{written.suffix}"
    if legacy and written.write is torch.save:
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        written.write(content, path)
    model, x = network(1), torch.rand(2, 3, 8, 8)
    assert not torch.equal(model(x), origin(x))
    load_into(model, read_state(path), source="net.pt")
    assert torch.equal(model(x), origin(x))
    assert (model.mean is not None) == written.normalised


def test_the_best_and_the_last_network_are_never_guessed(tmp_path: Path):
    best, last = network(0).state_dict(), network(1).state_dict()
    torch.save({"best": best, "last": {"net": last}}, tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"several networks \(best, last\): say which to take, weights: best or last"):
        read_state(tmp_path / "net.pt")
    for which, state in (("best", best), ("last", last)):
        found = read_state(tmp_path / "net.pt", weights=which)
        assert all(torch.equal(found[key], value) for key, value in state.items())
    torch.save({"best": best, "state_dict": last}, tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"several networks \(best, state_dict\)"):
        read_state(tmp_path / "net.pt")
    torch.save(best, tmp_path / "one.pt")
    with pytest.raises(InputError, match="holds no network 'last'"):
        read_state(tmp_path / "one.pt", weights="last")


def test_names_that_fit_stay_as_they_are(tmp_path: Path):
    class Wrapped(type(network(0))):
        """A network whose own names begin as a wrapper's do, with a normalisation that it keeps itself."""

        def __init__(self) -> None:
            super().__init__(3, 10, 2)
            self.model, self.fc = self.fc, nn.Identity()
            self.register_buffer("mu", torch.zeros(1))
            self.register_buffer("sigma", torch.ones(1))

    origin, model = Wrapped(), Wrapped()
    torch.save(origin.state_dict(), tmp_path / "net.pt")
    load_into(model, read_state(tmp_path / "net.pt"), source="net.pt")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in origin.state_dict().items())
    assert model.mean is None


def test_a_block_that_a_network_does_use_is_kept(tmp_path: Path):
    """TRADES' own class, as a plugin, expects the block that it never calls."""

    class Trades(type(network(0))):
        def __init__(self) -> None:
            super().__init__(3, 10, 2)
            self.sub_block1 = nn.Linear(2, 2)

    origin, model = Trades(), Trades()
    for name, state in (
        ("bare", origin.state_dict()),
        ("wrapped", WRITER["named"]("module.model.")[0](origin.state_dict())),
    ):
        torch.save(state, tmp_path / f"{name}.pt")
        load_into(model, read_state(tmp_path / f"{name}.pt"), source="net.pt")
        assert torch.equal(model.sub_block1.weight, origin.sub_block1.weight)


@pytest.mark.parametrize(
    ("values", "asked", "says"),
    [
        (([125.3, 122.9, 113.8], [63.0, 62.1, 66.7]), {}, "not one of pixels in \\[0, 1\\]"),
        ((MEAN, [0.25, 0.0, 0.26]), {}, "not one of pixels in \\[0, 1\\]"),
        ((MEAN, STD), {"mean": MEAN, "std": [0.2, 0.2, 0.2]}, "leave 'normalization' out"),
    ],
)
def test_a_normalisation_that_cannot_be_meant_is_refused(values, asked, says):
    model = network(1, **asked)
    state = {"mu": torch.tensor(values[0]), "sigma": torch.tensor(values[1]), **network(0).state_dict()}
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match=says):
        load_into(model, state, source="net.pt")
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    load_into(
        network(1, mean=MEAN, std=STD), {**state, "mu": torch.tensor(MEAN), "sigma": torch.tensor(STD)}, source=""
    )


def test_half_a_normalisation_is_no_part_of_the_network():
    with pytest.raises(InputError, match=r"1 unexpected \(mu\)"):
        load_into(network(1), {"mu": torch.tensor(MEAN), **network(0).state_dict()}, source="net.pt")


@pytest.mark.parametrize(("mean", "says"), [([0.3], None), (MEAN, "of 3 channels, the data has 1")])
def test_a_plan_says_that_a_normalisation_is_taken(tmp_path: Path, mean: list[float], says: str | None):
    small = build("cnn", {"width": 2}, in_channels=1, num_classes=10).state_dict()
    torch.save({"mu": torch.tensor(mean), "sigma": torch.tensor(STD[: len(mean)]), **small}, tmp_path / "net.pt")
    path, sha256 = tmp_path / "net.pt", file_sha256(tmp_path / "net.pt", "checkpoint")
    file = f"{{model: {{name: cnn, width: 2}}, file: {path}, sha256: {sha256}}}"
    specs = plan(load_suite("quickstart", [f"teacher={file}", "methods=[rslad]"]))
    if says:
        with pytest.raises(InputError, match=says):
            check_readable(specs, None, False)
        return
    said = check_readable(specs, None, False)
    assert f"{tmp_path / 'net.pt'}: the normalisation in the file is taken, mean [0.3] and deviation [0.25]" in said
    starts = plan(load_suite("quickstart", [f"init={file}", "methods=[frl_reweight]"]))
    with pytest.raises(InputError, match="write it as its 'normalization'"):
        check_readable(starts, None, False)


class Own(nn.Module):
    """A network of somebody's own code."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)


def save(content: Any, path: Path) -> None:
    torch.save(content, path)


FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "safetensors": (
        lambda path: save_file(network(0).state_dict(), path), "is a safetensors file: .* ends in .safetensors",
    ),
    "page": (
        lambda path: path.write_text("\n<!DOCTYPE html><html><title>Sign in</title>" + " " * 2000),
        "is a web page: .*download the file itself",
    ),
    "tar": (lambda path: WRITER["write_tar"](network(0).state_dict(), path), "is an archive .*: unpack it"),
    "module": (
        lambda path: save(nn.Sequential(nn.Linear(2, 2)), path),
        r"holds a whole pickled network \(torch.nn.modules.container.Sequential\).*save its weights alone",
    ),
    "own module": (
        lambda path: save({"net": Own(), "epoch": 3}, path), r"whole pickled network \(.*test_layouts.Own\)",
    ),
    "legacy module": (
        lambda path: torch.save(Own(), path, _use_new_zipfile_serialization=False), r"whole pickled network",
    ),
    "arguments": (
        lambda path: save({"state_dict": network(0).state_dict(), "args": argparse.Namespace(lr=0.1)}, path),
        "holds argparse.Namespace beside tensors .*nothing in it was executed.*save its state dict alone",
    ),
    "array": (
        lambda path: save({"net": network(0).state_dict(), "accuracies": np.zeros(3)}, path),
        r"holds numpy.*_reconstruct beside tensors",
    ),
    "text scalar": (
        lambda path: save({"net": network(0).state_dict(), "name": np.str_("x")}, path), "is damaged or holds more",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_kind_is_told_in_a_sentence_of_its_own(tmp_path: Path, kind: str):
    make, says = FOREIGN[kind]
    make(tmp_path / "net.pt")
    with pytest.raises(InputError) as excinfo:
        read_state(tmp_path / "net.pt")
    message = str(excinfo.value)
    assert re.search(says, message), message
    assert message.startswith(f"checkpoint {tmp_path / 'net.pt'} ")
    assert "\n" not in message
