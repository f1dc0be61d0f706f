"""The critic of algorithms that need one: what it expects before each token, and how it learns.

Either a model of its own, with an optimiser of its own, or a head on the policy's last layer; then
the policy's layers learn from its error too. Values are those before a token is chosen: the last
one is followed by the end of the answer, whose value is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.config.critic import HEAD, POLICY, CriticConfig
from posttrain.config.optimiser import OptimiserConfig
from posttrain.errors import InputError, Problem
from posttrain.model.packed import packed_values
from posttrain.model.value import ValueHead, load_value_model
from posttrain.train.micro_batches import MicroBatch
from posttrain.train.policy import Policy
from posttrain.train.ranks import Ranks

PREFIX = "critic."  # of the critic's weights in a checkpoint


def critic_module(critic: str, model_path: str | Path, policy: Any) -> nn.Module:
    """What `critic:` names: a head on the policy (`head`), a copy of the policy (`policy`), or the
    model in a folder. Raises InputError where the folder has no critic, or one that reads other
    tokens.
    """
    config = policy.config.get_text_config()
    if critic == HEAD:
        return ValueHead(config.hidden_size)
    if critic == POLICY:
        return load_value_model(model_path)
    model = load_value_model(critic)
    own, other = config.vocab_size, model.backbone.config.get_text_config().vocab_size
    if own != other:
        raise InputError(
            Problem(
                "no-critic",
                f"the critic reads {other} tokens, the policy writes {own}: they have different "
                "tokenizers",
                file=critic,
                help="a critic of the policy's own family, or critic: policy",
            )
        )
    return model


class Critic:
    """One critic with its optimiser; every rank has a share of it."""

    def __init__(
        self, module: nn.Module, config: OptimiserConfig, precision: str, ranks: Ranks
    ) -> None:
        """`module` is whole, and on the device to train on. TypeError where the algorithm's Config
        says nothing of a critic.
        """
        if not isinstance(config, CriticConfig):
            raise TypeError("an algorithm that needs a critic inherits CriticConfig")
        self.is_head = isinstance(module, ValueHead)
        self._autocast = torch.bfloat16 if precision == "bf16" else None
        self._warmup_steps = config.critic_warmup_steps
        own: Any = config
        if config.critic_lr is not None:
            own = config.model_copy(update={"lr": config.critic_lr})
        # Policy is a model with an optimiser; a critic is one too, and nobody publishes it.
        self.learner = Policy(module, None, own, "fp32", ranks)

    def is_warming_up(self, step: int) -> bool:
        """Whether the critic alone learns in this step."""
        return step < self._warmup_steps

    def values(self, micro: MicroBatch, features_TD: Tensor | None = None) -> Tensor:
        """[T] on the CPU: what is expected before each completion token. `features_TD` is the
        policy's last layer there, for a head.
        """
        module = self.learner.model
        if self.is_head:
            assert features_TD is not None
            return module(features_TD).float().cpu()
        device = next(module.parameters()).device
        return packed_values(
            module,
            micro.token_ids_S.to(device),
            micro.lengths,
            micro.wanted_S.to(device),
            self._autocast,
        ).cpu()

    def weights(self) -> dict[str, Tensor]:
        """For a checkpoint. Collective."""
        return {f"{PREFIX}{name}": value for name, value in self.learner.weights().items()}

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        own = {n.removeprefix(PREFIX): w for n, w in weights.items() if n.startswith(PREFIX)}
        self.learner.load(own, state)


def without_critic(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The policy's weights of a checkpoint."""
    return {name: value for name, value in weights.items() if not name.startswith(PREFIX)}


def gather(shares: Sequence[tuple[MicroBatch, Tensor]], num_tokens: int, ranks: Ranks) -> Tensor:
    """[T] of the whole batch on every rank, from what each rank computed for its micro-batches."""
    values_T = torch.zeros(num_tokens)
    for micro, found_T in shares:
        values_T[micro.tokens_T] = found_T.detach()
    return ranks.all_reduce_sum(values_T, "values of the batch")
