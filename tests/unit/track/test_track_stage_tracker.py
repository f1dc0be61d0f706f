"""The stage's tracker: files always, explanations as events, W&B when given, never an exception."""

import json
import pickle

import torch

from posttrain.track.jsonl import read_jsonl
from posttrain.track.stage_tracker import StageTracker


class Recorder:
    """Stands where a WandbRun stands."""

    def __init__(self):
        self.rows, self.tables, self.alerts = [], [], []

    def say_to(self, listener):
        self.say = listener

    def log(self, row):
        self.rows.append(row)

    def samples(self, rows):
        self.tables.append(rows)

    def alert(self, code, text):
        self.alerts.append((code, text))


def test_the_same_numbers_go_to_the_file_and_to_wandb(tmp_path):
    wandb = Recorder()
    tracker = StageTracker(tmp_path, "rlvr", attempt=2, wandb=wandb)
    tracker.log({"train/loss": torch.tensor(0.5), "bad": "text"}, step=3, version=3, tokens=1234)
    tracker.close()

    (line,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert line.pop("time") > 1.7e9
    assert line.pop("axis/time_s") >= 0
    assert line == {
        "attempt": 2,
        "axis/step": 3,
        "axis/version": 3,
        "axis/tokens": 1234,
        "train/loss": 0.5,
    }
    assert wandb.rows[0]["train/loss"] == 0.5
    assert "time" not in wandb.rows[0]


def test_time_goes_on_after_a_restart(tmp_path):
    first = StageTracker(tmp_path, "sft")
    first.log({"train/loss": 1.0}, step=1)
    first.close()
    assert read_jsonl(tmp_path / "metrics.jsonl")[0]["axis/time_s"] < 1.0
    (tmp_path / "manifest.json").write_text(json.dumps({"seconds": 50.0}))
    second = StageTracker(tmp_path, "sft", attempt=1)
    second.log({"train/loss": 1.0}, step=2)
    second.close()
    assert 50.0 <= read_jsonl(tmp_path / "metrics.jsonl")[1]["axis/time_s"] < 51.0


def test_what_wandb_says_becomes_an_event(tmp_path):
    wandb = Recorder()
    tracker = StageTracker(tmp_path, "sft", wandb=wandb)
    wandb.say("W&B is offline: no network")
    tracker.close()
    (event,) = read_jsonl(tmp_path / "events.jsonl")
    assert (event["name"], event["text"]) == ("wandb", "W&B is offline: no network")


def test_events_and_samples(tmp_path):
    wandb = Recorder()
    tracker = StageTracker(tmp_path, "rlvr", wandb=wandb)
    tracker.event("restart", rank=0, reason="killed")
    tracker.samples(4, [{"prompt": "7+58=", "completion": "65", "score": 1.0}])
    tracker.close()

    event = read_jsonl(tmp_path / "events.jsonl")[0]
    event.pop("time")
    assert event == {"stage": "rlvr", "name": "restart", "rank": 0, "reason": "killed"}
    expected = [{"step": 4, "prompt": "7+58=", "completion": "65", "score": 1.0}]
    assert read_jsonl(tmp_path / "samples.jsonl") == expected
    assert wandb.tables == [expected]


def test_explanations_become_events_and_act_becomes_an_alert(tmp_path):
    (tmp_path / "config.yaml").write_text("sampling: {max_new_tokens: 12}\nprecision: fp32\n")
    wandb = Recorder()
    tracker = StageTracker(tmp_path, "rlvr", wandb=wandb)
    for step in range(1, 5):
        tracker.log({"train/loss": 0.01, "answer/cut_share": 0.4}, step=step)
        tracker.log({"weights/logprob_gap_max_nats": 1.0}, step=step)  # the same step: merged
    tracker.log({"train/loss": 0.01, "weights/logprob_gap_max_nats": 0.0}, step=5)
    tracker.close()

    events = read_jsonl(tmp_path / "events.jsonl")
    assert [(event["name"], event["step"], event["code"]) for event in events] == [
        ("note", 3, "logprob-gap"),
        ("note", 3, "cut-answers"),
        ("note_over", 5, "cut-answers"),
        ("note_over", 5, "logprob-gap"),
    ]
    assert events[1]["verdict"] == "watch"
    assert events[1]["text"] == (
        "40 % of answers cut at 12 tokens (40 % at start): it learns to be short, not right."
        " sampling.max_new_tokens: 24"
    )
    assert [code for code, _ in wandb.alerts] == ["logprob-gap"]


def test_after_a_restart_nothing_is_said_twice(tmp_path):
    first = StageTracker(tmp_path, "rlvr", attempt=0)
    for step in range(1, 8):
        first.log({"answer/cut_share": 0.4}, step=step)
    first.close()
    second = StageTracker(tmp_path, "rlvr", attempt=1)
    for step in range(5, 10):
        second.log({"answer/cut_share": 0.4}, step=step)
    second.close()

    notes = [event for event in read_jsonl(tmp_path / "events.jsonl") if event["name"] == "note"]
    assert [note["step"] for note in notes] == [3]


def test_it_never_raises(tmp_path):
    class Broken(Recorder):
        def log(self, row):
            raise RuntimeError("W&B is on fire")

    (tmp_path / "file").write_text("")
    tracker = StageTracker(tmp_path / "file" / "below", "sft", wandb=Broken())
    tracker.log({"train/loss": 1.0}, step=1)
    tracker.event("x", value=object())
    tracker.samples(1, [{"prompt": "a"}])
    tracker.close()


def test_a_pickled_copy_writes_to_the_same_files(tmp_path):
    tracker = StageTracker(tmp_path, "sft", attempt=1, wandb=Recorder())
    copy = pickle.loads(pickle.dumps(tracker))
    tracker.log({"train/loss": 1.0}, step=1)
    copy.log({"train/loss": 2.0}, step=2)
    tracker.log({"train/loss": 3.0}, step=3)
    tracker.close()
    copy.close()

    assert [row["train/loss"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1.0, 2.0, 3.0]
