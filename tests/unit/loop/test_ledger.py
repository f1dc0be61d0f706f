import json
import os
from io import FileIO

import pytest

from posttrain.errors import StageFailed
from posttrain.loop.ledger import Ledger
from posttrain.types import RolloutRef, Score, StoredGroup, WeightVersion


def group(draw, start=0, folder="/runs/x/journal"):
    refs = tuple(RolloutRef(f"{folder}/0-a-000000.journal", 100 * draw + i) for i in range(2))
    scores = (Score(1.0, True, {"format": 1.0}), Score(0.0, False))
    return StoredGroup(draw, start, refs, scores)


def tell(ledger, folder="/runs/x/journal"):
    """Draws 0 and 1 trained in step 0, 2 accepted, 3 dropped, 4 filtered, 5 scored, 6 begun."""
    for draw in range(7):
        ledger.admitted(draw, draw // 4)
    for draw in (1, 0, 2):
        ledger.scored(group(draw, draw // 4, folder))
        ledger.accepted(draw)
    ledger.trained(0, (0, 1))
    ledger.dropped(3, "verifier hung")
    for draw in (4, 5):
        ledger.scored(group(draw, draw // 4, folder))
    ledger.filtered(4)


def test_what_the_events_add_up_to():
    ledger = Ledger(None)
    tell(ledger)
    state = ledger.state
    assert (state.next_draw, state.next_step) == (7, 1)
    assert (state.num_trained, state.num_dropped, state.num_filtered) == (2, 1, 1)
    assert state.unfinished == {5: 1, 6: 1}
    assert list(state.buffered) == [2]
    assert list(state.scored) == [5]
    assert [each.draw for each in state.served[0]] == [0, 1]
    machine = state.machine()
    assert (machine.num_accepted, machine.next_step, machine.buffered) == (3, 1, ((2, 0),))
    assert machine.unfinished == ((5, 1), (6, 1))
    assert machine.served == {0: (0, 1)}


def test_a_file_alone_gives_the_same_state(tmp_path):
    folder = str(tmp_path / "journal")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    tell(ledger, folder)
    ledger.close()
    again = Ledger(tmp_path / "ledger.jsonl")
    assert again.state == ledger.state
    assert (again.num_replayed, again.num_torn) == (19, 0)


def test_a_snapshot_and_the_lines_after_it_give_the_same_state(tmp_path):
    folder = str(tmp_path / "journal")
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    tell(ledger, folder)
    snapshot = json.loads(json.dumps(ledger.snapshot()))
    ledger.committed(1)
    ledger.accepted(5)
    ledger.admitted(7, 1)
    ledger.close()
    again = Ledger(path, snapshot)
    assert again.state == ledger.state
    assert again.state.served == {}
    assert again.num_replayed == 3


def test_a_torn_last_line_is_cut_off_and_counted_at_every_length(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.admitted(0, 0)
    ledger.admitted(1, 0)
    ledger.close()
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in range(1, len(last)):
        path.write_bytes(whole[:-cut])
        again = Ledger(path)
        assert again.state.unfinished == {0: 0}
        assert again.num_torn == 1
        again.admitted(1, 5)  # and what follows is whole again
        again.close()
        assert Ledger(path).state.unfinished == {0: 0, 1: 5}


def test_a_damaged_line_before_the_last_is_refused_with_its_place(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.admitted(0, 0)
    ledger.admitted(1, 0)
    ledger.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"event": "admi\n' + lines[2])
    with pytest.raises(StageFailed, match="a line of the ledger is damaged: line 2 after byte 0"):
        Ledger(path)


def test_a_run_that_was_moved_finds_its_journals(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    ledger = Ledger(old / "ledger.jsonl")
    tell(ledger, str(old / "journal"))
    ledger.close()
    old.rename(new)
    paths = {ref.path for each in Ledger(new / "ledger.jsonl").state.groups() for ref in each.refs}
    assert paths == {str(new / "journal" / "0-a-000000.journal")}


def test_a_batch_line_has_left_the_process_when_the_batch_is_handed_out(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    for draw in (0, 1):
        ledger.admitted(draw, 0)
        ledger.scored(group(draw))
        ledger.accepted(draw)
    ledger.trained(0, (0, 1))
    last = json.loads(path.read_bytes().splitlines()[-1])  # read while the writer still runs
    assert last == {"event": "trained", "step": 0, "draws": [0, 1]}


def test_what_was_published_is_known_after_a_restart(tmp_path):
    weights = WeightVersion(1, 4, "c4", "/there/4", 128)
    ledger = Ledger(tmp_path / "ledger")
    ledger.published(weights)
    ledger.close()
    assert Ledger(tmp_path / "ledger").state.weights == weights
    snapshot = Ledger(tmp_path / "ledger").snapshot()
    assert Ledger(tmp_path / "ledger", snapshot).state.weights == weights


def test_a_scored_group_that_is_dropped_leaves_nothing_behind():
    ledger = Ledger(None)
    ledger.admitted(0, 0)
    ledger.scored(StoredGroup(0, 0, (), (Score(1.0),)))
    ledger.dropped(0, "too late")
    assert (ledger.state.scored, ledger.state.unfinished) == ({}, {})


def test_a_full_disk_is_told(tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    ledger._file = FileIO("/dev/full", "wb")
    with pytest.raises(StageFailed, match="cannot write the ledger: No space left on device"):
        ledger.admitted(0, 0)


def test_a_snapshot_is_taken_of_what_is_on_disk(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr("os.fsync", lambda descriptor: flushed.append(os.fstat(descriptor)))
    ledger = Ledger(tmp_path / "ledger.jsonl")
    tell(ledger, str(tmp_path / "journal"))
    assert flushed == []
    assert ledger.snapshot()["position"] == flushed[0].st_size == ledger.position
    assert flushed[1].st_ino == tmp_path.stat().st_ino


@pytest.mark.parametrize("lost", [0, 1, 40, 10_000])
def test_a_file_that_lost_what_a_snapshot_holds_goes_on_from_the_snapshot(tmp_path, lost):
    """And after a second death too: the snapshot's position is still where the next lines begin."""
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    tell(ledger, str(tmp_path / "journal"))
    snapshot = json.loads(json.dumps(ledger.snapshot()))
    ledger.close()
    whole = path.read_bytes()
    if lost < len(whole):
        path.write_bytes(whole[: len(whole) - lost])
    else:
        path.unlink()
    again = Ledger(path, snapshot)
    assert again.state == ledger.state
    again.admitted(7, 1)
    again.accepted(5)
    again.close()
    third = Ledger(path, snapshot)
    assert third.state == again.state
    assert third.num_torn == 0


def test_lines_after_a_commit_count_up_to_the_first_whose_rollouts_are_lost(tmp_path):
    path, folder = tmp_path / "ledger.jsonl", str(tmp_path / "journal")
    ledger = Ledger(path)
    ledger.admitted(0, 0)
    snapshot = json.loads(json.dumps(ledger.snapshot()))
    for draw in (1, 2, 3):
        ledger.admitted(draw, 0)
    for draw in (1, 2, 3):
        ledger.scored(group(draw, 0, folder))
        ledger.accepted(draw)
    ledger.close()
    lost = group(2, 0, folder).refs[1]
    looked = Ledger(path, snapshot, look_only=True, is_readable=lambda ref: ref != lost)
    again = Ledger(path, snapshot, is_readable=lambda ref: ref != lost)
    assert list(again.state.buffered) == [1]
    assert again.state.unfinished == {0: 0, 2: 0, 3: 0}  # generated again
    assert looked.state == again.state
    assert again.num_torn == 1
    again.close()
    assert Ledger(path, snapshot).state == again.state


def test_rollouts_that_nobody_wants_any_more_may_be_gone(tmp_path):
    """Journals are removed when all in them are settled: that undoes nothing."""
    path, folder = tmp_path / "ledger.jsonl", str(tmp_path / "journal")
    ledger = Ledger(path)
    tell(ledger, folder)
    ledger.committed(1)
    ledger.close()
    gone = [ref for draw in (0, 1, 4) for ref in group(draw, 0, folder).refs]
    again = Ledger(path, is_readable=lambda ref: ref not in gone)
    assert again.state == ledger.state
    assert (again.num_replayed, again.num_torn) == (20, 0)


def test_a_block_that_never_reached_the_disk_ends_the_file(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    for draw in range(4):
        ledger.admitted(draw, 0)
    ledger.close()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = b"\0" * (len(lines[3]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))
    again = Ledger(path)
    assert list(again.state.unfinished) == [0, 1]
    again.close()
    assert b"\0" not in path.read_bytes()
