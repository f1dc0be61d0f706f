"""JSON lines: strict on the way out, tolerant on the way in, nothing lost on a full disk."""

import errno
import os

import numpy as np

from posttrain.track.jsonl import JsonlFollower, JsonlWriter, encode_line, read_jsonl


def test_a_line_is_strict_json_with_plain_numbers():
    row = {"a": np.float32(0.5), "b": float("nan"), "c": [np.int64(3)], "d": "ü\n", "e": True}

    assert encode_line(row) == '{"a":0.5,"b":null,"c":[3],"d":"ü\\n","e":true}\n'.encode()


def test_written_rows_are_read_back(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    writer = JsonlWriter(path)
    writer.append({"step": 1})
    writer.append({"step": 2})
    writer.close()

    assert read_jsonl(path) == [{"step": 1}, {"step": 2}]


def test_a_torn_last_line_is_ignored_and_then_ended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')  # killed inside the second line

    assert read_jsonl(path) == [{"step": 1}]
    writer = JsonlWriter(path)
    writer.append({"step": 3})
    writer.close()
    assert read_jsonl(path) == [{"step": 1}, {"step": 3}]


def test_a_missing_file_has_no_rows(tmp_path):
    assert read_jsonl(tmp_path / "nothing.jsonl") == []


def test_follower_returns_only_what_is_new_and_whole(tmp_path):
    path = tmp_path / "events.jsonl"
    follower = JsonlFollower(path)
    assert follower.read_new() == []
    path.write_text('{"a": 1}\n{"a"')
    assert follower.read_new() == [{"a": 1}]
    with path.open("a") as stream:
        stream.write(": 2}\n")
    assert follower.read_new() == [{"a": 2}]
    assert follower.read_new() == []


def test_a_full_disk_keeps_lines_and_says_so_once(tmp_path, monkeypatch):
    said: list[str] = []
    writer = JsonlWriter(tmp_path / "metrics.jsonl", said.append)
    writer.append({"step": 1})
    real, full = os.write, True

    def write(descriptor, data):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    writer.append({"step": 2})
    writer.append({"step": 3})
    assert writer.waiting == 2
    assert said == [
        "metrics.jsonl cannot be written (no space left on device); lines are kept and tried again"
    ]
    full = False
    writer.append({"step": 4})
    writer.close()
    assert said[1:] == ["metrics.jsonl is written again, nothing was lost"]
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_line_cut_by_a_full_disk_is_finished_later(tmp_path, monkeypatch):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    real, room = os.write, [4]

    def write(descriptor, data):
        if room:
            return real(descriptor, data[: room.pop()])
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    writer.append({"step": 1})
    assert read_jsonl(tmp_path / "metrics.jsonl") == []
    writer.append({"step": 2})
    writer.close()
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]
