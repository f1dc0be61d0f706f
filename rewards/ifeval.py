"""IFEval (Zhou et al. 2023, arXiv 2311.07911): whether an answer follows checkable instructions.

Reads the row's `instruction_id_list` and `kwargs`, judged by the benchmark's rules, or its
`ground_truth` with a `func_name` (Tülu 3's training rows, arXiv 2411.15124), judged by Tülu's. A
`<think>` section is taken off first; an empty answer follows nothing. Differences from the authors'
checker are listed in `posttrain.reward.constraints.ifeval`.

Parts: `ifeval/ID` is 1 or 0 for each instruction (an id that a row asks twice is 1 where both are
followed), and the counts that `posttrain.reward.ifeval_accuracy` sums to the paper's four numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from posttrain.config.strict import StrictModel
from posttrain.reward.constraints.following import followed
from posttrain.reward.ifeval_accuracy import accuracy, counts
from posttrain.reward.languages import language_of
from posttrain.reward.protocol import Example
from posttrain.types import Score

FORM_ONLY = True  # an answer may follow every instruction and answer nothing


class Config(StrictModel):
    """How much of a row's instructions has to be followed, and how strictly."""

    form: Literal["all", "fraction"] = "all"
    """`all`: 1 where every instruction is followed, else 0; `fraction`: the share that is."""

    loose: bool = False
    """Judge the answer also without its first line, its last and its `*`: IFEval's loose form."""


def score(row: Mapping[str, Any], completion: str, config: Config) -> Score:
    """Raises RewardBroken for a row with unknown instructions, or without what they need."""
    result = followed(row, completion)
    marks = result.loose if config.loose else result.strict
    parts: dict[str, float] = {}
    for name, mark in zip(result.ids, marks, strict=True):
        parts[f"ifeval/{name}"] = min(parts.get(f"ifeval/{name}", 1.0), float(mark))
    violated = [name for name, mark in zip(result.ids, marks, strict=True) if not mark]
    value = float(not violated) if config.form == "all" else sum(marks) / len(marks)
    reason = f"violated: {', '.join(violated)}" if violated else ""
    return Score(value, passed=not violated, parts={**parts, **counts(result)}, reason=reason)


def warm_up(config: Config) -> None:
    """The profiles of languages take a second to load."""
    language_of("a text")


def summary(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """IFEval's four accuracies: by prompt and by instruction, strict and loose."""
    found = accuracy(parts)
    return {
        "prompts, strict": found.prompt_strict,
        "prompts, loose": found.prompt_loose,
        "instructions, strict": found.instruction_strict,
        "instructions, loose": found.instruction_loose,
    }


def gold(config: Config) -> Sequence[Example]:
    examples = [
        _asked("Brave [name]: go.", ("punctuation:no_comma", {}), _PLACEHOLDER),
        _asked("<think>One, two.</think>\n\nOne two.", ("punctuation:no_comma", {"keyword": None})),
        _asked("One two three. P. S. Four!", ("detectable_content:postscript", _PS), _WORDS),
        _asked('```json\n{"a": [1, 2]}\n```', ("detectable_format:json_format", {})),
        _asked("yes\n\n***\n\nno\n***", ("length_constraints:number_paragraphs", _TWO)),
        _asked(
            "Intro.\n\n'Well,' he said.", ("length_constraints:nth_paragraph_first_word", _WELL)
        ),
        _asked("* one\n - two\n**three**", ("detectable_format:number_bullet_lists", _BULLETS)),
        _asked("A *b* and **c** <<d>>", _HIGHLIGHTS, ("detectable_format:title", {})),
        _asked('"So it ends: the end."', ("startend:quotation", {}), _END),
        _asked("The cats scatter.", ("keywords:forbidden_words", {"forbidden_words": ["cat"]})),
        _asked("Das ist ein deutscher Satz über das Wetter.", _GERMAN),
        _asked("Dr. Lee met Mr. Fox at 3.5 p.m. on Monday.", _ONE_SENTENCE),
        _trained("w " * 55, func_name="validate_word_constraint", N=50, quantifier="around"),
        _trained(" all small \n", func_name="validate_lowercase", N=None, keyword_list=None),
        _trained("Cat cat, catalogue", func_name="verify_keyword_frequency", word="cat", N=2),
    ]
    if config.loose:
        examples.append(_asked("Sure, here:\nIt is **done**", ("punctuation:no_comma", {})))
    return examples


def bad(config: Config) -> Sequence[Example]:
    examples = [
        _asked("Brave name: go.", ("punctuation:no_comma", {}), _PLACEHOLDER),
        _asked("<think>It never ends", ("punctuation:no_comma", {})),
        _asked("", ("punctuation:no_comma", {})),
        _asked("Two words", _WORDS),
        _asked("yes\n***\n***\nno", ("length_constraints:number_paragraphs", _TWO)),
        _asked("The end, it was not", _END),
        _asked("A CAT!", ("keywords:forbidden_words", {"forbidden_words": ["cat"]})),
        _asked("This is a sentence in English about the weather.", _GERMAN),
        _asked("Look at this <<>>", ("detectable_format:title", {})),
        _asked("[" * 10_000, ("detectable_format:json_format", {})),
        _trained("w " * 56, func_name="validate_word_constraint", N=50, quantifier="around"),
        _trained("cat cat cat", func_name="verify_keyword_frequency", word="cat", N=2),
        _trained("none at all", func_name="validate_placeholders", N=1),
        _trained("y", func_name="validate_choice", options=["yes", "no"]),
    ]
    if not config.loose:
        examples.append(_asked("Sure, here:\nIt is **done**", ("punctuation:no_comma", {})))
    return examples


_PLACEHOLDER = ("detectable_content:number_placeholders", {"num_placeholders": 1})
_PS = {"postscript_marker": "P.S."}
_WORDS = ("length_constraints:number_words", {"num_words": 6, "relation": "at least"})
_TWO = {"num_paragraphs": 2}
_WELL = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "well"}
_BULLETS = {"num_bullets": 2}
_HIGHLIGHTS = ("detectable_format:number_highlighted_sections", {"num_highlights": 2})
_END = ("startend:end_checker", {"end_phrase": "The end."})
_GERMAN = ("language:response_language", {"language": "de"})
_ONE_SENTENCE = (
    "length_constraints:number_sentences",
    {"num_sentences": 2, "relation": "less than"},
)


def _asked(answer: str, *instructions: tuple[str, Mapping[str, Any]]) -> Example:
    ids, kwargs = zip(*instructions, strict=True)
    return Example({"instruction_id_list": list(ids), "kwargs": list(kwargs)}, answer)


def _trained(answer: str, **ground_truth: Any) -> Example:
    return Example({"ground_truth": ground_truth}, answer)
