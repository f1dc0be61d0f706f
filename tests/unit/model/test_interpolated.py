"""A model between others: the same as one with merged weights, and right in its gradients."""

import pytest
import torch

from posttrain.model.interpolated import InterpolatedModel
from posttrain.model.load import load_model
from posttrain.model.micro import build_micro
from posttrain.model.packed import packed_forward

SEQUENCES = [((5, 6, 7), (8, 9)), ((), (10, 11, 12)), ((13,), (14,))]
TEXTS = [[*prompt, *answer] for prompt, answer in SEQUENCES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed in range(3):
        build_micro(folder / str(seed), seed)
    return [folder / str(seed) for seed in range(3)]


def between(folders, *numbers):
    pre, *others = (load_model(folders[number]) for number in numbers)
    return InterpolatedModel(pre, others)


def logprobs_of(model):
    """Of the answers' tokens; nothing stands before the second answer's first."""
    wanted = [0, 0, 0, 1, 1, 0, 1, 1, 0, 1]
    tokens = torch.tensor([token for text in TEXTS for token in text])
    lengths = [len(text) for text in TEXTS]
    with torch.no_grad():
        packed = packed_forward(model, tokens, lengths, wanted_T=torch.tensor(wanted).bool())
    return packed.logprobs_N


def logprobs_between(model, shares):
    with torch.no_grad():
        logits, tokens = model.logits(shares, SEQUENCES)
    assert tokens.tolist() == [8, 9, 11, 12, 14]
    return logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


@pytest.mark.parametrize(("share", "number"), [(0.0, 0), (1.0, 1)])
def test_at_the_ends_it_is_one_of_the_models(folders, share, number):
    found = logprobs_between(between(folders, 0, 1), torch.full((1, 4), share))
    assert torch.allclose(found, logprobs_of(load_model(folders[number])), atol=1e-4)


def test_layer_by_layer_it_is_the_merged_model(folders):
    shares = torch.tensor([[0.1, 0.5, 0.9, 0.3], [0.2, 0.0, 0.4, 0.1]])
    merged = load_model(folders[0])
    others = [dict(load_model(folder).named_parameters()) for folder in folders[1:]]
    column = {"0": 0, "1": 1, "2": 2}
    with torch.no_grad():
        for name, weight in merged.named_parameters():
            pre = weight.clone()
            place = column.get(name.split(".")[2], 3) if "layers" in name else 3
            for row, other in zip(shares, others, strict=True):
                weight += row[place] * (other[name] - pre)
    found = logprobs_between(between(folders, 0, 1, 2), shares)
    assert torch.allclose(found, logprobs_of(merged), atol=1e-4)


def test_gradients_are_slopes(folders):
    model = between(folders, 0, 1)
    shares = torch.tensor([[0.3, 0.4, 0.5, 0.6]], requires_grad=True)
    logits, tokens = model.logits(shares, SEQUENCES)
    torch.nn.functional.cross_entropy(logits, tokens).backward()
    for column in range(4):
        step = torch.zeros(1, 4)
        step[0, column] = 1e-2
        with torch.no_grad():
            up, down = (
                torch.nn.functional.cross_entropy(
                    model.logits(shares + side * step, SEQUENCES)[0], tokens
                )
                for side in (1, -1)
            )
        slope = (up - down) / 2e-2
        assert shares.grad[0, column].item() == pytest.approx(slope.item(), rel=0.05, abs=1e-3)


def test_linear_maps_are_counted(folders):
    assert between(folders, 0, 1).linear_layers == (7, 7, 7)


def test_shapes_are_checked(folders):
    with pytest.raises(ValueError, match=r"shares_ML is \(1, 3\), has to be \(1, 4\)"):
        between(folders, 0, 1).logits(torch.zeros(1, 3), SEQUENCES)
