"""What `plan --measure` runs: online stages at their full size, and as little else as can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.config.load import LoadedPipeline, load_pipeline, shipped_pipelines
from posttrain.config.measurement import STEPS, measurement, needed_stages
from posttrain.config.pipeline import OnlineRlStage
from posttrain.pipeline.check import check

ONLINE = [
    name
    for name in shipped_pipelines()
    if any(isinstance(s, OnlineRlStage) for s in load_pipeline(name).draft.stages.values())
]


def measured(loaded: LoadedPipeline, done: dict[str, str] | None = None, seed: int = 5) -> Any:
    return measurement(loaded, check(loaded).graph.needs, done or {}, seed)


@pytest.mark.parametrize("name", ONLINE)
def test_every_shipped_pipeline_can_be_measured(name: str) -> None:
    loaded = load_pipeline(name)
    small = measured(loaded)
    assert check(small).errors == []
    assert small.cluster == loaded.cluster
    before = loaded.pipeline.stages
    for stage_name, stage in small.pipeline.stages.items():
        if not isinstance(stage, OnlineRlStage):
            continue
        was: Any = before[stage_name]
        same = ("batch", "sampling", "staleness", "reward", "watch", "algorithm", "resources")
        assert all(getattr(stage, key) == getattr(was, key) for key in same)
        assert (stage.steps, stage.seed, stage.gates, stage.heldout) == (STEPS, 5, [], None)
    kinds = {stage.kind for stage in small.pipeline.stages.values()}
    assert "evaluate" not in kinds and "best_of_n" not in kinds


def test_only_what_an_online_stage_is_made_from_is_run(write_pipeline: Callable[..., str]) -> None:
    small = measured(load_pipeline(write_pipeline()))
    assert list(small.pipeline.stages) == ["blank", "base", "sft", "rlvr"]
    assert [s.steps for s in list(small.pipeline.stages.values())[1:]] == [2, 2, STEPS]
    assert small.pipeline.name == "mine-measure" and small.pipeline.wandb.mode == "disabled"
    assert small.pipeline.suites["abilities"].when == "only_final"


def test_a_stage_that_is_done_gives_its_model(
    write_pipeline: Callable[..., str], tmp_path: Any
) -> None:
    (tmp_path / "config.json").write_text("{}")
    small = measured(load_pipeline(write_pipeline()), {"sft": str(tmp_path), "base": "unused"})
    assert list(small.pipeline.stages) == ["sft", "rlvr"]
    start: Any = small.pipeline.stages["sft"]
    assert (start.kind, start.path) == ("model", str(tmp_path))


def test_another_seed_measures_anew(write_pipeline: Callable[..., str]) -> None:
    loaded = load_pipeline(write_pipeline())
    seeds = [measured(loaded, seed=seed).pipeline.stages["rlvr"].seed for seed in (1, 2)]
    assert seeds == [1, 2]
    others = [measured(loaded, seed=seed).pipeline.stages["sft"] for seed in (1, 2)]
    assert others[0] == others[1]  # kept from the first time


def test_an_average_on_the_way_asks_nothing(write_pipeline: Callable[..., str]) -> None:
    file = write_pipeline(
        "average: {kind: average, pre: sft, post: rlvr}",
        "average: {kind: average, pre: sft, post: rlvr, weight_pre: [0.1, 0.4],"
        " recommend: {most: gain}}\n"
        "  more: {kind: online_rl, model: average, algorithm: grpo, reward: arithmetic,"
        " data: microworld/arithmetic, steps: 9}",
    )
    small = measured(load_pipeline(file))
    assert check(small).errors == []
    assert small.pipeline.stages["average"].weight_pre == 0.1


NAMES = "abcdefg"


@given(
    edges=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6))),
    asked=st.sets(st.sampled_from(NAMES), min_size=1),
    done=st.sets(st.sampled_from(NAMES)),
)
def test_needed_stages_are_closed_and_reached(
    edges: list[tuple[int, int]], asked: set[str], done: set[str]
) -> None:
    needs: dict[str, list[str]] = {name: [] for name in NAMES}
    for a, b in edges:  # later letters need earlier ones: no cycle
        if a != b:
            needs[NAMES[max(a, b)]].append(NAMES[min(a, b)])
    found = needed_stages(asked, needs, done)
    assert asked <= found
    for name in found:
        assert name in done or set(needs[name]) <= found
        used_by = [other for other in found - done if name in needs[other]]
        assert name in asked or used_by
