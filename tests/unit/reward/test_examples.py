"""A reward's file that says wrong things of its own examples, or ends the process that loads it."""

import pytest

from posttrain.config.plugins import load_plugin
from posttrain.errors import InputError, RewardBroken
from posttrain.reward.examples import examples_of
from posttrain.reward.protocol import Example, checked
from posttrain.types import Score

FILE = """
from posttrain.config.strict import StrictModel
from posttrain.reward.protocol import Example

class Config(StrictModel):
    pass

def score(row, completion, config):
    return 1.0

def gold(config):
    {gold}

def bad(config):
    return [Example({{}}, "no")]
"""


def examples(tmp_path, gold):
    file = tmp_path / "mine.py"
    file.write_text(FILE.format(gold=gold))
    module = load_plugin("reward", str(file))
    return examples_of(module, "./mine.py", module.Config())


def test_they_are_lists(tmp_path):
    found = examples(tmp_path, 'yield Example({}, "yes")')
    assert found == ([Example({}, "yes")], [Example({}, "no")])


@pytest.mark.parametrize(
    ("gold", "said", "line"),
    [
        ("pass", "gold() raises TypeError: 'NoneType' object is not iterable", None),
        ("return [({}, 'yes')]", "gold() gives ({}, 'yes'), which is no Example(row, comp", None),
        ("return [Example('row', 'yes')]", "which is no Example(row, completion)", None),
        ("return [Example({}, 5)]", "which is no Example(row, completion)", None),
        ("raise SystemExit", "gold() raises SystemExit: ", 12),
        ("return 1 / 0", "gold() raises ZeroDivisionError: division by zero", 12),
    ],
)
def test_what_is_none_is_said_with_its_place(tmp_path, gold, said, line):
    with pytest.raises(InputError) as raised:
        examples(tmp_path, gold)
    (problem,) = raised.value.problems
    assert (problem.code, problem.line) == ("plugin-contract", line)
    assert problem.file.endswith("mine.py") and said in problem.message


def test_a_file_that_ends_the_process_is_broken(tmp_path):
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(InputError) as raised:
        load_plugin("reward", str(tmp_path / "ends.py"))
    (problem,) = raised.value.problems
    assert (problem.code, problem.line) == ("plugin-broken", 2)


def test_passed_is_true_false_or_none():
    with pytest.raises(RewardBroken, match="`passed` is 'yes'"):
        checked(Score(1.0, passed="yes"))
    assert checked(Score(1.0, passed=None)).passed is None
