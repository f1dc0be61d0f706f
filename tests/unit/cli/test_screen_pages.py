"""How often live.html is written: pages that take long come seldom."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.cli import screen
from posttrain.cli.screen import Screen


class Clock:
    """Time passes where somebody waits or works; the run is over after ten minutes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def wait(self, pause_s: float) -> bool:
        self.pauses.append(pause_s)
        self.now += pause_s
        return self.now > 600


@pytest.mark.parametrize(("takes_s", "pauses"), [(0.1, [10.0] * 60), (4.0, [10.0] + [80.0] * 8)])
def test_pages_take_a_twentieth_of_a_core_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_s: float, pauses: list[float]
) -> None:
    clock = Clock()
    written: list[Path] = []

    def write(directory: Path, page: Path, live: bool) -> None:
        clock.now += takes_s
        written.append(page)

    monkeypatch.setattr(screen, "write_report", write)
    monkeypatch.setattr(screen.gc, "collect", lambda: 0)  # of all that pytest has loaded
    monkeypatch.setattr(screen, "time", SimpleNamespace(monotonic=lambda: clock.now))
    shown: Any = Screen(tmp_path, as_json=True)
    shown._ended = clock
    shown._write_pages()
    assert clock.pauses == pytest.approx(pauses)
    assert written == [tmp_path / "live.html"] * (len(pauses) - 1)
