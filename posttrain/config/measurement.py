"""A pipeline that measures another one: a few steps of its online stages, at their full size.

    blank -> base -> sft -> rlvr        measures rlvr with the models of blank, base and sft; of
         2 steps each    6 steps        these, stages that are done give their own

What decides speeds stays: model, cluster, batch, answer limit, staleness, reward. Stages before an
online one only have to make a model of the right size: two steps, unless they are done already.
Nothing is asked, no gate is looked at, nothing is checkpointed on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from posttrain.config.answers import GenerateStage
from posttrain.config.average import AverageStage
from posttrain.config.keys import WITH_DATA
from posttrain.config.load import LoadedPipeline, with_values
from posttrain.config.offline import OfflineStage
from posttrain.config.pipeline import OnlineRlStage
from posttrain.config.smoke import first_rows
from posttrain.config.stage_base import StageBase

STEPS = 6  # the first one warms up, and is left out
SUFFIX = "-measure"
PLACE = "--measure"
"""What stands in the place of a file name for the values that are set here."""

ROWS = 256
BATCHES = 8  # at least so many steps' worth of prompts
ASKED = 8  # rows of a `generate` stage

Path = tuple[str, ...]


def measure_name(name: str) -> str:
    """`quickstart-measure`: the run folder that `plan --measure` fills and `plan` looks into."""
    return name + SUFFIX


def measurement(
    loaded: LoadedPipeline, needs: Mapping[str, Sequence[str]], done: Mapping[str, str], seed: int
) -> LoadedPipeline:
    """The pipeline to run. `needs` are the inputs of each stage, `done` the model folders of stages
    that need no training; another `seed` measures anew. Raises InputError where it has errors.
    """
    stages = loaded.pipeline.stages
    kept = needed_stages(
        [name for name, each in stages.items() if isinstance(each, OnlineRlStage)], needs, done
    )
    raw = loaded.raw["stages"]
    small = {name: _without_extras(raw[name], stages[name]) for name in stages if name in kept}
    small |= {name: {"kind": "model", "path": done[name]} for name in small if name in done}
    values: dict[Path, Any] = {("name",): measure_name(loaded.pipeline.name)}
    values[("stages",)] = small
    values[("wandb", "mode")] = "disabled"
    for name in loaded.pipeline.suites:  # they may be named by `decontaminate`
        values[("suites", name, "when")] = "only_final"
        values[("suites", name, "tax_since")] = None
    for name in small:
        if name not in done:
            of_stage = _values(stages[name], seed)
            values |= {("stages", name, *key): value for key, value in of_stage.items()}
    return with_values(loaded, values, PLACE)


def needed_stages(
    names: Collection[str], needs: Mapping[str, Sequence[str]], done: Collection[str]
) -> set[str]:
    """These stages and all that they are made from; what comes before a done one is not needed."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += [] if name in done else needs[name]
    return found


def _without_extras(raw: Mapping[str, Any], stage: StageBase) -> dict[str, Any]:
    """An average takes its first share: choosing among several would ask questions."""
    choosing = ("suite", "recommend", "greedy") if isinstance(stage, AverageStage) else ()
    return {key: value for key, value in raw.items() if key not in choosing}


def _values(stage: StageBase, seed: int) -> dict[Path, Any]:
    values: dict[Path, Any] = {("gates",): []}
    if isinstance(stage, OnlineRlStage):
        values |= {("steps",): STEPS, ("checkpoint_every",): STEPS + 1, ("seed",): seed}
        values |= {("heldout",): None}
        values |= {("stop_at_kl",): None, ("stop_at_members_std",): None}
        rows = max(ROWS, BATCHES * stage.batch.prompts)
    elif isinstance(stage, OfflineStage):
        values |= {("steps",): 2, ("epochs",): None}
        if "early_stopping" in type(stage).model_fields:
            values[("early_stopping",)] = None
        rows = max(ROWS, BATCHES * stage.batch.rows)  # type: ignore[attr-defined]
    else:
        rows = ASKED
    if isinstance(stage, GenerateStage):
        values[("samples_per_prompt",)] = min(4, stage.samples_per_prompt)
    if isinstance(stage, AverageStage) and stage.is_sweep:
        values[("weight_pre",)] = stage.shares[0]
    if isinstance(stage, WITH_DATA):
        values |= first_rows(stage.data, rows)
    return values
