"""Checkpoints of the field load and are right; wrong files are refused in one line; writing is all or nothing."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pickle
import re
import resource
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from harness.errors import InputError
from harness.files import file_sha256, remove_leftovers
from harness.models import checkpoints
from harness.models.build import build
from harness.models.checkpoints import check_finite, load_into, read_state, write_state
from tests.own_data import one_line


def package_folder(name: str) -> Path:
    return Path(importlib.util.find_spec(name).submodule_search_locations[0])


def small_wrn(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build("wrn", {"depth": 10, "widen": 1}, in_channels=3, num_classes=10).eval()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


# The field's files


def test_the_real_resnet18_of_pyautoattack_classifies_real_images():
    model = build("resnet18", {}, in_channels=3, num_classes=10).eval()
    path = package_folder("pyautoattack") / "examples" / "model_test.pt"
    state = read_state(path)
    assert set(state) == set(model.state_dict())
    load_into(model, state, source=str(path))
    pictures = sorted((package_folder("foolbox") / "data").glob("cifar10_*.png"))
    assert len(pictures) == 20
    images = torch.stack([torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1) for p in pictures]).float() / 255
    labels = [int(picture.stem.split("_")[-1]) for picture in pictures]
    with torch.no_grad():
        assert model(images).argmax(1).tolist() == labels


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("unused_block", [False, True])
@pytest.mark.parametrize("nested", [None, "state_dict", "model", "net"])
def test_a_wrn_file_in_trades_layout_loads(tmp_path: Path, prefix: str, unused_block: bool, nested: str | None):
    origin, state = small_wrn(0), {}
    for key, value in origin.state_dict().items():
        state[prefix + key] = value
        if unused_block and key.startswith("block1."):
            state[f"{prefix}sub_{key}"] = torch.randn(value.shape)
    torch.save({nested: state, "epoch": 76} if nested else state, tmp_path / "wrn.pt")
    model = small_wrn(1)
    load_into(model, read_state(tmp_path / "wrn.pt"), source="wrn.pt")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x), origin(x))


def test_only_the_unused_block_is_forgiven(tmp_path: Path):
    state = {**small_wrn().state_dict(), "sub_block2.layer.0.bn1.weight": torch.ones(16)}
    torch.save(state, tmp_path / "wrn.pt")
    with pytest.raises(InputError, match=r"1 unexpected \(sub_block2"):
        load_into(small_wrn(), read_state(tmp_path / "wrn.pt"), source="wrn.pt")


def test_wrn_34_10_has_the_names_and_shapes_of_trades():
    with torch.device("meta"):
        actual = {k: tuple(v.shape) for k, v in build("wrn", {}, in_channels=3, num_classes=10).state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {"conv1.weight": (16, 3, 3, 3), "fc.weight": (10, 640), "fc.bias": (10,)}

    def norm(name: str, channels: int) -> None:
        expected.update({f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")})
        expected[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 640)
    for stage, (before, after) in enumerate([(16, 160), (160, 320), (320, 640)], 1):
        for block in range(5):
            at, inputs = f"block{stage}.layer.{block}", after if block else before
            norm(f"{at}.bn1", inputs)
            norm(f"{at}.bn2", after)
            expected[f"{at}.conv1.weight"] = (after, inputs, 3, 3)
            expected[f"{at}.conv2.weight"] = (after, after, 3, 3)
            if block == 0:
                expected[f"{at}.convShortcut.weight"] = (after, inputs, 1, 1)
    assert actual == expected


def test_batch_counters_may_be_absent():
    origin, model = small_wrn(0), small_wrn(1)
    state = {key: value for key, value in origin.state_dict().items() if not key.endswith("num_batches_tracked")}
    load_into(model, state, source="old.pt")
    assert same(model.state_dict(), origin.state_dict())


@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
@pytest.mark.parametrize(
    "name",
    [
        "ema",
        "state_dict_ema",
        "ema_state_dict",
        "model_ema",
        "ema_model",
        "swa_state_dict",
        "averaged_model",
        "EMA",
        "modelEMA",
        "model_avg",
        "avg_model",
    ],
)
def test_averaged_weights_beside_raw_ones_are_never_guessed(tmp_path: Path, name: str, nested: str | None):
    path, raw, averaged = tmp_path / "both.pt", small_wrn(0).state_dict(), small_wrn(1).state_dict()
    torch.save({**({nested: raw} if nested else raw), name: averaged, **({"epoch": 3} if nested else {})}, path)
    with pytest.raises(InputError, match=rf"holds averaged weights \({name}\): say which.*ema or raw") as excinfo:
        read_state(path)
    one_line(excinfo)
    assert not same(raw, averaged)
    if nested:
        torch.save({"state_dict": raw, name: averaged, "epoch": 3}, path)
    assert same(read_state(path, weights="ema"), averaged)
    assert same(read_state(path, weights="raw"), raw)


def test_the_averages_of_other_tools_are_found(tmp_path: Path):
    path, averaged = tmp_path / "both.pt", small_wrn(1)
    wrapped = torch.optim.swa_utils.AveragedModel(averaged).state_dict()
    assert "n_averaged" in wrapped
    for content in (wrapped, {"shadow": averaged.state_dict(), "decay": 0.999}, {"state_dict": averaged.state_dict()}):
        torch.save({"model": small_wrn(0).state_dict(), "ema": content}, path)
        model = small_wrn(2)
        load_into(model, read_state(path, weights="ema"), source="both.pt")
        assert same(model.state_dict(), averaged.state_dict())
    torch.save({"net": {"state_dict": small_wrn(0).state_dict(), "ema": averaged.state_dict()}}, path)
    assert same(read_state(path, weights="ema"), averaged.state_dict())


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_choice_where_there_is_none_is_refused(tmp_path: Path, weights: str):
    torch.save({"state_dict": small_wrn().state_dict(), "ema_decay": 0.999}, tmp_path / "one.pt")
    assert read_state(tmp_path / "one.pt")
    with pytest.raises(InputError, match="holds no averaged weights"):
        read_state(tmp_path / "one.pt", weights=weights)
    torch.save(dict.fromkeys(("model", "ema", "swa"), small_wrn().state_dict()), tmp_path / "two.pt")
    with pytest.raises(InputError, match=r"several averages \(ema, swa\)"):
        read_state(tmp_path / "two.pt", weights="ema")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float):
    state = small_wrn().state_dict()
    check_finite(state, source="mine.pt")
    state["bn1.running_var"][3] = value
    with pytest.raises(InputError, match=r"mine.pt holds NaN or infinite weights: 1 tensors \(bn1.running_var\)"):
        check_finite(state, source="mine.pt")


def test_safetensors_files_load(tmp_path: Path):
    from safetensors.torch import save_file

    origin = small_wrn()
    save_file({f"module.{key}": value for key, value in origin.state_dict().items()}, tmp_path / "wrn.safetensors")
    model = small_wrn(1)
    load_into(model, read_state(tmp_path / "wrn.safetensors"), source="wrn.safetensors")
    assert same(model.state_dict(), origin.state_dict())


# Files that are wrong


def test_the_sha256_is_checked(tmp_path: Path):
    torch.save(small_wrn().state_dict(), tmp_path / "wrn.pt")
    digest = hashlib.sha256((tmp_path / "wrn.pt").read_bytes()).hexdigest()
    assert file_sha256(tmp_path / "wrn.pt", "checkpoint") == digest
    assert read_state(tmp_path / "wrn.pt", sha256=digest.upper())
    with pytest.raises(InputError, match=f"has sha256 {digest}, not 0000") as excinfo:
        read_state(tmp_path / "wrn.pt", sha256="0" * 64)
    one_line(excinfo)


class Attack:
    """Unpickling this creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["torch", "torch legacy", "pickle", "among tensors"])
