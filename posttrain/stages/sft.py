"""The `sft` stage: supervised fine-tuning with TRL inside Ray Train."""

from __future__ import annotations

from posttrain.config.pipeline import SftStage
from posttrain.stages.context import StageContext
from posttrain.stages.jobs import PluginRef, SftJob


def run(stage: SftStage, algorithm: PluginRef, context: StageContext) -> str:
    """Train; returns "done" or "stopped"."""
    trainers = context.num_trainers(stage.resources)
    job = SftJob(
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
    return context.launcher.run_sft(job, context.tracker)
