"""What goes over the pipes between a RewardPool and its children.

A frame is the length of a pickle (4 bytes, big endian) and the pickle. Requests are a Setup, then
lists of (row, completion). Replies are a Ready (or what went wrong, as text) to the Setup, then for
each answer, as it is known: its place in the list, and the fields of a Score, or Broken.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, NamedTuple

HEADER = struct.Struct(">I")


class Setup(NamedTuple):
    """What a child is told first."""

    name: str  # of the reward, absolute where it is a file
    settings: dict[str, Any]
    timeout_s: float
    memory_mb: int


class Ready(NamedTuple):
    """The reward is loaded. `together`: its answers are scored side by side, so that where it dies
    or says nothing it is not known of which. `parts`: rewards that one answer is shown to, each
    with a time limit of its own.
    """

    together: bool
    parts: int


class Broken(NamedTuple):
    """What a child sends in place of a score. `is_last`: it cannot go on after it, and ends."""

    message: str
    help: str
    is_last: bool = False


def frame(content: object) -> bytes:
    """A pickle with its length before it."""
    body = pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body
