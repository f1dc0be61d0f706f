"""Algorithms whose settings, or whose stage's, could not mean anything."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from posttrain.cli.explanations import EXPLANATIONS
from posttrain.config.load import load_pipeline
from posttrain.pipeline.check import check

PLACE = "mine.yaml:11 stages.rlvr.algorithm"


@pytest.fixture
def problems_of(write_pipeline: Callable[..., str]) -> Callable[..., list[str]]:
    """Of the sound pipeline with another algorithm, and so many answers per prompt."""

    def find(algorithm: str, samples: int = 8) -> list[str]:
        file = write_pipeline(
            "{name: grpo, lr: 3e-4}", algorithm,
            "samples_per_prompt: 8", f"samples_per_prompt: {samples}",
        )  # fmt: skip
        return [problem.render() for problem in check(load_pipeline(file, ())).problems]

    return find


@pytest.mark.parametrize(
    "name",
    [
        "cispo",
        "dapo",
        "dr_grpo",
        "grpo",
        "gspo",
        "rloo",
        "sapo",
        "{name: reinforce_pp, baseline: group}",
    ],
)
def test_a_group_baseline_needs_a_group(problems_of, name: str) -> None:
    [found] = problems_of(name, samples=1)
    bare = "reinforce_pp" if name.startswith("{") else name
    assert found == (
        "error[impossible-group] mine.yaml:14 stages.rlvr.batch.samples_per_prompt: 1, but "
        f"{bare} compares the samples of one prompt\n"
        "  help: 2 or more (8 is usual), or algorithm: remax, which needs one"
    )
    assert problems_of(name, samples=2) == []


@pytest.mark.parametrize("name", ["ppo", "remax", "reinforce_pp"])
def test_other_baselines_do_with_one_answer(problems_of, name: str) -> None:
    assert problems_of(name, samples=1) == []


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (
            "{name: rloo, kl_in_reward: 0.05, kl_in_loss: 0.05}",
            f"error[charged-twice] {PLACE}: KL is in the reward (kl_in_reward: 0.05) and in the "
            "loss (kl_in_loss: 0.05)\n  help: keep one; PPO as published uses kl_in_reward",
        ),
        (
            "{name: ppo, missing_eos_penalty: 1, missing_eos_score: -10}",
            f"error[charged-twice] {PLACE}: an unfinished answer's score is lowered "
            "(missing_eos_penalty: 1) and replaced (missing_eos_score: -10)\n"
            "  help: keep one; Tülu 3 replaces it",
        ),
        (
            "{name: grpo, kl_target: 6}",
            f"error[unused-setting] {PLACE}: `kl_target` would do nothing: only `kl_in_reward` is "
            "adapted\n  help: kl_in_reward: 0.05; or leave `kl_target` out",
        ),
        (
            "{name: grpo, critic_lr: 1e-5}",
            f"error[unknown-key] {PLACE}: no key `critic_lr`\n",
        ),
        (
            "{name: cispo, dual_clip: 3}",
            f"error[unknown-key] {PLACE}: no key `dual_clip`\n",
        ),
    ],
)
def test_settings_that_contradict_one_another(problems_of, algorithm: str, expected: str) -> None:
    [found] = problems_of(algorithm)
    assert found.startswith(expected) if expected.endswith("\n") else found == expected


def test_charged_twice_has_an_explanation() -> None:
    assert len(EXPLANATIONS["charged-twice"]) > 50