def test_a_pickle_that_executes_code_is_refused_and_nothing_runs(tmp_path: Path, form: str):
    path, target = tmp_path / "evil.pt", tmp_path / "executed"
    attack = Attack(target)
    if form == "pickle":
        path.write_bytes(pickle.dumps(attack))
    elif form == "among tensors":
        torch.save({**small_wrn().state_dict(), "extra": attack}, path)
    else:
        torch.save(attack, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(InputError, match=r"refused.*nothing in it was executed") as excinfo:
        read_state(path)
    assert str(path) in one_line(excinfo)
    assert not target.exists()
    torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
    assert target.exists()  # the attack was a real one


def test_pickled_code_under_a_safetensors_name_is_refused(tmp_path: Path):
    path, target = tmp_path / "evil.safetensors", tmp_path / "executed"
    torch.save(Attack(target), path)
    with pytest.raises(InputError, match="not a safetensors file") as excinfo:
        read_state(path)
    one_line(excinfo)
    assert not target.exists()


@pytest.mark.parametrize("size", [0, 1, 10, 1000, 20_000, -100])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, size: int, suffix: str):
    from safetensors.torch import save_file

    path = tmp_path / f"half{suffix}"
    (torch.save if suffix == ".pt" else save_file)(small_wrn().state_dict(), path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match="damaged") as excinfo:
        read_state(path)
    assert str(path) in one_line(excinfo)


def test_missing_files_and_folders_are_refused(tmp_path: Path):
    for path in (tmp_path / "absent.pt", tmp_path):
        for read in (read_state, partial(file_sha256, what="checkpoint")):
            with pytest.raises(InputError, match=f"^checkpoint {path} cannot be read: [^/]*$") as excinfo:
                read(path)
            one_line(excinfo)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ([torch.ones(2)], "holds no state dict"),
        ({}, "holds no state dict"),
        ({"state_dict": {}}, "holds no state dict"),
        ({"weight": torch.ones(2), "epoch": 3}, "'epoch' is a int"),
        ({3: torch.ones(2)}, "3 is a Tensor"),
    ],
)
def test_files_without_a_plain_state_dict_are_refused(tmp_path: Path, content: object, fault: str):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match=fault) as excinfo:
        read_state(tmp_path / "other.pt")
    one_line(excinfo)


