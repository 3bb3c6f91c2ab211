"""Networks against plain formulas of the same parameters, and against what the field's files contain."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.cli.reference import network_block
from harness.engine.forwards import is_traceable
from harness.errors import InputError
from harness.models.build import build
from harness.models.checkpoints import read_state
from harness.models.layers import Network
from harness.models.registry import MODELS, ModelInfo, resolve_params
from harness.store.store import Store
from tests.small import run_to_end, small_specs

SMALL: dict[str, dict[str, int]] = {  # others as they are
    "cnn": {"width": 4},
    "resnet18": {"width": 4},
    "preact_resnet18": {"width": 4},
    "wrn": {"depth": 10, "widen": 2},
    "dm_wrn": {"depth": 10, "widen": 2},
    "resnet56": {"width": 4},
    "vit": {"width": 12, "depth": 2},
}


def fresh(name: str, in_channels: int = 3, num_classes: int = 10, image_size: int = 32, **facts) -> nn.Module:
    """A small network as it is built."""
    return build(
        name,
        SMALL.get(name, {}),
        in_channels=in_channels,
        num_classes=num_classes,
        image_size=image_size,
        **facts,
    )


def small(name: str, **params) -> nn.Module:
    """A small network whose batch norms have seen something, so that no layer is the identity."""
    torch.manual_seed(0)
    network = build(name, {**SMALL.get(name, {}), **params}, in_channels=3, num_classes=10, image_size=32)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.add_(torch.randn_like(tensor) * 0.1)
            module.running_var.mul_(torch.rand_like(module.running_var) + 0.5)
    return network.eval()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_networks_take_every_image_size(name: str, shape: tuple[int, int, int]):
    network = fresh(name, in_channels=shape[0], num_classes=7, image_size=shape[1]).train()
    logits = network(torch.rand(4, *shape))
    assert logits.shape == (4, 7)
    logits.logsumexp(1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_networks_can_be_traced(name: str):
    torch.manual_seed(0)
    statistics = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3]}
    network = fresh(name, **statistics).eval()
    if not is_traceable(network):
        pytest.skip("it runs as it is")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(torch.fx.symbolic_trace(network)(x), network(x))


@pytest.mark.parametrize("name", ["cnn", "resnet18", "mobilenet_v2"])
def test_batch_norm_follows_a_convolution_by_name(name: str):
    """What folding relies on: in a traced network the input of every batch norm is a convolution used only there."""
    traced = torch.fx.symbolic_trace(small(name))
    modules = dict(traced.named_modules())
    norms = [n for n in traced.graph.nodes if n.op == "call_module" and isinstance(modules[n.target], nn.BatchNorm2d)]
    assert norms
    for node in norms:
        source = node.args[0]
        assert isinstance(modules[source.target], nn.Conv2d)
        assert len(source.users) == 1


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("resnet18", {}, 11_173_962),
        ("preact_resnet18", {"final_norm": False}, 11_171_146),
        ("preact_resnet18", {}, 11_172_170),
        ("mobilenet_v2", {}, 2_296_922),
        ("wrn", {}, 46_160_474),
        ("wrn", {"depth": 28, "widen": 10}, 36_479_194),
        ("dm_wrn", {}, 36_479_194),
        ("resnet56", {}, 855_770),
        ("vit", {}, 48 * 192 + 192 + 64 * 192 + 6 * (12 * 192**2 + 13 * 192) + 2 * 192 + 1930),
        (
            "cnn",
            {"width": 16},
            9 * (3 * 16 + 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 4 * (16 + 32 + 64) + 650,
        ),
    ],
)
def test_the_published_numbers_of_parameters(name: str, params: dict, expected: int):
    with torch.device("meta"):
        network = build(name, params, in_channels=3, num_classes=10, image_size=32)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


# Plain formulas of the same parameters, in float64


class Plain:
    """Layers as functions of a state dict, evaluation mode."""

    def __init__(self, network: nn.Module) -> None:
        self.state = network.state_dict()

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.state

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1] // weight.shape[1])

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias, mean, variance = (
            self.state[f"{name}.{key}"].view(-1, 1, 1) for key in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]


def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, dtype=torch.float64)


def close(network: nn.Module, expected: Tensor, x: Tensor) -> None:
    torch.testing.assert_close(network(x), expected)


def test_cnn_is_its_formula():
    network = small("cnn").double()
    plain, x = Plain(network), images()
    out = x
    for stage, stride in (("stage1", 1), ("stage2", 2), ("stage3", 2)):
        out = plain.norm(f"{stage}.bn1", plain.conv(f"{stage}.conv1", out, stride)).relu()
        out = plain.norm(f"{stage}.bn2", plain.conv(f"{stage}.conv2", out)).relu()
    assert out.shape == (2, 16, 8, 8)
    close(network, plain.linear("fc", out.flatten(2).mean(2)), x)


def test_resnet18_is_its_formula():
    network = small("resnet18").double()
    plain, x = Plain(network), images()
    out = plain.norm("bn1", plain.conv("conv1", x)).relu()
    for layer in range(1, 5):
        for block in range(2):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            inner = plain.norm(f"{at}.bn1", plain.conv(f"{at}.conv1", out, stride)).relu()
            inner = plain.norm(f"{at}.bn2", plain.conv(f"{at}.conv2", inner))
            if plain.has(f"{at}.shortcut.0"):
                out = plain.norm(f"{at}.shortcut.1", plain.conv(f"{at}.shortcut.0", out, stride))
            out = (inner + out).relu()
    close(network, plain.linear("linear", F.avg_pool2d(out, 4).flatten(1)), x)


@pytest.mark.parametrize("final_norm", [True, False])
def test_preact_resnet18_is_its_formula(final_norm: bool):
    network = small("preact_resnet18", final_norm=final_norm).double()
    plain, x = Plain(network), images()
    out = plain.conv("conv1", x)
    for layer in range(1, 5):
        for block in range(2):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            active = plain.norm(f"{at}.bn1", out).relu()
            shortcut = plain.conv(f"{at}.shortcut.0", active, stride) if plain.has(f"{at}.shortcut.0") else out
            inner = plain.norm(f"{at}.bn2", plain.conv(f"{at}.conv1", active, stride)).relu()
            out = plain.conv(f"{at}.conv2", inner) + shortcut
    assert plain.has("bn") == final_norm
    out = plain.norm("bn", out).relu() if final_norm else out
    close(network, plain.linear("linear", F.avg_pool2d(out, 4).flatten(1)), x)


def test_mobilenet_v2_is_its_formula():
    network = small("mobilenet_v2").double()
    plain, x = Plain(network), images()
    out = plain.norm("bn1", plain.conv("conv1", x)).relu()
    for block in range(17):
        at, stride = f"layers.{block}", 2 if block in (3, 6, 13) else 1
        inner = plain.norm(f"{at}.bn1", plain.conv(f"{at}.conv1", out)).relu()
        inner = plain.norm(f"{at}.bn2", plain.conv(f"{at}.conv2", inner, stride)).relu()
        inner = plain.norm(f"{at}.bn3", plain.conv(f"{at}.conv3", inner))
        if plain.has(f"{at}.shortcut.0"):
            out = plain.norm(f"{at}.shortcut.1", plain.conv(f"{at}.shortcut.0", out))
        out = inner + out if stride == 1 else inner
    out = plain.norm("bn2", plain.conv("conv2", out)).relu()
    close(network, plain.linear("linear", F.avg_pool2d(out, 4).flatten(1)), x)


@pytest.mark.parametrize("params", [{"depth": 10, "widen": 1}, {"depth": 16, "widen": 2}])
def test_wrn_is_its_formula(params: dict):
    network = small("wrn", **params).double()
    plain, x = Plain(network), images()
    out = plain.conv("conv1", x)
    for stage in range(1, 4):
        for block in range((params["depth"] - 4) // 6):
            at, stride = f"block{stage}.layer.{block}", 2 if stage > 1 and block == 0 else 1
            active = plain.norm(f"{at}.bn1", out).relu()
            shortcut = plain.conv(f"{at}.convShortcut", active, stride) if plain.has(f"{at}.convShortcut") else out
            inner = plain.norm(f"{at}.bn2", plain.conv(f"{at}.conv1", active, stride)).relu()
            out = plain.conv(f"{at}.conv2", inner) + shortcut
    out = F.avg_pool2d(plain.norm("bn1", out).relu(), 8).flatten(1)
    close(network, plain.linear("fc", out), x)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("size", [32, 28, 20])  # of 20, the last stride meets an odd side
def test_dm_wrn_is_its_formula(silu: bool, size: int):
    """Padding as TensorFlow's SAME: of all that is added to an even side, nothing stands before."""
    network = small("dm_wrn", depth=16, silu=silu).double()
    plain, x = Plain(network), torch.rand(2, 3, size, size, dtype=torch.float64)
    active = F.silu if silu else F.relu
    out = plain.conv("init_conv", x)
    for group in range(3):
        for block in range(2):
            at, stride = f"layer.{group}.block.{block}", 2 if group and block == 0 else 1
            inner = active(plain.norm(f"{at}.batchnorm_0", out))
            shortcut = plain.conv(f"{at}.shortcut", inner, stride) if plain.has(f"{at}.shortcut") else out
            side = inner.shape[-1]
            total = (-(-side // stride) - 1) * stride + 3 - side
            inner = F.pad(inner, (total // 2, total - total // 2) * 2)
            inner = F.conv2d(inner, plain.state[f"{at}.conv_0.weight"], None, stride)
            out = plain.conv(f"{at}.conv_1", active(plain.norm(f"{at}.batchnorm_1", inner))) + shortcut
    close(network, plain.linear("logits", active(plain.norm("batchnorm", out)).flatten(2).mean(2)), x)


def test_resnet56_is_its_formula():
    network = small("resnet56").double()
    plain, x = Plain(network), images()
    out = plain.norm("bn1", plain.conv("conv1", x)).relu()
    for layer in range(1, 4):
        for block in range(9):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            inner = plain.norm(f"{at}.bn1", plain.conv(f"{at}.conv1", out, stride)).relu()
            inner = plain.norm(f"{at}.bn2", plain.conv(f"{at}.conv2", inner))
            if plain.has(f"{at}.downsample.0"):
                out = plain.norm(f"{at}.downsample.1", plain.conv(f"{at}.downsample.0", out, stride))
            out = (inner + out).relu()
    close(network, plain.linear("fc", F.avg_pool2d(out, 8).flatten(1)), x)


def test_vit_is_its_formula():
    network = small("vit").double()
    plain, x = Plain(network), images()
    state, heads, width = plain.state, 3, 12
    for name in state:  # fresh biases are zero and say nothing
        state[name].add_(torch.randn_like(state[name]) * 0.1)

    def norm(name: str, tokens: Tensor) -> Tensor:
        centred = tokens - tokens.mean(2, keepdim=True)
        scaled = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    patches = F.unfold(x, 4, stride=4).transpose(1, 2)
    tokens = patches @ state["patches.weight"].flatten(1).T + state["patches.bias"] + state["positions"]
    for block in range(2):
        at = f"blocks.{block}"
        qkv = plain.linear(f"{at}.attn.qkv", norm(f"{at}.norm1", tokens)).split(width, 2)
        mixed = []
        for query, key, value in zip(*(part.split(width // heads, 2) for part in qkv), strict=True):
            mixed.append((query @ key.transpose(1, 2) / (width / heads) ** 0.5).softmax(2) @ value)
        tokens = tokens + plain.linear(f"{at}.attn.proj", torch.cat(mixed, 2))
        inner = plain.linear(f"{at}.mlp.0", norm(f"{at}.norm2", tokens))
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        tokens = tokens + plain.linear(f"{at}.mlp.2", inner)
    close(network, plain.linear("head", norm("norm", tokens).mean(1)), x)


def test_vit_learns_and_says_that_nothing_is_folded(tmp_path):
    spec = small_specs(
        tmp_path, "training.epochs=6", "training.lr=0.2", "dataset.train_images=1000", "training.milestones=[]",
        student={"name": "vit", "width": 24, "depth": 1}, methods=["natural"], evaluation={"attacks": ["clean"]},
    )["natural"]  # fmt: skip
    run_to_end(spec, tmp_path)
    store = Store(tmp_path)
    (note,) = (text for text in store.read("notes", [spec.trial_id])["text"] if text.startswith("fast"))
    assert note.endswith("nothing folded, since the network has no batch norms")
    assert store.read("epochs", [spec.trial_id])["val_clean_avg"].max() > 0.4  # of ten classes


def test_vit_takes_squares_of_whole_patches_only():
    with pytest.raises(InputError, match="multiples of 4 pixels, not 30"):
        build("vit", {}, in_channels=3, num_classes=10, image_size=30)


# Weights and normalisation


def test_wrn_and_cnn_start_with_hes_normal_weights():
    torch.manual_seed(0)
    for name in ("wrn", "cnn"):
        network = build(name, {}, in_channels=3, num_classes=10) if name == "cnn" else small("wrn", depth=16, widen=4)
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
                expected = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
                assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert network.fc.bias.abs().max() == 0


@pytest.mark.parametrize("name", MODELS)
def test_weights_come_from_the_seeded_generator(name: str):
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        network = fresh(name, in_channels=1, num_classes=3)
        return nn.utils.parameters_to_vector(network.parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", MODELS)
def test_normalisation_is_inside_and_leaves_the_names_alone(name: str):
    plain = small(name)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    network = fresh(name, mean=mean, std=std).eval()
    assert list(network.state_dict()) == list(plain.state_dict())
    network.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 32, 32)
    by_hand = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.equal(network(x), plain(by_hand))
    assert not torch.allclose(network(x), plain(x))
    assert network.double()(x.double()).dtype == torch.float64


# Bad input


@pytest.mark.parametrize(
    ("name", "params", "fault"),
    [
        ("resnet81", {}, "unknown model 'resnet81': did you mean resnet18"),
        ("cnn", {"widht": 8}, "did you mean width"),
        ("mobilenet_v2", {"width": 8}, "mobilenet_v2 has no settings"),
        ("cnn", {"width": 0}, "whole number of at least 1, 1024 at most, not 0"),
        ("cnn", {"width": "8"}, "whole number of at least 1, 1024 at most, not '8'"),
        ("cnn", {"width": 8.0}, "whole number"),
        ("cnn", {"width": True}, "whole number"),
        ("wrn", {"depth": 33}, "6n.4"),
        ("wrn", {"depth": 4}, "6n.4"),
        ("dm_wrn", {"depth": 30}, "6n.4"),
        ("vit", {"heads": 5}, "multiple of the 5 heads, not 192"),
        ("preact_resnet18", {"final_norm": 1}, "must be true or false"),
    ],
)
def test_wrong_settings_are_refused(name: str, params: dict, fault: str):
    with pytest.raises(InputError, match=fault) as excinfo:
        build(name, params, in_channels=3, num_classes=10)
    assert "\n" not in str(excinfo.value)


@pytest.mark.parametrize(
    ("mean", "std"), [([0.5], [0.5]), ([0.5] * 3, None), ([0.5] * 3, [0.5, 0.5, 0.0]), (None, [1.0] * 3)]
)
def test_a_wrong_normalisation_is_refused(mean, std):
    with pytest.raises(InputError, match="normalisation needs"):
        build("cnn", {}, in_channels=3, num_classes=10, mean=mean, std=std)


def test_settings_are_resolved_over_the_defaults():
    assert resolve_params("wrn", {"widen": 4}) == {"depth": 34, "widen": 4}
    assert MODELS["wrn"].params == {"depth": 34, "widen": 10}


# A network of one's own


class Flat(Network):
    """Fits images of one size only."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int, width: int) -> None:
        super().__init__()
        self.fc = torch.nn.Sequential(
            torch.nn.Linear(in_channels * image_size**2, width), torch.nn.Linear(width, num_classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.normalise(x).flatten(1))


class Choosy(Flat):
    """What torch.fx cannot trace: the forward asks for the size of its images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] != x.shape[3]:
            raise ValueError("square images only")
        return super().forward(x)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Flat, "nothing folded, since the network has no batch norms"),
        (Choosy, "nothing folded, since torch.fx cannot trace the network"),
    ],
)
def test_a_network_is_one_declaration_and_is_told_the_size_of_the_images(monkeypatch, tmp_path, network, said):
    info = ModelInfo("flat", "two linear layers", f"{__name__}:{network.__name__}", {"width": 4}, sized=True)
    monkeypatch.setitem(MODELS, "flat", info)
    assert [(key.name, key.meaning) for key in network_block("flat").keys if key.name in info.params] == [("width", "")]
    spec = small_specs(tmp_path, "training.epochs=1", student={"name": "flat", "width": 3}, methods=["at"])["at"]
    run_to_end(spec, tmp_path)
    state = read_state(tmp_path / "work" / spec.training_id / "last.pt", None)
    assert {name: tuple(value.shape) for name, value in state.items()}["fc.0.weight"] == (3, 8 * 8)
    assert spec.student.label == "flat(width=3)"
    notes = Store(tmp_path).read("notes", [spec.trial_id])
    assert list(notes[notes.source == "engine"].text) == [f"fast, float32 attack and update, {said}"]
