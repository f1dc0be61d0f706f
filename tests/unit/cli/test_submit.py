"""`posttrain submit`: everything is checked here first, and no secret is told."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.cli.submit import written_secrets
from posttrain.cluster import jobs

Write = Callable[..., str]
AT = ("--address", "http://head:8265")
REWARD = """
from posttrain.config.strict import StrictModel
from posttrain.reward.protocol import Example
from posttrain.types import Score

class Config(StrictModel):
    api_key: str = ""

def score(row, completion, config):
    return Score(float(completion == "1"))

def gold(config):
    return [Example({}, "1")]

def bad(config):
    return [Example({}, "2")]
"""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the cluster was given."""
    given: dict[str, Any] = {}

    def submit_job(**job: Any) -> str:
        given.update(job)
        given["files"] = zipfile.ZipFile(job["runtime_env"]["working_dir"]).namelist()
        return "mine-0f00ba"

    class Client:
        def __init__(self) -> None:
            self.submit_job = submit_job

    monkeypatch.setattr(jobs.Jobs, "_connect", lambda self: Client())
    return given


def test_a_sound_file_is_sent(
    write_pipeline: Write, sent: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["submit", write_pipeline(), "seed=3", *AT]) == 0
    out, err = capsys.readouterr()
    assert out == "mine-0f00ba\n"
    assert sent["files"] == ["mine.yaml"]
    assert f" --address auto --runs-dir {tmp_path}/runs --name mine" in sent["entrypoint"]
    assert f"{tmp_path}/runs/mine/submitted/" in sent["entrypoint"]
    assert "posttrain submit --follow mine-0f00ba --address http://head:8265" in err
    assert "ray job stop mine-0f00ba --address http://head:8265" in err


def test_all_mistakes_are_shown_and_nothing_is_sent(
    write_pipeline: Write, sent: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_pipeline(
        "samples_per_prompt: 8", "sample_per_prompt: 8", "model: sft\n", "model: stf\n"
    )
    assert main(["submit", file, *AT]) == 2
    out, err = capsys.readouterr()
    assert out == "" and sent == {}
    assert "error[unknown-key] mine.yaml:14" in err and "error[unknown-stage] mine.yaml:10" in err


def test_a_variable_is_handed_over_by_name_and_its_value_not_told(
    write_pipeline: Write,
    sent: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789secret")
    assert main(["submit", write_pipeline(), *AT]) == 0
    assert "WANDB_API_KEY" not in sent["runtime_env"]["env_vars"]
    assert main(["submit", write_pipeline(), *AT, "--env", "WANDB_API_KEY"]) == 0
    assert sent["runtime_env"]["env_vars"]["WANDB_API_KEY"] == "0123456789secret"
    assert "0123456789secret" not in sent["entrypoint"]
    out, err = capsys.readouterr()
    assert "WANDB_API_KEY: whoever may open the dashboard can read the value" in err
    assert "0123456789secret" not in out + err


def test_a_value_on_the_command_line_is_not_repeated(
    write_pipeline: Write, sent: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", write_pipeline(), *AT, "--env", "KEY=sesame", "--env", "NOWHERE"]) == 2
    err = capsys.readouterr().err
    assert "KEY is not set here" in err and "NOWHERE is not set here" in err
    assert "sesame" not in err and sent == {}


def test_secrets_are_found_by_their_keys() -> None:
    value = {"a": {"api_key": "sesame", "list": [1, {"token": "x"}]}, "b": 1}
    hidden = {"a": {"api_key": "(hidden)", "list": [1, {"token": "(hidden)"}]}, "b": 1}
    found = written_secrets(value, hidden)
    assert [(each.code, each.path) for each in found] == [
        ("secret-in-file", "a.api_key"),
        ("secret-in-file", "a.list.1.token"),
    ]
    assert not any("sesame" in each.render() for each in found)
    assert written_secrets(value, value) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine.yaml"], "submit needs --address"),
        ([*AT], "missing argument 'FILE'"),
        (["mine.yaml", "--follow", "mine-1", *AT], "--follow takes no file"),
    ],
)
def test_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_secret_in_the_file_is_not_sent(
    write_pipeline: Write, sent: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(REWARD)
    file = write_pipeline("reward: arithmetic", "reward: {name: ./mine.py, api_key: sesame}")
    assert main(["submit", file, *AT]) == 2
    err = capsys.readouterr().err
    assert "error[secret-in-file] mine.yaml:12 stages.rlvr.reward.api_key: holds a secret" in err
    assert "sesame" not in err and sent == {}
