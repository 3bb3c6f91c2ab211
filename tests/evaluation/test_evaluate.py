"""Chunks, their cache, and what a resumed evaluation repeats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from torch import Tensor

from harness.attacks import autoattack
from harness.attacks.conditions import Conditions
from harness.errors import InputError
from harness.evaluation import chunk as evaluate
from harness.evaluation.chunk import chunk_ranges, derive_seed, evaluate_chunk, gather
from tests import small

COUNT = 50


class Killed(Exception):
    """The process died here."""


class Counted:
    """A small smooth network that counts the images it is asked about. It computes in float64, so that how many images
    are asked about at once changes no bit of its float32 answers."""

    def __init__(self, num_classes: int = 5) -> None:
        draw = torch.Generator().manual_seed(2)
        self.first = torch.randn(36, 12, generator=draw).double().to(small.DEVICE)
        self.second = torch.randn(12, num_classes, generator=draw).double().to(small.DEVICE)
        self.images = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return (4 * torch.tanh((x.flatten(1).double() - 0.5) @ self.first / 4) @ self.second).float()


def problem(num_classes: int = 5) -> tuple[Tensor, Tensor]:
    images = torch.randint(256, (COUNT, 1, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    images = images.to(small.DEVICE)
    labels = Counted(num_classes)(images / 255).argmax(1)
    labels[::7] = (labels[::7] + 1) % num_classes
    return images, labels


def run(
    attack: str | dict,
    network: Any = None,
    num_classes: int = 5,
    *,
    chunk_size: int = 20,
    indices: Any = range(COUNT),
    cache_dir: Path | None = None,
    note: Any = None,
    **options: Any,
) -> pd.DataFrame:
    """The outcomes of an attack on these images of the problem, chunk by chunk."""
    request = {"name": attack} if isinstance(attack, str) else attack
    conditions = Conditions(request, **{"eps": 0.05, "seed": 3, "batch_size": 8, "num_classes": num_classes, **options})
    network, (images, labels) = network or Counted(num_classes), problem(num_classes)
    results = [
        evaluate_chunk(network, images[rows], labels[rows], rows, conditions, chunk, cache_dir)
        for chunk, rows in enumerate(torch.as_tensor(indices).split(chunk_size))
    ]
    return gather(results, note)


def test_clean_outcomes() -> None:
    images, labels = problem()
    outcomes = run({"name": "clean", "images": None, "checkpoints": ["last"]})
    assert list(outcomes) == ["sample_index", "label", "prediction", "robust"]
    assert outcomes.dtypes.astype(str).tolist() == ["int64", "int64", "int64", "bool"]
    assert outcomes["sample_index"].tolist() == list(range(COUNT))
    assert outcomes["label"].tolist() == labels.tolist()
    assert outcomes["prediction"].tolist() == Counted()(images / 255).argmax(1).tolist()
    assert outcomes["robust"].tolist() == [index % 7 != 0 for index in range(COUNT)]


@pytest.mark.parametrize("attack", ["fgsm", "pgd20", "pgd20_last", "cw20", "mifgsm10", "apgd-ce"])
def test_no_attack_makes_an_image_right(attack: str) -> None:
    clean, attacked = run("clean"), run(attack)
    assert 0 < attacked["robust"].sum() < clean["robust"].sum()
    assert not (attacked["robust"] & ~clean["robust"]).any()
    assert (attacked["robust"] == (attacked["prediction"] == attacked["label"])).all()
    wrong = ~clean["robust"]
    assert (attacked["prediction"][wrong] == clean["prediction"][wrong]).all()


def test_indices_choose_and_name_the_images() -> None:
    chosen = torch.tensor([44, 3, 17, 8, 30])
    some = run("fgsm", indices=chosen, chunk_size=2)
    assert some["sample_index"].tolist() == chosen.tolist()
    everything = run("fgsm").set_index("sample_index")
    assert_frame_equal(some.set_index("sample_index"), everything.loc[chosen.tolist()])


def test_chunks_do_not_depend_on_how_they_are_spread() -> None:
    images, labels = problem()
    conditions = Conditions({"name": "pgd20"}, eps=0.05, seed=3, batch_size=8, num_classes=5)
    results = {}
    for chunk, span in reversed(list(enumerate(chunk_ranges(COUNT, 20)))):
        torch.manual_seed(chunk)  # the global generator plays no part
        rows = torch.tensor(span)
        results[chunk] = evaluate_chunk(Counted(), images[rows], labels[rows], rows, conditions, chunk)
    together = run("pgd20")
    assert_frame_equal(gather([results[0], results[1], results[2]]), together)
    assert_frame_equal(run("pgd20", batch_size=50), together)


def test_seed_and_chunk_decide_the_noise() -> None:
    one_step = {"name": "pgd20", "steps": 1}
    assert_frame_equal(run(one_step), run(one_step))
    assert not run(one_step).equals(run(one_step, seed=4))
    images, labels = problem()
    conditions = Conditions(one_step, eps=0.05, seed=3, batch_size=8, num_classes=5)
    first, second = (
        evaluate_chunk(Counted(), images, labels, torch.arange(COUNT), conditions, chunk).outcomes for chunk in (0, 1)
    )
    assert not first.equals(second)
    assert derive_seed(0, "pgd20", 1) == 3835965308860971560
    assert len({derive_seed(seed, name, chunk) for seed in (0, 1) for name in "ab" for chunk in (0, 1)}) == 8


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_noise_never_lifts_every_iterate_above_the_last(steps: int) -> None:
    """Same starts, so the same iterates: who survives them all survives the last, and the fewer beside the more."""
    survivors = 0
    for seed in range(3):
        for eps in (0.02, 0.05):
            every, last, more = (
                run({"name": name, "steps": steps + more}, eps=eps, seed=seed)["robust"]
                for name, more in (("pgd20", 0), ("pgd20_last", 0), ("pgd20", 5))
            )
            assert not (every & ~last).any()
            assert not (more & ~every).any()
            survivors += every.sum()
    assert 0 < survivors < 6 * COUNT


def test_aa_short_is_the_beginning_of_aa_standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Image by image what survives its second stage; and each stage is computed once for all who ask for it."""
    stage_itself, ran = autoattack.attack_stage, []

    def stage(name: str, *arguments: Any, **options: Any):
        ran.append(name)
        return stage_itself(name, *arguments, **options, effort=autoattack.Effort(iterations=10, queries=20))

    monkeypatch.setattr(evaluate, "attack_stage", stage)
    whole = run("aa_standard", cache_dir=tmp_path)
    assert len(ran) == 3 * 4
    fresh = run("aa_short")
    assert 0 < whole["robust"].sum() <= fresh["robust"].sum() < run("clean")["robust"].sum()
    ran.clear()
    assert_frame_equal(run("aa_short", cache_dir=tmp_path), fresh)
    assert_frame_equal(run("apgd-ce", cache_dir=tmp_path), run("apgd-ce"))
    assert ran == ["apgd-ce"] * 3, "only the one without a cache"
    assert_frame_equal(run("aa_short", cache_dir=tmp_path, indices=range(20)), fresh[:20])
    assert ran == ["apgd-ce"] * 3, "the first chunk is the same"
    run("apgd-t", cache_dir=tmp_path)
    assert ran == ["apgd-ce"] * 3 + ["apgd-t"] * 3, "a stage after another is not the stage alone"


