"""What a micro-batch's tokens are compared with, and what they weigh: the stage's `off_policy`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from posttrain import ops
from posttrain.config.pipeline import OffPolicy
from posttrain.train.micro_batches import MicroBatch
from posttrain.train.rl_batch import FlatBatch


@dataclass(frozen=True, slots=True)
class Weights:
    """π_prox/π_behaviour of each token: engine/trainer mismatch and staleness in one."""

    raw_T: Tensor  # [T]
    applied_T: Tensor  # [T] after the bound
    outside_T: Tensor  # [T] bool: where the two differ

    def sums(self, mask_T: Tensor) -> dict[str, float]:
        """Over the tokens that the policy chose."""
        return {
            "policy/behaviour_weight_mean": float((self.applied_T * mask_T).sum()),
            "policy/behaviour_weight_capped_share": float((self.outside_T * mask_T).sum()),
        }

    def largest(self, mask_T: Tensor) -> dict[str, float]:
        """Before the bound, of the tokens that the policy chose; 0 where there is none."""
        chosen = self.raw_T[mask_T > 0]
        return {"policy/behaviour_weight_max": float(chosen.max()) if chosen.numel() else 0.0}


@dataclass(frozen=True, slots=True)
class TrustRegion:
    """Both detached. Without weights every token weighs 1."""

    centre_T: Tensor  # [T] log-probs (nats) that ratios are taken to
    weights: Weights | None = None

    def weighed(self, advantages_T: Tensor) -> Tensor:
        """[T] advantages as the loss sees them: a policy loss is proportional to their size, so
        this weighs the loss, whatever the algorithm is.
        """
        return advantages_T if self.weights is None else advantages_T * self.weights.applied_T


def trust_region(
    settings: OffPolicy,
    flat: FlatBatch,
    micro: MicroBatch,
    logprobs_T: Tensor,
    proximal_T: Tensor | None,
    step: int,
) -> TrustRegion:
    """`logprobs_T` [T] are the current policy's, `proximal_T` [T] those right before the step, None
    where the two are the same. Nats.
    """
    behaviour_T = flat.behaviour_logprobs_T[micro.tokens_T]
    if settings.proximal == "behaviour":
        return TrustRegion(behaviour_T)
    logprobs_T = logprobs_T.detach()
    if settings.proximal == "recompute":
        centre_T = logprobs_T if proximal_T is None else proximal_T
    else:
        versions_T = flat.versions_T[micro.tokens_T]
        centre_T = ops.off_policy.interpolate(behaviour_T, logprobs_T, versions_T, step)
    if settings.level == "token":
        raw_T = ops.off_policy.token_weights(centre_T, behaviour_T)
    else:
        mask_T, sequence_T = flat.mask_T[micro.tokens_T], micro.sequence_T
        raw_T = ops.off_policy.sequence_weights(
            centre_T, behaviour_T, mask_T, sequence_T, micro.num_sequences
        )
    bound = settings.weights, settings.low, settings.high
    applied_T = ops.off_policy.bounded(raw_T, *bound)
    return TrustRegion(
        centre_T, Weights(raw_T, applied_T, ops.off_policy.is_outside(raw_T, *bound))
    )
