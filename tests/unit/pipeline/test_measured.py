"""Which figures a plan takes: of a run, of `plan --measure`, or some of each."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from posttrain.pipeline.measured import Measured, known_figures


def write(run: Path, at: float, tokens: float, rate: float, start: str = "{kind: sft}") -> None:
    """A run of `rlvr` whose answers had so many tokens and whose trainer did `rate` per second."""
    folder = run / "rlvr" / "0123456789"
    folder.mkdir(parents=True)
    row = {"attempt": 0, "answer/length_tokens": tokens, "train/tokens_per_s": rate}
    rows = [json.dumps(row | {"axis/step": step}) for step in range(5)]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    stages = f"stages: {{sft: {start}, rlvr: {{kind: online_rl, model: sft}}}}\n"
    (run / "pipeline.yaml").write_text(stages)
    os.utime(folder / "metrics.jsonl", (at, at))


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """(the run's folder, that of its measurement)"""
    return tmp_path / "mine", tmp_path / "mine-measure"


def figures(run: Path) -> tuple[float | None, float | None]:
    found = known_figures(run, "rlvr")
    return found.answer_tokens, found.trainer_tokens_per_s


def test_nothing_is_known(runs: tuple[Path, Path]) -> None:
    assert known_figures(runs[0], "rlvr") == Measured()


def test_the_first_step_is_left_out_and_the_folder_named(runs: tuple[Path, Path]) -> None:
    write(runs[1], at=100.0, tokens=32, rate=900)
    found = known_figures(runs[0], "rlvr")
    assert (found.num_steps, found.ended) == (5, 100.0)
    assert found.path == str(runs[1] / "rlvr" / "0123456789")


def test_two_steps_of_training_say_nothing_of_lengths(runs: tuple[Path, Path]) -> None:
    write(runs[1], at=100.0, tokens=32, rate=900)
    assert figures(runs[0]) == (None, 900)


@pytest.mark.parametrize("start", ["{kind: model, path: some-lab/Model}"])
def test_a_model_that_is_as_it_will_be_does(runs: tuple[Path, Path], start: str) -> None:
    write(runs[1], at=100.0, tokens=32, rate=900, start=start)
    assert figures(runs[0]) == (32, 900)


def test_random_weights_do_not(runs: tuple[Path, Path]) -> None:
    write(runs[1], at=100.0, tokens=32, rate=900, start="{kind: model, from_scratch: micro}")
    assert figures(runs[0]) == (None, 900)


def test_newer_speeds_and_the_lengths_of_a_run(runs: tuple[Path, Path]) -> None:
    write(runs[0], at=50.0, tokens=12, rate=700)
    write(runs[1], at=100.0, tokens=32, rate=900)
    assert figures(runs[0]) == (12, 900)


def test_a_run_after_the_measurement_knows_better(runs: tuple[Path, Path]) -> None:
    write(runs[0], at=150.0, tokens=12, rate=700)
    write(runs[1], at=100.0, tokens=32, rate=900)
    assert figures(runs[0]) == (12, 700)
