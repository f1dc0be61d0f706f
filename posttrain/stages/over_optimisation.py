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
from dataclasses import dataclass
from typing import Any

from posttrain.config.answers import OverOptimisationStage
from posttrain.errors import Interrupted
from posttrain.prompts.decontamination import REPORT_FILE, tell_left_out
from posttrain.stages.context import StageContext, context_length, engine_spec
from posttrain.stages.jobs import PluginRef
from posttrain.stages.questions import render_prompts
from posttrain.stages.scoring import scoring_job
from posttrain.stages.statistics import average
from posttrain.types import Interval, Prompt, Rollout, Sampling, Score


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
    report = context.directory / REPORT_FILE
    prompts: list[Prompt] = context.launcher.call(
        render_prompts,
        start,
        stage.data.model_dump(),
        room,
        stage.prompts,
        context.seed,
        str(report),
    )
    tell_left_out(report, context.tracker)
    sampling = Sampling(answer_tokens, 1.0, context.seed)
    seen: list[Seen] = []
    job = scoring_job("gold", stage.gold, gold, context, start)
    gpus = context.cluster.gpus_per_engine
    with context.launcher.scorer(job, context.tracker, gpus) as scorer:
        for name in (stage.model, *stage.models):
            if context.launcher.stop_asked():
                raise Interrupted(f"{context.name} was stopped; it begins anew")
            context.tracker.event("asking", text=f"{name} answers {len(prompts)} prompts")
            rollouts = _answers(context.inputs[name].path, prompts, sampling, context)
            distances = [0.0] * len(rollouts)
            if name != stage.model:
                distances = _distances(start, rollouts, sampling, context)
            scores = [s.value for s in scorer.score(prompts, rollouts) if isinstance(s, Score)]
            seen.append(Seen(name, average(distances), average(scores)))
            _tell(seen, context)
    law: tuple[float, float] | None = context.launcher.call(fit_law, seen)
    if law is not None:
        names = ("over_optimisation/law_alpha", "over_optimisation/law_beta")
        context.tracker.log(dict(zip(names, law, strict=True)), step=len(seen) - 1)
    return summarise(seen, law)


def _answers(
    model: str, prompts: Sequence[Prompt], sampling: Sampling, context: StageContext
) -> list[Rollout]:
    longest = max(len(prompt.token_ids) for prompt in prompts)
    spec = engine_spec(context.cluster, model, longest + sampling.max_new_tokens + 1)
    with context.launcher.engines(spec, 1) as engines:
        return engines[0].generate_many(list(prompts), sampling)


def _distances(
    start: str, rollouts: Sequence[Rollout], sampling: Sampling, context: StageContext
) -> list[float]:
    """Of each answer, log π - log π_start in nats. The start is asked what it would have said."""
    longest = max(len(each.prompt_ids) for each in rollouts)
    spec = engine_spec(context.cluster, start, longest + sampling.max_new_tokens + 1)
    with context.launcher.engines(spec, 1) as engines:
        before = engines[0].token_logprobs([(each.prompt_ids, each.token_ids) for each in rollouts])
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


def _tell(seen: Sequence[Seen], context: StageContext) -> None:
    last = seen[-1]
    context.tracker.log(
        {"over_optimisation/kl_nats": last.kl.value, "over_optimisation/gold": last.gold.value},
        step=len(seen) - 1,
    )
