"""Algorithms whose settings, or whose stage's, could not mean anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

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
        "codpo",
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


@pytest.mark.parametrize("name", ["crpg", "crraft", "ppo", "remax", "reinforce_pp"])
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


# -- critics ------------------------------------------------------------------------------------


def test_a_critic_of_the_policy_or_a_head_needs_nothing(problems_of) -> None:
    assert problems_of("ppo", samples=1) == []
    assert problems_of("{name: ppo, critic: head}", samples=1) == []


def test_a_critic_that_is_not_there_is_found_before_anything_starts(problems_of) -> None:
    [found] = problems_of("{name: ppo, critic: ./judge}", samples=1)
    assert found == (
        f"error[no-critic] {PLACE}.critic: `judge` is no model folder: it has no config.json\n"
        "  help: a sequence-classification folder with one label, critic: policy, or critic: head"
    )


def test_a_classifier_of_several_labels_is_no_critic(problems_of) -> None:
    judge = Path("judge")
    judge.mkdir()
    config = {"architectures": ["Qwen3ForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    (judge / "config.json").write_text(json.dumps(config))
    [found] = problems_of("{name: ppo, critic: ./judge}", samples=1)
    assert found.startswith(f"error[no-critic] {PLACE}.critic: `judge` has 2 labels, a critic says")
    (judge / "config.json").write_text(json.dumps(config | {"id2label": {"0": "score"}}))
    assert problems_of("{name: ppo, critic: ./judge}", samples=1) == []


def test_a_critic_may_be_a_stage(problems_of) -> None:
    assert problems_of("{name: ppo, critic: sft}", samples=1) == []
    [found] = problems_of("{name: ppo, critic: stf}", samples=1)
    assert found == (
        f"error[unknown-stage] {PLACE}.critic: no stage `stf`\n  help: did you mean `sft`?"
    )


def test_a_critic_in_another_place_counts_by_its_content(write_pipeline) -> None:
    """Identity: the folder's content, wherever it lies."""
    from posttrain.pipeline.identity import _with_content

    for name in ("one", "two"):
        Path(name).mkdir()
        (Path(name) / "config.json").write_text("{}")
    folders = [str(Path(name).resolve()) for name in ("one", "two")]
    one, two = (_with_content({"critic": folder}, {})["critic"] for folder in folders)
    assert one == two
    (Path("two") / "config.json").write_text('{"a": 1}')
    assert _with_content({"critic": folders[1]}, {})["critic"] != one
    assert _with_content({"critic": "rm"}, {"rm": "4f1c"}) == {"critic": "4f1c"}
    assert _with_content({"critic": "head", "lr": 1.0}, {"rm": "x"}) == {
        "critic": "head",
        "lr": 1.0,
    }


def test_a_whole_critic_beside_adapters_needs_a_rate_of_its_own(problems_of) -> None:
    [found] = problems_of("{name: ppo}\n    lora: {rank: 4}", samples=1)
    assert found == (
        f"error[critic-without-rate] {PLACE}.critic_lr: with `lora` the policy learns by adapters, "
        "but the critic is trained whole, at the adapters' learning rate\n"
        "  help: critic_lr: a tenth of lr or less; or critic: head, which is small"
    )
    assert problems_of("{name: ppo, critic_lr: 1e-5}\n    lora: {rank: 4}", samples=2) == []
    assert problems_of("{name: ppo, critic: head}\n    lora: {rank: 4}", samples=2) == []


def test_a_ratio_to_who_sampled_needs_the_plain_centre(problems_of) -> None:
    algorithm = "{name: grpo, kl_in_loss: 0.1, kl_times_ratio: true}"
    assert problems_of(algorithm) == []
    [found] = problems_of(f"{algorithm}\n    off_policy: {{proximal: recompute}}")
    assert found == (
        f"error[unused-setting] {PLACE}.kl_times_ratio: the ratio would be taken to the proximal "
        "policy, not to the one that sampled\n"
        "  help: off_policy: {proximal: behaviour}; or leave `kl_times_ratio` out"
    )


def test_a_critic_whose_configuration_cannot_be_read(problems_of) -> None:
    Path("judge").mkdir()
    Path("judge/config.json").write_text("{")
    [found] = problems_of("{name: ppo, critic: ./judge}", samples=1)
    assert found.startswith(f"error[no-critic] {PLACE}.critic: `judge/config.json` cannot be read")
