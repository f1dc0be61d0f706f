"""How far ahead of the trainer an online stage generates, where its file does not say."""

from __future__ import annotations

from posttrain.config.pipeline import Cluster, OnlineRlStage
from posttrain.loop.limits import filling_ahead


def steps_ahead(stage: OnlineRlStage, cluster: Cluster, greedy: bool = False) -> int:
    """As `ahead_within`, for a cluster's engines and the stage's own bound."""
    places = cluster.engines_for(stage) * cluster.engine.max_running
    return ahead_within(stage, stage.staleness.max, places, answers_per_step(stage, greedy))


def answers_per_step(stage: OnlineRlStage, greedy: bool) -> int:
    """Generated for one step. `greedy`: each prompt gets a greedy answer beside its samples."""
    return stage.batch.prompts * (stage.batch.samples_per_prompt + greedy)


def ahead_within(stage: OnlineRlStage, maximum: int, places: int, answers: int) -> int:
    """`staleness.ahead`, or the fewest steps that give every place of the engines work; more where
    engines are told of new weights only every few steps. At most `maximum`.
    """
    wanted = stage.staleness.ahead
    if wanted is None:
        wanted = filling_ahead(places, answers, maximum) + stage.staleness.sync_every - 1
    return min(maximum, wanted)
