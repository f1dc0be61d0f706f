import itertools
import time
from collections import Counter

import pytest

from posttrain import microworld
from posttrain.errors import InputError
from posttrain.prompts.microworld import DEFAULT_COUNTS, generate


def rows(name, split="train", seed=0, count=200, **settings):
    return list(generate(f"microworld/{name}", split, seed, count, **settings))


def test_first_rows_of_every_source_stay_what_they_are():
    """Other rows under the same seed are another data set: then raise GENERATOR_VERSION."""
    assert microworld.GENERATOR_VERSION == 1
    first = {}
    for name in DEFAULT_COUNTS:
        row = next(generate(name, "train", 0, 1))
        others = [row[key] for key in ("completion", "answer", "chosen", "rejected") if key in row]
        first[name.removeprefix("microworld/")] = " ".join([row["prompt"], *others])
    assert first == {
        "skills": "sort gea= aeg aeg",
        "arithmetic_worked": "sort 6326= 2366 2366",
        "arithmetic": "81+79= 160",
        "preferences": "write ah= hachf efabag",
        "requests": "write edgh=",
        "requests_answered": "write ecgd= gcad",
        "copy": "copy fhg= fhg",
        "reverse": "reverse 556= 655",
        "sort": "sort hee= eeh",
        "count": "count egadh= 5",
    }


@pytest.mark.parametrize("name", DEFAULT_COUNTS)
def test_same_arguments_same_rows_and_fewer_are_a_prefix(name):
    once = list(generate(name, "train", 7, 50))
    assert once == list(generate(name, "train", 7, 50))
    assert once[:20] == list(generate(name, "train", 7, 20))
    assert once != list(generate(name, "train", 8, 50))


def test_train_and_test_never_share_a_prompt_across_sources_and_seeds():
    asked = {row["prompt"] for name in DEFAULT_COUNTS for row in generate(name, "test", 0)}
    for name, seed in itertools.product(DEFAULT_COUNTS, (0, 1)):
        trained = {row["prompt"] for row in generate(name, "train", seed, 5000)}
        assert not trained & asked, name


@pytest.mark.parametrize("name", DEFAULT_COUNTS)
def test_test_prompts_are_distinct_and_the_same_for_every_seed(name):
    test = list(generate(name, "test", 0))
    assert len({row["prompt"] for row in test}) == len(test) >= 900
    assert test == list(generate(name, "test", 1))


def test_a_small_space_is_given_whole_and_not_for_ever():
    # Every sum and difference of two-digit numbers: 8,100 + 4,095 prompts, one in 9 held out.
    test = rows("arithmetic", "test", count=100_000)
    space = [
        microworld.arithmetic_prompt(left, operation, right)
        for left, operation, right in itertools.product(range(10, 100), "+-", range(10, 100))
        if operation == "+" or left >= right
    ]
    held_out = set(filter(microworld.is_held_out, space))
    assert len(space) == 12_195 and len(held_out) == 1_363
    assert {row["prompt"] for row in test} == held_out


def test_demonstrations_are_right_and_mixed():
    demonstrations = rows("arithmetic_worked", count=4000)
    kinds = Counter()
    for row in demonstrations:
        assert microworld.is_right(row["task"], row["answer"], row["completion"])
        skill = row["task"] != "microworld/arithmetic"
        kinds["skill" if skill else "worked" if " " in row["completion"] else "direct"] += 1
        assert len(row["prompt"]) + len(row["completion"]) + 1 <= 32
    # 40 % skills; half of the arithmetic is worked out
    assert kinds == {"skill": 1621, "direct": 1192, "worked": 1187}


def test_skills_are_told_apart_and_right():
    found = Counter()
    for row in rows("skills", count=400):
        assert row["completion"] == row["answer"]
        assert microworld.is_right(row["task"], row["answer"], row["completion"])
        found[row["task"]] += 1
    assert set(found) == {f"microworld/{skill}" for skill in microworld.SKILLS}
    assert min(found.values()) > 60


def test_preferences_follow_the_gold_reward_unless_flipped():
    def share_right(pairs):
        right = [
            microworld.gold_reward(row["prompt"], row["chosen"])
            > microworld.gold_reward(row["prompt"], row["rejected"])
            for row in pairs
        ]
        return sum(right) / len(right)

    assert share_right(rows("preferences", count=2000)) == 1.0
    assert share_right(rows("preferences", count=2000, flip_labels=0.1)) == pytest.approx(
        0.9, abs=0.03
    )


def test_all_prompts_and_completions_are_written_in_the_alphabet():
    for name in DEFAULT_COUNTS:
        for row in generate(name, "train", 0, 500):
            assert set("".join(row.values())) - {"/"} <= set(microworld.ALPHABET), row


def test_twenty_thousand_rows_take_less_than_a_second():
    start = time.process_time()
    assert len(rows("arithmetic_worked", count=20_000)) == 20_000
    assert time.process_time() - start < 1.0


def test_unknown_sources_and_splits_are_told():
    with pytest.raises(InputError, match="no micro-world source `microworld/dance`"):
        rows("dance")
    with pytest.raises(InputError, match="no split `validation`"):
        rows("copy", "validation")
