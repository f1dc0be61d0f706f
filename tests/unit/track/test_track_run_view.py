"""A run folder read back: states, steps, repeated steps, the JSON of `status`, finding a run."""

import json
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from track_run_folder import IDENTITIES, SECONDS, START, write_run

from posttrain.errors import InputError
from posttrain.track.rows import MergedRows, last_values, merge_rows, share_by_age
from posttrain.track.run_view import RunReader, find_run, read_run, status_json

RLVR_AT = START + SECONDS["blank"] + SECONDS["base"] + SECONDS["sft"]


def test_a_restart_replaces_the_steps_it_repeats():
    lines = [
        {"attempt": 0, "axis/step": 1, "train/loss": 1.0},
        {"attempt": 0, "axis/step": 2, "train/loss": 2.0},
        {"attempt": 0, "axis/step": 2, "reward/mean": 0.5},
        {"attempt": 0, "axis/step": 3, "train/loss": 3.0},
        {"attempt": 1, "axis/step": 2, "train/loss": 2.5},
        {"attempt": 0, "note": "no step"},
    ]
    rows = merge_rows(lines)
    assert [row["axis/step"] for row in rows] == [1, 2]  # step 3 did not survive
    assert rows[1] == {"attempt": 1, "axis/step": 2, "train/loss": 2.5, "reward/mean": 0.5}
    assert merge_rows(lines[:4])[1] == {
        "attempt": 0,
        "axis/step": 2,
        "train/loss": 2.0,
        "reward/mean": 0.5,
    }
    assert last_values(lines) == {"train/loss": 2.5, "reward/mean": 0.5}


ATTEMPTS = st.lists(st.lists(st.tuples(st.integers(0, 6), st.sampled_from("abc")), max_size=8))


@given(ATTEMPTS, st.integers(1, 5))
def test_rows_that_come_in_pieces_are_merged_as_all_at_once(attempts, piece):
    """All at once: what is left of each attempt, then the next one laid over it."""
    lines = [
        {"attempt": attempt, "axis/step": step, f"train/{name}": float(number)}
        for attempt, steps in enumerate(attempts)
        for number, (step, name) in enumerate(steps)
    ]
    meant: dict[int, dict] = {}
    for attempt in range(len(attempts)):
        own: dict[int, dict] = {}
        for line in (each for each in lines if each["attempt"] == attempt):
            own.setdefault(line["axis/step"], {}).update(line)
        first = min(own, default=99)
        meant = {s: row for s, row in meant.items() if s < first or s in own}
        meant |= {step: meant.get(step, {}) | row for step, row in own.items()}
    merged = MergedRows()
    for start in range(0, len(lines), piece):
        merged.add(lines[start : start + piece])
        merged.rows()
    assert merged.rows() == [meant[step] for step in sorted(meant)]
    assert merge_rows(lines) == merged.rows()


def test_age_shares_over_all_steps():
    rows = [{"age/share/0": 0.5, "age/share/1": 0.5}, {"age/share/0": 1.0}]
    assert share_by_age(rows) == {0: 0.75, 1: 0.25}
    assert share_by_age([], [{"age": 0}, {"age": 2}]) == {0: 0.5, 2: 0.5}
    assert share_by_age([], []) == {}


def test_a_running_stage(tmp_path):
    run = write_run(tmp_path / "quickstart", running_step=24, kept=("base",))
    # its last row was written 10 + 1.7 * 24 = 50.8 s after the stage began
    view = read_run(run, now=RLVR_AT + 51)

    assert [stage.state for stage in view.stages] == [
        "done",
        "done",
        "done",
        "running",
        "waiting",
        "waiting",
    ]
    rlvr = view.stage("rlvr")
    assert (rlvr.step, rlvr.steps, rlvr.seconds) == (24, 60, 51.0)
    assert rlvr.eta_s == 61.0  # 36 steps of 1.7 s, less the 0.2 s since the last
    assert view.stage("base").kept
    assert [note.code for note in rlvr.active_notes] == ["loss-near-zero"]
    assert view.seconds == pytest.approx(2 + 51 + 44 + 51)


def test_status_json_has_exactly_these_keys(tmp_path):
    view = read_run(write_run(tmp_path / "quickstart"))
    status = status_json(view)

    assert list(status) == ["run", "stages"]
    assert status["run"] == "quickstart"
    assert list(status["stages"][3]) == [
        "name",
        "kind",
        "state",
        "identity",
        "artifact",
        "seconds",
        "metrics",
        "step",
        "steps",
        "eta_s",
    ]
    assert status["stages"][3]["identity"] == "4f1c9a2e"
    assert status["stages"][3]["state"] == "done"
    assert status["stages"][3]["metrics"]["groups/trained"] == 32
    models = status["stages"][5]["metrics"]["models"]
    assert list(models) == ["base", "sft", "rlvr", "average"]
    assert models["sft"]["microworld/arithmetic"] == {"value": 0.48, "low": 0.4494, "high": 0.5106}
    json.dumps(status, allow_nan=False)


