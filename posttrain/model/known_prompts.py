"""The prompts that an ensemble of reward models was trained on, and its first member's states of
them: a file beside the members, `prompts.safetensors`.

    tokens   [T] int32   the prompts' token ids, one after another
    lengths  [N] int32   tokens of each prompt
    states   [N, D] bf16 mean last hidden state of each (`model.states`)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from posttrain.errors import InputError, Problem
from posttrain.files import whole_file

FILE = "prompts.safetensors"


@dataclass(frozen=True, slots=True)
class KnownPrompts:
    """Example: KnownPrompts(((5, 3, 12), (5, 4)), torch.zeros(2, 128))"""

    prompts: tuple[tuple[int, ...], ...]
    states_ND: Tensor  # bf16: cosines are right to 1e-4


def write_known_prompts(folder: Path, prompts: Sequence[Sequence[int]], states_ND: Tensor) -> None:
    """Write the file whole, or not at all."""
    from safetensors.torch import save_file

    tensors = {
        "tokens": torch.tensor([token for each in prompts for token in each], dtype=torch.int32),
        "lengths": torch.tensor([len(each) for each in prompts], dtype=torch.int32),
        "states": states_ND.to(torch.bfloat16).contiguous(),
    }
    with whole_file(folder / FILE) as partial:
        save_file(tensors, partial)


def read_known_prompts(folder: str | Path) -> KnownPrompts:
    """Of an ensemble's folder. Raises InputError where it has none."""
    from safetensors.torch import load_file

    file = Path(folder) / FILE
    if not file.exists():
        raise InputError(
            Problem(
                "no-known-prompts",
                f"the ensemble has no {FILE}: scores cannot be fused over prompts that it knows",
                file=str(folder),
                help="train it again, or leave `fuse` out",
            )
        )
    tensors = load_file(file)
    parts = tensors["tokens"].split(tensors["lengths"].tolist())
    return KnownPrompts(tuple(tuple(part.tolist()) for part in parts), tensors["states"])
