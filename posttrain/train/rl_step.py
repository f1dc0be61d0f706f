"""One optimiser step of an online algorithm, whatever the algorithm is.

The algorithm's file says what it needs, turns scores into advantages and advantages into a loss.
Here stands what all share: packing by token budget, log-probs at the sampling temperature,
denominators of the whole batch, clipping, the step, and the numbers that people watch.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from posttrain.algorithms import needs_of
from posttrain.config.optimiser import OptimiserConfig
from posttrain.errors import StageFailed
from posttrain.model.load import DTYPES, save_model
from posttrain.model.packed import packed_forward
from posttrain.ports import AdvantageInputs, Advantages, LossInputs, Needs
from posttrain.train.packing import allocate
from posttrain.train.rl_batch import FlatBatch
from posttrain.types import Rollout

UNDECAYED_DIMENSIONS = 1  # norms and biases are vectors; matrices are decayed


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What does not depend on the algorithm."""

    temperature: float
    tokens_per_micro_batch: int
    precision: str = "fp32"  # "bf16": fp32 weights, bf16 arithmetic, bf16 weights for the engines


@dataclass(frozen=True, slots=True)
class _Reference:
    """Log-probs of the starting model on a batch, and what they say of the distance to it."""

    logprobs_T: Tensor
    kl_nats: float  # sequence-summed k1, mean over rollouts


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
    ) -> None:
        # Without dropout: log-probs that are trained on must be those that the engine sampled with.
        self.model = model.eval()
        self._reference = reference.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._algorithm = algorithm
        self._config = config
        self._settings = settings
        self._optimiser = torch.optim.AdamW(
            _parameter_groups(model, config.weight_decay),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
        )
        self.tokens_seen = 0
        _refuse_unmet(needs_of(algorithm, config))

    # -- one step -------------------------------------------------------------------------------

    def step(self, flat: FlatBatch, step: int, num_steps: int) -> dict[str, float]:
        """Train on one batch; metrics by name. Raises StageFailed for a non-finite gradient."""
        reference = self._reference_logprobs(flat)
        advantages = self._algorithm.advantages(
            AdvantageInputs(
                rewards_GK=flat.rewards_GK,
                lengths_B=flat.lengths_B,
                mask_T=flat.mask_T,
                behaviour_logprobs_T=flat.behaviour_logprobs_T,
                reference_logprobs_T=reference.logprobs_T,
                cut_B=flat.cut_B,
            ),
            self._config,
        )
        lr = self._config.lr_at(step, num_steps)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        self._optimiser.zero_grad(set_to_none=True)
        metrics = self._accumulate(flat, advantages, reference)
        norm = float(
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._config.max_grad_norm)
        )
        if not (math.isfinite(norm) and math.isfinite(metrics["train/loss"])):
            raise StageFailed(
                f"step {step}: loss {metrics['train/loss']:g}, gradient norm {norm:g}; the weights "
                "were not changed",
                help="lower algorithm.lr, then posttrain resume: it goes on from the last "
                "checkpoint",
            )
        self._optimiser.step()
        num_tokens = sum(len(r.prompt_ids) + len(r.token_ids) for r in flat.rollouts)
        self.tokens_seen += num_tokens
        return metrics | {
            "train/grad_norm": norm,
            "train/lr": lr,
            "train/tokens": float(num_tokens),
            "train/real_token_share": 1.0,  # packed: no padding is ever computed
            "train/peak_memory_bytes": _peak_memory_bytes(),
            "policy/kl_reference_nats": reference.kl_nats,
            **advantages.metrics,
        }

    def _accumulate(
        self, flat: FlatBatch, advantages: Advantages, reference: _Reference
    ) -> dict[str, float]:
        sums: dict[str, float] = {"train/loss": 0.0, "policy/entropy_nats": 0.0}
        total_tokens = max(flat.total_tokens, 1.0)
        for piece in self._pieces(flat):
            logprobs_T, entropy_T = self._forward(piece.rollouts, entropy=True)
            assert entropy_T is not None
            inputs = LossInputs(
                logprobs_T=logprobs_T,
                behaviour_logprobs_T=flat.behaviour_logprobs_T[piece.tokens_T],
                advantages_T=advantages.advantages_T[piece.tokens_T],
                mask_T=flat.mask_T[piece.tokens_T],
                sequence_T=piece.sequence_T,
                num_sequences=len(piece.rollouts),
                total_tokens=total_tokens,
                total_sequences=max(flat.total_sequences, 1.0),
                entropy_T=entropy_T,
                reference_logprobs_T=reference.logprobs_T[piece.tokens_T],
            )
            terms = self._algorithm.loss(inputs, self._config)
            terms.total.backward()
            sums["train/loss"] += float(terms.total.detach())
            entropy = float((entropy_T * inputs.mask_T).sum()) / total_tokens
            sums["policy/entropy_nats"] += entropy
            for name, value in terms.metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    # -- log-probs --------------------------------------------------------------------------------

    @torch.no_grad()
    def logprobs(self, rollouts: Sequence[Rollout]) -> Tensor:
        """[T] log-probs (nats) of every completion token under the present weights."""
        return self._forward(tuple(rollouts))[0]

    def _forward(
        self, rollouts: tuple[Rollout, ...], entropy: bool = False, model: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        device = next(self.model.parameters()).device
        sequences = [(*r.prompt_ids, *r.token_ids) for r in rollouts]
        wanted = [w for r in rollouts for w in (*[0] * len(r.prompt_ids), *[1] * len(r.token_ids))]
        bf16 = self._settings.precision == "bf16"
        logprobs_T, entropy_T = packed_forward(
            model or self.model,
            torch.tensor([t for sequence in sequences for t in sequence], device=device),
            [len(sequence) for sequence in sequences],
            self._settings.temperature,
            wanted_T=torch.tensor(wanted, dtype=torch.bool, device=device),
            entropy=entropy,
            autocast=torch.bfloat16 if bf16 else None,
        )
        # Everything that is not the model's lives on the CPU: it is small, and read there.
        return logprobs_T.cpu(), None if entropy_T is None else entropy_T.cpu()

    @torch.no_grad()
    def _reference_logprobs(self, flat: FlatBatch) -> _Reference:
        """Held for every algorithm: how far the policy has moved is the first thing people ask."""
        logprobs_T = torch.empty_like(flat.behaviour_logprobs_T)
        for piece in self._pieces(flat):
            logprobs_T[piece.tokens_T], _ = self._forward(piece.rollouts, model=self._reference)
        difference_T = (flat.behaviour_logprobs_T - logprobs_T) * flat.mask_T
        return _Reference(logprobs_T, float(difference_T.sum()) / len(flat.rollouts))

    def _pieces(self, flat: FlatBatch) -> Iterator[_Piece]:
        lengths = [len(r.prompt_ids) + len(r.token_ids) for r in flat.rollouts]
        ends = torch.cumsum(flat.lengths_B, 0).tolist()
        for indices in allocate(lengths, self._settings.tokens_per_micro_batch):
            chosen = [flat.rollouts[i] for i in sorted(indices)]
            spans = [
                torch.arange(ends[i] - len(flat.rollouts[i].token_ids), ends[i])
                for i in sorted(indices)
            ]
            counts = torch.tensor([len(span) for span in spans])
            sequence_T = torch.repeat_interleave(torch.arange(len(chosen)), counts)
            yield _Piece(tuple(chosen), torch.cat(spans), sequence_T)

    # -- saving -----------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Every parameter by its name, tied ones once: what a checkpoint keeps."""
        return {name: value.detach() for name, value in self.model.named_parameters()}

    def published_weights(self) -> dict[str, Tensor]:
        """The same in the engines' number format: AdamW's small steps vanish in bf16 weights."""
        dtype = DTYPES[self._settings.precision]
        return {name: value.to(dtype) for name, value in self.weights().items()}

    def optimiser_state(self) -> dict[str, Any]:
        """Optimiser, random generator, token count."""
        return {
            "optimiser": self._optimiser.state_dict(),
            "random": torch.get_rng_state(),
            "tokens_seen": self.tokens_seen,
        }

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, bit for bit."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(weights[name])
        self._optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        self.tokens_seen = state["tokens_seen"]

    def export(self, directory: Path) -> None:
        """Write an ordinary Hugging Face folder."""
        save_model(self.model, self._tokenizer, directory, self._settings.precision)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One micro-batch: its rollouts, where their completion tokens lie in the flat batch."""

    rollouts: tuple[Rollout, ...]
    tokens_T: Tensor  # indices into the flat batch
    sequence_T: Tensor  # 0-based sequence of each token, within the piece


def _refuse_unmet(needs: Needs) -> None:
    unmet = [n for n in ("critic", "greedy", "proximal", "pairs") if getattr(needs, n)]
    if unmet:
        raise StageFailed(
            f"the algorithm needs {', '.join(unmet)}, which this trainer does not provide",
            help="use an algorithm that needs groups or a reference only: grpo",
        )


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


def _peak_memory_bytes() -> float:
    """Of the process on a CPU, of the device on a GPU."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
