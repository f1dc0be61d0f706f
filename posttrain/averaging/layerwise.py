"""Layer-wise adaptive model averaging (AMA): a share of `pre` for each part of the layers.

    θ^[k] = w_k · θ_pre^[k] + (1 - w_k) · θ_post^[k],     (1/K) Σ_k w_k = w = `weight_pre`
    min over s:  -mean log π_θ(answer token)  +  c · Σ_linear |w_k - w|
    ŵ_k = σ(s_k) + ε,   w_k = w · K · ŵ_k / Σ_j ŵ_j

Lin et al., *Mitigating the Alignment Tax of RLHF*, arXiv 2309.06256, in the form of the authors'
program (the paper's text lacks the factor K). The answers are the trained policy's own: among all
averages with the same mean share, the one is found that loses least of what training taught. Their
likelihood alone would always choose w = 0, so it is the fixed mean that makes this a method.

Only the s_k are trained. All tensors of a layer take its part's share; what is outside the layers
(embeddings, last norm, output head) takes w, while searching and in the result, so that the model
searched is the model written; the authors search with the linear maps only. Layers are cut into K
parts of as even lengths as can be. Assumes all models in memory for the search. A w_k above 1,
which large K·w allow, is held to 1 and the others share the rest: merely cut, it would let the mean
fall to where the likelihood pulls. Degenerate case: w of 0 and 1 leave nothing to choose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from posttrain import ops
from posttrain.averaging._search import batches, in_order, with_answers
from posttrain.averaging._vectors import base, mixed
from posttrain.config.strict import StrictModel
from posttrain.errors import InputError, Problem
from posttrain.ports import (
    Answered,
    AveragingNeeds,
    Coefficients,
    CoefficientSearch,
    TensorVersions,
)

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = AveragingNeeds(pair=True, answers=True)
OUTSIDE = "outside"  # the part of what is in no layer


class Config(StrictModel):
    """Settings of AMA, beside the stage's `weight_pre`, which is the mean share."""

    parts: int = Field(default=3, gt=0)
    """K: parts of the layers that get a share each. More than 3 fit the answers, not the task."""
    spread: float = Field(default=0.2, ge=0)
    """ε: the larger, the closer the shares stay to one another."""
    evenness: float = Field(default=1e-4, ge=0)
    """c: price of a share that differs from the mean, per linear map, in nats per token."""
    lr: float = Field(default=0.02, gt=0)
    """Adam's learning rate for the s_k. The authors' 2e-5 hardly moves them in a thousand steps."""
    epochs: int = Field(default=1, gt=0)
    """Passes over the answers."""
    batch_answers: int = Field(default=4, gt=0)
    """Answers per step."""


def merge(versions: TensorVersions, config: Config) -> Tensor:
    """`versions.found` is what `coefficients` returned. Raises ValueError without it."""
    if versions.found is None:
        raise ValueError("layer-wise averaging needs its coefficients before it merges")
    column = versions.num_layers if versions.layer is None else versions.layer
    weight_pre = 1.0 - versions.found.shares[0][column]
    return mixed(base(versions), versions.models[0], weight_pre)


def part(layer: int | None, num_layers: int, config: Config) -> str:
    """0 at the bottom to K - 1 at the top, or `outside`."""
    return OUTSIDE if layer is None else str(part_of_layers(num_layers, config.parts)[layer])


