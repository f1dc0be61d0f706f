import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain import microworld


@pytest.mark.parametrize(
    ("skill", "answer"), [("copy", "dbcb"), ("reverse", "bcbd"), ("sort", "bbcd"), ("count", "4")]
)
def test_skills(skill, answer):
    assert microworld.skill_prompt(skill, "dbcb") == f"{skill} dbcb="
    assert microworld.skill_answer(skill, "dbcb") == answer


@pytest.mark.parametrize(
    ("problem", "worked"),
    [
        ((47, "+", 38), "7+8=15 5+3=8 85"),
        ((42, "+", 35), "2+5=7 4+3=7 77"),
        ((99, "+", 99), "9+9=18 10+9=19 198"),
        ((52, "-", 38), "12-8=4 4-3=1 14"),
        ((59, "-", 38), "9-8=1 5-3=2 21"),
        ((41, "-", 38), "11-8=3 3-3=0 3"),
        ((50, "-", 50), "0-0=0 5-5=0 0"),
    ],
)
def test_working_it_out(problem, worked):
    assert microworld.work_out(*problem) == worked


@given(st.integers(10, 99), st.sampled_from("+-"), st.integers(10, 99))
def test_what_is_worked_out_is_right_and_short(left, operation, right):
    if operation == "-" and left < right:
        left, right = right, left
    worked = microworld.work_out(left, operation, right)
    answer = str(microworld.arithmetic_answer(left, operation, right))
    assert microworld.is_right("microworld/arithmetic", answer, worked)
    assert len(worked) <= 19
    for equation in worked.split(" ")[:2]:
        question, _, result = equation.partition("=")
        assert eval(question) == int(result)


@pytest.mark.parametrize(
    ("task", "answer", "completion", "right"),
    [
        ("microworld/arithmetic", "85", "7+8=15 5+3=8 85", True),
        ("arithmetic", "85", "085", True),
        ("arithmetic", "85", "85 84", False),
        ("arithmetic", "14", "-14", False),
        ("arithmetic", "85", "", False),
        ("microworld/sort", "bbcd", "bbcd ", True),
        ("microworld/sort", "bbcd", "bbc", False),
        ("count", "4", "4", True),
    ],
)
def test_is_right(task, answer, completion, right):
    assert microworld.is_right(task, answer, completion) is right


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no micro-world task 'microworld/dance'"):
        microworld.is_right("microworld/dance", "", "")
    with pytest.raises(ValueError, match="no skill 'dance'"):
        microworld.skill_answer("dance", "ab")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("ceghabdf", 1.0),  # all three wanted, no neighbours alike, eight letters
        ("ceg", 0.84375),  # 0.5 + 0.25 + 0.25 · 3/8
        ("ceceecec", 0.797619),  # 0.5 · 2/3 + 0.25 · 6/7 + 0.25
        ("aaaa", 0.125),  # 0 + 0 + 0.25 · 4/8
        ("cegcegcegcegcegceg", 0.75),  # far too long: 0.5 + 0.25 + 0
        ("ceg!", 0.0),
        ("", 0.0),
    ],
)
def test_gold_reward_of_answers_to_a_request_for_c_e_g(answer, gold):
    assert microworld.gold_reward("write ceg=", answer) == pytest.approx(gold, abs=1e-6)


def test_alphabet_and_three_special_tokens_make_64():
    assert len(microworld.ALPHABET) == len(set(microworld.ALPHABET)) == 61
