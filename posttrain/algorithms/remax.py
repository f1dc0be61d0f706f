"""ReMax: REINFORCE with the greedy answer as baseline (Li et al. 2023, arXiv 2310.10505).

    Δ     = clip(r(y) - r(ȳ), -5, +5)               ȳ: the greedy answer of the same weights
    ret_t = γ^(n-t)·Δ - β·k1_t                      t = 0 … n-1 of the n tokens that were chosen
    L     = mean over all tokens of  -sg(w_t) · ret_t · log π(y_t)

r(ȳ) depends on the prompt and the weights, not on what was sampled, so the estimate stays unbiased
while most of its variance goes; there is no critic to train or to hold in memory. The baseline is
the bare reward of ȳ, without KL. `kl_mode: one_step` is the authors' form: a token pays for its own
KL only; `to_go` lets it pay for that of the tokens after it too, which is the KL's whole gradient.
γ counts from the end, and the last token already gets γ·Δ.

The authors take one step per batch on fresh answers: w = 1. On older answers, w is π/π_old, held to
`weight_max`: REINFORCE of those answers, with truncated importance sampling.

Degenerate cases: where sample and greedy answer score the same, Δ is 0 and only the KL teaches; the
share of those rises as entropy falls (`reward/greedy_tie_share`). A greedy answer that is cut off
makes the baseline too low.

The authors' runs: lr 1e-6, weight decay 0.1, cosine, β = 0.05, γ = 0.99, one sample per prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from posttrain import ops
from posttrain.algorithms._rewards import checked_rewards, kl_per_token
from posttrain.algorithms._terms import aggregate, kl_term, share, token_ratio
from posttrain.config.policy_gradient import PolicyGradientConfig
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = Needs(greedy=True, reference=True)


class Config(PolicyGradientConfig):
    """Settings of ReMax."""

    kl_in_reward: float = Field(default=0.05, ge=0.0)
    """β of the KL to the stage's starting model, taken off the reward token by token (k1)."""
    kl_mode: Literal["one_step", "to_go"] = "one_step"
    """Which KL a token pays for: its own, as the authors do, or also that of all tokens after
    it."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """How much less a token counts for each token that follows it; the authors' runs have 0.99."""
    clip_delta: float | None = Field(default=5.0, gt=0)
    """Most that a reward may differ from the greedy answer's; empty: as much as it does."""
    weight_max: float = Field(default=2.0, ge=1)
    """Most that a token of an older answer is weighed; fresh ones weigh 1."""


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """[T] what each token earned beyond the greedy answer, KL taken off."""
    greedy_G = _greedy_rewards(inputs)
    difference_GK = checked_rewards(inputs) - greedy_G[:, None]
    delta_GK = difference_GK
    if config.clip_delta is not None:
        delta_GK = difference_GK.clamp(-config.clip_delta, config.clip_delta)
    lengths_B, mask_T = inputs.lengths_B, inputs.mask_T
    left_T = ops.returns.to_go(mask_T.float(), lengths_B, mask_T)  # this token included
    earned_T = ops.baselines.over_tokens(delta_GK, lengths_B) * config.gamma**left_T
    kl_T = kl_per_token(inputs)
    if config.kl_mode == "to_go":
        kl_T = ops.returns.to_go(kl_T, lengths_B, mask_T, config.gamma)
    returns_T = (earned_T - inputs.kl_coefficient * kl_T).masked_fill(mask_T == 0, 0.0)
    metrics = {
        "reward/greedy_tie_share": float((difference_GK == 0).float().mean()),
        "reward/greedy_clip_share": float((difference_GK != delta_GK).float().mean()),
    }
    return Advantages(returns_T.detach(), metrics=metrics)


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """Log-probs weighed by what they earned, and the KL term where β is in the loss."""
    ratio_T = token_ratio(inputs).detach()
    loss_T = ops.surrogates.weighted_logprobs(
        inputs.logprobs_T.float(), ratio_T.clamp(max=config.weight_max), inputs.advantages_T
    )
    metrics = {
        "policy/ratio_mean": share(ratio_T, inputs),
        "policy/clip_high_share": share(ratio_T > config.weight_max, inputs),
    }
    policy = aggregate(loss_T, inputs, config)
    return LossTerms(policy=policy, kl=kl_term(inputs, config), metrics=metrics)


def _greedy_rewards(inputs: AdvantageInputs) -> Tensor:
    """[G] fp32."""
    greedy_G = inputs.greedy_rewards_G
    if greedy_G is None:
        raise ValueError("remax needs the reward of each prompt's greedy answer")
    if greedy_G.shape != inputs.rewards_GK.shape[:1]:
        raise ValueError(f"{greedy_G.numel()} greedy rewards, {len(inputs.rewards_GK)} prompts")
    if not greedy_G.isfinite().all():
        prompt = int((~greedy_G.isfinite()).nonzero()[0])
        raise ValueError(
            f"the reward of the greedy answer of prompt {prompt} is {float(greedy_G[prompt])}"
        )
    return greedy_G.float()
