"""The journal gives back exactly what was written, and notices what was not written whole."""

import os
import struct
from pathlib import Path

import pytest

from posttrain.errors import StageFailed
from posttrain.rollout import journal as journal_module
from posttrain.rollout.journal import JournalWriter, is_whole, read_rollout, scan
from posttrain.rollout.samples import Partial
from posttrain.types import Rollout, RolloutRef

# float32 values that are awkward in decimal: the smallest, a third, almost zero, minus infinity
LOGPROBS = [
    struct.unpack("<f", bits)[0]
    for bits in (
        b"\x01\x00\x00\x80",
        struct.pack("<f", -1 / 3),
        struct.pack("<f", -1e-7),
        b"\x00\x00\x80\xff",
    )
]
ROLLOUT = Rollout(
    "12",
    3,
    (5, 6),
    (9, 7, 151_000, 1),
    (1, 0, 1, 1),
    tuple(LOGPROBS),
    (3, 3, 4, 4),
    "héllo",
    "stop",
)


@pytest.fixture
def writer(tmp_path):
    writer = JournalWriter(tmp_path, "0", "7f3a")
    yield writer
    writer.close()


def rollout_of(num_tokens: int, sample: int = 0) -> Rollout:
    ids = tuple(range(num_tokens))
    logprobs = tuple(-float(i) for i in ids)
    return Rollout("12", sample, (5,), ids, (1,) * num_tokens, logprobs, ids, "", "length")


def test_a_rollout_comes_back_bit_for_bit(writer, tmp_path):
    ref = writer.finished("train", 12, ROLLOUT, 3)
    assert ref == RolloutRef(str(tmp_path / "0-7f3a-000000.journal"), 0)
    # 16 header + 32 who + 4 tokens of 13 bytes + 6 bytes of text
    assert os.path.getsize(ref.path) == 106
    read = read_rollout(ref, "12", (5, 6))
    assert read == ROLLOUT
    bits = [struct.pack("<d", value) for value in read.logprobs]
    assert bits == [struct.pack("<d", value) for value in ROLLOUT.logprobs]


def test_greedy_rollouts_and_empty_ones(writer):
    for rollout in (rollout_of(2, sample=-1), rollout_of(0)):
        ref = writer.finished("evaluation", 2**40, rollout, 0)
        assert read_rollout(ref, "12", (5,)) == rollout
    assert list(scan(ref.path).finished) == [
        ("evaluation", 2**40, -1),
        ("evaluation", 2**40, 0),
    ]


def test_one_read_per_rollout_two_where_it_is_long(writer, monkeypatch):
    refs = [writer.finished("train", 1, rollout_of(count), 0) for count in (100, 40_000)]
    reads = []
    pread = os.pread
    monkeypatch.setattr(
        journal_module.os, "pread", lambda *where: reads.append(where[1:]) or pread(*where)
    )
    assert [len(read_rollout(ref, "", ()).token_ids) for ref in refs] == [100, 40_000]
    # 16 + 32 + 13 * 40,000 = 520,048 bytes
    assert reads == [(65_536, 0), (65_536, 1348), (454_512, 1348 + 65_536)]


def test_progress_adds_up_until_the_sample_is_finished(writer):
    writer.progress("train", 4, 0, 0, [9, 8], [-1.0, -2.0], [3, 3], 3)
    writer.progress("train", 4, 0, 2, [7], [-0.5], [4], 3)
    writer.progress("train", 4, 1, 0, [6], [-0.25], [4], 4)
    contents = scan(writer.path)
    assert contents.partial == {
        ("train", 4, 0): Partial((9, 8, 7), (-1.0, -2.0, -0.5), (3, 3, 4), 3),
        ("train", 4, 1): Partial((6,), (-0.25,), (4,), 4),
    }
    ref = writer.finished("train", 4, rollout_of(5, sample=1), 4)
    contents = scan(writer.path)
    assert list(contents.partial) == [("train", 4, 0)]
    assert contents.finished == {("train", 4, 1): (ref, 4, 5, 4)}
    assert contents.num_torn == 0


def test_tokens_written_again_replace_the_old_ones_and_a_gap_adds_nothing(writer):
    writer.progress("train", 4, 0, 0, [9, 8, 7], [-1.0] * 3, [3] * 3, 3)
    writer.progress("train", 4, 0, 1, [5], [-2.0], [4], 3)
    writer.progress("train", 4, 0, 7, [1], [-9.0], [9], 3)
    assert scan(writer.path).partial[("train", 4, 0)] == Partial((9, 5), (-1.0, -2.0), (3, 4), 3)


def test_rotate_begins_another_file_unless_this_one_is_empty(writer, tmp_path):
    writer.rotate()
    first = writer.finished("train", 1, rollout_of(2), 0)
    writer.rotate()
    second = writer.finished("train", 2, rollout_of(2), 0)
    assert [Path(ref.path).name for ref in (first, second)] == [
        "0-7f3a-000000.journal",
        "0-7f3a-000001.journal",
    ]
    assert second.offset == 0
    assert read_rollout(first, "12", (5,)) == rollout_of(2)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_existing_file_is_never_written_to(writer, tmp_path):
    other = JournalWriter(tmp_path, "0", "7f3a")
    assert Path(other.path).name == "0-7f3a-000001.journal"
    other.close()


