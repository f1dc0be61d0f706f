"""Whether stages that make sets of answers, and those that read them, fit together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.config.answers import BestOfNStage, GenerateStage
from posttrain.config.data import DataSpec
from posttrain.config.load import LoadedPipeline
from posttrain.config.plugins import load_plugin
from posttrain.config.stage_base import StageBase
from posttrain.errors import InputError, Problem
from posttrain.prompts.faults import OF_COMPARISONS
from posttrain.stages.step_limits import placed


def check_answers(name: str, stage: StageBase, loaded: LoadedPipeline) -> list[Problem]:
    """Problems of a `generate` or a `best_of_n` stage; of any other kind there are none."""
    found: list[Problem | None] = []
    if isinstance(stage, GenerateStage):
        found = [_unscored(name, stage, loaded)]
    elif isinstance(stage, BestOfNStage):
        found = [_pool_too_small(name, stage, loaded)]
    return [placed(problem, loaded.places) for problem in found if problem is not None]


def _unscored(name: str, stage: GenerateStage, loaded: LoadedPipeline) -> Problem | None:
    """A selection by scores needs some."""
    needs = getattr(_selection(stage, loaded), "NEEDS_SCORES", False)
    if stage.scored_by is not None or not needs:
        return None
    return Problem(
        "missing-key",
        f"`{stage.select.name}` chooses by score, and nothing scores the answers",
        f"stages.{name}.select",
        help="scored_by: REWARD, or {ensemble: STAGE, combine: uwo}",
    )


def _pool_too_small(name: str, stage: BestOfNStage, loaded: LoadedPipeline) -> Problem | None:
    pool = loaded.draft.stages.get(stage.samples)
    if not isinstance(pool, GenerateStage) or not stage.n or stage.n[-1] <= pool.samples_per_prompt:
        return None
    return Problem(
        "pool-too-small",
        f"best of {stage.n[-1]}, but `{stage.samples}` draws {pool.samples_per_prompt} answers per "
        "prompt",
        f"stages.{name}.n",
        help=f"n: up to {pool.samples_per_prompt}, or samples_per_prompt: {stage.n[-1]} there",
    )


def check_rows_of_stages(
    name: str, data: DataSpec, needs: Sequence[str], loaded: LoadedPipeline
) -> list[Problem]:
    """Whether the selections of the stages whose rows are read give the columns that are needed."""
    parts = {f"data.mix.{part}": each for part, each in data.mix.items()} or {"data": data}
    problems = []
    for key, part in parts.items():
        source = loaded.draft.stages.get(part.stage or "")
        module = _selection(source, loaded) if isinstance(source, GenerateStage) else None
        if module is None or gives(module.COLUMNS, needs):
            continue
        problem = Problem(
            "missing-column",
            f"rows of `{part.stage}` have prompt, {', '.join(module.COLUMNS)}; needs "
            f"{', '.join(needs)}",
            f"stages.{name}.{key}.stage",
            help=f"another `select` there: {'best_worst' if _wants_pairs(needs) else 'best'}",
        )
        problems.append(placed(problem, loaded.places))
    return problems


def gives(columns: Sequence[str], needs: Sequence[str]) -> bool:
    """Whether rows with a prompt and these columns are enough; of a pair the chosen answer is a
    completion.
    """
    there = {"prompt", *columns, *(["completion"] if set(OF_COMPARISONS) <= set(columns) else [])}
    return there.issuperset(needs)


def _wants_pairs(needs: Sequence[str]) -> bool:
    return set(OF_COMPARISONS) <= set(needs)


def _selection(stage: GenerateStage, loaded: LoadedPipeline) -> Any:
    try:
        return load_plugin("selection", stage.select.name, loaded.base_dir)
    except InputError:
        return None  # reported with the plug-in
