"""What happens around the steps of a `StageTrainer`: measuring on held-out rows, stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from posttrain.errors import StageFailed
from posttrain.train.early_stopping import HeldoutWatch
from posttrain.train.stage_trainer import NOT_FINITE_HELP, StageTrainer


class StageCallback(TrainerCallback):
    """Measuring on held-out rows now and then, stopping when asked, no broken gradient."""

    def __init__(
        self,
        heldout: Callable[[], Mapping[str, float]] | None,
        evaluate_every: int,
        stop_asked: Callable[[], bool],
        watch: HeldoutWatch | None = None,
    ) -> None:
        """`heldout` gives metrics by full name; `watch` says when they get no better."""
        self._heldout = heldout
        self._watch = watch
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
        self.trainer.after_step()
        no_better = False
        if state.global_step % self._evaluate_every == 0 or state.global_step >= state.max_steps:
            began = time.monotonic()
            no_better = self._evaluate(state) and state.global_step < state.max_steps
            self.trainer.skip_clock(time.monotonic() - began)
        asked, no_better = self._of_any_rank(self._stop_asked(), no_better)
        if no_better:
            self.trainer.ended_early = True
            control.should_training_stop = True
        elif asked:
            control.should_save = True
            control.should_training_stop = True

    def _evaluate(self, state: TrainerState) -> bool:
        """Measure on the first rank; whether held-out rows say that training ends here."""
        if self._heldout is None or not state.is_world_process_zero:
            return False
        with self.trainer.averaged():
            metrics = self._heldout()
            self.trainer.track(metrics)
            if self._watch is None:
                return False
            value = metrics[self._watch.metric]
            return self._watch.note(state.global_step, value, self.trainer.trained_weights)

    def _of_any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """All ranks end after the same step, also where one sees a reason earlier."""
        if self.trainer.accelerator.num_processes == 1:
            return flags
        mine = torch.tensor([float(flag) for flag in flags], device=self.trainer.args.device)
        total = self.trainer.accelerator.reduce(mine, reduction="sum")
        return tuple(bool(each > 0) for each in total)
