"""HFT: half of a model is trained and half stays as it was (Hui et al., arXiv 2404.18466).

In every layer, and within each kind of parameter there (attention matrices, feed-forward matrices,
norms), half is frozen, chosen by the seed: two of q, k, v, o; of three feed-forward matrices one
and two in turn, layer by layer. What stands outside the layers, embeddings and output head above
all, is always trained. What is frozen keeps what the start model knew. Each stage draws anew, so
over several stages everything is trained. A model without numbered layers cannot be halved.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.errors import InputError, Problem
from posttrain.files import write_json
from posttrain.ports import Tracker

ATTENTION, FEED_FORWARD, NORM = "attention", "feed-forward", "norm"
FILE = "half.json"  # in the stage's folder: what is frozen


def frozen_half(dimensions: Mapping[str, int], seed: int) -> set[str]:
    """Names of the parameters to freeze. `dimensions` says how many each parameter has, by name, in
    the model's order.

    A matrix's bias goes with it. Empty where no name has a number in it.
    """
    layers: dict[str, dict[str, list[str]]] = defaultdict(dict)  # layer -> unit -> parameters
    for name in dimensions:
        layer, unit = _layer(name), name.rpartition(".")[0]
        if layer:
            layers[layer].setdefault(unit, []).append(name)
    chance = random.Random(f"{seed}/half")
    larger_first = {kind: chance.randrange(2) for kind in (ATTENTION, FEED_FORWARD, NORM)}
    frozen: set[str] = set()
    for number, (layer, units) in enumerate(layers.items()):
        by_kind: dict[str, list[str]] = defaultdict(list)
        for unit, names in units.items():
            is_norm = max(dimensions[name] for name in names) < 2
            by_kind[NORM if is_norm else _matrix_kind(unit.removeprefix(layer))].append(unit)
        for kind, members in by_kind.items():
            count = (len(members) + (number + larger_first[kind]) % 2) // 2
            for unit in chance.sample(members, count):
                frozen.update(units[unit])
    return frozen


def freeze_half(model: Any, seed: int) -> set[str]:
    """Freeze half of the model in place; names of what is frozen. Before optimiser and sharding.

    Raises InputError where the model's parameters do not stand in numbered layers.
    """
    parameters = dict(model.named_parameters())
    frozen = frozen_half({name: p.ndim for name, p in parameters.items()}, seed)
    if not frozen:
        raise InputError(
            Problem(
                "nothing-to-halve",
                "the model's parameters do not stand in numbered layers",
                path="half_fine_tuning",
                file=str(getattr(model, "name_or_path", "")),
                help="leave `half_fine_tuning` out; or `lora`, or `start_penalty`",
            )
        )
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def trained_share(model: Any) -> float:
    """Share of the model's parameters that are trained."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in counts if trained) / sum(n for n, _ in counts)


def tell_half(model: Any, frozen: set[str], directory: Path, tracker: Tracker) -> None:
    """Write what is frozen into the stage's folder, and say so. On one rank."""
    share = trained_share(model)
    names = [name for name, _ in model.named_parameters() if name in frozen]
    document = {"schema": 1, "trained_share": share, "frozen": names}
    write_json(directory / FILE, document)
    text = f"{len(names)} of {len(list(model.parameters()))} tensors stay as they are"
    tracker.event("half-frozen", text=f"{text}, {100 * share:.0f} % of all weights are trained")


def _layer(name: str) -> str:
    """`model.layers.3` of `model.layers.3.mlp.up_proj.weight`; empty without a number."""
    parts = name.split(".")
    place = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "" if place is None else ".".join(parts[: place + 1])


def _matrix_kind(unit: str) -> str:
    return ATTENTION if "attn" in unit or "attention" in unit else FEED_FORWARD
