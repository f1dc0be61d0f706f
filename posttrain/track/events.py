"""Events of a run in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def event_words(event: Mapping[str, Any]) -> str:
    """`engine lost: engine engine-0, message out of memory`, or the event's own text."""
    details = {
        key: value for key, value in event.items() if key not in ("time", "stage", "name", "text")
    }
    shown = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in details.items())
    name = str(event.get("name", "")).replace("_", " ").replace("-", " ")
    return ": ".join(part for part in (name, str(event.get("text") or ""), shown) if part)
