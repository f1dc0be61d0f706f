"""Ensembles of reward models on comparisons, with TRL: one member after another, each whole.

A member is never trained by several ranks together: ranks that are there share the members. Every
member has the same rows to train on and the same held-out ones; its seed gives its head and the
order of its rows. Finished members lie in `members/` and are not trained again. What has to be
computed for the whole ensemble is computed by each member for itself, where it was trained:
`finish_ensemble` has only numbers to put together.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from posttrain import ops
from posttrain.errors import StageFailed
from posttrain.files import put_in_place, write_json
from posttrain.model.folders import ENSEMBLE
from posttrain.model.load import load_tokenizer
from posttrain.model.lora import add_adapters
from posttrain.model.reward import load_reward_model, new_reward_model, score_sequences
from posttrain.ports import CheckpointFolders, Tracker
from posttrain.train.augment import hull_variants
from posttrain.train.contrast import (
    Contrast,
    contrast_metrics,
    find_contrasts,
    score_contrasts,
)
from posttrain.train.known_prompts import distinct_prompts, keep_prompts
from posttrain.train.offline import (
    OfflineSettings,
    evaluate_every,
    training_arguments,
    write_model,
)
from posttrain.train.pairs import Ids, RenderedPair, hold_out_pairs, require_budget

if TYPE_CHECKING:
    from posttrain.train.pair_trainer import MemberTrainer

MEMBERS = "members"  # folder of the stage
SUMMARY = ENSEMBLE  # of a member, its own; of the artifact, all of them
SCORES = "heldout_scores"  # of a member: of the chosen and the rejected answer of each row
CONTRASTS = "contrasts"  # of a member: what `score_contrasts` gives
MEASURED_ROWS = 256  # to standardise by, where no row is held out
NAMES = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class EnsembleShare:
    """Which members a rank trains: every `ranks`-th, from its own number on."""

    members: int
    rank: int = 0
    ranks: int = 1

    @property
    def mine(self) -> range:
        return range(self.rank, self.members, self.ranks)


@dataclass(frozen=True, slots=True)
class EnsembleRows:
    """The comparisons of every member."""

    training: Sequence[RenderedPair]
    heldout: Sequence[RenderedPair]
    contrasts: Sequence[Contrast]  # of rows held out
    prompts: Sequence[Ids]  # of training, those that the ensemble keeps


def member_seed(stage_seed: int, member: int) -> int:
    """Below 2**31, and unlike that of any other member or stage."""
    digest = hashlib.sha256(f"{stage_seed}/member/{member}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def train_members(
    settings: OfflineSettings,
    pairs: Sequence[RenderedPair],
    share: EnsembleShare,
    tracker: Tracker,
    stop_asked: Callable[[], bool],
    checkpoints_of: Callable[[int], CheckpointFolders],
) -> Literal["done", "stopped"]:
    """Train the members of this rank's share into `members/`.

    Each member has checkpoints of its own (`checkpoints_of`), and goes on from the newest. Raises
    InputError (rows that do not fit), StageFailed (a loss, gradient or scores that are not finite).
    """
    require_budget(pairs, settings.tokens_per_micro_batch, len(NAMES))
    folders = [settings.directory / MEMBERS / str(member) for member in share.mine]
    if all((folder / SUMMARY).exists() for folder in folders):
        return "done"
    rows = _rows(settings, pairs, tracker if share.rank == 0 else None)
    steps = settings.num_steps(len(rows.training))
    for place, (member, folder) in enumerate(zip(share.mine, folders, strict=True)):
        if (folder / SUMMARY).exists():
            continue
        if stop_asked():
            return "stopped"
        tracker.event("waiting", text=f"member {member + 1} of {share.members}")
        checkpoints = checkpoints_of(member)
        seed = member_seed(settings.seed, member)
        trainer = _make_trainer(
            settings,
            rows,
            member,
            seed,
            place * steps,
            tracker,
            stop_asked,
            checkpoints,
        )
        if not trainer.go_on():
            return "stopped"
        _write_member(trainer.model, settings, rows, folder, member, seed)
        checkpoints.clear()
        del trainer  # the next one needs its room
        gc.collect()
    return "done"


def _rows(
    settings: OfflineSettings, pairs: Sequence[RenderedPair], tracker: Tracker | None
) -> EnsembleRows:
    """What each member is trained on and measured with, the same on every worker."""
    training, heldout = hold_out_pairs(pairs, settings.holdout_rows, settings.seed)
    start = new_reward_model(settings.model_path, settings.seed, pad_id=0)
    start.to("cuda" if torch.cuda.is_available() else "cpu")
    variants = hull_variants(start, training, settings)
    made, kept = sum(len(pair.variants) for pair in training), sum(map(len, variants))
    if made and tracker is not None:
        text = f"{kept} of {made} spelling variants of {len(training)} comparisons are trained on"
        tracker.event("augmented", text=text)
    return EnsembleRows(
        [row for pair, more in zip(training, variants, strict=True) for row in (pair, *more)],
        heldout,
        find_contrasts(start, heldout, settings),
        distinct_prompts(training, settings.seed),
    )


def finish_ensemble(directory: Path, members: int, tracker: Tracker) -> Path:
    """The artifact, `reward_models/`: all members, and what they say together of held-out rows.

    Raises StageFailed where a member is missing.
    """
    artifact = directory / "reward_models"
    if (artifact / SUMMARY).exists():
        return artifact
    folder = directory / MEMBERS
    missing = [m for m in range(members) if not (folder / str(m) / SUMMARY).exists()]
    if missing:
        raise StageFailed(
            f"member {missing[0]} of the ensemble was not trained",
            help="posttrain resume trains what is missing",
        )
    summaries = [json.loads((folder / str(m) / SUMMARY).read_text()) for m in range(members)]
    scores_MN2 = torch.tensor([each.pop(SCORES) for each in summaries])
    contrasts = [each.pop(CONTRASTS, []) for each in summaries]
    means_M = torch.tensor([each["mean"] for each in summaries])
    stds_M = torch.tensor([each["std"] for each in summaries])
    together = _together(scores_MN2, means_M, stds_M) if scores_MN2.numel() else {}
    together |= contrast_metrics(contrasts, means_M, stds_M)
    if together:
        steps = sum(each["steps"] for each in summaries)
        tracker.log({f"rm/{name}": value for name, value in together.items()}, step=steps)
    document = {
        "schema": 1,
        "members": summaries,
        "heldout_rows": scores_MN2.shape[1],
        "together": together,
    }
    write_json(folder / SUMMARY, document)
    put_in_place(folder, artifact)
    return artifact


def _together(scores_MN2: Tensor, means_M: Tensor, stds_M: Tensor) -> dict[str, float]:
    """What the members' mean says of the held-out comparisons, and how far they agree."""
    num_members, num_rows, _ = scores_MN2.shape
    flat_MB = ops.ensembles.standardised(scores_MN2.reshape(num_members, -1), means_M, stds_M)
    margins_MN = scores_MN2[..., 0] - scores_MN2[..., 1]
    standardised_MN2 = flat_MB.view(num_members, num_rows, 2)
    mean_N2 = standardised_MN2.mean(dim=0)
    margin_N = mean_N2[:, 0] - mean_N2[:, 1]
    return {
        "pair_accuracy": ops.preferences.pairs_right(margin_N),
        "margin": float(margin_N.mean()),
        "calibration_error": ops.preferences.calibration_error(margins_MN.mean(dim=0)),
        "agreement_share": ops.ensembles.pair_agreement(margins_MN),
        "members_std": float(ops.ensembles.disagreement(flat_MB).mean()),
    }