def test_a_stage_in_the_cache_keeps_no_remark_of_the_attack_that_asked_for_it(tmp_path: Path) -> None:
    notes: dict[str, list[str]] = {"aa_short": [], "apgd-ce": []}
    for attack, texts in notes.items():
        run(attack, num_classes=3, cache_dir=tmp_path, note=lambda source, text, texts=texts: texts.append(text))
    assert all(len(texts) == 1 and texts[0].endswith("ran apgd-ce (3 chunks)") for texts in notes.values())
    ran: list[str] = []
    run("aa_standard", num_classes=3, indices=range(4), note=lambda source, text: ran.append(text))
    assert ran[0].endswith("ran apgd-ce, fab-t, square")


def test_chunk_ranges() -> None:
    assert chunk_ranges(5, 2) == [range(0, 2), range(2, 4), range(4, 5)]
    assert chunk_ranges(4, 4) == [range(0, 4)]
    assert chunk_ranges(0, 4) == []


def test_resuming_repeats_only_what_is_missing(tmp_path: Path) -> None:
    network = Counted()
    fresh = run("pgd20", network, cache_dir=tmp_path)
    everything, files = network.images, sorted(tmp_path.iterdir())
    assert len(files) == 3

    again = Counted()
    assert_frame_equal(run("pgd20", again, cache_dir=tmp_path), fresh)
    assert again.images == 0

    files[1].unlink()
    partly = Counted()
    assert_frame_equal(run("pgd20", partly, cache_dir=tmp_path), fresh)
    assert 0 < partly.images < everything
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize("damage", ["truncated", "foreign", "another key", "text"])
def test_damaged_cache_is_computed_again(tmp_path: Path, damage: str) -> None:
    fresh = run("fgsm", cache_dir=tmp_path)
    first, second, _ = sorted(tmp_path.iterdir())
    content = first.read_bytes()
    if damage == "truncated":
        first.write_bytes(content[: len(content) // 2])
    elif damage == "foreign":
        pd.DataFrame({"a": [1]}).to_parquet(first)
    elif damage == "another key":
        first.write_bytes(second.read_bytes())
    else:
        first.write_text("not a table")
    network = Counted()
    assert_frame_equal(run("fgsm", network, cache_dir=tmp_path), fresh)
    assert network.images > 0
    assert first.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4}, {"eps": 0.06}, {"batch_size": 9}, {"model_key": "another"}, {"indices": list(range(1, COUNT))},
        {"attack": {"name": "fgsm", "step_size": 0.01}},
    ],
)  # fmt: skip
def test_other_conditions_do_not_use_the_cache(tmp_path: Path, change: dict) -> None:
    run("fgsm", cache_dir=tmp_path)
    network = Counted()
    run(**{"attack": "fgsm", "network": network, "cache_dir": tmp_path, **change})
    assert network.images >= COUNT - 1


