"""Writes into docs/networks.md what becomes of the files that others write: python docs/write_networks.py

A small file of every layout is made and read; the networks of RobustBench are declared here, as its code builds them.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.errors import InputError
from harness.models.build import build
from harness.models.checkpoints import load_into, read_state
from harness.models.layers import Network
from harness.models.registry import model_info, resolve_params

PAGE = Path(__file__).with_name("networks.md")
MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]
State = dict[str, Tensor]
Content = Callable[[State], Any]


@dataclass(frozen=True)
class Layout:
    """What a file may be like. holds: in a few words. by: who writes such files. forms: what is in the file, from the
    state dict of a network, in each way that ends alike. normalised: the network has a normalisation, which is in the
    file. write: puts the content there."""

    holds: str
    by: str
    forms: tuple[Content, ...]
    normalised: bool = False
    write: Callable[[Any, Path], Any] = torch.save
    suffix: str = ".pt"


def written(page: str) -> str:
    """The page with what stands between its marks, `<!-- name -->` and `<!-- /name -->`, written anew."""
    for name, text in (("layouts", layouts()), ("robustbench", robustbench())):
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        page = page[: page.index(begin) + len(begin)] + "\n" + text + "\n" + page[page.index(end) :]
    return page


def layouts() -> str:
    """A row for each layout, with what happened to a file of it."""
    return table(
        ["the file holds", "who writes it", "what becomes of it"],
        ([each.holds, each.by, outcome(each)] for each in LAYOUTS),
    )


def outcome(layout: Layout) -> str:
    """What becomes of files of a layout, all forms alike."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"net{layout.suffix}"
        (said,) = {_read(layout, form, path) for form in layout.forms}
    return said


def _read(layout: Layout, form: Content, path: Path) -> str:
    normalised = layout.normalised
    origin, model = small(0, **({"mean": MEAN, "std": STD} if normalised else {})), small(1)
    layout.write(form(origin.state_dict()), path)
    try:
        load_into(model, read_state(path), source="it")
    except InputError as error:
        said = str(error).removeprefix(f"checkpoint {path} ")
        return said if said.startswith("is refused") else f"is refused: it {said}"
    if normalised != (model.mean is not None):
        raise ValueError(f"{layout.holds}: a normalisation is {'lost' if normalised else 'invented'}")
    return "loads, with the normalisation that it holds" if normalised else "loads"


def small(seed: int, **normalisation: Any) -> Network:
    """A small network."""
    torch.manual_seed(seed)
    return build("cnn", {"width": 2}, in_channels=3, num_classes=10, **normalisation).eval()


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# What files hold


def plain(state: State) -> State:
    return state


def under(key: str, **beside: Any) -> Content:
    """Nested, with other things beside."""
    return lambda state: {key: state, **beside}


def named(*prefixes: str) -> tuple[Content, ...]:
    """With each of these before all names."""
    return tuple(
        lambda state, prefix=prefix: {prefix + key: value for key, value in state.items()} for prefix in prefixes
    )


def normalising(mean: str, std: str, prefix: str = "", scope: str = "") -> Content:
    """With a normalisation under these names, shaped as an image; scope: before all names."""
    buffers = {mean: torch.tensor(MEAN).view(1, 3, 1, 1), std: torch.tensor(STD).view(1, 3, 1, 1)}
    return lambda state: {scope + key: value for key, value in (buffers | named(prefix)[0](state)).items()}


def twice(state: State) -> dict[str, Any]:
    """As MadryLab's `robustness`: the network, and once more in the attacker."""
    copies = (("", "normalizer"), ("attacker.", "normalize"))
    both = (
        normalising(f"{inside}{norm}.new_mean", f"{inside}{norm}.new_std", f"{inside}model.", "module.")(state)
        for inside, norm in copies
    )
    return {"model": {key: value for copy in both for key, value in copy.items()}, "epoch": 3}


def averaged(state: State) -> dict[str, Any]:
    """As torch's AveragedModel."""
    return {"n_averaged": torch.tensor(3), **named("module.")[0](state)}


def unused(prefix: str = "") -> Content:
    """With the block that TRADES' Wide ResNet has and never calls."""
    return lambda state: {f"{prefix}sub_block1.weight": torch.ones(2)} | named(prefix)[0](state)


