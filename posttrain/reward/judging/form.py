"""What a judge fills in, and how that is read: never guessed, and never 0 for want of sense.

The endpoint is asked for JSON that matches a schema. Not all can do that, so that the form is also
found inside other text. Where two different judgements can be read, or half of one, it is nonsense:
what an answer smuggled in may be one of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from posttrain.errors import RewardBroken

_NUMBER = r"-?\d+(?:\.\d+)?"
_CODE_BLOCK = re.compile(r"^```\w*\n(.*?)\n?```$", re.DOTALL)


class JudgeNonsense(RewardBroken):
    """The judge answered, but not with a judgement. `cost` is what the answer cost."""

    cost: float = 0.0

    def add_to_message(self, note: str) -> None:
        self.message += note
        self.args = (self.message,)


@dataclass(frozen=True, slots=True)
class Form:
    """A reason, then one field: a whole number from a scale, or one of a few words.

    The reason comes first: a model that thinks before it rates rates better.
    Example: Form("rating", (1, 2, 3, 4, 5)), Form("better", ("A", "B", "tie"))
    """

    field: str
    choices: tuple[int, ...] | tuple[str, ...]

    @property
    def is_number(self) -> bool:
        return isinstance(self.choices[0], int)

    @property
    def ending(self) -> str:
        """How to answer, in words, for models whose endpoint does not hold them to the schema."""
        if self.is_number:
            choices = f"a whole number from {min(self.choices)} to {max(self.choices)}"
        else:
            choices = " or ".join(f'"{choice}"' for choice in self.choices)
        return f'Answer with JSON only: {{"reason": one short sentence, "{self.field}": {choices}}}'

    def response_format(self) -> dict[str, Any]:
        """OpenAI's `response_format` for this form."""
        kind = "integer" if self.is_number else "string"
        schema = {
            "type": "object",
            "properties": {
                "reason": {"type": "string"},
                self.field: {"type": kind, "enum": list(self.choices)},
            },
            "required": ["reason", self.field],
            "additionalProperties": False,
        }
        named = {"name": "judgement", "strict": True, "schema": schema}
        return {"type": "json_schema", "json_schema": named}

    def read(self, text: str) -> tuple[float | str, str]:
        """The choice and the reason in a judge's answer. Raises JudgeNonsense."""
        stripped = text.rpartition("</think>")[2].strip()
        if block := _CODE_BLOCK.match(stripped):
            stripped = block[1].strip()
        found = [each for each in _objects(stripped) if self.field in each]
        if found:
            readings = [(self._choice(each[self.field]), each.get("reason")) for each in found]
        else:
            readings = [(self._choice(each), None) for each in self._labelled(stripped)]
        choices = {choice for choice, _ in readings}
        if len(choices) != 1 or None in choices:
            raise JudgeNonsense(
                f"judge answered nonsense: {_short(text)}",
                help="a judge that cannot fill in a form is too small, or `max_tokens` too few",
            )
        choice, reason = readings[0]
        assert choice is not None
        return choice, " ".join(str(reason or "").split())

    def _choice(self, value: Any) -> float | str | None:
        """The value as one of the choices; None where it is none. 7.5 is on a scale, 11 is not."""
        if not self.is_number:
            words = {str(choice).casefold(): str(choice) for choice in self.choices}
            return words.get(str(value).strip().casefold())
        if isinstance(value, str) and re.fullmatch(_NUMBER, value.strip()):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        lowest, highest = int(self.choices[0]), int(self.choices[-1])
        return float(value) if lowest <= value <= highest else None

    def _labelled(self, text: str) -> list[str]:
        """`rating: 8` anywhere in a text, or a text that is nothing but `8`, `8/10` or `[[A]]`."""
        if text.startswith("{"):
            return []  # half a form: what else stands in it is the reason
        if self.is_number:
            value, bare = rf"({_NUMBER})", rf"({_NUMBER})(?:\s*/\s*{self.choices[-1]})?\.?"
        else:
            words = "|".join(re.escape(str(choice)) for choice in self.choices)
            value, bare = rf"({words})\b", rf"[\[*\"']*({words})[\]*\"'.]*"
        if whole := re.fullmatch(bare, text, re.IGNORECASE):
            return [whole[1]]
        return re.findall(rf"\b{self.field}\b[\W_]{{0,8}}?{value}", text, re.IGNORECASE)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, outermost ones only; none where the text is half of one."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            if start == 0:
                return
            end = start + 1
        else:
            if isinstance(value, dict):
                yield value
        start = text.find("{", end)


def _short(text: str) -> str:
    return repr(text if len(text) <= 160 else f"{text[:100]} ... {text[-50:]}")
