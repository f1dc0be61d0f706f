"""Did you mean: the nearest of the words that would have been right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `word`, or None where none is near.

    Example: closest("quickstrat", ["quickstart", "gsm8k"]) is "quickstart".
    """
    candidates = list(candidates)
    by_lower = {candidate.lower(): candidate for candidate in reversed(candidates)}
    cutoff = 0.6 if len(word) > 2 else 0.7  # the two letters of `lr` are in `lora` by chance
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def did_you_mean(word: str, candidates: Iterable[str], otherwise: str = "there are") -> str:
    """A help line: the nearest candidate, or all of them where none is near."""
    candidates = list(candidates)
    near = closest(word, candidates)
    if near is not None:
        return f"did you mean `{near}`?"
    return f"{otherwise} {', '.join(candidates)}" if candidates else ""


def closest_key(key: str, candidates: Iterable[str]) -> str | None:
    """The dotted key most like `key`: one with the same last part, else the nearest.

    Example: closest_key("stages.rlvr.lr", ["stages.rlvr.algorithm.lr", "stages.rlvr.steps"]) is
    "stages.rlvr.algorithm.lr".
    """
    candidates = list(candidates)
    leaf = key.rpartition(".")[2]
    same_leaf = [each for each in candidates if each.rpartition(".")[2] == leaf]
    if same_leaf:
        return max(same_leaf, key=lambda each: SequenceMatcher(None, key, each).ratio())
    near = get_close_matches(key, candidates, n=1, cutoff=0.75)
    return near[0] if near else None
