"""What scores a stage's or a suite's answers: as its reward asks for it, or as a job to be run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from posttrain.config.answers import ScoredReward
from posttrain.config.plugins import baseline_columns, fused_scores, reward_stages, with_parts
from posttrain.errors import InputError, Problem, RewardBroken
from posttrain.model.folders import member_folders, vocabulary_fingerprint
from posttrain.ports import EngineSpec
from posttrain.reward.worker import RewardPool
from posttrain.stages.context import StageContext, context_length, engine_spec
from posttrain.stages.jobs import PluginRef, ScoringJob
from posttrain.types import Score

VERIFIER_TIMEOUT_S = 10.0
OUTSIDE_TIMEOUT_S = 300.0  # of rewards that ask something outside, with retries of their own
LONGEST_JUDGED_TOKENS = 8192
"""Of a question with its answer and judgement; a whole context of today's models would not fit into
a small cache."""


def time_limit_s(reward: ScoredReward, base_dir: str | Path | None = None) -> float:
    """For one answer: what the file says, or what suits the reward and its parts."""
    if reward.timeout_s is not None:
        return reward.timeout_s
    asks_outside = any(hasattr(module, "ready") for *_, module, _ in with_parts(reward, base_dir))
    return OUTSIDE_TIMEOUT_S if asks_outside else VERIFIER_TIMEOUT_S


def reward_pool(reward: ScoredReward) -> RewardPool:
    """Not started yet; to be closed."""
    return RewardPool(
        reward.name,
        reward.settings,
        time_limit_s(reward),
        reward.processes,
        reward.process_memory_mb,
    )


class RewardPools:
    """Pools by what they score with, lent to one asker at a time and kept for the next: a reward's
    process takes a third of a second of processor time to start. Thread-safe; to be closed.
    """

    def __init__(self) -> None:
        self._idle: dict[str, list[RewardPool]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def lend(self) -> Iterator[Callable[[ScoredReward], RewardPool]]:
        """Reward to its pool, the same one for the same reward."""
        lent: dict[str, RewardPool] = {}

        def pool_of(reward: ScoredReward) -> RewardPool:
            key = reward.model_dump_json()
            if key not in lent:
                with self._lock:
                    idle = self._idle.setdefault(key, [])
                    lent[key] = idle.pop() if idle else reward_pool(reward)
            return lent[key]

        try:
            yield pool_of
        except BaseException:  # half an answer may be on its way: nobody is to read it as theirs
            for pool in lent.values():
                pool.close()
            raise
        with self._lock:
            for key, pool in lent.items():
                self._idle[key].append(pool)

    def close(self) -> None:
        """End the processes of all that are not lent."""
        with self._lock:
            for pools in self._idle.values():
                while pools:
                    pools.pop().close()


def scores_or_broken(outcomes: Sequence[Score | RewardBroken]) -> list[Score | None]:
    """None where the reward broke on an answer. Raises the first failure where it broke on all of
    them: then that is the news.
    """
    broken = [each for each in outcomes if not isinstance(each, Score)]
    if broken and len(broken) == len(outcomes):
        raise broken[0]
    return [each if isinstance(each, Score) else None for each in outcomes]


def scoring_job(
    key: str,
    reward: ScoredReward,
    plugin: PluginRef,
    context: StageContext,
    tokenizer_path: str,
    watch: tuple[ScoredReward, PluginRef] | None = None,
) -> ScoringJob:
    """The reward at the stage's `key`, and the stages whose models judge or score for it.

    `tokenizer_path` is the folder of the policy, or of its tokenizer alone. Raises InputError where
    reward models read other tokens.
    """
    keys = {key: reward} | ({"watch": watch[0]} if watch else {})
    vocabulary = vocabulary_fingerprint(tokenizer_path)
    baselines = [column for each in keys.values() for column in baseline_columns(each)]
    fused = [asked for each in keys.values() for asked in fused_scores(each)]
    ensembles = _named(keys, "reward_models", context)
    for at, name, path in ensembles:
        _require_vocabulary(path, vocabulary, name, f"stages.{context.name}.{at}")
    judges = {name: _judge(path, context) for _, name, path in _named(keys, "model", context)}
    return ScoringJob(
        reward=plugin,
        timeout_s=time_limit_s(reward),
        processes=reward.processes,
        memory_mb=reward.process_memory_mb,
        judges=judges,
        ensembles={name: path for _, name, path in ensembles},
        gpus=1 if ensembles and context.cluster.gpus_per_engine else 0,
        directory=str(context.directory),
        tokenizer_path=tokenizer_path,
        baselines=tuple(dict.fromkeys(baselines)),
        fused=tuple(dict.fromkeys(fused)),
        watch=watch[1] if watch else None,
    )


def _named(
    rewards: dict[str, ScoredReward], makes: str, context: StageContext
) -> list[tuple[str, str, str]]:
    """(key of the reward, stage, its artifact) of the stages that rewards name for what they make,
    in order, each once.
    """
    found: dict[str, tuple[str, str, str]] = {}
    for key, reward in rewards.items():
        for each in reward_stages(reward):
            if each.makes == makes:
                path = context.inputs[each.stage].path
                found.setdefault(each.stage, (key, each.stage, path))
    return list(found.values())


def _judge(path: str, context: StageContext) -> EngineSpec:
    """An engine with room for all that the judging model can read."""
    return engine_spec(context.cluster, path, min(context_length(path), LONGEST_JUDGED_TOKENS))


def _require_vocabulary(path: str, vocabulary: str, name: str, place: str) -> None:
    for member in member_folders(path):
        theirs = vocabulary_fingerprint(member)
        if vocabulary and theirs and theirs != vocabulary:
            raise InputError(
                Problem(
                    "other-tokenizer",
                    f"the reward models of `{name}` read other tokens than the policy writes: they "
                    "have different tokenizers",
                    path=place,
                    help="train reward models that start from a model of the policy's family",
                )
            )
