"""What is written into a weight file comes out of it again."""

import errno
import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from posttrain.errors import WeightsDiffer  # noqa: E402
from posttrain.weight_sync.checksum import checksum  # noqa: E402
from posttrain.weight_sync.flat_file import read_header, read_weights, write_weights  # noqa: E402

EMBEDDING = torch.arange(15.0).reshape(5, 3)
WEIGHTS = {
    "embed": EMBEDDING,
    "head": EMBEDDING,  # tied
    "layer.0": torch.arange(12.0).reshape(3, 4).T,  # not contiguous
    "norm": torch.full((7,), 1.5, dtype=torch.bfloat16),
    "scale": torch.tensor(2.5),
    "nothing": torch.zeros(0, 3),
}


def test_round_trip(tmp_path):
    version = write_weights(WEIGHTS, tmp_path, version=24, attempt=2)
    assert (version.attempt, version.version) == (2, 24)
    assert version.location == str(tmp_path / "2-24.weights")
    assert version.num_bytes == os.path.getsize(version.location)
    assert version.checksum == checksum(WEIGHTS)
    received = read_weights(version.location)
    assert list(received) == list(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        assert received[name].dtype == tensor.dtype
        assert torch.equal(received[name], tensor)
    assert checksum(received) == version.checksum


def test_layout(tmp_path):
    header = read_header(write_weights(WEIGHTS, tmp_path, 24, 2).location)
    assert (header.attempt, header.version) == (2, 24)
    by_name = {entry.name: entry for entry in header.tensors}
    assert by_name["embed"].num_bytes == 60
    assert (by_name["head"].same_as, by_name["head"].num_bytes) == ("embed", 0)
    assert by_name["norm"].dtype == "bfloat16"
    start = by_name["embed"].offset
    # 60 bytes take one slot of 64, then 48, 14 and 4 bytes.
    offsets = [by_name[name].offset - start for name in ("layer.0", "norm", "scale")]
    assert (start % 64, offsets) == (0, [64, 128, 192])
    assert header.num_bytes == start + 256


def test_readers_do_not_share_what_they_write(tmp_path):
    location = write_weights(WEIGHTS, tmp_path, 1, 0).location
    first, second = read_weights(location), read_weights(location)
    first["embed"].zero_()
    assert torch.equal(second["embed"], EMBEDDING)
    assert torch.equal(read_weights(location)["embed"], EMBEDDING)


def test_the_newest_two_versions_stay_and_mapped_ones_live_on(tmp_path):
    held = read_weights(write_weights(WEIGHTS, tmp_path, 1, 0).location)
    for attempt, version in ((0, 9), (0, 10), (1, 2)):
        write_weights(WEIGHTS, tmp_path, version, attempt)
    assert sorted(os.listdir(tmp_path)) == ["0-10.weights", "1-2.weights"]
    assert torch.equal(held["embed"], EMBEDDING)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(descriptor, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        write_weights(WEIGHTS, tmp_path, 1, 0)
    assert os.listdir(tmp_path) == []


def test_damaged_files_are_named(tmp_path):
    location = write_weights(WEIGHTS, tmp_path, 1, 0).location
    content = Path(location).read_bytes()
    cases = {
        b"": "does not begin like a weight file",
        b"PK" + content[2:]: "does not begin like a weight file",
        content[:16] + b"?" + content[17:]: "its header is not readable",
        content[:-1]: f"it should have {len(content)} bytes",
    }
    for damaged, message in cases.items():
        with open(location, "wb") as file:
            file.write(damaged)
        with pytest.raises(WeightsDiffer, match=message):
            read_weights(location)
