"""The examples that a reward's file says it has: `gold` and `bad`, held to what they have to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.config.document import show_path
from posttrain.config.plugins import line_in
from posttrain.config.strict import StrictModel
from posttrain.errors import InputError, Problem
from posttrain.reward.protocol import Example


def examples_of(reward: Any, name: str, config: StrictModel) -> tuple[list[Example], list[Example]]:
    """(gold, bad). Raises InputError where one of them raises, or gives something else."""
    return _call(reward, name, "gold", config), _call(reward, name, "bad", config)


def _call(reward: Any, name: str, which: str, config: StrictModel) -> list[Example]:
    line = None
    try:
        examples = list(getattr(reward, which)(config))
    except (Exception, SystemExit) as error:  # boundary: a file of the user's own
        said = f"raises {type(error).__name__}: {error}"
        line = line_in(str(reward.__file__), error)
    else:
        strange = [each for each in examples if not _is_example(each)]
        if not strange:
            return examples
        said = f"gives {strange[0]!r:.60}, which is no Example(row, completion)"
    raise InputError(
        Problem(
            "plugin-contract",
            f"reward `{name}`: {which}() {said}",
            file=show_path(str(reward.__file__)),
            line=line,
            help=f'def {which}(config): return [Example({{"answer": "65"}}, "65")]',
        )
    )


def _is_example(each: object) -> bool:
    if not isinstance(each, Example):
        return False
    return isinstance(each.row, Mapping) and isinstance(each.completion, str)
