"""What TRL's trainers lack, as a class to put in front of one: `class Ours(StageTrainer, TRLs)`.

A token budget for forward passes, atomic checkpoints, our metric names, stops when asked, no step
with a broken gradient. TRL's loop, losses and optimiser are used as they are. The whole optimiser
batch arrives at once; `training_step` cuts it into micro-batches and hands each to TRL. So how many
there are changes nothing.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from posttrain.errors import StageFailed
from posttrain.model.lora import has_adapters
from posttrain.ports import CheckpointFolders, Tracker

TRAINED = "trained.safetensors"  # in a checkpoint: the adapters, where nothing else is trained
NOT_FINITE_HELP = "lower algorithm.lr, then posttrain resume: it goes on from the last checkpoint"


class StageTrainer(Trainer):
    """See the module. `model`, `args`, `train_dataset`, ... are TRL's."""

    def __init__(
        self,
        *args: Any,
        tokens_per_micro_batch: int,
        tracker: Tracker,
        checkpoints: CheckpointFolders,
        steps_before: int = 0,
        **kwargs: Any,
    ) -> None:
        """`steps_before`: steps of the stage that other trainers made before this one."""
        self._budget = tokens_per_micro_batch
        self._tracker = tracker
        self._checkpoints = checkpoints
        self._steps_before = steps_before
        self._tokens_logged = 0
        self._logged_at = time.monotonic()
        super().__init__(*args, **kwargs)

    def go_on(self) -> bool:
        """Train from the newest checkpoint, or from the start; False where a stop came first."""
        latest = self._checkpoints.latest()
        if latest is not None:
            made = int(latest.name.rpartition("-")[2])
            self._tracker.event("restored", step=self._steps_before + made)
        self.train(resume_from_checkpoint=None if latest is None else str(latest))
        return bool(self.state.global_step >= self.state.max_steps)

    # -- what each trainer says for itself ------------------------------------------------------

    def micro_batches(self, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The optimiser batch, in parts of at most `self._budget` tokens."""
        raise NotImplementedError

    def own_metrics(self, logs: Mapping[str, float], tokens: float) -> dict[str, float]:
        """Beside those that all trainers have. `tokens`: read in the step, over all ranks."""
        raise NotImplementedError

    # -- the step -------------------------------------------------------------------------------

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward of the optimiser batch, micro-batch by micro-batch."""
        pieces = list(self.micro_batches(inputs))
        loss = torch.zeros((), device=self.args.device)
        for number, piece in enumerate(pieces, start=1):
            # Ranks exchange gradients once, with their last micro-batch, however many they have.
            quiet = number < len(pieces) and self.accelerator.num_processes > 1
            with self.accelerator.no_sync(model) if quiet else nullcontext():
                loss += super().training_step(model, piece, num_items_in_batch)
        if not math.isfinite(loss.item()):
            raise StageFailed(
                f"step {self.state.global_step + 1}: the loss is {loss.item():g}; the weights were "
                "not changed",
                help=NOT_FINITE_HELP,
            )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One line per step under our names. TRL's own history grows for ever: not kept."""
        super().log(logs, start_time)
        self.state.log_history.clear()
        if "loss" not in logs or not self.is_world_process_zero():
            return
        now = time.monotonic()
        seconds, self._logged_at = now - self._logged_at, now
        tokens = self.state.num_input_tokens_seen - self._tokens_logged
        self._tokens_logged = self.state.num_input_tokens_seen
        self.track(
            {
                "train/loss": logs["loss"],
                "train/grad_norm": logs["grad_norm"],
                "train/lr": logs["learning_rate"],
                "train/epoch": logs["epoch"],
                "train/step_time_s": seconds,
                "train/tokens_per_s": tokens / seconds,
                "train/peak_memory_bytes": peak_memory_bytes(),
                **self.own_metrics(logs, tokens),
            }
        )

    def track(self, metrics: Mapping[str, float]) -> None:
        """Metrics at the stage's present step."""
        self._tracker.log(
            metrics,
            step=self._steps_before + self.state.global_step,
            tokens=self.state.num_input_tokens_seen,
        )

    def start_clock(self) -> None:
        """What was done since the last step (an evaluation, a checkpoint) is no step time."""
        self._logged_at = time.monotonic()
        self._tokens_logged = self.state.num_input_tokens_seen

    # -- saving ---------------------------------------------------------------------------------

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The run's manifest says where a model came from."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        usual, self.args.output_dir = self.args.output_dir, str(self._checkpoints.begin(step))
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                written = self._checkpoints.begin(step) / f"checkpoint-{step}"
                self._checkpoints.commit(step, written)
                self._tracker.event("saved", step=self._steps_before + step)
            self.accelerator.wait_for_everyone()
        finally:
            self.args.output_dir = usual

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Of a model with adapters these alone: the rest lies where the stage started from."""
        if not has_adapters(self.model):
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file({n: p.data for n, p in self._trained().items()}, folder / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not has_adapters(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = load_file(Path(resume_from_checkpoint) / TRAINED)
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(saved[name])

    def _trained(self) -> dict[str, Any]:
        model: Any = self.model
        return {name: p for name, p in model.named_parameters() if p.requires_grad}


class StageCallback(TrainerCallback):
    """Measuring on held-out rows now and then, stopping when asked, no broken gradient."""

    def __init__(
        self,
        heldout: Callable[[], Mapping[str, float]] | None,
        evaluate_every: int,
        stop_asked: Callable[[], bool],
    ) -> None:
        """`heldout` gives metrics by full name."""
        self._heldout = heldout
        self._evaluate_every = evaluate_every
        self._stop_asked = stop_asked
        self.trainer: StageTrainer  # set once it exists

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step == 0:
            self._evaluate(state)
        self.trainer.start_clock()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step and state.global_step % self._evaluate_every == 0:
            self._evaluate(state)
            self.trainer.start_clock()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        if not math.isfinite(norm):
            raise StageFailed(
                f"step {state.global_step + 1}: the gradient is not finite; the weights were not "
                "changed",
                help=NOT_FINITE_HELP,
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._everyone_stops():
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            self._evaluate(state)

    def _evaluate(self, state: TrainerState) -> None:
        if self._heldout is not None and state.is_world_process_zero:
            self.trainer.track(self._heldout())

    def _everyone_stops(self) -> bool:
        """All ranks end after the same step, also where one sees the request earlier."""
        asked = self._stop_asked()
        if self.trainer.accelerator.num_processes == 1:
            return asked
        flag = torch.tensor([float(asked)], device=self.trainer.args.device)
        return bool(self.trainer.accelerator.reduce(flag, reduction="sum").item() > 0)


def peak_memory_bytes() -> float:
    """Of the device on a GPU, of the process on a CPU."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
