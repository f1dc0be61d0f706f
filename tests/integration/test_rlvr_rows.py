"""`pipelines/rlvr.yaml` on real rows: three sources of prompts, a reward each, two real steps."""

import gzip
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from posttrain.reward.sandbox import available

MODEL = Path(os.environ.get("POSTTRAIN_MODELS", "../shared/models")).resolve() / "stories260K"
DATA = Path(os.environ.get("POSTTRAIN_DATA", "../shared/data")).resolve()
SOURCES = ("code", "instructions", "math")


@pytest.fixture(scope="module")
def run(workplace):
    """The run's folder, and what was said on the way."""
    if not MODEL.is_dir() or not DATA.is_dir():
        pytest.skip("no real model and rows here: set POSTTRAIN_MODELS and POSTTRAIN_DATA")
    if available() is None:
        pytest.skip("no sandbox works here")
    # The rows here are IFEval's own: half to train on, half to be asked, and one in both.
    content = gzip.decompress((DATA / "ifeval" / "test.jsonl.gz").read_bytes()).decode()
    lines = content.splitlines(keepends=True)
    (workplace.path / "train.jsonl").write_text("".join(lines[:200]))
    (workplace.path / "asked.jsonl").write_text("".join(lines[199:]))
    mix, tasks = "stages.rlvr.data.mix", "suites.abilities.tasks"
    paths = {
        f"{mix}.math": DATA / "gsm8k" / "train.jsonl.gz",
        f"{mix}.instructions": workplace.path / "train.jsonl",
        f"{mix}.code": DATA / "mbpp" / "train.jsonl.gz",
        f"{tasks}.gsm8k.data": DATA / "gsm8k" / "test.jsonl.gz",
        f"{tasks}.ifeval.data": workplace.path / "asked.jsonl",
        f"{tasks}.humaneval.data": DATA / "humaneval" / "test.jsonl.gz",
    }
    overrides = [
        f"stages.base.path={MODEL}",
        *(f"{key}.path={path}" for key, path in paths.items()),
        *(f"{key}.too_long=drop" for key in paths),
        *(f"{tasks}.{task}.max_new_tokens=32" for task in ("gsm8k", "ifeval", "humaneval")),
        f"{mix}.math.take=300",
        "suites.abilities.prompts_per_task=4",
        "stages.rlvr.steps=3",
        "stages.rlvr.batch.prompts=9",
        "stages.rlvr.batch.samples_per_prompt=2",
        "stages.rlvr.sampling.max_new_tokens=24",
        "stages.rlvr.gates=[]",
        "wandb.mode=disabled",
        f"name={workplace.name}",
    ]
    done = workplace.posttrain("run", "rlvr", *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    return workplace.run_folder, done.stderr


def rows_of(run):
    (folder,) = (run / "rlvr").iterdir()
    steps = sorted((folder / "rollouts").glob("step-*.parquet"))
    assert len(steps) == 3
    return [row for step in steps for row in pq.read_table(step).to_pylist()]


def test_every_source_is_scored_by_a_reward_of_its_own(run):
    rows = rows_of(run[0])
    assert len(rows) == 3 * 9 * 2
    parts = {source: [] for source in SOURCES}
    for row in rows:
        parts[row["source"]].append(json.loads(row["parts"]))
    assert all(found == {} for found in parts["math"])
    assert all({"asked", "followed/strict"} <= found.keys() for found in parts["instructions"])
    assert parts["code"] and all("tests_passed" in found for found in parts["code"])
    assert all("judge/no_loops" in found for found in parts["code"])


def test_sources_parts_and_judges_are_told_and_nothing_broke(run):
    (folder,) = (run[0] / "rlvr").iterdir()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = {name for row in rows for name in row}
    assert {f"reward/{source}/mean" for source in SOURCES} <= told
    assert {"judge/no_loops/violated_share", "reward/parts/tests_passed"} <= told
    broken = [row["verifier/failed_share"] for row in rows if "verifier/failed_share" in row]
    assert broken and set(broken) == {0.0}


def test_what_the_suite_asks_is_not_trained_on(run):
    (folder,) = (run[0] / "rlvr").iterdir()
    report = json.loads((folder / "decontamination.json").read_text())
    assert report["sources"]["instructions"]["left_out"] >= 1
    assert report["sources"]["code"]["rows"] > 300


def test_the_suite_asks_all_three_kinds(run):
    final = json.loads(next((run[0] / "final").glob("*/measurements.json")).read_text())["models"]
    for model in ("base", "rlvr"):
        assert set(final[model]) == {"gsm8k", "ifeval", "humaneval"}
        assert all(0.0 <= task["value"] <= 1.0 for task in final[model].values())
        shares = final[model]["ifeval"]["details"]
        assert shares["prompts, strict"] == final[model]["ifeval"]["value"]
        assert shares["instructions, loose"] >= shares["instructions, strict"] >= 0.0


def test_the_report_shows_what_each_source_earned_and_each_judge_refused(run):
    page = (run[0] / "report.html").read_text()
    assert 'id="rewards"' in page and "no_loops" in page
    assert "instructions, loose" in page
