"""Supervised fine-tuning of one model on rendered rows, with TRL."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from posttrain.config.lora import Lora
from posttrain.errors import InputError, Problem
from posttrain.model.chat import RenderedRow
from posttrain.model.load import DTYPES, load_model, load_tokenizer, save_model
from posttrain.model.lora import adapter_matrices, add_adapters, merged_parameters, save_adapter
from posttrain.model.packed import packed_forward
from posttrain.ports import CheckpointFolders, Objective, Tracker
from posttrain.train.packing import allocate

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel
    from trl import SFTConfig

    from posttrain.train.sft_trainer import PackedSftTrainer

IGNORED = -100  # label of tokens that are not trained
HELDOUT_EVALUATIONS = 6  # over a stage: before the first step, after the last, four between
LARGEST_HOLDOUT = 0.2  # share of the rows; a small data set is rather trained on than measured with


@dataclass(frozen=True, slots=True)
class SftSettings:
    """What one supervised stage asks of its trainer."""

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


def run_sft(
    settings: SftSettings,
    rows: Sequence[RenderedRow],
    tracker: Tracker,
    stop_asked: Callable[[], bool],
    checkpoints: CheckpointFolders,
) -> Literal["done", "stopped"]:
    """Train and write the model folder; or, asked to stop, a checkpoint to go on from.

    The loss is the mean over all trained tokens of an optimiser batch. The newest checkpoint is
    gone on from, bit for bit. `stop_asked` is polled after each step.
    Raises InputError (rows that do not fit), StageFailed (a loss or gradient that is not finite).
    """
    training, heldout = hold_out(rows, settings.holdout_rows, settings.seed)
    _require_budget(rows, settings.tokens_per_micro_batch)
    model = load_model(settings.model_path, "fp32")  # fp32 weights: bf16 would swallow small steps
    if settings.lora is not None:
        add_adapters(model, settings.lora, settings.seed)
    configs = copy.deepcopy((model.config, model.generation_config))
    trainer = _make_trainer(model, settings, training, heldout, tracker, stop_asked, checkpoints)
    latest = checkpoints.latest()
    if latest is not None:
        tracker.event("restored", step=int(latest.name.rpartition("-")[2]))
    trainer.train(resume_from_checkpoint=None if latest is None else str(latest))
    if trainer.state.global_step < trainer.state.max_steps:
        return "stopped"
    if trainer.is_world_process_zero():
        model.config, model.generation_config = configs  # without what TRL changed for training
        _write_model(model, settings)
        checkpoints.clear()
    trainer.accelerator.wait_for_everyone()
    return "done"


def _write_model(model: PreTrainedModel, settings: SftSettings) -> None:
    """The model folder, merged where adapters were trained; those lie beside it in `adapter/`."""
    merged = None
    if settings.lora is not None:
        # Off the device one by one: it may have no room for the model once more.
        dtype = DTYPES[settings.precision]
        merged = {name: value.cpu() for name, value in merged_parameters(model, dtype)}
        save_adapter(model, dict(adapter_matrices(model)), settings.directory / "adapter")
    tokenizer = load_tokenizer(settings.model_path)
    save_model(model, tokenizer, settings.directory / "model", settings.precision, merged)


def hold_out(
    rows: Sequence[RenderedRow], count: int, seed: int
) -> tuple[list[RenderedRow], list[RenderedRow]]:
    """(rows to train on, rows held out): at most a fifth is held out, chosen by the seed."""
    count = min(count, int(LARGEST_HOLDOUT * len(rows)))
    chosen = set(random.Random(f"{seed}/holdout").sample(range(len(rows)), count))
    training = [row for number, row in enumerate(rows) if number not in chosen]
    return training, [rows[number] for number in sorted(chosen)]


def mean_loss(
    model: Any, rows: Sequence[RenderedRow], budget_tokens: int, autocast: torch.dtype | None = None
) -> float:
    """Mean of -log p over all trained tokens of the rows, in nats per token."""
    total, count = 0.0, 0
    was_training, _ = model.training, model.eval()
    with torch.no_grad():
        for members in allocate([len(row.token_ids) for row in rows], budget_tokens):
            piece = [rows[i] for i in members]
            tokens_T = torch.tensor(
                [t for row in piece for t in row.token_ids], device=model.device
            )
            wanted_T = torch.tensor([m for row in piece for m in row.trained_mask]).bool()
            logprobs_N = packed_forward(
                model,
                tokens_T,
                [len(row.token_ids) for row in piece],
                wanted_T=wanted_T.to(model.device),
                autocast=autocast,
            ).logprobs_N
            total -= float(logprobs_N.double().sum())
            count += len(logprobs_N)
    model.train(was_training)
    return total / max(count, 1)


def _make_trainer(
    model: PreTrainedModel,
    settings: SftSettings,
    training: Sequence[RenderedRow],
    heldout: Sequence[RenderedRow],
    tracker: Tracker,
    stop_asked: Callable[[], bool],
    checkpoints: CheckpointFolders,
) -> PackedSftTrainer:
    from transformers.trainer_callback import PrinterCallback

    from posttrain.train.sft_trainer import PackedSftTrainer, StageCallback

    autocast = torch.bfloat16 if settings.precision == "bf16" else None

    def heldout_loss() -> float:
        return mean_loss(model, heldout, settings.tokens_per_micro_batch, autocast)

    steps = settings.steps or _steps_of_epochs(settings, len(training))
    callback = StageCallback(
        heldout_loss if heldout else None,
        evaluate_every=-(-steps // (HELDOUT_EVALUATIONS - 1)),
        stop_asked=stop_asked,
        tracker=tracker,
    )
    trainer = PackedSftTrainer(
        model=model,
        args=_arguments(settings, steps),
        train_dataset=_dataset(training),
        processing_class=load_tokenizer(settings.model_path),
        callbacks=[callback],
        tokens_per_micro_batch=settings.tokens_per_micro_batch,
        tracker=tracker,
        checkpoints=checkpoints,
    )
    trainer.remove_callback(PrinterCallback)
    callback.trainer = trainer
    return trainer


def _arguments(settings: SftSettings, steps: int) -> SFTConfig:
    from trl import SFTConfig

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
    common: dict[str, Any] = {
        "output_dir": str(settings.directory / "checkpoints"),
        "max_steps": steps,
        "per_device_train_batch_size": settings.batch_rows // world_size,
        "gradient_accumulation_steps": 1,  # the token budget decides: PackedSftTrainer
        "seed": settings.seed % 2**31,
        "data_seed": settings.seed % 2**31,
        "use_cpu": not torch.cuda.is_available(),
        "ddp_backend": "gloo" if world_size > 1 and not torch.cuda.is_available() else None,
        "bf16": settings.precision == "bf16",
        "gradient_checkpointing": False,
        "padding_free": True,
        "max_length": None,  # rows that are too long were refused or left out before
        "dataset_kwargs": {"skip_prepare_dataset": True},
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
    return SFTConfig(**common | dict(settings.objective.trainer_settings))


def _dataset(rows: Sequence[RenderedRow]) -> Dataset:
    from datasets import Dataset

    labels = [
        [t if m else IGNORED for t, m in zip(row.token_ids, row.trained_mask, strict=True)]
        for row in rows
    ]
    return Dataset.from_dict({"input_ids": [list(row.token_ids) for row in rows], "labels": labels})


def _steps_of_epochs(settings: SftSettings, num_rows: int) -> int:
    per_epoch = -(-num_rows // settings.batch_rows)
    return max(1, round((settings.epochs or 1.0) * per_epoch))


def _require_budget(rows: Sequence[RenderedRow], budget_tokens: int) -> None:
    """A row that no micro-batch can hold is found before the first step."""
    allocate([max((len(row.token_ids) for row in rows), default=0)], budget_tokens)
