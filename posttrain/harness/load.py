"""Loading the harness's tasks, and refusing those that a suite cannot ask."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.metrics import mean
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager

from posttrain.config.suggest import closest
from posttrain.config.suites import LmEval
from posttrain.config.tasks import HARNESS
from posttrain.errors import InputError, Problem
from posttrain.harness.engine_model import unknown_settings
from posttrain.harness.names import defined_in, families, shipped_folder

DEFINES = frozenset({"group", "dataset_path", "custom_dataset", "include", "class"})
"""Keys of a group's member that say that it is defined there, and does not stand elsewhere."""


@dataclass(frozen=True, slots=True)
class HarnessTask:
    """A task or a group of tasks, ready to be asked."""

    name: str  # without `lm_eval/`
    parts: Mapping[str, Any]  # name -> lm_eval.api.task.Task: itself, or those of the group
    groups: Mapping[str, Any]  # name -> lm_eval.api.group.Group
    metric: str
    filter: str | None  # None: the first one that the task has
    by_size: bool  # whether a group weighs its parts by their sizes

    @property
    def wants_greedy(self) -> bool:
        """Whether its numbers may depend on whether an answer was the likeliest one."""
        return any(
            task.OUTPUT_TYPE == "loglikelihood"
            or "exact_match" in task.aggregation()
            or callable(task.config.process_results)
            for task in self.parts.values()
            if task.OUTPUT_TYPE != "generate_until"
        )


def load_tasks(names: Sequence[str], settings: LmEval) -> dict[str, HarnessTask]:
    """The tasks by name, `lm_eval/` in front of none. Raises InputError with all that is wrong."""
    own = Path(settings.tasks) if settings.tasks else None
    mine = defined_in(own) if own else {}
    others = [name for name in names if name not in mine]
    shipped = defined_in(shipped_folder()) if others else {}
    unknown = [name for name in others if name not in shipped]
    problems = [_unknown(name, [*mine, *shipped]) for name in unknown]
    loaded: dict[str, HarnessTask] = {}
    with _inside(own):  # where relative paths in its files start
        known = [name for name in names if name not in unknown]
        manager = _manager(known, [shipped[name] for name in others if name in shipped], own)
        for name in known:
            random.seed(DEFAULT_RANDOM_SEED)  # some tasks shuffle their questions
            np.random.seed(DEFAULT_OTHER_SEED)
            try:
                loaded[name] = _load(manager, name, settings.metrics.get(name))
            except InputError as error:
                problems += error.problems
            except Exception as error:  # boundary: tasks run code of their own, and fetch data
                problems.append(_unloadable(name, error))
    if problems:
        raise InputError(problems)
    return loaded


@contextlib.contextmanager
def _inside(folder: Path | None) -> Iterator[None]:
    with contextlib.chdir(folder) if folder else contextlib.nullcontext():
        yield


def _manager(names: Sequence[str], shipped: list[Path], own: Path | None) -> TaskManager:
    """A manager that knows these tasks, of shipped files and own ones, and what their groups are
    made of.
    """
    paths: list[str | Path] = [*families(shipped, shipped_folder())]
    paths += [own] if own else []  # later ones come before earlier ones of the same name
    manager = TaskManager(include_path=paths, include_defaults=False)
    if any(_lacks(manager, name) for name in names):  # a group of tasks from elsewhere
        manager = TaskManager(include_path=own)  # takes long: the whole index
    return manager


def _lacks(manager: TaskManager, name: str) -> bool:
    """Whether the manager does not know a task, or a task that its group is made of."""
    entry = manager.task_index.get(name)
    if entry is None:
        return True
    return any(_lacks(manager, part) for part in _members((entry.cfg or {}).get("task")))


def _members(listed: Any) -> Iterator[str]:
    """The tasks that a group names; those that it defines itself are not names."""
    for each in listed if isinstance(listed, list) else []:
        if isinstance(each, str):
            yield each
        elif not DEFINES.intersection(each):
            yield str(each.get("task"))


def _unknown(name: str, known: Iterable[str]) -> Problem:
    near = closest(name, known)
    help = "`lm_eval ls tasks` shows all; a tag is none, for it has no number of its own"
    if near is not None:
        help = f"did you mean `{HARNESS}{near}`?"
    message = f"the lm-evaluation-harness has no task or group `{name}`"
    return Problem("unknown-task", message, help=help)


