"""W&B: real, offline; several stages at once; nothing secret; nothing that stops the caller."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from posttrain.config.pipeline import WandbSettings
from posttrain.track.wandb import WandbPlan, WandbRun, resolve_mode, without_secrets
from posttrain.types import Artifact

WITHOUT_KEY = {"WANDB_API_KEY": "", "NETRC": "/nonexistent/netrc"}

OFFLINE = """
import sys
from pathlib import Path
from posttrain.config.pipeline import WandbSettings
from posttrain.track.wandb import WandbPlan, WandbRun

run = Path(sys.argv[1])
model = run / "sft" / "2c33" / "model"
model.mkdir(parents=True)
(model / "weights.bin").write_bytes(b"x" * 100)
said = []
stages = [
    WandbRun(
        WandbPlan(run, "quickstart", "run1", stage, kind, "2c33", WandbSettings(), {"lr": 1e-3},
                  tags=("laptop",), inputs={"sft": "2c33"}),
        said.append,
    )
    for stage, kind in (("sft", "sft"), ("rlvr", "online_rl"))
]
for step in range(1, 4):
    for stage in stages:
        stage.log({"axis/step": step, "train/loss": 1 / step, "ops/restarts": 1.0})
stages[0].log({"axis/step": 1, "train/loss": 1.0})  # after a restart steps are repeated
stages[1].samples([{"step": 3, "prompt": "7+58=", "completion": "65", "parts": {"correct": 1.0}}])
stages[1].alert("kl-jump", "KL 1.8 to 9.4 nats")
for stage in stages:
    stage.finish(deadline_s=300)
