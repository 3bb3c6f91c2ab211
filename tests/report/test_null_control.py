"""A variant against itself: its later seeds as a row, paired with the earlier; the check can fail."""

from __future__ import annotations

import pandas as pd
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
    """RSLAD with six seeds beside another variant that must not matter; the later three get the results of `later`."""
    attacks = ("clean", "pgd20")
    specs = [trial_spec("rslad", seed, attacks=attacks) for seed in SEEDS]
    others = [trial_spec("at", seed, attacks=attacks) for seed in (0, 1, 2)]
    made = [trial_spec(later, seed, attacks=attacks) for seed in SEEDS[3:]]
    frames, given = frames_of([*specs, *others]), frames_of(made)
    named = {one.trial_id: spec.trial_id for one, spec in zip(made, specs[3:], strict=True)}
    for table in ("class_accuracy", "outcomes"):
        kept, other = frames.read(table), given.read(table)
        kept = kept[~kept["trial_id"].isin(list(named.values()))]
        other = other.assign(trial_id=other["trial_id"].astype(str).map(named))
        frames.tables[table] = pd.concat([kept.astype({"trial_id": str}), other], ignore_index=True)
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
    assert NullControl(frames, "rslad").second == "rslad, seeds 5, 7, 9 as 0, 1, 2, paired arbitrarily"
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
    """ABSLD's results in place of the later seeds' are found out."""
    assert not any(by_metric(six_seeds())[name]["stands"] for name in ("average", "worst", "nsd"))
    assert by_metric(six_seeds("absld"))["nsd"]["stands"]


def test_what_cannot_be_halved_is_refused():
    with pytest.raises(InputError, match="unknown variant 'rslat'"):
        NullControl(six_seeds(), "rslat")
    with pytest.raises(InputError, match=r"an even number of seeds, at least 6: at has 3 \(0, 1, 2\)"):
        NullControl(six_seeds(), "at")


@pytest.mark.parametrize("layout", [crossed(6, 2), [(seed, int(seed == 5)) for seed in range(6)]], ids=["all", "one"])
def test_several_teachers_are_refused(layout):
    with pytest.raises(InputError, match="one teacher for all seeds: rslad has several"):
        NullControl(store(layout), "rslad")


@pytest.mark.parametrize("change", [{"epochs": 60}, {"eps": 0.05}, {"width": 8}], ids=str)
def test_unlike_settings_of_one_name_are_no_null_control(change):
    """Not even where each half has one of them."""
    specs = [trial_spec("rslad", seed, attacks=("pgd20",), **(change if seed > 2 else {})) for seed in range(6)]
    with pytest.raises(InputError, match="one row of a report: rslad has 2, of unlike settings"):
        NullControl(frames_of(specs), "rslad")


def test_the_command_and_a_quotation_say_the_same(tmp_path):
    specs = [trial_spec("rslad", seed, attacks=("pgd20",)) for seed in range(6)]
    fill_store(tmp_path / "store", [*specs, trial_spec("at", 0, attacks=("pgd20", "cw20"))])
    words = ("report", "store", "--into", "x", "--null-control")
    for options, says in [
        (("rslad", "--methods", "rslad"), "no suite, no --methods"),
        (("rslad", "--seeds", "0"), "no suite, no --methods"),
        (("rslad", "--columns", "cw20"), "unknown attack of --columns 'cw20'"),
        (("",), "unknown variant ''"),
    ]:
        assert says in refused(*words, *options, cwd=tmp_path)
    assert "--into FOLDER" in refused("report", "store", "--null-control", "rslad", cwd=tmp_path)
    assert not (tmp_path / "x").exists()
    bench(*words, "rslad", "--figures", "", cwd=tmp_path)
    second = "rslad, seeds 3, 4, 5 as 0, 1, 2, paired arbitrarily"
    assert second in (tmp_path / "x" / "leaderboard.md").read_text()
    passage = "<!-- from store: null_control variant=rslad attacks=pgd20 -->\n<!-- end -->"
    assert f"| {second} | NSD |" in quoted(passage, tmp_path, lambda root: ())
