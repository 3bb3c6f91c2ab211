"""The field's checkpoints, a small file of every layout: each loads whole, or is refused in a sentence of its own."""

from __future__ import annotations

import argparse
import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.errors import InputError
from harness.files import file_sha256
from harness.inputs import check_readable
from harness.models.build import build
from harness.models.checkpoints import load_into, read_state
from harness.suites.plan import plan
from harness.suites.suite import load_suite

MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]
State = dict[str, Tensor]


def network(seed: int, **normalisation: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build("cnn", {"width": 2}, in_channels=3, num_classes=10, **normalisation).eval()


def before(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + key: value for key, value in state.items()}


def normalised(mean: str, std: str, prefix: str = "", scope: str = "") -> Callable[[State], State]:
    """With a normalisation under these names, as a buffer of an image; scope: before all names."""
    buffers = {mean: torch.tensor(MEAN).view(1, 3, 1, 1), std: torch.tensor(STD).view(1, 3, 1, 1)}
    return lambda state: {scope + key: value for key, value in (buffers | before(prefix)(state)).items()}


PLAIN: dict[str, Callable[[State], Any]] = {
    "as it is": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 76, "best_prec1": 0.5},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    "rmodel": lambda state: {"rmodel": state, "epoch": 3},
    "net beside optimizer": lambda state: {"net": state, "optimizer": {"state": {}, "param_groups": []}, "acc": 0.5},
    "best alone": lambda state: {"best": state, "epoch": 3},
    "best numbers": lambda state: {"state_dict": state, "best": {"accuracy": 0.5, "epoch": 3}},
    "last alone": lambda state: {"last": {"state_dict": state}},
    **{
        f"prefix {prefix}": before(prefix)
        for prefix in (
            "module.", "_orig_mod.", "module._orig_mod.", "module.module.", "model.", "basic_net.", "1.", "module.1.",
            "module.model.", "_orig_mod.module.basic_net.",
        )
    },
    "numpy scalars": lambda state: {
        "net": state, "acc": np.float64(93.2), "epoch": np.int64(7), "loss": np.float32(0.5), "ok": np.bool_(True),
    },
    "an unused block": lambda state: {"model.sub_block1.weight": torch.ones(2)} | before("model.")(state),
}  # fmt: skip
NORMALISED: dict[str, Callable[[State], Any]] = {
    "mu and sigma": normalised("mu", "sigma"),
    "mean and std": normalised("mean", "std"),
    "parallel": normalised("mu", "sigma", scope="module."),
    "in the network": normalised("mu", "sigma", scope="model."),
    "normalize.": normalised("normalize.mean", "normalize.std", prefix="model."),
    "normalizer.": normalised("normalizer.mean", "normalizer.std", prefix="model."),
    "a Sequential": normalised("0.mean", "0.std", prefix="1."),
    "a parallel Sequential": normalised("0.mu", "0.sigma", prefix="1.", scope="module."),
    "nested": lambda state: {"state_dict": normalised("mu", "sigma", scope="module.")(state)},
}


@pytest.mark.parametrize("layout", [*PLAIN, *NORMALISED])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_of_every_layout_computes_what_its_network_did(tmp_path: Path, layout: str, legacy: bool):
    carries = layout in NORMALISED
    origin = network(0, **({"mean": MEAN, "std": STD} if carries else {}))
    content = {**PLAIN, **NORMALISED}[layout](origin.state_dict())
    torch.save(content, tmp_path / "net.pt", _use_new_zipfile_serialization=not legacy)
    model, x = network(1), torch.rand(2, 3, 8, 8)
    assert not torch.equal(model(x), origin(x))
    load_into(model, read_state(tmp_path / "net.pt"), source="net.pt")
    assert torch.equal(model(x), origin(x))
    assert (model.mean is not None) == carries


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


def save_tar(content: Any, path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("net.pt")
        entry.size = buffer.tell()
        buffer.seek(0)
        archive.addfile(entry, buffer)


FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "safetensors": (
        lambda path: save_file(network(0).state_dict(), path), "is a safetensors file: .* ends in .safetensors",
    ),
    "page": (
        lambda path: path.write_text("\n<!DOCTYPE html><html><title>Sign in</title>" + " " * 2000),
        "is a web page: .*download the file itself",
    ),
    "tar": (lambda path: save_tar(network(0).state_dict(), path), "is an archive .*: unpack it"),
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
