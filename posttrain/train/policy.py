"""The trained model with its optimiser: stepping, handing out weights, saving, loading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain.config.optimiser import OptimiserConfig
from posttrain.config.restraints import UNRESTRAINED, Restraints
from posttrain.model.load import DTYPES, save_model
from posttrain.train.half_fine_tuning import trained_share
from posttrain.train.ranks import Ranks
from posttrain.train.sharding import like, shard, whole
from posttrain.train.start_point import StartPoint
from posttrain.train.weight_average import WeightAverage

UNDECAYED_DIMENSIONS = 1  # norms and biases are vectors; matrices are decayed
AVERAGE_PREFIX = "average."  # of the moving average's weights in a checkpoint


class Policy:
    """Methods that put tensors together are collective: every rank calls them, the first one gets
    the result. With several ranks that result is on the CPU, and whole: a model has to fit into the
    first rank's memory.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: OptimiserConfig,
        precision: str,
        ranks: Ranks,
        restraints: Restraints = UNRESTRAINED,
    ) -> None:
        # Without dropout: log-probs that are trained on must be those that the engine sampled with.
        self.model = model.eval()
        self.tokens_seen = 0
        self._tokenizer = tokenizer
        self._config = config
        self._precision = precision
        self._ranks = ranks
        shard(self.model, ranks)
        self._optimiser = torch.optim.AdamW(
            _parameter_groups(model, config.weight_decay),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
        )
        self._trained_share = trained_share(model) if restraints.half_fine_tuning else None
        self._start: StartPoint | None = None
        if restraints.start_penalty is not None:
            self._start = StartPoint(
                [p for _, p in self._trained()], restraints.start_penalty, self._over_ranks
            )
        self._average: WeightAverage | None = None
        if restraints.ema is not None:
            self._average = WeightAverage(self._trained(), restraints.ema.decay)

    # -- stepping -------------------------------------------------------------------------------

    def set_lr(self, step: int, num_steps: int) -> float:
        """The learning rate of a batch, which all of its optimiser steps use."""
        lr = self._config.lr_at(step, num_steps)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        return lr

    def zero_gradient(self) -> None:
        self._optimiser.zero_grad(set_to_none=True)

    def restrain_gradient(self) -> dict[str, float]:
        """Add what is charged for the distance to the start, once the loss's gradient is whole and
        before it is clipped; metrics. Collective.
        """
        found = {} if self._start is None else self._start.add_gradient()
        if self._trained_share is not None:
            found["train/trained_share"] = self._trained_share
        return found

    def clip_gradient(self) -> float:
        """Shorten the gradient where it is too long; its length before that. Collective."""
        parameters = list(self.model.parameters())
        return float(whole(torch.nn.utils.clip_grad_norm_(parameters, self._config.max_grad_norm)))

    def step(self) -> None:
        self._optimiser.step()
        if self._average is not None:
            self._average.update()

    # -- weights --------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Every trained parameter by its name, tied ones once, and their moving average: what a
        checkpoint keeps.
        """
        average = {} if self._average is None else self._average.tensors
        return self._gathered(
            [
                *((name, p.detach()) for name, p in self._trained()),
                *((f"{AVERAGE_PREFIX}{name}", value) for name, value in average.items()),
            ]
        )

    def published_weights(self) -> dict[str, Tensor]:
        """The same in the engines' number format: AdamW's small steps vanish in bf16 weights."""
        dtype = DTYPES[self._precision]
        return self._gathered(
            (name, p.detach().to(dtype)) for name, p in self.model.named_parameters()
        )

    def export(self, directory: Path) -> None:
        """Write an ordinary Hugging Face folder, of the moving average where there is one.
        Collective.
        """
        state = None
        if self._average is not None:
            state = self._averaged_weights(self._average)
        elif self._ranks.num > 1:
            state = self.published_weights()
        self._ranks.from_first(
            lambda: save_model(self.model, self._tokenizer, directory, self._precision, state),
            "writing the model",
        )

    # -- checkpoints ----------------------------------------------------------------------------

    def optimiser_state(self) -> dict[str, Any]:
        """Optimiser, random generators of every rank, token count."""
        state = self._optimiser.state_dict()
        moments = {
            index: self._gathered(entries.items()) for index, entries in state["state"].items()
        }
        random = self._random_states()
        if not self._ranks.is_first:
            return {}
        return {
            "optimiser": {"state": moments, "param_groups": state["param_groups"]},
            "random": random,
            "tokens_seen": self.tokens_seen,
            "average_updates": 0 if self._average is None else self._average.num_updates,
        }

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, which every rank has read: bit for bit on as many ranks as wrote
        it, to rounding on another number. Ranks that had none keep their random generator.
        """
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(like(weights[name], parameter))
        if self._average is not None:
            named = {name: weights[f"{AVERAGE_PREFIX}{name}"] for name, _ in self._trained()}
            self._average.load(named, state["average_updates"])
        saved = state["optimiser"]
        parameters = [p for group in self._optimiser.param_groups for p in group["params"]]
        moments = {
            index: {
                name: like(value, parameters[index]) if value.ndim else value
                for name, value in entries.items()
            }
            for index, entries in saved["state"].items()
        }
        self._optimiser.load_state_dict({"state": moments, "param_groups": saved["param_groups"]})
        self.tokens_seen = state["tokens_seen"]
        for device, states in state["random"].items():
            if self._ranks.rank < len(states):
                # Cloned: torch reads the state of a view from the start of its storage.
                _set_random_state(device, states[self._ranks.rank].clone())

    def _trained(self) -> Iterator[tuple[str, Any]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def _averaged_weights(self, average: WeightAverage) -> dict[str, Tensor]:
        """The average in the folder's number format; what is not trained as it is."""
        dtype = DTYPES[self._precision]
        return self._gathered(
            (name, average.tensors.get(name, p.detach()).to(dtype))
            for name, p in self.model.named_parameters()
        )

    def _over_ranks(self, sums: Tensor) -> Tensor:
        return self._ranks.all_reduce_sum(sums, "the distance to the start")

    def _random_states(self) -> dict[str, Tensor]:
        """Device -> [ranks, bytes]; a GPU's only where one is used."""
        mine = {"cpu": torch.get_rng_state()}
        if next(self.model.parameters()).is_cuda:
            mine["cuda"] = torch.cuda.get_rng_state()
        states = {}
        for device, content in mine.items():
            table = torch.zeros(self._ranks.num, len(content), dtype=torch.uint8)
            table[self._ranks.rank] = content
            states[device] = self._ranks.all_reduce_sum(table, "gathering random states")
        return states

    def _gathered(self, named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """One tensor after the other, so that no rank but the first holds more than one whole."""
        if self._ranks.num == 1:
            return dict(named)
        result = {}
        for name, value in named:
            value = whole(value)
            if self._ranks.is_first:
                result[name] = value.cpu()
        return result


def _set_random_state(device: str, state: Tensor) -> None:
    if device == "cpu":
        torch.set_rng_state(state)
    elif torch.cuda.is_available():
        torch.cuda.set_rng_state(state)


def _parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {
            "params": [p for p in parameters if p.ndim > UNDECAYED_DIMENSIONS],
            "weight_decay": weight_decay,
        },
        {
            "params": [p for p in parameters if p.ndim <= UNDECAYED_DIMENSIONS],
            "weight_decay": 0.0,
        },
    ]
