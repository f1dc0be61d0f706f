"""Reads a stage's trace back, for the report: the newest part of `trace.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.track.spans import Span
from posttrain.track.trace import FILE_NAME
from posttrain.track.trace_rows import track_of

READ_BYTES = 4 << 20  # of the end: about 30,000 spans, a fifth of a second to read


def read_spans(directory: Path, max_bytes: int = READ_BYTES) -> list[Span]:
    """The last spans of a stage, in the order of their ends; none where there is no trace.

    Lines that do not parse (halves, torn by a kill or by where reading begins) are left out.
    """
    return [
        Span(
            track_of(event["tid"]),
            str(event["name"]),
            event["ts"] / 1e6,
            (event["ts"] + event["dur"]) / 1e6,
            event.get("args") or {},
        )
        for event in _last_events(directory / FILE_NAME, max_bytes)
        if event.get("ph") == "X"
    ]


def _last_events(path: Path, max_bytes: int) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - max_bytes))
            for line in stream:
                try:
                    event = json.loads(line.rstrip(b",\n"))
                except ValueError:
                    continue
                if isinstance(event, dict):
                    yield event
    except OSError:
        return
