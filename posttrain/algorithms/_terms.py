"""Parts that the losses of online algorithms share: the clipped surrogate, the KL, their shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain import ops
from posttrain.config.policy_gradient import ClippedConfig, PolicyGradientConfig
from posttrain.ports import LossInputs, LossTerms

if TYPE_CHECKING:
    from torch import Tensor


def token_ratio(inputs: LossInputs) -> Tensor:
    """[T] π/π_old of each token, with gradient."""
    return ops.surrogates.ratio(inputs.logprobs_T.float(), inputs.old_logprobs_T.float())


def aggregate(losses_T: Tensor, inputs: LossInputs, config: PolicyGradientConfig) -> Tensor:
    """Scalar: this micro-batch's part of the whole batch's loss."""
    return ops.masked.aggregate(
        losses_T,
        inputs.mask_T,
        inputs.sequence_T,
        inputs.num_sequences,
        config.aggregation,
        total_tokens=inputs.total_tokens,
        total_sequences=inputs.total_sequences,
        max_new_tokens=inputs.max_new_tokens,
    )


def share(values_T: Tensor, inputs: LossInputs) -> Tensor:
    """This micro-batch's part of the mean over the whole batch's tokens."""
    return (values_T * inputs.mask_T).sum() / max(inputs.total_tokens, 1.0)


def kl_term(inputs: LossInputs, config: PolicyGradientConfig) -> Tensor | None:
    """β·KL(π‖π_ref), added up as the policy's loss is; None where β is 0."""
    if config.kl_in_loss == 0:
        return None
    if inputs.reference_logprobs_T is None:
        raise ValueError("kl_in_loss is above 0, but no reference log-probs were given")
    logprobs_T, reference_T = inputs.logprobs_T.float(), inputs.reference_logprobs_T.float()
    kl_T = ops.kl.estimate(config.kl_estimator, logprobs_T, reference_T)
    if config.kl_times_ratio:
        kl_T = kl_T * token_ratio(inputs)
    return config.kl_in_loss * aggregate(kl_T, inputs, config)


def clipped_terms(inputs: LossInputs, config: ClippedConfig, ratio_T: Tensor) -> LossTerms:
    """PPO's surrogate of a ratio [T], of tokens or of sequences, and the KL where β is above 0."""
    advantages_T = inputs.advantages_T
    loss_T = ops.surrogates.clipped(ratio_T, advantages_T, config.clip_low, config.clip_high)
    if config.dual_clip is not None:
        loss_T = ops.surrogates.dual_clipped(loss_T, advantages_T, config.dual_clip)
    seen_T = ratio_T.detach()
    low_T = ops.surrogates.clipped_low(seen_T, advantages_T, config.clip_low)
    high_T = ops.surrogates.clipped_high(seen_T, advantages_T, config.clip_high)
    metrics = {
        "policy/ratio_mean": share(seen_T, inputs),
        "policy/clip_low_share": share(low_T, inputs),
        "policy/clip_high_share": share(high_T, inputs),
    }
    if config.dual_clip is not None:
        dual_T = (advantages_T < 0) & (seen_T > config.dual_clip)
        metrics["policy/dual_clip_share"] = share(dual_T, inputs)
    policy = aggregate(loss_T, inputs, config)
    return LossTerms(policy=policy, kl=kl_term(inputs, config), metrics=metrics)
