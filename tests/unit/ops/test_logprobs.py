import math

import pytest
import torch

from posttrain.ops import logprobs


def test_selected_logprobs_of_two_tokens():
    # softmax([0, ln 3]) = [1/4, 3/4]; softmax([0, 0]) = [1/2, 1/2]
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    got = logprobs.selected_logprobs(logits, torch.tensor([1, 0]))
    assert got.tolist() == pytest.approx([-0.287682, -0.693147], abs=1e-6)


def test_temperature_divides_the_logits():
    # softmax([0, ln 9 / 2]) = [1/4, 3/4]
    logits = torch.tensor([[0.0, math.log(9.0)]])
    got = logprobs.selected_logprobs(logits, torch.tensor([0]), temperature=2.0)
    assert got.tolist() == pytest.approx([-1.386294], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_change_neither_values_nor_gradients(dtype, temperature):
    torch.manual_seed(0)
    base = torch.randn(7, 5).to(dtype)
    ids = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    results = []
    for chunk_tokens in (3, 100):
        logits = base.clone().requires_grad_()
        got = logprobs.selected_logprobs(logits, ids, temperature, chunk_tokens)
        (got * torch.arange(7.0)).sum().backward()
        results.append((got, logits.grad))
    full = torch.log_softmax(base.float() / temperature, -1).gather(1, ids[:, None])[:, 0]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=0, atol=0)
    torch.testing.assert_close(results[0][0], full)


def test_entropy_is_ln_2_for_a_coin_and_0_for_a_certainty():
    logits = torch.tensor([[1.0, 1.0], [0.0, 100.0]])
    assert logprobs.entropies(logits).tolist() == pytest.approx([0.693147, 0.0], abs=1e-6)


def test_empty_input_gives_empty_output():
    assert logprobs.selected_logprobs(torch.zeros(0, 4), torch.zeros(0).long()).tolist() == []


def test_wrong_shapes_and_temperatures_are_refused():
    with pytest.raises(ValueError, match="logits_rows has shape"):
        logprobs.selected_logprobs(torch.zeros(2, 4), torch.zeros(3).long())
    with pytest.raises(ValueError, match="temperature is 0"):
        logprobs.selected_logprobs(torch.zeros(2, 4), torch.zeros(2).long(), temperature=0)
    with pytest.raises(TypeError, match=r"logits_TV is torch\.int64"):
        logprobs.selected_logprobs(torch.zeros(2, 4).long(), torch.zeros(2).long())
