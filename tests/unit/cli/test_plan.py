"""`posttrain plan`: its lines, its JSON, where figures come from, and what it must not import."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.cli import main

Write = Callable[..., str]

BIG = """\
name: big
cluster:
  {engines: 8, trainers: 1, gpus_per_engine: 1, gpus_per_trainer: 1, precision: bf16,
   engine: {max_running: 98}}
stages:
  base: {kind: model, path: some-lab/Model-8B}
  rlvr:
    kind: online_rl
    model: base
    algorithm: {name: grpo, lr: 3e-7}
    reward: arithmetic
    data: microworld/arithmetic
    batch: {prompts: 28, samples_per_prompt: 8, tokens_per_micro_batch: 16384}
    steps: 446
    staleness: 3
    sampling: {max_new_tokens: 2048}
"""

LAPTOP = """\
name: laptop
cluster: laptop
suites:
  abilities:
    gain: [microworld/arithmetic]
    keep: [microworld/copy, microworld/reverse, microworld/sort, microworld/count]
    prompts_per_task: 256
stages:
  blank: {kind: model, from_scratch: micro}
  base: {kind: sft, uses: sft/pretrain, model: blank, data: microworld/skills}
  sft: {kind: sft, uses: sft/pretrain, model: base, data: microworld/arithmetic_worked, steps: 600}
  rlvr:
    kind: online_rl
    model: sft
    algorithm: grpo
    reward: arithmetic
    data: microworld/arithmetic
    batch: {prompts: 32, samples_per_prompt: 8}
    steps: 60
    staleness: 1
    sampling: {max_new_tokens: 32}
  average: {kind: average, method: linear, pre: sft, post: rlvr, weight_pre: 0.2}
  final: {kind: evaluate, models: [base, sft, rlvr, average],
          suite: {use: abilities, prompts_per_task: 1024}}
"""


@pytest.fixture
def planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """`planned("laptop.yaml", "--json")`: the lines that plan prints, 80 columns wide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("laptop.yaml").write_text(LAPTOP)

    def run(*arguments: str) -> list[str]:
        assert main(["plan", *arguments]) == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_a_laptop(planned: Callable[..., list[str]]) -> None:
    lines = planned("laptop.yaml")
    assert max(len(line) for line in lines) <= 80
    assert lines[:9] == [
        "laptop: 6 stages to do, 0 kept",
        "  blank → base → sft → rlvr → average → final",
        " stage    why     time  work",
        " blank    new        ?",
        " base     new        ?  64 rows = 1 step; 600 steps = 38 400 rows",
        " sft      new        ?  64 rows = 1 step; 600 steps = 38 400 rows",
        " rlvr     new     1:07  60 steps (below)",
        " average  new        ?",
        " final    new        ?  4 models × 5 tasks × 1 024 prompts = 20 480 answers",
    ]
    assert lines[9:] == ONE_ENGINE


ONE_ENGINE = [
    "rlvr on 1 engine + 1 trainer: 32 prompts × 8 samples = 256 rollouts = 1 step = 1",
    "  new weight version; 60 steps = 15 360 rollouts.",
    "  About 34 tokens per rollout: 8.7 k tokens / 1 trainer = 8.7 k each = 2",
    "  micro-batches (limit 8 192).",
    "  At most (1 + 1) × 256 = 512 rollouts are under way or waiting; about 247 are",
    "  expected to be.",
    "  The longest answer (32 tokens at 76 tokens/s) takes 0.42 s = 0.46 steps: that",
    "  is what staleness must hide.",
    "  staleness             0      [1]        2        3",
    "  ahead                 0        1        1        1",
    "  s per step         1.33    0.916    0.916    0.915",
    "  trainers busy      69 %    100 %    100 %    100 %",
    "  engines busy       28 %     41 %     41 %     41 %",
    "  running each        167      167      167      166",
    "  mean age            0.0      1.0      1.0      1.0",
    "  oldest                0        1        1        1",
    "  The run's own coordination on a virtual clock, 39 steps of each setting. [1]",
    "  is what the file says; 0 is synchronous. An engine has room for 256.",
    "advice   keep it: nothing is faster, or as fast with younger answers. The",
    "         devices allow no other split.",
    "law      asynchronous is at most f / x times as fast as all devices generating,",
    "         then all training (0.728 s per step). Trainers are f = 50 % of the",
    "         devices, training is x = 63 % of that step: at most 0.795 times; here",
    "         0.795.",
    "assumes  preset, not measured: answers of 18 tokens (half of them up to 16,",
    "         longest 32); spread of lengths 0.91 (log-normal); prompts of 16 tokens;",
    "         0.75 M parameters (from scratch: micro), each process on a CPU core; a",
    "         trainer does 9 475 tokens/s; new weights stop an engine for 33 ms; a",
    "         group is scored in 10 ms; an engine does 7 310 tokens/s at 32 and",
    "         13 523 tokens/s at 256 running. To measure: posttrain plan FILE",
    "         --measure.",
]


