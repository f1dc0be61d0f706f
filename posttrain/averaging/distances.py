"""How far apart models are, and whether their changes contradict one another. For reports."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import TYPE_CHECKING

from posttrain.averaging._vectors import CHUNK, inner_product, task_vectors
from posttrain.ports import TensorVersions

if TYPE_CHECKING:
    from torch import Tensor

PartOf = Callable[[int | None, int], str]  # of a layer among so many


def distances(tensors: Iterable[TensorVersions], part_of: PartOf | None = None) -> dict[str, float]:
    """`average/distance`: |θ_post - θ_pre| / |θ_pre| over all tensors, dimensionless.

    `average/distance/<part>` says it of each part that `part_of` names.
    """
    moved: defaultdict[str, float] = defaultdict(float)
    length: defaultdict[str, float] = defaultdict(float)
    for versions in tensors:
        if versions.pre is None:
            raise ValueError(f"{versions.name}: no `pre` to be at a distance from")
        squared = _squared_distance(versions.models[0], versions.pre)
        own = inner_product(versions.pre, versions.pre)
        names = ["average/distance"]
        if part_of is not None:
            names.append(f"average/distance/{part_of(versions.layer, versions.num_layers)}")
        for name in names:
            moved[name] += squared
            length[name] += own
    return {name: math.sqrt(moved[name] / length[name]) if length[name] else 0.0 for name in moved}


def agreement(tensors: Iterable[TensorVersions]) -> dict[str, float]:
    """Of the changes that models made to `pre`, over all tensors.

    `average/change_cosine`: mean cosine of two models' changes (0 where one changed nothing).
    `average/sign_conflict_share`: share of the entries that any model changed which two models
    moved in opposite directions. Empty for a single model.
    """
    products: defaultdict[tuple[int, int], float] = defaultdict(float)
    conflicts = changed = num_models = 0
    for versions in tensors:
        tasks = task_vectors(versions)
        num_models = len(tasks)
        for one in range(num_models):
            for other in range(one, num_models):
                products[one, other] += inner_product(tasks[one], tasks[other])
        contradicted, touched = _signs(tasks)
        conflicts += contradicted
        changed += touched
    if num_models < 2:
        return {}
    cosines = []
    for one, other in combinations(range(num_models), 2):
        lengths = math.sqrt(products[one, one] * products[other, other])
        cosines.append(products[one, other] / lengths if lengths else 0.0)
    return {
        "average/change_cosine": sum(cosines) / len(cosines),
        "average/sign_conflict_share": conflicts / max(1, changed),
    }


def _signs(tasks: list[Tensor]) -> tuple[int, int]:
    """(entries that were moved both ways, entries that were moved)."""
    up, down = tasks[0] > 0, tasks[0] < 0
    for task in tasks[1:]:
        up |= task > 0
        down |= task < 0
    return int((up & down).sum()), int((up | down).sum())


def _squared_distance(first: Tensor, second: Tensor) -> float:
    parts = zip(first.flatten().split(CHUNK), second.flatten().split(CHUNK), strict=True)
    return sum(float((a - b).double().square().sum()) for a, b in parts)
