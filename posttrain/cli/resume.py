"""`posttrain resume`: go on with a run that was stopped, failed or killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from posttrain.cli.run import (
    RUNS_DIR,
    Address,
    Json,
    RunsDir,
    WaitForCluster,
    seconds_to_wait,
)
from posttrain.errors import InputError, Problem

if TYPE_CHECKING:
    from posttrain.config.load import LoadedPipeline
    from posttrain.pipeline.store import RunFolder
    from posttrain.pipeline.unfinished import Unfinished


def resume(
    run: Annotated[
        str | None, typer.Argument(help="Name of the run; the newest where not given.")
    ] = None,
    as_run: Annotated[
        bool, typer.Option("--as-run", help="With the configuration stored in the run folder.")
    ] = False,
    runs_dir: RunsDir = RUNS_DIR,
    address: Address = None,
    wait_for_cluster: WaitForCluster = None,
    json: Json = False,
) -> int:
    """Go on where a run stopped: finished stages are kept, an unfinished one goes on from its
    last whole checkpoint."""
    from posttrain.cli.execute import Execution, RunOptions
    from posttrain.config.load import load_pipeline
    from posttrain.pipeline.store import RunFolder
    from posttrain.track.run_view import find_run

    folder = RunFolder(find_run(runs_dir, run).directory)
    before = folder.read()
    stored = load_pipeline(str(folder.path / "pipeline.yaml"))
    loaded = stored
    as_run = as_run or bool(before.get("measures"))  # its file describes what it measures for
    if not as_run and Path(before["file"]).exists():
        loaded = load_pipeline(before["file"], before["overrides"])
        if before.get("smoke"):
            from posttrain.cli.smoke import cut_down

            loaded = cut_down(loaded, address)
        _refuse_changes(folder, loaded, before)
    print(*transcript(folder, before), sep="\n", file=sys.stderr, flush=True)
    options = RunOptions(
        runs_dir,
        folder.path.name,
        address,
        json,
        tuple(before["overrides"]),
        smoke=bool(before.get("smoke")),
        measures=bool(before.get("measures")),
        wait_for_cluster_s=seconds_to_wait(wait_for_cluster, address),
    )
    began = time.time()
    Execution(loaded, options).carry_out()
    if options.smoke:
        from posttrain.cli.smoke import conclusion

        print(*conclusion(before["file"], folder, began), sep="\n", file=sys.stderr)
    return 0


def transcript(folder: RunFolder, before: dict[str, Any]) -> list[str]:
    """How the run ended, what is kept, and where each unfinished online stage goes on."""
    from posttrain.pipeline.unfinished import unfinished_work
    from posttrain.track.formatting import long_duration

    ended = before.get("ended")
    at = f" at {time.strftime('%H:%M', time.localtime(ended))}" if ended else ""
    lines = [f"{before['name']} {_how_it_ended(before)}{at}"]
    folders = [folder.stage(stage["name"], stage["identity"]) for stage in before["stages"]]
    done = [stage for stage in folders if stage.is_done]
    if done:
        spent = sum((stage.manifest or {}).get("seconds") or 0.0 for stage in done)
        names = ", ".join(stage.stage for stage in done)
        lines.append(f" ✓ {names}   kept ({long_duration(spent)} of work)")
    for stage in folders:
        work = None if stage.is_done else unfinished_work(stage.path)
        if work is not None:
            steps = (stage.manifest or {}).get("steps")
            lines += unfinished_lines(stage.stage, work, steps)
    return lines


def unfinished_lines(name: str, work: Unfinished, steps: int | None) -> list[str]:
    """Where an online stage goes on, with every count that is not zero."""
    done, first = work.checkpoint_step, work.checkpoint_step + 1
    lines = [f" ↻ {name}   from {f'checkpoint {done} (whole)' if done else 'its start'}"]
    if work.next_step > done:
        one = work.next_step == first
        lines.append(
            f"   {f'step {first}' if one else f'steps {first}-{work.next_step}'} trained again "
            f"from {_count(work.rollouts_to_train_again)} stored rollouts; nothing is generated "
            "twice"
        )
    if work.finished or work.half_done:
        lines.append(
            f"   {_count(work.finished)} finished rollouts wait in the buffer; "
            f"{_count(work.half_done)} half-done ones go on from the "
            f"{_count(work.half_done_tokens)} tokens they have"
        )
    if steps:
        lines.append(f"   step {first}/{steps} comes next: same seeds and data order")
    return lines


def _count(number: int) -> str:
    """`38 210`"""
    return f"{number:,}".replace(",", " ")


def _how_it_ended(before: dict[str, Any]) -> str:
    words = {
        "running": "was killed",
        "stopped": "was stopped",
        "failed": "failed",
        "done": "is done",
    }
    return words.get(before["state"], f"ended with `{before['state']}`")


def _refuse_changes(folder: RunFolder, loaded: LoadedPipeline, before: dict[str, Any]) -> None:
    """Work must not silently be done again because a file was edited: of a stage that is done, or
    that has something to go on from.
    """
    from posttrain.pipeline.graph import build_graph
    from posttrain.pipeline.identity import explain_change
    from posttrain.pipeline.plan import make_plan

    if loaded.problems:
        return  # `run` reports them all
    graph = build_graph(loaded.draft, loaded.places, loaded.unreadable)
    if graph.problems:
        return
    plan = make_plan(loaded, graph, folder)
    stages = {
        each["name"]: folder.stage(each["name"], each["identity"]) for each in before["stages"]
    }
    changed = [
        (planned, stage)
        for planned in plan.stages
        if (stage := stages.get(planned.name)) is not None
        and planned.identity != stage.identity
        and (stage.is_done or _has_work(stage.path))
    ]
    if not changed:
        return
    planned, stage = changed[0]
    old = yaml.safe_load((stage.path / "config.yaml").read_text(encoding="utf-8"))
    what = explain_change(old, planned.config())
    way = "`resume --as-run` goes on with the stored config"
    if not what:
        what = "what it said, but a file that it names has another content"
        way = "with that file as it was, `resume` goes on"
    count = f"{len(changed)} stages" if len(changed) > 1 else "one stage"
    raise InputError(
        Problem(
            "config-changed",
            f"stage {planned.name} {'is done' if stage.is_done else 'is half done'}, and "
            f"{Path(before['file']).name} now says {what}",
            path="resume:",
            help=f"{way}; `run` does what has changed from its start ({count})",
        )
    )


def _has_work(folder: Path) -> bool:
    """Whether a stage that is not done has a checkpoint, models, answers or scores of its own."""
    from posttrain.checkpoint.folders import POINTER
    from posttrain.pipeline.removable import CHECKPOINTS

    made = ("model", "members", "reward_models", "shares", "soup.json")
    answered = ("dataset/samples/*.parquet", "asked/*/samples/*.parquet", "scored/*.json")
    return any(any(folder.glob(each)) for each in (f"{CHECKPOINTS}/**/{POINTER}", *made, *answered))
