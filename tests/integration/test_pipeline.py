"""A whole pipeline through the real command line: Ray, vLLM, TRL, on a model that is made here."""

import json
import math
import re
import signal
from collections import Counter

import pyarrow.parquet as pq
import pytest
from conftest import PATIENCE_S
from online_run import check_records, lines, rollouts_of


@pytest.fixture(scope="module")
def first_run(workplace):
    done = workplace.posttrain("run", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    return done, workplace.leftovers()


def test_every_stage_is_done_and_status_says_so(workplace, first_run):
    status = json.loads(workplace.posttrain("status", "--json").stdout)
    assert status["run"] == workplace.name
    assert [(s["name"], s["kind"], s["state"]) for s in status["stages"]] == [
        ("blank", "model", "done"),
        ("base", "sft", "done"),
        ("rlvr", "online_rl", "done"),
        ("average", "average", "done"),
        ("final", "evaluate", "done"),
    ]
    models = status["stages"][-1]["metrics"]["models"]
    assert set(models) == {"base", "rlvr", "average"}
    entry = models["rlvr"]["microworld/arithmetic"]
    assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1


def test_nothing_is_left_running(first_run):
    assert first_run[1] == []


def test_rollouts_can_be_read(workplace, first_run):
    files = sorted((workplace.stage_folder("rlvr") / "rollouts").glob("*.parquet"))
    assert [file.name for file in files] == [f"step-{i:06d}.parquet" for i in range(4)]
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert len(rows) == 4 * 8 * 4
    assert sorted(Counter(row["draw"] for row in rows).values()) == [4] * 32
    for row in rows:
        assert len(row["token_ids"]) == len(row["logprobs"]) == len(row["versions"])
        assert all(value <= 1e-6 and math.isfinite(value) for value in row["logprobs"])
        assert 0 <= row["age"] <= 1
        assert row["version_from"] <= row["version_to"] <= row["step"]
        assert row["score"] == pytest.approx(1 / (1 + abs(len(row["completion"]) - 5)))


def test_engine_and_trainer_agree_and_checksums_match(workplace, first_run):
    rows = lines(workplace.stage_folder("rlvr") / "metrics.jsonl")
    gaps = [r["weights/logprob_gap_max_nats"] for r in rows if "weights/logprob_gap_max_nats" in r]
    assert len(gaps) == 3 and max(gaps) <= 1e-3  # after steps 1, 2 and 4
    assert [r["weights/checksum_failures"] for r in rows if "weights/checksum_failures" in r] == [
        0.0
    ] * 4
    assert all(r["weights/sync_ms"] > 0 for r in rows if "weights/sync_ms" in r)
    assert [r["ops/rollouts_lost"] for r in rows if "ops/rollouts_lost" in r] == [0.0] * 4


def test_the_same_numbers_go_to_wandb_offline(workplace, first_run):
    runs = list((workplace.run_folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 5 and all(list(run.glob("*.wandb")) for run in runs)


def test_the_result_is_an_ordinary_model_folder(workplace, first_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    best = workplace.run_folder / "best"
    model = AutoModelForCausalLM.from_pretrained(best)
    tokenizer = AutoTokenizer.from_pretrained(best)
    assert 0.5e6 < sum(p.numel() for p in model.parameters()) < 1.5e6
    assert tokenizer.decode(tokenizer("12+30=")["input_ids"]) == "12+30="


def test_manifest_names_inputs_seed_versions_and_command(workplace, first_run):
    manifest = json.loads((workplace.stage_folder("average") / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {"base", "rlvr"}
    assert manifest["state"] == "done" and manifest["seed"] > 0
    assert {"python", "torch", "ray", "trl"} <= set(manifest["versions"])
    assert "run tiny.yaml" in manifest["command"]


def test_the_report_is_one_file_that_asks_for_nothing(workplace, first_run):
    page = (workplace.run_folder / "report.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    assert "rlvr" in page and len(page) < 6e6


def test_the_same_again_keeps_everything_and_starts_nothing(workplace, first_run):
    again = workplace.posttrain("run", "tiny.yaml")
    assert again.returncode == 0 and "starting Ray" not in again.stderr
    stages = json.loads((workplace.run_folder / "run.json").read_text())["stages"]
    assert {stage["why"] for stage in stages} == {"kept"}


LONGER = (  # answers long enough for some to be half-done when it is stopped: a blank model's
    "stages.rlvr.model=blank",
    "stages.rlvr.steps=60",
    # A rate that stays at its peak unlearns again in some runs.
    "stages.rlvr.algorithm={name: grpo, lr: 5e-4, schedule: linear}",
    "stages.rlvr.sampling.max_new_tokens=100",
    "stages.rlvr.staleness={max: 3, ahead: 3}",
)
RESUMED = re.compile(
    r"(?P<finished>[\d ]+) finished rollouts wait in the buffer; "
    r"(?P<half_done>[\d ]+) half-done ones go on from the (?P<tokens>[\d ]+) tokens they have"
)


def num_unfinished(stage):
    """Prompt draws of the newest of a stage's folders that have begun and have no score yet."""
    ledger = max(stage.glob("*/ledger.jsonl"), key=lambda path: path.stat().st_mtime).read_text()
    return ledger.count('"event": "admitted"') - ledger.count('"event": "scored"')


@pytest.fixture(scope="module")
def stopped(workplace, first_run):
    """The folder of `rlvr` after Ctrl-C in its middle, and what two other commands said: one that
    wanted to run beside it, and `resume` after it.
    """
    process = workplace.start("run", "tiny.yaml", *LONGER)
    began = workplace.run_folder / "rlvr"
    workplace.wait_for(lambda: len(list(began.iterdir())) == 2, process)
    trained = "*/rollouts/step-*.parquet"
    workplace.wait_for(lambda: list(began.glob("*/rollouts/step-000006.parquet")), process)
    with workplace.slow("ray::EngineActor"):  # or its answers would all be whole before it saves:
        steps = len(list(began.glob(trained))) + 5  # more than lie ready at most
        second = workplace.posttrain("run", "tiny.yaml")  # takes a while; answers get short soon
        workplace.wait_for(lambda: len(list(began.glob(trained))) >= steps, process)
        workplace.wait_for(lambda: num_unfinished(began) >= 8, process)  # a batch has just begun
    with workplace.slow("ray::EngineActor", 0.02):  # and takes longer than a starved driver to stop
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert workplace.leftovers() == []
    folder = workplace.stage_folder("rlvr")
    assert json.loads((folder / "manifest.json").read_text())["state"] == "stopped"
    assert json.loads((workplace.run_folder / "run.json").read_text())["state"] == "stopped"
    assert (folder / "checkpoints" / "latest.json").exists()
    resumed = workplace.posttrain("resume")
    assert resumed.returncode == 0, resumed.stderr
    return folder, second, resumed.stderr


def test_two_runs_at_once_in_one_folder_are_refused(workplace, stopped):
    second = stopped[1]
    assert second.returncode == 2
    assert "error[run-in-use]" in second.stderr
    assert f"--name {workplace.name}_b" in second.stderr
    assert "Traceback" not in second.stderr


def test_after_ctrl_c_half_done_answers_go_on_from_their_tokens(workplace, stopped):
    folder, _, said = stopped
    told = RESUMED.search(said)
    assert told is not None, said
    count = {name: int(value.replace(" ", "")) for name, value in told.groupdict().items()}
    assert count["half_done"] > 0 and count["tokens"] >= count["half_done"]
    assert re.search(r" ✓ blank, base   kept \(\d+ s of work\)", said), said
    assert re.search(r" ↻ rlvr +from checkpoint \d+ \(whole\)", said), said
    assert json.loads((folder / "manifest.json").read_text())["attempt"] == 1
    rows = lines(folder / "metrics.jsonl")
    continued = sum(r.get("ops/continued_tokens", 0.0) for r in rows if r["attempt"] == 1)
    assert continued >= count["tokens"]


def test_a_run_that_was_stopped_ends_as_any_other(workplace, stopped):
    folder = stopped[0]
    check_records(folder, 60, (8, 4), 3)
    rows = [row for step in range(60) for row in rollouts_of(folder, step)]
    assert len(rows) == 60 * 8 * 4
    assert set(Counter(row["draw"] for row in rows).values()) == {4}  # each draw trained once
    early = sum(row["score"] for row in rows if row["step"] < 10)
    late = sum(row["score"] for row in rows if row["step"] >= 50)
    assert late > 1.2 * early  # the reward is learnt
    assert workplace.leftovers() == []
