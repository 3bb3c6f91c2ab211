"""What stands under a table is computed from what each row's trials ran."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from rich.console import Console

from harness.report.captions import caption
from harness.report.page.data import page_data
from harness.report.page.page import page
from harness.report.results import read_results
from harness.report.scores.intervals import METRICS
from harness.report.scores.leaderboard import Leaderboard, leaderboard
from harness.report.scores.seeds import is_several, listed
from harness.report.tables.details import wide
from harness.report.tables.grid import change_text
from harness.report.tables.latex import latex
from harness.report.tables.tables import markdown, print_board
from harness.spec import TrialSpec, read_spec
from harness.suites.suite import PrimaryComparison
from tests.synthetic_store import frames_of, trial_spec


def board_of(specs: list[TrialSpec], **options) -> Leaderboard:
    return leaderboard(read_results(frames_of(specs, **options)))


def sentences(board: Leaderboard) -> str:
    (setting,) = board.settings
    return " ".join(caption(board, setting, "best_validation"))


@pytest.mark.parametrize(("classes", "stages"), [(3, "apgd-ce,"), (4, "apgd-ce and apgd-t,")])
def test_the_stages_that_ran_are_named(classes, stages):
    names = [f"class {number}" for number in range(classes)]
    results = read_results(frames_of([trial_spec("rslad", 0, attacks=("clean", "aa_short"))], classes=names))
    board = leaderboard(results)
    texts = [markdown(board), latex(board, "best_validation"), page(results, board, "best_validation")]
    for text in texts:
        assert f"AA (short): {stages} {200 * classes} images" in text
        assert ("apgd-t" in text.split("AA (short): ")[1].split(".")[0]) == (classes > 3)


@pytest.mark.parametrize(
    ("attack", "title", "did"),
    [
        ("fgsm", "FGSM", "one step of eps, 2,000"),
        ("pgd20_last", "PGD-20 (last)", "20 steps of eps/4, 1 random start, judged on the last iterate, 2,000"),
        ("mifgsm10", "MI-FGSM-10", "10 steps of eps/10, robust on every iterate, 2,000"),
        ("square", "Square", "square, 2,000"),
    ],
)
def test_an_attack_says_what_it_did(attack, title, did):
    assert f"{title}: {did} images" in sentences(board_of([trial_spec("rslad", 0, attacks=("clean", attack))]))


def test_rows_that_were_trained_otherwise_are_named():
    usual = [trial_spec(name, 0) for name in ("at", "rslad", "trades")]
    longer = trial_spec("absld", 0, epochs=45)
    text = sentences(board_of([*usual, longer]))
    assert (
        "Trained for 20 epochs on a subset of 12,000 images, but absld 45 epochs on a subset of 12,000 images." in text
    )
    exact = longer.model_copy(update={"precision": "bfloat16", "engine": "plain"})
    text = sentences(board_of([*usual, exact]))
    assert "Arithmetic of training: float32, fast engine, but absld bfloat16, plain engine." in text


def changed(spec: TrialSpec, part: str, **changes) -> TrialSpec:
    values = spec.model_dump()
    return read_spec({**values, part: {**values[part], **changes}})


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("dataset", {"imbalance": 0.1}, "dataset.imbalance: none, but absld 0.1."),
        (
            "dataset",
            {"augment": {"crop": 0, "flip": True}},
            "dataset.augment: (crop 2, flip true, pad zero), but absld (crop 0, flip true, pad zero).",
        ),
        ("dataset", {"test_images": 500}, "dataset.test_images: none, but absld 500."),
        ("training", {"lr": 0.05}, "training.lr: 0.1, but absld 0.05."),
        ("training", {"step_size": 0.02}, "training.step_size: none, but absld 0.02."),
        ("training", {"milestones": (5, 8)}, "training.milestones: [], but absld [5, 8]."),
        (
            "training",
            {"weight_average": {"kind": "fawa"}},
            "training.weight_average: none, but absld (kind fawa, decay 0.85, threshold 0.2, start_epoch 0).",
        ),
        ("student", {"mean": (0.5,), "std": (0.25,)}, "student.mean: none, but absld [0.5]."),
        ("evaluation", {"chunk_size": 250}, "evaluation.chunk_size: 500, but absld 250."),
    ],
)
def test_whatever_else_rows_were_trained_with_is_named_where_they_differ(part, changes, said):
    usual = [trial_spec(name, 0) for name in ("at", "rslad", "trades")]
    text = sentences(board_of([*usual, changed(trial_spec("absld", 0), part, **changes)]))
    assert said in text
    assert text.count(f"{part}.") == 1 + ("mean" in changes), "of what rows share nothing is said"
    assert f"{part}." not in sentences(board_of([*usual, trial_spec("absld", 0)]))


@pytest.mark.parametrize(
    ("key", "value", "said"), [("split_seed", 3, "0, but absld 3"), ("threads", 2, "1, but absld 2")]
)
def test_rows_of_another_split_or_number_of_threads_are_named(key, value, said):
    other = trial_spec("absld", 0).model_copy(update={key: value})
    assert f"{key}: {said}." in sentences(board_of([trial_spec("at", 0), trial_spec("rslad", 0), other]))


def test_a_key_that_specifications_get_later_is_named_too(monkeypatch):
    board = board_of([trial_spec("at", 0), trial_spec("rslad", 0), trial_spec("trades", 0)])
    board.specs[2] = board.specs[2].replace('"batch_size":128', '"batch_size":128,"warm_up":3')
    assert "training.warm_up: none, but trades 3." in sentences(board)


def test_rows_that_were_attacked_otherwise_are_named():
    first, second = trial_spec("at", 0, attacks=("pgd20",)), trial_spec("rslad", 0, attacks=("pgd20",))
    (request,) = second.evaluation.attacks
    changed = second.evaluation.model_copy(update={"attacks": (request.model_copy(update={"restarts": 5}),)})
    text = sentences(board_of([first, second.model_copy(update={"evaluation": changed})]))
    assert (
        "PGD-20: 20 steps of eps/4, 1 random start, robust on every iterate, but rslad 20 steps of eps/4, 5 random"
        in text
    )


def test_an_attack_of_one_seed_leaves_the_row_whole_and_another_attack_of_its_name_does_not():
    some = [trial_spec("rslad", seed, attacks=("clean", "pgd20")) for seed in (1, 2)]
    longer = trial_spec("rslad", 0, attacks=("clean", "pgd20", "aa_standard"))
    board = board_of([longer, *some])
    assert list(board.rows["variant"]) == ["rslad"]
    counts = board.scores[board.scores["metric"] == "average"].set_index(["attack", "checkpoint"])["seeds"]
    assert (counts["pgd20", "best_validation"], counts["aa_standard", "best_validation"]) == (3, 1)
    fewer = trial_spec("rslad", 0, attacks=("clean", "pgd20"), images=1000)
    assert len(board_of([fewer, *some]).rows) == 2
    again = trial_spec("rslad", 1, attacks=("clean", "fgsm"))
    assert len(board_of([*some, again]).rows) == 2, "one network evaluated twice is not two seeds"


def test_students_of_two_teachers_and_of_unlike_devices_are_told():
    frames = frames_of([trial_spec(name, seed) for name in ("rslad", "at") for seed in (0, 1)])
    assert not [note for note in leaderboard(read_results(frames)).notes if "teachers" in note or "devices" in note]
    trials = frames.tables["trials"]
    teachers = iter(["a" * 64, "b" * 64])
    trials["teacher_sha256"] = [next(teachers) if variant == "rslad" else None for variant in trials["variant"]]
    trials["train_device"] = ["Xeon", "EPYC", "Xeon", "Xeon"]
    (note,) = [note for note in leaderboard(read_results(frames)).notes if "teachers" in note]
    assert "learned from 2 different teachers and were trained on 2 kinds of devices (EPYC; Xeon)" in note
    trials["init_sha256"] = ["c" * 64, None, "d" * 64, None]
    (note,) = [note for note in leaderboard(read_results(frames)).notes if "teachers" in note]
    assert "learned from 2 different teachers and started from 2 different networks and were" in note


def test_what_autoattack_warned_of_is_told_with_the_networks():
    frames = frames_of([trial_spec(name, seed) for name in ("rslad", "at") for seed in (0, 1)])
    ids = frames.tables["trials"].set_index(["variant", "seed"])["trial_id"]
    lines = [
        (ids["rslad", 0], "autoattack", "Square."),
        (ids["at", 1], "autoattack", "Random. See flags_doc.md for details."),
        (ids["rslad", 1], "autoattack", "Square."),
        (ids["at", 0], "engine", "Square."),
    ]
    frames.tables["notes"] = pd.DataFrame(lines, columns=["trial_id", "source", "text"])
    notes = [note for note in leaderboard(read_results(frames)).notes if "AutoAttack" in note]
    assert [note.partition(": ")[2] for note in notes] == [
        "AutoAttack warned of rslad 0, 1: Square.",
        "AutoAttack warned of at 1: Random.",
    ]


@pytest.fixture(scope="module")
def partly_attacked() -> Leaderboard:
    """AutoAttack on seed 0 of both students, CW on all seeds of one and on seed 1 of the other."""
    attacks = {
        ("at", 0): ("pgd20", "cw20", "aa_short"), ("at", 1): ("pgd20", "cw20"), ("at", 2): ("pgd20", "cw20"),
        ("rslad", 0): ("pgd20", "aa_short"), ("rslad", 1): ("pgd20", "cw20"), ("rslad", 2): ("pgd20",),
    }  # fmt: skip
    return board_of([trial_spec(name, seed, attacks=names) for (name, seed), names in attacks.items()])


def test_an_attack_of_some_seeds_says_which(partly_attacked):
    text = sentences(partly_attacked)
    assert "Mean over seeds 0, 1, 2." in text
    assert "AA (short): apgd-ce and apgd-t, 2,000 images, 200 of each class, over seeds 0." in text
    assert "200 of each class, over seeds 0, 1, 2, but rslad 1." in text, "by row where they differ"
    assert (
        "PGD-20: 20 steps of eps/4, 1 random start, robust on every iterate, 2,000 images, 200 of each class. " in text
    )
    assert "second underlined, in each column of those over the same seeds." in text
    table = wide(partly_attacked).set_index(["variant", "checkpoint", "attack"]).sort_index()
    seeds = table[["seeds", "seed_list"]].apply(tuple, axis=1)
    assert seeds["rslad", "last", "aa_short"] == (1, "0")
    assert seeds["rslad", "last", "cw20"] == (1, "1")
    assert seeds["rslad", "last", "pgd20"] == (3, "0, 1, 2")


def test_an_attack_that_a_seed_did_not_ask_for_is_not_missing(partly_attacked):
    assert list(partly_attacked.rows["missing"]) == ["", ""]


def test_cells_over_unlike_seeds_are_not_ranked(partly_attacked):
    ranks = partly_attacked.scores.groupby("attack", observed=True)["rank"].max()
    assert ranks.to_dict() == {"pgd20": 2, "cw20": 0, "aa_short": 2}


def test_a_row_is_captioned_by_what_any_of_its_seeds_asked():
    """The first seed has no AutoAttack and no CW; the CW of the second has 7 steps."""
    first, second = (
        trial_spec("rslad", seed, attacks=names) for seed, names in ((0, ("pgd20",)), (1, ("pgd20", "cw20")))
    )
    pgd, cw = second.evaluation.attacks
    changed = second.evaluation.model_copy(update={"attacks": (pgd, cw.model_copy(update={"restarts": 7}))})
    text = sentences(board_of([first, second.model_copy(update={"evaluation": changed})]))
    assert "7 random starts" in text


def test_a_difference_over_fewer_seeds_says_which_on_the_page():
    specs = [trial_spec("at", seed) for seed in range(3)] + [trial_spec("rslad", 0)]
    specs += [trial_spec("absld", seed) for seed in range(3)]
    results = read_results(frames_of(specs))
    board = leaderboard(results)
    places = {variant: place for place, variant in enumerate(board.rows["variant"])}
    cells = page_data(results, board, "last")["pairs"]

    def over(*names: str) -> str | None:
        return cells["-".join(str(place) for place in sorted(places[name] for name in names))]["last"]["pgd20"].get(
            "seeds"
        )

    assert (over("at", "rslad"), over("at", "absld")) == ("0", None)


def test_teachers_of_one_name_are_told_apart_by_their_weights():
    frames = frames_of([trial_spec(name, 0) for name in ("rslad", "absld", "at")])
    weights = iter(["a" * 64, "b" * 64])
    trials = frames.tables["trials"]
    trials["teacher_sha256"] = [next(weights) if name != "at" else None for name in trials["variant"]]
    text = sentences(leaderboard(read_results(frames)))
    assert "2 teachers, each of them fixed" in text
    assert "One teacher" not in text


def test_the_page_has_the_caption_of_every_checkpoint():
    results = read_results(frames_of([trial_spec(name, seed) for name in ("at", "absld") for seed in range(3)]))
    board = leaderboard(results)
    (setting,) = page_data(results, board, "last")["settings"]
    wanted = {name: caption(board, board.settings[0], name) for name in ("best_validation", "last")}
    assert setting["captions"] == wanted


def test_the_terminal_names_rows_that_were_trained_otherwise():
    board = board_of([trial_spec("at", 0), trial_spec("rslad", 0), trial_spec("absld", 0, epochs=45)])
    console = Console(file=io.StringIO(), width=300)
    print_board(console, board, "last")
    assert "but absld 45 epochs on a subset of 12,000 images." in console.file.getvalue()


def test_long_lists_of_seeds_are_ranges():
    assert listed([2, 0, 1]) == "0, 1, 2"
    assert listed(range(20)) == "0 to 19"
    assert listed([*range(12), 20, 21, 30]) == "0 to 11, 20, 21, 30"
    text = sentences(
        board_of([trial_spec(name, seed, attacks=("pgd20",)) for name in ("at", "rslad") for seed in range(14)])
    )
    assert text.split(". ")[1] == "Mean over seeds 0 to 13"
    assert [is_several(text) for text in ("7", "7, 8", "0 to 13")] == [False, True, True]


@pytest.mark.parametrize(
    ("low", "high", "p", "stands", "said"),
    [
        (0.01, 0.05, 0.2, False, "noise (corrected for all comparisons; this interval is not)"),
        (0.01, 0.05, 0.01, True, "stands"),
        (-0.01, 0.05, 0.01, True, "stands (by the spread of all rows over seeds; this interval is by its own)"),
        (-0.01, 0.05, 0.2, False, "noise"),
        (0.01, 0.05, 0.01, False, "noise"),  # the bounds over test samples, printed beside it, say why
    ],
)
def test_a_verdict_that_its_interval_does_not_suggest_says_why(low, high, p, stands, said):
    score = {"difference": 0.03, "p": p, "stands": stands}
    score |= {"difference_sample_low": -0.1, "difference_sample_high": 0.1}
    score |= {"difference_seed_low": low, "difference_seed_high": high}
    text = change_text(score, METRICS["average"])
    assert text.endswith(f" {said}")


def test_a_registered_comparison_without_results_is_said_to_have_none():
    specs = [trial_spec(name, seed) for name in ("at", "rslad") for seed in range(3)]
    primary = [PrimaryComparison(variant="absld", against="at", metrics=("worst",))]
    board = leaderboard(read_results(frames_of(specs)), primary=primary)
    (setting,) = board.settings
    text = " ".join(caption(board, setting, "best_validation"))
    assert "Registered before the results, 1 comparison, without a result yet: absld minus at, Worst" in text


def test_the_page_has_the_weights_that_a_trial_started_from():
    frames = frames_of([trial_spec("rslad", 0)])
    frames.tables["trials"]["init_sha256"] = "c" * 64
    results = read_results(frames)
    board = leaderboard(results)
    assert page_data(results, board, "last")["rows"][0]["trials"][0]["init_sha256"] == "c" * 64
    assert "trial.init_sha256" in page(results, board, "last")
