"""The `best_of_n` stage: what choosing the best of n answers by a reward is really worth.

Every answer of a `generate` stage is scored by the reward that chooses and by the gold reward. From
one pool of N answers per prompt follows the expected score of the best of n for every n <= N,
without drawing (`ops.best_of_n`), and how far that is from the model: KL = log n - (n - 1) / n.

What was scored is written down call by call: a stage that was stopped or killed goes on behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.config.answers import BestOfNStage
from posttrain.errors import InputError, Interrupted, Problem, RewardBroken
from posttrain.files import write_json
from posttrain.stages.context import StageContext
from posttrain.stages.dataset import Answers, DatasetFolder
from posttrain.stages.jobs import PluginRef
from posttrain.stages.launcher import Scorer
from posttrain.stages.scoring import scoring_job
from posttrain.types import MEMBERS_STD, WATCH_PART, Interval, Score

ANSWERS_PER_CALL = 4096
SCORED = "scored"  # folder of the stage: call by call, what was scored, until all is told
ALL = ""  # the reward that chooses itself, beside its parts


@dataclass(frozen=True, slots=True)
class Pool:
    """The scores of one prompt's answers, in the same order."""

    proxies: Mapping[str, Sequence[float]]  # [N] by part of the reward that chooses; ALL: it all
    gold: Sequence[float]  # [N]


@dataclass(frozen=True, slots=True)
class Point:
    """Best of n, averaged over prompts. Example: Point(4, 0.636, Interval(...), Interval(...))"""

    n: int
    kl: float  # nats
    proxy: Interval  # of the reward that chooses
    gold: Interval


def run(
    stage: BestOfNStage, scored_by: PluginRef, gold: PluginRef, context: StageContext
) -> dict[str, Any]:
    """Score and sum up; returns what becomes measurements.json."""
    folder = DatasetFolder(context.inputs[stage.samples].path)
    watch = (stage.gold, gold)
    job = scoring_job(
        "scored_by", stage.scored_by, scored_by, context, str(folder.tokenizer), watch
    )
    pools: list[Pool] = []
    broken = 0
    scored = context.directory / SCORED
    scored.mkdir(exist_ok=True)
    with ExitStack() as opened:
        scorer: Scorer | None = None  # started where there is something to score
        for answers in _calls(folder.answers()):
            file = (
                scored / f"{len(pools):06d}-{len(answers)}.json"
            )  # its first prompt, and how many
            if not file.exists():
                if context.launcher.stop_asked():
                    raise Interrupted(f"{context.name} was stopped; it goes on with what is left")
                if scorer is None:
                    scorer = opened.enter_context(context.launcher.scorer(job, context.tracker))
                _score(answers, scorer, file)
                num_scored = len(pools) + len(answers)
                context.tracker.event("scored", text=f"answers to {num_scored} prompts scored")
            more, of_them_broken = _read(file)
            pools += more
            broken += of_them_broken
    sizes = stage.n or doubling(folder.summary["samples_per_prompt"])
    whole = _whole(pools, sizes, stage, context)
    curves: dict[str, list[Point]] = context.launcher.call(
        curves_of, whole, sizes, stage.by_part, deadline_s=3600
    )
    for index, n in enumerate(sizes):
        numbers = {"best_of/kl_nats": curves[ALL][index].kl}
        for part, points in curves.items():
            prefix = f"best_of/{part}/" if part else "best_of/"
            numbers[f"{prefix}score"] = points[index].gold.value
            numbers[f"{prefix}proxy"] = points[index].proxy.value
        context.tracker.log(numbers, step=n)
    parts = {part: _as_json(points) for part, points in curves.items() if part != ALL}
    return {
        "best_of_n": {
            "points": _as_json(curves[ALL]),
            **({"parts": parts} if parts else {}),
            "prompts": len(whole),
            "broken": broken,
        }
    }


def doubling(largest: int) -> list[int]:
    """1, 2, 4, ... and the largest. Example: doubling(6) is [1, 2, 4, 6]."""
    sizes = [1]
    while sizes[-1] * 2 <= largest:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == largest else [*sizes, largest]


