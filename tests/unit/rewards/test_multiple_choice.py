import pytest
from posttrain.rewards import multiple_choice as reward
from reward_examples import failed_gold

from posttrain.errors import RewardBroken


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(B)", "B"),
        ("Answer: B", "B"),
        ("the answer is (b)", "B"),
        ("ANSWER:E", "E"),
        ("Correct Option: B", "B"),
        ("Thus, C is the correct answer", "C"),
        ("Answer: B) 20%", "B"),
        ("The answer is B. A train is fast.", "B"),
        ("P(A/B) = 0.2\nD", "D"),
        ("Not A. Maybe B. No, C!", "C"),
        ("Answer: A. Wait: the answer is D.", "D"),
        ("A or B", None),
        ("Answer: A, B", None),
        ("A B C D E", None),
        ("A) 1\nB) 2\nC) 3\nD) 4\nE) 5", None),
        ("A train leaves", None),
        ("", None),
    ],
)
def test_the_letter_chosen(text, letter):
    assert reward.chosen_letter(text, "ABCDE") == letter


def test_the_text_of_an_option_counts_where_no_letter_is_named():
    row = {"answer": "B", "options": ["A)100 m", "B)150 m"]}
    config = reward.Config()
    assert reward.score(row, "The answer is 150 m.", config).value == 1.0
    assert reward.score(row, "The answer is 100 m.", config).value == 0.0
    assert reward.score(row, "100 m 150 m", config).value == 0.0


def test_other_letters_and_columns():
    config = reward.Config(letters="ABCD", answer_column="correct")
    assert failed_gold(reward, config) == []
    assert reward.score({"correct": "D"}, "D", config).value == 1.0


@pytest.mark.parametrize("row", [{}, {"answer": None}, {"answer": "F"}, {"answer": "AB"}])
def test_a_row_without_a_letter_is_broken(row):
    with pytest.raises(RewardBroken):
        reward.score(row, "A", reward.Config())