def test_eight_engines_and_24_trainers(planned: Callable[..., list[str]]) -> None:
    Path("big.yaml").write_text(BIG)
    lines = planned("big.yaml", "--engines", "8", "--trainers", "24")
    assert max(len(line) for line in lines) <= 80
    assert lines[5:] == EIGHT_ENGINES


EIGHT_ENGINES = [
    "rlvr on 8 engines + 24 trainers: 28 prompts × 8 samples = 224 rollouts = 1 step",
    "  = 1 new weight version; 446 steps = 99 904 rollouts.",
    "  About 633 tokens per rollout: 142 k tokens / 24 trainers = 5.9 k each = 1",
    "  micro-batch (limit 16 384).",
    "  At most (3 + 1) × 224 = 896 rollouts are under way or waiting; about 848 are",
    "  expected to be.",
    "  The longest answer (2 048 tokens at 77 tokens/s) takes 27 s = 3.5 steps: that",
    "  is what staleness must hide.",
    "  staleness             0        1        2      [3]        4        5",
    "  ahead                 0        1        2        3        4        4",
    "  s per step         26.4     13.8     9.91     7.66     6.45     5.64",
    "  trainers busy       3 %      5 %      7 %      9 %     11 %     13 %",
    "  engines busy       72 %     89 %     89 %     88 %     86 %     84 %",
    "  running each        7.2       11       16       21       26       32",
    "  mean age            0.0      1.0      2.0      3.0      4.0      4.0",
    "  oldest                0        1        2        3        4        5",
    "  The run's own coordination on a virtual clock, 40 steps of each setting. [3]",
    "  is what the file says; 0 is synchronous. An engine has room for 98.",
    "advice   staleness: {ahead: 4, max: 6}: 5.14 s per step in place of 7.66; mean",
    "         age 4.0 in place of 3.0. resources: {engines: 22, trainers: 10}: 4.83 s",
    "         per step in place of 5.14; mean age 4.0. Older answers teach less: how",
    "         much, a clock cannot tell. In all 21 min 3 s less.",
    "law      asynchronous is at most f / x times as fast as all devices generating,",
    "         then all training (25.9 s per step). Trainers are f = 75 % of the",
    "         devices, training is x = 2 % of that step: at most 35.8 times; here",
    "         3.38.",
    "assumes  preset, not measured: answers of 377 tokens (half of them up to 256,",
    "         longest 2048); spread of lengths 0.91 (log-normal); prompts of 256",
    "         tokens; 8.0 B parameters (from its name), each process on an 80 GB GPU",
    "         at 40 % of 989 TFLOP/s and 60 % of 3.35 TB/s; a trainer does 8 242",
    "         tokens/s; new weights stop an engine for 900 ms; a group is scored in",
    "         10 ms; an engine does 955 tokens/s at 12 and 5 798 tokens/s at 98",
    "         running. To measure: posttrain plan FILE --measure.",
]


