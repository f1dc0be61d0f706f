"""What may go of a run: rules on what was found."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.pipeline.removable import (
    ONLY_UNTIL_DONE,
    FoundStage,
    Removable,
    is_leftover,
    is_top_leftover,
    size,
    superseded,
    totals,
)

DONE_NOW = FoundStage("sft", "new", is_done=True, ended=9.0)
OPEN_NOW = FoundStage("sft", "new", is_done=False)
OLD = FoundStage("sft", "old", is_done=True, ended=5.0)
OLDER = FoundStage("sft", "older", is_done=True, ended=3.0)
FAILED = FoundStage("sft", "failed", is_done=False, ended=7.0)
GONE = FoundStage("dpo", "gone", is_done=True, ended=4.0)
USED = {"sft": "new"}


def test_identities_that_run_json_no_longer_uses_may_go() -> None:
    found = [DONE_NOW, OLD, OLDER, FAILED, GONE]
    assert superseded(found, USED) == [OLD, OLDER, FAILED, GONE]


def test_the_newest_done_one_stands_in_until_the_one_in_use_is_done() -> None:
    assert superseded([OPEN_NOW, OLD, OLDER, FAILED], USED) == [OLDER, FAILED]
    assert superseded([OLD, OLDER, FAILED], USED) == [OLDER, FAILED]  # not even begun
    assert superseded([OPEN_NOW, FAILED], USED) == [FAILED]  # a failed one stands in for nothing


def test_what_something_links_to_stays() -> None:
    linked = {("sft", "older"), ("dpo", "gone")}
    assert superseded([DONE_NOW, OLD, OLDER, GONE], USED, linked) == [OLD]


STAGES = st.builds(
    FoundStage,
    st.sampled_from("ab"),
    st.sampled_from("1234"),
    st.booleans(),
    st.sampled_from([0.0, 1.0, 2.0]),
)


@given(
    st.lists(STAGES, unique_by=lambda each: (each.stage, each.identity), max_size=8),
    st.dictionaries(st.sampled_from("ab"), st.sampled_from("1234")),
    st.sets(st.tuples(st.sampled_from("ab"), st.sampled_from("1234"))),
)
def test_what_goes_is_never_needed(
    found: list[FoundStage], used: dict[str, str], linked: set[tuple[str, str]]
) -> None:
    gone = superseded(found, used, linked)
    stays = [each for each in found if each not in gone]
    assert gone == [each for each in found if each in gone]  # in their order, each once
    for each in gone:
        assert used.get(each.stage) != each.identity
        assert (each.stage, each.identity) not in linked
    for stage in used:
        had_done = any(each.is_done for each in found if each.stage == stage)
        assert had_done == any(each.is_done for each in stays if each.stage == stage)
    assert superseded(stays, used, linked) == []  # a second time nothing more goes


@pytest.mark.parametrize(
    ("name", "leftover"),
    [
        (".best", True),
        (".removing-0a1b2c", True),
        (".run.json.partial-4121", True),
        ("..open_stages.json.partial-17", True),
        (".open_stages.json", False),  # a tracker that starts again reads it
        ("best", False),
        ("run.json", False),
        (".run.json", False),
        (".git", False),
        ("notes.tmp", False),
    ],
)
def test_leftovers_at_the_top_of_a_run(name: str, leftover: bool) -> None:
    assert is_top_leftover(name) is leftover


@pytest.mark.parametrize(
    ("name", "while_open", "when_done"),
    [
        (".manifest.json.partial-4121", True, True),
        (".model.partial-4121", True, True),
        (".model.replaced-4121", True, True),
        (".step-000020.partial", True, True),
        (".model.merging", False, True),  # goes on where it stopped
        ("model", False, False),
        ("step-000020", False, False),
        ("partial", False, False),
        ("model.partial-7", False, False),
    ],
)
def test_leftovers_in_a_stage(name: str, while_open: bool, when_done: bool) -> None:
    assert is_leftover(name, False) is while_open
    assert is_leftover(name, True) is when_done


def test_what_stages_keep_only_until_they_are_done_is_all_named() -> None:
    from posttrain.stages import best_of_n, over_optimisation
    from posttrain.stages.jobs import JOURNALS
    from posttrain.train import early_stopping, preference

    kept = {JOURNALS, early_stopping.FILE, preference.REFERENCE_FILE}
    kept |= {best_of_n.SCORED, over_optimisation.ASKED}
    assert kept | {"soups", "shares"} == set(ONLY_UNTIL_DONE)


def test_totals() -> None:
    found = [
        Removable("stages", Path("a"), 3, ""),
        Removable("checkpoints", Path("b"), 4, ""),
        Removable("stages", Path("c"), 5, ""),
    ]
    assert totals(found) == {"checkpoints": 4, "stages": 8, "leftovers": 0}


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_951, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (4_100_000_000, "4.1 GB"),
        (186_000_000_000, "186 GB"),
        (2_000_000_000_000_000, "2000 TB"),
    ],
)
def test_sizes_are_written_short(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text
