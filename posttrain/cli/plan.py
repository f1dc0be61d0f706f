"""`posttrain plan`: what a run would do, how fast, and what would make it faster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.cli.output import SCHEMA, print_problems
from posttrain.cli.run import RUNS_DIR, Address, RunsDir

if TYPE_CHECKING:
    from posttrain.pipeline.forecast import StageForecast
    from posttrain.pipeline.plan import PlannedStage, RunPlan
    from posttrain.pipeline.store import RunFolder

MAX_WIDTH = 120


def plan(
    file: Annotated[str, typer.Argument(help="A pipeline file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Values to set: stages.rlvr.steps=20")
    ] = None,
    engines: Annotated[
        int | None, typer.Option(min=1, help="Plan for so many engines per online stage.")
    ] = None,
    trainers: Annotated[
        int | None, typer.Option(min=1, help="Plan for so many trainers per online stage.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the run folder; the file's name otherwise."),
    ] = None,
    runs_dir: RunsDir = RUNS_DIR,
    json_output: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="First run a few steps of each online stage, to know speeds."
        ),
    ] = False,
    address: Address = None,
) -> int:
    """Say what a run would do and why, and how fast its online stages would be.

    The coordinator of the real run is simulated on a virtual clock; figures come from an earlier
    run in the run folder where there is one, or from `--measure`, which starts engines and
    trainers as the file has them. Exit code 2: something in the file is wrong; with `--measure`
    also those of `run`.
    """
    from posttrain.config.load import load_pipeline
    from posttrain.pipeline.check import check
    from posttrain.pipeline.forecast import forecast_stage
    from posttrain.pipeline.plan import make_plan
    from posttrain.pipeline.store import RunFolder

    loaded = load_pipeline(file, overrides or [])
    report = check(loaded)
    report.raise_if_any()
    folder = RunFolder(runs_dir / (name or loaded.pipeline.name))
    run_plan = make_plan(loaded, report.graph, folder)
    if measure:
        from posttrain.cli.measure import run_measurement

        run_measurement(run_plan, folder, address)
    forecasts = {
        stage.name: forecast_stage(
            loaded,
            stage.name,
            report.plugins[stage.name]["algorithm"],
            folder.path,
            engines=engines,
            trainers=trainers,
        )
        for stage in run_plan.stages
        if stage.kind == "online_rl"
    }
    times = {stage.name: _time_of(stage, folder, forecasts) for stage in run_plan.stages}
    if json_output:
        _print_json(run_plan, times, forecasts)
        return 0
    print_problems(report.warnings)
    width = min(MAX_WIDTH, shutil.get_terminal_size((80, 24)).columns)
    for line in _lines(run_plan, report.notes, times, forecasts, width):
        print(line)
    return 0


def _time_of(
    stage: PlannedStage, folder: RunFolder, forecasts: Mapping[str, StageForecast]
) -> tuple[float | None, str]:
    """(seconds, where they come from: kept, forecast, last time, or nothing known)."""
    if stage.kept:
        return 0.0, "kept"
    if stage.name in forecasts:
        return forecasts[stage.name].seconds, "forecast"
    before = folder.newest_done(stage.name)
    seconds = (before.manifest or {}).get("seconds") if before else None
    return (float(seconds), "last time") if seconds is not None else (None, "")


def _lines(
    plan: RunPlan,
    notes: tuple[str, ...],
    times: Mapping[str, tuple[float | None, str]],
    forecasts: Mapping[str, StageForecast],
    width: int,
) -> list[str]:
    from posttrain.pipeline.forecast_text import labelled, stage_lines
    from posttrain.track.graph_line import graph_lines

    lines = [_headline(plan, times)]
    lines += [f"  {line}" for line in graph_lines(plan.graph.needs, width=width - 2)]
    lines += _stage_table(plan, notes, times, forecasts, width)
    for forecast in forecasts.values():
        lines += stage_lines(forecast, width)
    if not forecasts:
        lines += labelled("advice", "no online_rl stage, so there is nothing to simulate.", width)
    return lines


def _headline(plan: RunPlan, times: Mapping[str, tuple[float | None, str]]) -> str:
    from posttrain.track.formatting import long_duration

    kept = sum(stage.kept for stage in plan.stages)
    pipeline = plan.loaded.pipeline
    line = f"{pipeline.name}: {len(plan.stages) - kept} stages to do, {kept} kept"
    known = sum(seconds for seconds, _ in times.values() if seconds is not None)
    unknown = [name for name, (seconds, _) in times.items() if seconds is None]
    if known and not unknown:
        return f"{line}; about {long_duration(known)}"
    return line


def _stage_table(
    plan: RunPlan,
    notes: tuple[str, ...],
    times: Mapping[str, tuple[float | None, str]],
    forecasts: Mapping[str, StageForecast],
    width: int,
) -> list[str]:
    from posttrain.track.formatting import duration, printable

    work = dict(note.split(": ", 1) for note in notes)
    work |= {name: f"{each.stage.steps} steps (below)" for name, each in forecasts.items()}
    whys = [stage.why for stage in plan.stages]
    names = max(len("stage"), *(len(stage.name) for stage in plan.stages))
    longest_why = 28 if width < 100 else 44
    why_width = min(max(len("why"), *(len(why) for why in whys)), longest_why)
    lines = [f" {'stage':<{names}}  {'why':<{why_width}}  {'time':>7}  work"]
    for stage in plan.stages:
        seconds, source = times[stage.name]
        time = "-" if source == "kept" else duration(seconds) if seconds is not None else "?"
        why = printable(stage.why, why_width)
        line = f" {stage.name:<{names}}  {why:<{why_width}}  {time:>7}  {work.get(stage.name, '')}"
        lines += _hanging(line.rstrip(), names + why_width + 15, width)
    return lines


def _hanging(line: str, indent: int, width: int) -> list[str]:
    """A table row whose last column goes on below itself."""
    import textwrap

    if len(line) <= width:
        return [line]
    head, tail = line[:indent], line[indent - 1 :].strip()
    rows = textwrap.wrap(tail, max(20, width - indent + 1))
    return [head[: indent - 1] + rows[0], *(" " * (indent - 1) + row for row in rows[1:])]


def _print_json(
    plan: RunPlan,
    times: Mapping[str, tuple[float | None, str]],
    forecasts: Mapping[str, StageForecast],
) -> None:
    stages: list[dict[str, Any]] = []
    for stage in plan.stages:
        seconds, source = times[stage.name]
        entry: dict[str, Any] = {
            "name": stage.name,
            "kind": stage.kind,
            "identity": stage.identity,
            "needs": list(stage.needs),
            "why": stage.why,
            "seconds": seconds,
            "seconds_from": source,
        }
        forecast = forecasts.get(stage.name)
        if forecast is not None:
            entry["forecast"] = _forecast_json(forecast)
        stages.append(entry)
    document = {"schema": SCHEMA, "name": plan.loaded.pipeline.name, "stages": stages}
    print(json.dumps(document, ensure_ascii=False, indent=1))


def _forecast_json(forecast: StageForecast) -> dict[str, Any]:
    document = asdict(forecast)
    del document["stage"]
    return document | {"seconds": forecast.seconds}
