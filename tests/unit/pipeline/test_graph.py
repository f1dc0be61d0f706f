"""References between stages: order, needs, and everything that cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from posttrain.config.load import load_pipeline
from posttrain.pipeline.graph import Graph, build_graph, sort

Write = Callable[..., str]


def graph_of(file: str, *overrides: str) -> Graph:
    loaded = load_pipeline(file, overrides)
    return build_graph(loaded.draft, loaded.places, loaded.unreadable)


def rendered(file: str, *overrides: str) -> list[str]:
    return [problem.render() for problem in graph_of(file, *overrides).problems]


def test_order_and_needs(write_pipeline: Write) -> None:
    graph = graph_of(write_pipeline())
    assert graph.problems == ()
    assert graph.order == ("blank", "base", "sft", "rlvr", "average", "final")
    assert graph.needs == {
        "blank": (),
        "base": ("blank",),
        "sft": ("base",),
        "rlvr": ("sft",),
        "average": ("sft", "rlvr"),
        "final": ("base", "sft", "rlvr", "average"),
    }
    assert graph.ancestors("rlvr") == {"blank", "base", "sft"}


def test_file_order_among_equals_whatever_comes_first() -> None:
    needs = {"d": ("b",), "c": (), "b": ("a",), "a": ()}
    assert sort(needs) == (["c", "a", "b", "d"], [])


def test_every_cycle_is_found() -> None:
    needs = {"a": ("b",), "b": ("a",), "c": ("c",), "d": ("a", "c"), "e": ()}
    assert sort(needs) == (["e", "d"], [["a", "b", "a"], ["c", "c"]])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "kind: average, pre: sft",
            "kind: average, pre: stf",
            "error[unknown-stage] mine.yaml:17 stages.average.pre: no stage `stf`\n"
            "  help: did you mean `sft`?",
        ),
        (
            "kind: average, pre: sft",
            "kind: average, pre: final",
            "error[wrong-reference] mine.yaml:17 stages.average.pre: needs a model, `final` "
            "(line 18) makes measurements\n"
            "  help: stages that make a model: blank, base, sft, rlvr, average",
        ),
        (
            "kind: sft, model: base,",
            "kind: sft, model: average,",
            "error[cycle] mine.yaml:7 stages.sft → average → sft: a stage cannot need its own "
            "result\n  help: let `sft` or `average` read an earlier stage",
        ),
        (
            "    model: sft\n",
            "    model: rlvr\n",
            "error[cycle] mine.yaml:10 stages.rlvr → rlvr: a stage cannot need its own result\n"
            "  help: let `rlvr` read an earlier stage",
        ),
        (
            "[arithmetic > sft.arithmetic]",
            "[arithmetic > average.arithmetic]",
            "error[bad-gate] mine.yaml:16 stages.rlvr.gates.0: `arithmetic > average.arithmetic`: "
            "`average` is not done before `rlvr`\n  help: stages before it: blank, base, sft",
        ),
        (
            "[arithmetic > sft.arithmetic]",
            "[arithmetic > sft.aritmetic]",
            "error[bad-gate] mine.yaml:16 stages.rlvr.gates.0: no measure `aritmetic` in "
            "`arithmetic > sft.aritmetic`\n  help: did you mean `arithmetic`?",
        ),
        (
            "suite: abilities}",
            "suite: abilities, gates: [gain > 3]}",
            "error[bad-gate] mine.yaml:18 stages.final.gates.0: `gain > 3`: `final` makes no "
            "model, so whose gain?\n  help: say it: `average.gain > 3`",
        ),
        (
            "tax_since: base",
            "tax_since: bsae",
            "error[unknown-stage] mine.yaml:3 suites.abilities.tax_since: no stage `bsae`\n"
            "  help: did you mean `base`?",
        ),
        (
            "tax_since: base",
            "tax_since: blank",
            "warning[untrained-tax-base] mine.yaml:3 suites.abilities.tax_since: `blank` has "
            "random weights: there is nothing it could forget\n"
            "  help: name a trained model: base, sft, rlvr, average",
        ),
    ],
)
def test_each_mistake_names_place_and_cure(
    write_pipeline: Write, old: str, new: str, expected: str
) -> None:
    assert rendered(write_pipeline(old, new)) == [expected]


def test_a_stage_that_cannot_be_read_is_reported_once(write_pipeline: Write) -> None:
    assert rendered(write_pipeline("kind: sft, model: base,", "kind: stf, model: base,")) == []


def test_a_suite_asked_only_at_the_end_gives_gates_nothing(write_pipeline: Write) -> None:
    file = write_pipeline("tax_since: base", "tax_since: base, when: only_final")
    assert rendered(file)[0].splitlines()[0] == (
        "error[bad-gate] mine.yaml:16 stages.rlvr.gates.0: `arithmetic > sft.arithmetic`: no suite "
        "is asked of this stage, so nothing is measured"
    )
