"""Learning from comparisons or judged answers directly, with TRL's DPO trainer and its losses, or
ours in it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from posttrain import ops
from posttrain.errors import InputError, Problem
from posttrain.files import whole_file
from posttrain.model.load import load_model, load_tokenizer
from posttrain.model.lora import add_adapters
from posttrain.model.packed import packed_forward
from posttrain.ports import ANSWER, CheckpointFolders, Tracker
from posttrain.train import heldout
from posttrain.train.early_stopping import HeldoutWatch
from posttrain.train.offline import (
    OfflineSettings,
    evaluate_every,
    heldout_watch,
    prepare_half,
    training_arguments,
    write_model,
)
from posttrain.train.packing import allocate
from posttrain.train.pairs import RenderedPair, hold_out_pairs, require_budget, with_mismatched

if TYPE_CHECKING:
    from posttrain.train.pair_trainer import PreferenceTrainer

REFERENCE_FILE = "reference_logprobs.safetensors"


def run_preference(
    settings: OfflineSettings,
    pairs: Sequence[RenderedPair],
    tracker: Tracker,
    stop_asked: Callable[[], bool],
    checkpoints: CheckpointFolders,
    *,
    has_reference: bool,
) -> Literal["done", "stopped"]:
    """Train and write the model folder; or, asked to stop, a checkpoint to go on from.

    The loss is the mean over the rows of an optimiser batch. Log-probs of the reference, the
    model that training starts from, are computed once and kept in the stage's folder. Otherwise as
    `run_sft`.
    """
    answers = settings.objective.answers
    own = (ANSWER,) if settings.objective.judged else ("chosen", "rejected")
    names = [name for name, said in answers.items() if not said.detached]
    detached = [name for name, said in answers.items() if said.detached]
    borrowed = {name: said.answer for name, said in answers.items() if said.of_next}
    training, held_out = hold_out_pairs(pairs, settings.holdout_rows, settings.seed)
    training = with_mismatched(training, borrowed) if borrowed else training
    watch = heldout_watch(settings, len(training), len(held_out), heldout.ACCURACY, True)
    model: Any = load_model(settings.model_path, "fp32")
    require_budget(training, settings.tokens_per_micro_batch, max(len(names), len(detached)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reference_NS, heldout_NS = None, torch.zeros(len(held_out), len(own))
    rows = _Rows(training, [*names, *detached], held_out, own)
    if has_reference:
        tracker.event("waiting", text="log-probs of the reference, once for all rows")
        model.to(device)
        file = settings.directory / REFERENCE_FILE
        reference_NS, heldout_NS = _reference(file, model, settings, rows)
    if settings.lora is not None:
        add_adapters(model, settings.lora, settings.seed)
    prepare_half(model, settings, tracker)
    configs = copy.deepcopy((model.config, model.generation_config))
    trainer = _make_trainer(
        model, settings, training, reference_NS, names, detached, tracker, checkpoints
    )
    trainer.has_reference = has_reference
    measure = _heldout_metrics(model, settings, rows, heldout_NS, has_reference)
    _add_callback(
        trainer, measure if held_out else None, settings, len(training), stop_asked, watch
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


def answer_logprobs(
    model: Any,
    pairs: Sequence[RenderedPair],
    names: Sequence[str],
    budget_tokens: int,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """[N, S] on the CPU: log-prob in nats of each pair's answers of these names, summed over their
    tokens, in packed passes.
    """
    wanted = [(*pair.answers[name], row, place) for row, pair in enumerate(pairs)
              for place, name in enumerate(names)]  # fmt: skip
    found_NS = torch.zeros(len(pairs), len(names), dtype=torch.float64)
    if not pairs:
        return found_NS.float()
    was_training, _ = model.training, model.eval()
    lengths = [len(context) + len(answer) for context, answer, *_ in wanted]
    with torch.no_grad():
        for members in allocate(lengths, max([budget_tokens, *lengths])):
            tokens, mask, owner = [], [], []
            for number, index in enumerate(members):
                context, answer, *_ = wanted[index]
                tokens += [*context, *answer]
                mask += [False] * len(context) + [True] * len(answer)
                owner += [number] * len(answer)
            logprobs_N = (
                packed_forward(
                    model,
                    torch.tensor(tokens, device=model.device),
                    [lengths[index] for index in members],
                    wanted_T=torch.tensor(mask, device=model.device),
                    autocast=autocast,
                )
                .logprobs_N.double()
                .cpu()
            )
            sums = torch.zeros(len(members), dtype=torch.float64)
            sums.index_add_(0, torch.tensor(owner), logprobs_N)
            for index, value in zip(members, sums, strict=True):
                found_NS[wanted[index][2], wanted[index][3]] = value
    model.train(was_training)
    return found_NS.float()


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows with the names of the answers that are wanted of each."""

    training: Sequence[RenderedPair]
    names: Sequence[str]
    heldout: Sequence[RenderedPair]
    heldout_names: Sequence[str]


def _reference(
    file: Path, model: Any, settings: OfflineSettings, rows: _Rows
) -> tuple[Tensor, Tensor]:
    """(log-probs [N, S] of the rows to train on, [H, S] of those held out), from the file where it
    has them.

    Each rank computes its share.
    """
    which = _fingerprint([*rows.training, *rows.heldout])
    kept = _read(file, which)
    if kept is not None:
        return kept
    of_training = _shared(model, settings, rows.training, rows.names)
    of_heldout = _shared(model, settings, rows.heldout, rows.heldout_names)
    if _rank() == 0:
        with whole_file(file) as partial:
            save_file({"training": of_training, "heldout": of_heldout}, partial, {"rows": which})
    return of_training, of_heldout


