"""Settings of `online_rl` stages that would silently do nothing, or leave a step without work."""

from __future__ import annotations

from dataclasses import replace

from posttrain.config.document import Places
from posttrain.config.pipeline import OnlineRlStage
from posttrain.config.plugins import reward_stages
from posttrain.config.suggest import closest
from posttrain.errors import Problem
from posttrain.stages.step_limits import placed

WEIGHT_KEYS = ("weights", "high", "low", "level")


def check_online(
    name: str, stage: OnlineRlStage, num_trainers: int, gpus_per_trainer: int, places: Places
) -> list[Problem]:
    """Problems of `off_policy`, `batch.optimiser_steps`, `reference` and the number of trainers."""
    found = [
        *_unused_weights(stage),
        *_sources_without_reward(stage),
        _unused_low(stage),
        _empty_bounds(stage),
        _nothing_to_interpolate(stage),
        _too_many_steps(stage),
        _idle_trainers(stage, num_trainers),
        _unused_reference(stage),
        _unused_stop(stage),
        _spread_reference(stage, num_trainers, gpus_per_trainer),
    ]
    return [
        placed(replace(problem, path=f"stages.{name}.{problem.path}"), places)
        for problem in found
        if problem is not None
    ]


def _unused_stop(stage: OnlineRlStage) -> Problem | None:
    """Only an ensemble in the reward has members that could differ."""
    if stage.stop_at_members_std is None:
        return None
    if any(named.makes == "reward_models" for named in reward_stages(stage.reward)):
        return None
    return Problem(
        "unused-setting",
        "no ensemble of reward models is in the reward: nothing could differ",
        "stop_at_members_std",
        help="reward: {ensemble: STAGE}; or leave `stop_at_members_std` out",
    )


def _sources_without_reward(stage: OnlineRlStage) -> list[Problem]:
    """With one reward per source, of a mixture every part has to have one."""
    settings, parts = stage.reward.settings, stage.data.mix
    rewards = settings.get("per_source")
    is_by_part = stage.reward.name == "per_source" and settings.get("column", "source") == "source"
    if not is_by_part or not isinstance(rewards, dict) or not parts:
        return []
    missing = [
        Problem(
            "missing-key",
            f"no reward for the prompts of `{part}`",
            "reward.per_source",
            help=f"did you mean `{near}`?"
            if (near := closest(part, rewards))
            else f"per_source: {{{part}: REWARD, ...}}",
        )
        for part in parts
        if part not in rewards
    ]
    surplus = [
        Problem(
            "unused-setting",
            f"no part of the data is called `{name}`",
            f"reward.per_source.{name}",
            help=f"parts: {', '.join(parts)}",
            severity="warning",
        )
        for name in rewards
        if name not in parts
    ]
    return [*missing, *surplus]


def _unused_weights(stage: OnlineRlStage) -> list[Problem]:
    """With the behaviour policy as the centre every weight is 1."""
    if stage.off_policy.proximal != "behaviour":
        return []
    given = stage.off_policy.model_fields_set
    return [
        Problem(
            "unused-setting",
            f"`{key}` would do nothing: with `proximal: behaviour` no token is weighed",
            f"off_policy.{key}",
            help=f"proximal: recompute, or interpolate; or leave `{key}` out",
        )
        for key in WEIGHT_KEYS
        if key in given
    ]


def _unused_low(stage: OnlineRlStage) -> Problem | None:
    settings = stage.off_policy
    if settings.proximal == "behaviour" or settings.weights != "cap":
        return None
    if "low" not in settings.model_fields_set:
        return None
    return Problem(
        "unused-setting",
        "`low` would do nothing: `weights: cap` bounds weights from above only",
        "off_policy.low",
        help="weights: mask, or clamp; or leave `low` out",
    )


def _empty_bounds(stage: OnlineRlStage) -> Problem | None:
    settings = stage.off_policy
    if settings.low < settings.high:
        return None
    return Problem(
        "bad-value",
        f"`low` is {settings.low:g} and `high` {settings.high:g}: no weight lies between them",
        "off_policy.low",
        help="low below 1 and high above 1: a fresh token weighs 1",
    )


def _nothing_to_interpolate(stage: OnlineRlStage) -> Problem | None:
    if stage.off_policy.proximal != "interpolate" or stage.staleness.max > 0:
        return None
    return Problem(
        "nothing-to-interpolate",
        "with `staleness: 0` every token is sampled by the weights right before its step",
        "off_policy.proximal",
        help="proximal: behaviour or recompute; or staleness: 1 or more",
    )


def _too_many_steps(stage: OnlineRlStage) -> Problem | None:
    steps, prompts = stage.batch.optimiser_steps, stage.batch.prompts
    if steps <= prompts:
        return None
    groups = "group, which is" if prompts == 1 else "groups, which are"
    return Problem(
        "too-many-optimiser-steps",
        f"{steps} optimiser steps, but a batch has {prompts} {groups} never split",
        "batch.optimiser_steps",
        help=f"optimiser_steps: {prompts} or less, or more `batch.prompts`",
    )


def _idle_trainers(stage: OnlineRlStage, num_trainers: int) -> Problem | None:
    """Every trainer has to have an answer of each optimiser step."""
    batch = stage.batch
    if batch.optimiser_steps > batch.prompts:
        return None
    smallest = batch.prompts // batch.optimiser_steps * batch.samples_per_prompt
    if num_trainers <= smallest:
        return None
    of = "an optimiser step" if batch.optimiser_steps > 1 else "a step"
    return Problem(
        "batch-too-small",
        f"{num_trainers} trainers, but {of} has {smallest} rollouts",
        "batch.prompts",
        help="a larger batch, or fewer trainers",
    )


def _unused_reference(stage: OnlineRlStage) -> Problem | None:
    """With adapters the reference is the policy without them."""
    if stage.lora is None or "reference" not in stage.model_fields_set:
        return None
    return Problem(
        "unused-setting",
        "`reference` would do nothing: with `lora` it is the policy with its adapters off",
        "reference",
        help="leave `reference` out, or `lora`",
    )


def _spread_reference(
    stage: OnlineRlStage, num_trainers: int, gpus_per_trainer: int
) -> Problem | None:
    """Moved in, it would be whole on every GPU: more than the share that each keeps otherwise."""
    if stage.lora is not None or stage.reference == "keep":
        return None
    if num_trainers == 1 or gpus_per_trainer == 0:
        return None
    return Problem(
        "offload-spread",
        f"`offload` moves a whole model to each of {num_trainers} trainers' GPUs",
        "reference",
        help=f"reference: keep (each GPU holds 1/{num_trainers} of it), or `lora`",
    )