def test_the_reader_follows_a_growing_run(tmp_path):
    run = write_run(tmp_path / "quickstart", running_step=3)
    reader = RunReader(run)
    before = reader.view(now=RLVR_AT + 20)
    line = {"time": RLVR_AT + 21, "attempt": 0, "axis/step": 4, "reward/mean": 0.9}
    stage = run / "rlvr" / IDENTITIES["rlvr"]
    with (stage / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    with (stage / "events.jsonl").open("a") as stream:
        stream.write('{"time": 1, "name": "note_over", "code": "loss-near-zero", "step": 4}\n')
    after = reader.view(now=RLVR_AT + 22)

    assert (before.stage("rlvr").step, after.stage("rlvr").step) == (3, 4)
    assert len(before.stage("rlvr").events) == 2  # a view does not change afterwards
    assert after.stage("rlvr").active_notes == []
    assert after.stage("rlvr").metrics["reward/mean"] == 0.9


def test_what_a_stage_waits_for(tmp_path):
    run = write_run(tmp_path / "quickstart", running_step=3)
    (run / "rlvr" / IDENTITIES["rlvr"] / "metrics.jsonl").unlink()
    assert read_run(run).stage("rlvr").waiting_for() == "starting engine 0 (about 10 s)"
    write_run(tmp_path / "second", running_step=3)
    assert read_run(tmp_path / "second").stage("rlvr").waiting_for() is None


def test_a_run_whose_process_is_gone_is_stopped(tmp_path):
    run = write_run(tmp_path / "quickstart", running_step=24)
    meta = json.loads((run / "run.json").read_text())
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    (run / "run.json").write_text(json.dumps(meta | {"pid": child, "host": socket.gethostname()}))

    view = read_run(run)
    assert (view.state, view.stage("rlvr").state) == ("stopped", "stopped")
    assert view.seconds == pytest.approx(2 + 51 + 44 + 10 + 1.7 * 24)


def test_a_resumed_stage_counts_its_own_time(tmp_path):
    run = write_run(tmp_path / "quickstart", running_step=24)
    manifest = run / "rlvr" / IDENTITIES["rlvr"] / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"seconds": 40.0}))
    again = {"time": START + 9000, "stage": "rlvr", "name": "stage-started", "attempt": 1}
    (run / "events.jsonl").write_text(json.dumps(again) + "\n")

    assert read_run(run, now=START + 9010).stage("rlvr").seconds == 50.0


def test_an_empty_or_broken_folder_is_a_run_without_stages(tmp_path):
    assert read_run(tmp_path / "nothing").stages == ()
    (tmp_path / "run.json").write_text('{"name": "half')
    assert read_run(tmp_path).stages == ()


def test_finding_a_run(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "quickstart")
    write_run(runs / "mine")
    meta = json.loads((runs / "mine" / "run.json").read_text())
    (runs / "mine" / "run.json").write_text(json.dumps(meta | {"started": START + 9}))

    assert find_run(runs).directory == runs / "mine"
    assert find_run(runs, "quickstart").directory == runs / "quickstart"
    place = find_run(runs, "quickstart/rlvr")
    assert place.stage == "rlvr"
    assert place.stage_directory == runs / "quickstart" / "rlvr" / "4f1c9a2e"
    assert find_run(runs, "rlvr").stage_directory == runs / "mine" / "rlvr" / "4f1c9a2e"
    by_path = find_run(tmp_path, str(runs / "quickstart" / "sft" / "2c33d4e5"))
    assert (by_path.directory, by_path.stage) == (runs / "quickstart", "sft")


def test_a_run_that_is_not_there(tmp_path):
    write_run(tmp_path / "quickstart")
    with pytest.raises(InputError) as caught:
        find_run(tmp_path, "quickstrat")
    assert caught.value.problems[0].help == "did you mean `quickstart`?"
    with pytest.raises(InputError) as caught:
        find_run(tmp_path, "quickstart/dpo")
    assert caught.value.message == "run `quickstart` has no finished stage `dpo`"
    with pytest.raises(InputError) as caught:
        find_run(tmp_path / "none")
    assert caught.value.help == "start one: posttrain run quickstart"