def write_tar(content: Any, path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("net.pt")
        entry.size = buffer.tell()
        buffer.seek(0)
        archive.addfile(entry, buffer)


_NUMBERS = {"acc": np.float64(93.2), "epoch": np.int64(7), "loss": np.float32(0.5), "ok": np.bool_(True)}
_OPTIMIZER = {"state": {}, "param_groups": []}

LAYOUTS = (
    Layout("a state dict, as it is", "TRADES, MART, MTARD, FAAL, DeepMind", (plain,)),
    Layout("the same as `.safetensors`", "Hugging Face's tools", (plain,), write=save_file, suffix=".safetensors"),
    Layout(
        "`state_dict`, beside an epoch or accuracies", "AWP, robust overfitting, IAD, DAFA, TRIX",
        (under("state_dict", epoch=76, best_prec1=0.5), under("state_dict", best={"accuracy": 0.5, "epoch": 3})),
    ),
    Layout("`model_state_dict`", "FERD", (under("model_state_dict", optimizer_state_dict={"state": {}}),)),
    Layout(
        "`net`, alone or beside `optimizer`", "AdaAD, ARD",
        (under("net", clean_acc=0.5), under("net", optimizer=_OPTIMIZER)),
    ),
    Layout("`model` beside `optimizer`", "ABSLD", (under("model", optimizer=_OPTIMIZER, epoch=3),)),
    Layout("`rmodel`", "scripts that call their robust network so", (under("rmodel", epoch=3),)),
    Layout(
        "`best` or `last`, one of them", "scripts that keep one",
        (under("best", epoch=3), lambda state: {"last": {"state_dict": state}}),
    ),
    Layout(
        "`best` and `last`", "Andriushchenko2020Understanding in RobustBench",
        (lambda state: {"best": state, "last": state},),
    ),
    Layout(
        "averaged weights (`ema`, `swa`, ...) beside raw ones", "timm and others",
        (lambda state: {"state_dict": state, "state_dict_ema": state},),
    ),
    Layout("`n_averaged` beside the parameters", "torch's `AveragedModel`", (averaged,)),
    Layout(
        "names that begin with `module.`, also twice", "torch's `DataParallel`: AWP, RSLAD, IAD",
        named("module.", "module.module."),
    ),
    Layout("... with `_orig_mod.`, `module._orig_mod.`", "`torch.compile`", named("_orig_mod.", "module._orig_mod.")),
    Layout(
        "... with `model.`, `module.model.`, `model.module.`", "classes that keep a network as `self.model`",
        named("model.", "module.model.", "model.module."),
    ),
    Layout(
        "... with `basic_net.`", "the class `AttackPGD` of ARD and IAD",
        named("basic_net.", "_orig_mod.module.basic_net."),
    ),
    Layout("... with `1.`", "a `Sequential` that begins by normalising", named("1.", "module.1.")),
    Layout(
        "a `sub_block1.` beside the rest", "TRADES' Wide ResNet, which never calls it", (unused(), unused("model."))
    ),
    Layout(
        "`mu` and `sigma`, or `mean` and `std`", "classes of RobustBench",
        (
            normalising("mu", "sigma"), normalising("mean", "std"), normalising("mu", "sigma", scope="module."),
            normalising("mu", "sigma", scope="model."),
            lambda state: {"state_dict": normalising("mu", "sigma", scope="module.")(state)},
        ),
        normalised=True,
    ),
    Layout(
        "`normalize.mean`, `normalizer.std`, ... before `model.`", "RobustBench's `normalize_model`",
        (
            normalising("normalize.mean", "normalize.std", "model."),
            normalising("normalizer.mean", "normalizer.std", "model."),
        ),
        normalised=True,
    ),
    Layout(
        "`0.mean` and `0.std` before `1.`", "a `Sequential` that keeps its normalisation",
        (normalising("0.mean", "0.std", "1."), normalising("0.mu", "0.sigma", "1.", "module.")),
        normalised=True,
    ),
    Layout("`model` with `model.` and `attacker.` in it", "MadryLab's `robustness`", (twice,), normalised=True),
    Layout("NumPy's numbers beside tensors", "scripts that keep an accuracy", (under("net", **_NUMBERS),)),
    Layout(
        "an `argparse.Namespace`, or other objects beside tensors", "scripts that keep their options",
        (under("state_dict", args=argparse.Namespace(lr=0.1)),),
    ),
    Layout("a whole module", "`torch.save(net, ...)`", (lambda state: nn.Sequential(nn.Linear(2, 2)),)),
    Layout("safetensors, under another name", "downloads", (plain,), write=save_file),
    Layout("a tar or gzip archive", "downloads", (plain,), write=write_tar),
    Layout(
        "a web page", "downloads that have to be confirmed", (lambda state: "<!DOCTYPE html>" + " " * 2000,),
        write=lambda text, path: path.write_text(text),
    ),
)  # fmt: skip

# The networks of RobustBench, L-inf, as its code at 78fcc9e builds them and reads their files
_CIFAR10 = "{mean: [0.4914, 0.4822, 0.4465], std: [0.2471, 0.2435, 0.2616]}"
_EXACT = "{mean: [0.50708, 0.48655, 0.44092], std: [0.26733, 0.25644, 0.27615]}"
_HALVES = "{mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}"


@dataclass(frozen=True)
class Zoo:
    """Networks that are evaluated alike. params: as `--param` has them. names: RobustBench's."""

    dataset: str
    model: str
    params: dict[str, Any]
    normalization: str
    names: str


def wide(depth: int, widen: int) -> dict[str, Any]:
    return {"depth": depth, "widen": widen}


ZOO = (
    Zoo(
        "cifar10", "wrn", wide(28, 10), "none",
        "Carmon2019Unlabeled Sehwag2020Hydra Wang2020Improving Wu2020Adversarial_extra Zhang2020Geometry "
        "Sridhar2021Robust Standard",
    ),
    Zoo("cifar10", "wrn", wide(28, 10), _HALVES, "Hendrycks2019Using"),
    Zoo(
        "cifar10", "wrn", wide(34, 10), "none",
        "Zhang2019Theoretically Huang2020Self Zhang2019You Zhang2020Attacks Wu2020Adversarial Sehwag2021Proxy "
        "Sitawarin2020Improving Cui2020Learnable_34_10 Addepalli2021Towards_WRN34 Chen2021LTD_WRN34_10 "
        "Jia2022LAS-AT_34_10 Addepalli2022Efficient_WRN_34_10 Cui2023Decoupled_WRN-34-10 "
        "Chen2024Data_WRN_34_10",
    ),
    Zoo("cifar10", "wrn", wide(34, 10), _CIFAR10, "Chen2020Efficient"),
    Zoo("cifar10", "wrn", wide(34, 15), "none", "Sridhar2021Robust_34_15"),
    Zoo("cifar10", "wrn", wide(34, 20), "none", "Cui2020Learnable_34_20 Chen2021LTD_WRN34_20 Chen2024Data_WRN_34_20"),
    Zoo("cifar10", "wrn", wide(34, 20), _CIFAR10, "Rice2020Overfitting"),
    Zoo("cifar10", "wrn", wide(70, 16), "none", "Jia2022LAS-AT_70_16"),
    Zoo(
        "cifar10", "resnet18", {}, "none", "Sehwag2021Proxy_R18 Addepalli2021Towards_RN18 Addepalli2022Efficient_RN18"
    ),
    Zoo(
        "cifar10", "dm_wrn", wide(28, 10), _CIFAR10,
        "Gowal2020Uncovering_28_10_extra Rebuffi2021Fixing_28_10_cutmix_ddpm Rade2021Helper_ddpm "
        "Gowal2021Improving_28_10_ddpm_100m Pang2022Robustness_WRN28_10 Wang2023Better_WRN-28-10 "
        "Xu2023Exploring_WRN-28-10 Cui2023Decoupled_WRN-28-10",
    ),
    Zoo("cifar10", "dm_wrn", wide(34, 10), _CIFAR10, "Rade2021Helper_extra"),
    Zoo("cifar10", "dm_wrn", wide(34, 20), _CIFAR10, "Gowal2020Uncovering_34_20"),
    Zoo(
        "cifar10", "dm_wrn", wide(70, 16), _CIFAR10,
        "Gowal2020Uncovering_70_16 Gowal2020Uncovering_70_16_extra Rebuffi2021Fixing_70_16_cutmix_ddpm "
        "Rebuffi2021Fixing_70_16_cutmix_extra Gowal2021Improving_70_16_ddpm_100m Pang2022Robustness_WRN70_16 "
        "Wang2023Better_WRN-70-16",
    ),
    Zoo("cifar10", "dm_wrn", wide(82, 8), _CIFAR10, "Bartoldson2024Adversarial_WRN-82-8"),
    Zoo("cifar10", "dm_wrn", wide(94, 16), _CIFAR10, "Bartoldson2024Adversarial_WRN-94-16"),
    Zoo("cifar10", "dm_wrn", wide(106, 16), _CIFAR10, "Rebuffi2021Fixing_106_16_cutmix_ddpm"),
    Zoo(
        "cifar100", "wrn", wide(34, 10), "none",
        "Cui2020Learnable_34_10_LBGAT0 Cui2020Learnable_34_10_LBGAT6 Cui2020Learnable_34_10_LBGAT9_eps_8_255 "
        "Sehwag2021Proxy Sitawarin2020Improving Addepalli2021Towards_WRN34 Chen2021LTD_WRN34_10 "
        "Jia2022LAS-AT_34_10 Addepalli2022Efficient_WRN_34_10 Cui2023Decoupled_WRN-34-10 "
        "Cui2023Decoupled_WRN-34-10_autoaug Chen2024Data_WRN_34_10",
    ),
    Zoo(
        "cifar100", "wrn", wide(34, 10), "{mean: [0.5071, 0.4867, 0.4408], std: [0.2675, 0.2565, 0.2761]}",
        "Chen2020Efficient",
    ),
    Zoo("cifar100", "wrn", wide(34, 10), _EXACT, "Wu2020Adversarial"),
    Zoo("cifar100", "wrn", wide(28, 10), _HALVES, "Hendrycks2019Using"),
    Zoo("cifar100", "wrn", wide(34, 20), "none", "Cui2020Learnable_34_20_LBGAT6 Jia2022LAS-AT_34_20"),
    Zoo("cifar100", "resnet18", {}, "none", "Addepalli2022Efficient_RN18"),
    Zoo("cifar100", "preact_resnet18", {}, "none", "Addepalli2021Towards_PARN18"),
    Zoo("cifar100", "preact_resnet18", {}, _EXACT, "Rice2020Overfitting"),
    Zoo(
        "cifar100", "dm_wrn", wide(28, 10), "dataset",
        "Rebuffi2021Fixing_28_10_cutmix_ddpm Pang2022Robustness_WRN28_10 Wang2023Better_WRN-28-10 "
        "Cui2023Decoupled_WRN-28-10",
    ),
    Zoo(
        "cifar100", "dm_wrn", wide(70, 16), "dataset",
        "Gowal2020Uncovering Gowal2020Uncovering_extra Rebuffi2021Fixing_70_16_cutmix_ddpm "
        "Pang2022Robustness_WRN70_16 Wang2023Better_WRN-70-16",
    ),
)  # fmt: skip
PLUGINS = {
    "PreActResNet-18 whose shortcuts begin before the activation": "Andriushchenko2020Understanding Wong2020Fast",
    "a normalisation of each image by itself": "Ding2020MMA",
    "DeepMind's PreActResNet-18": (
        "Rebuffi2021Fixing_R18_ddpm Rade2021Helper_R18_extra Rade2021Helper_R18_ddpm Gowal2021Improving_R18_ddpm_100m"
    ),
    "ResNet-50, ResNeSt, XCiT": (
        "Engstrom2019Robustness Sehwag2021Proxy_ResNest152 Debenedetti2022Light_XCiT-S12 Debenedetti2022Light_XCiT-M12 "
        "Debenedetti2022Light_XCiT-L12"
    ),
    "a Wide ResNet of another build": (
        "Pang2020Boosting Huang2021Exploring Huang2021Exploring_ema Dai2021Parameterizing Huang2022Revisiting_WRN-A4 "
        "Peng2023Robust"
    ),
    "several networks, or one with more around it": (
        "Chen2020Adversarial Kang2021Stable Bai2023Improving_edm Bai2023Improving_trades Bai2024MixedNUTS "
        "Amini2024MeanSparse_Ra_WRN_70_16 Amini2024MeanSparse_S-WRN-94-16 Amini2024MeanSparse_S-WRN-70-16"
    ),
}


def robustbench() -> str:
    """A row for each way to evaluate one of its networks, and for each kind that needs a plugin."""
    return table(["data", "`--model`", "`--normalization`", "RobustBench's name"], [*_built_in(), *_of_plugins()])


def _built_in() -> Iterator[list[str]]:
    for each in ZOO:
        resolve_params(each.model, each.params)
        default = model_info(each.model).params
        own = ", ".join(f"{key}: {value}" for key, value in each.params.items() if value != default[key])
        command = f"`{each.model}`" + (f" `--param '{{{own}}}'`" if own else "")
        yield [each.dataset, command, f"`{each.normalization}`", ", ".join(each.names.split())]


def _of_plugins() -> Iterator[list[str]]:
    for what, names in PLUGINS.items():
        yield ["any", f"a plugin: {what}", "", ", ".join(names.split())]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
