"""How much of a question stands in a training text: the 8-gram overlap of Tülu 3.

Definition and threshold are those of arXiv 2411.15124 and its code (open-instruct):

    matched token     lies in a run of 8 tokens of the question that the text holds too
    share             matched tokens / tokens of the question
    overlap           share > 1/2, strictly

A question of fewer than 8 tokens has no such run. It overlaps with a text that holds all of it,
token by token; one of fewer than 4 only with a text that is the same, or `Hello!` would leave out
every greeting. A run that occurs twice in a question marks both places.

Only the questions are indexed, and texts are looked up one by one: memory does not grow with the
number of texts. Exact: runs are compared, not hashes of them.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

RULE_VERSION = 1
"""Part of every fingerprint of what rows are compared with: raise it when other rows overlap."""

RUN = 8  # tokens
SHORTEST_CONTAINED = 4  # tokens
COMMON = 64  # questions that share a run before it is looked at differently: speed only

_WIDTH = array("I").itemsize
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # written without spaces
_SIGNS = "-+*/^<>=\u00d7\u00f7\u2212"
_TOKEN = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+|(?<=\d)\s*[{_SIGNS}][{_SIGNS}\s]*(?=\d)")
_SAME_SIGN = str.maketrans({"\u00d7": "*", "\u00f7": "/", "\u2212": "-"})


@dataclass(frozen=True, slots=True)
class Overlap:
    """A question and the share of its tokens that a text holds. Example: Overlap("What is", 0.7)"""

    question: str
    share: float


@dataclass(frozen=True, slots=True)
class _Question:
    task: str
    text: str
    tokens: bytes


def tokens(text: str) -> list[str]:
    """Words and numbers, whatever their case and punctuation; Chinese and Japanese by character.

    Signs between two numbers stay, as they make another question: `52+38=` is 52 + 38, `52-38=` is
    52 - 38.
    """
    plain = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    found = _TOKEN.findall(plain)
    return [
        each if each[0].isalnum() else "".join(each.split()).translate(_SAME_SIGN) for each in found
    ]


class QuestionIndex:
    """Questions by task, to look texts up in. `counts` has the number of each task's."""

    def __init__(self, by_task: Mapping[str, Iterable[str]]) -> None:
        self.counts: dict[str, int] = {}
        self._numbers: dict[str, int] = {}  # of tokens, from 1; 0 is a token of no question
        self._questions: list[_Question] = []
        self._by_run: dict[bytes, list[int]] = {}
        self._short: dict[int, dict[bytes, list[int]]] = {}  # bytes -> those tokens -> questions
        for task, texts in by_task.items():
            self.counts[task] = self._add(task, texts)
        self._thin_out()

    def overlaps(self, text: str) -> dict[str, Overlap]:
        """By task, the question that a text holds most of, for tasks of which it holds one."""
        packed = array("I", [self._numbers.get(each, 0) for each in tokens(text)]).tobytes()
        runs = self._by_run.keys() & set(_windows(packed, RUN * _WIDTH))
        asked = {number for run in runs for number in self._by_run[run]}
        found = {number: _share(self._questions[number].tokens, runs) for number in asked}
        for size, questions in self._short.items():
            contained = size >= SHORTEST_CONTAINED * _WIDTH
            for window in set(_windows(packed, size)) if contained else (packed,):
                found |= dict.fromkeys(questions.get(window, ()), 1.0)
        worst: dict[str, Overlap] = {}
        for number in sorted(found):
            task, share = self._questions[number].task, found[number]
            if share > 0.5 and (task not in worst or share > worst[task].share):
                worst[task] = Overlap(self._questions[number].text, share)
        return worst

    def _add(self, task: str, texts: Iterable[str]) -> int:
        count = 0
        known: set[bytes] = set()
        numbers = self._numbers
        for text in texts:
            count += 1
            packed = array("I", [numbers.setdefault(t, len(numbers) + 1) for t in tokens(text)])
            whole = packed.tobytes()
            if not whole or whole in known:
                continue
            known.add(whole)
            number = len(self._questions)
            self._questions.append(_Question(task, text, whole))
            if len(packed) < RUN:
                self._short.setdefault(len(whole), {}).setdefault(whole, []).append(number)
            for run in set(_windows(whole, RUN * _WIDTH)):
                self._by_run.setdefault(run, []).append(number)
        return count

    def _thin_out(self) -> None:
        """Runs that many questions share (`Answer with one of A, B, C and D`) would make each text
        that holds one be compared with all of them. A question of which common runs cover no more
        than half needs another run as well, by which it is found.
        """
        common = {run for run, numbers in self._by_run.items() if len(numbers) > COMMON}
        for run in common:
            self._by_run[run] = [
                number
                for number in self._by_run[run]
                if _share(self._questions[number].tokens, common) > 0.5
            ]


def _windows(packed: bytes, size: int) -> Iterator[bytes]:
    """Every stretch of `size` bytes that begins with a token."""
    return (packed[at : at + size] for at in range(0, len(packed) - size + 1, _WIDTH))


def _share(question: bytes, runs: set[bytes]) -> float:
    """The share of a question's tokens that lie in one of these runs."""
    size, end, matched = RUN * _WIDTH, 0, 0
    for at in range(0, len(question) - size + 1, _WIDTH):
        if question[at : at + size] in runs:
            matched += at + size - max(at, end)
            end = at + size
    return matched / len(question)
