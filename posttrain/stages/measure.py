"""Asking a model a suite's questions, and what the answers amount to."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.config.answers import ScoredReward
from posttrain.config.pipeline import Cluster
from posttrain.config.plugin import nested_plugins
from posttrain.config.plugins import (
    complete_settings,
    labelled,
    load_plugin,
    plugin_config,
    source_fingerprint,
)
from posttrain.config.suites import Suite, TaskSpec
from posttrain.config.tasks import harness_tasks, row_tasks, suite_tasks, task_spec
from posttrain.ports import EngineSpec
from posttrain.prompts.sources import EVALUATION_SEED
from posttrain.reward.worker import RewardPool
from posttrain.stages import statistics
from posttrain.stages.context import context_length, engine_spec
from posttrain.stages.harness_tasks import HARNESS_TOKENS, ask_harness, harness_fingerprint
from posttrain.stages.launcher import Launcher, LeasedEngine
from posttrain.stages.questions import Window, render_prompts, render_windows
from posttrain.stages.scoring import RewardPools
from posttrain.types import Interval, Prompt, Sampling

ANSWERS_KEPT = 64  # per task, for the report: the same prompts for every model
PERPLEXITY_WINDOW_TOKENS = 256
LONGEST_PROMPT_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task's answers."""

    kind: str  # "accuracy" or "perplexity"
    interval: Interval
    prompts: int
    passed: tuple[float, ...] = ()  # one per prompt: 0 or 1, or a grade between
    answers: tuple[Mapping[str, Any], ...] = ()
    broken: int = 0  # answers that the verifier failed on: left out, never counted as wrong
    details: Mapping[str, float] = field(default_factory=dict)  # shares that the verifier sums up


@dataclass(frozen=True, slots=True)
class Measurement:
    """A suite's results for one model."""

    suite: str
    fingerprint: str
    tasks: Mapping[str, TaskResult]
    gain: Interval | None
    keep: Interval | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        points = {"gain": self.gain, "keep": self.keep}
        return {
            "suite": self.suite,
            "fingerprint": self.fingerprint,
            "tasks": {
                name: {
                    **result.interval.as_dict(),
                    "kind": result.kind,
                    "prompts": result.prompts,
                    "broken": result.broken,
                    **({"details": dict(result.details)} if result.details else {}),
                }
                for name, result in self.tasks.items()
            },
            "answers": {name: list(result.answers) for name, result in self.tasks.items()},
            "passed": {name: list(result.passed) for name, result in self.tasks.items()},
            "points": {name: value.as_dict() for name, value in points.items() if value},
            "seconds": self.seconds,
        }


