"""The `over_optimisation` stage: quality against distance for the models of a sweep, and their law.

Each model answers the same prompts once, and the gold reward scores what it says. Its distance is
estimated on those fresh answers: the mean over them of the sum over tokens of log π - log π_start
(nats; unbiased, and not below what chance makes of it). The law R(d) = d (alpha - beta log d) with
d = sqrt(KL) is fitted to the gains in gold reward over the start (Rafailov et al. 2024, arXiv
2406.02900; `ops.over_optimisation`); its peak says where training should have stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from posttrain.config.answers import OverOptimisationStage
from posttrain.errors import Interrupted
from posttrain.stages.context import StageContext, context_length, engine_spec
from posttrain.stages.dataset import Answers, DatasetFolder
from posttrain.stages.jobs import PluginRef
from posttrain.stages.launcher import LeasedEngine, Scorer
from posttrain.stages.questions import prompts_of_stage
from posttrain.stages.scoring import scores_or_broken, scoring_job
from posttrain.stages.statistics import average
from posttrain.types import Interval, Prompt, Rollout, Sampling

ASKED = "asked"  # folder of the stage: by model, what it said, until all is told


@dataclass(frozen=True, slots=True)
class Seen:
    """What one model's answers amount to. Example: Seen("dpo", Interval(...), Interval(...))"""

    model: str
    kl: Interval  # nats from the start
    gold: Interval


def run(stage: OverOptimisationStage, gold: PluginRef, context: StageContext) -> dict[str, Any]:
    """Ask, score, fit; returns what becomes measurements.json."""
    start = context.inputs[stage.model].path
    answer_tokens = stage.max_new_tokens
    room = context_length(start) - answer_tokens - 1  # to ask for log-probs takes a token more
    prompts = prompts_of_stage(start, stage.data, room, context, stage.prompts)
    sampling = Sampling(answer_tokens, 1.0, context.seed)
    longest = max(len(prompt.token_ids) for prompt in prompts) + answer_tokens + 1
    job = scoring_job("gold", stage.gold, gold, context, start)
    answers: dict[str, list[Rollout]] = {}
    golds: dict[str, Interval] = {}
    with ExitStack() as opened:
        scorer: Scorer | None = None  # started where there is something to score
        for name in (stage.model, *stage.models):
            folder = DatasetFolder(context.directory / ASKED / name)
            if not folder.has_part(0):
                if context.launcher.stop_asked():
                    raise Interrupted(f"{context.name} was stopped; it goes on with {name}")
                if scorer is None:
                    scorer = opened.enter_context(context.launcher.scorer(job, context.tracker))
                context.tracker.event("asking", text=f"{name} answers {len(prompts)} prompts")
                spec = engine_spec(context.cluster, context.inputs[name].path, longest)
                with context.launcher.engines(spec, 1) as engines:
                    rollouts = engines[0].generate_many(prompts, sampling)
                _keep(folder, prompts, rollouts, scorer)
            kept = list(folder.answers())
            answers[name] = [each.rollouts[0] for each in kept]
            scores = [each.scores[0] for each in kept]
            golds[name] = average([each.value for each in scores if each is not None])
    distances = {stage.model: average([0.0] * len(prompts))}
    spec = engine_spec(context.cluster, start, longest)
    with context.launcher.engines(spec, 1) as engines:
        for name in stage.models:
            distances[name] = average(_distances(engines[0], answers[name]))
    seen = [Seen(name, distances[name], golds[name]) for name in answers]
    for number, each in enumerate(seen):
        context.tracker.log(
            {"over_optimisation/kl_nats": each.kl.value, "over_optimisation/gold": each.gold.value},
            step=number,
        )
    law: tuple[float, float] | None = context.launcher.call(fit_law, seen)
    if law is not None:
        names = ("over_optimisation/law_alpha", "over_optimisation/law_beta")
        context.tracker.log(dict(zip(names, law, strict=True)), step=len(seen) - 1)
    return summarise(seen, law)


def _keep(
    folder: DatasetFolder, prompts: Sequence[Prompt], rollouts: Sequence[Rollout], scorer: Scorer
) -> None:
    """Score one model's answers and write them down: a stage that was stopped asks the others."""
    scores = scores_or_broken(scorer.score(prompts, rollouts))
    bare = [replace(prompt, row={}) for prompt in prompts]  # nobody reads the data's rows again
    folder.begin(bare)
    answers = zip(bare, rollouts, scores, strict=True)
    folder.write_part(0, [Answers(prompt, (said,), (score,)) for prompt, said, score in answers])


def _distances(start: LeasedEngine, rollouts: Sequence[Rollout]) -> list[float]:
    """Of each answer, log π - log π_start in nats. The start is asked what it would have said."""
    before = start.token_logprobs([(each.prompt_ids, each.token_ids) for each in rollouts])
    return [
        math.fsum(each.logprobs) - math.fsum(logprobs)
        for each, logprobs in zip(rollouts, before, strict=True)
    ]


def fit_law(seen: Sequence[Seen]) -> tuple[float, float] | None:
    """(alpha, beta) of the gains over the first, which is the start; None where too few differ."""
    import torch

    from posttrain import ops

    first = seen[0].gold.value
    distances = [math.sqrt(max(0.0, each.kl.value)) for each in seen[1:]]
    gains = [each.gold.value - first for each in seen[1:]]
    try:
        law = ops.over_optimisation.fit(torch.tensor(distances), torch.tensor(gains))
    except ValueError:
        return None
    return law.alpha, law.beta


def summarise(seen: Sequence[Seen], law: tuple[float, float] | None) -> dict[str, Any]:
    """Points, the law with its peak, and the model to take, as JSON."""
    best = max(seen, key=lambda each: each.gold.value)
    peak = None
    if law is not None and law[1] > 0:
        distance = math.exp(min(law[0] / law[1] - 1.0, 50.0))
        peak = {"distance": distance, "kl": distance**2, "gain": law[1] * distance}
    return {
        "over_optimisation": {
            "points": [
                {"model": each.model, "kl": each.kl.as_dict(), "gold": each.gold.as_dict()}
                for each in seen
            ],
            "law": {"alpha": law[0], "beta": law[1]} if law else None,
            "peak": peak,
            "best": best.model,
            "why": _why(seen, peak, best),
        }
    }


def _why(seen: Sequence[Seen], peak: dict[str, float] | None, best: Seen) -> str:
    farthest = max(each.kl.value for each in seen)
    words = f"{best.model} is best: gold {best.gold.value:.3f} at {best.kl.value:.2f} nats"
    if peak is None:
        return f"{words}; quality does not fall in this sweep, so nothing says where to stop"
    if peak["kl"] > farthest:
        return f"{words}; the fitted peak, {peak['kl']:.2f} nats, is beyond all models here"
    return f"{words}; the law peaks at {peak['kl']:.2f} nats: stop there"
