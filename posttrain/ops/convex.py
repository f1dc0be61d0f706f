"""ConvexDA: of many variants of one prompt, those that span the room that all of them take up.

Of their states the two principal components are taken, and of those points the corners of the
convex hull: variants inside are mixtures of the others, and teach little (Shen et al. 2023, arXiv
2309.16155). Degenerate: of points on a line the two ends are corners, of equal points the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_rank

Point = tuple[float, float]


def hull_of_states(states_ND: Tensor) -> list[int]:
    """Places of the states that are corners of the hull, in order."""
    points = principal_components(states_ND)
    return sorted(convex_hull([(x, y) for x, y in points.tolist()]))


def principal_components(states_ND: Tensor, count: int = 2) -> Tensor:
    """[N, count] coordinates along the directions of the largest variance, largest first; zeros
    where there are fewer directions. Signs are arbitrary.
    """
    check_rank(2, states_ND=states_ND)
    check_floating(states_ND=states_ND)
    centred_ND = states_ND.double() - states_ND.double().mean(dim=0)
    left_NR, size_R, _ = torch.linalg.svd(centred_ND, full_matrices=False)
    found_NR = (left_NR * size_R)[:, :count]
    return torch.nn.functional.pad(found_NR, (0, count - found_NR.shape[1]))


def convex_hull(points: Sequence[Point]) -> list[int]:
    """Places of the corners, counter-clockwise from the leftmost (Andrew 1979, monotone chain).

    Points on an edge are no corners.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i], i))
    distinct = [
        i for before, i in zip([None, *order], order, strict=False)
        if before is None or points[i] != points[before]
    ]  # fmt: skip
    if len(distinct) <= 2:
        return distinct
    lower, upper = _chain(points, distinct), _chain(points, distinct[::-1])
    return lower[:-1] + upper[:-1]


def _chain(points: Sequence[Point], order: Sequence[int]) -> list[int]:
    """One side of the hull: it only ever turns left."""
    chain: list[int] = []
    for i in order:
        while len(chain) >= 2 and _turn(points[chain[-2]], points[chain[-1]], points[i]) <= 0:
            chain.pop()
        chain.append(i)
    return chain


def _turn(a: Point, b: Point, c: Point) -> float:
    """Above 0 where the way from a over b to c turns left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
