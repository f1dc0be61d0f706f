"""The trainer's loop with a trainer and a coordinator that only keep a diary."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from posttrain.checkpoint.store import CheckpointStore
from posttrain.errors import StageFailed, WeightsDiffer
from posttrain.train import rl_loop
from posttrain.train.ranks import Ranks
from posttrain.train.rl_loop import RlParts, RlSettings, logprob_gaps, run_training
from posttrain.train.stop_rules import StopWatch, stop_rules
from posttrain.types import Prompt, Rollout, RolloutRef, StoredBatch, SyncReport, WeightVersion

PROBE = Rollout("probe", 0, (1,), (5, 6), (1, 1), (-0.25, -0.75), (1, 1), "", "stop")


class Diary:
    """Everything that the loop asks of others, in order; also what it is answered."""

    def __init__(self, batch, directory, stop_at=None, own_logprobs=(-0.25, -0.75)):
        self.spans = []
        self.calls = []
        self.logged = []
        self.sampled = []
        self.tokens_seen = 0
        self.steps_trained = 0
        self._batch = batch
        self._stop_at = stop_at
        self._own_logprobs = own_logprobs
        self.checkpoints = CheckpointStore(directory / "checkpoints")

    compares_answers = True

    def step_metrics(self):
        return {}

    def note(self, *call):
        self.calls.append(call)

    # the trainer
    @property
    def policy(self):
        return self

    def step(self, flat, step, num_steps):
        self.note("step", step, num_steps)
        self.tokens_seen += 50
        self.steps_trained += 1
        return {"train/loss": 0.125, "train/tokens": 50.0, **self.step_metrics()}

    def weights(self):
        return {"weight": torch.tensor([float(self.steps_trained)])}

    published_weights = weights

    def state(self):
        return {"steps_trained": self.steps_trained, "tokens_seen": self.tokens_seen}

    def load(self, weights, state):
        self.note("load", weights["weight"].tolist())
        self.steps_trained, self.tokens_seen = state["steps_trained"], state["tokens_seen"]

    def logprobs(self, rollouts):
        return torch.tensor(self._own_logprobs * len(rollouts))

    def export(self, directory):
        self.note("export", directory.name)

    # the coordinator
    def next_batch(self, step):
        self.note("next_batch", step)
        return None if step == self._stop_at else StoredBatch(step, (), waited_s=0.5)

    def publish(self, version):
        self.note("publish", version.version)

    def wait_acknowledged(self, version):
        self.note("wait", version)
        return SyncReport(version, True, 1.0, 1.0)

    def probe(self):
        self.note("probe")
        return [(Prompt("", "", (1,), "", {}), RolloutRef("a.journal", 7))]

    def committed(self, step):
        self.note("committed", step)

    def snapshot(self):
        self.note("snapshot")
        return {"next_draw": 3 * self.steps_trained}

    # the journals
    def read_batch(self, stored):
        return replace(self._batch, step=stored.step, waited_s=stored.waited_s)

    def read_probes(self, probes):
        assert [ref for _, ref in probes] == [RolloutRef("a.journal", 7)]
        return [PROBE]

    # the tracker
    def log(self, metrics, **axes):
        self.logged.append((metrics, axes))

    def span(self, track, name, start_s, end_s, **details):
        assert start_s <= end_s
        self.spans.append((track, name))

    def event(self, name, **details):
        self.note("event", name, details)

    def samples(self, step, rows):
        self.sampled.append((step, len(rows)))

    def write_weights(self, tensors, version):
        self.note("write", version, tensors["weight"].tolist())
        return WeightVersion(0, version, "", "")


def run(diary, directory, ranks=None, **changes):
    settings = RlSettings(directory, 2, 10, 10, "fp32")
    parts = RlParts(
        diary, diary, diary.checkpoints, diary, diary.write_weights, diary.read_batch,
        diary.read_probes, ranks or Ranks(),
    )  # fmt: skip
    return run_training(replace(settings, **changes), parts)


@pytest.fixture
def diary(hand_made_batch, tmp_path):
    return Diary(hand_made_batch, tmp_path)


def test_the_order_of_calls(diary, tmp_path):
    assert run(diary, tmp_path, checkpoint_every=1, logprob_check_every=5) == "done"
    assert diary.calls == [
        ("write", 0, [0.0]),
        ("publish", 0),
        ("wait", 0),  # nothing to train on before
        ("next_batch", 0),
        ("step", 0, 2),
        ("write", 1, [1.0]),
        ("publish", 1),
        ("wait", 1),
        ("probe",),  # always after the first step
        ("snapshot",),
        ("committed", 1),
        ("event", "saved", {"step": 1}),
        ("next_batch", 1),
        ("step", 1, 2),
        ("write", 2, [2.0]),
        ("publish", 2),
        ("snapshot",),
        ("committed", 2),
        ("event", "saved", {"step": 2}),
        ("export", "model"),
    ]
    assert sorted(path.name for path in (tmp_path / "rollouts").iterdir()) == [
        "step-000000.parquet",
        "step-000001.parquet",
    ]


def test_weights_are_published_every_few_steps_and_log_probs_compared_by_syncs(diary, tmp_path):
    run(diary, tmp_path, num_steps=7, sync_every=3, logprob_check_every=2)
    published = [call[1] for call in diary.calls if call[0] == "publish"]
    assert published == [0, 3, 6]
    waited = [call[1] for call in diary.calls if call[0] == "wait"]
    assert waited == [0, 3, 6]  # the start, the first sync, the second of two
    steps = [call[1] for call in diary.calls if call[0] == "step"]
    assert steps == list(range(7))


def test_a_checkpoint_holds_weights_optimiser_and_coordinator(diary, tmp_path):
    run(diary, tmp_path, checkpoint_every=2)
    saved = diary.checkpoints.latest()
    assert saved.step == 2
    assert saved.load_model()["weight"].tolist() == [2.0]
    assert saved.load_optimiser() == {"steps_trained": 2, "tokens_seen": 100}
    watched = {"running": {}, "reason": None}
    assert saved.state == {"coordinator": {"next_draw": 6}, "stop_watch": watched}


def test_log_probs_are_compared_after_the_first_step_and_then_now_and_then(diary, tmp_path):
    run(diary, tmp_path, num_steps=7, logprob_check_every=3)
    probed = [
        diary.calls[index - 1] for index, call in enumerate(diary.calls) if call == ("probe",)
    ]
    assert probed == [("wait", 1), ("wait", 3), ("wait", 6)]


def test_stopping_saves_what_there_is(hand_made_batch, tmp_path):
    diary = Diary(hand_made_batch, tmp_path, stop_at=3)
    assert run(diary, tmp_path, num_steps=9) == "stopped"
    assert diary.calls[-4:] == [
        ("next_batch", 3),
        ("snapshot",),
        ("committed", 3),
        ("event", "saved", {"step": 3}),
    ]
    assert diary.checkpoints.latest().step == 3


def test_stopping_right_after_a_checkpoint_saves_no_second_one(hand_made_batch, tmp_path):
    diary = Diary(hand_made_batch, tmp_path, stop_at=2)
    assert run(diary, tmp_path, num_steps=9, checkpoint_every=2) == "stopped"
    assert diary.calls[-1] == ("next_batch", 2)
    assert diary.calls.count(("snapshot",)) == 1


def test_stopping_before_the_first_step_saves_nothing(hand_made_batch, tmp_path):
    diary = Diary(hand_made_batch, tmp_path, stop_at=0)
    assert run(diary, tmp_path) == "stopped"
    assert diary.calls == [("write", 0, [0.0]), ("publish", 0), ("wait", 0), ("next_batch", 0)]
    assert diary.checkpoints.latest() is None


def test_a_resumed_trainer_publishes_its_own_version_first(hand_made_batch, tmp_path):
    run(Diary(hand_made_batch, tmp_path, stop_at=5), tmp_path, num_steps=7)
    resumed = Diary(hand_made_batch, tmp_path)
    assert run(resumed, tmp_path, num_steps=7) == "done"
    assert resumed.calls[:7] == [
        ("load", [5.0]),
        ("event", "restored", {"step": 5}),
        ("write", 5, [5.0]),
        ("publish", 5),
        ("wait", 5),
        ("next_batch", 5),
        ("step", 5, 7),
    ]
    assert [axes for _, axes in resumed.logged] == [
        {"step": 5, "version": 6, "tokens": 300},
        {"step": 6, "version": 7, "tokens": 350},
    ]
    assert resumed.calls[-1] == ("export", "model")


def test_a_trainer_that_had_finished_only_exports(hand_made_batch, tmp_path):
    run(Diary(hand_made_batch, tmp_path), tmp_path, checkpoint_every=2)
    again = Diary(hand_made_batch, tmp_path)
    assert run(again, tmp_path) == "done"
    assert [call[0] for call in again.calls] == [
        "load", "event", "write", "publish", "wait", "export",
    ]  # fmt: skip


def test_what_is_logged(diary, tmp_path, monkeypatch):
    clock = iter([10.0, 12.0])  # the step takes two seconds, after half a second's wait
    clocks = SimpleNamespace(monotonic=lambda: next(clock), time=lambda: 0.0)
    monkeypatch.setattr(rl_loop, "time", clocks)
    run(diary, tmp_path, num_steps=1)
    [(metrics, axes)] = diary.logged
    assert axes == {"step": 0, "version": 1, "tokens": 50}
    expected = {
        "train/loss": 0.125,
        "train/tokens": 50.0,
        "train/step_time_s": 2.0,
        "train/tokens_per_s": 25.0,
        "trainer/busy_share": 0.8,
        "age/wait_s": 0.5,
        "reward/mean": 5 / 9,
        "weights/logprob_gap_max_nats": 0.0,
        "weights/logprob_gap_mean_nats": 0.0,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert diary.spans == [
        ("trainer 0", "wait for batch 0"),
        ("trainer 0", "step 0"),
        ("trainer 0", "publish v1"),
        ("trainer 0", "compare log-probs"),
    ]


def test_ten_sample_tables_over_a_stage(diary, tmp_path):
    run(diary, tmp_path, num_steps=25)
    # every second step: 25 // 10
    assert diary.sampled == [(step, 9) for step in range(0, 25, 2)]


@pytest.mark.parametrize(
    ("precision", "own", "message"),
    [
        ("fp32", (-0.25, -0.5), "differ by 0.25 nats on the same tokens (limit 0.001)"),
        ("bf16", (-0.75, -0.75), "differ by 0.5 nats on the same tokens (limit 0.15)"),
        ("fp32", (-0.25, math.nan), "differ by nan nats on the same tokens (limit 0.001)"),
    ],
)
def test_other_log_probs_than_the_engines_stop_the_stage(
    hand_made_batch, tmp_path, precision, own, message
):
    diary = Diary(hand_made_batch, tmp_path, own_logprobs=own)
    with pytest.raises(WeightsDiffer) as caught:
        run(diary, tmp_path, precision=precision)
    assert caught.value.message == f"engine and trainer {message}"
    assert caught.value.code == "weights-differ"
    assert diary.logged == []


def test_a_gap_within_the_limit_is_logged(hand_made_batch, tmp_path):
    diary = Diary(hand_made_batch, tmp_path, own_logprobs=(-0.25, -0.625))
    run(diary, tmp_path, num_steps=1, precision="bf16")
    metrics, _ = diary.logged[0]
    assert metrics["weights/logprob_gap_max_nats"] == 0.125
    assert metrics["weights/logprob_gap_mean_nats"] == 0.0625


def test_gaps_are_absolute_and_never_empty():
    trainer = SimpleNamespace(logprobs=lambda rollouts: torch.tensor([-0.5, -0.5][: len(rollouts)]))
    up = replace(PROBE, token_ids=(5,), logprobs=(-0.75,))
    down = replace(PROBE, token_ids=(5,), logprobs=(-0.375,))
    assert logprob_gaps(trainer, [up, down]) == [0.25, 0.125]
    assert logprob_gaps(trainer, []) == [0.0]


def test_an_ensemble_that_differs_too_much_ends_the_stage_with_its_model(diary, tmp_path):
    spreads = iter([0.5, 0.9, 0.9, 0.4, 0.9, 0.9, 0.9, 0.9])
    diary.step_metrics = lambda: {"reward/members_std": next(spreads)}
    outcome = run(diary, tmp_path, num_steps=20, stop_at_members_std=0.8)
    assert outcome == "done" and diary.steps_trained == 7  # three steps running
    assert diary.calls[-1] == ("export", "model")
    (event,) = [call for call in diary.calls if call[:2] == ("event", "stopped-early")]
    assert "differ by 0.90, more than 0.8, for 3 steps" in event[2]["text"]


def test_a_policy_too_far_from_its_start_ends_the_stage_with_its_model(diary, tmp_path):
    nats = iter([1.0, 5.5, 6.0, 4.5, 5.5, 7.0, 5.25, 9.0])
    diary.step_metrics = lambda: {"policy/kl_reference_nats": next(nats)}
    assert run(diary, tmp_path, num_steps=20, stop_at_kl=5.0) == "done"
    assert diary.steps_trained == 7 and diary.calls[-1] == ("export", "model")
    (event,) = [call for call in diary.calls if call[:2] == ("event", "stopped-early")]
    text = "the KL to the start is 5.25 nats, more than 5, for 3 steps: training ends here"
    assert event[2] == {"step": 7, "text": text}


def test_two_rules_are_counted_apart():
    watch, told = StopWatch(stop_rules(0.8, 5.0)), []
    for std, kl in [(0.9, 6.0), (0.9, 6.0), (0.1, 6.0)]:
        watch.after({"reward/members_std": std, "policy/kl_reference_nats": kl})
        told.append(watch.reason)
    assert told[:2] == [None, None] and "the KL to the start is 6.00 nats" in told[2]
    unasked = StopWatch(stop_rules(None, None))
    for _ in range(3):
        unasked.after({"policy/kl_reference_nats": 99.0})
    assert unasked.reason is None


@pytest.mark.parametrize("cut_at", range(1, 8))
def test_a_trainer_that_was_stopped_ends_early_where_it_would_have(
    hand_made_batch, tmp_path, cut_at
):
    """Also where it died between its last checkpoint, at the step that ends it, and its model."""
    nats = [1.0, 5.5, 6.0, 4.5, 5.5, 7.0, 5.25, 9.0, 9.0]

    def goes_on(stop_at):
        diary = Diary(hand_made_batch, tmp_path, stop_at=stop_at)
        diary.step_metrics = lambda: {"policy/kl_reference_nats": nats[diary.steps_trained - 1]}
        outcome = run(diary, tmp_path, num_steps=20, stop_at_kl=5.0, checkpoint_every=cut_at)
        return outcome, diary

    first, _ = goes_on(cut_at)
    assert first == ("stopped" if cut_at < 7 else "done")
    outcome, diary = goes_on(None)
    assert outcome == "done" and diary.steps_trained == 7
    assert [call[0] for call in diary.calls].count("step") == 7 - diary.calls[0][1][0]
    (event,) = [call for call in diary.calls if call[:2] == ("event", "stopped-early")]
    assert event[2]["step"] == 7 and "the KL to the start is 5.25 nats" in event[2]["text"]


def test_a_rank_that_sees_another_checkpoint_than_the_first_does_not_go_on(diary, tmp_path):
    class Second(Ranks):
        def broadcast_object(self, value, what, **_):
            return 20 if what == "the step of the last checkpoint" else value

    with pytest.raises(StageFailed) as caught:
        run(diary, tmp_path, ranks=Second())
    assert caught.value.message == (
        "a rank sees the checkpoint of step 0, the first one that of step 20"
    )
    assert diary.calls == []