def suite_fingerprint(suite: Suite, data_fingerprints: Mapping[str, str]) -> str:
    """What decides a suite's questions: settings of its tasks and their data, not their names."""
    asked = {
        "tasks": {task: _task_asks(task_spec(suite, task)) for task in row_tasks(suite)},
        "data": dict(data_fingerprints),
        "prompts_per_task": suite.prompts_per_task,
        "temperature": suite.temperature,
        "roles": [suite.gain, suite.keep],
        **({"lm_eval": harness_fingerprint(suite)} if harness_tasks(suite) else {}),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def _task_asks(spec: TaskSpec) -> dict[str, Any]:
    """A task without the place of its data, and with the content of a reward file of the user's."""
    asks = spec.model_dump(
        exclude={"data": {"path", "stage", "name", "split", "revision", "mix", "decontaminate"}}
    )
    if spec.reward is not None:
        asks["reward_source"] = source_fingerprint(spec.reward.name)
        asks["reward"] = {"name": spec.reward.name, "settings": _settings(spec.reward)}
    return asks


def _settings(reward: ScoredReward) -> dict[str, Any]:
    """As they are written; where rewards are named in them, complete and these by their content."""
    module = load_plugin("reward", reward.name)
    if not any(nested_plugins(plugin_config(module, reward.settings))):
        return dict(reward.settings)
    settings: dict[str, Any] = labelled(
        complete_settings("reward", reward, None, counted_only=True)
    )
    return settings


@dataclass(slots=True)
class Evaluator:
    """Measures models; renders questions once per tokenizer, and keeps its rewards' processes until
    it is closed. Safe to use from several threads.
    """

    launcher: Launcher
    cluster: Cluster
    _questions: dict[str, dict[str, list[Prompt] | list[Window]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pools: RewardPools = field(default_factory=RewardPools)

    def close(self) -> None:
        self._pools.close()

    def measure(self, model_path: str, name: str, suite: Suite, fingerprint: str) -> Measurement:
        """Ask every task of a suite. Raises InputError for questions that do not fit the model."""
        began = time.monotonic()
        questions = self._prepare(model_path, suite, fingerprint)
        spec = self.engine_for(model_path, suite)
        with self.launcher.engines(spec, 1) as engines, self._pools.lend() as pool_of:
            # First what may turn out to be impossible to ask.
            results = self._ask_harness(engines[0], model_path, suite, spec.max_model_len)
            for task, asked in questions.items():
                results[task] = self._ask(engines[0], suite, task, asked, pool_of)
        return Measurement(
            suite=name,
            fingerprint=fingerprint,
            tasks={task: results[task] for task in suite_tasks(suite)},
            gain=points(suite.gain, results),
            keep=points(suite.keep, results),
            seconds=time.monotonic() - began,
        )

    def engine_for(self, model_path: str, suite: Suite) -> EngineSpec:
        """The engine that a suite needs; the same for every model of one architecture."""
        answers = [
            task_spec(suite, task).max_new_tokens
            for task in row_tasks(suite)
            if task_spec(suite, task).reward is not None
        ]
        needed = max([PERPLEXITY_WINDOW_TOKENS, *(a + 1 for a in answers)])
        longest_prompt = min(LONGEST_PROMPT_TOKENS, context_length(model_path) - needed)
        length = needed + max(1, longest_prompt)
        if harness_tasks(suite):
            length = max(length, HARNESS_TOKENS)
        return engine_spec(self.cluster, model_path, length)

    def _prepare(
        self, model_path: str, suite: Suite, fingerprint: str
    ) -> dict[str, list[Prompt] | list[Window]]:
        digest = hashlib.sha256()
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            file = Path(model_path) / name
            digest.update(file.read_bytes() if file.exists() else b"-")
        length = self.engine_for(model_path, suite).max_model_len
        key = f"{fingerprint}/{digest.hexdigest()}/{length}"
        with self._lock:  # two models that finish together need the same questions only once
            if key not in self._questions:
                self._questions[key] = self.launcher.call(
                    render_suite, model_path, suite.model_dump(), length
                )
            return self._questions[key]

    def _ask_harness(
        self, engine: LeasedEngine, model_path: str, suite: Suite, length: int
    ) -> dict[str, TaskResult]:
        found = ask_harness(self.launcher, engine, model_path, suite, length, ANSWERS_KEPT)
        return {
            task: TaskResult(
                "accuracy",
                statistics.share(told.passed),
                len(told.passed),
                told.passed,
                told.answers,
                told.unscored,
                {"prompts cut": told.cut_share} if told.cut_share else {},
            )
            for task, told in found.items()
        }

    def _ask(
        self,
        engine: LeasedEngine,
        suite: Suite,
        task: str,
        asked: Sequence[Any],
        pool_of: Callable[[ScoredReward], RewardPool],
    ) -> TaskResult:
        spec = task_spec(suite, task)
        if spec.reward is None:
            return _perplexity(engine, asked)
        sampling = Sampling(spec.max_new_tokens, suite.temperature, EVALUATION_SEED)
        rollouts = engine.generate_many(list(asked), sampling)
        module = load_plugin("reward", spec.reward.name)
        scores = pool_of(spec.reward).score([p.row for p in asked], [r.text for r in rollouts])
        result = _accuracy(asked, [r.text for r in rollouts], scores)
        if not hasattr(module, "summary"):
            return result
        parts = [score.parts for score in scores if not isinstance(score, Exception)]
        return replace(result, details=module.summary(parts))


def render_suite(
    model_path: str, suite_data: Mapping[str, Any], length: int
) -> dict[str, list[Prompt] | list[Window]]:
    """Every task's questions, for an engine of `length` tokens. Runs in a process of its own."""
    suite = Suite.model_validate(dict(suite_data))
    questions: dict[str, list[Prompt] | list[Window]] = {}
    for task in row_tasks(suite):
        spec: TaskSpec = task_spec(suite, task)
        data = spec.data.model_dump()
        if spec.reward is None:
            window = min(PERPLEXITY_WINDOW_TOKENS, length - 1)  # scoring asks for one token more
            questions[task] = render_windows(model_path, data, window, suite.prompts_per_task)
        else:
            room = length - spec.max_new_tokens
            questions[task] = render_prompts(
                model_path, data, room, suite.prompts_per_task, EVALUATION_SEED
            )
    return questions


def points(tasks: Sequence[str], results: Mapping[str, TaskResult]) -> Interval | None:
    """The mean share over tasks that are accuracies; perplexity is never averaged in."""
    shares = [results[t].interval for t in tasks if t in results and results[t].kind == "accuracy"]
    return statistics.mean(shares) if shares else None


def _accuracy(prompts: Sequence[Prompt], texts: Sequence[str], scores: Sequence[Any]) -> TaskResult:
    whole = [
        (prompt, text, score)
        for prompt, text, score in zip(prompts, texts, scores, strict=True)
        if not isinstance(score, Exception)
    ]
    if not whole:
        raise scores[0]  # the verifier broke on every answer: that is the news
    passed = tuple(grade(score) for _, _, score in whole)
    answers = tuple(
        {"prompt": prompt.text, "completion": text, "score": score.value}
        for prompt, text, score in whole[:ANSWERS_KEPT]
    )
    return TaskResult(
        "accuracy",
        statistics.share(passed),
        len(whole),
        passed,
        answers,
        broken=len(scores) - len(whole),
    )


def grade(score: Any) -> float:
    """0 or 1 where the reward says what is right; otherwise its value, held to 0..1."""
    if score.passed is None:
        return min(max(float(score.value), 0.0), 1.0)
    return float(score.passed)


def _perplexity(engine: LeasedEngine, windows: Sequence[Window]) -> TaskResult:
    logprobs = engine.token_logprobs([(w.context_ids, w.scored_ids) for w in windows])
    nats = [-sum(values) for values in logprobs]
    tokens = [len(values) for values in logprobs]
    return TaskResult("perplexity", statistics.perplexity(nats, tokens), len(windows))
