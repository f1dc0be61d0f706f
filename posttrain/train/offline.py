"""What trainers that learn from rows share: their settings, TRL's arguments, rows held out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from posttrain.config.lora import Lora
from posttrain.config.restraints import UNRESTRAINED, EarlyStopping, Restraints
from posttrain.errors import InputError, Problem
from posttrain.model.load import DTYPES, load_tokenizer, save_model
from posttrain.model.lora import adapter_matrices, merged_parameters, save_adapter
from posttrain.ports import Objective, Tracker
from posttrain.train.early_stopping import HeldoutWatch
from posttrain.train.half_fine_tuning import freeze_half, tell_half

HELDOUT_EVALUATIONS = 6  # over a stage: before the first step, after the last, four between
LARGEST_HOLDOUT = 0.2  # share of the rows; a small data set is rather trained on than measured with

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class OfflineSettings:
    """What one stage that learns from rows asks of its trainer."""

    directory: Path  # the stage's folder; the model is written to `directory/model`
    model_path: str
    objective: Objective
    batch_rows: int  # per optimiser step, over all ranks
    tokens_per_micro_batch: int
    steps: int | None  # this or `epochs`; one epoch where neither is given
    epochs: float | None
    holdout_rows: int
    seed: int
    precision: str  # "fp32", or "bf16": fp32 weights, bf16 arithmetic, bf16 model folder
    checkpoint_every: int = 200  # steps
    lora: Lora | None = None  # adapters are trained in place of all weights
    restraints: Restraints = UNRESTRAINED  # without adapters
    early_stopping: EarlyStopping | None = None

    @property
    def autocast(self) -> torch.dtype | None:
        return torch.bfloat16 if self.precision == "bf16" else None

    def num_steps(self, num_rows: int) -> int:
        """Optimiser steps on so many rows."""
        if self.steps is not None:
            return self.steps
        per_epoch = -(-num_rows // self.batch_rows)
        return max(1, round((self.epochs or 1.0) * per_epoch))


def hold_out(rows: Sequence[Row], count: int, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows held out): at most a fifth is held out, chosen by the seed."""
    count = min(count, int(LARGEST_HOLDOUT * len(rows)))
    chosen = set(random.Random(f"{seed}/holdout").sample(range(len(rows)), count))
    training = [row for number, row in enumerate(rows) if number not in chosen]
    return training, [rows[number] for number in sorted(chosen)]


def evaluate_every(num_steps: int, wanted: EarlyStopping | None = None) -> int:
    """Steps between two looks at the rows held out."""
    if wanted is not None and wanted.every is not None:
        return wanted.every
    return -(-num_steps // (HELDOUT_EVALUATIONS - 1))


def heldout_watch(
    settings: OfflineSettings, num_rows: int, num_heldout: int, metric: str, higher_is_better: bool
) -> HeldoutWatch | None:
    """What ends the stage early, where that is asked for.

    Raises InputError where no rows are held out.
    """
    wanted = settings.early_stopping
    if wanted is None:
        return None
    if num_heldout == 0:
        raise InputError(
            Problem(
                "nothing-held-out",
                f"`early_stopping` looks at held-out rows, and of {num_rows} rows none is",
                path="early_stopping",
                help=f"more rows: {1 / LARGEST_HOLDOUT:.0f} give one; or `holdout_rows`",
            )
        )
    every = evaluate_every(settings.num_steps(num_rows), wanted)
    return HeldoutWatch(settings.directory, metric, higher_is_better, wanted.patience, every)


def prepare_half(model: Any, settings: OfflineSettings, tracker: Tracker) -> None:
    """Freeze half of the model where that is asked for; before a trainer sees it."""
    if not settings.restraints.half_fine_tuning:
        return
    frozen = freeze_half(model, settings.seed)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        tell_half(model, frozen, settings.directory, tracker)


def training_arguments(
    settings: OfflineSettings, num_steps: int, *, seed: int | None = None
) -> dict[str, Any]:
    """Arguments of every TRL trainer here, the algorithm's own among them.

    Raises InputError where the rows of a step cannot be shared by the ranks.
    """
    world_size = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if settings.batch_rows % world_size:
        raise InputError(
            Problem(
                "batch-not-divisible",
                f"{settings.batch_rows} rows per step cannot be shared by {world_size} trainers",
                path="batch.rows",
                help=f"rows: {-(-settings.batch_rows // world_size) * world_size}",
            )
        )
    seed = (settings.seed if seed is None else seed) % 2**31
    common: dict[str, Any] = {
        "output_dir": str(settings.directory / "checkpoints"),
        "max_steps": num_steps,
        "per_device_train_batch_size": settings.batch_rows // world_size,
        "gradient_accumulation_steps": 1,  # the token budget decides: StageTrainer
        "seed": seed,
        "data_seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "ddp_backend": "gloo" if world_size > 1 and not torch.cuda.is_available() else None,
        "bf16": settings.precision == "bf16",
        "gradient_checkpointing": False,
        "max_length": None,  # rows that are too long were refused or left out before
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "dataloader_num_workers": 0,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "all",
        "save_strategy": "steps",
        "save_steps": settings.checkpoint_every,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return common | dict(settings.objective.trainer_settings)


def write_model(
    model: Any, settings: OfflineSettings, directory: Path, adapter: Path | None = None
) -> None:
    """A model folder, merged where adapters were trained; those go to the folder `adapter`, if one
    is given.
    """
    merged = None
    if settings.lora is not None:
        # Off the device one by one: it may have no room for the model once more.
        dtype = DTYPES[settings.precision]
        merged = {name: value.cpu() for name, value in merged_parameters(model, dtype)}
    if settings.lora is not None and adapter is not None:
        save_adapter(model, dict(adapter_matrices(model)), adapter)
    # Last: where it is, the stage has nothing more to do.
    save_model(model, load_tokenizer(settings.model_path), directory, settings.precision, merged)
