"""`posttrain explain`: what an error means and how it is cured."""

from __future__ import annotations

import shutil
import textwrap
from typing import Annotated

import typer

from posttrain.cli.explanations import EXAMPLES, EXPLANATIONS
from posttrain.config.suggest import did_you_mean
from posttrain.errors import InputError, Problem


def explain(
    name: Annotated[
        str | None, typer.Argument(help="The word in brackets: error[NAME]. Without it, all names.")
    ] = None,
) -> int:
    """Say what an error means and how it is cured."""
    if name is None:
        print("\n".join(EXPLANATIONS))
        return 0
    name = name.removeprefix("error[").removeprefix("warning[").removesuffix("]")
    if name not in EXPLANATIONS:
        help = did_you_mean(name, EXPLANATIONS)
        raise InputError(Problem("usage", f"no error is called `{name}`", help=help))
    width = min(88, shutil.get_terminal_size().columns)
    print(f"{name}\n\n{textwrap.fill(' '.join(EXPLANATIONS[name].split()), width)}")
    if name in EXAMPLES:
        print(f"\n{textwrap.indent(EXAMPLES[name].rstrip(), '    ')}")
    return 0
