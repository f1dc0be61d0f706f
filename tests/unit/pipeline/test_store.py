"""The run folder: manifests, what is newest, one writer at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.errors import InputError
from posttrain.files import write_json
from posttrain.pipeline.store import RunFolder, read_json

HOLDER = """
import sys
from pathlib import Path
from posttrain.pipeline.store import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """Another process with the run's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"text": "größer", "n": 1})
    with pytest.raises(TypeError):
        write_json(path, {"n": {1}})
    assert read_json(path) == {"text": "größer", "n": 1}
    write_json(path, {"n": 2})
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["", '{"state": "do', "[1, 2]", "null"])
def test_a_file_that_was_never_finished_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    assert read_json(path) is None
    path.write_text(text)
    assert read_json(path) is None


def test_a_stage_is_done_when_its_manifest_says_so(run_folder: RunFolder) -> None:
    folder = run_folder.stage("sft", "0123456789")
    assert folder.path == run_folder.path / "sft" / "0123456789"
    assert folder.manifest is None
    assert not folder.is_done
    for state, done in (("running", False), ("failed", False), ("stopped", False), ("done", True)):
        folder.write_manifest({"state": state})
        assert folder.is_done is done
    (folder.path / "manifest.json").write_text('{"state": "do')
    assert not folder.is_done


def test_where_artifacts_lie(run_folder: RunFolder) -> None:
    folder = run_folder.stage("sft", "0123456789")
    model, measurements = folder.artifact("model"), folder.artifact("measurements")
    assert model.path == str(run_folder.path / "sft" / "0123456789" / "model")
    assert (model.type, model.stage, model.identity) == ("model", "sft", "0123456789")
    assert measurements.path == str(run_folder.path / "sft" / "0123456789" / "measurements.json")
    assert folder.artifact("dataset").path.endswith("/sft/0123456789/dataset")


def test_newest_done_goes_by_the_end_not_by_the_start_or_the_name(run_folder: RunFolder) -> None:
    assert run_folder.newest_done("sft") is None
    for identity, manifest in {
        "cccc": {"state": "done", "started": 1.0, "ended": 10.0},
        "aaaa": {"state": "done", "started": 0.0, "ended": 20.0},
        "bbbb": {"state": "failed", "started": 2.0, "ended": 30.0},
        "dddd": {"state": "running", "started": 40.0, "ended": None},
    }.items():
        run_folder.stage("sft", identity).write_manifest(manifest)
    run_folder.stage("other", "eeee").write_manifest({"state": "done", "ended": 50.0})
    newest = run_folder.newest_done("sft")
    assert newest is not None
    assert (newest.stage, newest.identity) == ("sft", "aaaa")


def test_run_json(run_folder: RunFolder) -> None:
    assert run_folder.read() == {}
    run_folder.path.mkdir(parents=True)
    run_folder.write({"schema": 1, "name": "mine"})
    assert run_folder.read() == {"schema": 1, "name": "mine"}


def test_a_second_writer_is_refused_with_the_first_ones_process(run_folder: RunFolder) -> None:
    holder = hold(run_folder.path)
    try:
        with pytest.raises(InputError) as caught, run_folder.locked():
            pytest.fail("two writers")
    finally:
        holder.communicate("")
    problem = caught.value.problems[0]
    owner = json.loads((run_folder.path / "run.lock").read_text())
    assert owner["pid"] == holder.pid
    assert problem.code == "run-in-use"
    assert problem.message == f"is being written by process {holder.pid} on {owner['host']}"
    assert problem.path == str(run_folder.path)
    assert problem.help == "follow it: posttrain status; or a second one: --name mine_b"
    assert caught.value.exit_code == 2


def test_a_lock_is_gone_with_its_process_however_that_ended(run_folder: RunFolder) -> None:
    holder = hold(run_folder.path)
    holder.kill()
    holder.communicate()
    with run_folder.locked():
        with pytest.raises(InputError), run_folder.locked():
            pytest.fail("two writers in one process")
        owner = json.loads((run_folder.path / "run.lock").read_text())
        assert owner["pid"] != holder.pid
    with run_folder.locked():
        pass


def test_other_runs_are_not_locked(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a").locked(), RunFolder(tmp_path / "b").locked():
        pass
