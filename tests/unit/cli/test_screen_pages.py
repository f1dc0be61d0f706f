"""How often live.html is written: pages that take long come seldom."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import screen
from posttrain.cli.screen import Screen


@pytest.mark.parametrize(("takes_s", "fewest", "most"), [(0.0, 8, 100), (0.04, 1, 2)])
def test_pages_take_a_twentieth_of_a_core_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_s: float, fewest: int, most: int
) -> None:
    written: list[Path] = []

    def write(directory: Path, page: Path, live: bool) -> None:
        time.sleep(takes_s)
        written.append(page)

    monkeypatch.setattr(screen, "write_report", write)
    monkeypatch.setattr(screen.gc, "collect", lambda: 0)  # of all that pytest has loaded
    monkeypatch.setattr(screen, "PAGE_EVERY_S", 0.01)
    shown: Any = Screen(tmp_path, as_json=True)
    shown._pages.start()
    time.sleep(0.9)
    shown.__exit__(None, None, None)
    assert fewest <= len(written) <= most
    assert set(written) == {tmp_path / "live.html"}
