"""What TRL's trainers lack, as a class to put in front of one: `class Ours(StageTrainer, TRLs)`.

A token budget for forward passes, atomic checkpoints, our metric names, stops when asked, no step
with a broken gradient. TRL's loop, losses and optimiser are used as they are. The whole optimiser
batch arrives at once; `training_step` cuts it into micro-batches and hands each to TRL. So how many
there are changes nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerState

from posttrain.config.restraints import UNRESTRAINED, Restraints
from posttrain.errors import StageFailed
from posttrain.model.lora import has_adapters
from posttrain.ports import CheckpointFolders, Tracker
from posttrain.train.early_stopping import HeldoutWatch
from posttrain.train.half_fine_tuning import trained_share
from posttrain.train.memory import peak_memory_bytes
from posttrain.train.start_point import StartPoint
from posttrain.train.weight_average import WeightAverage

TRAINED = "trained.safetensors"  # in a checkpoint: the adapters, where nothing else is trained
STATE = "trainer_state.json"  # transformers' name
AVERAGE = "average.safetensors"  # in a checkpoint: the moving average of the weights
NOT_FINITE_HELP = "lower algorithm.lr, then posttrain run: the stage begins anew"


class StageTrainer(Trainer):
    """See the module. `model`, `args`, `train_dataset`, ... are TRL's."""

    def __init__(
        self,
        *args: Any,
        tokens_per_micro_batch: int,
        tracker: Tracker,
        checkpoints: CheckpointFolders,
        steps_before: int = 0,
        restraints: Restraints = UNRESTRAINED,
        **kwargs: Any,
    ) -> None:
        """`steps_before`: steps of the stage that other trainers made before this one. The model is
        the one that the stage starts from.
        """
        self._budget = tokens_per_micro_batch
        self._tracker = tracker
        self._checkpoints = checkpoints
        self._steps_before = steps_before
        self._tokens_logged = 0
        self._logged_at = time.monotonic()
        self.ended_early = False
        self._average: WeightAverage | None = None
        self._start: StartPoint | None = None
        self._restraint_metrics: dict[str, float] = {}
        super().__init__(*args, **kwargs)
        self._restrain(restraints)

    def go_on(self) -> bool:
        """Train from the newest checkpoint, or from the start; False where a stop came first."""
        latest = self._checkpoints.latest()
        if latest is not None:
            made = int(latest.name.rpartition("-")[2])
            self._tracker.event("restored", step=self._steps_before + made)
            if self._average is not None:
                self._average.load(load_file(latest / AVERAGE), made)
        state = None if latest is None else TrainerState.load_from_json(str(latest / STATE))
        if state is not None and state.global_step >= state.max_steps:
            # All steps are made, and `train` would make one more before it looks.
            self._load_from_checkpoint(str(latest))
            self.state = state
        else:
            self.train(resume_from_checkpoint=None if latest is None else str(latest))
        return self.ended_early or bool(self.state.global_step >= self.state.max_steps)

    def finish(self, watch: HeldoutWatch | None) -> None:
        """The model gets the weights that the stage gives on: the best measured, or the average.

        On the first rank, once training has ended.
        """
        if self._average is not None:
            with torch.no_grad():
                for name, parameter in self._trained().items():
                    parameter.copy_(self._average.tensors[name])
        best = None if watch is None else watch.restore(self.model)
        if watch is None or best is None:
            return
        step = self._steps_before + self.state.global_step
        if self.ended_early:
            self._tracker.event("stopped-early", step=step, text=watch.why(best))
        elif best.step < self.state.global_step:
            text = f"{watch.metric} was best at step {best.step}: the stage gives on those weights"
            self._tracker.event("best-kept", step=step, text=text)

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
        if self._start is not None:
            self._restraint_metrics |= self._start.add_gradient()  # before TRL clips
        return loss

    def after_step(self) -> None:
        """The weights have changed."""
        if self._average is not None:
            self._average.update()

    def averaged(self) -> AbstractContextManager[None]:
        """Meanwhile the model has the weights that the stage would give on now."""
        return nullcontext() if self._average is None else self._average.in_place()

    def trained_weights(self) -> dict[str, Any]:
        """By name, as the model has them now."""
        return {name: p.detach() for name, p in self._trained().items()}

    def _restrain(self, restraints: Restraints) -> None:
        trained = self._trained()
        if restraints.start_penalty is not None:
            self._start = StartPoint(trained.values(), restraints.start_penalty)
        if restraints.ema is not None:
            self._average = WeightAverage(trained.items(), restraints.ema.decay)
        if restraints.half_fine_tuning:
            self._restraint_metrics["train/trained_share"] = trained_share(self.model)

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
                **self._restraint_metrics,
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

    def skip_clock(self, seconds: float) -> None:
        """So long something else was done within the step that is logged next."""
        self._logged_at += seconds

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
                if self._average is not None:
                    save_file(self._average.tensors, written / AVERAGE)
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
