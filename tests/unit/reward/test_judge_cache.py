import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.errors import RewardBroken
from posttrain.reward.judging.cache import JudgementCache, Said, cache_folder, question_hash
from posttrain.reward.judging.pace import Pace

WRITER = """
import sys
from pathlib import Path
from posttrain.reward.judging.cache import JudgementCache, Said
cache = JudgementCache(Path(sys.argv[1]))
for number in range(50):
    cache.put(f"{sys.argv[2]}-{number}", Said("text", number, 1))
"""


def test_what_was_put_is_got(tmp_path):
    cache = JudgementCache(tmp_path / "deep" / "folder")
    assert cache.get("q") is None
    cache.put("q", Said("a", 3, 4))
    cache.put("q", Said("b", 5, 6))
    cache.close()
    assert JudgementCache(tmp_path / "deep" / "folder").get("q") == Said("b", 5, 6)
    assert cache.file.stat().st_mode & 0o077 == 0


def test_many_processes_write_at_once(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), name],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for name in "abc"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    cache = JudgementCache(tmp_path)
    assert all(cache.get(f"{name}-{i}") == Said("text", i, 1) for name in "abc" for i in range(50))


def test_a_damaged_file_is_an_error_and_no_judgement(tmp_path):
    (tmp_path / "judgements.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(RewardBroken, match=r"judge cache .*judgements.sqlite: file is not a data"):
        JudgementCache(tmp_path).get("q")


def test_a_question_is_known_by_all_of_it():
    one = question_hash(endpoint="e", model="m", prompt="p")
    assert one == question_hash(model="m", prompt="p", endpoint="e")
    assert one != question_hash(endpoint="e", model="m", prompt="p ")
    assert len(one) == 64


def test_where_the_cache_lies(monkeypatch):
    monkeypatch.setenv("POSTTRAIN_CACHE", "/scratch/c")
    assert cache_folder("") == Path("/scratch/c/judges")
    assert cache_folder("/elsewhere") == Path("/elsewhere")
    monkeypatch.delenv("POSTTRAIN_CACHE")
    assert cache_folder("") == Path.home() / ".cache" / "posttrain" / "judges"


def test_the_bucket_holds_a_second_and_fills_evenly():
    now = 100.0
    pace = Pace(120, clock=lambda: now)  # one every 0.5 s, two at once
    assert [pace.reserve() for _ in range(4)] == [0.0, 0.0, 0.5, 1.0]
    now = 101.5  # the third and fourth have gone, one is due again
    assert [pace.reserve() for _ in range(2)] == [0.0, 0.5]
    now = 200.0  # a long rest saves up no more than a second's worth
    assert [pace.reserve() for _ in range(3)] == [0.0, 0.0, 0.5]


def test_a_slow_pace_lets_one_go_at_a_time():
    pace = Pace(6, clock=lambda: 0.0)
    assert [pace.reserve() for _ in range(3)] == [0.0, 10.0, 20.0]
    assert Pace(None).reserve() == 0.0


def test_sqlite_is_in_write_ahead_mode(tmp_path):
    JudgementCache(tmp_path).put("q", Said("a", 1, 1))
    with sqlite3.connect(tmp_path / "judgements.sqlite") as opened:
        assert opened.execute("PRAGMA journal_mode").fetchone() == ("wal",)
