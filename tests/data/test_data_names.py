"""What reports call data sets: by title or file, one name for one content, and never one heading for two contents."""

from __future__ import annotations

import pytest

from harness.report.captions import setting_title
from harness.report.results import read_results
from harness.report.rows import settings_of
from harness.report.scores.leaderboard import leaderboard
from harness.report.tables.tables import csv_text, markdown
from harness.spec import DatasetSpec
from tests.synthetic_store import frames_of, trial_spec

FIRST, SECOND = "1a2b3c4d" * 8, "5e6f7a8b" * 8


def stored(*datasets: DatasetSpec, variant: str = "at"):
    """Results of a trial on each data set, finished in this order; each trial has a seed of its own."""
    specs = [
        trial_spec(variant, seed, attacks=("clean", "pgd20"), epochs=4).model_copy(update={"dataset": dataset})
        for seed, dataset in enumerate(datasets)
    ]
    frames = frames_of(specs)
    order = {spec.trial_id: f"2026-01-{place + 1:02d}" for place, spec in enumerate(specs)}
    trials = frames.tables["trials"]
    frames.tables["trials"] = trials.assign(finished=trials["trial_id"].map(order))
    return frames, specs


def own(sha256: str, path: str = "mine.npz", **more) -> DatasetSpec:
    return DatasetSpec(name="npz", path=path, sha256=sha256, **more)


@pytest.mark.parametrize("title", [None, "Mine"])
def test_sets_of_different_content_share_neither_a_heading_nor_a_row(title: str | None):
    frames, _ = stored(own(FIRST, title=title), own(SECOND, title=title))
    results = read_results(frames)
    names = ["mine.npz 1a2b3c4d", "mine.npz 5e6f7a8b"] if title is None else ["Mine (1a2b3c4d)", "Mine (5e6f7a8b)"]
    assert list(results.rows["dataset"]) == names
    assert [setting[0] for setting in settings_of(results.rows)] == names
    board = leaderboard(results)
    for setting in settings_of(results.rows):
        assert f"## {setting_title(setting)}" in markdown(board).replace("\\", "")
    assert all(name in csv_text(board) for name in names)


def test_a_set_resized_two_ways_is_two_sets():
    frames, _ = stored(*[DatasetSpec(name="folder", path="a/pets", sha256=FIRST, resize=size) for size in (32, 64)])
    assert list(read_results(frames).rows["dataset"]) == [f"pets 1a2b3c4d ({size} pixels)" for size in (32, 64)]


def test_a_folder_whose_test_images_another_seed_drew_is_another_set():
    frames, _ = stored(*[DatasetSpec(name="folder", path="a/pets", sha256=FIRST)] * 2)
    assert list(read_results(frames).rows["dataset"]) == ["pets 1a2b3c4d"]
    trials = frames.tables["trials"]
    trials.loc[1, "spec"] = trials.loc[1, "spec"].replace('"split_seed":0', '"split_seed":1')
    assert list(read_results(frames).rows["dataset"]) == [f"pets 1a2b3c4d (split seed {seed})" for seed in (0, 1)]


def test_one_content_has_one_name_wherever_it_lay_and_whatever_it_was_called():
    frames, specs = stored(own(FIRST), own(FIRST, "elsewhere/copy.npz"), own(FIRST, title="Mine"))
    assert list(read_results(frames).rows["dataset"]) == ["Mine"]
    assert len(read_results(frames).rows) == 1
    called = {specs[0].trial_id: "Renamed"}
    assert list(read_results(frames, datasets=called).rows["dataset"]) == ["Renamed"]


def test_rows_that_were_stored_as_npz_are_told_apart_too():
    frames, _ = stored(own(FIRST), own(SECOND))
    frames.tables["trials"]["dataset"] = "npz"
    assert list(read_results(frames).rows["dataset"]) == ["npz (1a2b3c4d)", "npz (5e6f7a8b)"]


def test_a_title_cannot_pass_for_a_public_set():
    frames, _ = stored(DatasetSpec(name="cifar10"), own(FIRST, title="cifar10"))
    assert list(read_results(frames).rows["dataset"]) == ["cifar10 (1a2b3c4d)", "cifar10 (cifar10)"]
