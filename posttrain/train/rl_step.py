"""One optimiser batch of an online algorithm, whatever the algorithm is, on one rank or many.

The algorithm's file says what it needs, turns scores into advantages and advantages into a loss.
Here stands what all share: packing by token budget, log-probs at the sampling temperature, the
trust region, denominators of the whole batch, the step, and the numbers that people watch.

Every rank holds the whole batch (it is small beside the model), computes the same advantages, and
runs forward and backward for its share of the micro-batches.
"""

from __future__ import annotations

import functools
import math
import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from posttrain.algorithms import needs_of
from posttrain.config.optimiser import OptimiserConfig
from posttrain.config.pipeline import OffPolicy
from posttrain.errors import StageFailed
from posttrain.model.packed import packed_forward
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, Needs
from posttrain.train.adapted_policy import make_policy
from posttrain.train.micro_batches import MicroBatch, Part, micro_batches, pack, split
from posttrain.train.off_policy import trust_region
from posttrain.train.ranks import Ranks
from posttrain.train.reference import Reference, distance_nats, sample
from posttrain.train.rl_batch import FlatBatch, sequences_of
from posttrain.train.tally import Tally
from posttrain.types import Rollout


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What does not depend on the algorithm."""

    temperature: float
    tokens_per_micro_batch: int
    precision: str = "fp32"  # "bf16": fp32 weights, bf16 arithmetic, bf16 weights for the engines
    optimiser_steps: int = 1  # per batch, each on its part of the groups
    off_policy: OffPolicy = field(default_factory=OffPolicy)


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch with everything that is known of it before the first optimiser step."""

    flat: FlatBatch
    step: int
    advantages_T: Tensor
    reference_T: Tensor | None  # [T] nats, where the algorithm needs it
    proximal_T: Tensor | None  # [T] nats, this rank's tokens; where the first step changes them


