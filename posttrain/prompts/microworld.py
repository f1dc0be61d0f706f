"""Rows of the micro world, made from a seed: what is asked is decided here, what is true in
`posttrain.microworld`.

Sources: `microworld/skills`, `microworld/arithmetic_worked` and `microworld/requests_answered`
(prompt, completion) to imitate;
`microworld/arithmetic`, `copy`, `reverse`, `sort`, `count` (prompt, answer) to be asked;
`microworld/preferences` (prompt, chosen, rejected) and `microworld/requests` (prompt) for the gold
reward. A source's train and test rows never share a prompt, in any order of seeds and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from posttrain import microworld
from posttrain.errors import InputError, Problem

Row = dict[str, Any]

WORKED_SHARE = 0.5
"""Of the arithmetic demonstrations, how many show the working; the rest blurt out the answer."""
SKILLS_SHARE = 0.4
"""Of the rows of `arithmetic_worked`, how many practise a skill, lest skills be forgotten."""

DEFAULT_COUNTS = {
    "microworld/skills": 24_000,
    "microworld/arithmetic_worked": 16_000,
    "microworld/arithmetic": 4_000,
    "microworld/preferences": 4_000,
    "microworld/requests": 4_000,
    "microworld/requests_answered": 8_000,
} | {f"microworld/{skill}": 4_000 for skill in microworld.SKILLS}
"""Rows of a train split where no count is asked for; a test split has 1,024."""

_FRUITLESS_DRAWS = 20_000


def generate(
    name: str, split: str, seed: int, count: int | None = None, *, flip_labels: float = 0.0
) -> Iterator[Row]:
    """Rows of a source, the same for the same arguments; fewer rows are a prefix of more.

    `split` is `train` or `test`; prompts of a test split are distinct and do not depend on the seed
    (every model is asked the same), and where a source has fewer than `count` they are all given.
    `flip_labels` is the share of preferences with the wrong winner. Raises InputError for a name or
    split that does not exist.
    """
    make = _maker(name, split, flip_labels)
    rows = DEFAULT_COUNTS[name] if split == "train" else 1024
    random = Random(f"{name}/{split}/{seed if split == 'train' else 0}")
    return _draw(make, random, split == "test", rows if count is None else count)


def _draw(make: Callable[[Random], Row], random: Random, test: bool, count: int) -> Iterator[Row]:
    seen: set[str] = set()
    fruitless = made = 0
    while made < count and fruitless < _FRUITLESS_DRAWS:
        row = make(random)
        fruitless += 1
        if microworld.is_held_out(row["prompt"]) != test or row["prompt"] in seen:
            continue
        if test:
            seen.add(row["prompt"])
        fruitless = 0
        made += 1
        yield row


def _maker(name: str, split: str, flip_labels: float) -> Callable[[Random], Row]:
    if name not in DEFAULT_COUNTS:
        known = ", ".join(DEFAULT_COUNTS)
        raise InputError(
            Problem("unknown-source", f"no micro-world source `{name}`", help=f"there are {known}")
        )
    if split not in ("train", "test"):
        raise InputError(
            Problem("unknown-split", f"`{name}` has no split `{split}`", help="train or test")
        )
    kind = name.removeprefix("microworld/")
    if kind in microworld.SKILLS:
        return lambda random: _skill(random, kind)
    if kind == "preferences":
        return lambda random: _preference(random, flip_labels)
    return {
        "skills": _any_skill,
        "arithmetic": _arithmetic,
        "arithmetic_worked": _demonstration,
        "requests": _request,
        "requests_answered": _answered_request,
    }[kind]


def _skill(random: Random, skill: str) -> Row:
    # Half are digits: a model that has sorted them learns arithmetic several times faster.
    symbols = random.choice((microworld.LETTERS, microworld.DIGITS))
    text = "".join(random.choices(symbols, k=random.randint(3, 5)))
    return {
        "prompt": microworld.skill_prompt(skill, text),
        "task": f"microworld/{skill}",
        "answer": microworld.skill_answer(skill, text),
    }


def _any_skill(random: Random) -> Row:
    row = _skill(random, random.choice(microworld.SKILLS))
    return row | {"completion": row["answer"]}


def _problem(random: Random) -> tuple[int, str, int]:
    """Uniform over all pairs of two-digit numbers with a sum, or a difference of 0 or more."""
    while True:
        left, right = random.randint(10, 99), random.randint(10, 99)
        operation = random.choice("+-")
        if operation == "+" or left >= right:
            return left, operation, right


def _arithmetic(random: Random) -> Row:
    problem = _problem(random)
    return {
        "prompt": microworld.arithmetic_prompt(*problem),
        "task": "microworld/arithmetic",
        "answer": str(microworld.arithmetic_answer(*problem)),
    }


def _demonstration(random: Random) -> Row:
    if random.random() < SKILLS_SHARE:
        return _any_skill(random)
    problem = _problem(random)
    answer = str(microworld.arithmetic_answer(*problem))
    worked = random.random() < WORKED_SHARE
    return {
        "prompt": microworld.arithmetic_prompt(*problem),
        "completion": microworld.work_out(*problem) if worked else answer,
        "task": "microworld/arithmetic",
        "answer": answer,
    }


def _request(random: Random) -> Row:
    wanted = random.sample(microworld.LETTERS, random.randint(2, 6))
    return {"prompt": microworld.request_prompt("".join(wanted)), "task": "microworld/requests"}


def _answered_request(random: Random) -> Row:
    """A request and an answer as people here write them: of any quality."""
    row = _request(random)
    return row | {"completion": _attempt(random, row["prompt"])}


def _preference(random: Random, flip_labels: float) -> Row:
    """Two different answers to one request; the gold reward says which is chosen."""
    row = _request(random)
    while True:
        first, second = (_attempt(random, row["prompt"]) for _ in range(2))
        values = [microworld.gold_reward(row["prompt"], answer) for answer in (first, second)]
        if values[0] != values[1]:
            break
    chosen, rejected = (first, second) if values[0] > values[1] else (second, first)
    if random.random() < flip_labels:
        chosen, rejected = rejected, chosen
    return row | {"chosen": chosen, "rejected": rejected}


def _attempt(random: Random, request: str) -> str:
    """An answer of any quality: some wanted letters, some others, in any order."""
    wanted = microworld.requested_letters(request)
    some = random.sample(wanted, random.randint(0, len(wanted)))
    letters = some + random.choices(microworld.LETTERS, k=random.randint(1, 8))
    random.shuffle(letters)
    return "".join(letters[:12])
