"""Rows to train on: without those whose prompts overlap with questions that models are judged by.

    rows of the data --user turns--> overlap.py --no overlap--> the stage
                                        ^  `--> counted, a few kept as examples
                     questions of the suite's tasks, all of their data

Only what the user says counts: a completion may well hold the words of a question. Of the suite,
all rows of each task's data are questions, not only those that are asked. What overlap is, and what
it costs, stands in `overlap.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from posttrain.config.data import DataSpec, ResolvedData
from posttrain.errors import InputError, Problem
from posttrain.ports import Tracker
from posttrain.prompts.comparisons import COLUMNS, prompt_texts
from posttrain.prompts.overlap import RULE_VERSION, Overlap, QuestionIndex
from posttrain.prompts.rows import data_fingerprint
from posttrain.prompts.sources import EVALUATION_SEED, DataRow, read_data, read_source

REPORT_FILE = "decontamination.json"
EXAMPLES = 10  # of each source and task
_SHOWN_CHARACTERS = 400


class TrainingRows:
    """Iterates over the rows of data that no question overlaps with, and counts the others.

    Lazy: questions are read when the first row is compared. Raises InputError like `read_data`, and
    where every row overlaps.
    """

    def __init__(self, data: ResolvedData, *, seed: int, needs: Sequence[str]) -> None:
        self._data = data
        self._seed = seed
        self._needs = needs
        self._indices: dict[str, QuestionIndex] = {}  # by suite
        self._rows: Counter[str] = Counter()  # compared, by source
        self._left_out: Counter[str] = Counter()
        self._by_task: dict[str, dict[str, dict[str, Any]]] = {}  # source: task: rows, examples

    def __iter__(self) -> Iterator[DataRow]:
        kept = 0
        for each in read_data(self._data, seed=self._seed, needs=self._needs):
            suite = each.data.decontaminate
            if suite is not None and self._overlaps(each, suite):
                continue
            kept += 1
            yield each
        if not kept and self._left_out:
            raise InputError(self._nothing_left())

    @property
    def report(self) -> dict[str, Any] | None:
        """What was left out, as JSON; None where nothing was compared."""
        if not self._rows:
            return None
        return {
            "schema": 1,
            "text": self._words(),
            "rows": self._rows.total(),
            "left_out": self._left_out.total(),
            "questions": {suite: index.counts for suite, index in self._indices.items()},
            "sources": {
                source: {
                    "rows": rows,
                    "left_out": self._left_out[source],
                    "tasks": self._by_task.get(source, {}),
                }
                for source, rows in self._rows.items()
            },
        }

    def write_report(self, file: str | None) -> None:
        """Write the report beside the stage's other files, if there is one."""
        if file is not None and self.report is not None:
            text = json.dumps(self.report, indent=1, ensure_ascii=False)
            Path(file).write_text(text + "\n", encoding="utf-8")

    def _overlaps(self, each: DataRow, suite: str) -> bool:
        if suite not in self._indices:
            self._indices[suite] = _read_questions(suite, self._data.questions[suite])
        found: dict[str, tuple[str, Overlap]] = {}
        for text in user_texts(each.row):
            for task, overlap in self._indices[suite].overlaps(text).items():
                if task not in found or overlap.share > found[task][1].share:
                    found[task] = (text, overlap)
        self._rows[each.source] += 1
        if not found:
            return False
        self._left_out[each.source] += 1
        tasks = self._by_task.setdefault(each.source, {})
        for task, (text, overlap) in found.items():
            counted = tasks.setdefault(task, {"rows": 0, "examples": []})
            counted["rows"] += 1
            if len(counted["examples"]) < EXAMPLES:
                counted["examples"].append(_example(each, text, overlap))
        return True

    def _words(self) -> str:
        tasks: Counter[str] = Counter()
        for by_task in self._by_task.values():
            tasks.update({task: counted["rows"] for task, counted in by_task.items()})
        named = ", ".join(f"{task} {rows}" for task, rows in tasks.most_common())
        text = f"{self._left_out.total()} of {self._rows.total()} rows overlap with questions"
        return f"{text} and are left out: {named}" if named else text

    def _nothing_left(self) -> Problem:
        suites = " and ".join(f"`{suite}`" for suite in self._indices)
        return Problem(
            "all-contaminated",
            f"all {self._left_out.total()} rows overlap with questions of {suites}",
            path="data.decontaminate",
            file=self._data.shown,
            help="train on another split, or ask other questions",
        )


def tell_left_out(report: Path, tracker: Tracker) -> None:
    """The event of a stage whose rows were compared."""
    if report.exists():
        document = json.loads(report.read_text(encoding="utf-8"))
        tracker.event("decontaminated", text=document["text"])


def user_texts(row: Mapping[str, Any]) -> list[str]:
    """What the user says in a row: its prompt, or each of the user's messages."""
    if not row.get("messages") and not row.get("prompt") and set(COLUMNS) <= row.keys():
        return prompt_texts(row)
    messages = row.get("messages") or row.get("prompt") or []
    if isinstance(messages, str):
        return [messages]
    return [str(each["content"]) for each in messages if each["role"] == "user"]


def questions_fingerprint(questions: Mapping[str, DataSpec]) -> str:
    """Sixteen hex digits that change when other rows may overlap; names of tasks do not count."""
    places = {"path", "stage", "name", "split", "revision", "mix", "decontaminate"}
    parts = sorted(
        f"{data_fingerprint(spec)} {spec.model_dump_json(exclude=places)}"
        for spec in questions.values()
    )
    return hashlib.sha256(json.dumps([RULE_VERSION, *parts]).encode()).hexdigest()[:16]


def _read_questions(suite: str, questions: Mapping[str, DataSpec]) -> QuestionIndex:
    """Of every row of every task, the prompt; the user's messages as one text."""
    return QuestionIndex({task: _prompts(suite, task, spec) for task, spec in questions.items()})


def _prompts(suite: str, task: str, spec: DataSpec) -> Iterator[str]:
    try:
        for _, row in read_source(spec, seed=EVALUATION_SEED, needs=("prompt",)):
            yield "\n".join(user_texts(row))
    except InputError as error:
        where = f"(task {task} of {suite}, for data.decontaminate)"
        raise InputError(
            [replace(each, path=f"{each.path} {where}".strip()) for each in error.problems]
        ) from error


def _example(each: DataRow, text: str, overlap: Overlap) -> dict[str, Any]:
    return {
        "row": f"{each.data.path}:{each.number}",
        "prompt": text[:_SHOWN_CHARACTERS],
        "question": overlap.question[:_SHOWN_CHARACTERS],
        "share": round(overlap.share, 4),
    }
