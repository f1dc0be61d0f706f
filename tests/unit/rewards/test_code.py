import gzip
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from posttrain.config.plugins import load_plugin
from posttrain.errors import RewardBroken
from posttrain.reward.code_answers import completed, program
from posttrain.reward.sandbox import launchers
from posttrain.types import Score

DATA = Path(os.environ.get("POSTTRAIN_DATA", "../shared/data"))
needs_sandbox = pytest.mark.skipif(not launchers(), reason="no sandbox works here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(): 1", "def f(): 1"),
        ("So:\n```python\ndef f(): 1\n```\n", "def f(): 1\n"),
        ("```\ndef f(): 1\n```\nor\n```python\ndef f(): 2\n```", "def f(): 2\n"),
        ("```python\ndef f(): 1\n```\n```python\nf()\n```", "def f(): 1\n"),  # a use of it follows
        ("```python\ndef f(): 1\n```\n```bash\npip\n```", "def f(): 1\n"),
        ("```python\ndef f(): 1\n```\n```python\ndef f(): 2", "def f(): 1\n"),  # cut short
        ("<think>\n```python\ndef f(): 1\n```\n</think>\n```py\ndef f(): 2\n```", "def f(): 2\n"),
        ("<think>\n```python\ndef f(): 1\n```\n", ""),  # never came to an end
    ],
)
def test_the_program_of_an_answer(text, expected):
    assert program(text, "f") == expected


PROMPT = 'def g(): 0\n\n\ndef f(x):\n    """Twice x."""\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("    return 2 * x", "    return 2 * x"),
        ("    return 2 * x\n\nprint(f(1))\n", "    return 2 * x\n"),  # a base model goes on
        ("    return h(x)\n\ndef h(x):\n    return 2 * x\n", None),
        ("    return 2 * x\n\ndef h(x:\n    ret", "    return 2 * x\n"),
        ("    return 2 * x\n\nThat is twice.", "    return 2 * x\n"),
        ("    return (\n        x\n    )\n", None),
        ("```python\nreturn 2 * x\n```", "    return 2 * x\n"),
        ("```python\n    return 2 * x\n```", None),
    ],
)
def test_what_goes_on_where_the_prompt_ends(text, expected):
    whole = completed(PROMPT, text, "f")
    body = expected if expected is not None else program(text)
    assert whole.rstrip() == (PROMPT + body).rstrip()


def test_a_whole_function_gets_the_prompts_other_ones():
    space = {}
    exec(completed(PROMPT, "```python\ndef f(x):\n    return g, 3 * x\n```", "f"), space)
    assert space["f"](2) == (space["g"], 6)


@needs_sandbox
def test_a_fraction_is_the_share_of_tests_that_pass():
    code = load_plugin("reward", "code")
    row = {"test_list": ["assert f(0) == 0", "assert f(2) == 4", "assert f(3) == 9"]}
    config = code.Config(form="fraction", run_timeout_s=20.0)
    expected = Score(2 / 3, False, {"tests_passed": 2 / 3}, "assert f(3) == 9")
    assert code.score(row, "def f(x): return 2 * x", config) == expected
    assert code.score(row, "def f(x): return 2 * x", code.Config(run_timeout_s=20.0)).value == 0.0


@needs_sandbox
def test_programs_are_judged_by_what_they_print():
    code = load_plugin("reward", "code")
    row = {"inputs": ["1\n", "2\n"], "outputs": ["1", "4  \n\n"]}
    config = code.Config(run_timeout_s=20.0)
    assert code.score(row, "print(int(input()) ** 2)", config).value == 1.0
    score = code.score(row, "x = int(input())\nprint(1 // (2 - x))", config)
    assert score.parts == {"tests_passed": 0.5}
    assert score.reason == "input 2: expected '4  \\n\\n', got ZeroDivisionError: " + (
        "integer division or modulo by zero"
    )


@pytest.mark.parametrize("row", [{}, {"test_list": []}, {"inputs": [], "outputs": []}])
def test_a_row_without_tests_is_refused(row):
    code = load_plugin("reward", "code")
    with pytest.raises(RewardBroken):
        code.score(row, "x = 1", code.Config())


def rows_of(name):
    return [json.loads(line) for line in gzip.open(DATA / name, "rt", encoding="utf-8")]


def answered():
    """(row, its data set's own solution) of HumanEval and MBPP."""
    for row in rows_of("humaneval/test.jsonl.gz"):
        yield row, row["canonical_solution"]
    for split in ("prompt", "train", "dev", "test"):
        for row in rows_of(f"mbpp/{split}.jsonl.gz"):
            yield row, f"```python\n{row['code']}\n```"


@needs_sandbox
@pytest.mark.skipif(not (DATA / "mbpp").is_dir(), reason="no shared data here")
def test_solutions_of_real_rows_score_1():
    code = load_plugin("reward", "code")
    # One, mbpp-123, computes for seven seconds on its own: more than the default allows.
    config = code.Config(run_timeout_s=60.0)
    # They need a function of the prompt, a class of the answer, a module.
    special = {"HumanEval/38", "HumanEval/50"}
    special |= {"mbpp-367", "mbpp-533", "mbpp-596", "mbpp-601", "mbpp-927"}
    every = os.environ.get("POSTTRAIN_EVERY_ROW")  # minutes
    rows = [
        (row, answer)
        for n, (row, answer) in enumerate(answered())
        if every or n % 9 == 0 or row["_id"] in special
    ]
    with ThreadPoolExecutor(2) as threads:
        scores = list(threads.map(lambda each: code.score(*each, config), rows))
    failed = [
        (row["_id"], score.reason)
        for (row, _), score in zip(rows, scores, strict=True)
        if score.value != 1.0
    ]
    assert failed == []
