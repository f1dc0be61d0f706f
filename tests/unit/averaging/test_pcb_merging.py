import pytest
import torch

from posttrain.averaging import pcb_merging
from posttrain.averaging._vectors import task_vectors
from posttrain.averaging.pcb_merging import Config, Survey, balanced, merge, survey

CONFIG = Config(ratio=0.5, tails=0.0)  # as in the worked example: no tails, half of the entries


def test_scores(two_tasks):
    # minmax(|τ|)²: ((0.2 - 0.05)/0.35)² = 0.183673, ...; times exp(2·) and tanh(τ·Στ)
    bounds = (Survey(0.05, 0.4), Survey(0.01, 0.6))
    first, second = balanced(task_vectors(two_tasks()), bounds)
    assert first.tolist() == pytest.approx([1.740091, -0.115266, 0.002, 0.16626], abs=1e-5)
    assert second.tolist() == pytest.approx([0.146954, 1.740091, -0.0004, -0.02095], abs=1e-5)


def test_a_survey_of_all_tensors(two_tasks):
    first, second = survey(lambda: iter([two_tasks()]), CONFIG)
    assert (first.low, first.high) == pytest.approx((0.05, 0.4))
    assert (first.threshold, first.largest) == pytest.approx((0.16626, 1.740091), abs=1e-5)
    assert (second.threshold, second.largest) == pytest.approx((0.146954, 1.740091), abs=1e-5)


def test_two_tasks(two_tasks):
    # s = [1, 0, 0, 0] and [0, 1, 0, 0]: 1 + 1.2·0.4, 1 + 1.2·0.6, nothing, nothing
    found = survey(lambda: iter([two_tasks()]), CONFIG)
    merged = merge(two_tasks(found=found), CONFIG)
    assert merged.tolist() == pytest.approx([1.48, 1.72, 1.0, 1.0], abs=1e-5)


def test_the_survey_is_of_the_whole_model(versions, two_tasks):
    """The same entries, spread over two tensors."""
    whole = two_tasks()
    halves = [
        versions(*(model[part] for model in whole.models), pre=whole.pre[part])
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert survey(lambda: iter(halves), CONFIG) == survey(lambda: iter([whole]), CONFIG)


def test_tails_are_held_to_the_quantiles(versions):
    model = torch.cat([torch.arange(1.0, 101.0), torch.tensor([1e6])])
    found = survey(lambda: iter([versions(model, pre=torch.zeros(101))]), Config(tails=0.02))
    assert (found[0].low, found[0].high) == (3.0, 99.0)  # ranks 2 and 98 of 0..100


def test_models_that_did_not_change_leave_the_base(versions):
    same = versions([1.0, 2.0], [1.0, 2.0], pre=[1.0, 2.0])
    found = survey(lambda: iter([same]), Config())
    still = versions([1.0, 2.0], [1.0, 2.0], pre=[1.0, 2.0], found=found)
    assert merge(still, Config()).tolist() == [1.0, 2.0]


def test_a_survey_is_needed(two_tasks):
    with pytest.raises(ValueError, match="needs its survey"):
        pcb_merging.merge(two_tasks(), CONFIG)
