"""A pipeline cut down to two steps of every stage, as `posttrain run --smoke` runs it.

What may only get smaller stands in AT_MOST, what is always the same in ALWAYS; both hold dotted
keys of a stage and are applied where the stage has the key. Everything else stays as the file has
it: algorithms, rewards, templates, staleness, gates and the graph. Cutting twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from posttrain.config.answers import BestOfNStage, GenerateStage
from posttrain.config.average import AverageStage
from posttrain.config.critic import POLICY, is_folder
from posttrain.config.data import DataSpec
from posttrain.config.keys import PLUGIN_KINDS, WITH_DATA
from posttrain.config.load import LoadedPipeline, with_values
from posttrain.config.offline import RewardModelStage
from posttrain.config.pipeline import Cluster, EngineSettings, ModelStage, Pipeline
from posttrain.config.plugin import Plugin, with_each_block
from posttrain.config.stage_base import StageBase
from posttrain.config.suites import Suite
from posttrain.config.tasks import row_tasks, task_spec

STEPS = 2
SUFFIX = "-smoke"
PLACE = "--smoke"
"""What stands in the place of a file name for the values that are set here."""

AT_MOST: Mapping[str, int] = {
    "batch.rows": 4,
    "batch.prompts": 2,
    "batch.samples_per_prompt": 2,
    "batch.optimiser_steps": 2,
    "batch.epochs": 2,
    "heldout.prompts": 2,
    "holdout_rows": 4,
    "max_refill_batches": 1,
    "sampling.max_new_tokens": 16,
    "max_new_tokens": 16,
    "samples_per_prompt": 4,
    "prompts": 8,
    "augment.variants": 2,
    "lora.rank": 4,
    "samples.take": 8,
    "samples.keep_best": 4,
    "reward.processes": 1,
    "watch.processes": 1,
    "scored_by.processes": 1,
    "gold.processes": 1,
    "suite.prompts_per_task": 4,
}
"""Limits of a stage's numbers, by dotted key."""

ALWAYS: Mapping[str, Any] = {
    "steps": STEPS,
    "epochs": None,
    "checkpoint_every": 1,
    "logprob_check_every": 1,
    "heldout.every": 1,
    "early_stopping.every": 1,
    "resources.engines": None,
    "resources.trainers": None,
}
"""What is the same in every stage that has the key: whatever happens every so often, happens."""

SETTINGS_AT_MOST: Mapping[str, int] = {"critic_warmup_steps": 1}
"""Limits of an algorithm's own settings: the policy has to learn in one of the two steps."""

ROWS = 256  # read of each data set: some may be too long, or left out for other reasons
ROWS_ASKED = 8  # of a `generate` stage: each of its rows is asked
MEMBERS = 2  # of an ensemble; more where a reward asks for more
SHARES = 2  # of a sweep, the first and the last
TASK_PROMPTS, TASK_TOKENS, TASK_ROWS = 4, 16, 64
CACHE_MB = 256
RUNNING = 16

Path = tuple[str, ...]


def smoke_name(name: str) -> str:
    """`quickstart-smoke`: a run folder of its own, so that results of real runs stay as they are.

    Example: smoke_name("quickstart-smoke") is "quickstart-smoke".
    """
    return name if name.endswith(SUFFIX) else name + SUFFIX


def smoke(loaded: LoadedPipeline, num_gpus: int) -> LoadedPipeline:
    """The pipeline cut down for a machine with so many GPUs. Raises InputError where it has errors.

    What the command line sets is cut down like what the file says.
    """
    return with_values(loaded, smoke_values(loaded.pipeline, loaded.cluster, num_gpus), PLACE)


def smoke_values(pipeline: Pipeline, cluster: Cluster, num_gpus: int) -> dict[Path, Any]:
    """Every value that has to be another one, by the keys that lead to it."""
    values: dict[Path, Any] = {("name",): smoke_name(pipeline.name)}
    small = smoke_cluster(cluster, num_gpus)
    values[("cluster",)] = small.model_dump()
    if pipeline.wandb.mode in ("auto", "online"):  # nobody wants to see these among real runs
        values[("wandb", "mode")] = "offline"
    for name, suite in pipeline.suites.items():
        values |= {("suites", name, *key): value for key, value in _of_suite(suite)}
    for name, stage in pipeline.stages.items():
        for key, value in _of_stage(name, stage, pipeline):
            values[("stages", name, *key)] = value
    return values


def smoke_cluster(cluster: Cluster, num_gpus: int) -> Cluster:
    """One engine and one trainer: on a GPU each where the cluster has GPUs and there are enough
    here, else on the CPU in fp32.
    """
    gpus = {key: min(1, getattr(cluster, key)) for key in ("gpus_per_engine", "gpus_per_trainer")}
    running = min(RUNNING, cluster.engine.max_running)
    if 0 < sum(gpus.values()) <= num_gpus:
        engine = cluster.engine.model_copy(update={"max_running": running})
        return cluster.model_copy(update={"engines": 1, "trainers": 1, "engine": engine} | gpus)
    on_cpu = EngineSettings(
        kv_cache_mb=CACHE_MB, block_size=cluster.engine.block_size, max_running=running
    )
    return Cluster(cpus=cluster.cpus, engine=on_cpu)


