"""Which looks a plan needs before its first stage starts."""

from __future__ import annotations

from posttrain.config.answers import BestOfNStage, GenerateStage, OverOptimisationStage
from posttrain.config.average import AverageStage
from posttrain.config.data import DataSpec
from posttrain.config.keys import PLUGIN_KINDS, WITH_DATA
from posttrain.config.offline import PreferenceStage, RewardModelStage, SftStage
from posttrain.config.pipeline import ModelStage, OnlineRlStage
from posttrain.config.stage_base import StageBase
from posttrain.config.tasks import row_tasks, task_spec
from posttrain.pipeline.plan import PlannedStage, RunPlan
from posttrain.pipeline.results import asked_suites
from posttrain.stages.preflight import Origin, PreflightRequest

REWARD_KEYS = tuple(key for key, kind in PLUGIN_KINDS.items() if kind == "reward")


def preflight_requests(plan: RunPlan) -> list[PreflightRequest]:
    """One per stage that will run and has data, one per suite, one per reward."""
    requests: list[PreflightRequest] = []
    suites: dict[str, Origin] = {}
    for planned in plan.stages:
        origin = origin_of(plan, planned.stage)
        for name in asked_suites(plan, planned):
            if origin is not None:
                suites.setdefault(name, origin)
        if not planned.kept and isinstance(planned.stage, AverageStage):
            requests += _average_requests(plan, planned.name, planned.stage)
        if planned.kept or origin is None:
            continue
        if not any(part.stage for part in _parts(planned.stage)):  # else its rows are yet to come
            requests += _row_requests(plan, planned, origin)
        requests += _reward_requests(planned)
    return requests + _suite_requests(plan, suites)


def _row_requests(plan: RunPlan, planned: PlannedStage, origin: Origin) -> list[PreflightRequest]:
    requests: list[PreflightRequest] = []
    if isinstance(planned.stage, SftStage):
        stage = planned.stage
        requests.append(
            PreflightRequest(planned.name, "sft", origin, stage.data.model_dump(), stage.max_tokens)
        )
    if isinstance(planned.stage, RewardModelStage | PreferenceStage):
        pairs = planned.stage
        requests.append(
            PreflightRequest(
                planned.name,
                "pairs",
                origin,
                pairs.data.model_dump(),
                pairs.max_tokens,
                algorithm=planned.plugins["algorithm"],
                budget_tokens=pairs.batch.tokens_per_micro_batch,
            )
        )
    if isinstance(planned.stage, OnlineRlStage):
        rl = planned.stage
        requests.append(
            PreflightRequest(
                planned.name,
                "online_rl",
                origin,
                rl.data.model_dump(),
                rl.sampling.max_new_tokens,
                online=rl,
                places=plan.loaded.places,
            )
        )
    if isinstance(planned.stage, GenerateStage | OverOptimisationStage):
        asked = planned.stage
        if isinstance(asked, GenerateStage):
            max_tokens, reward = asked.sampling.max_new_tokens, asked.scored_by
        else:
            max_tokens, reward = asked.max_new_tokens, asked.gold
        data = asked.data.model_dump()
        requests.append(
            PreflightRequest(planned.name, "prompts", origin, data, max_tokens, reward=reward)
        )
    return requests


def _average_requests(plan: RunPlan, name: str, stage: AverageStage) -> list[PreflightRequest]:
    """Where the models descend from different ones: then they may be of different kinds."""
    origins: dict[Origin, str] = {}  # and the first stage of each
    for model in [*stage.merged, *([stage.pre] if stage.pre is not None else [])]:
        origin = origin_of(plan, plan[model].stage)
        if origin is not None:
            origins.setdefault(origin, model)
    if len(origins) < 2:
        return []
    averaged = tuple((model, origin) for origin, model in origins.items())
    return [PreflightRequest(name, "average", averaged=averaged, place=f"stages.{name}")]


def _reward_requests(planned: PlannedStage) -> list[PreflightRequest]:
    requests: list[PreflightRequest] = []
    for key in REWARD_KEYS:
        reward = getattr(planned.stage, key, None)
        if reward is not None:
            place = f"stages.{planned.name}.{key}"
            requests.append(PreflightRequest(planned.name, "reward", reward=reward, place=place))
    return requests


def _parts(stage: StageBase) -> list[DataSpec]:
    return list(stage.data.parts.values()) if isinstance(stage, WITH_DATA) else []


def _suite_requests(plan: RunPlan, origins: dict[str, Origin]) -> list[PreflightRequest]:
    requests = []
    for name, origin in origins.items():
        suite = plan.suites[name]
        place = f"(suite {name})"
        requests.append(
            PreflightRequest("", "suite", origin, suite=suite.model_dump(), place=place)
        )
        for task in row_tasks(suite):
            reward = task_spec(suite, task).reward
            if reward is not None:
                requests.append(PreflightRequest("", "reward", reward=reward, place=place))
    return requests


def origin_of(plan: RunPlan, stage: StageBase) -> Origin | None:
    """The `model` stage that a stage's model descends from; None where there is no single one."""
    while not isinstance(stage, ModelStage):
        if isinstance(stage, WITH_DATA):
            stage = plan[stage.model].stage
        elif isinstance(stage, BestOfNStage):
            stage = plan[stage.samples].stage
        elif isinstance(stage, AverageStage):
            stage = plan[stage.merged[0]].stage
        else:
            return None
    return Origin(stage.path, stage.from_scratch, stage.chat_template, stage.tiny)
