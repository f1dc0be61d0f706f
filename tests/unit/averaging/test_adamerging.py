import pytest
import torch

from posttrain.averaging.adamerging import Config, coefficients, mean_entropy, merge
from posttrain.errors import InputError
from posttrain.ports import Coefficients, CoefficientSearch

SEQUENCES = (((1,), (0, 0)),) * 20


def test_entropies():
    # -0.7·ln 0.7 - 0.2·ln 0.2 - 0.1·ln 0.1, and -0.9·ln 0.9 - 2·0.05·ln 0.05
    first, second = torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.9, 0.05, 0.05]]).log()
    assert mean_entropy(first).item() == pytest.approx(0.801819, abs=1e-5)
    assert mean_entropy(second).item() == pytest.approx(0.394398, abs=1e-5)
    both = mean_entropy(torch.cat([first, second])).item()
    assert both == pytest.approx((0.801819 + 0.394398) / 2, abs=1e-5)


def test_merging_by_layer(versions):
    found = Coefficients(((0.5, 1.0), (0.25, 0.0)))

    def merged(layer):
        two = versions([3.0], [2.0], pre=[1.0], layer=layer, num_layers=1, found=found)
        return merge(two, Config()).item()

    assert merged(0) == 2.25  # 1 + 0.5·(3 - 1) + 0.25·(2 - 1)
    assert merged(None) == 3.0


def test_merging_needs_coefficients(versions):
    with pytest.raises(ValueError, match="needs its coefficients"):
        merge(versions([3.0], pre=[1.0]), Config())


def search(sequences=SEQUENCES):
    """Two models of one layer: more of the first makes the model sure, more of the second not."""

    def logits(shares_ML, batch):
        count = sum(len(answer) for _, answer in batch)
        sure = 4.0 * shares_ML[0, 0] - 4.0 * shares_ML[1, 0] + 1.0
        row = torch.stack([sure, torch.zeros(())])
        return row.expand(count, 2), torch.zeros(count, dtype=torch.long)

    return CoefficientSearch(logits, 2, (7,), sequences, seed=0)


def test_coefficients_move_to_where_the_model_is_sure():
    found = coefficients(search(), Config(lr=0.05, steps=30))
    (sure, outside), (unsure, _) = found.shares
    assert sure == 1.0 and unsure == 0.0  # clamped
    assert outside == pytest.approx(0.3)  # nothing depends on it
    entropies = [row["average/entropy"] for row in found.trajectory]
    assert len(entropies) == 30 and entropies[-1] < entropies[0]


def test_the_first_step_is_adams():
    # Adam's first step is the learning rate, whatever the gradient
    found = coefficients(search(), Config(steps=1))
    assert found.shares[0][0] == pytest.approx(0.301, abs=1e-5)
    assert found.shares[1][0] == pytest.approx(0.299, abs=1e-5)


def test_answers_are_needed():
    with pytest.raises(InputError, match="no answers"):
        coefficients(search(()), Config())
