"""`posttrain new`: a pipeline file of one's own, from a shipped one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import say
from posttrain.errors import InputError, Problem

SCHEMA_FILE = "pipeline.schema.json"


def new(
    name: Annotated[str, typer.Argument(help="Name of the pipeline; NAME.yaml is written.")],
    source: Annotated[
        str, typer.Option("--from", help="The shipped pipeline to start from.")
    ] = "quickstart",
    force: Annotated[bool, typer.Option(help="Write over a file that is there.")] = False,
) -> int:
    """Write NAME.yaml here, a shipped pipeline under a new name, comments and all.

    Beside it goes pipeline.schema.json, from which editors know every key and what it means.
    """
    from posttrain.config.load import find_pipeline
    from posttrain.config.schema import write_schema

    stem = name.removesuffix(".yaml").removesuffix(".yml")
    target = Path(f"{stem}.yaml")
    if not re.match(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", stem):
        message = f"`{name}` is no name: letters, digits, `_`, `-` and `.`"
        raise InputError(Problem("bad-name", message, help="posttrain new mine --from gsm8k"))
    if target.exists() and not force:
        help = "choose another name, or --force writes over it"
        raise InputError(Problem("file-exists", "is there already", file=str(target), help=help))
    text = find_pipeline(source).read_text(encoding="utf-8")
    target.write_text(renamed(text, stem), encoding="utf-8")
    write_schema(Path(SCHEMA_FILE))
    say(f"wrote {target} and {SCHEMA_FILE} (for your editor)")
    say(f"next   posttrain check {target}    then    posttrain run {target}")
    return 0


def renamed(text: str, name: str) -> str:
    """A pipeline's text under another name, pointing editors to the schema beside it."""
    text = re.sub(r"(?m)^name:.*$", f"name: {name}", text, count=1)
    return re.sub(r"\$schema=\S+", f"$schema={SCHEMA_FILE}", text, count=1)
