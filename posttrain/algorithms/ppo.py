"""PPO: proximal policy optimisation with a critic (Schulman et al. 2017, arXiv 1707.06347).

    rew_t = -β·k1_t + [t last]·r                    the KL as in Ziegler et al. 2019, 1909.08593
    δ_t   = rew_t + γ·V_{t+1} - V_t,   A_t = δ_t + γλ·A_{t+1},   R_t = A_t + V_t
    L     = mean of max(-A·w_t, -A·clip(w_t, 1 - low, 1 + high)),   w_t = π(y_t) / π_old(y_t)
          + c · mean of ½·max((V - R)², (V' - R)²),  V' = V held to within `value_clip` of V_old

Each token is an action; the critic tells it what was still to be expected before it. A is whitened
over the batch's tokens after R is taken. β is fixed, or moved towards `kl_target`.

Answers that hit the token limit end there like all others: V behind the last token is 0. They can
be charged: `missing_eos_penalty` is taken off their score, as in TRL; `missing_eos_score` replaces
it, right or wrong, as in Tülu 3 (Lambert et al. 2024, arXiv 2411.15124).

Assumes a critic that is some good: until then A is mostly its errors (`critic_warmup_steps`).
Degenerate cases: an answer without a token earns nothing; a batch of equal advantages whitens to 0.

Constants: γ 1, λ 0.95, clips 0.2, c 0.1, β 0.05 (TRL and Tülu 3); Tülu 3's 8B run: lr 3e-7 linear,
score 10 for a right answer, -10 for an unfinished one, four steps on each batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from posttrain import ops
from posttrain.algorithms._rewards import checked_rewards, kl_per_token
from posttrain.algorithms._terms import clipped_terms, share, token_ratio
from posttrain.config.critic import CriticConfig
from posttrain.config.policy_gradient import ClippedConfig
from posttrain.config.strict import Contradiction
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, LossTerms, Needs

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = Needs(critic=True, reference=True)


class Config(ClippedConfig, CriticConfig):
    """Settings of PPO."""

    kl_in_reward: float = Field(default=0.05, ge=0.0)
    """β of the KL to the stage's starting model, taken off the reward token by token (k1)."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """How much a token counts of what is earned one token later."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """How far advantages look before they trust the critic: 1 to the end, 0 one token."""
    whiten_advantages: bool = True
    """Give the batch's advantages mean 0 and variance 1."""
    whiten_rewards: bool = False
    """Give the batch's token rewards variance 1; their mean stays."""
    missing_eos_penalty: float = Field(default=0.0, ge=0)
    """Taken off the score of an answer that hit the token limit."""
    missing_eos_score: float | None = None
    """Score of an answer that hit the token limit, whatever its reward (Tülu 3: -10); empty: its
    own."""

    @model_validator(mode="after")
    def _charges_unfinished_once(self) -> Config:
        if self.missing_eos_penalty > 0 and self.missing_eos_score is not None:
            raise Contradiction(
                "an unfinished answer's score is lowered "
                f"(missing_eos_penalty: {self.missing_eos_penalty:g}) and replaced "
                f"(missing_eos_score: {self.missing_eos_score:g})",
                "keep one; Tülu 3 replaces it",
                code="charged-twice",
            )
        return self


def advantages(inputs: AdvantageInputs, config: Config) -> Advantages:
    """GAE and returns, both [T]. Raises ValueError without a critic's values."""
    if inputs.values_T is None:
        raise ValueError("ppo needs a critic's value before each token")
    lengths_B, mask_T = inputs.lengths_B, inputs.mask_T
    rewards_T = ops.returns.token_rewards(
        _scores(inputs, config), kl_per_token(inputs), inputs.kl_coefficient, lengths_B, mask_T
    )
    if config.whiten_rewards:
        rewards_T = ops.masked.whiten(rewards_T, mask_T, shift_mean=False)
    advantages_T, returns_T = ops.returns.generalised_advantages(
        rewards_T,
        inputs.values_T,
        lengths_B,
        mask_T,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    if config.whiten_advantages:
        advantages_T = ops.masked.whiten(advantages_T, mask_T)
    explained = ops.values.explained_share(inputs.values_T, returns_T, mask_T)
    return Advantages(advantages_T, returns_T, {"policy/value_explained_share": explained})


def loss(inputs: LossInputs, config: Config) -> LossTerms:
    """The clipped surrogate and the critic's error, a mean over all tokens."""
    terms = clipped_terms(inputs, config, token_ratio(inputs))
    if inputs.values_T is None or inputs.old_values_T is None or inputs.returns_T is None:
        raise ValueError("ppo needs values_T, old_values_T and returns_T")
    errors_T = ops.values.squared_error(
        inputs.values_T, inputs.old_values_T, inputs.returns_T, config.value_clip
    )
    value = ops.masked.aggregate(
        errors_T,
        inputs.mask_T,
        inputs.sequence_T,
        inputs.num_sequences,
        "token-mean",
        total_tokens=inputs.total_tokens,
        total_sequences=inputs.total_sequences,
    )
    metrics = {**terms.metrics, "policy/value_loss": share(errors_T.detach(), inputs)}
    return LossTerms(terms.policy, terms.kl, config.value_weight * value, metrics)


def _scores(inputs: AdvantageInputs, config: Config) -> Tensor:
    """[B] rewards, unfinished answers charged."""
    scores_B = checked_rewards(inputs).flatten()
    if config.missing_eos_penalty == 0 and config.missing_eos_score is None:
        return scores_B
    if inputs.cut_B is None:
        raise ValueError("charging unfinished answers needs to know which they are (cut_B)")
    penalty, instead = config.missing_eos_penalty, config.missing_eos_score
    return ops.shaping.unfinished(scores_B, inputs.cut_B, penalty, instead)
