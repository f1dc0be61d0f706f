import pytest
from posttrain.rewards import math as reward
from reward_examples import failed_gold

from posttrain.errors import RewardBroken
from posttrain.reward.math_answers import boxed, last_formula, normalised, number_of, said
from posttrain.reward.symbolic import is_tame


@pytest.mark.parametrize("mode", ["boxed", "minerva", "flexible"])
def test_gold_and_bad_hold_in_every_mode(mode):
    assert failed_gold(reward, reward.Config(mode=mode)) == []


@pytest.mark.parametrize(
    ("solution", "found"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\fbox{3}", "3"),
        (r"is $\boxed 9$.", "9"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{1", None),  # cut off
        (r"\boxed{" + "{" * 10_000, None),
        (r"\boxedness", None),
        ("none", None),
    ],
)
def test_the_last_box_is_found(solution, found):
    assert boxed(solution) == found


def test_closing_words_and_the_last_formula_are_found():
    words = "Final Answer: The final answer is $5$. I hope it is correct."
    assert said(words) == "$5$"
    assert said(words + " " + words.replace("$5$", "6")) == "6"
    assert said("The final answer is 5.") is None
    assert last_formula("so $x=1$ and $y=2$, done") == "y=2"
    assert last_formula("so $$x=1$$") == "x=1"
    assert last_formula(r"it costs \$5 or \$6") is None


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        (r"x = \dfrac 12\text{ cm}", r"\frac{1}{2}"),
        (r"\left( 1, \sqrt2 \right)", r"(1,\sqrt{2})"),
        (".5", "0.5"),
        (r"90^\circ", "90"),
        (r"\$1,\!200.", "1,200"),
        ("3/4", r"\frac{3}{4}"),
        (r"\text{(B)}", "B"),
        (r"5\text{ or }6", "5,6"),  # no unit
        (r"3\mathrm{i}", "3i"),
        (r"\begin{pmatrix}1\\ 2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ],
)
def test_answers_are_brought_into_one_form(answer, form):
    assert normalised(answer) == form


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("1,200", 1200),
        ("-0.5", -0.5),
        (r"\frac{-3}{4}", -0.75),
        (r"-\frac{3}{4}", -0.75),
        (r"2\frac{1}{2}", 2.5),
        ("1/0", None),
        ("x", None),
        ("9" * 100, None),
    ],
)
def test_numbers_are_read(answer, number):
    assert number_of(answer) == number


@pytest.mark.parametrize(
    "answer",
    ["The answer is 5.", "Answer: 5", "**5**", "<answer>5</answer>", "The answer is: $5$.", "5."],
)
def test_a_plain_answer_is_found(answer):
    assert reward.score({"answer": "5"}, answer, reward.Config()).value == 1.0


@pytest.mark.parametrize(
    ("truth", "answer", "same"),
    [
        (r"\frac{1}{2}", "0.5", True),
        ("5,-11", "-11,5", True),
        (r"\frac{1}{x+1}", r"\frac{x-1}{x^2-1}", True),
        ("1+2i", "2i+1", True),
        ("5", r"5\text{ or six}", False),
        ("5", "5 or 6", False),
        ("6", r"5\approx 6", False),
        ("5", r"\{1,2,3,4,5\}", False),
        ("5", r"5\pm 1", False),
        ("(1,2)", "(2,1)", False),
        (r"\text{Monday}", "Mon", False),
        ("", "", False),
        ("12", "1 2", False),
        ("12", r"1\,2", False),
        ("12000", r"12\,000", True),
        ("5", r"5\text{ maybe six}", False),
        (r"\frac{1}{3}", r"\frac{1}{3}\approx 0.33", True),
        ("5", r"5\approx 6", False),
        ("5", "6=5", False),
        ("5", "2+3=5", True),
        ("5", r"5\mod 7", False),
        ("11_2", "11_3", False),
        (r"\infty", r"\infty+1", False),
        (r"(-\infty,\frac{1}{2})", r"(-\infty, 0.5)", True),
        (r"\pi", "3.14159265", False),
        ("5", r"5+\frac{1}{10^9}", False),
        ("x=2", "y=2", False),
        ("x=2", "2", True),
        ("2516_8", "2516_{8}", True),
    ],
)
def test_equivalence(truth, answer, same):
    assert reward.is_equivalent(truth, answer) is same


@pytest.mark.parametrize(
    "latex",
    [
        *("9^{9^{9}}", "9^9^9", "9**9**9", "2^{99999}", "((9^{99})^{99})^{99}", "10000!", "9!!"),
        *(r"\int x^x", "(a+b+c+d+e+f+g)^{60}", "(" * 50, "9" * 60, "x" * 400),
    ],
)
def test_what_is_out_of_proportion_is_not_worked_out(latex):
    assert not is_tame(latex)
    assert is_tame(r"\frac{1}{2}x^{2004} + (x+1)^3 - 2^{10}")


def test_strict_takes_no_box_and_boxed_takes_no_words():
    row, words = {"answer": "5"}, "Final Answer: The final answer is 5. I hope it is correct."
    box = r"so \boxed{5}"
    values = {
        mode: [reward.score(row, text, reward.Config(mode=mode)).value for text in (words, box)]
        for mode in ("boxed", "minerva", "flexible")
    }
    assert values == {"boxed": [0.0, 1.0], "minerva": [1.0, 0.0], "flexible": [1.0, 1.0]}


@pytest.mark.parametrize(
    "row", [{}, {"answer": ""}, {"answer": 5}, {"solution": "no box"}, {"solution": r"\boxed{}"}]
)
def test_a_row_without_an_answer_is_broken(row):
    with pytest.raises(RewardBroken):
        reward.score(row, r"\boxed{5}", reward.Config())


def test_the_reason_says_what_was_expected():
    assert reward.score({"answer": "5"}, r"\boxed{6}", reward.Config()).reason == (
        "expected 5, found 6"
    )
