"""Gates: what they mean, and pass, fail or undecided with the arithmetic beside it."""

from __future__ import annotations

import pytest

from posttrain.pipeline.gates import (
    GateSyntaxError,
    Operand,
    evaluate_gate,
    parse_gate,
    resolve_gate,
)
from posttrain.types import Interval

STAGES = ["base", "sft", "rlvr", "average"]
TASKS = ["microworld/arithmetic", "microworld/sort", "other/sort", "perplexity/wikitext"]


def test_words_become_operands() -> None:
    gate = resolve_gate(parse_gate("arithmetic > sft.arithmetic + 2"), STAGES, TASKS)
    assert gate.left == Operand(None, "microworld/arithmetic")
    assert gate.right == Operand("sft", "microworld/arithmetic", 1.0, 2.0)
    assert gate.comparison == ">"


def test_a_stage_alone_means_its_value_of_the_same_measure() -> None:
    gate = resolve_gate(parse_gate("perplexity/wikitext < 1.05 * base"), STAGES, TASKS)
    assert gate.right == Operand("base", "perplexity/wikitext", 1.05, 0.0)
    assert gate.stages == ("base",)


def test_numbers_and_points() -> None:
    gate = resolve_gate(parse_gate("average.gain >= 60 %"), STAGES, TASKS)
    assert gate.left == Operand("average", "gain")
    assert gate.right == Operand(None, None, offset=60.0)
    assert parse_gate("tax < -1.5e0").right.offset == -1.5


@pytest.mark.parametrize(
    ("text", "message", "help"),
    [
        ("arithmetic", "`arithmetic` is no comparison",
         "one of < <= > >=, as in `arithmetic > sft.arithmetic`"),
        ("1 < tax < 4", "`1 < tax < 4` is no comparison",
         "one of < <= > >=, as in `arithmetic > sft.arithmetic`"),
        ("60 < arithmetic", "`60 < arithmetic` starts with a number",
         "name the measure first: `tax < 4`"),
        ("arithmetic > ", "`` in `arithmetic > ` is no measure",
         "TASK, STAGE.TASK, a number, or 1.05 * STAGE"),
        ("aritmetic > 3", "no measure `aritmetic` in `aritmetic > 3`",
         "did you mean `arithmetic`?"),
        ("arithmetic > stf.arithmetic", "no stage `stf` in `arithmetic > stf.arithmetic`",
         "did you mean `sft`?"),
        ("sort > 3", "`sort` in `sort > 3` could be microworld/sort or other/sort",
         "write it out"),
    ],
)  # fmt: skip
def test_what_says_nothing_is_refused(text: str, message: str, help: str) -> None:
    with pytest.raises(GateSyntaxError) as caught:
        resolve_gate(parse_gate(text), STAGES, TASKS)
    assert str(caught.value) == message
    assert caught.value.help == help


def test_without_a_suite_nothing_is_measured() -> None:
    with pytest.raises(GateSyntaxError, match="no suite is asked of this stage"):
        resolve_gate(parse_gate("tax < 4"), STAGES, [])


MEASURED = {
    "base": {"perplexity/wikitext": Interval(20.0, 19.0, 21.0)},
    "sft": {
        "microworld/arithmetic": Interval(0.48, 0.45, 0.51),
        "tax": Interval(0.04, 0.025, 0.055),
        "perplexity/wikitext": Interval(20.5, 20.4, 20.6),
    },
    "rlvr": {"microworld/arithmetic": Interval(0.50, 0.47, 0.53)},
    "average": {"microworld/arithmetic": Interval(0.77, 0.73, 0.81)},
}


@pytest.mark.parametrize(
    ("text", "here", "verdict", "shown"),
    [
        # 77 - 48 = 29 points, uncertain by sqrt(4² + 3²) = 5
        ("arithmetic > sft.arithmetic", "average", "pass",
         "microworld/arithmetic (77.0 ± 4.0) > sft.microworld/arithmetic (48.0 ± 3.0): pass"),
        # 50 - 48 = 2 points, uncertain by sqrt(3² + 3²) = 4.24
        ("arithmetic > sft.arithmetic", "rlvr", "undecided",
         "microworld/arithmetic (50.0 ± 3.0) > sft.microworld/arithmetic (48.0 ± 3.0): undecided"),
        # 48 - 77 = -29
        ("arithmetic > average.arithmetic", "sft", "fail",
         "microworld/arithmetic (48.0 ± 3.0) > average.microworld/arithmetic (77.0 ± 4.0): fail"),
        # 4 ± 1.5 against exactly 6, 5 and 2
        ("tax < 6", "sft", "pass", "tax (4.0 ± 1.5) < 6: pass"),
        ("tax < 5", "sft", "undecided", "tax (4.0 ± 1.5) < 5: undecided"),
        ("tax < 2", "sft", "fail", "tax (4.0 ± 1.5) < 2: fail"),
        # 20.5 ± 0.1 against 1.05 * (20 ± 1) = 21 ± 1.05
        ("perplexity/wikitext < 1.05 * base", "sft", "undecided",
         "perplexity/wikitext (20.50 ± 0.10) < 1.05 * base.perplexity/wikitext (21.00 ± 1.05): "
         "undecided"),
        # ... and against 1.2 * (20 ± 1) = 24 ± 1.2
        ("perplexity/wikitext < 1.2 * base", "sft", "pass",
         "perplexity/wikitext (20.50 ± 0.10) < 1.2 * base.perplexity/wikitext (24.00 ± 1.20): "
         "pass"),
        ("arithmetic > base.arithmetic", "rlvr", "undecided",
         "arithmetic > base.arithmetic: base.microworld/arithmetic was not measured"),
    ],
)  # fmt: skip
def test_a_difference_within_the_intervals_is_undecided(
    text: str, here: str, verdict: str, shown: str
) -> None:
    result = evaluate_gate(parse_gate(text), MEASURED, here=here)
    assert (result.verdict, result.text) == (verdict, shown)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("gain > 50", "fail"), ("gain >= 50", "pass"), ("gain < 51", "pass"), ("gain <= 49", "fail")],
)
def test_exact_values_are_compared_exactly(text: str, verdict: str) -> None:
    exact = {"sft": {"gain": Interval(0.5, 0.5, 0.5)}}
    assert evaluate_gate(parse_gate(text), exact, here="sft").verdict == verdict


def test_lopsided_intervals_count_the_side_that_faces_the_other() -> None:
    """90 (70 to 91) against exactly 85: the lower bound 70 is below 85, so it is undecided;
    against exactly 92 the upper bound 91 is below it, so it fails."""
    measured = {"sft": {"gain": Interval(0.90, 0.70, 0.91)}}
    assert evaluate_gate(parse_gate("gain > 85"), measured, here="sft").verdict == "undecided"
    assert evaluate_gate(parse_gate("gain > 92"), measured, here="sft").verdict == "fail"
