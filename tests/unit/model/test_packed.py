"""packed_forward: the right tokens, the right numbers, with and without gradients."""

import math

import torch

from posttrain.model.load import load_model
from posttrain.model.micro import build_micro
from posttrain.model.packed import packed_forward


class Uniform(torch.nn.Module):
    """A model that finds every one of 4 tokens equally likely, token 0 at first."""

    def forward(self, input_ids, logits_to_keep, **kwargs):
        class Output:
            logits = torch.zeros(1, len(logits_to_keep), 4)

        Output.logits[..., 0] = math.log(2.0)
        return Output


def test_literal_numbers():
    # weights 2:1:1:1 -> token 0 has 2/5, the others 1/5; at temperature 0.5 they are squared: 4/7
    ids = torch.tensor([1, 0, 3, 2, 0])
    output = packed_forward(Uniform(), ids, [3, 2], entropy=True)
    logprobs, entropy = output.logprobs_N, output.entropies_N
    expected = [math.log(0.4), math.log(0.2), math.log(0.4)]
    torch.testing.assert_close(logprobs, torch.tensor(expected))
    nats = -(0.4 * math.log(0.4) + 3 * 0.2 * math.log(0.2))
    torch.testing.assert_close(entropy, torch.full((3,), nats))
    cold = packed_forward(Uniform(), ids, [3, 2], temperature=0.5).logprobs_N
    torch.testing.assert_close(
        cold, torch.tensor([math.log(4 / 7), math.log(1 / 7), math.log(4 / 7)])
    )


def test_only_wanted_tokens_and_never_a_first_one():
    ids = torch.tensor([0, 0, 3, 0, 1])
    wanted = torch.tensor([True, False, True, True, True])  # two firsts, which nothing precedes
    output = packed_forward(Uniform(), ids, [3, 2], wanted_T=wanted)
    logprobs, entropy = output.logprobs_N, output.entropies_N
    torch.testing.assert_close(logprobs, torch.tensor([math.log(0.2), math.log(0.2)]))
    assert entropy is None


def test_sequences_without_a_wanted_token_give_nothing():
    logprobs = packed_forward(Uniform(), torch.tensor([1, 2]), [1, 1]).logprobs_N
    assert logprobs.tolist() == []


def test_equals_each_sequence_alone_with_gradients(tmp_path):
    build_micro(tmp_path, seed=0)
    model = load_model(tmp_path)
    lengths = [9, 1, 30, 4]
    ids = torch.randint(3, 60, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    packed = packed_forward(model, ids, lengths, temperature=0.7).logprobs_N
    packed.sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    alone = []
    for sequence in ids.split(lengths):
        logits = model(input_ids=sequence[None], use_cache=False).logits[0, :-1] / 0.7
        alone.append(logits.log_softmax(-1).gather(-1, sequence[1:, None])[:, 0])
    expected = torch.cat(alone)
    expected.sum().backward()
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=0)
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max().clamp(min=1.0)
        torch.testing.assert_close(ours[name] / scale, parameter.grad / scale, atol=1e-5, rtol=0)
