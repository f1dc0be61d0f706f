"""What a stopped online stage has left behind, and how `resume` says it."""

from __future__ import annotations

from pathlib import Path

from posttrain.checkpoint.store import CheckpointStore
from posttrain.cli.resume import unfinished_lines
from posttrain.loop.ledger import Ledger
from posttrain.pipeline.unfinished import Unfinished, unfinished_work
from posttrain.rollout.journal import JournalWriter
from posttrain.types import Rollout, RolloutRef, Score, StoredGroup


def group(draw: int, folder: Path) -> StoredGroup:
    refs = tuple(RolloutRef(f"{folder}/journal/0-a-000000.journal", i) for i in range(2))
    return StoredGroup(draw, 0, refs, (Score(1.0), Score(0.0)))


def answer(sample: int, num_tokens: int) -> Rollout:
    numbers = (0,) * num_tokens
    ones, logprobs = (1,) * num_tokens, (-1.0,) * num_tokens
    return Rollout("0", sample, (5,), numbers, ones, logprobs, numbers, "", "stop")


def write_stage(folder: Path) -> None:
    """Draws 0 to 3 in batches 0 and 1, of which 0 is committed; 4 waits; 5 and 6 are begun."""
    ledger = Ledger(folder / "ledger.jsonl")
    for draw in range(7):
        ledger.admitted(draw, 0)
    for draw in range(5):
        ledger.scored(group(draw, folder))
        ledger.accepted(draw)
    ledger.trained(0, (0, 1))
    store = CheckpointStore(folder / "checkpoints")
    store.save(1, {}, {}, {"coordinator": ledger.snapshot()})
    ledger.committed(1)
    ledger.trained(1, (2, 3))
    ledger.close()
    first = JournalWriter(folder / "journal", "0", "a")
    first.finished("train", 4, answer(0, 9), 0)  # scored already: counted in the ledger
    first.finished("train", 5, answer(0, 9), 0)
    first.progress("train", 5, 1, 0, (1,) * 20, (-1.0,) * 20, (0,) * 20, 0)
    first.progress("train", 6, 0, 0, (1,) * 7, (-1.0,) * 7, (0,) * 7, 0)
    first.progress("evaluation", 6, 1, 0, (1,) * 9, (-1.0,) * 9, (0,) * 9, 0)
    first.close()
    second = JournalWriter(folder / "journal", "1", "b")  # has taken draw 6 over
    second.progress("train", 6, 0, 0, (1,) * 11, (-1.0,) * 11, (0,) * 11, 0)
    second.progress("train", 6, 1, 0, (1,) * 2, (-1.0,) * 2, (0,) * 2, 0)
    second.finished("train", 6, answer(1, 3), 0)
    second.close()


def test_what_is_left_is_counted_and_nothing_is_touched(tmp_path):
    write_stage(tmp_path)
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"event": "adm')  # the coordinator was killed inside a line
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert unfinished_work(tmp_path) == Unfinished(
        checkpoint_step=1,
        next_step=2,
        rollouts_to_train_again=4,
        finished=2 + 1 + 1,  # draw 4, one answer of 5, one of 6
        half_done=2,
        half_done_tokens=20 + 11,
    )
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_before_its_first_batch_a_stage_has_left_nothing(tmp_path):
    assert unfinished_work(tmp_path) is None


def test_the_transcript():
    work = Unfinished(200, 212, 2688, 409, 141, 38210)
    assert unfinished_lines("rlvr", work, 446) == [
        " ↻ rlvr   from checkpoint 200 (whole)",
        "   steps 201-212 trained again from 2 688 stored rollouts; nothing is generated twice",
        "   409 finished rollouts wait in the buffer; 141 half-done ones go on from the 38 210 "
        "tokens they have",
        "   step 201/446 comes next: same seeds and data order",
    ]
    assert unfinished_lines("rlvr", Unfinished(0, 1, 16, 0, 0, 0), None) == [
        " ↻ rlvr   from its start",
        "   step 1 trained again from 16 stored rollouts; nothing is generated twice",
    ]
