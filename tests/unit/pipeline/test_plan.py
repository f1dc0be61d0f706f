"""Plans: which stages are kept, which are done again, and why, in one line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.pipeline.plan import RunPlan
from posttrain.pipeline.store import RunFolder

Plans = Callable[..., RunPlan]
Finish = Callable[..., None]
ALL = ("blank", "base", "sft", "rlvr", "average", "final")


def reasons(plan: RunPlan) -> dict[str, str]:
    """Why each stage is not kept."""
    return {stage.name: stage.why for stage in plan.stages if not stage.kept}


def test_a_fresh_folder_has_new_stages_in_order(plan_of: Plans) -> None:
    plan = plan_of()
    assert tuple(stage.name for stage in plan.stages) == ALL
    assert reasons(plan) == dict.fromkeys(ALL, "new")
    assert plan["rlvr"].needs == ("sft",)
    assert plan["average"].needs == ("sft", "rlvr")
    assert plan["final"].needs == ("base", "sft", "rlvr", "average")
    assert (plan["rlvr"].kind, plan["rlvr"].kept) == ("online_rl", False)


def test_what_is_done_is_kept(plan_of: Plans, finish: Finish) -> None:
    finish(plan_of())
    assert reasons(plan_of()) == {}


def test_half_a_run_goes_on_where_it_ended(plan_of: Plans, finish: Finish) -> None:
    finish(plan_of(), "blank", "base")
    assert reasons(plan_of()) == dict.fromkeys(("sft", "rlvr", "average", "final"), "new")


@pytest.mark.parametrize(
    ("override", "why"),
    [
        (
            "stages.rlvr.algorithm.lr=3e-7",
            {
                "rlvr": "changed: algorithm.lr 3e-4 → 3e-7",
                "average": "upstream: rlvr",
                "final": "upstream: rlvr",
            },
        ),
        (
            "stages.sft.steps=11",
            {
                "sft": "changed: steps 10 → 11",
                "rlvr": "upstream: sft",
                "average": "upstream: sft",
                "final": "upstream: sft",
            },
        ),
        (
            "stages.average.weight_pre=0.3",
            {"average": "changed: weight_pre 0.2 → 0.3", "final": "upstream: average"},
        ),
        (
            "stages.rlvr.batch.prompts=16",
            {
                "rlvr": "changed: batch.prompts 32 → 16",
                "average": "upstream: rlvr",
                "final": "upstream: rlvr",
            },
        ),
        (
            "stages.average.seed=5",
            # 1816049639 comes from the pipeline's seed, 0, and the name `average`
            {"average": "changed: seed 1816049639 → 5", "final": "upstream: average"},
        ),
        (
            "suites.abilities.prompts_per_task=7",
            {"final": "changed: suite.prompts_per_task 256 → 7"},
        ),
        ("suites.abilities.tax_since=sft", {"final": "changed: suite.tax_since base → sft"}),
        (
            "stages.final.recommend={tax_at_most: 1}",
            {"final": "changed: recommend.most (none) → gain, recommend.tax_at_most (none) → 1"},
        ),
    ],
)
def test_a_change_redoes_the_stage_and_what_depends_on_it(
    plan_of: Plans, finish: Finish, override: str, why: dict[str, str]
) -> None:
    finish(plan_of())
    assert reasons(plan_of(override)) == why


@pytest.mark.parametrize(
    "override",
    [
        "stages.rlvr.gates=[arithmetic > 3]",
        "stages.rlvr.description=better",
        "stages.rlvr.resources.engines=2",
        "stages.rlvr.checkpoint_every=3",
        "stages.rlvr.logprob_check_every=3",
        "stages.rlvr.reward.timeout_s=9",
        "stages.rlvr.batch.tokens_per_micro_batch=512",
        "suites.abilities.when=only_final",
        "cluster.engines=2",
        "cluster.trainers=2",
        "cluster.engine.kv_cache_mb=64",
        "wandb.mode=disabled",
        "description=better",
    ],
)
def test_what_changes_no_number_redoes_nothing(
    plan_of: Plans, finish: Finish, override: str
) -> None:
    finish(plan_of())
    assert reasons(plan_of(override)) == {}


def test_another_precision_is_another_run(plan_of: Plans, finish: Finish) -> None:
    finish(plan_of())
    why = reasons(plan_of("cluster.precision=bf16"))
    assert why == dict.fromkeys(ALL, "changed: precision fp32 → bf16")


def test_the_seed_of_the_pipeline_reaches_every_stage(plan_of: Plans, finish: Finish) -> None:
    finish(plan_of())
    why = reasons(plan_of("seed=1"))
    assert list(why) == list(ALL)
    assert why["blank"] == "changed: seed 1844256461 → 127843292"


def test_a_stage_that_keeps_its_own_seed_is_kept(plan_of: Plans, finish: Finish) -> None:
    own = [f"stages.{name}.seed=5" for name in ALL]
    finish(plan_of(*own))
    assert reasons(plan_of("seed=1", *own)) == {}


def test_the_content_of_a_file_counts_not_its_place(plan_of: Plans, finish: Finish) -> None:
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    finish(plan_of("stages.sft.data=rows.jsonl"))
    Path("moved.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    assert reasons(plan_of("stages.sft.data=moved.jsonl")) == {}
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "c"}\n')
    assert reasons(plan_of("stages.sft.data=rows.jsonl")) == {
        "sft": "changed: the content of a file",
        "rlvr": "upstream: sft",
        "average": "upstream: sft",
        "final": "upstream: sft",
    }


def test_the_newest_finished_stage_is_what_a_change_is_told_from(
    plan_of: Plans, finish: Finish
) -> None:
    finish(plan_of("stages.sft.steps=20"), "sft", ended=5.0)
    finish(plan_of("stages.sft.steps=30"), "sft", ended=4.0)
    assert reasons(plan_of("stages.sft.steps=40"))["sft"] == "changed: steps 20 → 40"
    assert "sft" not in reasons(plan_of("stages.sft.steps=30"))


def test_a_failed_stage_is_not_kept(plan_of: Plans, finish: Finish, run_folder: RunFolder) -> None:
    plan = plan_of()
    finish(plan)
    rlvr = run_folder.stage("rlvr", plan["rlvr"].identity)
    rlvr.write_manifest({"state": "failed", "ended": 2.0})
    assert reasons(plan_of()) == {"rlvr": "new"}


def test_what_follows_a_stage_done_again_keeps_its_result(plan_of: Plans, finish: Finish) -> None:
    """Identities of inputs count, not the hour at which they were made."""
    plan = plan_of()
    finish(plan, "rlvr", "average", "final")
    assert reasons(plan_of()) == {"blank": "new", "base": "new", "sft": "new"}


def test_the_resolved_configuration_is_complete(plan_of: Plans) -> None:
    plan = plan_of("cluster.precision=bf16")
    config = plan["rlvr"].config()
    assert config["kind"] == "online_rl"
    assert config["precision"] == "bf16"
    assert config["seed"] == plan["rlvr"].seed
    assert config["algorithm"]["name"] == "grpo"
    assert config["algorithm"]["settings"]["lr"] == 3e-4
    assert config["algorithm"]["settings"]["max_grad_norm"] == 1.0  # a default of the algorithm's
    assert config["staleness"] == {
        "max": 1,
        "ahead": None,
        "sync_every": 1,
        "policy": "wait",
    }
    assert plan["final"].config()["suite"]["prompts_per_task"] == 256


def test_an_evaluation_may_ask_more_than_its_suite(plan_of: Plans) -> None:
    plan = plan_of("stages.final.suite={use: abilities, prompts_per_task: 9}")
    suite = plan["final"].suite
    assert suite is not None
    assert (suite.prompts_per_task, suite.keep) == (9, ["microworld/copy"])
    assert plan.suites["abilities"].prompts_per_task == 256
    assert plan["final"].suite_fingerprint != plan.fingerprints["abilities"]


def test_data_is_named_with_its_fingerprint(plan_of: Plans) -> None:
    plan = plan_of()
    [data] = plan["rlvr"].data
    assert data["path"] == "microworld/arithmetic"
    assert len(data["fingerprint"]) == 16
    assert plan["average"].data == ()
