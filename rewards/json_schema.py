"""JSON that fits a schema (JSON Schema, draft 2020-12 unless `$schema` says otherwise): 1 or 0.

Reads the row's `schema`, an object or its JSON text; where the row has none, the settings' own
stands in. The answer is one JSON value and nothing else; a code fence around it is taken off. A
key that stands twice in one object is wrong, as are numbers that no float holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jsonschema
import regex
from referencing import Registry

from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.reward.protocol import Example
from posttrain.reward.verdict import shown, wrong
from posttrain.types import Score

MOST_CHARACTERS = 1_000_000
DEEPEST = 100
PATTERN_TIMEOUT_S = 0.5


class Config(StrictModel):
    """Which schema."""

    json_schema: dict[str, Any] | None = None
    """The schema for rows that have no `schema` of their own."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0. Raises RewardBroken where the schema is missing, malformed or cannot be used."""
    validator = _validator(row.get("schema", config.json_schema))
    if len(completion) > MOST_CHARACTERS:
        return wrong(f"expected JSON, found {len(completion)} characters")
    try:
        value = json.loads(
            _without_fence(completion),
            parse_constant=_no_json,
            parse_float=_number,
            object_pairs_hook=_object,
        )
    except (ValueError, RecursionError) as error:
        return wrong(f"expected JSON, found {shown(completion)}: {shown(error)}")
    if _is_deep(value):
        return wrong(f"expected JSON, found it nested deeper than {DEEPEST}")
    try:
        error = next(validator.iter_errors(value), None)
    except OverflowError as overflow:  # a number with hundreds of digits, divided as a float
        return wrong(f"expected smaller numbers: {shown(overflow)}")
    except Exception as broken:  # boundary: a library over a schema that somebody wrote
        raise RewardBroken(f"the schema cannot be used: {shown(broken)}") from broken
    if error is None:
        return Score(1.0, passed=True)
    return wrong(f"{shown(error.json_path)}: {shown(error.message)}")


def _validator(schema: object) -> Any:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise RewardBroken(f"the row's `schema` is no JSON: {shown(error)}") from error
    if not isinstance(schema, (dict, bool)):
        raise RewardBroken(
            f"the row's `schema` is {shown(schema)}, not an object",
            help="give rows a column `schema`, or set `json_schema` for all of them",
        )
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except (jsonschema.SchemaError, RecursionError) as error:
        raise RewardBroken(f"the schema is not valid: {shown(error)}") from error
    kind = jsonschema.validators.extend(kind, {"uniqueItems": _unique, "pattern": _pattern})
    return kind(schema, registry=Registry())  # an empty registry: nothing is fetched


def _unique(
    validator: Any, wanted: bool, items: object, schema: object
) -> Iterator[jsonschema.ValidationError]:
    """In linear time; the library compares all pairs where items cannot be sorted."""
    if wanted and isinstance(items, list):
        texts = [json.dumps(item, sort_keys=True) for item in items]
        if len(set(texts)) < len(texts):
            yield jsonschema.ValidationError("has items that are not unique")


def _pattern(
    validator: Any, pattern: str, text: object, schema: object
) -> Iterator[jsonschema.ValidationError]:
    """With a time limit: what a pattern takes for ever on is the answer's doing, and wrong."""
    if not isinstance(text, str):
        return
    try:
        if not regex.search(pattern, text, timeout=PATTERN_TIMEOUT_S):
            yield jsonschema.ValidationError(f"{shown(text)!r} does not match {pattern!r}")
    except TimeoutError:
        yield jsonschema.ValidationError(f"{shown(text)!r} takes {pattern!r} too long")


def _number(digits: str) -> float | int:
    """A whole one as int: JSON knows one kind of number, and 1.0 is 1."""
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits:.40} is larger than any float")
    return int(number) if number.is_integer() else number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _without_fence(text: str) -> str:
    """The text between ``` and ```, without the language's name; the text itself without them."""
    bare = text.strip()
    if not (bare.startswith("```") and bare.endswith("```") and "\n" in bare):
        return bare
    return bare.partition("\n")[2][:-3]


def _is_deep(value: object) -> bool:
    """Whether lists and objects nest deeper than DEEPEST; without recursion."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            child
            for each in level
            if isinstance(each, (dict, list))
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
_ROW = {"schema": _SCHEMA}
_UNIQUE = {"schema": {"type": "array", "uniqueItems": True}}


def gold(config: Config) -> Sequence[Example]:
    return [
        Example(_ROW, '{"name": "Ada", "age": 36}'),
        Example({"schema": json.dumps(_SCHEMA)}, '```json\n{"name": "Ada", "age": 36}\n```'),
        Example({"schema": {"type": "array", "items": {"type": "number"}}}, "[1, 2.5]"),
        Example(_UNIQUE, json.dumps([{"n": n} for n in range(20_000)])),
    ]


def bad(config: Config) -> Sequence[Example]:
    return [
        Example(_ROW, ""),
        Example(_ROW, "{}"),
        Example(_ROW, '{"name": "Ada", "age": -1}'),
        Example(_ROW, '{"name": "Ada", "age": NaN}'),
        Example(_ROW, 'Here it is: {"name": "Ada", "age": 36}'),
        Example(_ROW, '{"name": "Ada", "age": 36} {"name": "Ada", "age": 36}'),
        Example(_ROW, "[" * 100_000),
        Example(_ROW, "9" * 10_000),
        Example(_ROW, '{"name": "Ada", "age": -1, "age": 36}'),
        Example({"schema": {"multipleOf": 0.5}}, "1e400"),
        Example({"schema": {"multipleOf": 0.5}}, "9" * 400),
        Example(_UNIQUE, json.dumps([{}] * 30_000)),
        Example({"schema": {"pattern": "^(a+)+$"}}, f'"{"a" * 60}b"'),
    ]
