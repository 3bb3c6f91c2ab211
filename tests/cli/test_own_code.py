"""Networks, attacks and data sets of a user's own: the page's examples through the commands, and what is refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from harness.api import run_suite
from harness.attacks.conditions import Conditions
from harness.errors import InputError
from harness.evaluation.chunk import evaluate_chunk
from harness.running.run import Options
from harness.running.worker import Job, Workplace, trial_events
from harness.spec import TrialSpec
from harness.statistics.registry import METRICS
from harness.store.store import Store
from harness.suites.plan import plan
from harness.suites.suite import load_suite
from methods import SettingsError, plugins
from tests.command import bench, refused
from tests.own_code import forgotten_afterwards, page_blocks, page_examples
from tests.pages import ROOT, blocks
from tests.small import suite_file

QUICK = {"epochs": 1, "batch_size": 100, "lr": 0.05, "attack_steps": 2, "validation_steps": 1}
STRIPES = {
    "plugins": ["mine.py"],
    "dataset": {"name": "stripes", "train_images": 200, "test_images": 50},
    "student": {"name": "shallow", "width": 4, "normalization": "dataset"},
    "teacher": None,
    "methods": ["at"],
    "training": QUICK,
    "evaluation": {"attacks": ["clean", {"name": "corners", "tries": 2}], "chunk_size": 25},
}


@pytest.fixture(autouse=True)
def _registries_as_before() -> Iterator[None]:
    with forgotten_afterwards():
        yield


def own(folder: Path, text: str | None = None, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(page_examples() if text is None else text)
    return path


def run_here(suite: str, folder: Path) -> None:
    """Run a suite into a store, without the report, whose figures take longer."""
    assert run_suite(suite, results=folder / "store", options=Options(serial=True)).exit_code == 0


def specs(folder: Path, **changes: object) -> dict[str, TrialSpec]:
    """The trials of a suite by variant, planned as in a new process."""
    with forgotten_afterwards():
        return {spec.variant: spec for spec in plan(load_suite(suite_file(folder, **{**STRIPES, **changes})))}


def test_the_page_s_examples_are_listed_run_and_stored(tmp_path: Path) -> None:
    own(tmp_path)
    suite = suite_file(tmp_path, **STRIPES)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    run_here(suite, elsewhere)  # the suite's own folder has the plugin
    store = Store(elsewhere / "store")
    (trial,) = store.trials()["trial_id"]
    assert set(store.read("class_accuracy", [trial])["attack"]) == {"clean", "corners"}
    told = bench("show", trial, "--results", "store", cwd=elsewhere).stdout
    assert "corners" in told
    assert "1 of 1 batch norms folded" in told
    columns = ("--metrics", "average,below_half,gini,worst_2,range", "--figures", "", "--html")
    told = bench("report", suite, "--results", "store", *columns, cwd=elsewhere).stdout
    assert "Corners" in told
    assert "Avg. Below half Gini Worst 2 Gap" in " ".join(told.split())
    meaning = "Below half: Share of the classes of which less than half the images are right; lower is better."
    assert meaning in " ".join(told.split())
    report = elsewhere / "store" / "report"
    (shown, *_) = pd.read_csv(report / "leaderboard.csv").to_dict("records")
    assert {"average", "nsd", "gini", "below_half", "worst_2"} <= shown.keys()
    assert shown["below_half"] in (0.0, 0.5, 1.0)
    assert shown["worst_2"] == shown["average"]  # of two classes
    assert '"columns":["average","below_half","gini","worst_2","gap"]' in (report / "index.html").read_text()
    for what, name in (
        ("models", "shallow"),
        ("attacks", "corners"),
        ("metrics", "below_half"),
        ("datasets", "stripes"),
    ):
        assert name in bench("list", what, "--plugin", str(tmp_path / "mine.py"), cwd=elsewhere).stdout
    assert "slope" in bench("list", "models", "shallow", "--plugin", str(tmp_path / "mine.py"), cwd=elsewhere).stdout


def test_code_of_networks_attacks_and_data_is_part_of_the_identity_and_an_attack_s_of_the_evaluation_alone(
    tmp_path: Path,
) -> None:
    parts = dict(zip(("network", "attack", "metric", "dataset"), page_blocks(), strict=True))
    for name, part in parts.items():
        own(tmp_path, part, f"{name}.py")
    given = {"plugins": [f"{name}.py" for name in parts]}
    before = specs(tmp_path, **given)["at"]
    hashes = {name: hashlib.sha256(part.encode()).hexdigest() for name, part in parts.items()}
    assert before.code == {
        "network:shallow": hashes["network"],
        "attack:corners": hashes["attack"],
        "dataset:stripes": hashes["dataset"],
    }
    for name, trains_anew in (("network", True), ("attack", False), ("dataset", True)):
        own(tmp_path, parts[name] + "# edited\n", f"{name}.py")
        edited = specs(tmp_path, **given)["at"]
        own(tmp_path, parts[name], f"{name}.py")
        assert edited.trial_id != before.trial_id
        assert (edited.training_id != before.training_id) is trains_anew, name
    assert specs(tmp_path, **given)["at"].trial_id == before.trial_id


def test_settings_are_written_one_way_and_checked(tmp_path: Path) -> None:
    own(tmp_path)
    attacks = (
        ["corners"], [{"name": "corners", "tries": 10}], [{"name": "corners", "settings": {"tries": 10}}],
        [{"name": "corners", "tries": 11}],
    )  # fmt: skip
    ids = [specs(tmp_path, evaluation={"attacks": each})["at"].trial_id for each in attacks]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    for wrong, said in (
        ({"evaluation": {"attacks": [{"name": "corners", "tries": "many"}]}}, "attack corners: tries must be a int"),
        ({"evaluation": {"attacks": [{"name": "corners", "steps": 3}]}}, "unknown key of attack corners 'steps'"),
        ({"evaluation": {"attacks": [{"name": "pgd20", "settings": {"tries": 3}}]}}, "unknown key of attack pgd20"),
        ({"student": {"name": "shallow", "slope": True}}, "model shallow: slope must be a float"),
        ({"student": {"name": "shallow", "depth": 3}}, "unknown setting of model shallow 'depth'"),
    ):
        with pytest.raises(ValueError, match=said):
            specs(tmp_path, **wrong)


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("unknown method 'nosuch'", {"methods": ["nosuch"]}),
        ("unknown model in student 'nosuch'", {"student": "nosuch"}),
        ("unknown attack 'nosuch'", {"evaluation": {"attacks": ["nosuch"]}}),
        ("unknown dataset 'nosuch'", {"dataset": "nosuch"}),
    ],
)
def test_an_unknown_name_mentions_plugins(tmp_path: Path, words: str, changes: dict[str, object]) -> None:
    own(tmp_path)
    with pytest.raises(ValueError, match=f"{words}.*--plugin FILE"):
        specs(tmp_path, **changes)


NETWORK = "import torch\nfrom torch import nn\nfrom harness.models.registry import network\n"
ATTACK = "import torch\nfrom harness.attacks.registry import attack\n"


def attack_that(does: str) -> str:
    return f"{ATTACK}@attack('bad')\ndef own(forward, images, labels, eps, generator):\n    {does}\n"


def network_that(body: str) -> str:
    return (
        f"{NETWORK}@network('bad')\nclass Bad(nn.Module):\n    def __init__(self, in_channels, num_classes):\n"
        f"        super().__init__()\n        self.conv = nn.Conv2d(in_channels, 4, 3)\n"
        f"        self.fc = nn.Linear(4, num_classes)\n    def forward(self, x):\n"
        f"        y = self.fc(self.conv(x).mean((2, 3)))\n        {body}\n"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('on purpose')", "plugin {file}: RuntimeError: on purpose"),
        (attack_that("...").replace("bad", "pgd20"), "attack 'pgd20' is registered already"),
        (f"{NETWORK}@network('cnn')\ndef f(in_channels, num_classes): ...", "network 'cnn' is registered already"),
        (f"{NETWORK}@network('a/b')\ndef f(in_channels, num_classes): ...", "network 'a/b': a name is of letters"),
        (f"{NETWORK}@network('x')\ndef f(channels, num_classes): ...", "must take (in_channels, num_classes, ...)"),
        (f"{NETWORK}@network('x')\ndef f(in_channels, num_classes, width): ...", "setting 'width' needs a default"),
        (f"{ATTACK}@attack('x')\ndef f(model, images, labels): ...", "must take (forward, images, labels, eps, gen"),
        (f"{ATTACK}attack('x')(lambda forward, images, labels, eps, generator: images)", "at the top of its file"),
    ],
)  # fmt: skip
def test_a_plugin_that_cannot_be_loaded_is_one_line_with_its_file(tmp_path: Path, text: str, says: str) -> None:
    path = own(tmp_path, text)
    told = refused("run", "quickstart", "--plugin", str(path), cwd=tmp_path)
    assert says.format(file=path) in told
    assert str(path) in told


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise KeyError('lost')", "KeyError: 'lost'"),
        ("return y[:, :1]", "must give logits (4, 10) for 4 images, not (4, 1) float32"),
        ("return y, x", "must give logits (4, 10) for 4 images, not a tuple"),
        ("return y / 0", "logits that are not finite"),
        ("return y * 0 + torch.arange(10.0)", "ignores its input"),
        ("return y.detach()", "gives no gradient to its images"),
        ("return y if self.training else y.argmax(1)", "must give logits (4, 10) for 4 images, not (4,) int64"),
        ("return self.conv(x).view(len(x), -1)[:, :10] + y", "view size is not compatible"),
    ],
)
def test_a_network_that_is_none_is_refused_before_anything_is_written(tmp_path: Path, body: str, says: str) -> None:
    path = own(tmp_path, network_that(body))
    suite = suite_file(tmp_path, plugins=["mine.py"], student="bad", teacher=None, methods=["at"])
    told = refused("run", suite, "--serial", "--results", "store", cwd=tmp_path)
    assert f"{path}: model bad" in told
    assert says in told


def test_a_lazy_network_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = own(tmp_path, network_that("return y").replace("nn.Linear(4, num_classes)", "nn.LazyLinear(num_classes)"))
    suite = suite_file(tmp_path, plugins=["mine.py"], student="bad", teacher=None, methods=["at"])
    told = refused("run", suite, "--serial", "--results", "store", cwd=tmp_path)
    assert f"{path}: model bad has lazy parameters" in told


@pytest.mark.parametrize(
    "asked", [{"precision": "bfloat16"}, {"evaluation": {"attacks": ["pgd2"], "gradient_precision": "bfloat16"}}]
)
def test_a_network_that_breaks_in_bfloat16_is_refused_where_that_is_asked_for(tmp_path: Path, asked: dict) -> None:
    """A tensor that is neither buffer nor parameter stays float32, which the layers behind it do not take."""
    from harness.inputs import check_readable

    def network(mean: str) -> str:
        text = network_that("return self.fc(self.conv(x - self.mean).mean((2, 3)))")
        return text.replace("super().__init__()", f"super().__init__(); {mean}")

    path = own(tmp_path, network("self.mean = torch.full((1, 1, 1), 0.5)"))
    kept = network("self.register_buffer('mean', torch.full((1, 1, 1), 0.5))").replace("'bad'", "'kept'")
    own(tmp_path, kept, "kept.py")
    plain = {"plugins": ["mine.py"], "student": "bad", "teacher": None, "methods": ["at"]}
    told = refused("run", suite_file(tmp_path, **plain, **asked), "--serial", "--results", "store", cwd=tmp_path)
    assert f"{path}: model bad fails in bfloat16: RuntimeError: " in told
    assert "a buffer (register_buffer)" in told
    for cured in (plain, {**plain, "plugins": ["kept.py"], "student": "kept", **asked}):
        check_readable(plan(load_suite(suite_file(tmp_path, **cured))), None, False)


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("raise ValueError('no such width')", "model bad: ValueError: no such width"),
        ("return 3", "model bad must give a torch.nn.Module, not a int"),
    ],
)
def test_a_function_that_gives_no_network_is_refused_with_its_file(tmp_path: Path, does: str, says: str) -> None:
    text = f"{NETWORK}@network('bad')\ndef bad(in_channels, num_classes):\n    {does}\n"
    path = own(tmp_path, text)
    suite = suite_file(tmp_path, plugins=["mine.py"], student="bad", teacher=None, methods=["at"])
    assert f"{path}: {says}" in refused("run", suite, "--serial", "--results", "store", cwd=tmp_path)


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("raise KeyError('lost')", "KeyError: 'lost'"),
        ("return images[:1]", "must return images (2, 1, 8, 8) torch.float32, as it got them, not (1, 1, 8, 8)"),
        ("return images.double()", "not (2, 1, 8, 8) torch.float64"),
        ("return None", "not NoneType"),
        ("return (images + 2 * eps).clamp(0, 1)", "attack bad returned 2 points outside the eps ball"),
        ("return images + eps", "outside [0, 1]"),
        ("return images * float('nan')", "attack bad returned 2 points outside the eps ball"),
    ],
)
def test_an_attack_that_cheats_or_fails_is_refused_with_its_file(tmp_path: Path, does: str, says: str) -> None:
    path = own(tmp_path, attack_that(does))
    suite = suite_file(tmp_path, plugins=["mine.py"], teacher=None, methods=["at"], evaluation={"attacks": ["bad"]})
    told = refused("run", suite, "--serial", "--results", "store", cwd=tmp_path)
    assert f"{path}: " in told
    assert says in told


def test_the_harness_judges_what_an_attack_gives(tmp_path: Path) -> None:
    """The attack goes to the end of the ball, to the bright one for class 1; robust is what is right there."""
    plugins.load_plugin(str(own(tmp_path, attack_that("return images + eps * (labels.view(-1, 1, 1, 1) * 2 - 1)"))))
    images, labels = torch.full((6, 1, 2, 2), 128, dtype=torch.uint8), torch.tensor([0, 1, 0, 1, 0, 1])

    def forward(x: torch.Tensor) -> torch.Tensor:
        bright = x.mean((1, 2, 3)) - 0.55  # class 1 where it is bright: right on no dark image of class 1
        return torch.stack([-bright, bright], 1)

    conditions = Conditions({"name": "bad"}, 0.1, 0, 2, 2)
    found = evaluate_chunk(forward, images, labels, torch.arange(6), conditions, 0).outcomes
    assert found["robust"].tolist() == [True, False] * 3
    assert found["prediction"].tolist() == [0, 0] * 3


def test_an_attack_that_goes_wrong_on_real_images_fails_the_trial_with_its_name(tmp_path: Path) -> None:
    """What the trial beforehand cannot see: batches of two are tried, and it cheats on larger ones."""
    own(tmp_path, attack_that("return images if len(images) < 3 else images + 2 * eps"))
    suite = suite_file(
        tmp_path, plugins=["mine.py"], teacher=None, methods=["natural"], evaluation={"attacks": ["bad"]}
    )
    bench("run", suite, "--serial", "--results", "store", cwd=tmp_path, check=1)
    (error,) = Store(tmp_path / "store").trials()["error"]
    assert "attack bad returned" in error
    assert "outside the eps ball" in error


def test_a_network_in_a_file_and_of_torchvision_need_no_declaration(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    own(tmp_path / "nets", page_examples(), "file.py")
    entry = {"name": "nets/file.py:shallow", "width": 4}
    suite = suite_file(tmp_path, student=entry, teacher=None, methods=["at"], training=QUICK)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    run_here(suite, elsewhere)
    (spec,) = (spec for spec in plan(load_suite(suite)))
    assert spec.student.label == "file.py:shallow(width=4, slope=0.1)"
    assert list(spec.code) == ["network:file.py:shallow"]
    weights = elsewhere / "store" / "work" / spec.training_id / "last.pt"
    assert "0.weight" in torch.load(weights)  # the module's own names
    with forgotten_afterwards():
        bench(
            "evaluate", str(weights), "--model", "../nets/file.py:shallow", "--param", "width=4", "--dataset", "digits",
            "--attacks", "clean", "--images", "50", "--serial", cwd=elsewhere,
        )  # fmt: skip
    told = refused(
        "evaluate", str(weights), "--model", "torchvision:mobilenet_v3_smal", "--dataset", "digits", cwd=elsewhere
    )
    assert "did you mean mobilenet_v3_small" in told
    told = refused("evaluate", str(weights), "--model", "torchvision:resnet18", "--dataset", "digits", cwd=elsewhere)
    assert "takes images of 3 channels, the data has 1" in told


def test_a_network_that_a_file_only_hands_on_counts_with_the_code_that_defines_it(tmp_path: Path, monkeypatch) -> None:
    defined = tmp_path / "elsewhere_defined.py"
    defined.write_text(page_blocks()[0].replace('@network("shallow")\n', ""))
    own(tmp_path, "from elsewhere_defined import shallow\n", "file.py")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_HASHES", {})
    spec = specs(tmp_path, plugins=[], dataset="digits", student="file.py:shallow", evaluation={"attacks": ["clean"]})
    assert spec["at"].code == {"network:file.py:shallow": hashlib.sha256(defined.read_bytes()).hexdigest()}


def test_a_network_of_torchvision_is_built_and_tried() -> None:
    from harness.models.build import build
    from harness.models.outside import check_network

    network = build("torchvision:mobilenet_v3_small", {}, in_channels=3, num_classes=7, mean=[0.5] * 3, std=[0.2] * 3)
    assert "features.0.0.weight" in network.state_dict()
    check_network(network, "model", (3, 32, 32), 7, "fast")
    images = torch.rand(2, 3, 32, 32)
    network.eval()
    assert torch.equal(network(images), network.module((images - 0.5) / 0.2))


def test_files_and_packages_that_are_not_there_or_called_alike_are_told(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        own(tmp_path / folder, network_that("return y").replace("bad", folder).replace("Bad", folder))
    told = refused("run", suite_file(tmp_path, plugins=["gone.py"]), cwd=tmp_path)
    assert told == f"error: plugin {tmp_path}/gone.py cannot be read: No such file or directory"
    told = refused("run", suite_file(tmp_path, plugins="mine.py"), cwd=tmp_path)
    assert "plugins must be a list of files" in told
    told = refused("run", suite_file(tmp_path, student="one/mine.py:two"), cwd=tmp_path)
    assert "mine.py has no 'two'" in told
    told = refused("run", suite_file(tmp_path, student="one/mine.py:one", students=["two/mine.py:two"]), cwd=tmp_path)
    assert "of the plugins that are loaded 2 are called mine.py, not one" in told


def test_what_this_process_has_loaded_goes_to_the_workers(tmp_path: Path) -> None:
    assert Workplace(tmp_path).plugins == ()
    path = own(tmp_path)
    load_suite(suite_file(tmp_path, **STRIPES))
    assert Workplace(tmp_path).plugins == (str(path),)


def test_a_suite_s_text_alone_runs_no_code(tmp_path: Path) -> None:
    own(tmp_path, "raise KeyboardInterrupt('run')")
    suite_file(tmp_path, **STRIPES)
    bench("list", "suites", cwd=tmp_path)
    with pytest.raises(KeyboardInterrupt, match="run"):
        load_suite(str(tmp_path / "small.yaml"))


@pytest.mark.slow
def test_plugins_of_a_suite_run_on_ray_workers(tmp_path: Path) -> None:
    own(tmp_path)
    suite = suite_file(tmp_path, **STRIPES)
    words = [sys.executable, str(ROOT / "run_bench.py"), "run", suite, "--results", "store", "--workers", "1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(Store(tmp_path / "store").trials()["status"]) == {"done"}


def test_entry_points_of_every_kind_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package := tmp_path / "my_package").mkdir()
    (package / "mine.py").write_text(page_blocks()[0])
    info = tmp_path / "offered-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    (declared,) = blocks("docs/plugins.md", "toml")
    (info / "entry_points.txt").write_text(declared.replace("project.entry-points.", "").replace('"', ""))
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.load_entry_points()
    spec = specs(tmp_path, plugins=[], dataset="digits", evaluation={"attacks": ["clean"]})["at"]
    assert spec.code == {"network:shallow": hashlib.sha256(page_blocks()[0].encode()).hexdigest()}
    with pytest.raises(SettingsError, match="registered already"):
        plugins.load_plugin(str(own(tmp_path)))


FACTS = ", channels=1, image_size=8, num_classes=2"
METRIC = "from harness.statistics.registry import metric\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("@metric('worst_3')\ndef f(accuracy, counts): ...", "metric 'worst_3' is registered already"),
        ("@metric('gini')\ndef f(accuracy, counts): ...", "metric 'gini' is registered already"),
        ("@metric('x')\ndef f(accuracy, counts, k=2): ...", "must take (accuracy, counts) and nothing else"),
    ],
)
def test_a_metric_that_cannot_be_declared_is_told(tmp_path: Path, text: str, says: str) -> None:
    path = own(tmp_path, METRIC + text)
    assert says in refused("list", "metrics", "--plugin", str(path), cwd=tmp_path)


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        ("accuracy[100]", "IndexError: index 100"),
        ("accuracy", "TypeError: only"),
        ("2.0", "must give a number from 0 to 1, or percent=False, not 2.0"),
        ("float('inf')", "must give a number from 0 to 1"),
    ],
)
def test_a_metric_that_gives_no_number_is_told_with_its_file(tmp_path: Path, gives: str, says: str) -> None:
    path = own(tmp_path, f"{METRIC}@metric('bad')\ndef bad(accuracy, counts):\n    return {gives}\n")
    plugins.load_plugin(str(path))
    with pytest.raises(InputError, match="metric bad: ") as raised:
        METRICS["bad"].values([[0.5, 0.25]], [[10, 20]])
    assert str(raised.value).startswith(f"{path}: metric bad: {says}")


def test_a_metric_gets_the_classes_that_are_there_with_their_images(tmp_path: Path) -> None:
    text = (
        f"{METRIC}@metric('mine', percent=False)\ndef mine(accuracy, counts):\n    return (accuracy * counts).sum()\n"
    )
    plugins.load_plugin(str(own(tmp_path, text)))
    found = METRICS["mine"].values([[[0.5, np.nan, 0.25]], [[np.nan] * 3]], [[[10, 0, 40]], [[0, 0, 0]]])
    assert found.shape == (2, 1)
    assert found[0, 0] == 15
    assert np.isnan(found[1, 0])
    assert not METRICS["mine"].standard


@pytest.mark.parametrize(
    ("facts", "gives", "says"),
    [
        ("", "", "dataset bad: channels, image_size, num_classes must be said beforehand"),
        (f"{FACTS}, class_names=('x',)", "", "dataset bad: class_names has 1 values, and num_classes is 2"),
        (f"{FACTS}, mean=(0.1, 0.2, 0.3)", "", "dataset bad: mean has 3 values, and channels is 1"),
        (f"{FACTS}, train_counts=(5, 5, 5)", "", "dataset bad: train_counts has 3 values, and num_classes is 2"),
        (FACTS, "1 / 0", "{file}: data set bad: ZeroDivisionError: division by zero"),
        (FACTS, "None", "the train split must be images ('N', 1, 8, 8) uint8 and labels (N,) from 0 to 1, not nothing"),
        (FACTS, "(zeros((9, 8, 8), 'uint8'), zeros(9, int))", "not (9, 8, 8) uint8, (9,) int64"),
        (FACTS, "(zeros((9, 1, 8, 8)), zeros(9, int))", "not (9, 1, 8, 8) float64, (9,) int64"),
        (FACTS, "(zeros((9, 1, 8, 8), 'uint8'), zeros(8, int))", "not (9, 1, 8, 8) uint8, (8,) int64"),
        (FACTS, "(zeros((9, 1, 8, 8), 'uint8'), zeros(9, int) + 2)", "labels (N,) from 0 to 1, not"),
        (FACTS, "(zeros((0, 1, 8, 8), 'uint8'), zeros(0, int))", "not (0, 1, 8, 8) uint8"),
    ],
)
def test_a_reader_that_gives_other_data_than_it_says_is_refused(
    tmp_path: Path, facts: str, gives: str, says: str
) -> None:
    text = "from numpy import zeros\nfrom harness.data.registry import dataset\n"
    path = own(tmp_path, f"{text}@dataset('bad'{facts})\ndef bad(directory, split):\n    return {gives}\n")
    suite = suite_file(tmp_path, plugins=["mine.py"], dataset="bad", teacher=None, methods=["at"])
    assert says.format(file=path) in refused("run", suite, "--serial", "--results", "store", cwd=tmp_path)


def test_a_worker_without_the_plugin_computes_nothing(tmp_path: Path) -> None:
    own(tmp_path)
    spec = specs(tmp_path)["at"]
    (tmp_path / "store").mkdir()
    events = list(trial_events(Job(spec, Workplace(tmp_path / "store", plugins=()))))
    assert (events[-1]["event"], events[-1]["kind"]) == ("error", "infrastructure")
    assert "shallow" in events[-1]["error"]
    assert "its plugin was not loaded" in events[-1]["error"]
    own(tmp_path, page_examples() + "# edited\n")
    mine = Workplace(tmp_path / "store", plugins=(str(tmp_path / "mine.py"),))
    events = list(trial_events(Job(spec, mine)))
    assert events[-1]["kind"] == "infrastructure"
    assert "the plugin was edited, or differs between machines" in events[-1]["error"]


def test_show_says_what_runs_as_it_is(tmp_path: Path) -> None:
    """What torch.fx cannot trace, and what has nothing to fold, trained or given."""
    body = "return y if len(x.shape) == 4 and x.shape[0] > 0 else y"
    own(tmp_path, network_that(body))
    suite = suite_file(tmp_path, plugins=["mine.py"], student="bad", teacher=None, methods=["natural"], training=QUICK)
    run_here(suite, tmp_path)
    (trial,) = Store(tmp_path / "store").trials()["trial_id"]
    wanted = "nothing folded, since torch.fx cannot trace the network"
    assert wanted in " ".join(bench("show", trial, "--results", "store", cwd=tmp_path).stdout.split())
    (weights,) = (tmp_path / "store" / "work").glob("*/last.pt")
    words = ("--model", "bad", "--dataset", "digits", "--attacks", "clean", "--images", "50", "--plugin", "mine.py")
    bench("evaluate", str(weights), *words, "--serial", "--results", "given", cwd=tmp_path)
    (trial,) = Store(tmp_path / "given").trials()["trial_id"]
    assert wanted in " ".join(bench("show", trial, "--results", "given", cwd=tmp_path).stdout.split())
