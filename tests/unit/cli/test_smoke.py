"""`run --smoke`: GPUs that it counts, what it says, and when it stops before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.cli.smoke import conclusion, cut_down, introduction, num_gpus
from posttrain.config.load import load_pipeline
from posttrain.pipeline.store import RunFolder

GPUS = (
    "cluster: {engines: 8, trainers: 24, gpus_per_engine: 1, gpus_per_trainer: 1, precision: bf16}"
)


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """Three GPUs, and what else a driver puts beside them."""
    for name in ("nvidia0", "nvidia1", "nvidia7", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, 3), ("0,1", 2), ("", 0), ("-1", 0), ("0,1,2,3,4", 3), ("GPU-5f", 1)],
)
def test_gpus_are_counted(devices: Path, visible: str | None, expected: int) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert num_gpus(environment, devices) == expected


def test_a_running_cluster_keeps_its_gpus(write_pipeline: Callable[..., str]) -> None:
    file = write_pipeline("name: mine\n", f"name: mine\n{GPUS}\n")
    small = cut_down(load_pipeline(file), "ray://head:10001").cluster
    assert (small.engines, small.trainers, small.gpus_per_engine) == (1, 1, 1)
    assert small.precision == "bf16"


def test_it_says_what_is_not_what_the_file_says(write_pipeline: Callable[..., str]) -> None:
    file = write_pipeline(
        "name: mine\n", f"name: mine\n{GPUS}\n", "from_scratch: micro", "path: lab/Model-8B"
    )
    loaded = load_pipeline(file)
    from posttrain.config.smoke import smoke

    lines = introduction(loaded, smoke(loaded, 0))
    assert lines[0].startswith("smoke: 2 steps of every stage")
    assert lines[1] == (
        "  blank: a tiny random model of the architecture of lab/Model-8B, with its tokenizer; with"
        " its own weights: stages.blank.tiny=false"
    )
    assert lines[2] == (
        "  8 engines + 24 trainers on GPUs in bf16 in the file, here 1 engine + 1 trainer on the"
        " CPU in fp32"
    )


def test_it_ends_with_the_gates_of_this_run_and_the_next_command(tmp_path: Path) -> None:
    def gate(time: float, verdict: str) -> str:
        text = f"gain ({time:g} ± 2.0) > 60: {verdict}"
        event = {"time": time, "name": "gate", "stage": "sft", "text": text, "verdict": verdict}
        return json.dumps(event)

    other = json.dumps({"time": 12.0, "name": "measured", "stage": "sft"})
    (tmp_path / "events.jsonl").write_text(
        "\n".join([gate(1, "fail"), other, gate(11, "fail")]) + "\n"
    )
    first, last = conclusion("mine.yaml", RunFolder(tmp_path), began=10.0)
    assert first == "  gate sft: gain (11 ± 2.0) > 60: fail"
    assert last.startswith("smoke passed in ") and last.endswith("posttrain run mine.yaml")


def test_what_is_wrong_with_the_whole_file_is_said_first(
    write_pipeline: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut down, the batch would have been fine: rows shared by one trainer."""
    uneven = "{kind: sft, model: base, batch: {rows: 10}, resources: {trainers: 4}, "
    file = write_pipeline("sft: {kind: sft, model: base, ", f"sft: {uneven}")
    assert main(["run", file, "--smoke"]) == 2
    assert "batch-not-divisible" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