def _as_json(points: Sequence[Point]) -> list[dict[str, Any]]:
    return [
        {
            "n": point.n,
            "kl": point.kl,
            "proxy": point.proxy.as_dict(),
            "gold": point.gold.as_dict(),
        }
        for point in points
    ]


def curves_of(pools: Sequence[Pool], sizes: Sequence[int], by_part: bool) -> dict[str, list[Point]]:
    """By part, ALL first. Runs in a process of its own."""
    shared = set.intersection(*(set(pool.proxies) for pool in pools))
    own = {name for name in shared - {ALL, MEMBERS_STD} if "/" not in name}  # not parts of parts
    parts = sorted(own) if by_part else []
    return {part: curve(pools, sizes, part) for part in (ALL, *parts)}


def curve(pools: Sequence[Pool], sizes: Sequence[int], part: str = ALL) -> list[Point]:
    """The mean over prompts for each n, with its interval."""
    import torch

    from posttrain import ops
    from posttrain.stages.statistics import average

    points = []
    tensors = [(torch.tensor(each.proxies[part]), torch.tensor(each.gold)) for each in pools]
    for n in sizes:
        values = [ops.best_of_n.best_of_n(proxy_N, gold_N, n) for proxy_N, gold_N in tensors]
        proxies, golds = zip(*values, strict=True)
        kl = ops.best_of_n.kl_of_best_of_n(n)
        points.append(Point(n, kl, average(proxies), average(golds)))
    return points


def _calls(answers: Iterator[Answers]) -> Iterator[list[Answers]]:
    """As many as are scored at once, the same ones whenever the stage is run."""
    waiting: list[Answers] = []
    for each in answers:
        waiting.append(each)
        if sum(len(answers.rollouts) for answers in waiting) >= ANSWERS_PER_CALL:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _score(answers: Sequence[Answers], scorer: Scorer, file: Path) -> None:
    """Write a pool for each prompt, and how many answers a reward broke on."""
    own = [
        (each.prompt, rollout)
        for each in answers
        for number, rollout in enumerate(each.rollouts)
        if each.of_policy(number)
    ]
    outcomes = scorer.score([prompt for prompt, _ in own], [rollout for _, rollout in own])
    by_prompt: dict[str, list[Score]] = {each.prompt.id: [] for each in answers}
    broken = 0
    for (prompt, _), outcome in zip(own, outcomes, strict=True):
        if isinstance(outcome, Score) and WATCH_PART in outcome.parts:
            by_prompt[prompt.id].append(outcome)
        else:
            broken += 1
    if broken == len(outcomes):
        first = outcomes[0]
        if isinstance(first, Exception):
            raise first
        raise RewardBroken("the gold reward scores no answer", place="gold")
    pools = [asdict(_pool(scores)) for scores in by_prompt.values()]
    write_json(file, {"pools": pools, "broken": broken})


def _read(file: Path) -> tuple[list[Pool], int]:
    found = json.loads(file.read_text(encoding="utf-8"))
    return [Pool(**each) for each in found["pools"]], found["broken"]


def _pool(scores: Sequence[Score]) -> Pool:
    """A part that an answer lacks is none."""
    names = set.intersection(*(set(each.parts) for each in scores)) if scores else set()
    proxies = {name: tuple(each.parts[name] for each in scores) for name in names - {WATCH_PART}}
    proxies[ALL] = tuple(each.value for each in scores)
    return Pool(proxies, tuple(each.parts[WATCH_PART] for each in scores))


def _whole(
    pools: Sequence[Pool], sizes: Sequence[int], stage: BestOfNStage, context: StageContext
) -> list[Pool]:
    """Pools that are large enough. Raises InputError where there is none."""
    whole = [each for each in pools if len(each.gold) >= sizes[-1]]
    if whole:
        return whole
    most = max((len(each.gold) for each in pools), default=0)
    raise InputError(
        Problem(
            "pool-too-small",
            f"best of {sizes[-1]} is asked for, and no prompt of `{stage.samples}` has more than "
            f"{most} answers with scores",
            path=f"stages.{context.name}.n",
            help=f"n: up to {most}, or more samples_per_prompt",
        )
    )
