"""Checkpoints as atomic units: model, optimiser, random states and what their writer knows beside,
the coordinator's snapshot among it, together.

    checkpoints/step-000040/{model.safetensors, optimiser.pt, state.json}    checkpoints/latest.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.checkpoint.folders import KEPT, CommittedFolders

if TYPE_CHECKING:
    from torch import Tensor

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

    def __init__(self, directory: Path, keep: int = KEPT) -> None:
        self._folders = CommittedFolders(directory, keep)

    def save(
        self,
        step: int,
        model: Mapping[str, Tensor],
        optimiser: Mapping[str, Any],
        state: Mapping[str, Any],
    ) -> Path:
        """Write and commit. On any error (a full disk) the last checkpoint stays what it was."""
        import torch
        from safetensors.torch import save_file

        self._folders.abandon(step)  # of a writer that was killed
        partial = self._folders.begin(step)
        try:
            save_file(_unshared(model), partial / "model.safetensors")
            torch.save(dict(optimiser), partial / "optimiser.pt")
            (partial / STATE).write_text(json.dumps({"step": step, "state": state}))
            return self._folders.commit(step, partial)
        except BaseException:
            self._folders.abandon(step)
            raise

    def latest(self) -> Checkpoint | None:
        """The checkpoint that the commit pointer names; None before the first.

        Raises InputError where one of its files is missing or cut short.
        """
        path = self._folders.latest()
        if path is None:
            return None
        content = json.loads((path / STATE).read_text())
        return Checkpoint(path, content["step"], content["state"])


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