def part_of_layers(num_layers: int, parts: int) -> tuple[int, ...]:
    """The part of each layer, in parts as even as can be: 32 layers make 11, 10 and 11.

    Raises InputError (`bad-value`) where there are more parts than layers.
    """
    if parts > num_layers:
        message = f"`parts` is {parts}, the models have {num_layers} layers"
        raise InputError(Problem("bad-value", message, "method", help=f"parts: {num_layers}"))
    bounds = [(2 * num_layers * k + parts) // (2 * parts) for k in range(1, parts)]
    return tuple(sum(bound <= layer for bound in bounds) for layer in range(num_layers))


def constrained(logits_K: Tensor, weight_pre: float, spread: float) -> Tensor:
    """[K] shares w_k of the free s_k, in [0, 1], whose mean is `weight_pre`."""
    raw_K = logits_K.sigmoid() + spread
    full_K = raw_K.new_zeros(raw_K.shape).bool()  # held to 1; the others share what is left
    while True:
        left = weight_pre * raw_K.numel() - full_K.sum()
        weights_K = (raw_K * left / (raw_K * ~full_K).sum()).where(~full_K, 1.0)
        over_K = (weights_K > 1.0) & ~full_K
        if not bool(over_K.any()) or bool((full_K | over_K).all()):
            return weights_K.clamp(0.0, 1.0)
        full_K = full_K | over_K


def unevenness(weights_K: Tensor, weight_pre: float, linear_K: Sequence[int]) -> Tensor:
    """Σ over linear maps of |w_k - w|; `linear_K` counts the maps of each part."""
    return (weights_K.new_tensor(linear_K) * (weights_K - weight_pre).abs()).sum()


def coefficients(search: CoefficientSearch, config: Config) -> Coefficients:
    """Find the shares. Raises InputError without answers, and for more parts than layers."""
    import torch

    sequences = with_answers(search.sequences)
    parts = part_of_layers(len(search.linear_layers), config.parts)
    linear_K = [0] * config.parts
    for layer, count in enumerate(search.linear_layers):
        linear_K[parts[layer]] += count
    start = min(max(search.weight_pre, 0.01), 0.99)
    logits_K = torch.full((config.parts,), math.log(start / (1.0 - start)), requires_grad=True)
    optimiser = torch.optim.Adam([logits_K], lr=config.lr)
    steps = config.epochs * math.ceil(len(sequences) / config.batch_answers)
    trajectory: list[Mapping[str, float]] = []
    for batch in batches(sequences, config.batch_answers, steps, search.seed):
        weights_K = constrained(logits_K, search.weight_pre, config.spread)
        nll, count = _nll(search, weights_K, parts, batch)
        price = config.evenness * unevenness(weights_K, search.weight_pre, linear_K)
        trajectory.append(_metrics(weights_K, float(nll.detach()) / count))
        optimiser.zero_grad()
        (nll / count + price).backward()
        optimiser.step()
    with torch.no_grad():
        weights_K = constrained(logits_K, search.weight_pre, config.spread)
        found = [
            _nll(search, weights_K, parts, b) for b in in_order(sequences, config.batch_answers)
        ]
    mean = sum(float(nll) for nll, _ in found) / sum(count for _, count in found)
    trajectory.append(_metrics(weights_K, mean))
    shares = _shares(weights_K, parts, search.weight_pre)
    return Coefficients((tuple(shares[0].tolist()),), tuple(trajectory))


def _nll(
    search: CoefficientSearch, weights_K: Tensor, parts: Sequence[int], batch: Sequence[Answered]
) -> tuple[Tensor, int]:
    """(nats summed over the answers' tokens, number of these)."""
    logits_NV, tokens_N = search.logits(_shares(weights_K, parts, search.weight_pre), batch)
    logprobs_N = ops.logprobs.selected_logprobs(logits_NV, tokens_N)
    return -logprobs_N.sum(), tokens_N.numel()


def _shares(weights_K: Tensor, parts: Sequence[int], weight_pre: float) -> Tensor:
    """[1, layers + 1]: shares of `post`."""
    import torch

    outside = weights_K.new_tensor([weight_pre])
    return 1.0 - torch.cat([weights_K[list(parts)], outside])[None]


def _metrics(weights_K: Tensor, nll: float) -> dict[str, float]:
    weights = weights_K.detach().tolist()
    return {f"average/weight_pre/{part}": weight for part, weight in enumerate(weights)} | {
        "average/proxy_nll": nll
    }
