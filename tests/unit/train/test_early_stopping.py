"""Held-out measurements: the best is kept, and patience runs out."""

import math

import pytest
import torch

from posttrain.train.early_stopping import Best, HeldoutWatch, misses


def weights(value):
    return lambda: {"weight": torch.tensor([value])}


@pytest.fixture
def watch(tmp_path):
    return HeldoutWatch(tmp_path, "sft/heldout_loss", False, patience=2, every=10)


def test_misses_are_counted_from_the_best():
    assert [misses(step, 20, 10) for step in (10, 20, 30, 40, 45)] == [0, 0, 1, 2, 3]


def test_training_ends_when_nothing_is_better_for_so_long(watch):
    losses = {0: 2.0, 10: 1.5, 20: 1.6, 30: 1.4, 40: 1.4, 50: 1.45}
    told = [watch.note(step, loss, weights(float(step))) for step, loss in losses.items()]
    assert told == [False, False, False, False, False, True]  # 1.4 again is no better
    assert watch.best() == Best(30, 1.4)
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.zeros(1))
    assert watch.restore(model) == Best(30, 1.4)
    assert model.weight.tolist() == [30.0]
    assert watch.why(Best(30, 1.4)) == (
        "sft/heldout_loss was not better than 1.4 (step 30) in the last 2 measurements: training "
        "ends here, with the weights of step 30"
    )


def test_measuring_again_after_a_restart_changes_nothing(watch):
    for step, loss in {0: 2.0, 10: 1.5, 20: 1.6}.items():
        watch.note(step, loss, weights(float(step)))
    assert not watch.note(0, 2.0, weights(0.0))
    assert not watch.note(10, 1.5, weights(10.0))  # the best itself
    assert watch.best() == Best(10, 1.5)
    assert [watch.note(step, 1.6, weights(0.0)) for step in (20, 30)] == [False, True]


def test_higher_can_be_better_and_no_number_never_is(tmp_path):
    watch = HeldoutWatch(tmp_path, "pref/heldout_accuracy", True, patience=1, every=5)
    assert not watch.note(0, math.nan, weights(0.0))
    assert not watch.note(5, 0.5, weights(5.0))
    assert watch.note(10, math.nan, weights(10.0))
    assert watch.best() == Best(5, 0.5)
