"""What is known of a batch before its first optimiser step, and stays so for all passes over it.

Log-probs of the reference and of the policy as it is, the critic's values, advantages. Every rank
comes to the same advantages; what only its own micro-batches need stays its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from posttrain import ops
from posttrain.algorithms import needs_of
from posttrain.config.optimiser import OptimiserConfig
from posttrain.config.pipeline import OffPolicy
from posttrain.config.restraints import UNRESTRAINED, Restraints
from posttrain.ports import AdvantageInputs, Advantages
from posttrain.train.critic import Critic, gather
from posttrain.train.forward import Forward
from posttrain.train.micro_batches import MicroBatch, Part, micro_batches
from posttrain.train.ranks import Ranks
from posttrain.train.reference import Reference, distance_nats, sample
from posttrain.train.rl_batch import FlatBatch


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What does not depend on the algorithm."""

    temperature: float
    tokens_per_micro_batch: int
    precision: str = "fp32"  # "bf16": fp32 weights, bf16 arithmetic, bf16 weights for the engines
    optimiser_steps: int = 1  # per pass over the batch, each on its part of the groups
    epochs: int = 1  # passes over the batch
    max_new_tokens: int = 0  # limit of one answer
    reward_scale: float = 1.0  # what scores are multiplied with for the algorithm
    off_policy: OffPolicy = field(default_factory=OffPolicy)
    restraints: Restraints = UNRESTRAINED  # without adapters


@dataclass(frozen=True, slots=True)
class KnownBatch:
    """A batch with everything that is known of it before the first optimiser step."""

    flat: FlatBatch
    step: int
    advantages: Advantages
    reference_T: Tensor | None  # [T] nats, where the algorithm needs it
    proximal_T: Tensor | None  # [T] nats, this rank's tokens; where the first step changes them
    values_T: Tensor | None  # [T] of the critic
    kl_nats: float  # mean distance of an answer to the reference
    trains_policy: bool  # False while the critic warms up


class Preparation:
    """Holds the frozen model and the KL's coefficient; sees the policy and the critic."""

    def __init__(
        self,
        policy: Any,
        reference: Reference,
        critic: Critic | None,
        algorithm: ModuleType,
        config: OptimiserConfig,
        settings: StepSettings,
        ranks: Ranks,
    ) -> None:
        """`policy` is the model that is trained."""
        self.needs = needs_of(algorithm, config)
        self.kl_coefficient = float(getattr(config, "kl_in_reward", 0.0))
        self._policy = policy
        self._reference = reference
        self._critic = critic
        self._algorithm: Any = algorithm
        self._config: Any = config
        self._settings = settings
        self._ranks = ranks
        self._forward = Forward(settings.temperature, settings.precision)

    def micro_batches(self, flat: FlatBatch, chosen: Sequence[int]) -> list[MicroBatch]:
        """This rank's share of the chosen answers."""
        budget = self._settings.tokens_per_micro_batch
        return micro_batches(flat.sequences, chosen, budget, self._ranks.num, self._ranks.rank)

    def known(self, flat: FlatBatch, parts: Sequence[Part], step: int) -> KnownBatch:
        """Collective."""
        micro = [each for part in parts for each in part.micro]
        reference_T, kl_nats = self._reference_logprobs(flat, micro, step)
        values_T = self._values(flat, micro)
        return KnownBatch(
            flat,
            step,
            self._advantages(flat, reference_T, values_T),
            reference_T,
            self._proximal_logprobs(flat, micro, len(parts) * self._settings.epochs),
            values_T,
            kl_nats,
            trains_policy=not (self._critic and self._critic.is_warming_up(step)),
        )

    def kl_metrics(self, batch: KnownBatch) -> dict[str, float]:
        """The coefficient that this batch was charged; the next one's may be adapted."""
        charged, target = self.kl_coefficient, getattr(self._config, "kl_target", None)
        if charged == 0:
            return {}
        if target is not None and batch.trains_policy:  # else it stands still, at a KL of 0
            self.kl_coefficient = ops.kl.adapted_coefficient(
                charged, batch.kl_nats, target, self._config.kl_horizon, len(batch.flat.rollouts)
            )
        return {"policy/kl_coefficient": charged}

    def _advantages(
        self, flat: FlatBatch, reference_T: Tensor | None, values_T: Tensor | None
    ) -> Advantages:
        if self.needs.greedy and flat.greedy_rewards_G is None:
            raise ValueError("the algorithm needs greedy answers, and the batch has none")
        scale, greedy_G = self._settings.reward_scale, flat.greedy_rewards_G
        inputs = AdvantageInputs(
            rewards_GK=scale * flat.rewards_GK,
            lengths_B=flat.lengths_B,
            mask_T=flat.mask_T,
            behaviour_logprobs_T=flat.behaviour_logprobs_T,
            reference_logprobs_T=reference_T,
            values_T=values_T,
            greedy_rewards_G=None if greedy_G is None else scale * greedy_G,
            cut_B=flat.cut_B,
            reward_parts=flat.reward_parts,
            kl_coefficient=self.kl_coefficient,
            max_new_tokens=self._settings.max_new_tokens,
        )
        return self._algorithm.advantages(inputs, self._config)

    def _reference_logprobs(
        self, flat: FlatBatch, micro: Sequence[MicroBatch], step: int
    ) -> tuple[Tensor | None, float]:
        """([T] nats where the algorithm needs them, the answers' mean distance in nats)."""
        what, num = f"step {step}", len(flat.rollouts)
        if self.needs.reference:
            logprobs_T = self._reference.logprobs(flat, micro, what)
            return logprobs_T, distance_nats(flat, logprobs_T, range(num))
        chosen = sample(num, step, self._ranks.num)
        logprobs_T = self._reference.logprobs(flat, self.micro_batches(flat, chosen), what)
        return None, distance_nats(flat, logprobs_T, chosen)

    @torch.no_grad()
    def _values(self, flat: FlatBatch, micro: Sequence[MicroBatch]) -> Tensor | None:
        """[T] what the critic expects before each token, on every rank all of them."""
        if not self._critic:
            return None
        shares = []
        for piece in micro:
            features_TD = None
            if self._critic.is_head:
                features_TD = self._forward(self._policy, piece, features=True).features_TD
            shares.append((piece, self._critic.values(piece, features_TD)))
        return gather(shares, len(flat.mask_T), self._ranks)

    @torch.no_grad()
    def _proximal_logprobs(
        self, flat: FlatBatch, micro: Sequence[MicroBatch], num_optimiser_steps: int
    ) -> Tensor | None:
        """[T] at this rank's tokens. A single optimiser step needs none: they are the current ones,
        which its own forward pass gives.
        """
        if self._settings.off_policy.proximal != "recompute" or num_optimiser_steps == 1:
            return None
        logprobs_T = torch.zeros_like(flat.behaviour_logprobs_T)
        for piece in micro:
            logprobs_T[piece.tokens_T] = self._forward.logprobs(self._policy, piece)
        return logprobs_T
