"""Supervised fine-tuning of one model on rendered rows, with TRL."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from posttrain.model.chat import RenderedRow
from posttrain.model.load import load_model, load_tokenizer
from posttrain.model.lora import add_adapters
from posttrain.model.packed import packed_forward
from posttrain.ports import CheckpointFolders, Tracker
from posttrain.train.early_stopping import HeldoutWatch
from posttrain.train.offline import (
    OfflineSettings,
    evaluate_every,
    heldout_watch,
    hold_out,
    prepare_half,
    training_arguments,
    write_model,
)
from posttrain.train.packing import allocate

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from posttrain.train.sft_trainer import PackedSftTrainer

HELDOUT_LOSS = "sft/heldout_loss"
IGNORED = -100  # label of tokens that are not trained


def run_sft(
    settings: OfflineSettings,
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
    watch = heldout_watch(settings, len(training), len(heldout), HELDOUT_LOSS, False)
    model = load_model(settings.model_path, "fp32")  # fp32 weights: bf16 would swallow small steps
    if settings.lora is not None:
        add_adapters(model, settings.lora, settings.seed)
    prepare_half(model, settings, tracker)
    configs = copy.deepcopy((model.config, model.generation_config))
    trainer = _make_trainer(
        model, settings, training, heldout, tracker, stop_asked, checkpoints, watch
    )
    if not trainer.go_on():
        return "stopped"
    if trainer.is_world_process_zero():
        trainer.finish(watch)
        model.config, model.generation_config = configs  # without what TRL changed for training
        folder = settings.directory
        write_model(model, settings, folder / "model", folder / "adapter")
    trainer.accelerator.wait_for_everyone()
    return "done"


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
    settings: OfflineSettings,
    training: Sequence[RenderedRow],
    heldout: Sequence[RenderedRow],
    tracker: Tracker,
    stop_asked: Callable[[], bool],
    checkpoints: CheckpointFolders,
    watch: HeldoutWatch | None,
) -> PackedSftTrainer:
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig

    from posttrain.train.sft_trainer import PackedSftTrainer
    from posttrain.train.stage_callback import StageCallback

    def heldout_loss() -> dict[str, float]:
        loss = mean_loss(model, heldout, settings.tokens_per_micro_batch, settings.autocast)
        perplexity = math.exp(min(loss, 700.0))
        return {HELDOUT_LOSS: loss, "sft/heldout_perplexity": perplexity}

    steps = settings.num_steps(len(training))
    every = evaluate_every(steps, settings.early_stopping)
    callback = StageCallback(heldout_loss if heldout else None, every, stop_asked, watch)
    packed: dict[str, Any] = {
        "padding_free": True,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    trainer = PackedSftTrainer(
        model=model,
        args=SFTConfig(**training_arguments(settings, steps), **packed),
        train_dataset=_dataset(training),
        processing_class=load_tokenizer(settings.model_path),
        callbacks=[callback],
        tokens_per_micro_batch=settings.tokens_per_micro_batch,
        tracker=tracker,
        checkpoints=checkpoints,
        restraints=settings.restraints,
    )
    trainer.remove_callback(PrinterCallback)
    callback.trainer = trainer
    return trainer


def _dataset(rows: Sequence[RenderedRow]) -> Dataset:
    from datasets import Dataset

    labels = [
        [t if m else IGNORED for t, m in zip(row.token_ids, row.trained_mask, strict=True)]
        for row in rows
    ]
    return Dataset.from_dict({"input_ids": [list(row.token_ids) for row in rows], "labels": labels})


def _require_budget(rows: Sequence[RenderedRow], budget_tokens: int) -> None:
    """A row that no micro-batch can hold is found before the first step."""
    allocate([max((len(row.token_ids) for row in rows), default=0)], budget_tokens)
