"""Standard output and error of a run, whoever listens: nobody may have to for training to go on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


class Heard:
    """A text stream until its reader is gone (a closed terminal, an ended `tee`); silent from then
    on, for all that writes to the same file descriptor.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._fall_silent()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._fall_silent()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _fall_silent(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self._stream.fileno())
            self._stream.flush()  # what could not be said, or it would be tried again at the exit
        finally:
            os.close(nowhere)


@contextmanager
def unheard_is_fine() -> Iterator[None]:
    """Meanwhile nothing fails because nobody reads what is said."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Heard(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
