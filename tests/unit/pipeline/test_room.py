"""How much of a cluster each kind of stage holds, and what is said where there is less."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from posttrain.config.document import Places
from posttrain.config.load import LoadedPipeline, load_pipeline
from posttrain.pipeline.room import Held, Room, does_not_fit, held

BIG = "suites:", "cluster: {engines: 3, gpus_per_engine: 2, gpus_per_trainer: 1}\nsuites:"


def of(loaded: LoadedPipeline, name: str) -> Room:
    return held(loaded.draft.stages[name], loaded.cluster, loaded.base_dir).all


def test_what_each_kind_of_stage_holds_at_once(write_pipeline: Callable[..., str]) -> None:
    loaded = load_pipeline(write_pipeline(*BIG))
    assert of(loaded, "rlvr") == Room(cpus=4, gpus=7)  # 3 engines of 2, a trainer of 1
    assert of(loaded, "sft") == Room(1, 1)
    assert of(loaded, "final") == Room(1, 2)
    assert of(loaded, "blank") == of(loaded, "average") == Room(0, 0)


def test_a_stages_own_resources_and_a_sweep_that_asks(write_pipeline: Callable[..., str]) -> None:
    given = ["stages.rlvr.resources={engines: 1, trainers: 2}", "stages.average.weight_pre=[0.5]"]
    loaded = load_pipeline(write_pipeline(*BIG), given)
    assert of(loaded, "rlvr") == Room(3, 4)
    assert of(loaded, "average") == Room(1, 2)


def test_judges_and_reward_models_have_gpus_of_their_own() -> None:
    changes = ["cluster={gpus_per_engine: 2, gpus_per_trainer: 1}"]
    loaded = load_pipeline("rlhf", changes)
    online = next(n for n, s in loaded.draft.stages.items() if s.kind == "online_rl")
    assert of(loaded, online) == Room(2, 2 + 1 + 1)  # engine, trainer, the ensemble
    assert of(load_pipeline("rlhf"), online) == Room(2, 0)
    rm = next(n for n, s in loaded.draft.stages.items() if s.kind == "reward_model")
    many = load_pipeline("rlhf", [*changes, f"stages.{rm}.resources.trainers=64"])
    members = many.draft.stages[rm].members  # type: ignore[attr-defined]
    assert of(many, rm) == Room(members, members)


PLACES = Places({"stages.rlvr": ("mine.yaml", 12)})
LARGE = Held(4, 4, 16, 1, 0)


def told(held_by: Held, *nodes: Room, is_local: bool = False) -> list[str]:
    problems = does_not_fit({"rlvr": held_by}, nodes, is_local, PLACES)
    return [problem.render() for problem in problems]


def test_a_stage_that_fits_is_not_mentioned() -> None:
    assert told(LARGE, Room(64, 8), Room(64, 24)) == []


@pytest.mark.parametrize(
    ("wants", "nodes", "message"),
    [
        (LARGE, [Room(64, 8)] * 3, "wants 32 GPUs at once (4 engines of 4, 16 trainers of 1), "
         "the cluster has 24 (3 nodes)"),
        (LARGE, [Room(8, 32)], "wants 20 CPU slots (4 engines, 16 trainers), the cluster has 8 "
         "(1 node)"),
        (Held(1, 8, 0, 0, 0), [Room(8, 4)] * 2, "one process wants 8 GPUs, and no node has more "
         "than 4"),
        (Held(1, 1, 0, 0, 2), [Room(8, 2)], "wants 3 GPUs at once (1 engine of 1, 2 for rewards), "
         "the cluster has 2 (1 node)"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(wants: Held, nodes: list[Room], message: str) -> None:
    (rendered,) = told(wants, *nodes)
    assert rendered == (
        f"error[does-not-fit] mine.yaml:12 stages.rlvr.resources: {message}\n"
        "  help: fewer engines or trainers here, or --wait-for-cluster 30m where nodes are on "
        "their way"
    )


def test_one_machine_is_told_of_clusters() -> None:
    (rendered,) = told(Held(1, 0, 4, 0, 0), Room(3, 0), is_local=True)
    assert "wants 5 CPU slots (1 engine, 4 trainers), this machine has 3\n" in rendered
    assert rendered.endswith(
        "fewer engines or trainers here, or `--address HOST:PORT` of a cluster"
    )
