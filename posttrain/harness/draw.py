"""Which of a task's questions are asked: the same for every model."""

from __future__ import annotations

import random
from collections.abc import Mapping


def shares(sizes: Mapping[str, int], limit: int, by_size: bool) -> dict[str, int]:
    """How many questions each part of a group gives, so that their plain mean is its value.

    A group that weighs its parts by size gets `limit` questions in proportion to the sizes, at
    least one of each part (so perhaps more than `limit`), by largest remainders. One that weighs
    them alike gets the same number of each: limit / parts, no more than the smallest part has.
    Examples: shares({"a": 30, "b": 10}, 8, True) is {"a": 6, "b": 2};
    shares({"a": 30, "b": 10}, 8, False) is {"a": 4, "b": 4}. ValueError where a part is empty.
    """
    empty = [name for name, size in sizes.items() if size < 1]
    if empty:
        raise ValueError(f"no question in {', '.join(empty)}")
    if not by_size:
        each = min(max(1, limit // len(sizes)), *sizes.values())
        return dict.fromkeys(sizes, each)
    total = sum(sizes.values())
    wanted = {name: min(limit, total) * size / total for name, size in sizes.items()}
    given = {name: max(1, int(share)) for name, share in wanted.items()}
    left = min(limit, total) - sum(given.values())
    remainders = sorted(sizes, key=lambda name: given[name] - wanted[name])
    for name in remainders[: max(0, left)]:
        given[name] += 1
    return given


def drawn(name: str, size: int, count: int, seed: int) -> list[int]:
    """`count` of `size` numbers from 0, sorted; the seed and the part's name decide which."""
    return sorted(random.Random(f"{seed}/{name}").sample(range(size), count))
