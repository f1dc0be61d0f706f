"""What comparisons cost: pure functions from log-probs of two answers to a loss per pair.

Notation, as in the papers: w is the chosen answer, l the rejected one; `margin_B` is
Δ = [log π(w) - log π_ref(w)] - [log π(l) - log π_ref(l)] in nats, log-probs summed over an answer;
a mean log-prob is such a sum over the number of the answer's tokens. All are per pair: [B].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.ops.checks import check_floating, check_rank


def dpo(margin_B: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """[B] DPO, -log σ(βΔ) (Rafailov et al. 2023, arXiv 2305.18290, eq. 7).

    With `label_smoothing` e conservative DPO, (1 - e)·(-log σ(βΔ)) + e·(-log σ(-βΔ)) (Mitchell
    2023): what it aims at is a margin of logit(1 - e) / β, not an endless one.
    """
    _check(margin_B=margin_B)
    right_B, wrong_B = -logsigmoid(beta * margin_B), -logsigmoid(-beta * margin_B)
    return (1.0 - label_smoothing) * right_B + label_smoothing * wrong_B


def simpo(mean_w_B: Tensor, mean_l_B: Tensor, beta: float, margin: float) -> Tensor:
    """[B] SimPO, -log σ(β(a_w - a_l) - γ), of mean log-probs (Meng et al. 2024, arXiv 2405.14734,
    eq. 6). `margin` is γ. No reference.
    """
    _check(mean_w_B=mean_w_B, mean_l_B=mean_l_B)
    return -logsigmoid(beta * (mean_w_B - mean_l_B) - margin)


def orpo(mean_w_B: Tensor, mean_l_B: Tensor, weight: float) -> Tensor:
    """[B] ORPO, -a_w - λ·log σ(log odds(w) - log odds(l)), odds = p / (1 - p) with p = exp(a)
    (Hong et al. 2024, arXiv 2403.07691, eq. 6 and 7). `weight` is λ. No reference.

    Degenerate: a mean log-prob of 0, an answer that is certain, has endless odds; it is held just
    below.
    """
    _check(mean_w_B=mean_w_B, mean_l_B=mean_l_B)
    odds_B = _log_odds(mean_w_B) - _log_odds(mean_l_B)
    return -mean_w_B - weight * logsigmoid(odds_B)


def kto(
    ratio_w_B: Tensor,
    ratio_l_B: Tensor,
    baseline: Tensor,
    beta: float,
    weight_w: float = 1.0,
    weight_l: float = 1.0,
) -> Tensor:
    """[B] KTO of a chosen and a rejected answer: λ_w(1 - σ(β(r_w - z))) + λ_l(1 - σ(β(z - r_l))),
    halved (Ethayarajh et al. 2024, arXiv 2402.01306, section 4).

    r are log-ratios to the reference; `baseline` is z, an estimate of the KL without gradient (see
    `kto_baseline`). Halved, because a pair is two examples there.
    """
    _check(ratio_w_B=ratio_w_B, ratio_l_B=ratio_l_B)
    loss_w_B = weight_w * (1.0 - torch.sigmoid(beta * (ratio_w_B - baseline)))
    loss_l_B = weight_l * (1.0 - torch.sigmoid(beta * (baseline - ratio_l_B)))
    return 0.5 * (loss_w_B + loss_l_B)


def kto_judged(
    ratio_B: Tensor, good_B: Tensor, baseline: Tensor, beta: float, weight_B: Tensor
) -> Tensor:
    """[B] KTO of single answers: λ(1 - σ(β(r - z))) of a good one, λ(1 - σ(β(z - r))) of a bad one
    (Ethayarajh et al. 2024, arXiv 2402.01306, eq. 7). `weight_B` is λ of each; z as in `kto`.
    """
    _check(ratio_B=ratio_B, weight_B=weight_B)
    sign_B = torch.where(good_B, 1.0, -1.0)
    return weight_B * (1.0 - torch.sigmoid(beta * sign_B * (ratio_B - baseline)))


def label_weights(num_good: int, num_bad: int) -> tuple[float, float]:
    """(of a good answer, of a bad one): 1 for those that there are more of, and for the others as
    much as makes both count alike in sum. Both are 1 where there are none of a kind.

    Example: label_weights(100, 300) is (3.0, 1.0).
    """
    if not num_good or not num_bad:
        return 1.0, 1.0
    return max(1.0, num_bad / num_good), max(1.0, num_good / num_bad)


def good_above_bad(ratio_N: Tensor, good_N: Tensor) -> float:
    """How often a good answer has the larger value of the two, over all pairs of a good and a bad
    one; a tie is half (the area under the ROC curve). 1/2 where there are none of a kind.
    """
    _check(ratio_N=ratio_N)
    margins = ratio_N[good_N][:, None] - ratio_N[~good_N]
    return pairs_right(margins.flatten()) if margins.numel() else 0.5


def kto_baseline(ratio_mismatched_N: Tensor) -> Tensor:
    """[] z = max(0, mean log-ratio of answers after prompts that they do not belong to), over the
    whole batch (section 4).
    """
    _check(ratio_mismatched_N=ratio_mismatched_N)
    return ratio_mismatched_N.mean().clamp(min=0.0).detach()


def srpo(
    ratio_w_B: Tensor,
    ratio_l_B: Tensor,
    ratio_w_after_l_B: Tensor,
    ratio_l_after_w_B: Tensor,
    ratio_l_after_l_B: Tensor,
    ratio_w_after_w_B: Tensor,
    beta: float,
    revision_share: float,
) -> Tensor:
    """[B] SRPO: a policy and, in the same network, a reviser that is shown a draft (Choi et al.
    2024, arXiv 2406.01660). All arguments are log-ratios to the reference.

        L_π = (β/2·[r(w|l) - r(l|w) + r(w) - r(l)] - 1/2)²
        L_† = 1/2·{(β[r(w|l) - r(l|l)] - 1/2)² + (β[r(w|w) - r(l|w)] - 1/2)²}
        L   = (1 - s)·L_π + s·L_†

    `revision_share` is s. The sample form is derived from the two closed-form optima of the paper's
    min-max objective.
    """
    policy_B = beta / 2 * (ratio_w_after_l_B - ratio_l_after_w_B + ratio_w_B - ratio_l_B) - 0.5
    after_l_B = beta * (ratio_w_after_l_B - ratio_l_after_l_B) - 0.5
    after_w_B = beta * (ratio_w_after_w_B - ratio_l_after_w_B) - 0.5
    _check(policy_B=policy_B, after_l_B=after_l_B, after_w_B=after_w_B)
    revision_B = 0.5 * (after_l_B.square() + after_w_B.square())
    return (1.0 - revision_share) * policy_B.square() + revision_share * revision_B


def pairs_right(margins_B: Tensor) -> float:
    """Share of comparisons with a positive margin; one of 0 is right half the time."""
    _check(margins_B=margins_B)
    return float(_right(margins_B).mean())


def calibration_error(margins_B: Tensor, bins: int = 10) -> float:
    """Expected calibration error of a reward model on comparisons: by how much σ(margin), what it
    says of its being right, differs from how often it is, over equally wide bins of confidence
    weighted by their counts (Guo et al. 2017, arXiv 1706.04599, section 2).

    `margins_B`: chosen minus rejected score. The model's own pick counts, so confidence is 1/2 to
    1. A margin of 0 is right half the time.
    """
    _check(margins_B=margins_B)
    margins_B = margins_B.double()
    confidence_B = torch.sigmoid(margins_B.abs())
    right_B = _right(margins_B)
    bin_B = ((confidence_B - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_B, confidence_B - right_B)
    return float(gaps.abs().sum() / len(margins_B))


def _right(margins_B: Tensor) -> Tensor:
    return torch.where(margins_B == 0, 0.5, (margins_B > 0).double())


def _log_odds(mean_logprob_B: Tensor) -> Tensor:
    """[B] log p - log(1 - p); log(1 - p) by the form that keeps its digits (log1mexp)."""
    a_B = mean_logprob_B.clamp(max=-1e-6)
    near_zero_B = torch.log(-torch.expm1(a_B))
    far_B = torch.log1p(-torch.exp(a_B))
    return a_B - torch.where(a_B > -0.6931, near_zero_B, far_B)


def _check(**tensors: Tensor) -> None:
    check_rank(1, **tensors)
    check_floating(**tensors)
