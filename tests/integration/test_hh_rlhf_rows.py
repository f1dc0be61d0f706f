"""`pipelines/hh_rlhf.yaml` on people's comparisons and a real model: every stage, a few steps."""

import json
import os
from pathlib import Path

import pytest

MODEL = Path(os.environ.get("POSTTRAIN_MODELS", "../shared/models")).resolve() / "stories260K"
DATA = Path(os.environ.get("POSTTRAIN_DATA", "../shared/data")).resolve()
ROWS = 600  # of each file


@pytest.fixture(scope="module")
def run(workplace):
    """The run's folder."""
    rows = DATA / "hh_rlhf" / "helpful-rejection-sampled.test.jsonl.gz"
    if not MODEL.is_dir() or not rows.is_file():
        pytest.skip("no real model and rows here: set POSTTRAIN_MODELS and POSTTRAIN_DATA")
    wikitext = "suites.abilities.tasks.perplexity/wikitext.data.path"
    text = DATA / "pretrain_text" / "wikitext2_valid_test.test.jsonl.gz"
    overrides = [
        f"stages.base.path={MODEL}",
        "stages.base.chat_template=plain",  # a tokenizer without words for roles
        f"stages.sft.data.path={rows}",
        f"stages.sft.data.take={ROWS}",
        f"{wikitext}={text}",
        "suites.abilities.prompts_per_task=4",
        *(f"stages.{stage}.steps=4" for stage in ("sft", "rm", "dpo", "align")),
        *(f"stages.{stage}.batch.rows=8" for stage in ("sft", "rm", "dpo")),
        "stages.sft.algorithm.lr=1e-3",
        "stages.rm.algorithm.lr=1e-3",
        "stages.rm.members=2",
        "stages.align.batch.prompts=8",
        "stages.align.sampling.max_new_tokens=24",
        "wandb.mode=disabled",
        f"name={workplace.name}",
    ]
    done = workplace.posttrain("run", "hh_rlhf", *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    return workplace.run_folder


def metrics_of(run, stage):
    (folder,) = (run / stage).iterdir()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events_of(run, stage):
    (folder,) = (run / stage).iterdir()
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", ["rm", "dpo"])
def test_rows_that_compare_nothing_are_counted(run, stage):
    (told,) = [each for each in events_of(run, stage) if each["name"] == "comparisons-left-out"]
    assert "both answers are the same 12" in told["text"]
    assert told["counts"] == {
        "both answers are the same": 12,
        "the prompts of the two answers differ": 1,
    }


def test_members_score_and_the_policy_moves(run):
    rows = metrics_of(run, "rm")
    accuracy = [row["rm/pair_accuracy"] for row in rows if "rm/pair_accuracy" in row]
    assert len(accuracy) == 1 and 0.3 < accuracy[0] < 0.9
    margins = [row["pref/margin"] for row in metrics_of(run, "dpo") if "pref/margin" in row]
    assert margins[0] == pytest.approx(0, abs=0.02) and len(margins) == 4


def test_every_answer_is_scored_by_all_members(run):
    rows = [row for row in metrics_of(run, "align") if "reward/members_std" in row]
    assert len(rows) == 4 and all(row["reward/members_std"] > 0 for row in rows)
    assert sum(row.get("groups/dropped", 0) for row in rows) == 0
