"""The trainer's side of `shm`: a flat file per version in a folder that this process owns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.types import WeightVersion
from posttrain.weight_sync.flat_file import keep_newest, newest_file, write_weights
from posttrain.weight_sync.shared_directory import PARENT, SharedDirectory

if TYPE_CHECKING:
    from torch import Tensor


class ShmPublisher:
    """`transport.WeightPublisher` through shared memory of one host.

    Everything happens in `prepare`. Two files are kept: the newest, and the one before, which a
    slow engine may still be reading; `release` removes the latter.
    """

    def __init__(self, run_id: str, parent: str | Path = PARENT) -> None:
        self._directory = SharedDirectory(run_id, parent).__enter__()

    @property
    def path(self) -> Path:
        return self._directory.path

    def prepare(self, tensors: Mapping[str, Tensor], version: int, attempt: int) -> WeightVersion:
        """Write the file. Raises OSError where memory for it is missing."""
        return write_weights(tensors, self._directory.path, version, attempt)

    def deliver(self, version: WeightVersion) -> None:
        """The file is there already."""

    def release(self, version: WeightVersion) -> None:
        """Remove files older than `version`; what engines have mapped stays with them."""
        newest = newest_file(self._directory.path)
        if newest is not None and newest == Path(version.location):
            keep_newest(self._directory.path, 1)

    def close(self) -> None:
        """Remove the folder."""
        self._directory.close()
