import pytest
from posttrain.rewards import knights_knaves as reward

from posttrain.errors import RewardBroken

ROW = {"names": ["Ann", "Anna", "Bo Lee"], "solution": [True, False, True]}


@pytest.mark.parametrize(
    ("completion", "value", "reason"),
    [
        ("Ann is a knight, Anna is a knave, and Bo Lee is a knight.", 1.0, ""),
        ("Ann and Bo Lee are knights. Anna is not a knight.", 1.0, ""),
        ("- ann: Knight\n- anna: Knave\n- bo lee: Knight", 1.0, ""),
        ("Suppose Anna is a knight. No: Ann: knight, Anna: knave, Bo Lee: knight", 1.0, ""),
        (
            "Ann is a knight and Anna is a knave.",
            0.0,
            "expected Ann knight, Anna knave, Bo Lee knight, found Ann knight, Anna knave",
        ),
        (
            "<answer>Ann is a knight. Ann is a knave.</answer>",
            0.0,
            "expected one role each, found both for Ann",
        ),
        ("", 0.0, "expected Ann knight, Anna knave, Bo Lee knight, found nothing"),
    ],
)
def test_everybody_needs_the_right_role(completion, value, reason):
    score = reward.score(ROW, completion, reward.Config())
    assert (score.value, score.reason) == (value, reason)


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"names": ["A"]},
        {"names": ["A"], "solution": [1]},
        {"names": [], "solution": []},
        {"names": ["A", "A"], "solution": [True, True]},
        {"names": "A", "solution": [True]},
    ],
)
def test_a_row_without_roles_is_broken(row):
    with pytest.raises(RewardBroken):
        reward.score(row, "A is a knight", reward.Config())
