"""`posttrain show`: rows as the model sees them, with the trained tokens marked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.errors import InputError, Problem

if TYPE_CHECKING:
    from posttrain.config.data import DataSpec
    from posttrain.pipeline.plan import RunPlan

TRAINED, GIVEN = "green", "dim"


def show(
    file: Annotated[str, typer.Argument(help="A pipeline file, or the name of a shipped one.")],
    stage: Annotated[str, typer.Argument(help="A stage with `data`: rows or prompts.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Values to set.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows.")] = 5,
    scores: Annotated[
        bool, typer.Option("--scores", help="The reward's own examples and what it gives them.")
    ] = False,
) -> int:
    """Print a stage's first rows, of a mixture those of each part: what is given is dim, what is
    trained is green and in [brackets] where colours are off."""
    from posttrain.cli.plan_only import plan_without_run
    from posttrain.config.keys import WITH_DATA
    from posttrain.config.pipeline import OnlineRlStage

    plan = plan_without_run(file, overrides or [])
    if stage not in plan.graph.needs:
        names = ", ".join(plan.graph.order)
        raise InputError(Problem("unknown-stage", f"no stage `{stage}`", help=f"stages: {names}"))
    planned = plan[stage]
    if not isinstance(planned.stage, WITH_DATA):
        what = f"stage {stage} has no rows of its own"
        raise InputError(Problem("no-rows", what, help="choose a stage with `data`"))
    if scores and isinstance(planned.stage, OnlineRlStage):
        _print_scores(planned.plugins["reward"])
        return 0
    _print_rows(plan, stage, planned.stage.data, rows)
    return 0


def _print_rows(plan: RunPlan, stage: str, planned: DataSpec, count: int) -> None:
    from posttrain.config.tasks import resolved
    from posttrain.model.chat import show_row
    from posttrain.prompts.comparisons import COLUMNS
    from posttrain.prompts.decontamination import TrainingRows

    data = resolved(planned, plan.suites)
    tokenizer = _tokenizer(plan, stage)
    seed = plan[stage].seed
    compares = "chosen" in getattr(plan[stage].stage, "needs", ())
    needs = COLUMNS if compares else ("prompt",)
    for name, part in data.parts.items():
        if part.stage is not None:
            print(f"{name}  made by stage {part.stage}: its folder's dataset/rows.jsonl")
            continue
        only = data.model_copy(update={"mix": {name: data.mix[name]}}) if data.mix else data
        for each in islice(TrainingRows(only, seed=seed, needs=needs), count):
            place = f"{name}  " if data.mix else ""
            place += f"{each.data.path}:{each.number}"
            if compares:
                _print_comparison(place, each.row, tokenizer)
                continue
            said = show_row(each.row, tokenizer)
            _print_row(place, [(token.text, token.trained) for token in said])


def _print_comparison(place: str, row: Mapping[str, Any], tokenizer: Any) -> None:
    """Both answers, a line each; or why there are none."""
    from posttrain.model.chat import show_row
    from posttrain.prompts.comparisons import comparison_of

    found = comparison_of(row)
    if isinstance(found, str):
        print(f"{place}  no comparison: {found}")
        return
    for side, text in (("chosen", found.chosen), ("rejected", found.rejected)):
        said = show_row({"prompt": found.prompt, "completion": text}, tokenizer)
        _print_row(f"{place} {side}", [(token.text, token.trained) for token in said])


def _print_row(place: str, tokens: list[tuple[str, bool]]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    text = Text(f"{place}  ", style="bold")
    trained = sum(is_trained for _, is_trained in tokens)
    for piece, is_trained in tokens:
        visible = piece.replace("\n", "⏎\n")
        if not console.color_system and is_trained:
            visible = f"[{visible}]"
        text.append(visible, style=TRAINED if is_trained else GIVEN)
    text.append(f"   {trained} of {len(tokens)} tokens trained", style=GIVEN)
    console.print(text, soft_wrap=True)


def _print_scores(reward: Any) -> None:
    from posttrain.config.plugin import RewardPlugin
    from posttrain.config.plugins import with_parts

    plugin = RewardPlugin(name=reward.name, settings=dict(reward.settings))
    for _, part, module, config in with_parts(plugin, reward.base_dir):
        _print_examples(part.name, module, config)


def _print_examples(name: str, module: Any, config: Any) -> None:
    from posttrain.reward.examples import examples_of
    from posttrain.reward.protocol import is_as_said, score_one

    gold, bad = examples_of(module, name, config)
    for examples, is_gold in ((gold, True), (bad, False)):
        should = "be 1" if is_gold else "be less than 1"
        for example in examples:
            value = score_one(module, example, config).value
            mark = "✓" if is_as_said(value, is_gold) else "✗"
            print(f"{mark} {name}: {example.completion!r} scores {value:g}, should {should}")


def _tokenizer(plan: RunPlan, stage: str) -> Any:
    """The tokenizer of the `model` stage that the stage's model descends from."""
    import tempfile
    import warnings

    warnings.filterwarnings("ignore")
    from posttrain.model.load import load_tokenizer
    from posttrain.pipeline.preflight import origin_of
    from posttrain.stages.preflight import tokenizer_folder

    with tempfile.TemporaryDirectory(prefix="posttrain-") as scratch:
        origin = origin_of(plan, plan[stage].stage)
        if origin is None:
            print(f"stage {stage} has no single model", file=sys.stderr)
            raise InputError(Problem("no-rows", f"stage {stage} has no single model"))
        return load_tokenizer(tokenizer_folder(origin, scratch))
