"""Learning under constraints: which answers of a prompt to learn from, and how much a reward counts
as the policy leaves its reference (CGPO: Xu et al. 2024, arXiv 2409.20370, section 4).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from posttrain.ops.baselines import check_groups
from posttrain.ops.checks import check_floating, check_rank, check_same_shape


def kl_factor(log_ratios_GK: Tensor, kl_max: float) -> Tensor:
    """[G, K] clip(1 - log(π/π_ref)/KL_max, 0, 1), log-ratios summed over an answer, in nats.

    An answer that the policy finds less likely than the reference does would get more than 1, a
    premium for the noise of a single sample: it gets 1.
    """
    check_rank(2, log_ratios_GK=log_ratios_GK)
    check_floating(log_ratios_GK=log_ratios_GK)
    return (1.0 - log_ratios_GK / kl_max).clamp(0.0, 1.0)


def best(values_GK: Tensor, allowed_GK: Tensor) -> Tensor:
    """[G, K] bool: True at the group's highest value among the allowed, of equal ones at the first;
    nowhere in a group in which none is allowed.
    """
    check_rank(2, values_GK=values_GK)
    check_floating(values_GK=values_GK)
    check_same_shape(values_GK=values_GK, allowed_GK=allowed_GK)
    first_G1 = values_GK.masked_fill(~allowed_GK, -math.inf).argmax(dim=1, keepdim=True)
    return torch.zeros_like(allowed_GK).scatter(1, first_G1, True) & allowed_GK


def pair(rewards_GK: Tensor, violations_GK: Tensor) -> tuple[Tensor, Tensor]:
    """([G, K], [G, K]) bool: True at the answer to prefer, and at the one to avoid.

    To prefer: the highest reward that violates nothing. To avoid: the lowest reward among those
    that violate something, of equal ones that with the most `violations_GK` (counts); where none
    does, the lowest reward, if it is lower. A group without both has neither. ValueError for groups
    of one.
    """
    check_groups(rewards_GK)
    satisfies_GK = violations_GK == 0
    preferred_GK = best(rewards_GK, satisfies_GK)
    violated_G1 = (~satisfies_GK).any(dim=1, keepdim=True)
    candidates_GK = torch.where(violated_G1, ~satisfies_GK, satisfies_GK)
    lowest_G1 = rewards_GK.masked_fill(~candidates_GK, math.inf).amin(dim=1, keepdim=True)
    avoided_GK = best(violations_GK, candidates_GK & (rewards_GK == lowest_G1))
    differs_G1 = violated_G1 | (rewards_GK > lowest_G1).any(dim=1, keepdim=True)
    is_pair_G1 = preferred_GK.any(dim=1, keepdim=True) & differs_G1
    return preferred_GK & is_pair_G1, avoided_GK & is_pair_G1
