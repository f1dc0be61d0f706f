"""Shipped rewards on the data sets they are for: their own solutions score 1."""

import gzip
import json
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from posttrain.rewards import countdown, game24, gsm8k, knights_knaves, math, multiple_choice

from posttrain.errors import RewardBroken

DATA = Path(os.environ.get("POSTTRAIN_DATA", "../shared/data"))
MATH_WITHOUT_ANSWER = {
    "math-train-5341": "its box is empty",
    "math-train-5343": "its box is empty",
}
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def rows(name):
    path = DATA / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no {name}.jsonl.gz here: set POSTTRAIN_DATA")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def wrong(reward, config, pairs):
    """Ids and reasons of the answers that do not score 1."""
    failures = []
    for row, completion in pairs:
        score = reward.score(row, completion, config)
        if score.value != 1.0:
            failures.append((row["_id"], score.reason))
    return failures


def test_every_solution_of_gsm8k_is_right():
    train = rows("gsm8k/train")
    assert len(train) == 7473
    assert wrong(gsm8k, gsm8k.Config(), [(row, row["answer"]) for row in train]) == []


def test_gsm8k_agrees_with_the_labels_of_other_models_answers():
    """All 4 x 923 labels: no disagreement of any kind."""
    solved = rows("gsm8k/test_model_solutions")
    config = gsm8k.Config()
    seen = Counter()
    for row in solved:
        truth = {"answer": row["ground_truth"].rpartition("\nA: ")[2]}
        for model in MODELS:
            right = gsm8k.score(truth, row[model]["solution"], config).value == 1.0
            seen[row[model]["is_correct"], right] += 1
    assert sum(seen.values()) == 4 * 923
    assert (seen[True, False], seen[False, True]) == (0, 0)


@pytest.mark.parametrize("mode", ["boxed", "flexible"])
def test_every_solution_of_math_is_right(mode):
    train = rows("math/train")
    assert len(train) == 7492
    config = math.Config(mode=mode)
    sound = [row for row in train if row["_id"] not in MATH_WITHOUT_ANSWER]
    assert wrong(math, config, [(row, row["solution"]) for row in sound]) == []
    for row in train:
        if row["_id"] in MATH_WITHOUT_ANSWER:
            with pytest.raises(RewardBroken, match="blank"):
                math.score(row, row["solution"], config)


def test_answers_to_other_problems_of_math_are_wrong():
    train = [row for row in rows("math/train")[:200] if row["answer"]]
    config = math.Config(mode="boxed")
    passed = [
        (row["answer"], other["answer"])
        for row, other in pairwise(train)
        if math.score(row, other["solution"], config).value == 1.0
    ]
    assert [(truth, answer) for truth, answer in passed if truth != answer] == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_solution_of_countdown_is_right(split):
    solved = rows(f"countdown/{split}")
    config = countdown.Config()
    ways = [
        lambda row: row["solution"],
        lambda row: "\n".join(row["steps"]),
        lambda row: f"<answer>{row['solution']} = {row['target']}</answer>",
    ]
    for way, count in zip(ways, (len(solved), 500, 500), strict=True):
        assert wrong(countdown, config, [(row, way(row)) for row in solved[:count]]) == []


def test_solutions_of_game24_are_right():
    puzzles = rows("game24/test")[:40]
    config = game24.Config()
    solved = [(row, solution) for row in puzzles if (solution := solve24(row["numbers"]))]
    assert len(solved) == 40  # every one of the set has a solution
    assert wrong(game24, config, solved) == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_solution_of_knights_and_knaves_is_right(split):
    puzzles = rows(f"knights_knaves/{split}")
    config = knights_knaves.Config()
    ways = [
        lambda row: row["solution_text"],
        lambda row: f"<answer>{row['solution_text_format']}</answer>",
        lambda row: "\n".join([*row["cot_repeat_steps"], row["solution_text_format"]]),
    ]
    for way, count in zip(ways, (len(puzzles), 500, 500), strict=True):
        assert wrong(knights_knaves, config, [(row, way(row)) for row in puzzles[:count]]) == []


@pytest.mark.parametrize(("split", "unsaid"), [("dev", 12), ("test", 6)])
def test_the_rationales_of_aqua_name_the_right_letter_or_none(split, unsaid):
    """18 of 432 rationales end without naming a letter; all others name the right one."""
    config = multiple_choice.Config(answer_column="correct")
    questions = rows(f"aqua/{split}")
    failures = wrong(multiple_choice, config, [(row, row["rationale"]) for row in questions])
    assert [reason for _, reason in failures if not reason.endswith("found nothing")] == []
    assert len(failures) == unsaid


def solve24(numbers):
    """Some expression of all numbers that makes 24, by trying; None without one."""
    return combine([(float(number), str(number)) for number in numbers])


def combine(parts):
    if len(parts) == 1:
        return parts[0][1] if abs(parts[0][0] - 24) < 1e-9 else None
    for i, (one, first) in enumerate(parts):
        for j, (two, second) in enumerate(parts):
            if i == j:
                continue
            rest = [part for k, part in enumerate(parts) if k not in (i, j)]
            results = [(one + two, "+"), (one - two, "-"), (one * two, "*")]
            results += [(one / two, "/")] if two else []
            for value, sign in results:
                if found := combine([*rest, (value, f"({first} {sign} {second})")]):
                    return found
    return None