def test_figures_of_an_earlier_run_replace_presets(
    planned: Callable[..., list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "laptop" / "rlvr" / "0123456789"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("batch: {prompts: 32, samples_per_prompt: 8}\n")
    row = {
        "attempt": 0,
        "answer/length_tokens": 12.0,
        "train/tokens": 256 * 18.0,
        "train/tokens_per_s": 9000.0,
        "engine/tokens_per_s": 6000.0,
        "engine/busy_share": 0.75,
        "weights/sync_ms": 40.0,
        "verifier/latency_ms": 20.0,
    }
    lines = [json.dumps(row | {"axis/step": step}) for step in range(5)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    samples = [json.dumps({"step": 0, "tokens": tokens}) for tokens in (6, 24) * 32]
    (folder / "samples.jsonl").write_text("\n".join(samples) + "\n")
    document = json.loads("\n".join(planned("laptop.yaml", "--json")))
    forecast = document["stages"][3]["forecast"]
    assert forecast["measured_in"] == "runs/laptop/rlvr/0123456789"
    assert {each["source"] for each in forecast["assumptions"]} == {"measured"}
    system = forecast["system"]
    assert system["prompt_tokens"] == pytest.approx(6.0)  # 18 tokens a rollout less 12
    assert system["trainer"]["seconds_per_token"] == pytest.approx(1 / 9000)
    assert system["engine"]["sync_s"] == pytest.approx(0.04)
    assert system["score_s"] == pytest.approx(0.02)
    assert system["lengths"]["sigma"] == pytest.approx(0.6931, abs=1e-4)  # ln 2: 12 / 2, 12 * 2
    # A busy engine gives 6000 / 0.75 = 8000 tokens/s: so does the simulated one.
    present = next(column for column in forecast["columns"] if column["is_present"])
    result = present["result"]
    answers = result["tokens_per_s"] - result["rollouts_per_s"] * 6
    assert answers / result["engine_busy_share"] == pytest.approx(8000, rel=0.02)


def test_json_says_the_same(planned: Callable[..., list[str]]) -> None:
    document = json.loads("\n".join(planned("laptop.yaml", "--json", "--engines", "2")))
    assert (document["schema"], document["name"]) == (1, "laptop")
    stages = document["stages"]
    assert [(stage["name"], stage["why"]) for stage in stages][:2] == [
        ("blank", "new"),
        ("base", "new"),
    ]
    assert [stage["seconds_from"] for stage in stages] == ["", "", "", "forecast", "", ""]
    forecast = stages[3]["forecast"]
    assert (forecast["system"]["num_engines"], forecast["system"]["num_trainers"]) == (2, 1)
    assert [column["schedule"]["max_staleness"] for column in forecast["columns"]] == [0, 1, 2, 3]
    assert forecast["law"]["trainer_share"] == pytest.approx(1 / 3)
    assert set(forecast["advice"]) >= {"schedule", "processes", "changes_schedule"}


def test_kept_stages_and_times_of_last_time(
    planned: Callable[..., list[str]], tmp_path: Path
) -> None:
    stages = json.loads("\n".join(planned("laptop.yaml", "--json")))["stages"]
    for stage, seconds in ((stages[0], 1.0), (stages[1], 49.0)):
        folder = tmp_path / "runs" / "laptop" / stage["name"] / stage["identity"]
        folder.mkdir(parents=True)
        manifest = {"state": "done", "ended": 1.0, "seconds": seconds}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "config.yaml").write_text("steps: 500\n")
    lines = planned("laptop.yaml")
    assert lines[0] == "laptop: 4 stages to do, 2 kept"
    assert lines[3:5] == [
        " blank    kept        -",
        " base     kept        -  64 rows = 1 step; 600 steps = 38 400 rows",
    ]
    changed = planned("laptop.yaml", "stages.base.steps=700")
    assert re.fullmatch(
        r" base     changed: steps 500 → 700, .…     0:49  64 rows = 1 step; 700 steps =",
        changed[4],
    )


def test_mistakes_are_those_of_check(
    write_pipeline: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_pipeline("samples_per_prompt: 8", "sample_per_prompt: 8", "model: base,", "")
    assert main(["plan", file]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.findall(r"^error\[([a-z-]+)\]", err, flags=re.MULTILINE) == [
        "missing-key",
        "unknown-key",
    ]
    assert main(["plan", file, "--engines", "0"]) == 2


def test_a_pipeline_without_reinforcement_learning(
    planned: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text(
        "name: small\n"
        "stages:\n"
        "  blank: {kind: model, from_scratch: micro}\n"
        "  base: {kind: sft, model: blank, data: microworld/skills, steps: 10}\n"
    )
    assert planned("small.yaml")[-1] == (
        "advice   no online_rl stage, so there is nothing to simulate."
    )


def test_plan_imports_nothing_heavy() -> None:
    code = (
        "import sys; from posttrain.cli import main; main(['plan', 'quickstart'])\n"
        "heavy = ('torch', 'ray', 'vllm', 'transformers', 'datasets', 'trl', 'wandb', 'numpy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
