"""What a reward is: one file with `Config`, `score()`, `gold()` and `bad()`.

    class Config(StrictModel): ...                       # its settings, each with one sentence
    def score(row, completion, config) -> Score: ...     # row: the prompt's columns
    def gold(config): return [Example({"answer": "65"}, "65")]   # answers that score 1.0
    def bad(config): return [Example({"answer": "65"}, "64")]    # answers that score less

It proves itself on these before a run. `score` may be `async`: then the answers of a batch wait
side by side, as for a judge behind an endpoint. `score_many(rows, completions, config)`, sync or
async, may stand in its place where a whole batch is cheaper than its answers one by one.

`warm_up(config)`, where it is there, is called once in each process before the first answer and
outside its time limit: for what takes long to load. `FORM_ONLY = True` says that it judges how an
answer is written and not whether it is right, so that an audit does not blame it for paying for
answers that say nothing.

`baseline_columns(config)` names the columns with an answer of the row's own that the reward scores
beside the policy's, to compare the two: reward models then score that answer as well, once per
prompt, and the row has it under BASELINE_SCORES_COLUMN.

`fused_scores(config)` names stages whose reward models' scores it wants averaged over prompts of
their training that are like the one asked, and over how many: [("rm", 5)]. They stand beside the
others, under `scores_key("rm", 5)`.

`summary(parts)` may sum up the parts of many scores as shares by name, for what a suite shows
beside the share of right answers.

A reward that needs something outside (an endpoint, a container) may have `ready(config)`, sync or
async: it is called once before a run and raises RewardBroken with what is missing and what to do.
Such a reward may have no examples: a sound judge need not give full marks to anything.

A wrong answer is `Score(0.0, passed=False)`. A reward that cannot tell raises: then the answer is
tried again, and dropped and counted if that fails too. It is never scored 0, which would teach the
model that a good answer was bad.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.types import Score

MOST_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Example:
    """An answer that a reward proves itself on.

    Example: Example({"answer": "65"}, "7+58=65")
    """

    row: Mapping[str, Any]
    completion: str


class Reward(Protocol):
    """A reward's file as the rest of the library sees it; `score_many` may stand for `score`."""

    Config: type[StrictModel]

    def score(self, row: Mapping[str, Any], completion: str, config: Any) -> Score:
        """The answer's score. May be slow, may raise; runs in a process that can be killed."""
        ...

    def gold(self, config: Any) -> Sequence[Example]:
        """Answers that must score 1.0 with these settings."""
        ...

    def bad(self, config: Any) -> Sequence[Example]:
        """Answers that must score less than 1.0: wrong ones, and those that try to trick it."""
        ...


def checked(result: object) -> Score:
    """`result` as a Score of finite floats. Raises RewardBroken where it is none.

    A bare number is taken as a value; what is right and wrong is then unknown.
    """
    if isinstance(result, (int, float)):
        result = Score(float(result))
    if not isinstance(result, Score):
        raise RewardBroken(
            f"score() returned {type(result).__name__}, not a Score",
            help="return Score(value, passed=...) from posttrain.types",
        )
    if result.passed not in (True, False, None):
        raise RewardBroken(
            f"`passed` is {result.passed!r:.40}", help="True or False, or None: no opinion"
        )
    parts = {str(name): _finite(f"part `{name}`", part) for name, part in result.parts.items()}
    reason = str(result.reason)[:MOST_REASON_CHARACTERS]
    return Score(_finite("value", result.value), result.passed, parts, reason, result.seconds)


def is_as_said(value: float, is_gold: bool) -> bool:
    """Whether an example scores what it has to: gold exactly 1, others less."""
    return math.isclose(value, 1.0, abs_tol=1e-6) if is_gold else value < 1.0 - 1e-6


def failed_examples(
    gold: Sequence[Example], bad: Sequence[Example], outcomes: Sequence[Score | RewardBroken]
) -> list[str]:
    """One line for each example that does not score what it should; none for a sound reward.

    `outcomes`: of the gold examples, then of the bad ones.
    """
    failures = []
    for number, (example, outcome) in enumerate(zip((*gold, *bad), outcomes, strict=True)):
        said = f"{example.completion[:80]!r}"
        if isinstance(outcome, RewardBroken):
            failures.append(f"{said} breaks it: {outcome.message}")
        elif not is_as_said(outcome.value, number < len(gold)):
            wanted = "not 1" if number < len(gold) else "has to score less"
            failures.append(f"{said} scored {outcome.value:g}, {wanted}")
    return failures


def require_ready(reward: Any, config: StrictModel) -> None:
    """Call the reward's `ready`, where it has one, and wait for it; its errors pass through."""
    import asyncio  # here, because `check` imports this module and asyncio is slow to import

    if hasattr(reward, "ready") and inspect.isawaitable(waiting := reward.ready(config)):
        asyncio.run(_awaited(waiting))


def score_one(reward: Any, example: Example, config: StrictModel) -> Score:
    """One answer's score in this process; errors of the reward's own pass through."""
    import asyncio

    return asyncio.run(scored_by(reward, config, example.row, example.completion))


async def scored_by(
    reward: Any, config: StrictModel, row: Mapping[str, Any], completion: str
) -> Score:
    """One answer's score, whichever way the reward's file offers; with the seconds that it took."""
    began = time.perf_counter()
    if is_batched(reward):
        (result,) = await _awaited(reward.score_many([row], [completion], config))
    else:
        result = await _awaited(reward.score(row, completion, config))
    return in_seconds(result, time.perf_counter() - began)


def is_batched(reward: Any) -> bool:
    """Whether a reward's file takes whole batches."""
    return hasattr(reward, "score_many")


def in_seconds(result: object, seconds: float) -> Score:
    """What a reward returned, held to being a Score. Raises RewardBroken, also one returned."""
    if isinstance(result, RewardBroken):
        raise result
    return replace(checked(result), seconds=seconds)


async def _awaited(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def _finite(what: str, number: object) -> float:
    if not isinstance(number, (int, float)) or not math.isfinite(number):
        raise RewardBroken(
            f"score() returned {number!r} as {what}, not a finite number",
            help="return numbers only; raise where the answer cannot be judged",
        )
    return float(number)
