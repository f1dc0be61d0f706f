"""What a forecast is made of: columns, parts of large systems, sizes and speeds of models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.config.pipeline import Cluster, Pipeline
from posttrain.loop.latency import AnswerLengths, EngineSpeed, System, TrainerSpeed
from posttrain.pipeline.assumptions import guessed_median
from posttrain.pipeline.calibration import fitted, lengths_with_mean
from posttrain.pipeline.device_speeds import engine_speed, model_parameters, trainer_speed
from posttrain.pipeline.forecast import staleness_columns
from posttrain.pipeline.measured import Measured, newest_measured

SYSTEM = System(
    num_engines=8,
    num_trainers=24,
    engine=EngineSpeed(0.01, 0.0, 64),
    trainer=TrainerSpeed(0.001),
    lengths=AnswerLengths(256, 0.91, 2048),
    groups_per_step=28,
    samples_per_prompt=8,
)


@pytest.mark.parametrize(
    ("maximum", "columns"),
    [
        (0, [0, 1, 2]),
        (4, [0, 1, 2, 3, 4, 5, 6]),
        (5, [0, 1, 2, 4, 5, 6, 7]),
        (16, [1, 2, 4, 8, 16, 17, 18]),
    ],
)
def test_columns_of_the_table(maximum: int, columns: list[int]) -> None:
    assert staleness_columns(maximum) == columns


def test_large_systems_are_simulated_in_part() -> None:
    assert fitted(SYSTEM, 12) == (SYSTEM, 1)  # 224 rollouts per step: whole
    # 65 536 rollouts x 12 steps by 14 000 is 56; 32 is the largest that divides engines and groups.
    large = replace(SYSTEM, num_engines=1024, groups_per_step=8192)
    part, factor = fitted(large, 12)
    assert (factor, part.num_engines, part.groups_per_step) == (32, 32, 256)
    assert part.trainer.seconds_per_token == pytest.approx(0.032)
    # Seven engines divide into nothing.
    assert fitted(replace(large, num_engines=7), 12)[1] == 1


def test_lengths_are_fitted_to_a_mean() -> None:
    lengths = lengths_with_mean(450, 0.8, 2048)
    assert lengths.mean_tokens == pytest.approx(450, abs=0.01)
    assert lengths_with_mean(12, 0.0, 32).median_tokens == pytest.approx(12)


@pytest.mark.parametrize(("longest", "median"), [(1, 1), (8, 4), (32, 16), (128, 16), (2048, 256)])
def test_lengths_that_nobody_measured(longest: int, median: int) -> None:
    assert guessed_median(longest) == median


def test_sizes_of_models(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [100, 20], "data_offsets": [0, 8000]},
        "b": {"dtype": "F32", "shape": [7], "data_offsets": [8000, 8028]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    (tmp_path / "torn.safetensors").write_bytes(b"\xff" * 8 + b"{")
    sources = {
        "scratch": {"kind": "model", "from_scratch": "micro"},
        "folder": {"kind": "model", "path": str(tmp_path)},
        "named": {"kind": "model", "path": "some-lab/Model-2.5-0.5B-Instruct"},
        "unnamed": {"kind": "model", "path": "some-lab/Model"},
    }
    trained = {
        f"{name}_sft": {"kind": "sft", "model": name, "data": "microworld/skills"}
        for name in sources
    }
    pipeline = Pipeline.model_validate({"name": "x", "stages": sources | trained})
    assert model_parameters(pipeline, "scratch_sft") == (746_560, "from scratch: micro")
    assert model_parameters(pipeline, "folder_sft") == (2007, "from its files")
    assert model_parameters(pipeline, "named_sft") == (5e8, "from its name")
    assert model_parameters(pipeline, "unnamed_sft") == (1e9, "size unknown, taken for 1 B")


def test_speeds_of_devices() -> None:
    # 1 M parameters on a core: 2 ms + 4 MB / 10 GB/s; 42 us + 2 MFLOP / 65 GFLOP/s per sequence.
    engine, name = engine_speed(Cluster(), 1e6)
    assert name == "a CPU core"
    assert engine.base_s == pytest.approx(0.0024)
    assert engine.per_sequence_s == pytest.approx(72.77e-6, rel=1e-3)
    assert engine.sync_s == pytest.approx(0.03444, rel=1e-3)
    # 6 us + 6 MFLOP / 45 GFLOP/s; a reference adds 2 MFLOP.
    assert trainer_speed(Cluster(), 1e6, 0)[0].seconds_per_token == pytest.approx(
        139.3e-6, rel=1e-3
    )
    assert trainer_speed(Cluster(), 1e6, 1)[0].seconds_per_token == pytest.approx(
        183.8e-6, rel=1e-3
    )


def test_a_run_folder_without_figures(tmp_path: Path) -> None:
    assert newest_measured(tmp_path / "runs" / "none", "rlvr") == Measured()
    folder = tmp_path / "rlvr" / "0123456789"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"axis/step": 0, "train/tokens": 5}\n{"axis/st')
    assert newest_measured(tmp_path, "rlvr") == Measured()
