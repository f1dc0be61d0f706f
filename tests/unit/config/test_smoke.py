"""Pipelines cut down to two steps of every stage: what is set, what stays, what still holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.config.load import LoadedPipeline, load_pipeline, shipped_pipelines
from posttrain.config.pipeline import Cluster, EngineSettings
from posttrain.config.smoke import smoke, smoke_cluster, smoke_name, smoke_values
from posttrain.errors import InputError
from posttrain.pipeline.check import check

# One of everything that is cut down, for GPUs of a cluster.
WIDE = """\
name: wide
cluster: {engines: 8, trainers: 24, gpus_per_engine: 2, gpus_per_trainer: 1, precision: bf16,
          weight_sync: nccl, engine: {max_running: 98, kv_cache_mb: 40000}}
wandb: {mode: online}
suites:
  abilities:
    gain: [gsm8k]
    keep: [perplexity/wikitext]
    prompts_per_task: 512
    tax_since: sft
stages:
  base: {kind: model, path: some-lab/Model-8B, chat_template: tulu}
  sft: {kind: sft, model: base, epochs: 2, batch: {rows: 96}, lora: {rank: 64}, holdout_rows: 500,
        early_stopping: {patience: 2, every: 50},
        data: {mix: {chat: some-lab/chat, math: {path: some-lab/math, take: 40}}}}
  rm: {kind: reward_model, model: sft, members: 5, data: some-lab/pairs, augment: {variants: 9},
       resources: {trainers: 4}}
  rlvr:
    kind: online_rl
    model: sft
    algorithm: {name: ppo, lr: 3e-7, critic: ./critic, critic_warmup_steps: 20}
    reward: {combine: weighted, processes: 32,
             parts: {all: {reward: {ensemble: rm}},
                     three: {reward: {ensemble: rm, members: 3}}}}
    data: some-lab/prompts
    batch: {prompts: 224, samples_per_prompt: 1, optimiser_steps: 4, epochs: 4}
    steps: 446
    heldout: {prompts: 64, every: 20}
    staleness: {max: 3, ahead: 2}
    sampling: {temperature: 0.7, max_new_tokens: 2048}
    resources: {engines: 8, trainers: 24}
    gates: [gain > sft.gain]
  pool: {kind: generate, model: rlvr, data: some-lab/prompts, samples_per_prompt: 64,
         scored_by: {name: gsm8k, timeout_s: 3}, select: {name: best_worst, min_margin: 0.5}}
  bon: {kind: best_of_n, samples: pool, n: [1, 4, 64], scored_by: gsm8k, gold: gsm8k}
  dpo: {kind: preference, model: sft, algorithm: dpo, batch: {rows: 72}, data: {stage: pool}}
  average: {kind: average, method: layerwise, pre: sft, post: rlvr, weight_pre: [0.1, 0.2, 0.3],
            samples: {take: 5000, keep_best: 2000}}
  final: {kind: evaluate, models: [sft, average], suite: {use: abilities, prompts_per_task: 1319}}
