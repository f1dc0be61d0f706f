"""Knights and knaves (Xie et al. 2024, arXiv 2410.23123; Logic-RL, arXiv 2502.14768): 1 or 0.

Reads the row's `names` and `solution` (one true or false each; true is a knight). The conclusion is
what the last `<answer>…</answer>` holds, else the last statements that name everybody; each person
needs the right role in it, and nobody two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.reward.answers import last_tagged, without_thinking
from posttrain.reward.protocol import Example
from posttrain.reward.verdict import verdict, wrong
from posttrain.types import Score

_TAIL = 4_000
_ROLES = ("knave", "knight")
_NAME = r"[*_]{0,3}\0\d+\0[*_]{0,3}"
_NAMES = rf"(?P<who>{_NAME}(?:(?:\s?,\s?and\s|\s?,\s?|\s(?:and|&)\s){_NAME})*)"
_STATED = re.compile(
    rf"{_NAMES}"
    r"\s{0,3}(?::|=|->|→|-|–|\||\(|is|are|must be|was)[\s*_]{0,5}(?P<no>not\s)?"
    r"(?:both\s|all\s|also\s)?(?:an?\s|the\s)?[*_]{0,3}(?P<role>knight|knave)s?\b",
    re.I,
)
_GROUPED = re.compile(
    rf"^[\s*_#-]{{0,5}}(?P<role>knight|knave)s?[\s*_]{{0,3}}:[\s*_]{{0,3}}{_NAMES}[\s*_.]*$",
    re.I | re.M,
)
_OTHER = re.compile(
    r"[\s*_]{0,5}(?:,\s?)?(?:or|and|/)\s?(?:also\s|maybe\s|perhaps\s)?(?:an?\s|the\s)?"
    r"(?:not\s)?(?:an?\s)?[*_]{0,3}(?:knight|knave)s?\b",
    re.I,
)
_ASKED = re.compile(r"[\s*_]{0,5}\?")
_SUPPOSED = re.compile(r"\b(?:if|assum\w+|suppos\w+|whether|that|or|claim\w*)[\s:,\"]*$", re.I)


class Config(StrictModel):
    """Nothing to set."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """1.0 or 0.0. Raises RewardBroken for a row without `names` and a `solution` for each."""
    truth = _truth(row)
    tagged = last_tagged(completion)
    text = without_thinking(completion) if tagged is None else tagged
    statements = list(_statements(text[-_TAIL:], list(truth)))
    found: dict[str, bool] = {}
    for name, is_knight in reversed(statements):
        if found.get(name, is_knight) != is_knight:
            return wrong(f"expected one role each, found both for {name}")
        found[name] = is_knight
        if tagged is None and len(found) == len(truth):
            break
    return verdict(found == truth, _told(truth), _told(found) or None)


def _truth(row: Mapping[str, Any]) -> dict[str, bool]:
    names, roles = row.get("names"), row.get("solution")
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) and n for n in names):
        raise RewardBroken(f"the row's `names` is {names!r:.80}, not a list of names")
    if not isinstance(roles, (list, tuple)) or not all(isinstance(r, bool) for r in roles):
        raise RewardBroken(f"the row's `solution` is {roles!r:.80}, not a list of true and false")
    if not names or len(set(names)) != len(roles):
        raise RewardBroken(f"the row names {len(names)} persons and gives {len(roles)} roles")
    return dict(zip(names, roles, strict=True))


def _statements(text: str, names: list[str]) -> Iterator[tuple[str, bool]]:
    """Who is said to be a knight (True) or a knave (False), in order; suppositions are not said."""
    numbers = {name.casefold(): number for number, name in enumerate(names)}
    anyone = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    marked = re.sub(  # names become `\0number\0`, so that one pattern does for all rows
        rf"\b(?:{anyone})\b",
        lambda found: f"\0{numbers[found.group().casefold()]}\0",
        text.replace("\0", " "),
        flags=re.IGNORECASE,
    )
    matches = [*_STATED.finditer(marked), *_GROUPED.finditer(marked)]
    for match in sorted(matches, key=lambda found: found.start()):
        if match.re is _GROUPED:
            for number in re.findall(r"\0(\d+)\0", match["who"]):
                yield names[int(number)], match["role"].lower() == "knight"
            continue
        if _SUPPOSED.search(marked[max(match.start() - 20, 0) : match.start()]):
            continue
        if _ASKED.match(marked, match.end()):
            continue
        is_knight = (match["role"].lower() == "knight") != bool(match["no"])
        for number in re.findall(r"\0(\d+)\0", match["who"]):
            yield names[int(number)], is_knight
            if _OTHER.match(marked, match.end()):  # "a knight or a knave" is both, and so neither
                yield names[int(number)], not is_knight


def _told(roles: Mapping[str, bool]) -> str:
    return ", ".join(f"{name} {_ROLES[roles[name]]}" for name in sorted(roles))


_ROW = {"names": ["Michael", "Mason", "Jacob"], "solution": [True, False, True]}
_RIGHT = "Michael is a knight, Mason is a knave, and Jacob is a knight."
_FALSE = "Michael is a knight, Mason is a knight, and Jacob is a knight."


def gold(config: Config) -> Sequence[Example]:
    listed = "(1) Michael is a knight\n(2) Mason is a knave\n(3) Jacob is a knight"
    return [
        Example(_ROW, _RIGHT),
        Example(_ROW, f"<think>Assume Mason is a knight.</think><answer>{listed}</answer>"),
        Example(_ROW, f"Assume Mason is a knight. No.\n{listed}"),
        Example(_ROW, "Michael and Jacob are knights; Mason is not a knight."),
        Example(_ROW, "**Michael**: knight\n**Mason**: knave\n**Jacob**: knight"),
        Example(_ROW, "Knights: Michael, Jacob\nKnaves: Mason"),
        Example(_ROW, "| Michael | knight |\n| Mason | knave |\n| Jacob | knight |"),
        Example(_ROW, "Michael (knight), Mason (knave), Jacob → knight"),
    ]


def bad(config: Config) -> Sequence[Example]:
    both = "".join(f"{name} is a knight. {name} is a knave. " for name in _ROW["names"])
    return [
        Example(_ROW, ""),
        Example(_ROW, "Michael is a knight and Mason is a knave."),  # who is Jacob?
        Example(_ROW, both),
        Example(_ROW, f"<answer>{_RIGHT} {_FALSE}</answer>"),
        Example(_ROW, f"{_RIGHT}\nNo, rather: {_FALSE}"),
        Example(_ROW, "Knights: Michael, Jacob, Mason\nKnaves: Mason"),
        Example(_ROW, f"{_RIGHT} <answer>{_FALSE}</answer>"),
        Example(_ROW, "".join(f"{name} is a knight or a knave. " for name in _ROW["names"])),
        Example(_ROW, _RIGHT.replace(".", "?").replace(",", "?")),
        Example(_ROW, "If Michael is a knight, then Mason is a knave and Jacob is a knight."),
    ]
