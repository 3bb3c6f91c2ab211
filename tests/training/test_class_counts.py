"""How many training images each class has: what the loop tells a policy before training."""

from __future__ import annotations

from harness.inputs import read_data
from harness.store.store import Store
from tests.small import assert_same_weights, run_to_end, small_specs, weights


def test_a_policy_is_told_of_the_images_that_are_trained_on_and_goes_on_bit_for_bit(tmp_path) -> None:
    """A long tail of digits: its counts are those of the trial's own training images, also after an interruption."""
    tail = {"name": "digits", "test_images": 60, "imbalance": 0.1}
    specs = small_specs(tmp_path, dataset=tail, methods=["at_bsl"], teacher=None)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    run_to_end(specs["at_bsl"], straight)
    data = read_data(specs["at_bsl"].dataset, 0, "cpu", second=False, root=None, download=False)
    counts = data.train.labels.bincount().tolist()
    assert counts[0] > 5 * counts[-1]
    rows = Store(straight).read("class_state")
    rows = rows[rows["quantity"] == "training_images"].sort_values(["epoch", "class_index"])
    assert rows["value"].to_numpy().reshape(2, 10).tolist() == [counts, counts]
    steps = iter(range(1000))
    events = run_to_end(specs["at_bsl"], stopped, should_stop=lambda: next(steps) == 2)
    assert events[-1]["event"] == "interrupted"
    run_to_end(specs["at_bsl"], stopped)
    assert_same_weights(weights(straight, specs["at_bsl"]), weights(stopped, specs["at_bsl"]))
