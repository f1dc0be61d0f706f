"""Whatever is done to a pipeline file, `check` answers with problems, never with a traceback."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.config.load import load_pipeline
from posttrain.errors import InputError, Problem
from posttrain.pipeline.check import check

VALUES = (
    "null", "[]", "{}", "3", "-1", "1e999", ".nan", "true", "${x}", "${", "[a, b]", "{a: 1}", "''",
    "*a", "&a 1", "!!int x", "a: b", "\t", "~", "/", "..", "rows.jsonl", "2026-01-01", "'a b'",
    "microworld/", "x/y/z.py", "\x00", "${stages}", "{settings: {a: 1}}", "{name: [1]}", "???",
)  # fmt: skip
KEYS = (
    "seed", "name", "cluster", "cluster.engine", "stages", "stages.x", "stages.sft.data",
    "stages.sft.data.columns.prompt", "stages.rlvr.algorithm", "stages.rlvr.batch",
    "stages.final.models", "suites.abilities.tasks.x.data",
)  # fmt: skip


def damaged(text: str, choose: random.Random) -> str:
    """The text with one character, value or line changed, removed or doubled."""
    kind = choose.randrange(4)
    if kind == 0:
        at = choose.randrange(len(text))
        return text[:at] + choose.choice("{}[]:,'\"\t \n-&*!|>%@`#?") + text[at + 1 :]
    if kind == 1:
        found = choose.choice(
            list(re.finditer(r"(?<=: )[^,{}\[\]\n]+|\{[^{}]*\}|\[[^\[\]]*\]", text))
        )
        return text[: found.start()] + choose.choice(VALUES) + text[found.end() :]
    lines = text.split("\n")
    at = choose.randrange(len(lines))
    if kind == 2:
        del lines[at]
    else:
        lines.insert(at, choose.choice(lines))
    return "\n".join(lines)


def problems_of(file: str, overrides: list[str]) -> list[Problem]:
    try:
        return list(check(load_pipeline(file, overrides)).problems)
    except InputError as error:
        return error.problems


@pytest.mark.parametrize("seed", range(120))
def test_damage_never_ends_in_a_traceback(write_pipeline: Callable[..., str], seed: int) -> None:
    choose = random.Random(seed)
    file = Path(write_pipeline())
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    text = file.read_text()
    for _ in range(choose.randint(1, 3)):
        text = damaged(text, choose)
    file.write_text(text)
    overrides = [f"{choose.choice(KEYS)}={choose.choice(VALUES)}"] if seed % 3 == 0 else []
    for problem in problems_of("mine.yaml", overrides):
        assert problem.code
        assert problem.message
        assert "\n" not in problem.message, problem.render()
