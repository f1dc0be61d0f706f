"""What `check` can know of a suite's tasks of the lm-evaluation-harness without importing it.

Their names, their numbers and their data are looked at before the first stage starts, by a process
that has the harness.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from posttrain.config.document import Places, show_path
from posttrain.config.paths import neighbour
from posttrain.config.suggest import did_you_mean
from posttrain.config.suites import Suite
from posttrain.config.tasks import HARNESS, harness_tasks, is_harness
from posttrain.errors import Problem
from posttrain.harness.names import is_installed, not_installed, yaml_files


def check_harness(name: str, suite: Suite, places: Places) -> list[Problem]:
    """Problems of a suite's `lm_eval/...` tasks and of its key `lm_eval`."""
    tasks = harness_tasks(suite)
    problems: list[Problem] = []
    if tasks and not is_installed():
        key = next(
            f"suites.{name}.{role}.{index}"
            for role in ("gain", "keep")
            for index, task in enumerate(getattr(suite, role))
            if is_harness(suite, task)
        )
        problems.append(_placed(not_installed(tasks[0]), key, places))
    asked = [task.removeprefix(HARNESS) for task in tasks]
    for task in suite.lm_eval.metrics:
        if task not in asked:
            help = did_you_mean(task, asked, "its harness tasks are")
            message = f"the suite does not ask `{HARNESS}{task}`"
            key = f"suites.{name}.lm_eval.metrics.{task}"
            problems.append(_placed(Problem("unused-task", message, help=help), key, places))
    if suite.lm_eval.tasks:
        found = _folder_problem(suite.lm_eval.tasks)
        problems += [_placed(found, f"suites.{name}.lm_eval.tasks", places)] if found else []
    return problems


def _folder_problem(folder: str) -> Problem | None:
    if not Path(folder).is_dir():
        near = neighbour(str(Path(folder).absolute()))
        help = f"did you mean `{show_path(near)}`?" if near else "a folder with task files"
        return Problem("missing-file", f"no folder `{show_path(folder)}`", help=help)
    if next(yaml_files(Path(folder)), None) is None:
        message = f"`{show_path(folder)}` holds no .yaml file"
        return Problem("missing-file", message, help="task files as the harness reads them")
    return None


def _placed(problem: Problem, key: str, places: Places) -> Problem:
    file, line = places.of(key)
    return replace(problem, path=key, file=file, line=line)
