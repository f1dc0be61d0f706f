"""SAPO: soft adaptive policy optimisation (Gao et al. 2025, arXiv 2511.20347).

    A_i  = (r_i - mean(r)) / (std(r) + 1e-6)        over the K samples of one prompt
    L_t  = -A · (4/τ) · σ(τ·(w_t - 1)),   w_t = π(y_t) / π_old(y_t),   τ by the sign of A
    L    = mean over answers of the mean over their tokens

Where PPO's clip ends a token's gradient at an edge, the gate lets it fade: its slope in w is 1 at
w = 1 and goes to 0 on both sides. Bad tokens fade sooner (a larger τ), because pushing one token
down pushes all others up a little, most of them for no reason.

Assumes K >= 2. Degenerate case: equal rewards give A = 0. On fresh answers the gradient is GRPO's,
and the loss's value about twice GRPO's.

The paper's settings: τ 1.0 for good tokens, 1.05 for bad ones, no KL.
"""

from __future__ import annotations

from pydantic import Field

from posttrain import ops
from posttrain.algorithms._rewards import rewards_less_kl
from posttrain.algorithms._terms import aggregate, kl_term, share, token_ratio
from posttrain.config.policy_gradient import Aggregation, PolicyGradientConfig
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

NEEDS = Needs(groups=True)


class Config(PolicyGradientConfig):
    """Settings of SAPO."""

    temperature_good: float = Field(default=1.0, gt=0)
    """τ of tokens with a positive advantage: the higher, the sooner their gradient fades."""
    temperature_bad: float = Field(default=1.05, gt=0)
    """τ of the other tokens."""
    aggregation: Aggregation = "seq-mean-token-mean"
    """How token losses become one number; the paper weighs every answer the same."""


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """[T] each answer's advantage on each of its tokens. Raises ValueError for groups of one."""
    advantages_GK = ops.baselines.group_advantages(rewards_less_kl(inputs), "std")
    return Advantages(ops.baselines.over_tokens(advantages_GK, inputs.lengths_B).detach())


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """The gated surrogate, and the KL term where β is above 0."""
    ratio_T = token_ratio(inputs)
    loss_T = ops.surrogates.soft_gated(
        ratio_T, inputs.advantages_T, config.temperature_good, config.temperature_bad
    )
    metrics = {"policy/ratio_mean": share(ratio_T.detach(), inputs)}
    policy = aggregate(loss_T, inputs, config)
    return LossTerms(policy=policy, kl=kl_term(inputs, config), metrics=metrics)