print("said", said, "dropped", [stage.dropped for stage in stages])
"""


def plan(tmp_path: Path, **settings) -> WandbPlan:
    return WandbPlan(
        tmp_path / "quickstart",
        "quickstart",
        "run 1/2",
        "rlvr",
        "online_rl",
        "4f1c9a2e",
        WandbSettings(**settings),
    )


def test_offline_two_stages_in_one_process_without_a_word(tmp_path):
    """In a process of its own, because wandb holds process-wide state."""
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path / "quickstart")],
        env=os.environ | WITHOUT_KEY,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout == "said [] dropped [0, 0]\n", done.stdout + done.stderr
    assert done.stderr == ""
    folders = sorted(
        path.name for path in (tmp_path / "quickstart" / "wandb").glob("offline-run-*")
    )
    assert [name.split("-", 3)[-1] for name in folders] == ["run1-sft-2c33", "run1-rlvr-2c33"] or (
        sorted(name.split("-", 3)[-1] for name in folders) == ["run1-rlvr-2c33", "run1-sft-2c33"]
    )
    assert not (tmp_path / "wandb").exists()
    (written,) = (tmp_path / "quickstart" / "wandb").glob("*run1-sft-2c33/*.wandb")
    assert b"/sft/2c33/model/weights.bin" in written.read_bytes()  # the artifact, by reference


@pytest.mark.parametrize(
    ("environment", "netrc", "mode", "expected"),
    [
        ({}, "", "auto", "offline"),
        ({"WANDB_API_KEY": "0" * 40}, "", "auto", "online"),
        ({}, "machine api.wandb.ai login user password x\n", "auto", "online"),
        ({}, "machine example.org login user password x\n", "auto", "offline"),
        ({"WANDB_BASE_URL": "https://w.example.org"},
         "machine w.example.org login user password x\n", "auto", "online"),
        ({"WANDB_API_KEY": "0" * 40}, "", "disabled", "disabled"),
        ({"WANDB_API_KEY": "0" * 40}, "", "offline", "offline"),
    ],
)  # fmt: skip
def test_online_only_with_a_key(tmp_path, monkeypatch, environment, netrc, mode, expected):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    (tmp_path / "netrc").write_text(netrc)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve_mode(WandbSettings(mode=mode)) == expected


def test_the_run_id_is_the_same_at_a_resume(tmp_path):
    assert plan(tmp_path).id == "run-1-2-rlvr-4f1c9a2e"


def test_secrets_are_hidden():
    config = {
        "reward": {"api_key": "abc", "hf_token": "hf_x", "max_tokens": 12, "name": "judge"},
        "data": [{"path": "https://user:pass@example.org/x", "secret": "s"}],
        "kl_per_token": 0.1,
    }
    assert without_secrets(config) == {
        "reward": {
            "api_key": "(hidden)",
            "hf_token": "(hidden)",
            "max_tokens": 12,
            "name": "judge",
        },
        "data": [{"path": "https://(hidden)@example.org/x", "secret": "(hidden)"}],
        "kl_per_token": 0.1,
    }


def test_disabled_does_nothing(tmp_path):
    run = WandbRun(plan(tmp_path, mode="disabled"))
    run.log({"train/loss": 1.0})
    run.makes(Artifact("model", "sft", "x", str(tmp_path)))
    run.finish()
    assert list(tmp_path.iterdir()) == []


class SlowSession:
    """Stands where the wandb calls are made: a server that answers nothing."""

    release = threading.Event()

    def __init__(self, plan, mode, say):
        pass

    def handle(self, what, payload):
        self.release.wait(30)

    def finish(self, exit_code):
        pass


def test_a_slow_server_drops_rows_counts_them_and_never_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("posttrain.track.wandb._Session", SlowSession)
    monkeypatch.setattr("posttrain.track.wandb.QUEUE_ROWS", 10)
    said: list[str] = []
    run = WandbRun(plan(tmp_path, mode="offline"), said.append)
    began = time.perf_counter()
    for step in range(1000):
        run.log({"axis/step": step})
    assert time.perf_counter() - began < 0.5
    run.finish(deadline_s=0.2)
    SlowSession.release.set()

    assert 989 <= run.dropped <= 990  # 10 in the queue, perhaps one in the thread's hands
    assert said == [
        "W&B did not finish in 0 s; its files in wandb/ are kept",
        f"{run.dropped} rows did not reach W&B; metrics.jsonl has them all",
    ]


def test_a_wandb_that_cannot_start_is_said_once(tmp_path, monkeypatch):
    class Refusing(SlowSession):
        def __init__(self, plan, mode, say):
            raise RuntimeError("no service\nmore words")

    monkeypatch.setattr("posttrain.track.wandb._Session", Refusing)
    said: list[str] = []
    run = WandbRun(plan(tmp_path, mode="offline"), said.append)
    run.log({"train/loss": 1.0})
    run.finish()
    assert said == ["W&B is off for rlvr: no service; the run folder has all"]


def test_one_refused_row_does_not_stop_the_others(tmp_path, monkeypatch):
    handled = []

    class Picky(SlowSession):
        def handle(self, what, payload):
            if payload.get("bad"):
                raise ValueError("not this one")
            handled.append(payload)

    monkeypatch.setattr("posttrain.track.wandb._Session", Picky)
    said: list[str] = []
    run = WandbRun(plan(tmp_path, mode="offline"), said.append)
    for row in ({"a": 1}, {"bad": 1}, {"bad": 1}, {"a": 2}):
        run.log(row)
    run.finish()
    assert handled == [{"a": 1}, {"a": 2}]
    assert said == ["W&B refused a row: not this one"]


def test_alerts_come_once_in_half_an_hour(tmp_path, monkeypatch):
    handled = []

    class Recording(SlowSession):
        def handle(self, what, payload):
            handled.append((what, payload))

    monkeypatch.setattr("posttrain.track.wandb._Session", Recording)
    run = WandbRun(plan(tmp_path, mode="offline"))
    run.alert("kl-jump", "one")
    run.alert("kl-jump", "two")
    run.alert("cut-answers", "three")
    run.finish()
    assert handled == [("alert", ("kl-jump", "one")), ("alert", ("cut-answers", "three"))]
