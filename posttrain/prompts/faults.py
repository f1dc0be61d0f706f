"""What is wrong with a row of a data file, in words, and which columns were probably meant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posttrain.config.suggest import closest
from posttrain.prompts.judged import LABEL, is_good

_JSON_WORDS = (
    ("Unterminated string", "string not closed"),
    ("Expecting ',' delimiter", "a `,` or a closing bracket is missing"),
    ("Expecting ':' delimiter", "a `:` is missing"),
    ("Expecting property name", "a key in double quotes is missing"),
    ("Illegal trailing comma", "a `,` too many"),
    ("Expecting value", "a value is missing"),
    ("Extra data", "more text after the end of the row"),
    ("Invalid control character", "a line break or tab inside a string"),
    ("Invalid \\", "a `\\` that escapes nothing"),
)

_SYNONYMS = {
    "prompt": ("prompt", "question", "instruction", "query", "problem", "input", "request", "text"),
    "completion": ("completion", "answer", "response", "output", "solution", "target", "chosen"),
    "messages": ("messages", "conversations", "conversation", "chat", "dialog", "dialogue"),
    "text": ("text", "content", "document", "page", "passage", "body"),
    "chosen": ("chosen", "preferred", "better", "winner"),
    "rejected": ("rejected", "dispreferred", "worse", "loser"),
    "label": ("label", "desirable", "good", "is_good", "liked", "thumbs_up"),
}

OF_COMPARISONS = ("chosen", "rejected")
"""Columns that may be conversations too."""


def json_fault(error: json.JSONDecodeError) -> str:
    """`not JSON, string not closed at column 214`; columns count from 1."""
    words = next((ours for theirs, ours in _JSON_WORDS if error.msg.startswith(theirs)), error.msg)
    return f"not JSON, {words} at column {error.colno}"


def row_fault(row: Mapping[str, Any], needs: Sequence[str]) -> str | None:
    """What makes a row unusable: a needed column that it lacks, or one of the wrong kind."""
    if LABEL in needs:
        if LABEL not in row:
            return f"no column `{LABEL}`"
        if is_good(row[LABEL]) is None:
            return f"`{LABEL}` is {_kind(row[LABEL])}, has to be true or false"
        needs = [column for column in needs if column != LABEL]
    if "messages" in row and "messages" not in needs and "prompt" in needs:
        return messages_fault(row["messages"])
    for column in needs:
        if column not in row:
            return f"no column `{column}`"
        value = row[column]
        if column == "messages":
            return messages_fault(value)
        if column in OF_COMPARISONS and isinstance(value, list):
            fault = messages_fault(value)
            if fault is not None:
                return fault.replace("`messages`", f"`{column}`")
        elif not isinstance(value, str):
            return f"`{column}` is {_kind(value)}, has to be text"
    return None


def messages_fault(value: Any) -> str | None:
    """What is wrong with a conversation, a list of {role, content}; None where nothing is."""
    if not isinstance(value, list) or not value:
        return f"`messages` is {_kind(value)}, has to be a list of {{role, content}}"
    for number, message in enumerate(value, start=1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            return f"message {number} is no {{role, content}}"
        if not isinstance(message["content"], str):
            return f"the content of message {number} is {_kind(message['content'])}, has to be text"
    return None


def meets(columns: Iterable[str], needs: Sequence[str]) -> bool:
    """Whether these columns are enough. `messages` stands for `prompt` and `completion`."""
    there = set(columns)
    if "messages" in there and "prompt" in needs:
        there |= {"prompt", "completion"}
    return there.issuperset(needs)


def guess_columns(needs: Sequence[str], has: Sequence[str]) -> dict[str, str]:
    """Our column -> the one in the file that was probably meant.

    Example: guess_columns(["prompt", "completion"], ["question", "answer"]) is
    {"prompt": "question", "completion": "answer"}.
    """
    guess: dict[str, str] = {}
    for column in needs:
        if column in has:
            continue
        free = {each.lower(): each for each in has if each not in guess.values()}
        known = [word for word in _SYNONYMS.get(column, (column,)) if word in free]
        near = known[0] if known else closest(column, free)
        if near is not None:
            guess[column] = free[near]
    return guess


def column_help(needs: Sequence[str], has: Sequence[str]) -> str:
    """`data.columns: {prompt: question, completion: answer}`, with `?` where nothing fits."""
    guess = guess_columns(needs, has)
    missing = [column for column in needs if column not in has]
    pairs = ", ".join(f"{column}: {guess.get(column, '?')}" for column in missing)
    return f"data.columns: {{{pairs}}}"


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"
