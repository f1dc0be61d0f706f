"""What judges have said before, by the hash of the question: one SQLite file for all processes.

Kept are the judge's text and how many tokens it took. Questions, rows and keys are not.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.errors import RewardBroken

_WAIT_S = 30.0  # for another process that writes
_TABLE = (
    "CREATE TABLE IF NOT EXISTS judgements (question TEXT PRIMARY KEY, text TEXT NOT NULL, "
    "prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, made REAL NOT NULL)"
)


@dataclass(frozen=True, slots=True)
class Said:
    """One answer of a judge. Example: Said('{"reason": "right", "rating": 9}', 311, 14)"""

    text: str
    prompt_tokens: int
    completion_tokens: int


def question_hash(**question: Any) -> str:
    """SHA-256 of everything that the answer depends on: endpoint, model, messages, sampling."""
    canonical = json.dumps(question, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def cache_folder(given: str) -> Path:
    """`given`, or else judges/ in $POSTTRAIN_CACHE, or else in ~/.cache/posttrain."""
    if given:
        return Path(given).expanduser()
    root = os.environ.get("POSTTRAIN_CACHE") or "~/.cache/posttrain"
    return Path(root).expanduser() / "judges"


class JudgementCache:
    """Opened on first use. Safe with many processes and threads: SQLite's write-ahead log.

    Raises RewardBroken where the file cannot be used: an answer that is paid for and lost is worse
    than one that is late.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "judgements.sqlite"
        self._opened: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def get(self, question: str) -> Said | None:
        columns = "text, prompt_tokens, completion_tokens"
        rows = self._run(f"SELECT {columns} FROM judgements WHERE question = ?", (question,))
        return Said(*rows[0]) if rows else None

    def put(self, question: str, said: Said) -> None:
        row = (question, said.text, said.prompt_tokens, said.completion_tokens, time.time())
        self._run("INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _run(self, statement: str, values: tuple[Any, ...]) -> list[Any]:
        with self._lock:
            try:
                if self._opened is None:
                    self._opened = _open(self.file)
                return self._opened.execute(statement, values).fetchall()
            except (sqlite3.Error, OSError) as error:
                raise RewardBroken(
                    f"judge cache {self.file}: {error}",
                    help="`cache_folder:` on a local disk with room, or `cache: false`",
                ) from error


def _open(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    opened = sqlite3.connect(file, _WAIT_S, isolation_level=None, check_same_thread=False)
    deadline = time.monotonic() + _WAIT_S
    while True:  # SQLite does not wait by itself while another process switches the log on
        try:
            opened.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                opened.close()
                raise
            time.sleep(0.02)
    opened.execute("PRAGMA synchronous = NORMAL")
    opened.execute(_TABLE)
    with suppress(PermissionError):  # somebody else's file in a shared folder
        file.chmod(0o600)
    return opened
