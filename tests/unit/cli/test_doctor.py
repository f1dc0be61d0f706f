"""`posttrain doctor`: its exit code, its JSON, whether a file fits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.checkpoint.folders import CommittedFolders
from posttrain.cli import main
from posttrain.cli.doctor_disk import with_freeable
from posttrain.cli.doctor_file import file_findings
from posttrain.cluster import leftovers
from posttrain.cluster.leftovers import Leftover
from posttrain.doctor import machine, packages, storage
from posttrain.doctor.finding import Finding
from posttrain.doctor.gpus import Gpus
from posttrain.doctor.machine import Machine
from posttrain.doctor.storage import Space
from posttrain.files import write_json
from posttrain.pipeline.store import RunFolder

GB = 10**9
CALM = Machine("Linux", 4, None, 24 * GB, 20 * GB, (65536, 65536), Gpus())
ROOM = Space(Path("runs"), 100 * GB, 50 * GB)
WELL = Finding("python", "ok", "3.11.7")


@pytest.fixture
def doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`doctor("--json")` on a machine where all is well: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "sesame")
    monkeypatch.setattr(machine, "read_machine", lambda: CALM)
    monkeypatch.setattr(packages, "package_findings", lambda installed, num_gpus: [WELL])
    monkeypatch.setattr(storage, "read_storage", lambda runs: (ROOM, ROOM, ROOM))
    monkeypatch.setattr(leftovers, "leftover_processes", list)
    monkeypatch.setattr(leftovers, "leftover_folders", list)

    def called(*arguments: str) -> tuple[int, str, str]:
        code = main(["doctor", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return called


def test_all_is_well(doctor: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = doctor()
    assert code == 0
    assert err.startswith("nothing to act on, ")
    assert [line.split()[:2] for line in out.splitlines()] == [["✓", "ok"]] * len(out.splitlines())
    assert " ✓ ok     cores         4 cores" in out.splitlines()
    assert "sesame" not in out + err
    assert "\x1b" not in out  # no colour in a pipe


def test_watch_is_no_failure_and_act_is(
    doctor: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [Leftover(4121, "raylet", 4000)]
    monkeypatch.setattr(leftovers, "leftover_processes", lambda: left)
    code, out, err = doctor()
    assert (code, err.startswith("1 to watch, ")) == (0, True)
    at = out.splitlines().index(
        " ! watch  leftovers     1 process (4121) and 0 folders of runs that are gone"
    )
    assert out.splitlines()[at + 1] == "   help: posttrain clean --processes"
    full = Space(Path("runs"), 100 * GB, 0)
    monkeypatch.setattr(storage, "read_storage", lambda runs: (full, ROOM, ROOM))
    code, out, err = doctor("--json")
    document = json.loads(out)
    assert (code, err, document["ok"], document["schema"]) == (1, "", False, 1)
    acts = [each for each in document["findings"] if each["verdict"] == "act"]
    assert [each["name"] for each in acts] == ["disk"]
    assert set(acts[0]) == {"name", "verdict", "text", "help"}


def test_a_system_that_hides_its_processes(
    doctor: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden() -> list[Leftover]:
        raise FileNotFoundError(2, "No such file or directory", "/proc/stat")

    monkeypatch.setattr(leftovers, "leftover_processes", hidden)
    code, out, _ = doctor()
    assert code == 0
    assert " ! watch  leftovers     cannot be looked for: " in out


def test_a_file_that_fits(
    doctor: Callable[..., tuple[int, str, str]], write_pipeline: Callable[..., str]
) -> None:
    code, out, _ = doctor(write_pipeline())
    assert code == 0
    assert " ✓ ok     file          mine.yaml: 6 stages, no mistakes" in out.splitlines()
    assert " ✓ ok     GPUs          mine.yaml wants none" in out.splitlines()


def test_a_file_with_mistakes(
    doctor: Callable[..., tuple[int, str, str]], write_pipeline: Callable[..., str]
) -> None:
    file = write_pipeline(
        "    reward: arithmetic", "    rewards: arithmetic", "steps: 60", "step: 60"
    )
    code, out, _ = doctor(file)
    assert code == 1
    assert " ✗ act    file          4 errors, the first mine.yaml:" in out
    assert "   help: posttrain check mine.yaml" in out.splitlines()
    code, out, _ = doctor("nowhere.yaml")
    assert (code, "1 error, the first nowhere.yaml: no such file" in out) == (1, True)


BIG = "suites:", "cluster: {engines: 3, gpus_per_engine: 2, gpus_per_trainer: 1}\nsuites:"


def test_a_file_that_wants_more_than_there_is(
    write_pipeline: Callable[..., str], tmp_path: Path
) -> None:
    file = write_pipeline(*BIG)
    found = file_findings(file, tmp_path / "runs", ROOM, 6)
    assert [(each.name, each.verdict) for each in found] == [("file", "ok"), ("GPUs", "act")]
    assert found[1].text == "mine.yaml wants 7, this machine has 6"
    assert file_findings(file, tmp_path / "runs", ROOM, 7)[1].verdict == "ok"
    # three trained stages, each 10 copies of 4 MB, and half a GB for the rest
    tight = Space(Path("runs"), 100 * GB, 619_999_999)
    found = file_findings(file, tmp_path / "runs", tight, 7)
    assert [(each.name, each.verdict) for each in found][1] == ("disk", "act")
    tight = Space(Path("runs"), 100 * GB, 620_000_000)
    assert "disk" not in [each.name for each in file_findings(file, tmp_path, tight, 7)]


def test_a_full_disk_names_the_run_that_frees_most(tmp_path: Path) -> None:
    for name, num_bytes in {"small": 10, "large": 5000}.items():
        run = RunFolder(tmp_path / name)
        manifest = {"stage": "sft", "identity": "i", "state": "done", "ended": 1.0}
        run.stage("sft", "i").write_manifest(manifest)
        write_json(run.path / "run.json", {"stages": [{"name": "sft", "identity": "i"}]})
        store = CommittedFolders(run.path / "sft" / "i" / "checkpoints")
        (store.begin(1) / "a").write_bytes(b"x" * num_bytes)
        store.commit(1, store.begin(1))
    full = Finding("disk", "act", "full", "posttrain clean")
    assert (
        with_freeable(full, tmp_path).help == "posttrain clean large --checkpoints   (frees 5.1 kB)"
    )
    with RunFolder(tmp_path / "large").locked():  # it is being written
        assert with_freeable(full, tmp_path).help.startswith("posttrain clean small --checkpoints")
    (tmp_path / "small" / "run.json").write_text("{")
    (tmp_path / "large" / "run.json").write_text("{")
    assert with_freeable(full, tmp_path) == full
    fine = Finding("disk", "ok", "room")
    assert with_freeable(fine, tmp_path) == fine


def test_it_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom posttrain.cli import main\n"
        "main(['doctor', 'quickstart', '--json'])\n"
        "print([m for m in ('torch', 'ray', 'vllm', 'transformers', 'wandb') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    document, heavy = ran.stdout.splitlines()
    assert heavy == "[]"
    assert {"python", "cores", "memory", "disk", "W&B", "file"} <= {
        each["name"] for each in json.loads(document)["findings"]
    }
    assert list(tmp_path.iterdir()) == []  # it changes nothing
