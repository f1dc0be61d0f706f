import pytest
import torch

from posttrain.ops import fusion


def test_worked_number():
    # (1 · .4 + .95 · .8 + .92 · .1) / (1 + .95 + .92) = 1.252 / 2.87
    scores = torch.tensor([[0.4, 0.8, 0.1]], dtype=torch.float64)
    similarity = torch.tensor([1.0, 0.95, 0.92])
    found = fusion.fused(scores, similarity, torch.zeros(3, dtype=torch.long), 1)
    assert found.tolist() == [[pytest.approx(0.436237, abs=1e-6)]]


def test_each_answer_has_its_own_prompts_and_each_member_its_own_scores():
    scores = torch.tensor([[1.0, 2.0, 3.0, 5.0], [0.0, 4.0, -1.0, 1.0]], dtype=torch.float64)
    similarity = torch.tensor([1.0, 1.0, 1.0, 0.5])
    found = fusion.fused(scores, similarity, torch.tensor([1, 0, 1, 1]), 2)
    # second answer: (1 + 3 + .5 · 5) / 2.5 and (0 - 1 + .5 · 1) / 2.5
    assert found.tolist() == [[2.0, pytest.approx(2.6)], [4.0, pytest.approx(-0.2)]]


def test_an_answer_without_a_prompt_is_refused():
    with pytest.raises(ValueError, match="needs a prompt"):
        fusion.fused(torch.ones(1, 1), torch.ones(1), torch.tensor([0]), 2)
