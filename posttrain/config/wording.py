"""Pydantic's errors in our words: what is wrong with a value, and what to write instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from posttrain.config.document import Places, join
from posttrain.config.field_sentences import sentences
from posttrain.config.keys import descend
from posttrain.config.suggest import did_you_mean
from posttrain.errors import Problem

_KINDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list: [a, b]",
    "tuple_type": "a list: [a, b]",
    "dict_type": "a block of keys: {key: value}",
    "model_type": "a block of keys: {key: value}",
    "model_attributes_type": "a block of keys: {key: value}",
}
_LIMITS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda context: f"more than {context['gt']:g}",
    "greater_than_equal": lambda context: f"{context['ge']:g} or more",
    "less_than": lambda context: f"less than {context['lt']:g}",
    "less_than_equal": lambda context: f"{context['le']:g} or less",
}


def show_value(value: Any) -> str:
    """A value as it stands in YAML: `1e-05`, `true`, `[base, sft]`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "empty"
    if isinstance(value, float):
        return _show_float(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(show_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {show_value(item)}' for key, item in value.items())}}}"
    return str(value)


def _show_float(value: float) -> str:
    if math.isfinite(value) and value != 0 and (abs(value) < 1e-2 or abs(value) >= 1e6):
        mantissa, _, exponent = f"{value:e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:g}"


def problems_of(
    error: ValidationError, model: type[BaseModel], prefix: str, places: Places
) -> list[Problem]:
    """One problem per pydantic error; `prefix` is the dotted key of what was validated."""
    details = error.errors(include_url=False)
    return [_problem(detail, model, prefix, places) for detail in details]


def _problem(detail: Any, model: type[BaseModel], prefix: str, places: Places) -> Problem:
    kind, context, loc = detail["type"], detail.get("ctx") or {}, detail["loc"]
    key = join(prefix, *loc)
    file, line = places.of(key)
    if kind == "extra_forbidden":
        parent, name = join(prefix, *loc[:-1]), str(loc[-1])
        known = _keys_below(model, loc[:-1])
        help = did_you_mean(name, known, "keys here:")
        return Problem("unknown-key", f"no key `{name}`", parent, file, line, help)
    if kind == "missing":
        parent, name = join(prefix, *loc[:-1]), str(loc[-1])
        sentence = _sentence(model, loc)
        return Problem("missing-key", f"`{name}` is missing", parent, file, line, sentence)
    message, help = _value_words(kind, context, detail)
    code = getattr(context.get("error"), "code", "bad-value")
    return Problem(code, message, key, file, line, help)


def _value_words(kind: str, context: Mapping[str, Any], detail: Any) -> tuple[str, str]:
    value = show_value(detail["input"])
    if kind in _KINDS:
        return f"is {value}, has to be {_KINDS[kind]}", ""
    if kind in _LIMITS:
        return f"is {value}, has to be {_LIMITS[kind](context)}", ""
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"is {value}, has to be one of {', '.join(choices)}", _did_you_mean(value, choices)
    if kind == "value_error":
        error = context.get("error", detail["msg"])
        return str(error), getattr(error, "help", "")
    if kind == "string_pattern_mismatch":
        return f"is `{value}`, has to be letters, digits, `_`, `-` and `.`", ""
    if kind == "too_short":
        return "is empty", f"{context['min_length']} or more"
    message = detail["msg"]
    return f"is {value}: {message[:1].lower()}{message[1:]}", ""


def _did_you_mean(value: str, choices: Sequence[str]) -> str:
    help = did_you_mean(value, choices, "")
    return help if help.startswith("did") else ""


def _keys_below(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The keys that may stand at a location below a model."""
    below = descend(model, loc)
    return list(below.model_fields) if below is not None else []


def _sentence(model: type[BaseModel], loc: Sequence[str | int]) -> str:
    """What the missing key means: its field's own sentence, on one line."""
    below = descend(model, loc[:-1])
    return sentences(below).get(str(loc[-1]), "") if below is not None else ""
