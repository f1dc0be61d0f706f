"""Rows that say which of two answers people prefer, in the forms in which such data is published.

- `prompt`, `chosen`, `rejected` as texts, or `prompt` as a list of messages;
- `chosen` and `rejected` as lists of messages, the same but for the last, which is the answer;
- both as transcripts, `\\n\\nHuman: ...\\n\\nAssistant: ...` (Anthropic's HH-RLHF), the same up to
  the last turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.prompts.faults import OF_COMPARISONS as COLUMNS
from posttrain.prompts.faults import messages_fault

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}

SAME, EMPTY, OTHER_PROMPTS, NO_PROMPT, NO_ANSWER, NEITHER = (
    "both answers are the same",
    "an answer is empty",
    "the prompts of the two answers differ",
    "there is no prompt",
    "the last message is not the assistant's",
    "`prompt`, `chosen` and `rejected` have to be texts or conversations",
)
"""What makes a row no comparison."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt and two different answers.

    Example: Comparison("write ab=", "ab", "aa")
    """

    prompt: str | Sequence[Mapping[str, str]]  # a text, or messages
    chosen: str
    rejected: str


def comparison_of(row: Mapping[str, Any]) -> Comparison | str:
    """The comparison of a row, or what makes it none: one of the sentences above."""
    found = _sides(row)
    if isinstance(found, str):
        return found
    prompt, other, chosen, rejected = found
    if _compared(prompt) != _compared(other):
        return OTHER_PROMPTS
    if not chosen.strip() or not rejected.strip():
        return EMPTY
    if chosen == rejected:
        return SAME
    return Comparison(prompt, chosen, rejected)


def _sides(row: Mapping[str, Any]) -> tuple[Any, Any, str, str] | str:
    """(prompt of the chosen answer, of the rejected one, both answers); or why there are none."""
    chosen, rejected, given = row["chosen"], row["rejected"], row.get("prompt")
    if not all(_is_sound(each) for each in (chosen, rejected, given) if each is not None):
        return NEITHER
    if isinstance(chosen, str) and isinstance(rejected, str):
        if given is not None:
            return (given, given, chosen, rejected) if _has_words(given) else NO_PROMPT
        sides = [_messages_of(each) for each in (chosen, rejected)]
    else:
        sides = [list(each) if not isinstance(each, str) else [] for each in (chosen, rejected)]
    if not all(sides):
        return NO_PROMPT
    if any(side[-1]["role"] != "assistant" for side in sides):
        return NO_ANSWER
    (*prompt, first), (*other, second) = sides
    if not prompt and isinstance(given, str) and given.strip():
        prompt, other = [[{"role": "user", "content": given}]] * 2
    if not prompt:
        return NO_PROMPT
    return prompt, other, first["content"], second["content"]


def _is_sound(value: Any) -> bool:
    return isinstance(value, str) or messages_fault(value) is None


def _has_words(prompt: Any) -> bool:
    return bool(prompt.strip()) if isinstance(prompt, str) else bool(prompt)


def _compared(prompt: Any) -> Any:
    """Of messages what is said, whatever else a data set notes beside it."""
    if isinstance(prompt, str):
        return prompt
    return [(message["role"], message["content"]) for message in prompt]


def _messages_of(transcript: str) -> list[dict[str, str]]:
    """Messages of a transcript; none where it does not begin with a turn.

    The text of a turn is stripped: what surrounds it belongs to the transcript's form.
    """
    parts = _TURN.split(f"\n\n{transcript.lstrip()}")
    if parts[0].strip():
        return []
    return [
        {"role": _ROLES[who], "content": text.strip()}
        for who, text in zip(parts[1::2], parts[2::2], strict=True)
    ]


def as_wanted(row: Mapping[str, Any], needs: Sequence[str]) -> dict[str, Any] | str:
    """The row of a comparison with what it says as a prompt and a completion, where those are
    needed and it has none: the chosen answer is the completion. Any other row as it is.

    A sentence where it does not say what is needed; what it says beside that does not matter.
    """
    lacks = [column for column in needs if column not in row and column not in COLUMNS]
    if not lacks or "messages" in row or not set(COLUMNS) <= row.keys():
        return dict(row)
    found = _sides(row)
    if isinstance(found, str):
        return found
    prompt, _, chosen, _ = found
    if "completion" in lacks and not chosen.strip():
        return EMPTY
    if isinstance(prompt, str):
        return {**row, "prompt": prompt, "completion": chosen}
    return {**row, "messages": [*prompt, {"role": "assistant", "content": chosen}]}


def turned_round(row: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison's row with the wrong winner; any other row as it is."""
    if not set(COLUMNS) <= row.keys():
        return dict(row)
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def prompt_texts(row: Mapping[str, Any]) -> list[str]:
    """What the user says in a comparison's row; nothing where it is none."""
    found = comparison_of(row)
    if isinstance(found, str):
        return []
    if isinstance(found.prompt, str):
        return [found.prompt]
    return [str(each["content"]) for each in found.prompt if each["role"] == "user"]
