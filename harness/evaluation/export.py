"""A network of a store in a folder of its own: its weights as safetensors, and a card that says what it is and how to
load it."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from harness.data.registry import DATASETS
from harness.errors import InputError, one_of
from harness.evaluation.evaluate import GIVEN
from harness.files import make_folder, write_bytes
from harness.inputs import Shape, network_of, read_data, trained_network
from harness.report.captions import eps_text
from harness.report.card import card
from harness.spec import SELECTED, TrialSpec, read_spec
from harness.store.store import Store
from harness.suites.blocks import radius
from harness.suites.of_trial import stored_suite
from methods.settings import YOURS

WEIGHTS, CARD = "model.safetensors", "README.md"


def export(store: Store, trial_id: str, checkpoint: str | None, folder: Path, data_root: Path | None) -> None:
    """Write a trial's network into a folder, which gets two files and may hold nothing else. Raises InputError for a
    trial that is not done, a checkpoint without weights, and files that are not of an earlier export of the same.

    data_root: where data is read that is known only once it is read.
    """
    row = {key: value for key, value in store.row(trial_id).items() if value is not None}
    spec = read_spec(json.loads(row["spec"]))
    if row["status"] != "done":
        raise InputError(f"trial {trial_id} is {row['status']}: what is exported is done")
    kept = (GIVEN,) if spec.training is None else spec.keep
    checkpoint = one_of("checkpoint of this trial", checkpoint or (SELECTED if SELECTED in kept else kept[0]), kept)
    mark = f"<!-- run-bench export: trial {trial_id}, {checkpoint} -->\n"
    _check_folder(folder, mark)
    network, given = _loaded(spec, checkpoint, store.root, data_root)
    state = network.state_dict()
    weights = save({key: value.clone(memory_format=torch.contiguous_format) for key, value in state.items()})
    rows = store.read("class_accuracy", [trial_id])
    text = card(spec, row, rows[rows["checkpoint"] == checkpoint], checkpoint)
    parts = [mark, text, f"- {WEIGHTS}: sha256 {hashlib.sha256(weights).hexdigest()}\n", _loading(spec, given)]
    if spec.training is not None:
        parts.append(f"\n## Train it again\n\n```yaml\n{stored_suite(store, trial_id)}```\n")
    make_folder(folder)
    write_bytes(folder / CARD, "".join(parts).encode())
    write_bytes(folder / WEIGHTS, weights)


def _check_folder(folder: Path, mark: str) -> None:
    """InputError for what holds other files than an earlier export of the same."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"cannot write to {folder}: it is not a folder")
    names = sorted(path.name for path in folder.iterdir())
    earlier = (folder / CARD).is_file() and (folder / CARD).read_bytes().startswith(mark.encode())
    if foreign := [name for name in names if not earlier or name not in (WEIGHTS, CARD)]:
        raise InputError(f"{folder} holds other files ({', '.join(foreign[:3])}): give the export a folder of its own")


def _loaded(spec: TrialSpec, checkpoint: str, root: Path, data_root: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """The network with its weights, and what `build` is given."""
    shape = _shape(spec, data_root)
    network = trained_network(network_of(spec, checkpoint), shape, root)
    given: dict[str, Any] = {
        "in_channels": shape.channels, "num_classes": shape.num_classes, "image_size": shape.image_size
    }  # fmt: skip
    for name in ("mean", "std"):  # a file may have brought its own
        value = getattr(network, name)
        if value is not None:
            given[name] = [float(str(each)) for each in value.flatten().numpy()]
    return network, given


def _shape(spec: TrialSpec, data_root: Path | None) -> Shape:
    """Of the user's own data once it is read."""
    facts = DATASETS[one_of("dataset", spec.dataset.name, DATASETS, YOURS)]
    if facts.channels and facts.num_classes and facts.image_size:
        return Shape(facts.channels, facts.num_classes, facts.image_size)
    data = read_data(spec.dataset, spec.split_seed, torch.device("cpu"), second=False, root=data_root, download=False)
    return Shape(data.channels, data.num_classes, data.image_size)


def _loading(spec: TrialSpec, given: Mapping[str, Any]) -> str:
    """The lines that load the network, and the command that evaluates it again."""
    asked = "".join(f", {name}={value}" for name, value in given.items())
    size = given["image_size"]
    code = [
        f"{role.replace(':', ' ')}, sha256 {sha256}" for role, sha256 in spec.code.items()
        if role.startswith(("network:", "attack:", "dataset:"))
    ]  # fmt: skip
    needs = (
        f"Code of others: {'; '.join(code)}. `--plugin FILE`, or `methods.load_plugin(FILE)` first.\n\n" if code else ""
    )
    takes = f"from images (B, {given['in_channels']}, {size}, {size}) in [0, 1] to logits (B, {given['num_classes']})"
    return f"""
## Load it

{needs}```python
from harness.models.build import build
from harness.models.checkpoints import load_into, read_state

network = build({spec.student.name!r}, {spec.student.params}{asked})
load_into(network, read_state("{WEIGHTS}"), source="{WEIGHTS}")
network.eval()  # {takes}
```

```bash
{_command(spec, given)}
```
"""


def _command(spec: TrialSpec, given: Mapping[str, Any]) -> str:
    """Evaluates the network under those attacks of the trial that are as their names say, on the images of the
    first of them; without an attack where none is."""
    plain = [attack for attack in spec.evaluation.attacks if attack.overrides.keys() == {"name"}]
    plain = [attack for attack in plain if attack.images == plain[0].images]  # the command has one number for all
    images = {attack.images for attack in plain} - {None}
    asked = {"name", "test_images", "path", "sha256", "resize", "label_column"}
    dataset = spec.dataset.model_dump(include=asked, exclude_none=True)
    if spec.dataset.path:
        dataset["path"] = Path(spec.dataset.path).name
    shown = eps_text(spec.eps)
    options: dict[str, str | Mapping[str, Any]] = {
        "--model": spec.student.name,
        "--param": spec.student.params,
        "--normalization": {name: given[name] for name in ("mean", "std") if name in given},
        "--dataset": dataset if len(dataset) > 1 else spec.dataset.name,
        "--eps": shown if radius(shown, "eps") == spec.eps else repr(spec.eps),
        "--attacks": ",".join(attack.name for attack in plain) or "clean",
        "--images": str(images.pop()) if images else "",
        "--gradient-precision": precision if (precision := spec.evaluation.gradient_precision) != "float32" else "",
        "--split-seed": str(spec.split_seed or "") if spec.dataset.path else "",
    }
    words = [word for name, value in options.items() if value for word in (name, _word(value))]
    return shlex.join(["run-bench", "evaluate", WEIGHTS, *words])


def _word(value: str | Mapping[str, Any]) -> str:
    return value if isinstance(value, str) else json.dumps(value)
