"""What goes over the pipes between a RewardPool and its children.

A frame is the length of a pickle (4 bytes, big endian) and the pickle. Requests are a Setup, then
lists of (row, completion). Replies are None (or what went wrong) to the Setup, then one per answer:
(value, passed, parts) or Broken.
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


class Broken(NamedTuple):
    """What a child sends in place of a score."""

    message: str
    help: str


def frame(content: object) -> bytes:
    """A pickle with its length before it."""
    body = pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body
