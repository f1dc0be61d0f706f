"""`posttrain status` of a run that is under way."""

import json

import pytest
import yaml
from track_run_folder import write_run

from posttrain.cli import main


@pytest.fixture
def running(tmp_path, capsys):
    """A run in its `rlvr`, and what `status` says of that stage."""
    run = write_run(tmp_path / "quickstart", running_step=24)
    (stage,) = (run / "rlvr").iterdir()

    def line():
        assert main(["status", "--runs-dir", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert "None" not in out
        (found,) = [each for each in out.splitlines() if each.startswith(" ▶ rlvr")]
        return found

    return stage, line


def without_steps(path, load, save):
    document = load(path.read_text())
    document.pop("steps", None)
    path.write_text(save(document))


def test_the_step_and_of_how_many(running):
    _, line = running
    assert line().endswith("  step 24/60")


def test_epochs_have_no_number_of_steps_beforehand(running):
    stage, line = running
    without_steps(stage / "manifest.json", json.loads, json.dumps)
    without_steps(stage / "config.yaml", yaml.safe_load, yaml.safe_dump)
    assert line().endswith("  step 24")


def test_before_the_first_step(running):
    stage, line = running
    (stage / "metrics.jsonl").unlink()
    assert "step" not in line()
