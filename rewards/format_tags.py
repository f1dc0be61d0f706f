"""Tags in their order (DeepSeek-R1, Guo et al. 2025, arXiv 2501.12948, section 2.2.2): 1 or 0.

Reads no column. Each of `tags` has to be opened and closed exactly once, in order, one after the
other, with something in it: `<think>…</think><answer>…</answer>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator

from posttrain.config.strict import StrictModel
from posttrain.reward.protocol import Example
from posttrain.reward.verdict import shown, wrong
from posttrain.types import Score

FORM_ONLY = True


class Config(StrictModel):
    """Which tags."""

    tags: tuple[str, ...] = Field(default=("think", "answer"), min_length=1)
    """The tags' names, in the order in which they have to come."""
    strict: bool = True
    """Whether anything but blanks outside the tags makes it wrong."""

    @field_validator("tags")
    @classmethod
    def _named(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(tags)) < len(tags) or not all(tag.isidentifier() for tag in tags):
            raise ValueError("names of tags are letters, digits and `_`, each given once")
        return tags


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0."""
    at = 0
    for tag in config.tags:
        opening, closing = f"<{tag}>", f"</{tag}>"
        for mark in (opening, closing):
            if (count := completion.count(mark)) != 1:
                return wrong(f"expected {mark} once, found it {count} times")
        start, end = completion.index(opening), completion.index(closing)
        if not at <= start < end:
            return wrong(f"expected {' '.join(config.tags)} in order, found {tag} out of place")
        if config.strict and (outside := completion[at:start].strip()):
            return wrong(f"expected nothing before {opening}, found {shown(outside)}")
        if not completion[start + len(opening) : end].strip():
            return wrong(f"expected something in {opening}, found nothing")
        at = end + len(closing)
    if config.strict and (outside := completion[at:].strip()):
        return wrong(f"expected nothing at the end, found {shown(outside)}")
    return Score(1.0, passed=True)


def _text(tags: Sequence[str], inside: str = "some words", between: str = "\n") -> str:
    return between.join(f"<{tag}>{inside}</{tag}>" for tag in tags)


def gold(config: Config) -> Sequence[Example]:
    right = _text(config.tags)
    examples = [Example({}, right), Example({}, f"\n{_text(config.tags, between='')} \n")]
    if not config.strict:
        examples.append(Example({}, f"Well: {right} That is all."))
    return examples


def bad(config: Config) -> Sequence[Example]:
    right, first = _text(config.tags), config.tags[0]
    texts = [
        "",
        "some words",
        right + right,  # each twice
        right.removesuffix(">"),
        f"<{first}>{right}",
        _text(config.tags, inside=" "),
    ]
    if len(config.tags) > 1:
        nested = "x".join(f"<{tag}>" for tag in config.tags)
        nested += "x".join(f"</{tag}>" for tag in config.tags)
        texts += [_text(config.tags[::-1]), _text(config.tags[:-1]), nested]
    if config.strict:
        texts += [f"Well: {right}", f"{right} That is all."]
    return [Example({}, text) for text in texts]