def _shared(
    model: Any, settings: OfflineSettings, pairs: Sequence[RenderedPair], names: Sequence[str]
) -> Tensor:
    """[N, S]; every rank computes a share and gets all."""
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    mine = range(_rank(), len(pairs), ranks)
    own = answer_logprobs(
        model, [pairs[i] for i in mine], names, settings.tokens_per_micro_batch, settings.autocast
    )
    if ranks == 1:
        return own
    shares: list[Any] = [None] * ranks
    torch.distributed.all_gather_object(shares, own)
    whole = torch.zeros(len(pairs), len(names))
    for rank, share in enumerate(shares):
        whole[rank::ranks] = share
    return whole


def _read(file: Path, rows: str) -> tuple[Tensor, Tensor] | None:
    if not file.exists():
        return None
    with safe_open(file, framework="pt") as stored:
        if (stored.metadata() or {}).get("rows") != rows:
            return None
        return stored.get_tensor("training"), stored.get_tensor("heldout")


def _fingerprint(pairs: Sequence[RenderedPair]) -> str:
    total = hashlib.sha256()
    for pair in pairs:
        total.update(repr(sorted(pair.answers.items())).encode())
    return total.hexdigest()


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _make_trainer(
    model: Any,
    settings: OfflineSettings,
    training: Sequence[RenderedPair],
    reference_NS: Tensor | None,
    names: Sequence[str],
    detached: Sequence[str],
    tracker: Tracker,
    checkpoints: CheckpointFolders,
) -> PreferenceTrainer:
    from trl import DPOConfig

    from posttrain.train.judged_trainer import JudgedTrainer
    from posttrain.train.pair_trainer import PreferenceTrainer, pair_collator, pair_dataset

    tokenizer = load_tokenizer(settings.model_path)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    all_names = [*names, *detached]
    if reference_NS is None:
        reference_NS = torch.zeros(len(training), len(all_names))
    of_pairs = {
        "include_num_input_tokens_seen": "non_padding",
        "precompute_ref_log_probs": True,  # ours, for every loss: see `_reference`
    }
    judged = settings.objective.judged
    numbers = _judgements(training) if judged else {}
    trainer = (JudgedTrainer if judged else PreferenceTrainer)(
        model=model,
        args=DPOConfig(
            **training_arguments(settings, settings.num_steps(len(training))) | of_pairs
        ),
        train_dataset=pair_dataset(training, all_names, reference_NS, numbers),
        data_collator=pair_collator(names, pad_id, detached, numbers=list(numbers)),
        processing_class=tokenizer,
        tokens_per_micro_batch=settings.tokens_per_micro_batch,
        tracker=tracker,
        checkpoints=checkpoints,
        restraints=settings.restraints,
    )
    trainer.objective, trainer.names, trainer.detached = settings.objective, names, detached
    trainer.num_answers = len(names)
    return trainer


def _judgements(rows: Sequence[RenderedPair]) -> dict[str, list[float]]:
    """Of each judged answer whether it is good, and the weight with which both kinds count alike.

    Raises InputError where there is one kind only: then there is nothing to tell apart.
    """
    good = [bool(row.good) for row in rows]
    if len(set(good)) < 2:
        message = f"all {len(rows)} answers to train on are {'good' if all(good) else 'bad'}"
        raise InputError(Problem("one-label", message, path="data", help="rows of both labels"))
    of_good, of_bad = ops.preferences.label_weights(sum(good), len(good) - sum(good))
    return {
        "good": [float(each) for each in good],
        "balance": [of_good if each else of_bad for each in good],
    }


def _add_callback(
    trainer: Any,
    measure: Callable[[], Mapping[str, float]] | None,
    settings: OfflineSettings,
    num_rows: int,
    stop_asked: Callable[[], bool],
    watch: HeldoutWatch | None,
) -> None:
    from transformers.trainer_callback import PrinterCallback

    from posttrain.train.stage_callback import StageCallback

    every = evaluate_every(settings.num_steps(num_rows), settings.early_stopping)
    callback = StageCallback(measure, every, stop_asked, watch)
    callback.trainer = trainer
    trainer.add_callback(callback)
    trainer.remove_callback(PrinterCallback)


def _heldout_metrics(
    model: Any, settings: OfflineSettings, rows: _Rows, reference_NS: Tensor, has_reference: bool
) -> Callable[[], dict[str, float]]:
    names = rows.heldout_names
    lengths_NS = torch.tensor(
        [[len(row.answers[name][1]) for name in names] for row in rows.heldout]
    )
    good_N = torch.tensor([bool(row.good) for row in rows.heldout])

    def measure() -> dict[str, float]:
        budget = settings.tokens_per_micro_batch
        found_NS = answer_logprobs(model, rows.heldout, names, budget, settings.autocast)
        means_NS = found_NS / lengths_NS.clamp(min=1)
        rewards_NS = found_NS - reference_NS if has_reference else means_NS
        if settings.objective.judged:
            return heldout.of_judged(rewards_NS[:, 0], means_NS[:, 0], good_N)
        return heldout.of_pairs(rewards_NS, means_NS)

    return measure
