"""Which language a text is written in, by langdetect (Nakatani's naive Bayes over characters)."""

from __future__ import annotations

from pathlib import Path

import langdetect

MOST_CHARACTERS = 5_000
"""Of a longer text only the beginning is looked at: more does not change the answer."""

KNOWN = frozenset(path.name for path in Path(langdetect.PROFILES_DIRECTORY).iterdir())
"""Every code that can be given."""

langdetect.DetectorFactory.seed = 0  # it samples; the same text shall always get the same answer


def language_of(text: str) -> str | None:
    """The ISO 639-1 code as langdetect gives it (`en`, `zh-cn`); None where nothing can be said."""
    start = text[:MOST_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    try:
        return str(langdetect.detect(start))
    except langdetect.LangDetectException:
        return None
