"""Whether the data of a pipeline is there, can be read, and has the columns that are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from posttrain.config.data import DataSpec
from posttrain.config.document import Places
from posttrain.config.suggest import did_you_mean
from posttrain.config.suites import Suite
from posttrain.config.tasks import BUILT_IN, harness_tasks, row_tasks, task_spec
from posttrain.errors import InputError, Problem
from posttrain.prompts.rows import is_hub_name, read_rows

FIRST_ROWS = 20_000
FIRST_BYTES = 16 << 20
"""How much of each file `check` reads: a tenth of a second's worth."""


COUNTED_PROMPTS = 100_000
"""More different prompts than that are enough for any step, and are not counted further."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look at a data set found; numbers only where all of it was seen."""

    problems: list[Problem] = field(default_factory=list)
    rows: int | None = None
    prompts: int | None = None  # different ones


@dataclass(slots=True)
class DataChecker:
    """Checks data sets; each file is read once, however many stages use it."""

    places: Places
    every_row: bool = False
    rows_by_stage: dict[str, int] = field(default_factory=dict)  # only where all rows were seen
    prompts_by_stage: dict[str, int] = field(default_factory=dict)  # different ones, likewise
    _seen: dict[tuple[str, tuple[str, ...]], _Seen] = field(default_factory=dict)

    def check(
        self, data: DataSpec, key: str, needs: Sequence[str], where: str, stage: str = ""
    ) -> list[Problem]:
        """Problems of the data at the dotted key, placed there. `where` says who reads it."""
        problems: list[Problem] = []
        rows: list[int | None] = []
        prompts: list[int | None] = []
        for name, part in data.parts.items():
            seen = self._seen_of(part, needs)
            rows.append(min(seen.rows, part.take) if seen.rows and part.take else seen.rows)
            prompts.append(seen.prompts)
            of_part = (f"{key}.mix.{name}", f"{where[:-1]}, {name})") if data.mix else (key, where)
            problems += [self._placed(problem, *of_part) for problem in seen.problems]
        if stage and None not in rows:
            self.rows_by_stage[stage] = sum(filter(None, rows))
        if stage and None not in prompts:  # prompts of two parts are seldom the same
            self.prompts_by_stage[stage] = sum(filter(None, prompts))
        return problems

    def _seen_of(self, data: DataSpec, needs: Sequence[str]) -> _Seen:
        cached = (data.model_dump_json(), tuple(needs))
        if cached not in self._seen:
            self._seen[cached] = self._look(data, needs)
        return self._seen[cached]

    def _look(self, data: DataSpec, needs: Sequence[str]) -> _Seen:
        if data.stage is not None:
            return _Seen()  # not there yet
        if data.path.startswith("microworld/"):
            return _look_at_microworld(data, needs)
        if is_hub_name(data.path):
            return _Seen()  # fetched, and checked, when the run starts
        limits = (None, None) if self.every_row else (FIRST_ROWS, FIRST_BYTES)
        reader = read_rows(data, limits[0], needs=needs, limit_bytes=limits[1])
        different: set[int] = set()
        taken = 0
        try:
            for _, row in reader:
                taken += 1
                if len(different) < COUNTED_PROMPTS and (not data.take or taken <= data.take):
                    different.add(hash(_asked(row)))
        except InputError as error:
            return _Seen(error.problems)
        counted = reader.complete or bool(data.take and taken >= data.take)
        known = counted and len(different) < COUNTED_PROMPTS
        return _Seen(
            [], reader.rows if reader.complete else None, len(different) if known else None
        )

    def _placed(self, problem: Problem, key: str, where: str) -> Problem:
        """The problem with the pipeline's line in front, and who reads the data behind."""
        if problem.code == "bad-row":
            return replace(problem, path=where)
        name = f"{key}.{'columns' if 'data.columns' in problem.message else 'path'}"
        file, line = self.places.of(name)
        if problem.code == "missing-file" and problem.message == "no such file":
            message = f"no file `{problem.file}`"
            return replace(problem, message=message, path=f"{key}.path", file=file, line=line)
        if not problem.file:
            return replace(problem, path=f"{key}.path", file=file, line=line)
        return replace(problem, path=f"→ {problem.place} {where}", file=file, line=line)


def _asked(row: Mapping[str, Any]) -> str:
    """What tells prompts apart: of a conversation, all that stands before its last answer."""
    messages = row.get("messages")
    if not messages:
        return str(row.get("prompt"))
    return str(messages[:-1] if messages[-1]["role"] == "assistant" else messages)


def check_decontaminate(
    data: DataSpec, key: str, suites: Mapping[str, Suite], places: Places
) -> list[Problem]:
    """Problems of the suites that rows are compared with."""
    named = {key: data.decontaminate} | {
        f"{key}.mix.{name}": part.decontaminate for name, part in data.mix.items()
    }
    problems = []
    for place, suite in named.items():
        path = f"{place}.decontaminate"
        file, line = places.of(path)
        if suite is not None and suite not in suites:
            help = did_you_mean(suite, suites, "suites here:")
            problems.append(Problem("unknown-suite", f"no suite `{suite}`", path, file, line, help))
        elif suite is not None and not _asks(suites[suite]):
            message = f"`{suite}` asks no questions that rows could be compared with"
            help = "a task with a reward: perplexity reads text, the harness keeps its questions"
            problems.append(Problem("empty-suite", message, path, file, line, help))
        elif suite is not None and (left_out := harness_tasks(suites[suite])):
            message = f"rows are not compared with the questions of {', '.join(left_out)}"
            help = "the harness keeps them; a task with the same questions as `data` is compared"
            problems.append(Problem("not-compared", message, path, file, line, help, "warning"))
    return problems


def _asks(suite: Suite) -> bool:
    """Whether a suite asks anything; unknown tasks are reported elsewhere."""
    known = {*suite.tasks, *BUILT_IN}
    return any(task not in known or task_spec(suite, task).reward for task in row_tasks(suite))


def _look_at_microworld(data: DataSpec, needs: Sequence[str]) -> _Seen:
    from posttrain.prompts.microworld import DEFAULT_COUNTS, generate

    if data.path not in DEFAULT_COUNTS:
        message = f"no micro-world source `{data.path}`"
        help = did_you_mean(data.path, DEFAULT_COUNTS)
        return _Seen([Problem("unknown-source", message, help=help)])
    try:
        row = next(generate(data.path, data.split, 0, 1, flip_labels=data.flip_labels), {})
    except InputError as error:
        return _Seen(error.problems)
    if not set(needs) <= set(row):
        message = f"`{data.path}` has {', '.join(row)}; needs {', '.join(needs)}"
        return _Seen([Problem("missing-column", message, help=_source_with(needs))])
    rows = data.take or DEFAULT_COUNTS[data.path]
    return _Seen([], rows, rows)  # hardly a question twice; before the start they are counted


def _source_with(needs: Sequence[str]) -> str:
    from posttrain.prompts.microworld import DEFAULT_COUNTS, generate

    fitting = [
        name
        for name in DEFAULT_COUNTS
        if set(needs) <= set(next(generate(name, "train", 0, 1), {}))
    ]
    return f"sources that have them: {', '.join(fitting)}" if fitting else ""
