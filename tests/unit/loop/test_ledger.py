import json

import pytest

from posttrain.loop.ledger import Ledger, LedgerState
from posttrain.loop.records import scored_group_from_json, scored_group_to_json
from posttrain.types import Prompt, Rollout, RolloutGroup, Score, ScoredGroup


def test_settled_draws_collapse_into_a_mark():
    state = LedgerState(next_draw=5)
    for draw in (1, 0, 3):
        state.settle(draw)
    assert (state.settled_below, state.settled_beyond) == (2, {3})
    assert state.unsettled() == [2, 4]
    assert LedgerState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_settling_twice_is_a_bug_and_says_so():
    state = LedgerState(next_draw=1)
    state.settle(0)
    with pytest.raises(ValueError, match="draw 0 is settled twice"):
        state.settle(0)


def test_the_file_tells_each_draws_story(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert [ledger.admit(), ledger.admit()] == [0, 1]
    ledger.scored(0, start_version=0, mean_score=0.5)
    ledger.trained(0, step=0)
    ledger.dropped(1, "verifier hung")
    ledger.close()
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [(line["event"], line["draw"]) for line in lines] == [
        ("admitted", 0), ("admitted", 1), ("scored", 0), ("trained", 0), ("dropped", 1),
    ]  # fmt: skip
    assert lines[4]["reason"] == "verifier hung"


def test_groups_survive_json():
    prompt = Prompt("a/1", "a", (5, 6), "q", {"answer": "1"})
    rollout = Rollout("3", 0, (5, 6), (7, 8), (1, 1), (-0.5, -0.25), (2, 3), "x", "stop")
    group = RolloutGroup("3", 3, prompt, (rollout,), 2)
    scored = ScoredGroup(group, (Score(1.0, True, {"format": 1.0}),))
    assert scored_group_from_json(json.loads(json.dumps(scored_group_to_json(scored)))) == scored
