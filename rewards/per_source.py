"""Another reward for each source of prompts: of a mixture of data, or of a column `source`.

reward:
  per_source:
    gsm8k: gsm8k
    ifeval: {name: ifeval, form: fraction}
    code: {combine: gated, score: code, judges: {...}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from posttrain.config.plugin import RewardPlugin
from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.reward.parts import scored
from posttrain.reward.protocol import Example
from posttrain.types import Score


class Config(StrictModel):
    """The rewards by source."""

    per_source: dict[str, RewardPlugin] = Field(default_factory=dict)
    """What scores the answers to prompts of each source."""
    column: str = "source"
    """The row's column that says where a prompt comes from; a mixture of data fills `source`."""


async def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """The score of the source's own reward. Raises RewardBroken for a source that has none."""
    source = str(row.get(config.column, ""))
    if source not in config.per_source:
        has = ", ".join(config.per_source) or "none"
        raise RewardBroken(
            f"no reward for prompts whose `{config.column}` is {source!r}; there are {has}",
            help="add it under per_source, or name the column: columns: {source: dataset}",
        )
    return await scored(config.per_source[source], row, completion)


def gold(config: Config) -> Sequence[Example]:
    """None of its own: its parts prove themselves."""
    return []


def bad(config: Config) -> Sequence[Example]:
    return []
