"""What an online stage that was stopped or killed has left behind: read, never changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from posttrain.checkpoint.store import CheckpointStore
from posttrain.errors import StageFailed
from posttrain.loop.ledger import Ledger, LedgerState
from posttrain.rollout.journal import scan
from posttrain.stages.jobs import JOURNALS, LEDGER

MOST_JOURNAL_BYTES = 256_000_000  # more is not read only to say what is in it


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Counts of rollouts are of single answers. Steps count batches from 0."""

    checkpoint_step: int  # batches that the last checkpoint holds
    next_step: int  # the first batch that was never handed out
    rollouts_to_train_again: int  # of the batches between the two
    finished: int  # answers that wait for a batch
    half_done: int  # answers that have some tokens
    half_done_tokens: int


def unfinished_work(directory: Path) -> Unfinished | None:
    """What the next run of the stage in `directory` goes on with; None before its first batch.

    Reads the last checkpoint's state, the ledger behind it and the journals. Raises InputError
    where the checkpoint is damaged, StageFailed where the ledger is.
    """
    if not (directory / LEDGER).exists():
        return None
    commit = CheckpointStore(directory / "checkpoints").latest()
    snapshot = commit.state["coordinator"] if commit else None
    state = Ledger(directory / LEDGER, snapshot, look_only=True).state
    finished, half_done = _in_journals(directory / JOURNALS, state)
    waiting = (*state.scored.values(), *state.buffered.values())
    return Unfinished(
        checkpoint_step=commit.step if commit else 0,
        next_step=state.next_step,
        rollouts_to_train_again=sum(
            len(group.refs) for batch in state.served.values() for group in batch
        ),
        finished=sum(len(group.refs) for group in waiting) + finished,
        half_done=len(half_done),
        half_done_tokens=sum(half_done),
    )


def _in_journals(folder: Path, state: LedgerState) -> tuple[int, list[int]]:
    """(finished answers, tokens of each half-done one) of draws that have no score yet."""
    wanted = state.unfinished.keys() - state.scored.keys()
    paths = sorted(folder.glob("*.journal"))
    if not wanted or sum(path.stat().st_size for path in paths) > MOST_JOURNAL_BYTES:
        return 0, []
    finished: set[tuple[int, int]] = set()
    tokens: dict[tuple[int, int], int] = {}
    for path in paths:
        try:
            contents = scan(path)
        except StageFailed:
            continue  # whoever goes on with it says so, and what to do
        finished |= _answers(contents.finished, wanted)
        for key in _answers(contents.partial, wanted):
            length = len(contents.partial["train", *key].token_ids)
            tokens[key] = max(length, tokens.get(key, 0))
    return len(finished), [tokens[key] for key in tokens.keys() - finished if tokens[key]]


def _answers(keys: Iterable[tuple[str, int, int]], wanted: set[int]) -> set[tuple[int, int]]:
    """(draw, sample) of those that are for training, and of a draw that is wanted."""
    return {(draw, sample) for lane, draw, sample in keys if lane == "train" and draw in wanted}
