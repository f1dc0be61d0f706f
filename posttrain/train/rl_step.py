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
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from posttrain.config.optimiser import OptimiserConfig
from posttrain.errors import StageFailed
from posttrain.ports import LossInputs, LossTerms, Needs
from posttrain.train.adapted_policy import make_policy
from posttrain.train.critic import Critic, without_critic
from posttrain.train.forward import Forward
from posttrain.train.memory import peak_memory_bytes
from posttrain.train.micro_batches import MicroBatch, Part, pack, split
from posttrain.train.off_policy import trust_region
from posttrain.train.preparation import KnownBatch, Preparation, StepSettings
from posttrain.train.ranks import Ranks
from posttrain.train.reference import Reference
from posttrain.train.rl_batch import FlatBatch, sequences_of
from posttrain.train.tally import Tally
from posttrain.types import Rollout


class RlTrainer:
    """A policy with its optimiser, the frozen model that it started from, and maybe a critic."""

    def __init__(
        self,
        model: Any,
        reference: Any,
        tokenizer: Any,
        algorithm: ModuleType,
        config: OptimiserConfig,
        settings: StepSettings,
        ranks: Ranks | None = None,
        critic: torch.nn.Module | None = None,
    ) -> None:
        """Models are whole and on the device to train on; several ranks shard them here.

        `reference` is a model like it, or `reference_weights` that say where one is kept.
        """
        self._ranks = ranks or Ranks()
        self._forward = Forward(settings.temperature, settings.precision)
        kept = Reference(reference, self._ranks, self._forward.logprobs)
        self.policy = make_policy(
            model, tokenizer, config, settings.precision, self._ranks, settings.restraints
        )
        self._algorithm: Any = algorithm
        self._config: Any = config
        self._settings = settings
        self._critic: Critic | None = None
        if critic is not None:
            self._critic = Critic(critic, config, settings.precision, self._ranks)
        self._preparation = Preparation(
            self.policy.model, kept, self._critic, algorithm, config, settings, self._ranks
        )
        self._needs = self._preparation.needs
        _refuse_unmet(self._needs, self._critic)

    @property
    def compares_answers(self) -> bool:
        """Whether a prompt teaches by how its answers differ."""
        return self._needs.groups or self._needs.greedy

    # -- one batch ------------------------------------------------------------------------------

    def step(self, flat: FlatBatch, step: int, num_steps: int) -> dict[str, float]:
        """Train on one batch; metrics by name, the same on every rank (collective).

        Raises StageFailed for a loss or gradient that is not finite.
        """
        cut = functools.partial(self._preparation.micro_batches, flat)
        parts = split(flat, self._settings.optimiser_steps, cut)
        batch = self._preparation.known(flat, parts, step)
        lr = self.policy.set_lr(step, num_steps)
        if self._critic:
            self._critic.learner.set_lr(step, num_steps)
        num_passes = self._settings.epochs
        total_tokens = sum(part.total_tokens for part in parts) * num_passes
        metrics = Tally()
        for part in parts * num_passes:
            if part.total_tokens == 0:  # AdamW would go on with the last steps' momentum
                metrics.add({"train/empty_steps": 1.0})
                continue
            found = self._optimise(batch, part)
            metrics.add(found.sums, part.total_tokens / total_tokens)
            metrics.raise_to(found.largest)
        num_tokens = int(flat.sequences.total_lengths_B.sum())
        self.policy.tokens_seen += num_tokens
        return {
            **metrics.sums,
            **metrics.largest,
            "train/lr": lr,
            "train/tokens": float(num_tokens),
            "train/real_token_share": 1.0,  # packed: no padding is ever computed
            "train/peak_memory_bytes": peak_memory_bytes(),
            "policy/kl_reference_nats": batch.kl_nats,
            **self._preparation.kl_metrics(batch),
            **batch.advantages.metrics,
        }

    def _optimise(self, batch: KnownBatch, part: Part) -> Tally:
        """One optimiser step; its numbers over all ranks."""
        critic = [self._critic.learner] if self._critic else []
        for learner in (self.policy, *critic):
            learner.zero_gradient()
        learners = [self.policy, *critic] if batch.trains_policy else critic
        local = Tally()
        for micro in part.micro:
            self._accumulate(batch, part, micro, local)
        tally = local.over_ranks(self._ranks, f"numbers of step {batch.step}")
        if batch.trains_policy:
            tally.add(self.policy.restrain_gradient())
        norms, loss = [learner.clip_gradient() for learner in learners], tally.sums["train/loss"]
        if not all(map(math.isfinite, (*norms, loss))):
            raise StageFailed(
                f"step {batch.step}: loss {loss:g}, gradient norm {max(norms):g}; the weights were "
                "not changed",
                help="lower algorithm.lr, then posttrain run: the stage begins anew",
            )
        for learner in learners:
            learner.step()
        tally.add({"train/grad_norm": norms[0]} if batch.trains_policy else {"train/warmup": 1.0})
        if self._critic:
            tally.add({"train/critic_grad_norm": norms[-1]})
        return tally

    def _accumulate(self, batch: KnownBatch, part: Part, micro: MicroBatch, tally: Tally) -> None:
        """Forward and backward of one micro-batch."""
        flat, where_T = batch.flat, micro.tokens_T
        mask_T, total_tokens = flat.mask_T[where_T], max(part.total_tokens, 1.0)
        output = self._forward(
            self.policy.model,
            micro,
            entropy=True,
            features=bool(self._critic and self._critic.is_head),
        )
        entropy_T = output.entropy_T
        assert entropy_T is not None
        proximal_T = _at(batch.proximal_T, where_T)
        region = trust_region(
            self._settings.off_policy, flat, micro, output.logprobs_T, proximal_T, batch.step
        )
        inputs = LossInputs(
            logprobs_T=output.logprobs_T,
            old_logprobs_T=region.centre_T,
            advantages_T=region.weighed(batch.advantages.advantages_T[where_T]),
            mask_T=mask_T,
            sequence_T=micro.sequence_T,
            num_sequences=micro.num_sequences,
            total_tokens=total_tokens,
            total_sequences=max(part.total_sequences, 1.0),
            entropy_T=entropy_T,
            reference_logprobs_T=_at(batch.reference_T, where_T),
            values_T=self._critic.values(micro, output.features_TD) if self._critic else None,
            old_values_T=_at(batch.values_T, where_T),
            returns_T=_at(batch.advantages.returns_T, where_T),
            max_new_tokens=self._settings.max_new_tokens,
        )
        terms: LossTerms = self._algorithm.loss(inputs, self._config)
        (terms.total if batch.trains_policy else _value_alone(terms)).backward()
        tally.add(_losses(terms))
        tally.add({name: float(value) for name, value in terms.metrics.items()})
        tally.add({"policy/entropy_nats": float((entropy_T * mask_T).sum())}, 1.0 / total_tokens)
        if region.weights is not None:
            tally.add(region.weights.sums(mask_T), 1.0 / total_tokens)
            tally.raise_to(region.weights.largest(mask_T))

    @torch.no_grad()
    def logprobs(self, rollouts: Sequence[Rollout]) -> Tensor:
        """[T] log-probs (nats) of every completion token under the present weights. Collective:
        every rank passes the same rollouts.
        """
        micro = pack(sequences_of(rollouts), range(len(rollouts)))
        return self._forward.logprobs(self.policy.model, micro)

    # -- checkpoints ------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Of policy and critic, for a checkpoint. Collective."""
        return {**self.policy.weights(), **(self._critic.weights() if self._critic else {})}

    def state(self) -> dict[str, Any]:
        """Optimisers, random generators and what adapts itself. Collective."""
        state = self.policy.optimiser_state()
        critic = {"critic": self._critic.learner.optimiser_state()} if self._critic else {}
        return {**state, **critic, "kl_coefficient": self._preparation.kl_coefficient}

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from `weights` and `state` of a checkpoint, which every rank has read."""
        self.policy.load(without_critic(weights), state)
        if self._critic:
            self._critic.load(weights, state["critic"])
        known = self._preparation
        known.kl_coefficient = state.get("kl_coefficient", known.kl_coefficient)


def _at(values_T: Tensor | None, where_T: Tensor) -> Tensor | None:
    return None if values_T is None else values_T[where_T]


def _value_alone(terms: LossTerms) -> Tensor:
    if terms.value is None:
        raise ValueError("the critic warms up, but the algorithm's loss has no value term")
    return terms.value


def _losses(terms: LossTerms) -> dict[str, float]:
    losses = {"train/loss": float(terms.total.detach())}
    if terms.value is not None:
        losses["train/value_loss"] = float(terms.value.detach())
    if terms.kl is not None:
        losses["train/kl_loss"] = float(terms.kl.detach())
    return losses


def _refuse_unmet(needs: Needs, critic: Critic | None) -> None:
    if needs.critic and critic is None:
        raise ValueError("the algorithm needs a critic, and none was given")
    if needs.pairs:
        raise StageFailed(
            "the algorithm compares pairs of answers, which online stages do not have",
            help="use it in a `preference` stage",
        )