def _make_trainer(
    settings: OfflineSettings,
    rows: EnsembleRows,
    member: int,
    seed: int,
    steps_before: int,
    tracker: Tracker,
    stop_asked: Callable[[], bool],
    checkpoints: CheckpointFolders,
) -> MemberTrainer:
    from transformers.trainer_callback import PrinterCallback
    from trl import RewardConfig

    from posttrain.train.pair_trainer import MemberTrainer, pair_collator, pair_dataset
    from posttrain.train.stage_callback import StageCallback

    tokenizer = load_tokenizer(settings.model_path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    pad_id = int(tokenizer.pad_token_id or 0)
    model = new_reward_model(settings.model_path, seed, pad_id)
    if settings.lora is not None:
        add_adapters(model, settings.lora, seed)
        model.score.weight.requires_grad_(True)  # a head of chance is no head
    steps = settings.num_steps(len(rows.training))

    def measure() -> dict[str, float]:
        found = _of_member(_scores(model, rows.heldout, settings))
        return {f"rm/{member}/{name}": value for name, value in found.items()}

    callback = StageCallback(measure if rows.heldout else None, evaluate_every(steps), stop_asked)
    of_pairs = {"include_num_input_tokens_seen": "non_padding"}
    trainer = MemberTrainer(
        model=model,
        args=RewardConfig(**training_arguments(settings, steps, seed=seed) | of_pairs),
        train_dataset=pair_dataset(rows.training, NAMES),
        data_collator=pair_collator(NAMES, pad_id, score_only=True),
        processing_class=tokenizer,
        callbacks=[callback],
        tokens_per_micro_batch=settings.tokens_per_micro_batch,
        tracker=tracker,
        checkpoints=checkpoints,
        steps_before=steps_before,
    )
    trainer.member = member
    trainer.remove_callback(PrinterCallback)
    callback.trainer = trainer
    return trainer


def _write_member(
    model: Any,
    settings: OfflineSettings,
    rows: EnsembleRows,
    folder: Path,
    member: int,
    seed: int,
) -> None:
    """The member's folder; what it says of held-out rows comes last, and makes it whole.

    Where none are held out, mean and deviation are those of the first rows that it was trained on,
    and nothing is said of how good it is.
    """
    write_model(model, settings, folder)
    # Of what was written: bf16 weights score otherwise than those they were made from.
    device = next(model.parameters()).device
    written = load_reward_model(folder, settings.precision).to(device)
    measured = rows.heldout or rows.training[:MEASURED_ROWS]
    scores_N2 = _scores(written, measured, settings)
    found = _of_member(scores_N2)
    if not torch.isfinite(scores_N2).all():
        raise StageFailed(
            f"member {member} scores a held-out answer with a number that is not finite",
            help="lower algorithm.lr",
        )
    if found["score_std"] == 0.0:
        raise StageFailed(
            f"member {member} scores every answer alike: it has learnt nothing",
            help="a higher algorithm.lr, more steps, or other rows",
        )
    summary: dict[str, Any] = {
        "folder": str(member),
        "seed": seed,
        "mean": found["score_mean"],
        "std": found["score_std"],
        "steps": settings.num_steps(len(rows.training)),
        SCORES: [],
        CONTRASTS: score_contrasts(written, rows.heldout, rows.contrasts, settings),
    }
    if rows.heldout:
        summary |= {name: found[name] for name in ("pair_accuracy", "margin", "calibration_error")}
        summary[SCORES] = scores_N2.tolist()  # for what the members say together
    if member == 0:
        keep_prompts(written, rows.prompts, folder.parent, settings)
    write_json(folder / SUMMARY, summary)


def _of_member(scores_N2: Tensor) -> dict[str, float]:
    margins_N = scores_N2[:, 0] - scores_N2[:, 1]
    return {
        "pair_accuracy": ops.preferences.pairs_right(margins_N),
        "margin": float(margins_N.mean()),
        "calibration_error": ops.preferences.calibration_error(margins_N),
        "score_mean": float(scores_N2.double().mean()),
        "score_std": float(scores_N2.double().std(unbiased=False)),
    }


def _scores(model: Any, pairs: Sequence[RenderedPair], settings: OfflineSettings) -> Tensor:
    """[N, 2] scores of the chosen and the rejected answer of each pair."""
    sequences = [
        [*pair.answers[name][0], *pair.answers[name][1]] for pair in pairs for name in NAMES
    ]
    found = score_sequences(model, sequences, settings.tokens_per_micro_batch, settings.autocast)
    return found.view(-1, 2)
