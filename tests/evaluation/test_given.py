"""Networks trained elsewhere: how they are described, what their clean accuracy is held to, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.errors import InputError
from harness.evaluation.given import evaluation_trial, given_dataset, given_network
from harness.inputs import check_readable
from harness.models.build import build
from harness.models.checkpoints import write_state
from harness.report.results import read_results
from harness.report.scores.leaderboard import leaderboard
from harness.store.store import Store
from harness.suites.blocks import dataset_spec, network_spec
from tests.command import bench, refused
from tests.small import small_specs
from tests.synthetic_store import frames_of, trial_spec

FILE = ["mine.pt", "--model", "cnn", "--param", "width=4", "--dataset", "digits", "--eps", "0.1", "--serial"]


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build("cnn", {"width": 4}, in_channels=1, num_classes=10)


def written(folder: Path, **change: torch.Tensor) -> Path:
    state = network().state_dict()
    write_state(folder / "mine.pt", state | change, {})
    return folder / "mine.pt"


def spec_of(path: Path, parameters: list[str], normalization: str, weights: str | None = None, **evaluation: object):
    data = given_dataset("digits")
    source = given_network(path, "cnn", parameters, normalization, weights, data)
    return evaluation_trial(source, data, {"attacks": ["clean"], **evaluation}, "0.1", "mine")


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("none", "none"),
        ("dataset", "dataset"),
        ("{mean: [0.3], std: [0.4]}", {"mean": [0.3], "std": [0.4]}),
        ("{mean: 0.3, std: 0.4}", {"mean": [0.3], "std": [0.4]}),
        ("mean: [0.3]\nstd: [0.4]", {"mean": [0.3], "std": [0.4]}),
    ],
)
def test_a_normalization_is_written_as_in_a_suite(tmp_path: Path, text: str, entry: object) -> None:
    expected = network_spec({"name": "cnn", "width": 4, "normalization": entry}, "student", dataset_spec("digits"))
    assert spec_of(written(tmp_path), ["width=4"], text).student == expected


@pytest.mark.parametrize("parameters", [["width=6"], ["{width: 6}"], ["width: 6"], ["width = 6"]])
def test_parameters_are_key_and_value_or_a_mapping(tmp_path: Path, parameters: list[str]) -> None:
    assert spec_of(written(tmp_path), parameters, "none").student.params == {"width": 6}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--normalization", "{mean: [0.3]}"], "must be none, dataset or {mean"),
        (["--normalization", "{mean: [0.3, 0.3], std: [0.4, 0.4]}"], "one number a channel (1)"),
        (["--normalization", "{mean: [0.3], std: [0]}"], "deviations of 1e-06 at least"),
        (["--normalization", "{mean: [dark], std: [0.4]}"], "normalization: mean"),
        (["--normalization", "{mean: [0.3"], "not valid YAML"),
        (["--normalization", "datset"], "must be none, dataset"),
        (["--param", "6"], "write key=value"),
        (["--param", "width=6"], "'width' is given twice"),
        (["--param", "{widht: 6}"], "did you mean width"),
        (["--weights", "averaged"], "'ema', 'raw', 'best' or 'last'"),
        (["--weights", "ema"], "holds no averaged weights"),
        (["--expect-clean", "940"], "a percentage from 0 to 100"),
        (["--expect-clean", "nan"], "a percentage from 0 to 100"),
        (["--claim", "pgd20: 50"], "--claim 'pgd20: 50': the evaluation has no 'pgd20': --attacks are clean"),
        (["--claim", "clean: 101"], "--claim 'clean: 101': clean: average: Input should be less than or equal to 100"),
        (["--claim", "clean: much"], "--claim 'clean: much': clean: average: "),
        (["--claim", "clean: {wrost: 3}"], "did you mean worst"),
        (["--claim", "clean: {average: 30, worst: 40}"], "has a worst class above its average"),
        (["--claim", "49.2"], "write an attack with its accuracy"),
        (["--claim", "clean: 49", "--claim", "clean: 50"], "'clean' is claimed twice"),
    ],
)
def test_what_is_written_wrongly_is_refused_in_one_line(tmp_path: Path, words: list[str], says: str) -> None:
    written(tmp_path)
    assert says in refused("evaluate", *FILE, "--attacks", "clean", *words, cwd=tmp_path)


def test_clean_accuracy_comes_first_and_is_held_to_what_is_expected(tmp_path: Path) -> None:
    """A random network: 450 test images, so that one image is 0.22 points."""
    written(tmp_path)
    done = bench("evaluate", *FILE, "--attacks", "clean", "--results", "first", cwd=tmp_path)
    (line,) = re.findall(r"clean accuracy: (.*) % on 450 test images", done.stdout)
    assert (
        done.stdout.index("clean accuracy")
        < done.stdout.index("usually it is the normalization")
        < done.stdout.index("mine")
    )
    correct = Store(tmp_path / "first").read("class_accuracy")["correct"].sum()
    assert float(line) == pytest.approx(100 * correct / 450, abs=0.005)
    for off in (0.4, -0.4):
        bench("evaluate", *FILE, "--attacks", "clean", "--expect-clean", str(float(line) + off), "--images", "20",
              "--results", f"second{off}", cwd=tmp_path)  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    for off in (0.6, -0.6):
        done = bench(
            "evaluate", *FILE, "--expect-clean", str(float(line) + off), "--results", "third", cwd=tmp_path, check=2
        )
        assert f"clean accuracy: {line} % on 450 test images, not" in done.stderr
        for cause in ("normalization", "scales", "branches", "pre-activation"):
            assert cause in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_given_network_has_one_checkpoint_and_no_command_names_another(tmp_path: Path) -> None:
    """Nor the page, whose data have a specification too; those of trained networks keep their checkpoints."""
    written(tmp_path)
    done = bench("evaluate", *FILE, "--attacks", "clean", "--images", "20", "--results", "store", cwd=tmp_path)
    (trial,) = Store(tmp_path / "store").trials()["trial_id"]
    shown = bench("show", trial, "--results", "store", cwd=tmp_path).stdout
    bench("report", "store", "--html", "--figures", "", cwd=tmp_path)
    data = re.search(r'id="data">(.*?)</script>', (tmp_path / "store/report/index.html").read_text(), re.DOTALL)
    assert data
    rows = json.loads(data[1])["rows"]
    for text in (done.stdout, shown, json.dumps([row["spec"] for row in rows])):
        assert "best_validation" not in text
    assert "sha256" in shown
    assert [attack["name"] for attack in rows[0]["spec"]["evaluation"]["attacks"]] == ["clean"]


def test_averaged_weights_are_chosen_and_recorded(tmp_path: Path) -> None:
    torch.save({"state_dict": network(0).state_dict(), "ema": network(1).state_dict()}, tmp_path / "mine.pt")
    words = ["evaluate", *FILE, "--attacks", "clean", "--results", "store"]
    assert "say which to take" in refused(*words, cwd=tmp_path)
    for weights in ("ema", "raw"):
        bench(*words, "--weights", weights, "--name", weights, cwd=tmp_path)
    store = Store(tmp_path / "store")
    trials = store.trials().set_index("variant")
    assert len(trials) == 2
    predictions = store.read("outcomes").groupby("trial_id", observed=True)["prediction"].agg(list)
    for weights, seed in (("ema", 1), ("raw", 0)):
        assert f'"weights": "{weights}"' in trials.loc[weights, "spec"]
        (tmp_path / str(seed)).mkdir()
        write_state(tmp_path / str(seed) / "mine.pt", network(seed), {})
        bench("evaluate", *FILE, "--attacks", "clean", "--results", "store", cwd=tmp_path / str(seed))
        plain = Store(tmp_path / str(seed) / "store").read("outcomes")["prediction"].tolist()
        assert predictions[trials.loc[weights, "trial_id"]] == plain


def test_a_file_without_a_choice_keeps_its_identity(tmp_path: Path) -> None:
    spec = spec_of(written(tmp_path), ["width=4"], "none")
    stored = spec.model_dump(mode="json")
    assert stored["init"].pop("weights") is None
    assert type(spec).model_validate(stored).trial_id == spec.trial_id
    chosen = spec.model_copy(update={"init": spec.init.model_copy(update={"weights": "ema"})})
    assert type(spec).model_validate(chosen.model_dump()).trial_id != spec.trial_id


def test_weights_that_are_no_numbers_are_refused_before_anything_runs(tmp_path: Path) -> None:
    path = written(tmp_path, **{"fc.bias": torch.full((10,), float("nan"))})
    assert "NaN or infinite weights" in refused("evaluate", *FILE, cwd=tmp_path)
    teacher = {
        "model": {"name": "cnn", "width": 4},
        "file": str(path),
        "sha256": spec_of(path, ["width=4"], "none").init.sha256,
    }
    specs = small_specs(tmp_path, teacher=teacher)
    with pytest.raises(InputError, match="NaN or infinite weights"):
        check_readable(list(specs.values()), None, False)


def test_logits_that_are_not_finite_have_no_result(tmp_path: Path) -> None:
    """Finite weights so large that logits overflow: no accuracy, no rank, a note, and a sound store."""
    written(tmp_path, **{"fc.weight": torch.full((10, 16), 3e38), "fc.bias": torch.full((10,), 3e38)})
    done = bench("evaluate", *FILE, "--attacks", "clean,pgd2", "--images", "40", cwd=tmp_path)
    root = tmp_path / "results/runs/evaluations"
    store = Store(root)
    assert (store.read("outcomes")["prediction"] == -1).any()
    rows = store.read("class_accuracy")
    assert rows["n"].sum() == 80
    assert rows["correct"].isna().all()
    assert rows["accuracy"].isna().all()
    notes = store.read("notes")
    assert len(notes) == 2
    assert re.match(r"clean on given: logits are not finite on \d+ of 40 images", notes["text"][0])
    board = leaderboard(read_results(store))
    assert board.scores.empty or board.scores["value"].isna().all()
    assert "clean on given: no result, logits of seed 0 are not finite" in board.rows["missing"][0]
    assert "0.0" not in done.stdout.split("mine", 2)[-1].splitlines()[0]
    assert bench("verify", str(root), cwd=tmp_path).returncode == 0
    shown = bench("show", store.trials()["trial_id"][0], "--results", str(root), cwd=tmp_path).stdout
    assert len(re.findall(r"^\S.* –\s*$", shown, re.M)) == 10


def test_gradients_in_bfloat16_are_asked_for_in_words(tmp_path: Path) -> None:
    """They are in the identity, and what is judged without them stays as it was."""
    written(tmp_path)
    words = ["evaluate", *FILE, "--attacks", "clean,pgd2", "--images", "40"]
    for precision in ("float32", "bfloat16"):
        bench(*words, "--gradient-precision", precision, "--results", precision, cwd=tmp_path)
    exact, cheaper = (Store(tmp_path / precision) for precision in ("float32", "bfloat16"))
    ids = [store.trials()["trial_id"][0] for store in (exact, cheaper)]
    assert ids[0] == spec_of(tmp_path / "mine.pt", ["width=4"], "none", attacks=["clean", "pgd2"], images=40).trial_id
    assert ids[1] != ids[0]
    outcomes = [store.read("outcomes").query("attack == 'clean'")["prediction"].tolist() for store in (exact, cheaper)]
    assert outcomes[0] == outcomes[1]
    assert len(cheaper.read("outcomes")) == 80


def test_one_seed_without_a_result_leaves_its_row_without_one() -> None:
    """The mean of the seeds that did not overflow would rank a method that did."""
    frames = frames_of([trial_spec(variant, seed) for variant in ("at", "rslad") for seed in (0, 1, 2)])
    rows = frames.tables["class_accuracy"]
    lost = (
        (rows["variant"] == "rslad")
        & (rows["seed"] == 1)
        & (rows["attack"] == "pgd20")
        & (rows["checkpoint"] == "last")
    )
    rows["correct"] = rows["correct"].astype(float).where(~lost)
    board = leaderboard(read_results(frames))
    scores = board.scores.join(board.rows["variant"], on="row").set_index(["variant", "attack", "checkpoint"])
    assert ("rslad", "pgd20", "last") not in scores.index
    assert (scores.loc[("at", "pgd20", "last"), "rank"] == 0).all()
    assert scores.loc[("rslad", "pgd20", "best_validation"), "value"].notna().all()
    missing = board.rows.set_index("variant")["missing"]
    assert missing["rslad"] == "pgd20 on last: no result, logits of seed 1 are not finite"
    assert missing["at"] == ""


def test_what_is_claimed_is_printed_against_what_is_measured(tmp_path: Path) -> None:
    written(tmp_path)
    claims = ["--claim", "clean: 49.2", "--claim", "pgd20: {average: 0.5, worst: 0, nsd: 1.5}"]
    done = bench("evaluate", *FILE, "--attacks", "clean,pgd20", "--images", "50", *claims, cwd=tmp_path)
    assert "\nclaim  " in done.stdout, done.stdout + done.stderr
    rows = Store(tmp_path / "results/runs/evaluations").read("class_accuracy")
    clean, attacked = (rows[rows["attack"] == name] for name in ("clean", "pgd20"))
    lines = done.stdout[done.stdout.index("\nclaim  ") + 1 :].splitlines()[1:5]
    accuracy, average = 100 * clean["correct"].sum() / 50, 100 * attacked["accuracy"].mean()
    assert lines[0].split()[:5] == ["Clean", "Avg.", "49.20", f"{accuracy:.2f}", f"{accuracy - 49.2:+.2f}"]
    assert lines[0].split()[-1] == "50"
    assert lines[1].split()[:4] == ["PGD-20", "Avg.", "0.50", f"{average:.2f}"]
    assert lines[2].split()[:4] == ["PGD-20", "Worst", "0.00", f"{100 * attacked['accuracy'].min():.2f}"]
    assert lines[3].split()[:3] == ["PGD-20", "NSD", "1.500"]


def test_an_accuracy_over_all_images_is_claimed_of_unequal_classes() -> None:
    from harness.report.tables.claims import lines

    frames = frames_of([trial_spec("at", 0, attacks=("clean",))])
    table = frames.tables["class_accuracy"]
    tail = table["class_index"] == 0
    frames.tables["class_accuracy"] = table.assign(
        n=table["n"].where(~tail, 20), correct=table["correct"].where(~tail, 0), accuracy=table["accuracy"] * ~tail
    )
    board = leaderboard(read_results(frames))
    (over_all, of_classes) = lines(board, {"clean": {"accuracy": 50.0, "average": 50.0}})
    kept = table[~tail & (table["checkpoint"] == "last")]
    assert over_all[3] == f"{100 * kept['correct'].sum() / (kept['n'].sum() + 20):.2f}"
    assert of_classes[3] == f"{100 * kept['accuracy'].sum() / 10:.2f}"


def test_another_name_for_a_stored_network_is_shown_and_the_stored_one_told(tmp_path: Path) -> None:
    written(tmp_path)
    words = ["evaluate", *FILE, "--attacks", "clean", "--images", "20", "--results", "store"]
    bench(*words, "--name", "first", cwd=tmp_path)
    done = bench(*words, "--name", "second", cwd=tmp_path)
    assert "second (given)" in done.stdout
    assert "stored in store, where it is called first" in done.stdout
    assert "called" not in bench(*words, "--name", "first", cwd=tmp_path).stdout


def test_clean_accuracy_is_of_the_split_that_is_evaluated(tmp_path: Path) -> None:
    """A folder without a test part: which of its images are test images is a matter of the seed."""
    pixels = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(60):
            image = Image.fromarray(pixels.integers(256, size=(8, 8, 3), dtype=np.uint8))
            image.save(tmp_path / "pets" / name / f"{number:02d}.png")
    torch.manual_seed(1)
    write_state(tmp_path / "mine.pt", build("cnn", {"width": 4}, in_channels=3, num_classes=2).state_dict(), {})
    told = []
    for seed in ("0", "3", "5"):
        words = [
            *FILE[:5],
            "--dataset",
            "pets",
            "--eps",
            "0.02",
            "--attacks",
            "clean",
            "--serial",
            "--split-seed",
            seed,
        ]
        done = bench("evaluate", *words, "--results", seed, cwd=tmp_path)
        (line,) = re.findall(r"clean accuracy: (.*) % on", done.stdout)
        rows = Store(tmp_path / seed).read("class_accuracy")
        assert float(line) == pytest.approx(100 * rows["correct"].sum() / rows["n"].sum(), abs=0.005)
        told.append(line)
    assert len(set(told)) > 1
