"""What needs a tokenizer or a reward to be checked, for all stages before the first one starts.

Runs in one process of its own. A model that does not exist yet has its tokenizer already: the one
of the `model` stage that it descends from.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from posttrain.config.answers import ScoredReward
from posttrain.config.data import DataSpec, ResolvedData
from posttrain.config.document import Places
from posttrain.config.offline import MOST_MEMBERS
from posttrain.config.pipeline import OnlineRlStage
from posttrain.config.plugin import named_stages
from posttrain.config.plugins import (
    baseline_columns,
    fused_scores,
    load_plugin,
    plugin_config,
    reward_stages,
    with_parts,
)
from posttrain.config.suites import Suite
from posttrain.config.tasks import row_tasks
from posttrain.errors import InputError, PosttrainError, Problem, ProblemList, RewardBroken
from posttrain.prompts.sources import MICROWORLD
from posttrain.reward.examples import examples_of
from posttrain.reward.protocol import failed_examples, require_ready
from posttrain.stages.harness_tasks import look_at_harness
from posttrain.stages.jobs import PluginRef
from posttrain.stages.launcher import Launcher
from posttrain.stages.scoring import reward_pool
from posttrain.stages.step_limits import check_step
from posttrain.types import BASELINE_SCORES_COLUMN, SCORES_COLUMN, Prompt, scores_key

ROWS_TRIED = 20_000  # rows rendered per data set here; the stage itself renders all of them
GENERATED_TRIED = 2_000  # of rows that the micro world makes to learn from: all are of one kind


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a stage's model descends from: a `model` stage's settings."""

    path: str | None
    from_scratch: str | None
    chat_template: str | None
    tiny: bool = False


@dataclass(frozen=True, slots=True)
class PreflightRequest:
    """One thing to look at, for one stage."""

    stage: str
    kind: str  # "sft", "pairs", "online_rl", "prompts", "average", "suite" or "reward"
    origin: Origin | None = None
    data: Mapping[str, Any] | None = None  # DataSpec
    max_tokens: int | None = None  # of a row (sft) or of an answer
    suite: Mapping[str, Any] | None = None
    reward: ScoredReward | None = None  # its files absolute
    place: str = ""
    algorithm: PluginRef | None = None  # of a stage that learns from comparisons
    budget_tokens: int = 0  # of its micro-batches
    online: OnlineRlStage | None = None  # of an online_rl stage, with where its keys stand
    places: Places | None = None
    averaged: tuple[tuple[str, Origin], ...] = ()  # stages with different origins, and these


def preflight_problems(requests: list[PreflightRequest], launcher: Launcher) -> ProblemList:
    """Every mistake found. Nothing is written to the run folder."""
    if not requests:
        return ProblemList()
    return ProblemList(launcher.call(inspect, requests))


def inspect(requests: list[PreflightRequest]) -> list[Problem]:
    """Look at every request; one broken stage hides no other."""
    looks: Mapping[str, Callable[[PreflightRequest, str], None]] = {
        "sft": _look_at_rows,
        "pairs": _look_at_pairs,
        "online_rl": _look_at_prompts,
        "prompts": _look_at_questions,
        "suite": _look_at_suite,
    }
    problems: list[Problem] = []
    with tempfile.TemporaryDirectory(prefix="posttrain-") as scratch:
        for request in requests:
            try:
                if request.kind == "reward":
                    _look_at_reward(request)
                elif request.kind == "average":
                    _look_at_origins(request, Path(scratch))
                else:
                    assert request.origin is not None
                    folder = tokenizer_folder(request.origin, Path(scratch))
                    looks[request.kind](request, folder)
            except InputError as error:
                problems += [_placed(problem, request) for problem in error.problems]
            except PosttrainError as error:
                problems.append(_placed(error.problem(), request))
    unique = {(p.code, p.message, p.file, p.line): p for p in reversed(problems)}
    return list(reversed(unique.values()))


def _placed(problem: Problem, request: PreflightRequest) -> Problem:
    if problem.path.startswith("stages."):
        return problem  # a key of the pipeline file says it all
    place = request.place or f"(stage {request.stage})"
    return replace(problem, path=" ".join(part for part in (problem.path, place) if part))


