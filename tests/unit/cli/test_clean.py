"""`posttrain clean`: what it prints, what it removes, and when it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.checkpoint.folders import CommittedFolders
from posttrain.cli import clean_processes as processes
from posttrain.cli import main
from posttrain.cluster.leftovers import Leftover
from posttrain.files import write_json
from posttrain.pipeline.store import RunFolder

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/mine: 3 kB of checkpoints, 2 kB of a superseded stage and 500 B of leftovers."""
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "runs" / "mine")
    for identity, state in (("new", "done"), ("old", "done")):
        manifest = {"stage": "sft", "identity": identity, "state": state, "ended": 1.0}
        run.stage("sft", identity).write_manifest(manifest)
    stages = [{"name": "sft", "kind": "sft", "identity": "new"}]
    write_json(run.path / "run.json", {"name": "mine", "started": 1.0, "stages": stages})
    store = CommittedFolders(run.path / "sft" / "new" / "checkpoints")
    (store.begin(20) / "model.safetensors").write_bytes(b"x" * 3000)
    store.commit(20, store.begin(20))
    (run.path / "sft" / "old" / "model.safetensors").write_bytes(b"x" * 2000)
    (run.path / ".run.json.partial-99").write_bytes(b"x" * 500)
    return run.path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """`call("--stages")`: exit code, stdout and stderr of posttrain clean."""
    monkeypatch.setenv("COLUMNS", "100")

    def called(*arguments: str) -> tuple[int, str, str]:
        code = main(["clean", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return called


def test_without_a_flag_it_says_what_could_go_and_removes_nothing(run: Path, call: Call) -> None:
    before = sorted(run.rglob("*"))
    code, out, err = call()
    assert code == 0
    rows = [line.split(maxsplit=4) for line in out.splitlines()]
    assert rows[0] == ["frees", "with", "what", "why"]
    assert [row[2:4] for row in rows[1:]] == [
        ["--leftovers", ".run.json.partial-99"],
        ["--checkpoints", "sft/new/checkpoints"],
        ["--stages", "sft/old"],
    ]
    assert out.splitlines()[1].rstrip().endswith("half-written")
    assert rows[2][:2] == ["3.1", "kB"]  # with latest.json
    assert "mine: 5.6 kB could be freed; nothing was removed" in err
    assert "help: posttrain clean mine --leftovers --checkpoints --stages" in err
    assert [path for path in sorted(run.rglob("*")) if path.name != "run.lock"] == before


@pytest.mark.parametrize(
    ("flag", "gone"),
    [
        ("--checkpoints", "sft/new/checkpoints"),
        ("--stages", "sft/old"),
        ("--leftovers", ".run.json.partial-99"),
    ],
)
def test_a_flag_frees_what_it_names_and_no_more(
    run: Path, call: Call, flag: str, gone: str
) -> None:
    everything = {"sft/new/checkpoints", "sft/old", ".run.json.partial-99", "sft/new/manifest.json"}
    code, out, err = call("mine", flag, "-n")
    assert (code, len(out.splitlines())) == (0, 2)
    assert "could be freed; nothing was removed" in err
    assert {each for each in everything if (run / each).exists()} == everything
    code, out, err = call("mine", flag)
    assert (code, len(out.splitlines())) == (0, 2)
    assert " freed\n" in err
    assert {each for each in everything if (run / each).exists()} == everything - {gone}
    assert call("mine", flag) == (0, "", "mine: nothing to remove\n")


def test_json(run: Path, call: Call) -> None:
    code, out, err = call("--json", "--stages")
    document = json.loads(out)
    assert (code, err) == (0, "")
    size = document["freed_bytes"]
    assert 2000 < size < 2200  # the model and a manifest
    assert document["removed"] is True
    assert document["bytes"] == {"checkpoints": 0, "stages": size, "leftovers": 0}
    assert document["found"] == [
        {"kind": "stages", "path": f"{run}/sft/old", "bytes": size, "why": "new is used now"}
    ]
    assert json.loads(call("--json")[1])["removed"] is False


def test_a_run_that_is_being_written_is_left_alone(run: Path, call: Call) -> None:
    with RunFolder(run).locked():
        code, out, err = call("mine", "--checkpoints", "--stages", "--leftovers")
    assert (code, out) == (2, "")
    assert err.startswith("error[run-in-use] runs/mine: is being written by process ")
    assert (run / "sft" / "old").exists()


def test_mistakes(run: Path, call: Call) -> None:
    code, _, err = call("other")
    assert (code, "error[unknown-run]" in err) == (2, True)
    code, _, err = call("mine/sft")
    assert (code, "`mine/sft` is a stage; runs are cleaned" in err) == (2, True)
    (run / "run.json").write_text('{"started": 1.0}')
    code, _, err = call("--stages")
    assert (code, "error[run-unreadable]" in err) == (2, True)
    assert (run / "sft" / "old").exists()


def test_what_stays_is_an_error_with_its_place(
    run: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", refuse)
    code, _, err = call("--stages", "--leftovers")
    assert code == 1
    assert "error[not-removed]" in err
    assert "/sft/old: Device or resource busy; 500 B were freed" in err


LEFT = [Leftover(4121, "raylet", 4000), Leftover(4122, "ray::EngineActor", 4000)]


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[list[Leftover]]:
    """Two processes and a folder are left over; the list of what was asked to end."""
    asked: list[list[Leftover]] = []
    folders = [Path("/tmp/posttrain-4000-ray")]
    monkeypatch.setattr(processes, "leftover_processes", lambda: LEFT)
    monkeypatch.setattr(processes, "end_leftovers", lambda found: asked.append(list(found)) or [])
    monkeypatch.setattr(processes, "leftover_folders", lambda: folders)
    monkeypatch.setattr(processes, "remove_leftover_folders", lambda: folders)
    return asked


def test_processes_of_runs_that_are_gone(
    left: list[list[Leftover]], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # there is no run at all
    code, out, err = call("--processes", "-n")
    assert (code, left) == (0, [])
    assert out.splitlines() == [
        "process 4121  raylet, its driver 4000 is gone",
        "process 4122  ray::EngineActor, its driver 4000 is gone",
        "folder /tmp/posttrain-4000-ray",
    ]
    assert err == "2 processes and 1 folder of runs that are gone; nothing was touched\n"
    code, _, err = call("--processes")
    assert (code, left) == (0, [LEFT])
    assert err == "2 processes ended, 1 folder removed\n"


def test_a_process_that_does_not_end_is_an_error(
    left: list[list[Leftover]], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "end_leftovers", lambda found: [4122])
    code, _, err = call("--processes")
    assert code == 1
    assert "error[not-removed]: processes that do not end: 4122" in err
    assert "help: kill -9 4122" in err