def test_parameters_that_are_there_twice_are_refused():
    with pytest.raises(InputError, match="holds parameters twice, with and without the prefix"):
        load_into(nn.Linear(2, 2), {"weight": torch.ones(2, 2), "module.weight": torch.ones(2, 2)}, source="both.pt")


def test_a_network_may_call_its_own_modules_as_wrappers_do():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._orig_mod = nn.Sequential(nn.Linear(3, 2))

    for kind in (One, Two):
        origin, plain, parallel = kind(), kind(), kind()
        load_into(plain, origin.state_dict(), source="own.pt")
        wrapped = {f"module._orig_mod.{key}": value for key, value in origin.state_dict().items()}
        load_into(parallel, wrapped, source="parallel.pt")
        for model in (plain, parallel):
            assert same(model.state_dict(), origin.state_dict())


@pytest.mark.parametrize("second", ["rmodel", "model_state_dict", "net"])
def test_which_of_several_networks_is_never_guessed(tmp_path: Path, second: str):
    torch.save({"model": small_wrn(0).state_dict(), second: small_wrn(1).state_dict(), "epoch": 3}, tmp_path / "two.pt")
    with pytest.raises(InputError, match=r"holds several networks \(.*\): keep one in a file of its own") as excinfo:
        read_state(tmp_path / "two.pt")
    one_line(excinfo)
    assert {"model", second} <= set(re.findall(r"\w+", str(excinfo.value)))


def test_a_wrong_architecture_names_the_keys_and_changes_nothing():
    model = build("cnn", {"width": 4}, in_channels=3, num_classes=10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = build("cnn", {"width": 4}, in_channels=1, num_classes=7).state_dict()
    state["extra.weight"] = state.pop("stage2.conv1.weight")
    with pytest.raises(InputError) as excinfo:
        load_into(model, state, source="teacher.pt")
    message = one_line(excinfo)
    assert message.startswith("teacher.pt does not fit the network CNN")
    assert "1 missing (stage2.conv1.weight)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "3 of another shape (stage1.conv1.weight (4, 1, 3, 3) for (4, 3, 3, 3), " in message
    assert same(model.state_dict(), before)
    with pytest.raises(InputError, match=r"38 unexpected \(\S+, \S+, \S+, \.\.\.\)"):
        load_into(nn.Identity(), build("cnn", {}, in_channels=1, num_classes=7).state_dict(), source="teacher.pt")


# Writing


def test_a_written_state_is_plain_and_has_its_sidecar(tmp_path: Path):
    model = small_wrn().to(memory_format=torch.channels_last)
    path = tmp_path / "student.pt"
    write_state(path, model, {"model": "wrn", "params": {"depth": 10}})
    assert sorted(each.name for each in path.parent.iterdir()) == ["student.json", "student.pt"]
    assert same(torch.load(path, weights_only=True), model.state_dict())
    expected = {"model": "wrn", "params": {"depth": 10}, "sha256": file_sha256(path, "checkpoint")}
    assert json.loads(path.with_suffix(".json").read_text()) == expected
    assert read_state(path, sha256=expected["sha256"])


def test_a_state_is_written_into_a_folder_that_is_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError):  # a results folder that was moved is not made anew
        write_state(tmp_path / "moved" / "student.pt", {"weight": torch.ones(3)}, {})
    assert not list(tmp_path.iterdir())


def test_a_state_of_views_does_not_drag_their_storage_along(tmp_path: Path):
    write_state(tmp_path / "view.pt", {"weight": torch.zeros(1_000_000)[:10]}, {})
    assert (tmp_path / "view.pt").stat().st_size < 10_000


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, existing: bool):
    path = tmp_path / "student.pt"
    if existing:
        write_state(path, {"weight": torch.ones(3)}, {"epoch": 1})
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # longer files fail as on a full disk
    try:
        with pytest.raises(OSError, match="too large"):
            write_state(path, small_wrn(), {"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_a_sidecar_that_is_not_json_writes_nothing(tmp_path: Path):
    with pytest.raises(TypeError):
        write_state(tmp_path / "student.pt", {"weight": torch.ones(3)}, {"path": tmp_path})
    assert not list(tmp_path.iterdir())


def test_what_a_killed_writer_leaves_is_known_for_a_leftover(tmp_path, monkeypatch):
    def die(path, content):
        path.write_bytes(content[:10])
        os._exit(9)

    monkeypatch.setattr(checkpoints, "_write_through", die)
    child = os.fork()
    if child == 0:
        write_state(tmp_path / "last.pt", {"weight": torch.zeros(2)}, {})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(list(tmp_path.iterdir())) == 1
    assert remove_leftovers(tmp_path, ()) == 1
    assert list(tmp_path.iterdir()) == []
