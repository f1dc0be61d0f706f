"""The constraints that a row names, in either of its two forms, checked before any answer is.

    instruction_id_list: ["punctuation:no_comma"]   kwargs: [{}]       IFEval, one entry each
    ground_truth: {"func_name": "validate_word_constraint", "N": 50, "quantifier": "around"}

The second is Tülu 3's (also as JSON text, also in a column `constraint`). Settings that are None
are not there: tables fill every row with all names.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.errors import RewardBroken
from posttrain.reward.constraints import ifeval, tulu

RELATIONS = ("less than", "at least")
QUANTIFIERS = ("at least", "at most", "around")
LARGEST_NUMBER = 10**9

_NUMBERS = re.compile(r"num_\w+|\w*frequency|nth_paragraph|N|i")
_LISTS = frozenset(["keywords", "forbidden_words", "keyword_list", "options"])
_COUNTED_FROM_ONE = {"nth_paragraph": "num_paragraphs", "i": "N"}


@dataclass(frozen=True, slots=True)
class Constraint:
    """One instruction of a row.

    Example: Constraint("length_constraints:number_words", number_words, {"num_words": 300,
    "relation": "at least"})
    """

    id: str  # IFEval's, for Tülu's rows too
    check: Callable[..., bool]
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_stripped: bool = False  # whether the check wants the answer without white space around it

    def holds(self, text: str) -> bool:
        """Whether an answer follows it. An empty answer follows nothing."""
        bare = text.strip()
        return bool(bare) and self.check(bare if self.is_stripped else text, **self.settings)


def constraints_of(row: Mapping[str, Any]) -> tuple[Constraint, ...]:
    """The constraints of a row, in its order. Raises RewardBroken where it names none."""
    if row.get("instruction_id_list") is not None:
        return _of_ifeval(row["instruction_id_list"], row.get("kwargs"))
    for column in ("ground_truth", "constraint"):
        named = _named_function(row.get(column))
        if named is not None:
            return (_of_tulu(named),)
    raise RewardBroken(
        "the row has no `instruction_id_list`, and no `ground_truth` with a `func_name`",
        help="rename the columns with `columns:`, or give this reward to IFEval rows only",
    )


def _of_ifeval(ids: Any, kwargs: Any) -> tuple[Constraint, ...]:
    if not _is_list(ids) or not len(ids):
        raise RewardBroken(f"`instruction_id_list` is {_shown(ids)}, not a list of ids")
    if not _is_list(kwargs) or len(kwargs) != len(ids):
        count = f"{len(kwargs)} entries" if _is_list(kwargs) else _shown(kwargs)
        raise RewardBroken(f"{len(ids)} instructions, but `kwargs` is {count}")
    constraints = []
    for name, given in zip(ids, kwargs, strict=True):
        check = ifeval.CHECKS.get(name) if isinstance(name, str) else None
        if check is None:
            raise RewardBroken(f"IFEval has no instruction {_shown(name)}")
        constraints.append(Constraint(name, check, _settings(name, check, given)))
    return tuple(constraints)


def _named_function(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    is_named = isinstance(value, Mapping) and value.get("func_name") is not None
    return value if is_named else None


def _of_tulu(named: Mapping[str, Any]) -> Constraint:
    name = named["func_name"]
    if not isinstance(name, str) or name not in tulu.CHECKS:
        raise RewardBroken(f"Tülu has no constraint {_shown(name)}")
    identity, check = tulu.CHECKS[name]
    given = {key: value for key, value in named.items() if key != "func_name"}
    return Constraint(identity, check, _settings(name, check, given), is_stripped=True)


def _settings(name: str, check: Callable[..., bool], given: Any) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise RewardBroken(f"`{name}`: its settings are {_shown(given)}, not names with values")
    there = {str(key): value for key, value in (given or {}).items() if value is not None}
    wanted = list(inspect.signature(check).parameters)[1:]
    for what, names in (
        ("misses", set(wanted) - set(there)),
        ("takes no", set(there) - set(wanted)),
    ):
        if names:
            raise RewardBroken(
                f"`{name}` {what} {', '.join(f'`{each}`' for each in sorted(names))}"
            )
    settings = {key: _value(name, key, there[key]) for key in wanted}
    for nth, count in _COUNTED_FROM_ONE.items():
        if nth in settings and not 1 <= settings[nth] <= settings[count]:
            raise RewardBroken(f"`{name}`: paragraph {settings[nth]} of {settings[count]}")
    return settings


def _value(name: str, key: str, value: Any) -> Any:
    """A setting as its check takes it. Raises RewardBroken where it can mean nothing."""
    if _NUMBERS.fullmatch(key):
        whole = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not whole or not 0 <= value <= LARGEST_NUMBER or value != int(value):
            raise _refused(name, key, value, "a whole number from 0 on")
        return int(value)  # tables with gaps hold 3 as 3.0
    if key in _LISTS:
        if not _is_list(value) or not len(value) or not all(_is_text(each) for each in value):
            raise _refused(name, key, value, "a list of words")
        return tuple(value)
    if not _is_text(value):
        raise _refused(name, key, value, "a text")
    allowed = QUANTIFIERS if key == "quantifier" else RELATIONS if "relation" in key else None
    if allowed and value not in allowed:
        raise _refused(name, key, value, f"one of {', '.join(allowed)}")
    if key == "letter" and len(value.strip()) != 1:
        raise _refused(name, key, value, "one letter")
    if key == "language" and not re.fullmatch(r"[a-z]{2,3}(-[a-z]+)?", value):
        raise _refused(name, key, value, "a language's code such as `en`")
    return value.strip() if key == "letter" else value


def _refused(name: str, key: str, value: Any, wanted: str) -> RewardBroken:
    return RewardBroken(f"`{name}`: `{key}` is {_shown(value)}, not {wanted}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
