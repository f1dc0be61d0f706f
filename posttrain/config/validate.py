"""From plain values to strict classes, block by block, so that one mistake hides no other."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from posttrain.config.document import Places, join
from posttrain.config.keys import STAGE_CLASSES, stage_class
from posttrain.config.stage_base import StageBase
from posttrain.config.suggest import did_you_mean
from posttrain.config.wording import problems_of
from posttrain.errors import Problem, ProblemList

NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*$")
"""Names of stages and suites: they become folders, and stand in gates before a dot."""


def section(
    raw: Mapping[str, Any], key: str, places: Places, problems: ProblemList
) -> dict[str, Any]:
    """The named blocks under a key, without those whose names cannot be used."""
    value = raw.get(key) or {}
    if not isinstance(value, dict):
        file, line = places.of(key)
        help = f"{key}: {{NAME: {{...}}}}"
        problems.add(Problem("bad-value", "has to be named blocks", key, file, line, help))
        return {}
    for name in value:
        if not NAME.match(str(name)):
            file, line = places.of(join(key, name))
            message = f"`{name}` is no name: a letter, then letters, digits, `_` and `-`"
            problems.add(Problem("bad-name", message, key, file, line))
    return value


def validate_stage(
    name: str, value: Any, places: Places, problems: ProblemList
) -> StageBase | None:
    """The stage, perhaps without its faulty keys; None where too little of it can be read."""
    prefix = f"stages.{name}"
    file, line = places.of(prefix)
    kinds = ", ".join(STAGE_CLASSES)
    if not isinstance(value, Mapping):
        help = f"{name}: {{kind: ..., ...}}; kinds: {kinds}"
        problems.add(Problem("bad-value", "has to be a block of keys", prefix, file, line, help))
        return None
    if "kind" not in value:
        problems.add(
            Problem("missing-key", "`kind` is missing", prefix, file, line, f"one of {kinds}")
        )
        return None
    model = stage_class(value)
    if model is None:
        file, line = places.of(f"{prefix}.kind")
        help = did_you_mean(str(value["kind"]), STAGE_CLASSES)
        message = f"no kind `{value['kind']}`"
        problems.add(Problem("unknown-kind", message, f"{prefix}.kind", file, line, help))
        return None
    return lenient(model, value, prefix, places, problems)


def lenient(
    model: type[BaseModel], value: Any, prefix: str, places: Places, problems: ProblemList
) -> Any:
    """Validate; report what is wrong; try again without it. None where nothing useful remains."""
    removed: set[tuple[str | int, ...]] = set()
    for _ in range(4):
        try:
            return model.model_validate(value)
        except ValidationError as error:
            found = zip(error.errors(), problems_of(error, model, prefix, places), strict=True)
            fresh = [
                (detail["loc"], each) for detail, each in found if detail["loc"] not in removed
            ]
            for _, problem in fresh:
                problems.add(problem)
            value = copy.deepcopy(value)
            if not fresh or not all(_cut(value, loc) for loc, _ in fresh):
                return None
            removed |= {loc for loc, _ in fresh}
    return None


def _cut(value: Any, loc: tuple[str | int, ...]) -> bool:
    """Take one key out of plain values; False where it is not there or is the whole."""
    key: Any
    for key in loc[:-1]:
        if not isinstance(value, dict | list):
            return False
        value = value[key]
    if not loc or not isinstance(value, dict) or loc[-1] not in value:
        return False
    del value[loc[-1]]
    return True