def _load(manager: TaskManager, name: str, metric: str | None) -> HarnessTask:
    found = manager.load([name])
    tasks, groups = found["tasks"], found.get("groups", {})
    for part, task in tasks.items():
        _require_askable(name, part, task)
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    if name not in groups:
        chosen, filter = _metric(name, tasks, metric)
        return HarnessTask(name, tasks, {}, chosen, filter, True)
    listed = groups[name].aggregate_metric_list or []
    if not listed:
        parts = [f"{HARNESS}{part}" for part in groups[name].child_names]
        raise _refused(
            name,
            f"is a group of {len(tasks)} tasks without a number of its own",
            f"name them: {', '.join(parts[:3])}, ...",
        )
    by_name = {each.metric: each for each in reversed(listed)}
    order = [each.metric for each in listed]
    chosen, filter = _metric(name, tasks, metric, order)
    of_group = by_name.get(chosen, listed[0])
    filter = filter or next(iter(of_group.filter_list or [None]))
    return HarnessTask(name, tasks, groups, chosen, filter, bool(of_group.weight_by_size))


def _require_askable(name: str, part: str, task: Any) -> None:
    """Raises InputError for what a suite cannot ask."""
    which = f"(in `{part}`) " if part != name else ""
    if getattr(task, "UNSAFE_CODE", False):
        message = f"{which}runs programs that models write, outside of any sandbox"
        raise _refused(name, message, "a task of your own with a reward that runs code: `tests`")
    if getattr(task, "MULTIMODAL", False):
        raise _refused(name, f"{which}asks about pictures or sound", "a task of text")
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        message = f"{which}measures the likelihood of whole texts, which is no share"
        raise _refused(name, message, "a task `perplexity/NAME` with its text as data")
    if task.OUTPUT_TYPE == "generate_until":
        others = unknown_settings(task.get_config("generation_kwargs") or {})
        if others:
            message = f"{which}samples with {', '.join(others)}, which engines do not know here"
            raise _refused(name, message, "a copy of its file without them, in `lm_eval.tasks`")


def _metric(
    name: str, tasks: Mapping[str, Any], wanted: str | None, order: Sequence[str] = ()
) -> tuple[str, str | None]:
    """(metric, filter) that counts: the one that is wanted, or the first that can."""
    known = list(dict.fromkeys(metric for task in tasks.values() for metric in task.aggregation()))
    usable = [metric for metric in known if all(_is_share(task, metric) for task in tasks.values())]
    if wanted is None:
        in_order = [metric for metric in [*order, *usable] if metric in usable]
        if not in_order:
            message = f"none of its numbers is a mean that is better when higher: {_list(known)}"
            raise _refused(name, message, "another task: gain and tax are points of such means")
        return in_order[0], None
    metric, _, filter = wanted.partition(",")
    if metric in usable:
        return metric, filter or None
    message = f"`{metric}` is no mean that is better when higher"
    if metric not in known:
        message = f"has no number `{metric}`"
    raise _refused(name, message, f"lm_eval.metrics: {{{name}: {_list(usable)}}}")


def _is_share(task: Any, metric: str) -> bool:
    return task.aggregation().get(metric) is mean and bool(task.higher_is_better().get(metric))


def _list(names: Sequence[str]) -> str:
    return " or ".join(names) or "none"


def _refused(name: str, message: str, help: str) -> InputError:
    return InputError(Problem("harness-task", f"`{HARNESS}{name}` {message}", help=help))


def _unloadable(name: str, error: Exception) -> Problem:
    """A task that did not load, as one problem: its data are out of reach, or it is broken."""
    kind = type(error).__name__
    lines = str(error).strip().splitlines() or [kind]
    if isinstance(error, ConnectionError) or "Offline" in kind or "Connect" in kind:
        message = f"the questions of `{HARNESS}{name}` cannot be fetched ({lines[0]})"
        help = "connect to the hub once; or a copy of its file with local data, in `lm_eval.tasks`"
        return Problem("hub-unreachable", message, help=help)
    help = "mend its file; `lm_eval validate --tasks NAME` looks at it too"
    if isinstance(error, ImportError):
        help = "install what it imports; `pip install 'lm_eval[math]'` has that of many tasks"
    message = f"`{HARNESS}{name}` does not load: {kind}: {lines[0]}"
    return Problem("harness-task", message, help=help)
