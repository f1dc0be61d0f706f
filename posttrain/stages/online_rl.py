"""The `online_rl` stage: engines, rewards, coordinator and trainers around one algorithm."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from posttrain.algorithms import needs_of
from posttrain.config.critic import HEAD, POLICY
from posttrain.config.pipeline import OnlineRlStage
from posttrain.config.plugins import load_plugin, plugin_config
from posttrain.errors import InputError, Problem
from posttrain.loop.admission import AdmissionRule
from posttrain.loop.settings import MOST_ENGINE_LOSSES, LoopSettings
from posttrain.model.folders import member_folders
from posttrain.stages.context import StageContext, context_length, engine_spec
from posttrain.stages.jobs import OnlineJob, PluginRef
from posttrain.stages.questions import prompts_of_stage
from posttrain.stages.schedule import steps_ahead
from posttrain.stages.scoring import scoring_job
from posttrain.types import Prompt, Sampling


def run(
    stage: OnlineRlStage,
    algorithm: PluginRef,
    reward: PluginRef,
    watch: PluginRef | None,
    context: StageContext,
) -> str:
    """Train; returns "done" or "stopped"."""
    if context.has("model"):
        return "done"
    model_path = context.inputs[stage.model].path
    answer_tokens = stage.sampling.max_new_tokens
    room = context_length(model_path) - answer_tokens
    rendered = prompts_of_stage(model_path, stage.data, room, context)
    longest = max(len(prompt.token_ids) for prompt in rendered)
    prompts, heldout = split_heldout(rendered, stage.heldout.prompts if stage.heldout else 0)
    engines = context.cluster.engines_for(stage)
    trainers = context.cluster.trainers_for(stage)
    module = load_plugin("algorithm", algorithm.name, algorithm.base_dir, mode="online")
    config = plugin_config(module, algorithm.settings)
    needs = needs_of(module, config)
    job = OnlineJob(
        stage=context.name,
        directory=str(context.directory),
        model_path=model_path,
        algorithm=algorithm,
        scoring=scoring_job(
            "reward",
            stage.reward,
            reward,
            context,
            model_path,
            (stage.watch, watch) if stage.watch and watch else None,
        ),
        stop_at_members_std=stage.stop_at_members_std,
        stop_at_kl=stage.stop_at_kl,
        reward_scale=stage.reward.scale,
        prompts=tuple(prompts),
        heldout=tuple(heldout),
        loop=LoopSettings(
            rule=AdmissionRule(
                stage.batch.prompts,
                steps_ahead(stage, context.cluster, needs.greedy),
                stage.staleness.max,
            ),
            num_steps=stage.steps,
            samples_per_prompt=stage.batch.samples_per_prompt,
            sampling=Sampling(answer_tokens, stage.sampling.temperature),
            seed=context.seed,
            filter_no_signal=stage.filter_no_signal,
            max_refill_batches=stage.max_refill_batches,
            heldout_every=stage.heldout.every if stage.heldout else 0,
            greedy=needs.greedy,
            # By nccl the death of one may cost all that are in the collective with it.
            most_engine_losses=max(MOST_ENGINE_LOSSES, 4 * engines),
        ),
        engine=engine_spec(context.cluster, model_path, longest + answer_tokens),
        num_engines=engines,
        num_trainers=trainers,
        trainer_threads=max(1, (context.num_cores - engines) // trainers),
        gpus_per_trainer=context.cluster.gpus_per_trainer,
        precision=context.cluster.precision,
        tokens_per_micro_batch=stage.batch.tokens_per_micro_batch,
        optimiser_steps=stage.batch.optimiser_steps,
        epochs=stage.batch.epochs,
        critic=_critic(config, context) if needs.critic else None,
        off_policy=stage.off_policy,
        lora=stage.lora,
        restraints=stage.restraints,
        reference=stage.reference,
        sync_every=stage.staleness.sync_every,
        checkpoint_every=stage.checkpoint_every,
        logprob_check_every=stage.logprob_check_every,
        attempt=context.attempt,
    )
    return context.launcher.run_online(job, context.tracker)


def split_heldout(
    prompts: Sequence[Prompt], count: int
) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
    """(to train on, held out): by a hash of their ids, so that more rows move none across.

    Raises InputError where nothing would be left to train on.
    """
    if not count:
        return prompts, ()
    if count >= len(prompts):
        raise InputError(
            Problem(
                "too-few-prompts",
                f"{count} prompts are to be held out, and there are {len(prompts)}",
                path="heldout.prompts",
                help="hold fewer out, or give more rows",
            )
        )
    by_hash = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.id.encode()).digest())
    held = {prompt.id for prompt in by_hash[:count]}
    return [prompt for prompt in prompts if prompt.id not in held], by_hash[:count]


def _critic(config: Any, context: StageContext) -> str:
    """`policy`, `head`, or the absolute folder that the critic starts from.

    Of an ensemble it is the first member's.
    """
    if config.critic in (POLICY, HEAD):
        return str(config.critic)
    if config.critic in context.inputs:
        found = context.inputs[config.critic]
        if found.type == "reward_models":
            return str(member_folders(found.path)[0])
        return found.path
    return str(config.critic)  # absolute: the plan has resolved it