def three_records(writer) -> tuple[bytes, list[int]]:
    """The file's bytes and where its records begin."""
    writer.progress("train", 4, 0, 0, [9, 8], [-1.0, -2.0], [3, 3], 3)
    second = writer.finished("train", 4, rollout_of(3, sample=1), 4)
    third = writer.finished("train", 4, ROLLOUT, 4)
    return Path(writer.path).read_bytes(), [0, second.offset, third.offset]


def test_a_torn_tail_at_every_byte(writer, tmp_path):
    data, begins = three_records(writer)
    torn = tmp_path / "torn.journal"
    for size in range(begins[2], len(data)):
        torn.write_bytes(data[:size])
        contents = scan(torn)
        assert list(contents.finished) == [("train", 4, 1)]
        assert list(contents.partial) == [("train", 4, 0)]
        assert contents.num_torn == (size > begins[2])
    torn.write_bytes(data)
    assert list(scan(torn).finished) == [("train", 4, 1), ("train", 4, 3)]


def test_a_flipped_bit_in_the_last_record_drops_it(writer, tmp_path):
    data, begins = three_records(writer)
    flipped = tmp_path / "flipped.journal"
    for position in range(begins[2], len(data)):
        flipped.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        contents = scan(flipped)
        assert (list(contents.finished), contents.num_torn) == ([("train", 4, 1)], 1)
        with pytest.raises(StageFailed, match=f"record at byte {begins[2]} is damaged"):
            read_rollout(RolloutRef(str(flipped), begins[2]), "12", ())


def test_a_flipped_bit_in_the_middle_is_refused_with_its_place(writer, tmp_path):
    data, begins = three_records(writer)
    flipped = tmp_path / "flipped.journal"
    for position in range(begins[1], begins[2]):
        flipped.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        with pytest.raises(StageFailed, match=f"record at byte {begins[1]} is damaged") as caught:
            scan(flipped)
        assert caught.value.place == str(flipped)


def test_what_is_no_finished_record_cannot_be_read_as_one(writer, tmp_path):
    _, begins = three_records(writer)
    for offset in (begins[0], begins[1] + 1, 10**6):
        with pytest.raises(StageFailed, match=f"record at byte {offset} is damaged"):
            read_rollout(RolloutRef(writer.path, offset), "12", ())
    with pytest.raises(StageFailed, match="a rollout cannot be read: No such file"):
        read_rollout(RolloutRef(str(tmp_path / "nowhere"), 0), "12", ())


def test_an_empty_file_and_none(tmp_path):
    (tmp_path / "empty").touch()
    assert scan(tmp_path / "empty").finished == {}
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "nowhere")


def test_a_full_disk_leaves_nothing_half_written(writer, monkeypatch):
    ref = writer.finished("train", 1, rollout_of(2), 0)
    size = os.path.getsize(ref.path)
    write = os.write

    def full(descriptor, data):
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:100])

    monkeypatch.setattr(journal_module.os, "write", full)
    with pytest.raises(StageFailed, match="cannot write down a rollout: No space left"):
        writer.finished("train", 2, rollout_of(9), 0)
    monkeypatch.undo()
    assert os.path.getsize(ref.path) == size
    again = writer.finished("train", 2, rollout_of(9), 0)
    assert read_rollout(again, "12", (5,)) == rollout_of(9)


def test_whether_a_whole_sample_lies_where_a_ledger_says(writer, tmp_path):
    first, second = (writer.finished("train", draw, rollout_of(5), 0) for draw in (1, 2))
    assert is_whole(first) and is_whole(second)
    with open(second.path, "r+b") as file:
        file.truncate(second.offset + 20)
    assert is_whole(first) and not is_whole(second)
    assert not is_whole(RolloutRef(str(tmp_path / "gone.journal"), 0))


def test_what_a_power_cut_took_out_of_the_middle_is_left_out(writer):
    refs = [writer.finished("train", draw, rollout_of(200), 0) for draw in range(5)]
    with open(refs[0].path, "r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))  # the second record, each of 2648 bytes, to within the fourth
    contents = scan(refs[0].path)
    assert list(contents.finished) == [("train", 0, 0), ("train", 4, 0)]
    assert contents.num_torn == 1
    assert [is_whole(ref) for ref in refs] == [True, False, False, False, True]


@pytest.mark.parametrize("remote", [True, False])
def test_finished_samples_are_flushed_where_other_hosts_would_not_see_them(
    tmp_path, monkeypatch, remote
):
    flushed = []
    monkeypatch.setattr(journal_module, "is_remote", lambda path: remote)
    monkeypatch.setattr(journal_module.os, "fsync", flushed.append)
    writer = JournalWriter(tmp_path, "0", "a")
    writer.progress("train", 4, 0, 0, [9], [-1.0], [3], 3)
    assert flushed == []
    writer.finished("train", 4, rollout_of(5), 0)
    assert flushed == ([writer._descriptor] if remote else [])
    writer.close()
