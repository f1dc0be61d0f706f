"""`posttrain submit`: hand a pipeline to a Ray cluster and log off; the run goes on there."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posttrain.cli.output import say
from posttrain.cli.run import RUNS_DIR, WaitForCluster, seconds_to_wait
from posttrain.errors import InputError, Problem

if TYPE_CHECKING:
    from posttrain.cluster.jobs import Jobs

SUBMITTED = "submitted"  # in the run folder: what was sent, by the digest of its content


def submit(
    file: Annotated[
        str | None, typer.Argument(help="A pipeline file, or the name of a shipped one.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Values to set: stages.rlvr.steps=20")
    ] = None,
    address: Annotated[
        str, typer.Option("--address", help="The cluster's Ray dashboard: http://HOST:8265")
    ] = "",
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the run folder; the file's name otherwise."),
    ] = None,
    runs_dir: Annotated[
        Path,
        typer.Option("--runs-dir", help="Folder of the run folders, as all nodes see it."),
    ] = RUNS_DIR,
    shared: Annotated[
        list[Path] | None,
        typer.Option("--shared", help="A folder that all nodes see too: not sent. Repeatable."),
    ] = None,
    wait_for_cluster: WaitForCluster = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", help="A variable to hand to the run, by its name. Repeatable."),
    ] = None,
    follow: Annotated[
        str | None, typer.Option("--follow", help="Show the log of a submitted run, by its id.")
    ] = None,
) -> int:
    """Check a pipeline here, then run it on a Ray cluster through the Jobs API.

    The files that it names travel along: plug-ins, data, models; posttrain itself has to be
    installed there. The submission id goes to stdout. Submitted again, a run goes on from what is
    whole. Exit code 0: it was taken, or, with --follow, the exit code of the run; 2: bad input,
    nothing was sent.
    """
    if not address:
        raise InputError(
            Problem("usage", "submit needs --address", help="--address http://HOST:8265")
        )
    if follow is not None:
        if file is not None:
            raise InputError(
                Problem("usage", "--follow takes no file", help="the id that submit printed")
            )
        return _follow(address, follow)
    if file is None:
        raise InputError(Problem("usage", "missing argument 'FILE'", help="posttrain submit -h"))
    seconds_to_wait(wait_for_cluster, address)  # a slip of the pen is told here
    environment = chosen_environment(env or [], os.environ)
    folders = [each.expanduser().absolute() for each in shared or []]
    runs = runs_dir.expanduser().absolute()
    with tempfile.TemporaryDirectory(prefix="posttrain-") as scratch:
        archive = Path(scratch) / "pipeline.zip"
        file_name, run = _pack(file, overrides or [], name, folders, archive)
        from posttrain.cluster.jobs import Jobs, job_command

        jobs = Jobs(address)
        say(f"sending {archive.stat().st_size / 1e6:.1f} MB to {jobs.url}")
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:12]
        place = runs / run / SUBMITTED / digest
        command = job_command(file_name, place, runs, run, wait_for_cluster)
        job = jobs.submit(command, archive, run, environment)
    print(job, flush=True)
    for line in what_next(job, jobs.url, runs / run, list(environment)):
        say(line)
    return 0


def _pack(
    file: str, overrides: Sequence[str], name: str | None, shared: Sequence[Path], archive: Path
) -> tuple[str, str]:
    """Check everything, write the archive; (the pipeline's file name in it, name of the run)."""
    from posttrain.config.load import load_pipeline
    from posttrain.config.own_files import gather, pack
    from posttrain.pipeline.check import check
    from posttrain.track.wandb_plan import without_secrets

    loaded = load_pipeline(file, overrides)
    check(loaded).raise_if_any()
    luggage = gather(loaded.raw, shared)
    if problems := written_secrets(luggage.raw, without_secrets(luggage.raw)):
        told = [(each, *loaded.places.of(each.path)) for each in problems]
        raise InputError([replace(each, file=file, line=line) for each, file, line in told])
    pack(luggage, loaded.file.name, loaded.places, archive)
    return loaded.file.name, name or loaded.pipeline.name


def chosen_environment(names: Sequence[str], present: Mapping[str, str]) -> dict[str, str]:
    """The variables that were asked for, and no others. Raises InputError for those not set."""
    help = "--env takes a name: export NAME=..., then --env NAME"
    missing = [
        Problem("usage", f"{each.partition('=')[0]} is not set here", path="--env", help=help)
        for each in names
        if each not in present
    ]
    if missing:
        raise InputError(missing)
    return {each: present[each] for each in names}


def written_secrets(value: Any, hidden: Any, key: str = "") -> list[Problem]:
    """One mistake per secret in a pipeline, which differs where `hidden` hides it: it would lie
    readable on the cluster.
    """
    if isinstance(value, Mapping):
        below = [(str(each), value[each], hidden[str(each)]) for each in value]
    elif isinstance(value, list):
        below = [(str(i), *each) for i, each in enumerate(zip(value, hidden, strict=True))]
    else:
        help = "name a variable in its place, set it on the nodes, or send it along: --env NAME"
        return [Problem("secret-in-file", "holds a secret", key, help=help)] * (value != hidden)
    return [
        problem
        for name, item, shown in below
        for problem in written_secrets(item, shown, f"{key}.{name}" if key else name)
    ]


def what_next(job: str, url: str, run: Path, sent: Sequence[str]) -> list[str]:
    """What a person may want to do now. `sent`: names of variables, whose values are not told."""
    lines = [
        f"  follow   posttrain submit --follow {job} --address {url}",
        f"  stop     ray job stop {job} --address {url}     it saves first; submit again to go on",
        f"  writes   {run}     posttrain status {run}",
    ]
    if sent:
        names = ", ".join(sent)
        lines.append(f"  sent     {names}: whoever may open the dashboard can read the value")
    return lines


def _follow(address: str, job: str) -> int:
    from posttrain.cluster.jobs import Jobs

    jobs: Jobs = Jobs(address)
    try:
        return jobs.follow(job, lambda text: print(text, end="", file=sys.stdout, flush=True))
    except KeyboardInterrupt:
        say(f"\n{job} goes on without you. Stop it: ray job stop {job} --address {jobs.url}")
        return 0
