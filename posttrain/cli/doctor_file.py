"""Whether a pipeline file fits the machine, for `posttrain doctor FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.config.load import LoadedPipeline, load_pipeline
from posttrain.doctor.finding import Finding
from posttrain.doctor.storage import Space, runs_finding
from posttrain.errors import InputError

if TYPE_CHECKING:
    from posttrain.pipeline.graph import Graph


def wandb_mode(file: str | None) -> str:
    """What the file says under `wandb.mode`; `auto` without a file that can be read."""
    try:
        return load_pipeline(file).draft.wandb.mode if file is not None else "auto"
    except InputError:
        return "auto"  # `file_findings` says what is wrong


def file_findings(file: str, runs_dir: Path, runs: Space, num_gpus: int) -> list[Finding]:
    """Its mistakes, as `check` finds them; without any, whether there is room and enough GPUs."""
    from posttrain.pipeline.check import check

    try:
        loaded = load_pipeline(file)
        report = check(loaded)
        errors = [each for each in report.problems if each.severity == "error"]
    except InputError as error:
        errors = error.problems
    if errors:
        number = f"{len(errors)} error{'' if len(errors) == 1 else 's'}"
        text = f"{number}, the first {errors[0].place}: {errors[0].message}".replace(" :", ":")
        return [Finding("file", "act", text, f"posttrain check {file}")]
    return [
        Finding("file", "ok", f"{file}: {len(loaded.pipeline.stages)} stages, no mistakes"),
        *_disk(file, loaded, report.graph, runs_dir, runs),
        gpu_finding(file, gpus_wanted(loaded), num_gpus),
    ]


def _disk(
    file: str, loaded: LoadedPipeline, graph: Graph, runs_dir: Path, runs: Space
) -> list[Finding]:
    from posttrain.pipeline.disk import needed_bytes
    from posttrain.pipeline.plan import make_plan
    from posttrain.pipeline.store import RunFolder

    plan = make_plan(loaded, graph, RunFolder(runs_dir / loaded.pipeline.name))
    found = runs_finding(runs, needed_bytes(plan), file)
    return [found] if found.verdict == "act" else []


def gpus_wanted(loaded: LoadedPipeline) -> int:
    """GPUs that the largest stage holds at once."""
    from posttrain.pipeline.room import held

    stages = loaded.pipeline.stages.values()
    return max((held(s, loaded.cluster, loaded.base_dir).all.gpus for s in stages), default=0)


def gpu_finding(file: str, wanted: int, here: int) -> Finding:
    """A stage that wants more than there are would wait for ever."""
    if wanted <= here:
        told = f"wants {wanted} of {here}" if here else "wants none"
        return Finding("GPUs", "ok", f"{file} {told}")
    text = f"{file} wants {wanted}, this machine has {here}"
    return Finding("GPUs", "act", text, f"posttrain run {file} --address HOST:PORT")