def tokenizer_folder(origin: Origin, scratch: Path | str) -> str:
    """A folder with configuration and tokenizer, made or linked once per origin."""
    from posttrain.stages.model import adopt, make_from_scratch, make_tiny

    key = f"{origin.from_scratch}-{origin.tiny}-{origin.path}-{origin.chat_template}"
    folder = Path(scratch) / "".join(c if c.isalnum() else "_" for c in key)[-200:]
    if not folder.exists():
        if origin.from_scratch:
            make_from_scratch(origin.from_scratch, str(folder), 0)
        elif origin.tiny:
            make_tiny(origin.path, str(folder), origin.chat_template, 0)
        else:
            adopt(origin.path, str(folder), origin.chat_template)
    return str(folder)


def _look_at_rows(request: PreflightRequest, folder: str) -> None:
    from posttrain.stages.sft_rows import render_rows

    render_rows(folder, _few(request), request.max_tokens, 0)


def _look_at_pairs(request: PreflightRequest, folder: str) -> None:
    from posttrain.stages.judged_rows import render_judged
    from posttrain.stages.pair_rows import render_pairs
    from posttrain.train.pairs import require_budget

    assert request.algorithm is not None
    module = load_plugin("algorithm", request.algorithm.name, request.algorithm.base_dir)
    objective = module.objective(plugin_config(module, request.algorithm.settings))
    of_stage = folder, _few(request), request.max_tokens, 0
    if objective.judged:
        found = render_judged(*of_stage)
    else:
        found = render_pairs(
            *of_stage, answers=objective.answers, revision_prompt=objective.revision_prompt
        )
    together = [said for said in objective.answers.values() if not said.detached]
    require_budget(found.pairs, request.budget_tokens, len(together))


def _look_at_prompts(request: PreflightRequest, folder: str) -> None:
    from posttrain.stages.context import context_length

    room = context_length(folder) - (request.max_tokens or 0)
    few = _few(request)
    prompts = _rendered(folder, json.dumps(few), room)
    if request.online is None or request.places is None:
        return
    seen_all = _seen_all(prompts, request.online.data, ResolvedData.model_validate(few))
    different = len({prompt.token_ids for prompt in prompts}) if seen_all else None
    longest = max(len(prompt.token_ids) for prompt in prompts)
    problems = check_step(request.stage, request.online, different, longest, request.places)
    if problems:
        raise InputError(problems)
    _look_at_first_rows(request.online.reward, prompts)
    if request.online.watch is not None:
        _look_at_first_rows(request.online.watch, prompts)


def _look_at_questions(request: PreflightRequest, folder: str) -> None:
    from posttrain.stages.context import context_length

    room = context_length(folder) - (request.max_tokens or 0)
    prompts = _rendered(folder, json.dumps(_few(request)), room)
    if request.reward is not None:
        _look_at_first_rows(request.reward, prompts)


def _look_at_first_rows(reward: ScoredReward, prompts: Sequence[Prompt]) -> None:
    """The reward must be able to score an answer to the first question of each source, an empty
    one: rows that lack what it reads are found before anything is trained. Reward models are taken
    to say 0. Not where a model judges, which costs something.
    """
    named = reward_stages(reward)
    judged = any(hasattr(module, "ready") for *_, module, _ in with_parts(reward, None))
    if judged or any(each.makes == "model" for each in named):
        return
    said: dict[str, Any] = {}
    zeros = [0.0] * MOST_MEMBERS  # a reward may ask for some of them
    if scores := {each.stage: zeros for each in named}:
        fused = {scores_key(*each): zeros for each in fused_scores(reward)}
        said = {SCORES_COLUMN: scores | fused}
        said[BASELINE_SCORES_COLUMN] = dict.fromkeys(baseline_columns(reward), scores)
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        first.setdefault(prompt.source, prompt)
    with reward_pool(reward) as pool:
        rows = [{**each.row, **said} for each in first.values()]
        outcomes = pool.score(rows, [""] * len(first))
    broken = [
        Problem(
            "bad-row",
            f"reward `{reward.name}` cannot score answers to {prompt.id}: {outcome.message}",
            help=outcome.help,
        )
        for prompt, outcome in zip(first.values(), outcomes, strict=True)
        if isinstance(outcome, RewardBroken)
    ]
    if broken:
        raise InputError(broken)


