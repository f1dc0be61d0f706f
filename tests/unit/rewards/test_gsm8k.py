import pytest
from posttrain.rewards import gsm8k

from posttrain.errors import RewardBroken


def value(answer, completion):
    return gsm8k.score({"answer": answer}, completion, gsm8k.Config()).value


@pytest.mark.parametrize(
    ("truth", "completion", "expected"),
    [
        ("#### 1197", "So 1,200 - 3 = 1,197 dollars.", 1.0),
        ("#### -7", "the answer is -7.", 1.0),
        ("#### 3", "1,2,3", 1.0),
        ("#### 3", "8 = 5-3", 1.0),
        ("#### 18", "18.00", 1.0),
        ("#### 18", "18.01", 0.0),
        ("#### 1234567", "1,234,567", 1.0),
        ("#### 0.3", "0.30000000000000001", 0.0),  # equal as floats
        ("#### 5", "the answer is 5" + " and so on" * 100, 1.0),  # far from the end
        ("#### 1200", "it is 1,200" + "!" * 60, 1.0),
        ("#### 18", "18\n17", 0.0),
        ("#### 18", "", 0.0),
    ],
)
def test_the_last_number_counts(truth, completion, expected):
    assert value(truth, completion) == expected


@pytest.mark.parametrize("row", [{}, {"answer": None}, {"answer": 18}, {"answer": " "}])
def test_a_row_without_an_answer_is_broken(row):
    with pytest.raises(RewardBroken, match="answer"):
        gsm8k.score(row, "18", gsm8k.Config())
