import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from posttrain.reward import answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So 1,200 - 3 = 1,197 dollars.", "1197"),
        ("the answer is -7.", "-7"),
        ("1,234,567", "1234567"),
        ("1,2,3", "3"),  # a list, not thousands
        ("5-3", "3"),  # a difference, not -3
        ("(5)-3", "3"),
        ("5 = -3", "-3"),
        ("It costs $18.50.", "18.50"),
        ("half is .5", ".5"),
        ("40%", "40"),
        ("12,3456", "3456"),
        ("no number", None),
        ("", None),
    ],
)
def test_last_number(text, expected):
    assert answers.last_number(text) == expected


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("18", "18.00", True),
        ("1,200", "$1200", True),
        ("18.", "18", True),
        ("40%", "40", True),
        ("-$7", "-7", True),
        ("0.1", "0.10000000000000001", False),  # equal as floats
        ("12345678901234567890", "12345678901234567891", False),  # likewise
        ("007", "7", True),
        ("7", "-7", False),
        ("seven", "seven", False),
        ("1 2", "12", False),
        ("nan", "nan", False),
        ("", "", False),
    ],
)
def test_same_number(first, second, same):
    assert answers.same_number(first, second) is same


@given(st.integers(), st.sampled_from(["", ".", ".0", ".00", " "]))
def test_a_number_is_found_and_recognised_however_it_is_written(number, tail):
    found = answers.last_number(f"so it is {number:,}{tail}")
    assert found is not None and answers.same_number(found, str(number))


@given(st.text())
@example("\u06f0")  # a digit to Unicode, not a number of ours
def test_any_text_is_survived(text):
    found = answers.last_number(text)
    assert found is None or answers.as_number(found) is not None


def test_after_marker():
    assert answers.after_marker("a\n#### 1,200 \nmore") == "1,200"
    assert answers.after_marker("#### 1 #### 2") == "2"
    assert answers.after_marker("no marker") is None
    assert answers.after_marker("The answer: 4", "answer:") == "4"
