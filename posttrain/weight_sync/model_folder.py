"""Model folders in Hugging Face form, as a source of weights: names, shapes, tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import InputError, Problem, WeightsDiffer

if TYPE_CHECKING:
    from torch import Tensor

# Keys of config.json that say nothing about what the weights mean.
NOT_ARCHITECTURE = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}
OUTPUT_HEAD = "lm_head.weight"


def read_model_folder(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of the folder's safetensors files by name, on the CPU, mapped where possible."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        tensors |= load_file(file)
    return tensors


def folder_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Name to shape of all tensors, from the files' headers alone."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="np") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes


def weight_files(folder: str | Path) -> list[Path]:
    """The folder's safetensors files; those that the index names where there is one."""
    index = Path(folder) / "model.safetensors.index.json"
    if index.exists():
        names = set(json.loads(index.read_text())["weight_map"].values())
        return [Path(folder) / name for name in sorted(names)]
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise InputError(
            Problem(
                "no-weights",
                "the model folder has no .safetensors file",
                file=str(folder),
                help="save the model with `save_pretrained`; pickled weights are not read",
            )
        )
    return files


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a model folder. Raises InputError where the folder has none."""
    try:
        return json.loads((Path(folder) / "config.json").read_text())
    except FileNotFoundError as error:
        problem = Problem("no-model", "no model folder: it has no config.json", file=str(folder))
        raise InputError(problem) from error


def require_same_architecture(first: str | Path, second: str | Path) -> None:
    """Raise InputError, naming the keys, where the folders hold different architectures."""
    ours, theirs = read_config(first), read_config(second)
    differing = sorted(
        key
        for key in (ours.keys() | theirs.keys()) - NOT_ARCHITECTURE
        if ours.get(key) != theirs.get(key)
    )
    if differing:
        keys = ", ".join(f"{key} {ours.get(key)} / {theirs.get(key)}" for key in differing[:4])
        raise InputError(
            Problem(
                "other-architecture",
                f"the engine runs another architecture than this model: {keys}",
                file=str(second),
                help="start an engine of its own for it",
            )
        )


def require_same_tensors(
    expected: Mapping[str, tuple[int, ...]],
    given: Mapping[str, tuple[int, ...]],
    tied: bool,
    place: str,
) -> None:
    """Raise WeightsDiffer where names or shapes are not those of the model.

    vLLM itself keeps the old values of a tensor that is missing, without an error.
    """
    optional = {OUTPUT_HEAD} if tied else set()
    missing = sorted(expected.keys() - given.keys() - optional)
    unknown = sorted(given.keys() - expected.keys() - optional)
    reshaped = sorted(
        name for name in expected.keys() & given.keys() if expected[name] != given[name]
    )
    facts = [
        f"{len(names)} {word}, first {names[0]}"
        for word, names in (("missing", missing), ("unknown", unknown), ("reshaped", reshaped))
        if names
    ]
    if facts:
        raise WeightsDiffer(
            f"the published tensors are not those of the engine's model: {'; '.join(facts)}",
            place=place,
            help="engine and trainer must start from the same model folder",
        )
