"""A variant against itself: its later seeds as a row, paired with the earlier; the check can fail."""

from __future__ import annotations

import pytest

from harness.errors import InputError
from harness.report.null_control import NullControl
from harness.report.quotations import quoted
from harness.report.results import read_results
from harness.report.scores.leaderboard import leaderboard
from tests.command import bench, refused
from tests.report.test_teacher_seeds import crossed, store
from tests.synthetic_store import Frames, fill_store, frames_of, trial_spec

SEEDS = (0, 1, 2, 5, 7, 9)  # the later three are paired with 0, 1, 2


def six_seeds(later: str = "rslad") -> Frames:
    """RSLAD with six seeds, the later of them made by another variant, beside others that must not matter."""
    specs = [trial_spec("rslad" if seed < 3 else later, seed, attacks=("clean", "pgd20")) for seed in SEEDS]
    frames = frames_of([*specs, *[trial_spec("at", seed, attacks=("clean", "pgd20")) for seed in (0, 1, 2)]])
    trials = frames.tables["trials"].astype({"variant": str})
    frames.tables["trials"] = trials.assign(variant=trials["variant"].replace(later, "rslad"))
    return frames


def by_metric(frames: Frames) -> dict[str, dict]:
    """The second row's scores under PGD-20."""
    control = NullControl(frames, "rslad")
    board = leaderboard(read_results(control))
    assert list(board.rows["variant"]) == ["rslad", control.second]
    found = board.scores.merge(board.rows[["variant"]], left_on="row", right_index=True)
    found = found[(found["variant"] == control.second) & (found["attack"] == "pgd20")]
    found = found[found["checkpoint"] == "best_validation"]
    return {line["metric"]: line for line in found.to_dict("records")}


def test_the_later_seeds_are_compared_with_the_earlier_in_the_order_of_their_numbers():
    """Values are as trained: only names and seeds change, and the second name says how seeds were paired."""
    frames = six_seeds()
    assert NullControl(frames, "rslad").second == "rslad, seeds 5, 7, 9, paired arbitrarily"
    rows = frames.read("class_accuracy")
    trials = frames.trials(["seed", "variant"])
    rows = rows[(rows["attack"] == "pgd20") & (rows["checkpoint"] == "best_validation")][["trial_id", "accuracy"]]
    rows = rows.merge(trials[trials["variant"] == "rslad"], on="trial_id")
    rates = rows.groupby("seed")["accuracy"]
    own = {"average": rates.mean(), "worst": rates.min(), "nsd": rates.std(ddof=0) / rates.mean()}
    scores = by_metric(frames)
    for name, values in own.items():
        differences = values[[5, 7, 9]].to_numpy() - values[[0, 1, 2]].to_numpy()
        assert scores[name]["difference"] == pytest.approx(differences.mean(), abs=1e-12)
        middle = (scores[name]["difference_seed_low"] + scores[name]["difference_seed_high"]) / 2
        assert middle == pytest.approx(differences.mean(), abs=1e-12)
        assert scores[name]["seed_list"] == "0, 1, 2"


def test_it_marks_nothing_where_there_is_nothing_and_can_fail():
    """ABSLD's seeds called RSLAD's are found out."""
    assert not any(by_metric(six_seeds())[name]["stands"] for name in ("average", "worst", "nsd"))
    assert by_metric(six_seeds("absld"))["nsd"]["stands"]


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        ("rslat", "unknown variant 'rslat'"),
        ("at", "an even number of seeds, at least four: at has 3 (0, 1, 2)"),
    ],
)
def test_what_cannot_be_halved_is_refused(variant, says):
    with pytest.raises(InputError, match=says.replace("(", r"\(").replace(")", r"\)")):
        NullControl(six_seeds(), variant)


def test_several_teachers_of_a_seed_are_refused():
    with pytest.raises(InputError, match="one network a seed: rslad has 8 of 4"):
        NullControl(store(crossed(4, 2)), "rslad")


def test_the_command_and_a_quotation_say_the_same(tmp_path):
    specs = [trial_spec("rslad", seed, attacks=("pgd20",)) for seed in range(4)]
    fill_store(tmp_path / "store", specs)
    bench("report", "store", "--null-control", "rslad", "--into", "control", "--figures", "", cwd=tmp_path)
    assert "rslad, seeds 2, 3, paired arbitrarily" in (tmp_path / "control" / "leaderboard.md").read_text()
    passage = "<!-- from store: null_control variant=rslad attacks=pgd20 -->\n<!-- end -->"
    assert "| rslad, seeds 2, 3, paired arbitrarily | NSD |" in quoted(passage, tmp_path, lambda root: ())
    for words in (["--methods", "rslad"], ["--seeds", "0"]):
        said = refused("report", "store", "--null-control", "rslad", "--into", "x", *words, cwd=tmp_path)
        assert "--null-control takes result stores whole" in said
    assert "--into FOLDER" in refused("report", "store", "--null-control", "rslad", cwd=tmp_path)
    assert not (tmp_path / "x").exists()
