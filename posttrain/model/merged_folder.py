"""A model folder made of others, tensor by tensor: no model is ever in memory as a whole.

The result has the files, number formats, configuration and tokenizer of the first of `models` (the
trained one). It grows in a hidden folder beside its place and is moved there when it is complete.
Every shard appears when it is whole, so a merge that was interrupted goes on with the next one, as
long as it is the same merge: the same files, method and settings, as merge.json says.

Memory: one tensor of every model and what the method makes of them; the largest tensor decides.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.errors import InputError, Problem
from posttrain.files import put_in_place, write_json
from posttrain.model.folders import PICKLED, WEIGHTS, read_json, vocabulary_fingerprint
from posttrain.model.stored_tensors import (
    INDEX,
    StoredModel,
    StoredTensor,
    is_whole,
    layer_of,
    write_shard,
)
from posttrain.ports import TensorVersions

if TYPE_CHECKING:
    from torch import Tensor

RECORD = "merge.json"  # in the hidden folder: which merge it belongs to


@dataclass(frozen=True, slots=True)
class MergeSources:
    """The models of a merge, and what the stage says about them."""

    models: tuple[StoredModel, ...]  # at least one; the result is stored like the first
    pre: StoredModel | None = None
    weight_pre: float = 0.0
    weights: tuple[float, ...] = ()
    seed: int = 0

    @property
    def everything(self) -> tuple[StoredModel, ...]:
        return self.models if self.pre is None else (*self.models, self.pre)

    def tensors(self) -> Iterator[TensorVersions]:
        """Every tensor that is merged, in the order of the files."""
        for name, stored in self.models[0].tensors.items():
            if _is_merged(stored):
                yield self.versions(name)

    def versions(self, name: str, found: Any = None) -> TensorVersions:
        """One tensor of all models, widened to fp32, or to fp64 where one stores more."""
        read = [model.read(name) for model in self.everything]
        wide = _wide_format(read)
        tensors = [tensor.to(wide) for tensor in read]
        pre = tensors.pop() if self.pre is not None else None
        return TensorVersions(
            name,
            layer_of(name),
            self.models[0].num_layers,
            tuple(tensors),
            pre,
            self.weight_pre,
            self.weights,
            self.seed,
            found,
        )


def merge_folders(
    sources: MergeSources,
    target: Path,
    merge: Callable[[TensorVersions], Tensor],
    identity: Mapping[str, Any],
    found: Any = None,
) -> None:
    """Write the merged model to `target`; a folder that is there is replaced.

    `identity` are plain values of what decides the result beside the sources' files. Tensors that
    hold no floating-point numbers are those of the first model. Raises InputError, before anything
    is written, where the models do not go together.
    """
    check_alike(sources)
    model = sources.models[0]
    partial = target.parent / f".{target.name}.merging"
    _begin(partial, sources, identity)

    def produce(name: str) -> Tensor:
        if not _is_merged(model.tensors[name]):
            return model.read(name)
        merged = merge(sources.versions(name, found))
        return merged.to(model.read(name).dtype)

    for file, names in model.shards.items():
        if not is_whole(partial / file, names, model.tensors):
            write_shard(partial / file, names, model.tensors, produce)
    _finish(partial, model)
    put_in_place(partial, target)


def check_alike(sources: MergeSources) -> None:
    """Raise InputError with everything that keeps the models from being merged."""
    first, *others = sources.everything
    problems = [problem for model in sources.everything for problem in _packed(model)]
    problems += [problem for other in others for problem in _differences(other, first)]
    if problems:
        raise InputError(problems)


# -- checks -------------------------------------------------------------------------------------


def _packed(model: StoredModel) -> Iterator[Problem]:
    """Of quantized weights: whole numbers that stand for others say nothing when they are mixed."""
    if "quantization_config" in read_json(model.folder / "config.json"):
        message = f"`{model.label}` has quantized weights, and those cannot be averaged"
        yield Problem("quantized-weights", message, help="the model that it was quantized from")


def _differences(one: StoredModel, other: StoredModel) -> Iterator[Problem]:
    configs = [read_json(model.folder / "config.json") for model in (one, other)]
    names = f"`{one.label}`", f"`{other.label}`"
    for key in ("model_type", "tie_word_embeddings"):
        values = [config.get(key) for config in configs]
        if None not in values and values[0] != values[1]:
            message = f"{key} is {values[0]} in {names[0]}, {values[1]} in {names[1]}"
            yield Problem("other-architecture", message, help="average models of one family")
            return  # then nothing else fits either
    prints = [vocabulary_fingerprint(model.folder) for model in (one, other)]
    if "" not in prints and prints[0] != prints[1]:
        message = (
            f"{names[0]} and {names[1]} have other tokenizers: a token is not the same in both"
        )
        yield Problem("other-tokenizer", message, help="average models of one family")
    found = list(_tensor_differences(one, other))
    if found:
        count = len(found) - 1
        more = f" ({count} more tensor{'s differ' if count > 1 else ' differs'})" if count else ""
        yield Problem(
            "shapes-differ", f"{found[0]}{more}; nothing is written", help=_cure(one, other)
        )


def _tensor_differences(one: StoredModel, other: StoredModel) -> Iterator[str]:
    for name in sorted(one.tensors.keys() | other.tensors.keys()):
        if name not in one.tensors or name not in other.tensors:
            holder = one if name in one.tensors else other
            yield f"`{name}` is only in `{holder.label}`"
            continue
        first, second = one.tensors[name], other.tensors[name]
        if first.shape != second.shape:
            shapes = f"{_shape(first)} in `{one.label}`, {_shape(second)} in `{other.label}`"
            yield f"`{name}` is {shapes}"
        elif first.is_floating != second.is_floating:
            formats = f"{first.number_format} in `{one.label}`, {second.number_format}"
            yield f"`{name}` is {formats} in `{other.label}`"


def _cure(one: StoredModel, other: StoredModel) -> str:
    for name in sorted(one.tensors.keys() & other.tensors.keys()):
        first, second = one.tensors[name].shape, other.tensors[name].shape
        if first != second and first[1:] == second[1:] and layer_of(name) is None:
            added = abs(first[0] - second[0])
            return f"{added} added tokens differ: average models of one family"
    return "average models of one architecture, such as a stage and the one it started from"


def _shape(stored: StoredTensor) -> str:
    return "×".join(map(str, stored.shape)) or "a single number"


# -- writing ------------------------------------------------------------------------------------


def _begin(partial: Path, sources: MergeSources, identity: Mapping[str, Any]) -> None:
    """The hidden folder: as it was left by the same merge, otherwise empty."""
    files = {stored.file for model in sources.everything for stored in model.tensors.values()}
    seen = {str(file): file.stat() for file in files}
    record = {
        **identity,
        "weight_pre": sources.weight_pre,
        "weights": list(sources.weights),
        "seed": sources.seed,
        "models": [str(model.folder) for model in sources.everything],
        "files": {name: [each.st_size, each.st_mtime_ns] for name, each in seen.items()},
    }
    if read_json(partial / RECORD) != json.loads(json.dumps(record)):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(partial / RECORD, record)
    for half in partial.glob(".*"):  # a shard that a process was killed in
        half.unlink()


def _finish(partial: Path, model: StoredModel) -> None:
    """What belongs to a model folder beside its weights, from the first model."""
    shards = model.shards
    if len(shards) > 1:
        total = sum(stored.num_bytes for stored in model.tensors.values())
        places = {name: file for file, names in shards.items() for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for file in sorted(model.folder.iterdir()):
        if file.is_file() and not _is_weights(file) and not _is_about_the_source(file):
            shutil.copyfile(file, partial / file.name)  # through links: they may be gone later
    (partial / RECORD).unlink()


def _is_weights(file: Path) -> bool:
    return file.suffix == WEIGHTS or file.name == INDEX or any(map(file.match, PICKLED))


def _is_about_the_source(file: Path) -> bool:
    return file.name.startswith(".") or file.suffix == ".md"  # a card would describe another model


def _is_merged(stored: StoredTensor) -> bool:
    return stored.is_floating and stored.num_bytes > 0


def _wide_format(tensors: list[Tensor]) -> Any:
    import torch

    return torch.float64 if any(each.itemsize > 4 for each in tensors) else torch.float32