@lru_cache(maxsize=1)
def _rendered(folder: str, data: str, room: int) -> list[Prompt]:
    """Stages that compare algorithms share their prompts; `data` is a DataSpec as JSON."""
    from posttrain.stages.questions import render_prompts

    return render_prompts(folder, json.loads(data), room, None, 0)


def _look_at_suite(request: PreflightRequest, folder: str) -> None:
    from posttrain.stages.context import context_length
    from posttrain.stages.measure import render_suite

    assert request.suite is not None
    suite = Suite.model_validate(dict(request.suite))
    length = context_length(folder)
    if row_tasks(suite):
        render_suite(folder, request.suite, length)
    look_at_harness(folder, suite, length)


def _few(request: PreflightRequest) -> dict[str, Any]:
    """The data with fewer rows of each part, ROWS_TRIED in all."""
    data = dict(request.data or {})
    parts = data.get("mix") or {}
    most = ROWS_TRIED // max(1, len(parts))
    learns = request.kind in ("sft", "pairs")
    if parts:
        few = {name: _first(part, most, learns) for name, part in parts.items()}
        return data | {"mix": few}
    return _first(data, most, learns)


def _first(data: Mapping[str, Any], most: int, learns: bool) -> dict[str, Any]:
    if learns and str(data.get("path")).startswith(MICROWORLD):
        most = min(most, GENERATED_TRIED)
    return dict(data) | {"take": min(data.get("take") or most, most)}


def _seen_all(prompts: Sequence[Prompt], data: DataSpec, few: DataSpec) -> bool:
    """Whether looking at `few` was looking at everything."""
    seen = Counter(prompt.id.rpartition("/")[0] for prompt in prompts)
    return all(
        part.take == data.parts[name].take or seen[name] < (part.take or 0)
        for name, part in few.parts.items()
    )


def _look_at_origins(request: PreflightRequest, scratch: Path) -> None:
    """Models that are averaged must be alike, and training changes no shapes: those that they
    descend from tell it. Only headers of weights are read.
    """
    from posttrain.model.merged_folder import MergeSources, check_alike
    from posttrain.model.stored_tensors import stored_model

    stored = [
        stored_model(tokenizer_folder(origin, scratch), stage) for stage, origin in request.averaged
    ]
    check_alike(MergeSources(tuple(stored)))


def _look_at_reward(request: PreflightRequest) -> None:
    """A reward, and each part of one that is made of others, must give its own examples the scores
    that it says they have. They are scored as answers are: in a process with limits.
    """
    assert request.reward is not None
    for _, part, module, config in with_parts(request.reward, None):
        if not any(each.makes == "model" for each in named_stages(config)):  # may not be there yet
            update = {"name": part.name, "settings": part.settings, "processes": 1}
            _look_at_examples(request.reward.model_copy(update=update), module, config)


def _look_at_examples(reward: ScoredReward, module: Any, config: Any) -> None:
    try:
        require_ready(module, config)
    except PosttrainError:
        raise
    except Exception as error:  # boundary: a file of the user's own
        message = f"reward `{reward.name}`: its ready() raises {type(error).__name__}: {error}"
        raise RewardBroken(
            message, help="mend it: what it finds missing, it says in RewardBroken"
        ) from error
    gold, bad = examples_of(module, reward.name, config)
    with reward_pool(reward) as pool:
        rows, answers = [e.row for e in (*gold, *bad)], [e.completion for e in (*gold, *bad)]
        failures = failed_examples(gold, bad, pool.score(rows, answers))
    if failures:
        raise InputError(
            Problem(
                "gold-not-one",
                f"its own example {failures[0]}",
                file=str(module.__file__),
                help="mend score(), or gold() and bad(); numbers compare with `same_number` of "
                "posttrain.reward.answers",
            )
        )