class RlTrainer:
    """A policy with its optimiser, and the frozen model that it started from."""

    def __init__(
        self,
        model: Any,
        reference: Any,
        tokenizer: Any,
        algorithm: ModuleType,
        config: OptimiserConfig,
        settings: StepSettings,
        ranks: Ranks | None = None,
    ) -> None:
        """The model is whole and on the device to train on; several ranks shard it here.

        `reference` is a model like it, or `reference_weights` that say where one is kept.
        """
        self._ranks = ranks or Ranks()
        self._reference = Reference(reference, self._ranks, lambda *a: self._forward(*a)[0])
        self.policy = make_policy(model, tokenizer, config, settings.precision, self._ranks)
        self._algorithm = algorithm
        self._config = config
        self._settings = settings
        self._needs = needs_of(algorithm, config)
        _refuse_unmet(self._needs)

    # -- one batch ------------------------------------------------------------------------------

    def step(self, flat: FlatBatch, step: int, num_steps: int) -> dict[str, float]:
        """Train on one batch; metrics by name, the same on every rank (collective).

        Raises StageFailed for a loss or gradient that is not finite.
        """
        cut = functools.partial(self._micro_batches, flat)
        parts = split(flat, self._settings.optimiser_steps, cut)
        reference_T, kl_nats = self._reference_logprobs(flat, parts, step)
        advantages = self._advantages(flat, reference_T)
        proximal_T = self._proximal_logprobs(flat, parts)
        batch = _Batch(flat, step, advantages.advantages_T, reference_T, proximal_T)
        lr = self.policy.set_lr(step, num_steps)
        total_tokens = sum(part.total_tokens for part in parts)
        metrics = Tally()
        for part in parts:
            share = part.total_tokens / max(total_tokens, 1.0) if len(parts) > 1 else 1.0
            found = self._optimise(batch, part)
            metrics.add(found.sums, share)
            metrics.raise_to(found.largest)
        num_tokens = int(flat.sequences.total_lengths_B.sum())
        self.policy.tokens_seen += num_tokens
        return {
            **metrics.sums,
            **metrics.largest,
            "train/lr": lr,
            "train/tokens": float(num_tokens),
            "train/real_token_share": 1.0,  # packed: no padding is ever computed
            "train/peak_memory_bytes": _peak_memory_bytes(),
            "policy/kl_reference_nats": kl_nats,
            **advantages.metrics,
        }

    def _micro_batches(self, flat: FlatBatch, chosen: Sequence[int]) -> list[MicroBatch]:
        budget = self._settings.tokens_per_micro_batch
        return micro_batches(flat.sequences, chosen, budget, self._ranks.num, self._ranks.rank)

    def _advantages(self, flat: FlatBatch, reference_T: Tensor | None) -> Advantages:
        inputs = AdvantageInputs(
            rewards_GK=flat.rewards_GK,
            lengths_B=flat.lengths_B,
            mask_T=flat.mask_T,
            behaviour_logprobs_T=flat.behaviour_logprobs_T,
            reference_logprobs_T=reference_T,
            cut_B=flat.cut_B,
        )
        return self._algorithm.advantages(inputs, self._config)

    def _optimise(self, batch: _Batch, part: Part) -> Tally:
        """One optimiser step; its numbers over all ranks."""
        self.policy.zero_gradient()
        local = Tally()
        for micro in part.micro:
            self._accumulate(batch, part, micro, local)
        tally = local.over_ranks(self._ranks, f"numbers of step {batch.step}")
        norm, loss = self.policy.clip_gradient(), tally.sums["train/loss"]
        if not (math.isfinite(norm) and math.isfinite(loss)):
            raise StageFailed(
                f"step {batch.step}: loss {loss:g}, gradient norm {norm:g}; the weights were not "
                "changed",
                help="lower algorithm.lr, then posttrain resume: it goes on from the last "
                "checkpoint",
            )
        self.policy.step()
        tally.add({"train/grad_norm": norm})
        return tally

    def _accumulate(self, batch: _Batch, part: Part, micro: MicroBatch, tally: Tally) -> None:
        """Forward and backward of one micro-batch."""
        flat, where_T = batch.flat, micro.tokens_T
        mask_T, total_tokens = flat.mask_T[where_T], max(part.total_tokens, 1.0)
        logprobs_T, entropy_T = self._forward(self.policy.model, micro, entropy=True)
        assert entropy_T is not None
        proximal_T = None if batch.proximal_T is None else batch.proximal_T[where_T]
        region = trust_region(
            self._settings.off_policy, flat, micro, logprobs_T, proximal_T, batch.step
        )
        inputs = LossInputs(
            logprobs_T=logprobs_T,
            old_logprobs_T=region.centre_T,
            advantages_T=region.weighed(batch.advantages_T[where_T]),
            mask_T=mask_T,
            sequence_T=micro.sequence_T,
            num_sequences=micro.num_sequences,
            total_tokens=total_tokens,
            total_sequences=max(part.total_sequences, 1.0),
            entropy_T=entropy_T,
            reference_logprobs_T=None if batch.reference_T is None else batch.reference_T[where_T],
        )
        terms = self._algorithm.loss(inputs, self._config)
        terms.total.backward()
        tally.add({"train/loss": float(terms.total.detach())})
        tally.add({name: float(value) for name, value in terms.metrics.items()})
        tally.add({"policy/entropy_nats": float((entropy_T * mask_T).sum())}, 1.0 / total_tokens)
        if region.weights is not None:
            tally.add(region.weights.sums(mask_T), 1.0 / total_tokens)
            tally.raise_to(region.weights.largest(mask_T))

    # -- log-probs ------------------------------------------------------------------------------

    @torch.no_grad()
    def logprobs(self, rollouts: Sequence[Rollout]) -> Tensor:
        """[T] log-probs (nats) of every completion token under the present weights. Collective:
        every rank passes the same rollouts.
        """
        micro = pack(sequences_of(rollouts), range(len(rollouts)))
        return self._forward(self.policy.model, micro)[0]

    def _reference_logprobs(
        self, flat: FlatBatch, parts: Sequence[Part], step: int
    ) -> tuple[Tensor | None, float]:
        """([T] nats where the algorithm needs them, the answers' mean distance in nats)."""
        what, num = f"step {step}", len(flat.rollouts)
        if self._needs.reference:
            micro = [each for part in parts for each in part.micro]
            logprobs_T = self._reference.logprobs(flat, micro, what)
            return logprobs_T, distance_nats(flat, logprobs_T, range(num))
        chosen = sample(num, step, self._ranks.num)
        logprobs_T = self._reference.logprobs(flat, self._micro_batches(flat, chosen), what)
        return None, distance_nats(flat, logprobs_T, chosen)

    @torch.no_grad()
    def _proximal_logprobs(self, flat: FlatBatch, parts: Sequence[Part]) -> Tensor | None:
        """[T] at this rank's tokens. A single optimiser step needs none: they are the current ones,
        which its own forward pass gives.
        """
        if self._settings.off_policy.proximal != "recompute" or len(parts) == 1:
            return None
        logprobs_T = torch.zeros_like(flat.behaviour_logprobs_T)
        for part in parts:
            for micro in part.micro:
                logprobs_T[micro.tokens_T], _ = self._forward(self.policy.model, micro)
        return logprobs_T

    def _forward(
        self, model: Any, micro: MicroBatch, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        device = next(model.parameters()).device
        bf16 = self._settings.precision == "bf16"
        logprobs_T, entropy_T = packed_forward(
            model,
            micro.token_ids_S.to(device),
            micro.lengths,
            self._settings.temperature,
            wanted_T=micro.wanted_S.to(device),
            entropy=entropy,
            autocast=torch.bfloat16 if bf16 else None,
        )
        # Everything that is not the model's lives on the CPU: it is small, and read there.
        return logprobs_T.cpu(), None if entropy_T is None else entropy_T.cpu()


def _refuse_unmet(needs: Needs) -> None:
    unmet = [n for n in ("critic", "greedy", "pairs") if getattr(needs, n)]
    if unmet:
        raise StageFailed(
            f"the algorithm needs {', '.join(unmet)}, which this trainer does not provide",
            help="use an algorithm that needs groups or a reference only: grpo",
        )


def _peak_memory_bytes() -> float:
    """Of the process on a CPU, of the device on a GPU."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
