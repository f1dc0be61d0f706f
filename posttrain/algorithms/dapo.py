"""DAPO: decoupled clip and dynamic sampling policy optimisation (Yu et al. 2025, arXiv 2503.14476).

    r'_i = r_i + punishment(|y_i|)                  0 down to -1 over the last tokens of the limit
    A_i  = (r'_i - mean(r')) / (std(r') + 1e-6)     over the K samples of one prompt
    L_t  = max(-A·w_t, -A·clip(w_t, 1 - 0.2, 1 + 0.28)),   w_t = π(y_t) / π_old(y_t)
    L    = mean over all tokens of the batch

GRPO with four changes. The upper clip is wider, which leaves unlikely tokens room to grow and
entropy alive. Every token weighs the same, so that long answers are not diluted. Answers close to
the token limit are punished softly. And groups whose answers all score the same are replaced by
others while generating: that is dynamic sampling, and it is the *stage's* setting
`filter_no_signal: true`; without it this is the other three changes.

`overlong: mask` is the paper's first variant: an answer that hit the limit teaches nothing, because
its score says little about it. Its advantage is 0 and it still belongs to its group's statistics;
its tokens stay in the denominator (the authors take them out), so that steps do not grow as
answers get cut.

Assumes K >= 2. Degenerate case: equal rewards give A = 0, but the punishment can make answers of
one score differ.

The paper's run: lr 1e-6, K = 16, 512 prompts, rewards ±1, no KL, limit 20480 of which the last 4096
are punished: a share of 0.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from posttrain import ops
from posttrain.algorithms._rewards import rewards_less_kl
from posttrain.algorithms._terms import clipped_terms, token_ratio
from posttrain.config.policy_gradient import ClippedConfig, unused
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = Needs(groups=True)


class Config(ClippedConfig):
    """Settings of DAPO; its dynamic sampling is the stage's `filter_no_signal: true`."""

    clip_high: float = Field(default=0.28, gt=0)
    """A good token's gradient stops once it is this share more likely than when sampled; wider than
    `clip_low`, so that unlikely tokens can grow."""
    overlong: Literal["punish", "mask", "none"] = "punish"
    """Answers near the token limit: punish takes up to 1 off their reward, mask leaves those that
    hit it out of the loss, none does nothing."""
    overlong_share: float = Field(default=0.2, gt=0, le=1)
    """The last share of the token limit, over which the punishment grows from 0 to 1."""

    @model_validator(mode="after")
    def _uses_its_share(self) -> Config:
        default = type(self).model_fields["overlong_share"].default
        if self.overlong != "punish" and self.overlong_share != default:
            why = f"`overlong: {self.overlong}` has no punishment"
            raise unused("overlong_share", why, "overlong: punish")
        return self


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """[T] each answer's advantage on each of its tokens. Raises ValueError for groups of one."""
    rewards_GK = rewards_less_kl(inputs)
    metrics = {}
    if config.overlong == "punish":
        punishment_B = _punishment(inputs, config)
        rewards_GK = rewards_GK + punishment_B.view_as(rewards_GK)
        metrics["reward/overlong_mean"] = float(punishment_B.mean())
    advantages_GK = ops.baselines.group_advantages(rewards_GK, "std")
    if config.overlong == "mask":
        if inputs.cut_B is None:
            raise ValueError("overlong: mask needs to know which answers hit the limit (cut_B)")
        advantages_GK = advantages_GK.masked_fill(inputs.cut_B.view_as(advantages_GK), 0.0)
    advantages_T = ops.baselines.over_tokens(advantages_GK, inputs.lengths_B)
    return Advantages(advantages_T.detach(), metrics=metrics)


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """The clipped surrogate over all tokens alike, and the KL term where β is above 0."""
    return clipped_terms(inputs, config, token_ratio(inputs))


def _punishment(inputs: AdvantageInputs, config: Config) -> Tensor:
    limit = inputs.max_new_tokens
    if limit < 1:
        raise ValueError(f"overlong: punish needs the token limit; max_new_tokens is {limit}")
    buffer = max(round(config.overlong_share * limit), 1)
    return ops.shaping.overlong_punishment(inputs.lengths_B, limit, buffer)
