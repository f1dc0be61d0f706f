"""Packed attention equals padded attention: logits and gradients, full and sliding, with GQA."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from posttrain.model.attention import (
    PACKED,
    make_buckets,
    make_plan,
    packed_mask,
    register_packed_attention,
)

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
HEAVY_TAIL = [1, 150, 7, 7, 60, 2, 33, 1, 40, 5]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    register_packed_attention()


def llama():
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


def mistral(window):
    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=window))


def run_packed(model, sequences, kwargs=("position_ids", "cu_seq_lens_q")):
    positions = torch.cat([torch.arange(len(s)) for s in sequences])[None]
    bounds = torch.tensor([0, *[len(s) for s in sequences]]).cumsum(0)
    given = {"position_ids": positions, "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
    chosen = {name: value for name, value in given.items() if name in kwargs}
    model.set_attn_implementation(PACKED)
    return model(input_ids=torch.cat(sequences)[None], use_cache=False, **chosen).logits[0]


def run_one_by_one(model, sequences):
    model.set_attn_implementation("eager")
    return torch.cat([model(input_ids=s[None], use_cache=False).logits[0] for s in sequences])


def gradients(model, logits, weights):
    model.zero_grad()
    (logits * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("lengths", [[5], [6, 6, 6], HEAVY_TAIL, list(range(1, 21))])
@pytest.mark.parametrize("make", [llama, lambda: mistral(4), lambda: mistral(1000)])
def test_packed_equals_each_sequence_alone(make, lengths):
    model = make()
    sequences = [torch.randint(0, 50, (n,)) for n in lengths]
    weights = torch.randn(sum(lengths), 50)
    packed = run_packed(model, sequences)
    packed_gradients = gradients(model, packed, weights)
    alone = run_one_by_one(model, sequences)
    alone_gradients = gradients(model, alone, weights)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
    for name, expected in alone_gradients.items():
        scale = expected.abs().max().clamp(min=1.0)
        torch.testing.assert_close(
            packed_gradients[name] / scale, expected / scale, atol=1e-5, rtol=0
        )


def test_positions_alone_mark_the_boundaries():
    model = llama()
    sequences = [torch.randint(0, 50, (n,)) for n in HEAVY_TAIL]
    both = run_packed(model, sequences)
    only_positions = run_packed(model, sequences, kwargs=("position_ids",))
    assert torch.equal(both, only_positions)


def test_padded_batches_and_generation_go_to_sdpa():
    model = llama()
    ids = torch.randint(3, 50, (2, 6))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])  # left padded
    model.set_attn_implementation("sdpa")
    expected = model(input_ids=ids, attention_mask=mask).logits
    answer = model.generate(ids[1:], max_new_tokens=5, do_sample=False)
    model.set_attn_implementation(PACKED)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected)
    assert model.generate(ids[1:], max_new_tokens=5, do_sample=False).tolist() == answer.tolist()


def test_no_mask_is_made_for_packed_rows_only():
    assert packed_mask(1, 9, 9) is None
    assert packed_mask(2, 3, 3, attention_mask=torch.tensor([[0, 1, 1], [1, 1, 1]])) is not None


def test_buckets_longest_first_with_little_padding():
    # 900 and 880 waste 20 of 1800 tokens; 4 would waste 896 more: a bucket of its own, with 3
    assert make_buckets([3, 900, 4, 880]) == [[1, 3], [2, 0]]
    assert make_buckets([20] * 256) == [list(range(256))]
    assert make_buckets([]) == []


def test_padding_stays_under_a_quarter_on_a_heavy_tail():
    lengths = [int(8 * (256 / (256 - i)) ** 1.1) for i in range(256)]  # 8 ... 3565
    slots = sum(rows * width for rows, width in make_plan(lengths).buckets)
    assert sum(lengths) / slots > 0.75
    assert len(make_plan(lengths).buckets) <= 12


def test_plan_literal():
    # sequences a b c | d e | f in one bucket of 3 rows x 3: a b c / d e (e) / f (f) (f)
    plan = make_plan([3, 2, 1])
    assert plan.buckets == ((3, 3),)
    assert plan.slot_token_P.tolist() == [0, 1, 2, 3, 4, 4, 5, 5, 5]
    assert plan.token_slot_T.tolist() == [0, 1, 2, 3, 4, 6]
    assert plan.padding_slots.tolist() == [5, 7, 8]
