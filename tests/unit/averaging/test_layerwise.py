import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.averaging import layerwise
from posttrain.averaging.layerwise import (
    Config,
    coefficients,
    constrained,
    merge,
    part,
    part_of_layers,
    unevenness,
)
from posttrain.errors import InputError
from posttrain.ports import Coefficients, CoefficientSearch


def test_constrained_shares():
    # σ(s) + 0.2 = [0.774443, 0.577541, 0.931059]; times 0.2·3 / 2.283043
    weights = constrained(torch.tensor([0.3, -0.5, 1.0]), 0.2, 0.2)
    assert weights.tolist() == pytest.approx([0.203529, 0.151782, 0.244689], abs=1e-5)
    assert weights.mean().item() == pytest.approx(0.2, abs=1e-6)


def test_the_range_of_a_share():
    # ε 0.2, K 3, mean 0.2: 0.6·0.2/(0.2 + 2·1.2) to 0.6·1.2/(1.2 + 2·0.2)
    far = torch.tensor([-100.0, 100.0, 100.0])
    assert constrained(far, 0.2, 0.2)[0].item() == pytest.approx(0.046154, abs=1e-5)
    assert constrained(-far, 0.2, 0.2)[0].item() == pytest.approx(0.45, abs=1e-5)


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=6), st.floats(0, 1))
def test_shares_are_shares_and_keep_their_mean(logits, mean):
    weights = constrained(torch.tensor(logits), mean, 0.2)
    assert bool(((weights >= 0) & (weights <= 1)).all())
    assert weights.mean().item() == pytest.approx(mean, abs=1e-5)


def test_a_share_above_1_gives_to_the_others():
    # σ = [0.5, 0.5, 1.0], no spread: 0.8·3·[0.25, 0.25, 0.5] = [0.6, 0.6, 1.2]; 1.4 is left for two
    weights = constrained(torch.tensor([0.0, 0.0, 100.0]), 0.8, 0.0)
    assert weights.tolist() == pytest.approx([0.7, 0.7, 1.0], abs=1e-6)


def test_equal_logits_are_the_uniform_average():
    assert constrained(torch.full((4,), -1.386), 0.2, 0.2).tolist() == pytest.approx([0.2] * 4)


def test_unevenness_counts_every_linear_map():
    # 7·|0.1 - 0.2| + 14·|0.3 - 0.2|
    assert unevenness(torch.tensor([0.1, 0.3]), 0.2, [7, 14]).item() == pytest.approx(2.1)


@pytest.mark.parametrize(
    ("num_layers", "parts", "lengths"),
    [
        (32, 3, [11, 10, 11]),
        (24, 3, [8, 8, 8]),
        (28, 3, [9, 10, 9]),
        (3, 3, [1, 1, 1]),
        (5, 2, [3, 2]),
        (4, 1, [4]),
    ],
)
def test_parts_are_even(num_layers, parts, lengths):
    expected = [number for number, length in enumerate(lengths) for _ in range(length)]
    assert list(part_of_layers(num_layers, parts)) == expected


def test_more_parts_than_layers():
    with pytest.raises(InputError, match="`parts` is 4, the models have 3 layers"):
        part_of_layers(3, 4)


def test_names_of_parts():
    assert [part(layer, 6, Config()) for layer in (0, 2, 5, None)] == ["0", "1", "2", "outside"]


def test_merging_by_layer(versions):
    # θ_pre = 1, θ = 3, w as above: w + 3·(1 - w)
    shares = tuple(1.0 - each for each in (0.203529, 0.151782, 0.244689, 0.2))
    found = Coefficients((shares,))
    merged = [
        merge(versions([3.0], pre=[1.0], layer=layer, num_layers=3, found=found), Config()).item()
        for layer in (0, 1, 2, None)
    ]
    assert merged == pytest.approx([2.592942, 2.696436, 2.510622, 2.6], abs=1e-5)


def test_merging_needs_shares(versions):
    with pytest.raises(ValueError, match="needs its coefficients"):
        merge(versions([3.0], pre=[1.0]), Config())


def made_up_search(needed, weight_pre=0.2, sequences=(((1,), (0, 0)),) * 20):
    """A search over three layers in which token 0 is likelier the more of `post` the layers have
    that need it.
    """

    def logits(shares_ML, batch):
        count = sum(len(answer) for _, answer in batch)
        useful = (shares_ML[0, :3] * torch.tensor(needed)).sum()
        row = torch.stack([useful, torch.zeros(())])
        return row.expand(count, 2), torch.zeros(count, dtype=torch.long)

    return CoefficientSearch(logits, 1, (7, 7, 7), sequences, weight_pre, seed=0)


def test_layers_that_training_needs_keep_its_weights():
    found = coefficients(made_up_search([5.0, 0.0, 0.0]), Config(lr=0.2, epochs=10))
    low, middle, top, outside = (1.0 - share for share in found.shares[0])
    assert low < 0.12 and middle == pytest.approx(top, abs=0.02) and middle > 0.22
    assert (low + middle + top) / 3 == pytest.approx(0.2, abs=1e-5)
    assert outside == pytest.approx(0.2)
    first, last = found.trajectory[0], found.trajectory[-1]
    assert [first[f"average/weight_pre/{k}"] for k in range(3)] == pytest.approx([0.2] * 3)
    assert last["average/weight_pre/0"] == pytest.approx(low)
    # 5·0.8 = 4 at the start: log(1 + e⁻⁴)
    assert first["average/proxy_nll"] == pytest.approx(math.log1p(math.exp(-4.0)), abs=1e-6)
    assert last["average/proxy_nll"] < first["average/proxy_nll"]


def test_the_price_of_unevenness_holds_shares_together():
    free = coefficients(made_up_search([5.0, 0.0, 0.0]), Config(lr=0.2, epochs=5))
    held = coefficients(made_up_search([5.0, 0.0, 0.0]), Config(lr=0.2, epochs=5, evenness=1.0))
    assert abs(held.shares[0][0] - 0.8) < abs(free.shares[0][0] - 0.8)


@pytest.mark.parametrize("weight_pre", [0.0, 1.0])
def test_the_ends_leave_nothing_to_choose(weight_pre):
    found = coefficients(made_up_search([5.0, 1.0, 0.0], weight_pre), Config(lr=0.2))
    assert found.shares[0] == pytest.approx([1.0 - weight_pre] * 4)


def test_the_same_seed_finds_the_same():
    search = made_up_search([5.0, 1.0, 0.0])
    assert coefficients(search, Config()) == coefficients(search, Config())


def test_answers_are_needed():
    with pytest.raises(InputError, match="no answers to find coefficients on") as caught:
        coefficients(made_up_search([1.0, 1.0, 1.0], sequences=[((1,), ())]), Config())
    assert caught.value.problems[0].code == "empty-data"


def test_its_needs_are_declared():
    assert layerwise.NEEDS.pair and layerwise.NEEDS.answers
