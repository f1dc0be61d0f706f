"""Greedy soups: which models went into the mean of an average stage, and which did not help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.track.formatting import half_width
from posttrain.track.run_parts import interval_of, read_json
from posttrain.track.views import RunView

SOUP = "soup.json"


@dataclass(frozen=True, slots=True)
class SoupRow:
    """One step: a model was tried. Values as people read them, in per cent and points."""

    stage: str
    model: str
    alone: str  # its own score, which decides the order
    score: str  # of the mean with it
    gain: str  # of that mean, on questions that decided nothing
    tax: str
    kept: bool


def soup_rows(view: RunView) -> Sequence[SoupRow]:
    """Of all greedy soups, step by step; empty where there is none."""
    return [
        row
        for stage in view.stages
        if stage.kind == "average"
        for row in _of_soup(stage.name, read_json(stage.directory / SOUP))
    ]


def _of_soup(stage: str, soup: Mapping[str, Any]) -> list[SoupRow]:
    alone = {
        each["models"][0]: _in_words(each, "score")
        for each in soup.get("asked") or ()
        if len(each["models"]) == 1
    }
    return [
        SoupRow(
            stage,
            step["model"],
            alone.get(step["model"], ""),
            _in_words(step, "score"),
            _in_words(step, "gain"),
            _in_words(step, "tax"),
            bool(step["kept"]),
        )
        for step in soup.get("steps") or ()
    ]


def _in_words(entry: Mapping[str, Any], key: str) -> str:
    found = interval_of(entry.get(key))
    if found is None:
        return "-"
    return f"{100 * found.value:.1f} ± {100 * half_width(found):.1f}"
