"""Changes to the scores of whole answers, before any baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_rank, check_same_shape


def overlong_punishment(lengths_B: Tensor, limit: int, buffer: int) -> Tensor:
    """[B] from 0 down to -1 over the last `buffer` tokens before `limit` (DAPO, 2503.14476).

        0                                 up to limit - buffer tokens
        (limit - buffer - length)/buffer  from there to the limit
        -1                                beyond

    ValueError for a buffer that is not between 1 and the limit.
    """
    check_rank(1, lengths_B=lengths_B)
    if not 1 <= buffer <= limit:
        raise ValueError(f"a buffer of {buffer} tokens does not lie between 1 and {limit}")
    return ((limit - buffer - lengths_B).float() / buffer).clamp(-1.0, 0.0)


def unfinished(
    scores_B: Tensor, cut_B: Tensor, penalty: float = 0.0, instead: float | None = None
) -> Tensor:
    """[B] scores in which answers that hit the token limit lose `penalty`, or count `instead`.

    Subtracting is TRL's missing_eos_penalty; replacing, whether the answer was right or not, is
    Tülu 3's (arXiv 2411.15124).
    """
    check_same_shape(scores_B=scores_B, cut_B=cut_B)
    check_floating(scores_B=scores_B)
    if instead is not None:
        return torch.where(cut_B, torch.full_like(scores_B, instead), scores_B)
    return scores_B - penalty * cut_B.to(scores_B.dtype)
