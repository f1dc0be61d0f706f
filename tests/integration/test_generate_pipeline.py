"""Answers made, scored, selected and learnt from, through the real command line."""

import json
import os
import signal
from pathlib import Path

import pytest

PIPELINE = """
name: NAME
seed: 3
cluster: laptop
wandb: {mode: disabled}
stages:
  blank: {kind: model, from_scratch: micro}
  sft:
    kind: sft
    uses: sft/pretrain
    model: blank
    data: {path: microworld/requests_answered, take: 2000}
    steps: 60
  rm:
    kind: reward_model
    uses: reward_model/small
    model: sft
    members: 2
    data: {path: microworld/preferences, take: 1200}
    steps: 10
  pairs:
    kind: generate
    model: sft
    data: {path: microworld/requests, take: 160}
    samples_per_prompt: 16
    sampling: {max_new_tokens: 16}
    scored_by: {ensemble: rm, combine: uwo}
    select: {name: best_worst, min_margin: 0.2}
  dpo:
    kind: preference
    uses: preference/small
    model: sft
    algorithm: {name: dpo, lr: 1e-4}
    data: {stage: pairs}
    steps: 6
  good:
    kind: generate
    model: sft
    data: {path: microworld/requests, take: 40}
    samples_per_prompt: 8
    sampling: {max_new_tokens: 16}
    scored_by: request
    select: {name: best, count: 2}
  raft:
    kind: sft
    uses: sft/small
    model: sft
    data: {mix: {good: {stage: good}, skills: {path: microworld/skills, take: 100}}}
    steps: 4
  bon: {kind: best_of_n, samples: good, scored_by: {ensemble: rm, combine: wco}, gold: request}
  sweep:
    kind: over_optimisation
    model: sft
    models: [dpo, raft]
    data: {path: microworld/requests, split: test}
    gold: request
    prompts: 64
    max_new_tokens: 16
"""


@pytest.fixture(scope="module")
def stages(workplace):
    """The folder of each stage of a run whose driver was killed while answers were made."""
    (workplace.path / "answers.yaml").write_text(PIPELINE.replace("NAME", workplace.name))
    first = workplace.start("run", "answers.yaml")
    workplace.wait_for(
        lambda: list((workplace.run_folder / "pairs").glob("*/dataset/samples/*.parquet")), first
    )
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    (folder,) = (workplace.run_folder / "pairs").iterdir()
    parts = {path.name: path.stat().st_mtime_ns for path in folder.glob("dataset/samples/*")}
    done = workplace.posttrain("run", "answers.yaml")
    assert done.returncode == 0, done.stderr
    names = ("pairs", "dpo", "good", "raft", "bon", "sweep")
    return {name: workplace.stage_folder(name) for name in names} | {"parts": parts}


def rows_of(folder: Path) -> list[dict]:
    return [
        json.loads(line) for line in (folder / "dataset" / "rows.jsonl").read_text().splitlines()
    ]


def test_every_answer_is_there_once_and_none_was_made_twice(stages):
    import pyarrow.parquet as pq

    table = pq.read_table(stages["pairs"] / "dataset" / "samples").to_pylist()
    keys = {(row["number"], row["sample"]) for row in table}
    assert len(table) == len(keys) == 160 * 16
    assert all(row["score"] is not None for row in table)
    now = {
        p.name: p.stat().st_mtime_ns for p in (stages["pairs"] / "dataset" / "samples").iterdir()
    }
    whole = {name: at for name, at in stages["parts"].items() if name.endswith(".parquet")}
    assert whole and {name: now[name] for name in whole} == whole


def test_pairs_are_as_far_apart_as_was_asked_for(stages):
    rows = rows_of(stages["pairs"])
    assert 80 < len(rows) <= 160
    assert all(row["chosen_score"] - row["rejected_score"] > 0.2 for row in rows)
    manifest = json.loads((stages["pairs"] / "manifest.json").read_text())
    assert manifest["artifact"] == {"type": "dataset", "path": "dataset"}


def test_the_policy_learns_from_its_own_pairs(stages):
    rows = [json.loads(line) for line in (stages["dpo"] / "metrics.jsonl").read_text().splitlines()]
    held_out = [row["pref/heldout_accuracy"] for row in rows if "pref/heldout_accuracy" in row]
    assert held_out[0] == 0.5 and held_out[-1] > 0.55


def test_the_best_answers_are_rows_to_imitate(stages):
    rows = rows_of(stages["good"])
    assert len(rows) == 80 and all(0 < row["score"] <= 1 for row in rows)
    assert (stages["raft"] / "model" / "config.json").exists()


def test_more_answers_to_choose_from_are_worth_more(stages):
    points = json.loads((stages["bon"] / "measurements.json").read_text())["best_of_n"]["points"]
    assert [point["n"] for point in points] == [1, 2, 4, 8]
    proxies = [point["proxy"]["value"] for point in points]
    assert proxies == sorted(proxies)
    # With one answer the gold reward is the mean of all answers, whoever chooses.
    import pyarrow.parquet as pq

    table = pq.read_table(stages["good"] / "dataset" / "samples").to_pylist()
    mean = sum(row["score"] for row in table) / len(table)
    assert points[0]["gold"]["value"] == pytest.approx(mean, abs=1e-6)


def test_the_sweep_knows_how_far_each_model_went(stages):
    found = json.loads((stages["sweep"] / "measurements.json").read_text())["over_optimisation"]
    distance = {point["model"]: point["kl"]["value"] for point in found["points"]}
    assert distance["sft"] == 0.0 and distance["dpo"] > 0.01
    assert found["best"] in distance


def test_the_report_is_made_of_them(workplace, stages):
    done = workplace.posttrain("report")
    assert done.returncode == 0, done.stderr
    page = (Path(workplace.run_folder) / "report.html").read_text()
    assert "2,560 answers → " in page and "best of 8: gold" in page
