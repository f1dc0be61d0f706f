"""`posttrain schema`: the JSON schema of pipeline files. Hidden; for editors and for docs/."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.output import say


def schema(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("pipeline.schema.json"),
) -> int:
    """Write the JSON schema of pipeline files."""
    from posttrain.config.schema import write_schema

    write_schema(file)
    say(f"wrote {file}")
    return 0
