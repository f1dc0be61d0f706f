"""Checkpoints as atomic units: model, optimiser, random state and the coordinator's snapshot
together.

A checkpoint is written into a temporary folder, flushed to disk, renamed, and only then named by
the commit pointer. Whatever a crash leaves behind, the pointer names a whole one. Older ones are
removed after the new one is committed, never before.

    checkpoints/step-000040/{model.safetensors, optimiser.pt, state.json}    checkpoints/latest.json
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import InputError, Problem

if TYPE_CHECKING:
    from torch import Tensor

POINTER = "latest.json"
STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint. Tensors are read when asked for."""

    path: Path
    step: int  # batches trained: the weights are version `step`
    state: Mapping[str, Any]  # what the writer gave as `state`: JSON

    def load_model(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(self.path / "model.safetensors")

    def load_optimiser(self) -> dict[str, Any]:
        """The optimiser's and the random generators' state: tensors and plain values only."""
        import torch

        return torch.load(self.path / "optimiser.pt", weights_only=True)


class CheckpointStore:
    """The checkpoints of one stage."""

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self._directory = directory
        self._keep = keep

    def save(
        self,
        step: int,
        model: Mapping[str, Tensor],
        optimiser: Mapping[str, Any],
        state: Mapping[str, Any],
    ) -> Path:
        """Write and commit. On any error (a full disk) nothing changes but an ignored folder."""
        import torch
        from safetensors.torch import save_file

        final = self._directory / f"step-{step:06d}"
        temporary = self._directory / f".{final.name}.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            save_file(_unshared(model), temporary / "model.safetensors")
            torch.save(dict(optimiser), temporary / "optimiser.pt")
            (temporary / STATE).write_text(json.dumps({"step": step, "state": state}))
            for file in temporary.iterdir():
                _flush(file)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _flush(self._directory)
        self._commit(final)
        self._retire(final)
        return final

    def latest(self) -> Checkpoint | None:
        """The checkpoint that the commit pointer names; None before the first.

        Raises InputError where the pointer names what is not there: somebody removed it by hand.
        """
        try:
            pointer = json.loads((self._directory / POINTER).read_text())
        except FileNotFoundError:
            return None
        path = self._directory / pointer["name"]
        missing = [name for name, size in pointer["sizes"].items() if _size(path / name) != size]
        if missing:
            raise InputError(
                Problem(
                    "checkpoint-damaged",
                    f"{', '.join(missing)} of the last checkpoint is missing or cut short",
                    path=str(path),
                    help=f"remove {self._directory} to train this stage from its start",
                )
            )
        content = json.loads((path / STATE).read_text())
        return Checkpoint(path, content["step"], content["state"])

    def clear(self) -> None:
        """Remove all: the stage is done, and its model folder holds what is needed."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _commit(self, path: Path) -> None:
        sizes = {file.name: file.stat().st_size for file in path.iterdir()}
        temporary = self._directory / f".{POINTER}.{os.getpid()}"
        temporary.write_text(json.dumps({"name": path.name, "sizes": sizes}))
        _flush(temporary)
        temporary.replace(self._directory / POINTER)
        _flush(self._directory)

    def _retire(self, committed: Path) -> None:
        """Remove old checkpoints, never the committed one: a crash may have left a later folder.

        What killed writers left half-written goes too: there is one writer at a time.
        """
        old = sorted(self._directory.glob("step-*"))[: -self._keep]
        for path in (*old, *self._directory.glob(".step-*")):
            if path != committed:
                shutil.rmtree(path, ignore_errors=True)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses two names for one memory (tied embeddings): each storage once."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        result[name] = tensor.detach().contiguous().cpu()
    return result


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
