from fractions import Fraction

import pytest
from posttrain.rewards import countdown, game24

from posttrain.errors import RewardBroken
from posttrain.reward.expressions import find_expression, work_out


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("(7 - 3) * 6", 24, (7, 3, 6)),
        ("8 / (3 - 8 / 3)", 24, (8, 3, 8, 3)),  # 8 / (1/3)
        ("1/3", Fraction(1, 3), (1, 3)),
        ("-2 + 5", 3, (2, 5)),
    ],
)
def test_expressions_are_worked_out_exactly(text, value, numbers):
    assert work_out(text) == (value, numbers)


@pytest.mark.parametrize(
    "text",
    [
        *("", "9**9**9", "7 // 2", "1 / 0", "2(3)", "1.5 + 1", "(1", "__import__('os')", "007 + 1"),
        *("(" * 10_000 + "1" + ")" * 10_000, "-" * 200 + "1", "1+" * 100_000 + "1", "1,2"),
        "\u0663+1",  # an Arabic 3
    ],
)
def test_anything_else_is_none(text):
    assert work_out(text) is None


@pytest.mark.parametrize(
    ("completion", "expression"),
    [
        ("<answer>44 + 19</answer> 1 + 1", "44 + 19"),
        ("<answer>44 + 19 = 63</answer>", "44 + 19"),
        ("<answer>44 + 19, 1 + 1</answer>", None),  # which of them?
        ("1 + 2 = 3\nso 44 + (19 + 35) = 44 + 54 = 98.", "44 + (19 + 35)"),
        ("98 = 44 + 54", "44 + 54"),
        (r"$3 \times 4 \div 2 = 6$", "3 * 4 / 2"),
        ("3 x 4", "3*4"),
        ("no sum, 98", None),
        ("", None),
    ],
)
def test_the_expression_meant_is_found(completion, expression):
    assert find_expression(completion) == expression


def test_a_wrong_answer_says_why():
    row, config = {"nums": [44, 19, 35], "target": 98}, countdown.Config()
    reasons = {
        text: countdown.score(row, text, config).reason
        for text in ("", "44 + 54", "44 + 19 - 35", "44 + 19 + 35 / 0")
    }
    assert reasons == {
        "": "expected an expression that makes 98, found none",
        "44 + 54": "expected the numbers 44, 19, 35, found 44, 54",
        "44 + 19 - 35": "expected 98, found 28",
        "44 + 19 + 35 / 0": "44 + 19 + 35 / 0 cannot be worked out",
    }


@pytest.mark.parametrize(
    "row", [{}, {"nums": [1], "target": "1"}, {"nums": "1 2", "target": 3}, {"nums": []}]
)
def test_countdown_refuses_rows_without_numbers(row):
    with pytest.raises(RewardBroken):
        countdown.score(row, "1 + 2", countdown.Config())


def test_game24_refuses_rows_without_numbers():
    with pytest.raises(RewardBroken, match="no column `numbers`"):
        game24.score({"nums": [1]}, "24", game24.Config())
