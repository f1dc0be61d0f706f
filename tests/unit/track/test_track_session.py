"""A tracker whose process was killed goes on in the same files."""

from posttrain.track.jsonl import read_jsonl
from posttrain.track.session import OPEN_STAGES, TrackSession


def stage(directory, name):
    return {
        "name": name, "kind": "online_rl", "identity": "4f1c9a2e", "attempt": 0,
        "directory": str(directory / name), "config": {"steps": 4}, "inputs": {},
        "run_name": "tiny", "run_id": "1",
    }  # fmt: skip


def test_the_process_after_a_killed_one_goes_on_with_what_was_open(tmp_path):
    first = TrackSession(tmp_path, {"mode": "disabled"})
    for name in ("sft", "rlvr"):
        first.open(**stage(tmp_path, name))
    first.close_stage("sft", {"state": "done"})
    first.stage("rlvr").log({"train/loss": 0.5}, step=0)

    second = TrackSession(tmp_path, {"mode": "disabled"})
    second.reopen()
    second.open(**stage(tmp_path, "rlvr"))  # the call that the kill interrupted, made again
    second.stage("rlvr").log({"train/loss": 0.4}, step=1)
    assert second.close_stage("rlvr", {"state": "done"}) == {"train/loss": 0.4}
    rows = read_jsonl(tmp_path / "rlvr" / "metrics.jsonl")
    assert [row["train/loss"] for row in rows] == [0.5, 0.4]
    assert rows[1]["axis/time_s"] >= rows[0]["axis/time_s"]
    events = read_jsonl(tmp_path / "rlvr" / "events.jsonl")
    assert [event["name"] for event in events] == ["tracker-restarted"]
    assert read_jsonl(tmp_path / "sft" / "events.jsonl") == []
    assert not (tmp_path / OPEN_STAGES).exists()


def test_nothing_was_open(tmp_path):
    session = TrackSession(tmp_path, {"mode": "disabled"})
    session.reopen()
    session.close()
    assert list(tmp_path.iterdir()) == []