def test_same_settings_in_other_words_do_use_the_cache(tmp_path: Path) -> None:
    run({"name": "pgd20", "step_size": "1/80"}, cache_dir=tmp_path)
    network = Counted()
    run({"name": "pgd20", "step_size": 0.0125, "images": 50, "restarts": None}, network, cache_dir=tmp_path)
    assert network.images == 0


def test_autoattack_resumes_at_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight_notes, resumed_notes = [], []
    straight = run("aa_short", note=lambda **row: straight_notes.append(row))
    ran: list[str] = []
    stage_itself = autoattack.attack_stage

    def stage(name: str, *arguments: Any, **options: Any):
        if len(ran) == 3:
            ran.clear()
            raise Killed
        ran.append(name)
        return stage_itself(name, *arguments, **options)

    monkeypatch.setattr(evaluate, "attack_stage", stage)
    with pytest.raises(Killed):
        run("aa_short", cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3  # chunk 0 whole, chunk 1 after its first stage
    resumed = run("aa_short", cache_dir=tmp_path, note=lambda **row: resumed_notes.append(row))
    assert ran == ["apgd-t", "apgd-ce", "apgd-t"]
    assert_frame_equal(resumed, straight)
    assert resumed_notes == straight_notes


def test_autoattack_notes(tmp_path: Path) -> None:
    def random_network(x: Tensor, network: Counted = Counted(3)) -> Tensor:  # noqa: B008
        return network(x) + 0.001 * torch.randn(len(x), 3, device=x.device)

    notes: list[dict] = []
    run("aa_short", random_network, 3, cache_dir=tmp_path, note=lambda **row: notes.append(row))
    assert [row["source"] for row in notes] == ["autoattack"] * 2
    first, second = (row["text"] for row in notes)
    assert first.startswith("not the standard AutoAttack: with 3 classes the targeted DLR loss")
    assert second.startswith("apgd-ce: it seems to be a randomized defense")
    assert second.endswith("(3 chunks)")

    again: list[dict] = []  # this time all of it comes from the cache
    run("aa_short", random_network, 3, cache_dir=tmp_path, note=lambda **row: again.append(row))
    assert again == notes


def test_square_alarm_is_judged_over_all_chunks() -> None:
    rows = pd.DataFrame({"sample_index": range(500), "label": 0, "prediction": 0, "robust": True})

    def result(after_square: int) -> evaluate.ChunkResult:
        return evaluate.ChunkResult(rows, {"clean": 450, "apgd-ce": 300, "square": after_square}, [])

    notes: list[str] = []
    gather([result(298), result(300), result(300)], lambda source, text: notes.append(text))
    assert notes == []
    gather([result(290), result(300), result(300)], lambda source, text: notes.append(text))
    assert len(notes) == 1
    assert "Square Attack has decreased the robust accuracy of 0.67%" in notes[0]


def test_what_cannot_be_evaluated() -> None:
    with pytest.raises(InputError, match="at least 4 classes"):
        run("apgd-t", num_classes=3)
    with pytest.raises(InputError, match="aa_short"):
        run("aa_shrot")
