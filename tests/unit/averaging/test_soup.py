import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.averaging import soup

CONFIG = soup.Config()
NUMBERS = st.floats(-100, 100, width=32)


def test_uniform(versions):
    # ([1, 2] + [3, 0]) / 2
    assert soup.merge(versions([1.0, 2.0], [3.0, 0.0]), CONFIG).tolist() == [2.0, 1.0]


def test_weighted(versions):
    mixed = soup.merge(versions([1.0, 2.0], [3.0, 0.0], weights=(0.75, 0.25)), CONFIG)
    assert mixed.tolist() == [1.5, 1.5]  # 0.75·1 + 0.25·3, 0.75·2


@given(st.permutations([0, 1, 2]), st.lists(NUMBERS, min_size=6, max_size=6))
def test_the_order_of_models_changes_nothing(versions, order, numbers):
    models = torch.tensor(numbers).view(3, 2)
    same = soup.merge(versions(*models), CONFIG)
    other = soup.merge(versions(*models[list(order)]), CONFIG)
    assert torch.allclose(same, other, atol=1e-4)


def test_one_weight_of_1_is_that_model(versions):
    models = torch.randn(3, 5)
    mixed = soup.merge(versions(*models, weights=(0.0, 1.0, 0.0)), CONFIG)
    assert torch.equal(mixed, models[1])


def test_weights_that_do_not_sum_to_1(versions):
    with pytest.raises(ValueError, match=r"the weights of a soup sum to 0\.9, not to 1"):
        soup.merge(versions([1.0], [2.0], weights=(0.5, 0.4)), CONFIG)
    with pytest.raises(ValueError, match="3 weights for 2 models"):
        soup.merge(versions([1.0], [2.0], weights=(0.5, 0.25, 0.25)), CONFIG)


def test_greedy_takes_what_does_not_harm():
    scores = {
        (1, 3): 0.7,  # as good: kept
        (1, 3, 2): 0.6,  # worse: left out
        (1, 3, 0): 0.8,  # better, though it is the worst alone
    }
    asked = []

    def score(models):
        asked.append(models)
        return scores[models]

    assert list(soup.greedy([0.5, 0.7, 0.6, 0.65], score)) == [
        soup.Tried(1, (1,), 0.7, True),
        soup.Tried(3, (1, 3), 0.7, True),
        soup.Tried(2, (1, 3, 2), 0.6, False),
        soup.Tried(0, (1, 3, 0), 0.8, True),
    ]
    assert asked == list(scores)


def test_equal_models_are_tried_in_their_order():
    tried = soup.greedy([0.5, 0.5, 0.5], lambda models: 0.0)
    assert [(each.model, each.kept) for each in tried] == [(0, True), (1, False), (2, False)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.randoms())
def test_greedy_is_never_worse_than_the_best_model(alone, rng):
    tried = list(soup.greedy(alone, lambda models: rng.random()))
    kept = [each for each in tried if each.kept]
    assert kept[-1].score == max(each.score for each in kept) >= max(alone)
    assert sorted(each.model for each in tried) == list(range(len(alone)))
    assert set(kept[-1].soup) == {each.model for each in kept}


def test_greedy_of_one_and_of_none():
    assert list(soup.greedy([0.0], lambda _: 0.0)) == [soup.Tried(0, (0,), 0.0, True)]
    with pytest.raises(ValueError, match="at least one model"):
        list(soup.greedy([], lambda _: 0.0))
    with pytest.raises(ValueError, match="without a score"):
        list(soup.greedy([0.5, float("nan")], lambda _: 0.0))
