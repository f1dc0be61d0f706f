"""Whether a run can be stored, before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.errors import InputError
from posttrain.pipeline import disk
from posttrain.pipeline.disk import check_disk


def test_too_small_a_disk_is_said_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stats:
        f_bavail, f_frsize = 300_000, 4096  # 1.2 GB

    monkeypatch.setattr(disk.os, "statvfs", lambda path: Stats)
    check_disk(tmp_path / "not" / "yet" / "there", 1_228_800_000)
    with pytest.raises(InputError) as caught:
        check_disk(tmp_path / "not" / "yet" / "there", 5_000_000_000)
    problem = caught.value.problems[0]
    assert problem.code == "disk-too-small"
    assert problem.message == "1.2 GB are free, the run needs about 5.0 GB"
    assert problem.path == str(tmp_path)
