"""RewardFusion: an answer's score is averaged over prompts that the reward model knows and that are
like the one that was asked.

    R(x, y) = Σᵢ sᵢ·R(xᵢ, y) / Σᵢ sᵢ

over x itself with s = 1 and the nearest prompts xᵢ of training, with their similarity to x as sᵢ
(Shen et al. 2023, arXiv 2309.16155). Degenerate: where no prompt of training is like it, the score
is that after x alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_rank


def fused(scores_MN: Tensor, similarity_N: Tensor, answer_N: Tensor, num_answers: int) -> Tensor:
    """[M, B] each member's fused scores of B answers.

    `scores_MN` are the members' scores of N sequences, each an answer after one of its prompts;
    `answer_N` says which answer, `similarity_N` how like the prompt is to the one asked. Raises
    ValueError where the similarities of an answer have no positive sum.
    """
    check_rank(2, scores_MN=scores_MN)
    check_rank(1, similarity_N=similarity_N, answer_N=answer_N)
    check_floating(scores_MN=scores_MN, similarity_N=similarity_N)
    similarity_N = similarity_N.to(scores_MN.dtype)
    totals_B = torch.zeros(num_answers, dtype=scores_MN.dtype)
    totals_B.index_add_(0, answer_N, similarity_N)
    if not bool((totals_B > 0).all()):
        raise ValueError("an answer needs a prompt, with a similarity above 0")
    sums_MB = torch.zeros(len(scores_MN), num_answers, dtype=scores_MN.dtype)
    sums_MB.index_add_(1, answer_N, scores_MN * similarity_N)
    return sums_MB / totals_B
