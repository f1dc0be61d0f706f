"""The `online_rl` stage: engines, rewards, coordinator and trainers around one algorithm."""

from __future__ import annotations

from posttrain.config.pipeline import OnlineRlStage
from posttrain.loop.admission import AdmissionRule
from posttrain.loop.coordinator import LoopSettings
from posttrain.stages.context import StageContext, context_length, engine_spec
from posttrain.stages.jobs import OnlineJob, PluginRef
from posttrain.stages.questions import render_prompts
from posttrain.types import Sampling


def run(
    stage: OnlineRlStage, algorithm: PluginRef, reward: PluginRef, context: StageContext
) -> str:
    """Train; returns "done" or "stopped"."""
    model_path = context.inputs[stage.model].path
    answer_tokens = stage.sampling.max_new_tokens
    room = context_length(model_path) - answer_tokens
    prompts = context.launcher.call(
        render_prompts, model_path, stage.data.model_dump(), room, None, context.seed
    )
    longest = max(len(prompt.token_ids) for prompt in prompts)
    engines = context.num_engines(stage.resources)
    trainers = context.num_trainers(stage.resources)
    job = OnlineJob(
        stage=context.name,
        directory=str(context.directory),
        model_path=model_path,
        algorithm=algorithm,
        reward=reward,
        reward_timeout_s=stage.reward.timeout_s,
        prompts=tuple(prompts),
        loop=LoopSettings(
            rule=AdmissionRule(
                stage.batch.prompts, stage.staleness.steps_ahead, stage.staleness.max
            ),
            num_steps=stage.steps,
            samples_per_prompt=stage.batch.samples_per_prompt,
            sampling=Sampling(answer_tokens, stage.sampling.temperature),
            seed=context.seed,
        ),
        engine=engine_spec(context.cluster, model_path, longest + answer_tokens),
        num_engines=engines,
        num_trainers=trainers,
        trainer_threads=max(1, (context.num_cores - engines) // trainers),
        gpus_per_trainer=context.cluster.gpus_per_trainer,
        precision=context.cluster.precision,
        tokens_per_micro_batch=stage.batch.tokens_per_micro_batch,
        checkpoint_every=stage.checkpoint_every,
        logprob_check_every=stage.logprob_check_every,
        attempt=context.attempt,
    )
    return context.launcher.run_online(job, context.tracker)
