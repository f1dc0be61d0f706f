"""How far ahead of the trainer an online stage generates, where its file does not say."""

from __future__ import annotations

from posttrain.config.pipeline import Cluster, OnlineRlStage
from posttrain.loop.limits import filling_ahead


def steps_ahead(stage: OnlineRlStage, cluster: Cluster) -> int:
    """`staleness.ahead`, or the fewest steps that give every place of the engines work; more where
    engines are told of new weights only every few steps.
    """
    if stage.staleness.ahead is not None:
        return stage.staleness.ahead
    engines = stage.resources.engines or cluster.engines
    rollouts = stage.batch.prompts * stage.batch.samples_per_prompt
    filling = filling_ahead(engines * cluster.engine.max_running, rollouts, stage.staleness.max)
    return min(stage.staleness.max, filling + stage.staleness.sync_every - 1)
