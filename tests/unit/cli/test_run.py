"""`posttrain run`: flags that do not go together are told before anything starts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from posttrain.cli import main
from posttrain.cli.run import seconds_to_wait

Write = Callable[..., str]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200)])
def test_how_long_to_wait_for_a_cluster(text: str, seconds: float) -> None:
    assert seconds_to_wait(text, "head:6379") == seconds
    assert seconds_to_wait(None, None) == 0


@pytest.mark.parametrize("command", ["run", "submit"])
@pytest.mark.parametrize("text", ["30", "m", "-5m", "1.5h", "soon"])
def test_what_is_no_duration(
    command: str, text: str, write_pipeline: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, write_pipeline(), "--address", "head:6379", f"--wait-for-cluster={text}"]
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"error[usage] --wait-for-cluster: {text} is no duration",
        "  help: 30m, 90s or 2h",
    ]


def test_without_an_address_there_is_nothing_to_wait_for(
    write_pipeline: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", write_pipeline(), "--wait-for-cluster", "5m"]) == 2
    assert "there is no cluster to wait for" in capsys.readouterr().err