def _of_stage(name: str, stage: StageBase, pipeline: Pipeline) -> Iterator[tuple[Path, Any]]:
    for dotted, most in AT_MOST.items():
        now = _given(stage, dotted)
        if isinstance(now, int) and now > most:
            yield tuple(dotted.split(".")), most
    for dotted, value in ALWAYS.items():
        holder, _, key = dotted.rpartition(".")
        block = _given(stage, holder) if holder else stage
        if hasattr(block, key) and getattr(block, key) != value:
            yield tuple(dotted.split(".")), value
    if isinstance(stage, WITH_DATA):
        yield from first_rows(stage.data, ROWS_ASKED if isinstance(stage, GenerateStage) else ROWS)
    if isinstance(stage, RewardModelStage):
        wanted = max(MEMBERS, members_wanted(name, pipeline))
        if stage.members > wanted:
            yield ("members",), wanted
    if isinstance(stage, ModelStage) and stage.path and "tiny" not in stage.model_fields_set:
        yield ("tiny",), True
    if isinstance(stage, GenerateStage) and stage.select.name == "best_worst":
        yield from _of_pairs(stage)
    if isinstance(stage, BestOfNStage) and stage.n and stage.n[-1] > AT_MOST["samples_per_prompt"]:
        yield ("n",), [each for each in stage.n if each <= AT_MOST["samples_per_prompt"]]
    if isinstance(stage, AverageStage):
        yield from _of_average(stage)
    yield from _of_algorithm(getattr(stage, "algorithm", None))


def _given(stage: StageBase, dotted: str) -> Any:
    """The value at a dotted key; None where the stage has no such key, or an average says nothing
    of its samples: then it may not, because its method looks at none.
    """
    here: Any = stage
    if dotted.startswith("samples.") and "samples" not in stage.model_fields_set:
        return None
    for key in dotted.split("."):
        here = getattr(here, key, None)
    return here


def first_rows(data: DataSpec, most: int) -> Iterator[tuple[Path, int]]:
    """Of a stage's data set, or of each part of its mixture, at most so many rows."""
    parts: dict[Path, DataSpec] = {("mix", name): part for name, part in data.mix.items()}
    for keys, part in (parts or {(): data}).items():
        if part.take is None or part.take > most:
            yield ("data", *keys, "take"), most


def _of_pairs(stage: GenerateStage) -> Iterator[tuple[Path, Any]]:
    """Answers of a model that has learnt nothing are all wrong: of equal ones the longer wins, so
    that there are pairs for later stages to learn from.
    """
    if stage.select.settings.get("min_margin", 0):
        yield ("select", "min_margin"), 0
    scored = stage.scored_by
    if scored is None or "by_length" in scored.settings.get("parts", {}):
        return
    own = {key: getattr(scored, key) for key in ("timeout_s", "process_memory_mb")}
    length = {"name": "length", "low": 1000, "high": 1000, "unit": "characters"}
    parts = {
        "scored_by": {"reward": {"name": scored.name, "settings": dict(scored.settings)}},
        "by_length": {"reward": length, "weight": 0.001},
    }
    yield ("scored_by",), {"name": "weighted", "parts": parts} | own


def _of_average(stage: AverageStage) -> Iterator[tuple[Path, Any]]:
    if stage.is_sweep and len(stage.shares) > SHARES:
        yield ("weight_pre",), [stage.shares[0], stage.shares[-1]]
    if stage.method.name == "adamerging":
        yield ("method", "steps"), STEPS
    if stage.method.settings.get("epochs", 1) > 1:
        yield ("method", "epochs"), 1


def _of_algorithm(algorithm: Plugin | None) -> Iterator[tuple[Path, Any]]:
    settings = algorithm.settings if algorithm is not None else {}
    for key, most in SETTINGS_AT_MOST.items():
        if settings.get(key, 0) > most:
            yield ("algorithm", key), most
    critic = settings.get("critic")
    if isinstance(critic, str) and is_folder(critic):  # as large as the real policy
        yield ("algorithm", "critic"), POLICY


def _of_suite(suite: Suite) -> Iterator[tuple[Path, Any]]:
    if suite.prompts_per_task > TASK_PROMPTS:
        yield ("prompts_per_task",), TASK_PROMPTS
    for task in row_tasks(suite):
        spec = task_spec(suite, task)
        small = {
            "data": spec.data.model_dump() | {"take": min(spec.data.take or TASK_ROWS, TASK_ROWS)},
            "reward": spec.reward.model_dump() if spec.reward else None,
            "max_new_tokens": min(spec.max_new_tokens, TASK_TOKENS),
        }
        yield ("tasks", task), small


def members_wanted(ensemble: str, pipeline: Pipeline) -> int:
    """The most members of an ensemble that any reward of the pipeline asks for by number."""
    asked = [0]

    def look(block: dict[str, Any]) -> dict[str, Any]:
        if block.get("ensemble") == ensemble:
            asked.append(block.get("members") or 0)
        return block

    for stage in pipeline.stages.values():
        for key in PLUGIN_KINDS:
            plugin = getattr(stage, key, None)
            if isinstance(plugin, Plugin):
                with_each_block(plugin.settings, look)
    return max(asked)
