"""Trying to fool a reward before a model does.

A policy finds whatever a verifier pays for, so a verifier is asked first: does it score its own
examples as it says, twice the same, fast enough, and does it pay for answers that say nothing:
an empty one, a megabyte, the prompt again, all numbers from 0 to 100, every option at once, the
right answer in a comment.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.config.plugins import load_plugin, plugin_config
from posttrain.errors import RewardBroken
from posttrain.reward.examples import examples_of
from posttrain.reward.protocol import Example, is_as_said
from posttrain.reward.worker import Outcome, RewardPool

Verdict = Literal["sound", "note", "unsound"]

# A probe may be right by luck on some rows of real data: `100` is the answer to some question.
LUCK = 0.05
PROMPT_COLUMNS = ("prompt", "question", "problem", "text", "quiz")
ANSWER_COLUMNS = ("answer", "solution", "canonical_solution", "code", "target")
NUMBERS = " ".join(map(str, range(101)))
OPTIONS = "(A) (B) (C) (D) (E) A B C D E"
MEGABYTE = "so we go on and on. " * 50_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One question to the reward and what came of it, in one line."""

    about: str
    verdict: Verdict
    detail: str


def audit(
    name: str,
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] = (),
    timeout_s: float = 10.0,
) -> list[Finding]:
    """Everything found; the reward is sound where no finding is `unsound`.

    `rows`: real ones to try the probes on, beside those of the reward's own examples. Raises
    InputError and RewardBroken where the reward cannot be used at all.
    """
    module = load_plugin("reward", name)
    config = plugin_config(module, settings)
    gold, bad = examples_of(module, name, config)
    with RewardPool(name, settings, timeout_s) as pool:
        ask = _asker(pool)
        first = ask([*gold, *bad])
        again = ask([*gold, *bad])
        findings = [
            _examples("right examples", "score 1", gold, first[: len(gold)], True),
            _examples("wrong examples", "score less than 1", bad, first[len(gold) :], False),
            _same(first, again),
        ]
        if _nothing_was_scored(first):
            return findings  # nothing else would be told: each probe would only break again
        tried = [dict(example.row) for example in gold] + [dict(row) for row in rows]
        times = [each.seconds for each in first if not isinstance(each, RewardBroken)]
        for about, examples in _probes(gold, tried):
            outcomes = ask(examples)
            opinions = any(_opinion(each) is not None for each in (*first, *outcomes))
            is_verifier = opinions and not getattr(module, "FORM_ONLY", False)
            times += [each.seconds for each in outcomes if not isinstance(each, RewardBroken)]
            findings.append(_probe(about, outcomes, is_verifier))
    return [*findings, _timing(times)]


def _asker(pool: RewardPool) -> Callable[[Sequence[Example]], list[Outcome]]:
    def ask(examples: Sequence[Example]) -> list[Outcome]:
        return pool.score([e.row for e in examples], [e.completion for e in examples])

    return ask


def _examples(
    about: str, scores: str, examples: Sequence[Example], outcomes: Sequence[Outcome], is_gold: bool
) -> Finding:
    if not examples:
        return Finding(about, "note", "has none of its own")
    wrong = [
        f"{example.completion[:60]!r} {_said(outcome)}"
        for example, outcome in zip(examples, outcomes, strict=True)
        if isinstance(outcome, RewardBroken) or not is_as_said(outcome.value, is_gold)
    ]
    return _all_or(f"{len(examples)} {scores}", about, wrong)


def _same(first: Sequence[Outcome], again: Sequence[Outcome]) -> Finding:
    differ = [
        f"{_said(one)}, then {_said(other)}"
        for one, other in zip(first, again, strict=True)
        if _value(one) != _value(other)
    ]
    if _nothing_was_scored(first):
        return Finding("asked twice", "note", "nothing was scored")
    return _all_or("the same answers score the same", "asked twice", differ)


def _nothing_was_scored(outcomes: Sequence[Outcome]) -> bool:
    return bool(outcomes) and all(isinstance(each, RewardBroken) for each in outcomes)


def _all_or(sound: str, about: str, wrong: Sequence[str]) -> Finding:
    if not wrong:
        return Finding(about, "sound", sound)
    return Finding(about, "unsound", f"{len(wrong)} do not: {wrong[0]}")


def _probes(
    gold: Sequence[Example], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[str, list[Example]]]:
    """Answers that say nothing, by name; each is asked of every row."""
    prompts = [(row, _first_text(row, PROMPT_COLUMNS)) for row in rows]
    hidden: list[tuple[Mapping[str, Any], str]] = [(e.row, e.completion) for e in gold]
    hidden += [(row, text) for row in rows if (text := _first_text(row, ANSWER_COLUMNS))]
    probes = [
        ("empty", [Example(row, "") for row in rows]),
        ("a megabyte", [Example(row, MEGABYTE) for row in rows[:4]]),
        ("the prompt again", [Example(row, text) for row, text in prompts if text]),
        ("0 to 100", [Example(row, NUMBERS) for row in rows]),
        ("every option", [Example(row, OPTIONS) for row in rows]),
        ("gold in a comment", [Example(row, _commented(text)) for row, text in hidden]),
    ]
    return [(about, examples) for about, examples in probes if examples]


def _commented(text: str) -> str:
    lines = "\n".join(f"# {line}" for line in text.splitlines())
    return f"{lines}\nI do not know."


def _first_text(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    return next((row[name] for name in columns if isinstance(row.get(name), str)), "")


def _probe(about: str, outcomes: Sequence[Outcome], is_verifier: bool) -> Finding:
    broken = [each for each in outcomes if isinstance(each, RewardBroken)]
    if broken:
        return Finding(about, "unsound", f"breaks on {len(broken)}: {broken[0].message[:120]}")
    paid = sum(_value(each) >= 1.0 - 1e-6 for each in outcomes)
    if not paid:
        return Finding(about, "sound", f"never scores 1 ({len(outcomes)} rows)")
    detail = f"scores 1 on {paid} of {len(outcomes)} rows"
    if not is_verifier:
        return Finding(about, "note", f"{detail}; it judges form: gate a reward of content with it")
    if about == "gold in a comment":
        return Finding(about, "note", f"{detail}: it reads comments as answers")
    return Finding(about, "note" if paid <= LUCK * len(outcomes) else "unsound", detail)


def _timing(seconds: Sequence[float]) -> Finding:
    if not seconds:
        return Finding("time", "note", "no answer was scored: audit what it is made of")
    ordered = sorted(seconds)
    late = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    detail = (
        f"median {1000 * statistics.median(ordered):.3g} ms, 99 of 100 within {1000 * late:.3g} ms,"
        f" longest {1000 * ordered[-1]:.3g} ms"
    )
    return Finding("time", "sound", detail)


def _opinion(outcome: Outcome) -> bool | None:
    return None if isinstance(outcome, RewardBroken) else outcome.passed


def _value(outcome: Outcome) -> float:
    return -1.0 if isinstance(outcome, RewardBroken) else outcome.value


def _said(outcome: Outcome) -> str:
    if isinstance(outcome, RewardBroken):
        return f"breaks it: {outcome.message[:120]}"
    return f"scores {outcome.value:g}"
