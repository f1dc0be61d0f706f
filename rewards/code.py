"""Code judged by tests: 1 where all of them pass, else 0 (or the share that does).

Rows as HumanEval has them (Chen et al. 2021, arXiv 2107.03374: `prompt`, `entry_point`, `test`), as
MBPP has them (Austin et al. 2021, arXiv 2108.07732: `test_list`, `test_setup_code`), or programs
that read standard input (`inputs`, `outputs`). The answer is its last closed ```python block that
defines what is asked for, or all of it; HumanEval's may go on where the prompt ends.

Answers run in a sandbox, tests in another (`posttrain.reward.sandbox.judge`). No answer can say how
its tests went, or see them. Where there is no sandbox the reward refuses to run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from posttrain.config.strict import StrictModel
from posttrain.errors import RewardBroken
from posttrain.reward.code_answers import completed, program
from posttrain.reward.protocol import Example
from posttrain.reward.sandbox import Limits, run_python
from posttrain.reward.sandbox.judge import Verdict, judge
from posttrain.reward.sandbox.tests import Tests, with_asserts, with_check
from posttrain.types import Score


class Config(StrictModel):
    """What programs may use, and what passing some of the tests is worth."""

    run_timeout_s: float = Field(default=3.0, gt=0)
    """Seconds for one answer's tests together; stay seconds below the stage's `reward.timeout_s`,
    which takes an answer that is slower for one that could not be judged."""
    memory_mb: int = Field(default=512, ge=64)
    """Memory that each process of an answer may have, in MiB."""
    form: Literal["all", "fraction"] = "all"
    """`all` gives 1 where every test passes and else 0, `fraction` the share of tests that pass."""
    allow_unsandboxed: bool = False
    """Run answers without a sandbox where none works, with the rights of the run itself."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """Raises RewardBroken for a row without tests that run, NoSandbox where nothing may run."""
    limits = Limits(wall_s=config.run_timeout_s, memory_mb=config.memory_mb)
    if "inputs" in row:
        verdict = _by_output(row, program(completion), limits, config.allow_unsandboxed)
    else:
        solution, tests = _judged(row, completion)
        verdict = judge(solution, tests, limits=limits, allow_unsandboxed=config.allow_unsandboxed)
    passed = verdict.num_passed == verdict.num_tests
    value = verdict.share if config.form == "fraction" else float(passed)
    return Score(value, passed, {"tests_passed": verdict.share}, verdict.reason)


def _judged(row: Mapping[str, Any], completion: str) -> tuple[str, Tests]:
    if "entry_point" in row:
        prompt, name = row["prompt"], row["entry_point"]
        if not isinstance(prompt, str):
            raise RewardBroken("the row's `prompt` is not code", help="HumanEval's is: keep it so")
        return completed(prompt, completion, name), with_check(prompt, name, row["test"])
    if not row.get("test_list"):
        raise RewardBroken("the row has neither `test`, `test_list` nor `inputs`")
    tests = with_asserts(row.get("test_setup_code") or "", row["test_list"])
    return program(completion, tests.names[-1]), tests


def _by_output(
    row: Mapping[str, Any], solution: str, limits: Limits, allow_unsandboxed: bool
) -> Verdict:
    cases = list(zip(row["inputs"], row["outputs"], strict=True))
    if not cases:
        raise RewardBroken("the row's `inputs` are empty")
    deadline = time.monotonic() + limits.wall_s
    passed, reason = 0, ""
    for number, (given, expected) in enumerate(cases, start=1):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            reason = reason or "out of time"
            break
        used = Limits(wall_s=left_s, memory_mb=limits.memory_mb)
        outcome = run_python(
            solution, stdin=given, limits=used, allow_unsandboxed=allow_unsandboxed
        )
        if outcome.exit_code == 0 and _lines(outcome.stdout) == _lines(expected):
            passed += 1
        elif not reason:
            error = "".join(outcome.stderr.strip().splitlines()[-1:])
            told = outcome.killed_by or error or repr(outcome.stdout[:60])
            reason = f"input {number}: expected {expected[:60]!r}, got {told}"
    return Verdict(passed, len(cases), reason)


def _lines(text: str) -> list[str]:
    """Spaces at the ends of lines and empty lines at the end mean nothing."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


_DOUBLE = {"test_list": ["assert double(2) == 4", "assert double(-3) == -6"], "test_setup_code": ""}
_NEXT = {
    "prompt": 'from typing import List\n\n\ndef last(xs: List[int]) -> int:\n    """The last."""\n',
    "entry_point": "last",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 2\n    assert last([7]) == 7\n",
}
_SUM = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7"]}


def gold(config: Config) -> Sequence[Example]:
    return [
        Example(_DOUBLE, "def double(x):\n    return 2 * x"),
        Example(
            _DOUBLE,
            "<think>x + x?</think>So:\n```python\ndef double(x):\n    return x + x\n```\n"
            "Use it like this:\n```python\nprint(double(4))\n```",
        ),
        Example(_NEXT, "    return xs[-1]\n\nprint(last([]))"),
        Example(_NEXT, "```python\ndef last(xs: List[int]) -> int:\n    return xs[-1]\n```"),
        Example(_SUM, "```python\nprint(sum(map(int, input().split())))\n```"),
    ]


def bad(config: Config) -> Sequence[Example]:
    return [Example(_DOUBLE, trick) for trick in _TRICKS] + [
        Example(_NEXT, "    return xs[0]"),
        Example(_SUM, "```python\nprint(3)\n```"),
    ]


_TRICKS = [
    "def double(x):\n    return 4",
    "I would rather not.",
    "import os\nos._exit(0)",
    "import sys\nprint('judged 2 0')\nsys.exit(0)",
    "class Same:\n    __eq__ = lambda *_: True\ndef double(x):\n    return Same()",
    "class Same(int):\n    __eq__ = lambda *_: True\ndef double(x):\n    return Same()",
    "import builtins\nbuiltins.AssertionError = ZeroDivisionError\ndef double(x):\n    return None",
    "def double(x):\n    raise SystemExit(0)",
]
