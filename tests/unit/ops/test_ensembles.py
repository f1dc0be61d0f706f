import pytest
import torch

from posttrain.ops import ensembles

A = [1.0, 1.2, 0.8, 1.1, 0.9]  # members agree: mean 1.0, variance .02
B = [2.0, 1.8, 0.2, 2.2, 1.3]  # one does not: mean 1.5, variance .512
SCORES = torch.tensor([A, B], dtype=torch.float64).T  # [M, B]


@pytest.mark.parametrize(
    ("combine", "weight", "expected"),
    [
        ("mean", 0.5, [1.0, 1.5]),
        ("wco", 0.5, [0.8, 0.2]),
        ("uwo", 0.5, [0.99, 1.244]),
        ("uwo", 0.1, [0.998, 1.4488]),
    ],
)
def test_worked_numbers(combine, weight, expected):
    assert ensembles.combined(SCORES, combine, weight).tolist() == pytest.approx(expected)


def test_only_the_worst_case_prefers_the_answer_that_all_agree_on():
    best = {c: int(ensembles.combined(SCORES, c).argmax()) for c in ("mean", "uwo", "wco")}
    assert best == {"mean": 1, "uwo": 1, "wco": 0}


def test_members_are_standardised_each_by_its_own_numbers():
    raw = torch.tensor([[10.0, 12.0], [-3.0, -1.0]])
    found = ensembles.standardised(raw, torch.tensor([10.0, -2.0]), torch.tensor([2.0, 0.5]))
    assert found.tolist() == [[0.0, 1.0], [-2.0, 2.0]]
    with pytest.raises(ValueError, match="never differ"):
        ensembles.standardised(raw, torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="2 members"):
        ensembles.standardised(raw, torch.zeros(3), torch.ones(3))


def test_an_offset_of_one_member_changes_nothing_once_standardised():
    raw = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shifted = raw * torch.tensor([[1.0], [5.0], [0.2]]) + torch.tensor([[0.0], [100.0], [-7.0]])
    for combine in ("mean", "wco", "uwo"):
        one, other = (
            ensembles.combined(
                ensembles.standardised(s, s.mean(dim=1), s.std(dim=1, unbiased=False)), combine
            )
            for s in (raw, shifted)
        )
        assert torch.allclose(one, other)


def test_disagreement_is_the_population_deviation():
    assert ensembles.disagreement(SCORES).tolist() == pytest.approx([0.02**0.5, 0.512**0.5])
    assert ensembles.disagreement(torch.tensor([[1.0, 2.0]])).tolist() == [0.0, 0.0]


def test_agreement_is_counted_over_pairs_of_members():
    margins = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, -2.0]])
    # first comparison: all three pairs agree; second: one of three
    assert ensembles.pair_agreement(margins) == pytest.approx(4 / 6)
    assert ensembles.pair_agreement(margins[:1]) == 1.0


def test_nothing_is_no_ensemble():
    with pytest.raises(ValueError, match="one member or more"):
        ensembles.combined(torch.zeros(0, 3), "mean")
    with pytest.raises(ValueError, match="no way to combine 'max'"):
        ensembles.combined(SCORES, "max")
