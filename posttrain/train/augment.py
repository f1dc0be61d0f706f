"""Which variants of a prompt are worth training on: the corners of their hull (`ops.convex`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain import ops
from posttrain.model.states import mean_states
from posttrain.train.offline import OfflineSettings
from posttrain.train.pairs import RenderedPair

AT_ONCE = 4096  # prompts whose states are in memory


def hull_variants(
    model: Any, pairs: Sequence[RenderedPair], settings: OfflineSettings
) -> list[list[RenderedPair]]:
    """Of each pair the variants to train on: of up to two all, of more the corners.

    None is longer than the longest pair: a token budget that is enough without is enough with them.
    """
    longest = max((pair.length(name) for pair in pairs for name in pair.answers), default=0)
    fitting = [
        [each for each in pair.variants if max(map(each.length, each.answers)) <= longest]
        for pair in pairs
    ]
    most = max(map(len, fitting), default=0)
    found: list[list[RenderedPair]] = []
    step = max(1, AT_ONCE // max(most, 1))
    for begin in range(0, len(fitting), step):
        few = fitting[begin : begin + step]
        prompts = [each.prompt for variants in few for each in variants]
        states_ND = mean_states(model, prompts, settings.tokens_per_micro_batch, settings.autocast)
        for variants, states in zip(few, states_ND.split(list(map(len, few))), strict=True):
            corners = ops.convex.hull_of_states(states) if len(variants) > 2 else (0, 1)
            found.append([variants[place] for place in corners[: len(variants)]])
    return found
