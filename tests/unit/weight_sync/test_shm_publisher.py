"""The shared-memory publisher: a file per version, older ones gone when nobody needs them."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")

from posttrain.errors import WeightsDiffer  # noqa: E402
from posttrain.weight_sync.checksum import checksum  # noqa: E402
from posttrain.weight_sync.flat_file import read_header, read_weights  # noqa: E402
from posttrain.weight_sync.shm_publisher import ShmPublisher  # noqa: E402


def weights(value: float):
    return {"norm": torch.full((7,), value)}


@pytest.fixture
def publisher(tmp_path):
    publisher = ShmPublisher("quickstart", tmp_path)
    yield publisher
    publisher.close()


def files(publisher):
    return sorted(name for name in os.listdir(publisher.path) if name.endswith(".weights"))


def test_two_versions_stay_until_the_newer_one_is_everywhere(publisher):
    tensors = weights(1.0)
    first = publisher.prepare(tensors, 1, 0)
    tensors["norm"].zero_()  # what was prepared does not change
    publisher.deliver(first)
    second = publisher.prepare(weights(2.0), 2, 0)
    assert files(publisher) == ["0-1.weights", "0-2.weights"]
    assert first.checksum == checksum(read_weights(first.location)) == checksum(weights(1.0))
    publisher.release(first)  # the second is not everywhere yet
    assert files(publisher) == ["0-1.weights", "0-2.weights"]
    publisher.release(second)
    assert files(publisher) == ["0-2.weights"]
    assert (second.attempt, second.version) == (0, 2)
    assert read_header(second.location).version == 2


def test_a_restarted_trainer_publishes_older_versions_again(publisher):
    publisher.prepare(weights(1.0), 9, 0)
    again = publisher.prepare(weights(2.0), 5, 1)
    publisher.release(again)
    assert files(publisher) == ["1-5.weights"]


def test_a_truncated_file_is_damaged(publisher):
    version = publisher.prepare(weights(1.0), 1, 0)
    os.truncate(version.location, version.num_bytes - 4)
    with pytest.raises(WeightsDiffer, match=f"it should have {version.num_bytes} bytes"):
        read_weights(version.location)
    os.truncate(version.location, 20)
    with pytest.raises(WeightsDiffer, match="it does not begin like a weight file"):
        read_weights(version.location)


def test_closing_twice_removes_everything_once(publisher):
    publisher.prepare(weights(1.0), 1, 0)
    publisher.close()
    publisher.close()
    assert not publisher.path.exists()
