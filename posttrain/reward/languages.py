"""The language of a text, as langdetect names it; the same text always gives the same answer."""

from __future__ import annotations

LOOKED_AT_CHARACTERS = 20_000  # langdetect itself reads half as many, after it took out addresses


def language_of(text: str) -> str | None:
    """The likeliest language's code (`en`, `zh-cn`); None where no letter tells of any."""
    from langdetect import DetectorFactory, LangDetectException, detect

    DetectorFactory.seed = 0  # it draws at random otherwise, and takes another side now and then
    try:
        return str(detect(text[:LOOKED_AT_CHARACTERS]))
    except LangDetectException:
        return None
