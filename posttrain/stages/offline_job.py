"""From a stage that learns from rows to the job that a launcher runs."""

from __future__ import annotations

from posttrain.config.offline import PreferenceStage, RewardModelStage, SftStage
from posttrain.stages.context import StageContext
from posttrain.stages.jobs import OfflineJob, PluginRef


def offline_job(
    kind: str,
    stage: SftStage | RewardModelStage | PreferenceStage,
    algorithm: PluginRef,
    context: StageContext,
) -> OfflineJob:
    """Everything a trainer needs, as plain data."""
    trainers = context.cluster.trainers_for(stage)
    return OfflineJob(
        kind=kind,
        stage=context.name,
        directory=str(context.directory),
        model_path=context.inputs[stage.model].path,
        algorithm=algorithm,
        lora=stage.lora,
        data=stage.data.model_dump(),
        batch_rows=stage.batch.rows,
        tokens_per_micro_batch=stage.batch.tokens_per_micro_batch,
        steps=stage.steps,
        epochs=stage.epochs,
        max_tokens=stage.max_tokens,
        holdout_rows=stage.holdout_rows,
        seed=context.seed,
        threads=max(1, context.num_cores // trainers),
        num_trainers=trainers,
        gpus_per_trainer=context.cluster.gpus_per_trainer,
        precision=context.cluster.precision,
        attempt=context.attempt,
    )