"""


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedPipeline:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "critic").mkdir()
    (tmp_path / "critic" / "config.json").write_text('{"architectures": ["XForCausalLM"]}')
    (tmp_path / "wide.yaml").write_text(WIDE)
    return load_pipeline("wide.yaml")


def errors_of(loaded: LoadedPipeline) -> list[str]:
    return [problem.render() for problem in check(loaded).errors]


@pytest.mark.parametrize("gpus", [0, 8])
@pytest.mark.parametrize("name", shipped_pipelines())
def test_every_shipped_pipeline_has_two_steps_per_stage_and_passes_check(
    name: str, gpus: int
) -> None:
    loaded = load_pipeline(name)
    small = smoke(loaded, gpus)
    assert check(small).problems == check(loaded).problems == ()
    assert small.pipeline.name == f"{name}-smoke"
    assert list(small.pipeline.stages) == list(loaded.pipeline.stages)
    trained = [s for s in small.pipeline.stages.values() if hasattr(s, "steps")]
    assert trained and all(s.steps == 2 for s in trained)  # type: ignore[attr-defined]
    assert all(getattr(s, "epochs", None) is None for s in trained)
    assert check(small).graph.needs == check(loaded).graph.needs


@pytest.mark.parametrize("name", shipped_pipelines())
def test_cutting_twice_changes_nothing(name: str) -> None:
    once = smoke(load_pipeline(name), 0)
    assert smoke(once, 0).raw == once.raw


def test_what_is_stored_reads_back_as_the_same_pipeline(
    wide: LoadedPipeline, tmp_path: Path
) -> None:
    import yaml

    small = smoke(wide, 0)
    (tmp_path / "stored.yaml").write_text(yaml.safe_dump(small.raw, sort_keys=False))
    again = load_pipeline(str(tmp_path / "stored.yaml"))
    assert again.pipeline == small.pipeline and again.cluster == small.cluster
    assert smoke(again, 0).pipeline == small.pipeline  # as when a smoke run is resumed


def test_sizes_of_a_wide_pipeline(wide: LoadedPipeline) -> None:
    assert errors_of(wide) == []
    small = smoke(wide, 0)
    assert errors_of(small) == []
    stages: dict[str, Any] = dict(small.pipeline.stages)
    sft, rm, rlvr, pool = (stages[name] for name in ("sft", "rm", "rlvr", "pool"))
    assert (sft.batch.rows, sft.lora.rank, sft.holdout_rows, sft.early_stopping.every) == (
        4, 4, 4, 1,
    )  # fmt: skip
    assert {name: part.take for name, part in sft.data.mix.items()} == {"chat": 256, "math": 40}
    # Two members would do, but a reward asks for the first three.
    assert (rm.members, rm.augment.variants, rm.resources.trainers) == (3, 2, None)
    batch = rlvr.batch
    assert (batch.prompts, batch.samples_per_prompt, batch.optimiser_steps, batch.epochs) == (
        2, 1, 2, 2,
    )  # fmt: skip
    assert (rlvr.resources.engines, rlvr.resources.trainers) == (None, None)
    assert (rlvr.heldout.prompts, rlvr.heldout.every) == (2, 1)
    assert (rlvr.checkpoint_every, rlvr.logprob_check_every) == (1, 1)
    assert rlvr.algorithm.settings == {"lr": 3e-7, "critic": "policy", "critic_warmup_steps": 1}
    assert rlvr.reward.processes == 1 and pool.data.take == 8 and pool.samples_per_prompt == 4
    assert stages["bon"].n == [1, 4]
    assert stages["average"].weight_pre == [0.1, 0.3]
    assert (stages["average"].samples.take, stages["average"].samples.keep_best) == (8, 4)
    assert stages["final"].suite.prompts_per_task == 4
    suite = small.pipeline.suites["abilities"]
    assert suite.prompts_per_task == 4
    assert suite.tasks["gsm8k"].max_new_tokens == 16 and suite.tasks["gsm8k"].data.take == 64


def test_what_is_no_size_stays(wide: LoadedPipeline) -> None:
    before, after = wide.pipeline.stages["rlvr"], smoke(wide, 0).pipeline.stages["rlvr"]
    for key in ("staleness", "gates", "filter_no_signal", "watch", "off_policy", "model"):
        assert getattr(after, key) == getattr(before, key)
    assert after.reward.settings == before.reward.settings  # type: ignore[attr-defined]
    assert after.sampling.temperature == 0.7  # type: ignore[attr-defined]


def test_equal_answers_make_pairs_by_length_and_limits_of_the_verifier_stay(
    wide: LoadedPipeline,
) -> None:
    pool: Any = smoke(wide, 0).pipeline.stages["pool"]
    assert pool.select.settings == {"min_margin": 0}
    assert (pool.scored_by.name, pool.scored_by.timeout_s) == ("weighted", 3)
    parts = pool.scored_by.settings["parts"]
    assert parts["scored_by"]["reward"]["name"] == "gsm8k"
    assert parts["by_length"]["weight"] == 0.001


def test_a_model_from_elsewhere_becomes_tiny_unless_the_file_says_otherwise(
    wide: LoadedPipeline,
) -> None:
    base: Any = smoke(wide, 0).pipeline.stages["base"]
    assert (base.tiny, base.path, base.chat_template) == (True, "some-lab/Model-8B", "tulu")
    kept: Any = smoke(load_pipeline("wide.yaml", ["stages.base.tiny=false"]), 0).pipeline
    assert kept.stages["base"].tiny is False
    blank: Any = smoke(load_pipeline("quickstart"), 0).pipeline.stages["blank"]
    assert (blank.from_scratch, blank.tiny) == ("micro", False)


def test_tiny_needs_a_path(write_pipeline: Callable[..., str]) -> None:
    file = write_pipeline("from_scratch: micro}", "from_scratch: micro, tiny: true}")
    [problem] = load_pipeline(file).problems
    assert problem.code == "unused-setting"


def test_runs_are_tracked_offline_or_not_at_all(wide: LoadedPipeline) -> None:
    assert smoke(wide, 0).pipeline.wandb.mode == "offline"
    off = load_pipeline("wide.yaml", ["wandb.mode=disabled"])
    assert smoke(off, 0).pipeline.wandb.mode == "disabled"


def test_a_pipeline_with_errors_is_refused(write_pipeline: Callable[..., str]) -> None:
    with pytest.raises(InputError):
        smoke(load_pipeline(write_pipeline("steps: 60", "steps: -1")), 0)


def test_small_values_stay_as_they_are(write_pipeline: Callable[..., str]) -> None:
    loaded = load_pipeline(
        write_pipeline(),
        [
            "stages.sft.batch.rows=1",
            "stages.sft.data.take=5",
            "suites.abilities.prompts_per_task=2",
        ],
    )
    values = smoke_values(loaded.pipeline, loaded.cluster, 0)
    assert ("stages", "sft", "steps") in values and values[("stages", "sft", "steps")] == 2
    unset = [("stages", "sft", "batch", "rows"), ("stages", "sft", "data", "take")]
    unset += [("suites", "abilities", "prompts_per_task")]
    assert [key for key in unset if key in values] == []


def test_name() -> None:
    assert smoke_name("mine") == "mine-smoke" == smoke_name("mine-smoke")


CLUSTERS = st.builds(
    Cluster,
    engines=st.integers(1, 64),
    trainers=st.integers(1, 64),
    gpus_per_engine=st.integers(0, 8),
    gpus_per_trainer=st.integers(0, 8),
    precision=st.sampled_from(["fp32", "bf16"]),
    engine=st.builds(EngineSettings, max_running=st.integers(1, 512)),
)


@given(cluster=CLUSTERS, gpus=st.integers(0, 8))
def test_a_cluster_fits_the_machine(cluster: Cluster, gpus: int) -> None:
    small = smoke_cluster(cluster, gpus)
    assert (small.engines, small.trainers) == (1, 1)
    wanted = small.gpus_per_engine + small.gpus_per_trainer
    assert wanted <= gpus
    assert small.engine.max_running == min(16, cluster.engine.max_running)
    if wanted:  # as the file has it, but for the numbers
        assert small.precision == cluster.precision
        assert (small.gpus_per_engine > 0) == (cluster.gpus_per_engine > 0)
    else:
        assert (small.precision, small.weight_sync) == ("fp32", "shm")
    asked = min(1, cluster.gpus_per_engine) + min(1, cluster.gpus_per_trainer)
    assert bool(wanted) == (0 < asked <= gpus)
