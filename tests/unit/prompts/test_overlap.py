"""Overlap of questions and texts, in numbers worked by hand and against the definition."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.prompts import overlap
from posttrain.prompts.microworld import DEFAULT_COUNTS, generate
from posttrain.prompts.overlap import QuestionIndex, tokens

SIXTEEN = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"]


def share(question, text):
    """Of a question that overlaps; 0 where it does not."""
    found = QuestionIndex({"task": [question]}).overlaps(text)
    return found["task"].share if found else 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SIXTEEN[:9], 9 / 16),  # 0.5625 is more than half
        (SIXTEEN[:8], 0),  # 8 / 16 is half: not more
        (SIXTEEN[:7], 0),  # no run of eight
        ([*SIXTEEN[8:], "x", *SIXTEEN[:8]], 1.0),  # two halves, apart and the other way round
        (["x", *SIXTEEN, "y"], 1.0),
        ([*SIXTEEN[:7], "x", *SIXTEEN[7:]], 9 / 16),
    ],
)
def test_worked_examples(text, expected):
    assert share(" ".join(SIXTEEN), " ".join(text)) == expected


def test_the_share_is_of_the_question_not_of_the_text():
    # 9 of 12 tokens, in a text of 109
    assert share(" ".join(SIXTEEN[:12]), " ".join([*SIXTEEN[:9], *["x"] * 100])) == 0.75
    # 9 of 18: half
    assert share(" ".join([*SIXTEEN, "q", "r"]), " ".join(SIXTEEN[:9])) == 0


def test_a_run_that_occurs_twice_marks_both_places():
    run = SIXTEEN[:8]
    question = [*run, "x", *run, "y"]  # 18 tokens, 16 in the run
    assert share(" ".join(question), " ".join(run)) == 16 / 18


@pytest.mark.parametrize(
    ("question", "text", "expected"),
    [
        ("What is the capital of France?", "Tell me: WHAT is the capital of france", 1.0),
        ("What is the capital of France?", "What is the capital of Spain?", 0),
        ("What is the capital", "What is the capital of France?", 1.0),
        ("Hello, you there!", "hello you there", 1.0),  # three tokens: the same text
        ("Hello, you there!", "Hello you there, how are you?", 0),
        ("12+34=", "12 + 34 =", 1.0),
        ("12+34=", "12+345=", 0),
        ("12+34=", "12-34=", 0),
        ("12+34=", "112+34=", 0),
        ("12\u221234=", "12-34", 1.0),
        ("!?", "!?", 0),  # no token: nothing to compare
        ("", "", 0),
    ],
)
def test_short_questions_are_contained_token_by_token(question, text, expected):
    assert share(question, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't STOP -- me_now!", ["don", "t", "stop", "me", "now"]),
        ("7 × 8 = 56, 9÷3", ["7", "*", "8", "=", "56", "9", "/", "3"]),
        ("x-y, 5 -", ["x", "y", "5"]),
        ("Straße ﬁne ÉTÉ", ["strasse", "fine", "été"]),
        ("你好 world", ["你", "好", "world"]),
        ("1,197.50", ["1", "197", "50"]),
    ],
)
def test_tokens(text, expected):
    assert tokens(text) == expected


def test_tasks_are_told_apart_and_the_worst_question_is_named():
    twelve = " ".join(SIXTEEN[:12])
    index = QuestionIndex({"a": ["x y z", " ".join(SIXTEEN), twelve], "b": [twelve], "c": ["q"]})
    found = index.overlaps(" ".join(SIXTEEN[:11]))
    assert {task: (each.question, each.share) for task, each in found.items()} == {
        "a": (twelve, 11 / 12), "b": (twelve, 11 / 12),
    }  # fmt: skip
    assert index.counts == {"a": 3, "b": 1, "c": 1}


@pytest.mark.parametrize("name", sorted(DEFAULT_COUNTS))
def test_splits_of_the_micro_world_do_not_overlap(name):
    index = QuestionIndex({"task": [row["prompt"] for row in generate(name, "test", 0)]})
    train = [row["prompt"] for row in generate(name, "train", 3, 3000)]
    assert not any(index.overlaps(prompt) for prompt in train)
    assert all(index.overlaps(row["prompt"]) for row in generate(name, "test", 0, 50))


def by_definition(question, text):
    """Whether they overlap, and how much: slowly."""
    asked, given_ = question.split(), text.split()
    if len(asked) < 4:
        return float(bool(asked) and asked == given_)
    if len(asked) < 8:
        size = len(asked)
        return float(any(given_[i : i + size] == asked for i in range(len(given_))))
    runs = [given_[i : i + 8] for i in range(len(given_) - 7)]
    matched = [False] * len(asked)
    for start in range(len(asked) - 7):
        if asked[start : start + 8] in runs:
            matched[start : start + 8] = [True] * 8
    return sum(matched) / len(asked)


TEXTS = st.lists(
    st.lists(
        st.sampled_from(["abcdefgh", "abcdefghi", "efghabcd", "a", "b", "hab"]), max_size=6
    ).map(lambda pieces: " ".join("".join(pieces))),
    max_size=8,
)


@given(questions=TEXTS, texts=TEXTS, common=st.integers(0, 3))
@settings(max_examples=300)
def test_an_index_finds_what_the_definition_says(questions, texts, common):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "COMMON", common)  # a short cut that must change nothing
        index = QuestionIndex({"task": questions})
    for text in texts:
        expected = max((by_definition(question, text) for question in questions), default=0.0)
        found = index.overlaps(text)
        assert (found["task"].share if found else 0.0) == (expected if expected > 0.5 else 0.0)
