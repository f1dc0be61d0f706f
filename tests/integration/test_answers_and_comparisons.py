"""Comparisons, and answers that a model makes itself, through the real command line: an ensemble
of reward models, and policies that learn from each.
"""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from online_run import lines

from posttrain.prompts.microworld import generate

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
    augment: {variants: 3}
    data: {path: microworld/preferences, take: 1200}
    steps: 14
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
    data: "${stages.rm.data}"
    steps: 6
  thumbs:
    kind: preference
    uses: preference/small
    model: sft
    algorithm: {name: kto, lr: 1e-3, rows: judged}
    data: thumbs.jsonl
    steps: 3
  align:
    kind: online_rl
    model: dpo
    algorithm: {name: ppo, lr: 1e-4, critic: rm}
    reward:
      combine: weighted
      parts:
        liked: {reward: {ensemble: rm, combine: uwo, fuse: 2}}
        short: {reward: {name: length, low: 4, high: 10, unit: characters}, weight: 0.1}
    watch: request
    data: {path: microworld/requests, take: 200}
    batch: {prompts: 8, samples_per_prompt: 2}
    steps: 3
    staleness: 1
    sampling: {max_new_tokens: 16}
  own:
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
    models: [own, raft]
    data: {path: microworld/requests, split: test}
    gold: request
    prompts: 64
    max_new_tokens: 16
"""


ANSWERS = ("chosen", "rejected")


@pytest.fixture(scope="module")
def stages(workplace):
    """The folder of each stage of one whole run, whose driver was killed twice: while the second
    member was trained, and while answers were made (`parts`: when which of them were written).
    """
    (workplace.path / "answers.yaml").write_text(PIPELINE.replace("NAME", workplace.name))
    pairs = list(generate("microworld/preferences", "train", seed=1, count=300))
    judged = [(row["prompt"], row[key], key == "chosen") for row in pairs for key in ANSWERS]
    rows = [dict(zip(("prompt", "completion", "label"), each, strict=True)) for each in judged]
    (workplace.path / "thumbs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for made in ("rm/*/members/0/reward_models.json", "pairs/*/dataset/samples/*.parquet"):
        killed = workplace.start("run", "answers.yaml")
        workplace.wait_for(lambda made=made: list(workplace.run_folder.glob(made)), killed)
        workplace.kill_driver(killed)
    (folder,) = (workplace.run_folder / "pairs").iterdir()
    parts = {path.name: path.stat().st_mtime_ns for path in folder.glob("dataset/samples/*")}
    done = workplace.posttrain("run", "answers.yaml")
    assert done.returncode == 0, done.stderr
    names = yaml.safe_load(PIPELINE)["stages"]
    return {name: workplace.stage_folder(name) for name in names} | {"parts": parts}


def metrics_of(folder):
    return lines(folder / "metrics.jsonl")


def series(folder, name):
    return [row[name] for row in metrics_of(folder) if name in row]


def test_an_ensemble_is_one_artifact_and_knows_what_it_can_do(stages):
    manifest = json.loads((stages["rm"] / "manifest.json").read_text())
    assert manifest["artifact"] == {"type": "reward_models", "path": "reward_models"}
    document = json.loads((stages["rm"] / "reward_models" / "reward_models.json").read_text())
    assert len(document["members"]) == 2 and document["heldout_rows"] == 240
    assert document["together"]["pair_accuracy"] > 0.55
    assert document["together"]["contrast_pairs"] >= 1
    assert not (stages["rm"] / "checkpoints").exists() and not (stages["rm"] / "members").exists()


def test_misspelt_prompts_are_trained_on_and_counted(stages):
    events = lines(stages["rm"] / "events.jsonl")
    told = [each["text"] for each in events if each["name"] == "augmented"]
    assert len(set(told)) == 1 and told[0].endswith("of 960 comparisons are trained on")


def test_a_finished_member_is_not_trained_again(stages):
    starts = [row["axis/step"] for row in metrics_of(stages["rm"]) if "train/loss" in row]
    assert sorted(set(starts)) == list(range(1, 29))
    assert starts.count(14) == 1  # the first member's last step


def test_the_policy_tells_held_out_pairs_apart(stages):
    held_out = series(stages["dpo"], "pref/heldout_accuracy")
    assert held_out[0] == 0.5 and held_out[-1] > 0.5
    assert (stages["dpo"] / "model" / "config.json").exists()


def test_the_policy_learns_from_answers_that_are_good_or_bad(stages):
    margins = series(stages["thumbs"], "pref/heldout_margin")
    assert margins[0] == 0.0 and margins[-1] > 0.1
    assert series(stages["thumbs"], "train/loss")[0] == pytest.approx(0.5, abs=0.02)
    assert (stages["thumbs"] / "model" / "config.json").exists()


def test_every_answer_is_scored_by_every_member_and_watched(stages):
    spread, watched = (
        series(stages["align"], f"reward/{n}") for n in ("members_std", "watch_mean")
    )
    assert len(spread) == len(watched) == 3
    assert all(each > 0 for each in spread) and all(0 <= each <= 1 for each in watched)
    assert len(series(stages["align"], "reward/parts/short")) == 3


def test_the_critic_starts_from_the_ensembles_first_member(stages):
    config = yaml.safe_load((stages["align"] / "config.yaml").read_text())
    assert config["algorithm"]["settings"]["critic"] == "rm"
    assert all(abs(each) < 100 for each in series(stages["align"], "train/value_loss"))


def rows_of(folder):
    return lines(folder / "dataset" / "rows.jsonl")


def test_every_answer_is_there_once_and_none_was_made_twice(stages):
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
    held_out = series(stages["own"], "pref/heldout_accuracy")
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
    table = pq.read_table(stages["good"] / "dataset" / "samples").to_pylist()
    mean = sum(row["score"] for row in table) / len(table)
    assert points[0]["gold"]["value"] == pytest.approx(mean, abs=1e-6)


def test_the_sweep_knows_how_far_each_model_went(stages):
    found = json.loads((stages["sweep"] / "measurements.json").read_text())["over_optimisation"]
    distance = {point["model"]: point["kl"]["value"] for point in found["points"]}
    assert distance["sft"] == 0.0 and distance["own"] > 0.01
    assert found["best"] in distance


def test_the_report_shows_them(workplace, stages):
    done = workplace.posttrain("report")
    assert done.returncode == 0, done.stderr
    page = (Path(workplace.run_folder) / "report.html").read_text()
    assert "Comparisons right" in page and "member 1, held out" in page
    assert "pairs right 50" in page
    assert "2,560 answers → " in page and "best of 8: gold" in page
