"""Identities: what counts, what does not, and how a change is put into words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.config.answers import BestOfNStage
from posttrain.config.average import AverageStage
from posttrain.config.pipeline import EvaluateStage, ModelStage, OnlineRlStage
from posttrain.config.plugin import Plugin
from posttrain.config.plugins import complete_settings
from posttrain.pipeline.identity import (
    BY_CONTENT,
    UNCOUNTED,
    explain_change,
    identity,
    model_fingerprint,
)

STAGE: dict[str, Any] = {
    "kind": "online_rl",
    "model": "sft",
    "algorithm": "grpo",
    "reward": "gsm8k",
    "data": "rows.jsonl",
    "steps": 60,
}


def of(changes: dict[str, Any] | None = None, **arguments: Any) -> str:
    stage = OnlineRlStage.model_validate(STAGE | (changes or {}))
    defaults: dict[str, Any] = {
        "plugins": {
            "algorithm": (stage.algorithm.name, {"lr": 1e-6}),
            "reward": (stage.reward.name, {}),
        },
        "inputs": {"sft": "aaaa", "other": "aaaa"},
        "data_fingerprints": ["f00d"],
        "precision": "fp32",
        "seed": 7,
    }
    return identity(stage=stage, **(defaults | arguments))


def test_an_identity_is_ten_hex_digits_and_the_same_every_time() -> None:
    assert of() == of()
    assert len(of()) == 10
    assert int(of(), 16) >= 0


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 61},
        {"lora": {}},
        {"lora": {"rank": 8}},
        {"batch": {"prompts": 16}},
        {"batch": {"samples_per_prompt": 4}},
        {"staleness": 2},
        {"staleness": {"max": 1, "ahead": 0}},
        {"sampling": {"temperature": 0.9}},
        {"sampling": {"max_new_tokens": 128}},
        {"data": {"path": "rows.jsonl", "columns": {"prompt": "q"}}},
        {"data": {"path": "rows.jsonl", "take": 5}},
        {"data": {"path": "rows.jsonl", "too_long": "drop"}},
        {"reward": "arithmetic"},
    ],
    ids=str,
)
def test_what_changes_numbers_counts(changes: dict[str, Any]) -> None:
    assert of(changes) != of()


@pytest.mark.parametrize(
    "arguments",
    [
        {"plugins": {"algorithm": ("grpo", {"lr": 2e-6}), "reward": ("gsm8k", {})}},
        {"plugins": {"algorithm": ("grpo", {"lr": 1e-6, "new": 1}), "reward": ("gsm8k", {})}},
        {"inputs": {"sft": "bbbb"}},
        {"data_fingerprints": ["beef"]},
        {"precision": "bf16"},
        {"seed": 8},
    ],
    ids=str,
)
def test_what_comes_from_elsewhere_counts(arguments: dict[str, Any]) -> None:
    assert of(**arguments) != of()


UNCOUNTED_CHANGES: dict[str, dict[str, Any]] = {
    "description": {"description": "better"},
    "gates": {"gates": ["tax < 4"]},
    "resources": {"resources": {"engines": 2}},
    "batch.tokens_per_micro_batch": {"batch": {"tokens_per_micro_batch": 64}},
    "checkpoint_every": {"checkpoint_every": 3},
    "logprob_check_every": {"logprob_check_every": 3},
    "reference": {"reference": "offload"},
    "watch": {"watch": {"name": "gsm8k"}},
    "reward.timeout_s": {"reward": {"name": "gsm8k", "timeout_s": 30}},
    "reward.processes": {"reward": {"name": "gsm8k", "processes": 4}},
    "reward.process_memory_mb": {"reward": {"name": "gsm8k", "process_memory_mb": 512}},
    "data.path": {"data": "moved/rows.jsonl"},
    "data.name": {"data": {"path": "rows.jsonl", "name": "main"}},
    "data.split": {"data": {"path": "rows.jsonl", "split": "all"}},
    "data.revision": {"data": {"path": "rows.jsonl", "revision": "v1"}},
}


@pytest.mark.parametrize("key", UNCOUNTED_CHANGES)
def test_what_changes_no_number_does_not_count(key: str) -> None:
    assert key in (*UNCOUNTED, *BY_CONTENT)
    assert of(UNCOUNTED_CHANGES[key]) == of()


OF_ANSWERS: dict[str, Any] = {
    "kind": "best_of_n",
    "samples": "pool",
    "scored_by": {"name": "gsm8k"},
    "gold": {"name": "arithmetic"},
}
HOW_IT_IS_RUN = {"timeout_s": 30, "processes": 4, "process_memory_mb": 512}


def of_answers(key: str, changes: dict[str, Any]) -> str:
    stage = BestOfNStage.model_validate(OF_ANSWERS | {key: OF_ANSWERS[key] | changes})
    plugins = {each: (getattr(stage, each).name, {}) for each in ("scored_by", "gold")}
    return identity(
        stage=stage,
        plugins=plugins,
        inputs={"pool": "aaaa"},
        data_fingerprints=[],
        precision="fp32",
        seed=7,
    )


@pytest.mark.parametrize("key", ["scored_by", "gold"])
def test_how_answers_are_scored_does_not_count(key: str) -> None:
    for setting, value in HOW_IT_IS_RUN.items():
        assert f"{key}.{setting}" in UNCOUNTED
        assert of_answers(key, {setting: value}) == of_answers(key, {})
    assert of_answers(key, {"name": "math"}) != of_answers(key, {})


def test_every_uncounted_key_has_a_case_above() -> None:
    elsewhere = {
        "path",
        "suite",
        "data.mix",
        "data.decontaminate",
        *(f"{key}.{each}" for key in ("scored_by", "gold") for each in HOW_IT_IS_RUN),
    }  # of other kinds of stages and mixtures, below
    assert {*UNCOUNTED, *BY_CONTENT} == {*UNCOUNTED_CHANGES, *elsewhere}


def test_a_mixture_counts_by_content_names_order_and_settings() -> None:
    def mixture(fingerprints: list[str], **parts: Any) -> str:
        return of({"data": {"mix": parts}}, data_fingerprints=fingerprints)

    same = mixture(["1", "2"], a="a.jsonl", b="b.jsonl")
    assert mixture(["1", "2"], a="moved/a.jsonl", b={"path": "b.jsonl", "split": "x"}) == same
    assert mixture(["1", "3"], a="a.jsonl", b="b.jsonl") != same
    assert mixture(["2", "1"], b="b.jsonl", a="a.jsonl") != same
    assert mixture(["1", "2"], a="a.jsonl", c="b.jsonl") != same
    assert mixture(["1", "2"], a="a.jsonl", b={"path": "b.jsonl", "take": 9}) != same
    assert of({"data": {"mix": {"a": "a.jsonl"}}}) != of({"data": "a.jsonl"})


def test_a_change_of_a_mixture_is_put_into_words() -> None:
    def data(**takes: int) -> dict[str, Any]:
        return {"data": {"mix": {name: {"take": take} for name, take in takes.items()}}}

    assert explain_change(data(a=1, b=2), data(a=1, b=3)) == "data.mix.b.take 2 → 3"
    assert explain_change(data(a=1, b=2), data(b=2, a=1)) == "data.mix a, b → b, a"


def test_names_of_inputs_do_not_count_but_their_roles_do() -> None:
    assert of({"model": "other"}) == of()
    inputs = {"a": "1111", "b": "2222"}
    values = {"kind": "average", "method": "linear"}
    arguments: dict[str, Any] = {
        "plugins": {"averaging": ("linear", {})},
        "inputs": inputs,
        "data_fingerprints": [],
        "precision": "fp32",
        "seed": 7,
    }
    there = AverageStage.model_validate(values | {"pre": "a", "post": "b"})
    back = AverageStage.model_validate(values | {"pre": "b", "post": "a"})
    assert identity(stage=there, **arguments) != identity(stage=back, **arguments)


def test_averages_of_several_models() -> None:
    def of_models(seeds: dict[str, str], **changes: Any) -> str:
        stage = AverageStage.model_validate(
            {"kind": "average", "method": "soup", "models": list(seeds), **changes}
        )
        return identity(
            stage=stage,
            plugins={"averaging": ("soup", {})},
            inputs=seeds,
            data_fingerprints=[],
            precision="fp32",
            seed=7,
        )

    same = of_models({"a": "1111", "b": "2222"})
    assert of_models({"x": "1111", "y": "2222"}) == same
    assert of_models({"b": "2222", "a": "1111"}) != same  # the result is stored like the first
    assert of_models({"a": "1111", "b": "3333"}) != same
    assert of_models({"a": "1111", "b": "2222"}, weights=[0.5, 0.5]) != same


def test_an_average_of_a_pair_is_what_it_was_before_there_were_lists() -> None:
    stage = AverageStage.model_validate({"kind": "average", "pre": "a", "post": "b"})
    found = identity(
        stage=stage,
        plugins={"averaging": ("linear", {})},
        inputs={"a": "1111", "b": "2222"},
        data_fingerprints=[],
        precision="fp32",
        seed=7,
    )
    assert found == "3304d8d423"


def test_an_evaluation_counts_names_and_questions() -> None:
    def evaluation(inputs: dict[str, str], suite_fingerprint: str) -> str:
        stage = EvaluateStage.model_validate(
            {"kind": "evaluate", "models": list(inputs), "suite": "abilities"}
        )
        return identity(
            stage=stage,
            plugins={},
            inputs=inputs,
            data_fingerprints=[],
            precision="fp32",
            seed=7,
            suite_fingerprint=suite_fingerprint,
        )

    same = evaluation({"sft": "1111"}, "q1")
    assert evaluation({"sft": "1111"}, "q1") == same
    assert evaluation({"sft": "1111"}, "q2") != same
    assert evaluation({"renamed": "1111"}, "q1") != same


def test_a_model_counts_by_its_content(tmp_path: Path) -> None:
    def model(folder: str) -> str:
        stage = ModelStage.model_validate({"kind": "model", "path": folder})
        return identity(
            stage=stage, plugins={}, inputs={}, data_fingerprints=[], precision="fp32", seed=7
        )

    for name, weights in (("a", b"w" * 100), ("b", b"w" * 100), ("c", b"v" * 100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    first, copy, other = (model(str(tmp_path / name)) for name in "abc")
    assert first == copy
    assert first != other
    assert model("Qwen/Qwen2.5-0.5B") != model("Qwen/Qwen2.5-1.5B")


@pytest.mark.parametrize(
    ("model", "counts"),
    [({"path": "MODEL"}, False), ({"path": "MODEL", "tiny": True}, True), ({}, True)],
    ids=["read", "random layers of its kind", "random"],
)
def test_a_seed_counts_where_it_draws_weights(
    tmp_path: Path, model: dict[str, Any], counts: bool
) -> None:
    (tmp_path / "config.json").write_text("{}")
    made = {"path": str(tmp_path)} if "path" in model else {"from_scratch": "micro"}
    stage = ModelStage.model_validate({"kind": "model"} | model | made)

    def of_seed(seed: int) -> str:
        return identity(
            stage=stage, plugins={}, inputs={}, data_fingerprints=[], precision="fp32", seed=seed
        )

    assert (of_seed(7) != of_seed(8)) is counts


def test_large_weights_are_sampled_and_a_training_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(10 << 20))
    before = model_fingerprint(str(tmp_path))
    file.write_bytes(bytes([1]) * (10 << 20))
    assert model_fingerprint(str(tmp_path)) != before


def test_a_template_file_counts_by_its_content(tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"

    def model(text: str) -> str:
        template.write_text(text)
        stage = ModelStage(kind="model", path="a/b", chat_template=str(template))
        return identity(
            stage=stage, plugins={}, inputs={}, data_fingerprints=[], precision="fp32", seed=7
        )

    assert model("{{ messages }}") == model("{{ messages }}")
    assert model("{{ messages }}") != model("{{ messages }}!")


def test_a_plugin_file_counts_by_name_and_content_not_by_place(tmp_path: Path) -> None:
    files = [tmp_path / "a" / "mine.py", tmp_path / "b" / "mine.py", tmp_path / "c" / "mine.py"]
    for file, source in zip(files, ("x = 1", "x = 1", "x = 2"), strict=True):
        file.parent.mkdir()
        file.write_text(source)
    first, moved, changed = (
        of(plugins={"algorithm": ("grpo", {"lr": 1e-6}), "reward": (str(file), {})})
        for file in files
    )
    assert first == moved
    assert first != changed


def test_a_change_is_put_into_words() -> None:
    old = {"algorithm": {"name": "grpo", "lr": 1e-6}, "steps": 60, "gates": [], "model": "sft"}
    new = {"algorithm": {"name": "grpo", "lr": 3e-7}, "steps": 60, "gates": ["x"], "model": "sft"}
    assert explain_change(old, new) == "algorithm.lr 1e-6 → 3e-7"
    assert explain_change(old, old | {"gates": ["y"]}) == ""
    assert explain_change(old, old | {"epochs": 2}) == "epochs (none) → 2"
    many = old | {"steps": 1, "a": 1, "b": 2, "c": 3}
    assert explain_change(old, many) == "steps 60 → 1, a (none) → 1, b (none) → 2, 1 more"


def test_the_model_that_judges_counts_and_what_it_costs_does_not() -> None:
    """By the identity of its stage, wherever the judge stands; prices change no judgement."""
    from posttrain.pipeline.identity import _with_content

    gated = {"judges": {"taste": {"reward": {"name": "judge", "settings": {"stage": "critic"}}}}}
    inputs = {"critic": "4f1c"}
    found = _with_content(gated, inputs, {("stage", "critic")})
    assert found["judges"]["taste"]["reward"]["settings"] == {"stage": "4f1c"}
    assert _with_content({"stage": "critic"}, inputs, set()) == {"stage": "critic"}

    judge = Plugin(name="judge", settings={"endpoint": "http://h/v1", "model": "m", "retries": 9})
    counted = complete_settings("reward", judge, None, counted_only=True)
    assert "retries" not in counted and "cache_folder" not in counted
    assert counted["model"] == "m" and counted["high"] == 10
