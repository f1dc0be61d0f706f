"""How far ahead of the trainer an online stage generates, where its file does not say."""

from __future__ import annotations

from posttrain.config.pipeline import Cluster, OnlineRlStage
from posttrain.loop.limits import filling_ahead


def steps_ahead(stage: OnlineRlStage, cluster: Cluster, greedy: bool = False) -> int:
    """`staleness.ahead`, or the fewest steps that give every place of the engines work; more where
    engines are told of new weights only every few steps. `greedy`: each prompt gets a greedy answer
    too.
    """
    if stage.staleness.ahead is not None:
        return stage.staleness.ahead
    engines = stage.resources.engines or cluster.engines
    answers = stage.batch.prompts * (stage.batch.samples_per_prompt + greedy)
    filling = filling_ahead(engines * cluster.engine.max_running, answers, stage.staleness.max)
    return min(stage.staleness.max, filling + stage.staleness.sync_every - 1)
