"""`posttrain eval`: ask any models a suite's questions, side by side."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli.run import RUNS_DIR, Address, RunsDir
from posttrain.errors import InputError, Problem

if TYPE_CHECKING:
    from posttrain.config.suites import Suite
    from posttrain.stages.measure import Measurement


def eval(
    models: Annotated[list[str], typer.Argument(help="RUN/STAGE, or model folders.")],
    suite: Annotated[str, typer.Option("--suite", help="Name of a suite in --file.")] = "abilities",
    file: Annotated[
        str, typer.Option("--file", help="The pipeline file that describes the suite.")
    ] = "quickstart",
    prompts: Annotated[
        int | None, typer.Option("--prompts", min=1, help="Questions per task.")
    ] = None,
    runs_dir: RunsDir = RUNS_DIR,
    address: Address = None,
) -> int:
    """Ask every model the same questions; the first one is what the others are compared with."""
    from posttrain.cli.chat import model_folder
    from posttrain.cli.plan_only import plan_without_run

    plan = plan_without_run(file, [])
    if suite not in plan.suites:
        raise InputError(
            Problem(
                "unknown-suite", f"no suite `{suite}`", help=f"suites: {', '.join(plan.suites)}"
            )
        )
    asked = plan.suites[suite]
    if prompts is not None:
        asked = asked.model_copy(update={"prompts_per_task": prompts})
    folders = {name: model_folder(runs_dir, name) for name in models}
    measured = _measure(plan.loaded.cluster, address, folders, suite, asked)
    _print_table(asked, measured)
    path = _save(runs_dir, measured)
    print(f"saved: {path}", file=sys.stderr)
    return 0


def _measure(
    cluster: object, address: str | None, folders: Mapping[str, Path], name: str, suite: Suite
) -> dict[str, Measurement]:
    import tempfile

    from posttrain.cluster.environment import prepare_ray

    prepare_ray(address)  # before the first import of ray
    from posttrain.cluster.launcher import RayLauncher
    from posttrain.cluster.session import ClusterSession
    from posttrain.config.pipeline import Cluster, WandbSettings
    from posttrain.stages.measure import Evaluator

    assert isinstance(cluster, Cluster)
    quiet = WandbSettings(mode="disabled").model_dump()
    with (
        tempfile.TemporaryDirectory(prefix="posttrain-") as scratch,
        ClusterSession(cluster, address, Path(scratch)) as session,
    ):
        launcher = RayLauncher(session, Path(scratch), quiet)
        with closing(launcher), closing(Evaluator(launcher, cluster)) as evaluator:
            measured = {}
            for model, folder in folders.items():
                print(f"asking {model}", file=sys.stderr)
                measured[model] = evaluator.measure(str(folder), name, suite, "command-line")
            return measured


def _print_table(suite: Suite, measured: Mapping[str, Measurement]) -> None:
    from rich.console import Console
    from rich.table import Table

    from posttrain.config.tasks import suite_tasks
    from posttrain.stages.statistics import difference

    tasks = suite_tasks(suite)
    table = Table(box=None, pad_edge=False)
    for column in ("", *(task.rpartition("/")[2] for task in tasks)):
        table.add_column(column)
    first: Measurement | None = None
    for name, measurement in measured.items():
        cells = []
        for task in tasks:
            result = measurement.tasks[task]
            cell = _value(result.kind, result.interval)
            if first is not None and result.kind == "accuracy":
                change = difference(result.interval, first.tasks[task].interval)
                noise = change.low <= 0 <= change.high
                cell += " (no difference shown)" if noise else f" ({100 * change.value:+.0f})"
            cells.append(cell)
        table.add_row(name, *cells)
        first = first or measurement
    Console().print(table)
    for task in tasks:
        for name, measurement in measured.items():
            shares = measurement.tasks[task].details.items()
            if shares:
                told = "; ".join(f"{what} {100 * share:.0f} %" for what, share in shares)
                print(f"{task.rpartition('/')[2]}, {name}: {told}")
    print(f"{suite.prompts_per_task} prompts per task", file=sys.stderr)


def _value(kind: str, interval: object) -> str:
    from posttrain.types import Interval

    assert isinstance(interval, Interval)
    half = (interval.high - interval.low) / 2
    if kind == "perplexity":
        return f"{interval.value:.2f} ± {half:.2f}"
    return f"{100 * interval.value:.0f} % ± {100 * half:.0f}"


def _save(runs_dir: Path, measured: Mapping[str, Measurement]) -> Path:
    from posttrain.files import write_json

    directory = runs_dir / "evaluations"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    write_json(path, {name: measurement.to_json() for name, measurement in measured.items()})
    return path
