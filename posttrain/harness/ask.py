"""Asking an engine the harness's tasks. Runs in a process of its own: the harness imports much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.evaluator import evaluate

from posttrain.config.suites import Suite
from posttrain.config.tasks import HARNESS, harness_tasks
from posttrain.errors import InputError, Problem, StageFailed
from posttrain.harness.answers import HarnessAnswers
from posttrain.harness.draw import drawn, shares
from posttrain.harness.engine_model import Engine, EngineModel
from posttrain.harness.load import HarnessTask, load_tasks
from posttrain.model.load import load_tokenizer
from posttrain.types import Prompt, Rollout, Sampling


@dataclass(frozen=True, slots=True)
class Asking:
    """Whom the questions of a suite go to."""

    model_path: str  # for its tokenizer; the weights are the engine's
    suite: Suite
    length: int  # of the engine's context, in tokens
    seed: int  # of the draw of questions and of sampled answers


def ask(engine: Engine, asking: Asking, answers_kept: int) -> dict[str, HarnessAnswers]:
    """A suite's harness tasks by name, `lm_eval/` in front, asked of an engine.

    Raises InputError for tasks that cannot be asked, StageFailed where a number is no share.
    """
    found = {}
    for name, task in _loaded(asking.suite).items():
        sizes = {part: len(each.eval_docs) for part, each in task.parts.items()}
        counts = shares(sizes, asking.suite.prompts_per_task, task.by_size)
        asked = {part: drawn(part, sizes[part], counts[part], asking.seed) for part in sizes}
        found[HARNESS + name] = _ask_one(engine, asking, task, asked, answers_kept)
    return found


def look(asking: Asking) -> None:
    """Load a suite's harness tasks and go through the first question of each, with an engine that
    says nothing: what is broken, or cannot be fetched, is found before anything is trained.

    Raises InputError with everything that is wrong.
    """
    problems: list[Problem] = []
    for name, task in _loaded(asking.suite).items():
        first = {part: [0] for part in task.parts}
        try:
            _ask_one(SilentEngine(), asking, task, first, 0)
        except InputError as error:
            problems += error.problems
        except Exception as error:  # boundary: code of the task's own
            said = (str(error).strip().splitlines() or [""])[0]
            message = f"`{HARNESS}{name}` fails at its first question: {type(error).__name__}: "
            help = "install what it needs, or leave it out"
            problems.append(Problem("harness-task", message + said, help=help))
    if problems:
        raise InputError(problems)


class SilentEngine:
    """Answers nothing, and finds every token equally unlikely."""

    def generate_many(self, prompts: list[Prompt], sampling: Sampling) -> list[Rollout]:
        return [Rollout(p.id, 0, p.token_ids, (), (), (), (), "", "stop") for p in prompts]

    def token_logprobs(
        self, sequences: list[tuple[Sequence[int], Sequence[int]]]
    ) -> list[list[float]]:
        return [[-1.0] * len(tokens) for _, tokens in sequences]


def _loaded(suite: Suite) -> dict[str, HarnessTask]:
    names = [task.removeprefix(HARNESS) for task in harness_tasks(suite)]
    return load_tasks(names, suite.lm_eval)


def _ask_one(
    engine: Engine,
    asking: Asking,
    task: HarnessTask,
    asked: Mapping[str, list[int]],
    answers_kept: int,
) -> HarnessAnswers:
    """`asked` says which questions of each part."""
    tokenizer = load_tokenizer(asking.model_path)
    chat = asking.suite.lm_eval.chat_template
    if chat and not tokenizer.chat_template:
        message = f"`{HARNESS}{task.name}` is to be asked through a chat template, and the model "
        raise InputError(
            Problem("harness-task", message + "has none", help="lm_eval: {chat_template: false}")
        )
    model = EngineModel(engine, tokenizer, asking.length, asking.seed, task.wants_greedy)
    results = evaluate(
        lm=model,
        task_dict={"tasks": dict(task.parts), "groups": dict(task.groups)},
        samples=dict(asked),
        bootstrap_iters=0,  # intervals are made of the questions' own numbers
        apply_chat_template=chat,
        fewshot_as_multiturn=True,
    )
    rows = [
        row
        for part in task.parts
        for row in _rows_of_filter(results, part, task.metric, task.filter)
    ]
    return _summed_up(task, rows, answers_kept, model.num_cut / max(1, model.num_asked))


def _rows_of_filter(
    results: Mapping[str, Any], part: str, metric: str, filter: str | None
) -> list[Mapping[str, Any]]:
    """One record per question: those of the filter, or of the first one that there is."""
    rows = results["samples"][part]
    filters = list(dict.fromkeys(row["filter"] for row in rows))
    if filter is not None and filter not in filters:
        message = f"`{HARNESS}{part}` has no filter `{filter}`"
        example = f"lm_eval.metrics: {{{part}: '{metric},{filters[0]}'}}"
        help = f"its filters are {', '.join(filters)}: {example}"
        raise InputError(Problem("harness-task", message, help=help))
    chosen = filter or filters[0]
    return sorted((row for row in rows if row["filter"] == chosen), key=lambda row: row["doc_id"])


def _summed_up(
    task: HarnessTask, rows: Sequence[Mapping[str, Any]], answers_kept: int, cut_share: float
) -> HarnessAnswers:
    scored = [(row, float(row[task.metric])) for row in rows if task.metric in row]
    scored = [(row, value) for row, value in scored if not math.isnan(value)]
    name = f"{HARNESS}{task.name}"
    if not scored:
        raise StageFailed(f"`{name}` gave none of its {len(rows)} questions a `{task.metric}`")
    outside = [value for _, value in scored if not 0.0 <= value <= 1.0]
    if outside:
        raise StageFailed(
            f"`{name}` counts `{task.metric}` from 0 to more than 1: {outside[0]:g}",
            help=f"another of its numbers: lm_eval.metrics: {{{task.name}: ...}}",
        )
    return HarnessAnswers(
        f"{task.metric},{scored[0][0]['filter']}",
        tuple(value for _, value in scored),
        tuple(_shown(row, value) for row, value in scored[:answers_kept]),
        len(rows) - len(scored),
        cut_share,
    )


def _shown(row: Mapping[str, Any], value: float) -> dict[str, Any]:
    """A question for the report: with the answer, or with the choice that was found likeliest."""
    arguments, said = row["arguments"], [each[0] for each in row["resps"]]
    if isinstance(said[0], str):
        return {"prompt": arguments[0][0], "completion": said[0], "score": value}
    best = max(range(len(said)), key=lambda i: said[i][0])
    return {"prompt": arguments[best][0], "completion": arguments[best][1], "score": value}
