"""How numbers are written for people, the same on the screen, in the summary and in the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from posttrain.types import Interval

SPARKS = "▁▂▃▄▅▆▇█"


def duration(seconds: float | None) -> str:
    """`0:44`, `12:05`, `1:02:03`; `-` where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def long_duration(seconds: float) -> str:
    """`44 s`, `7 min 52 s`, `4 h 40 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def percent(share: float) -> str:
    """0.483 is `48 %`; below one per cent one decimal is kept (`0.8 %`)."""
    points = share * 100
    if abs(points) < 0.05:
        return "0 %"
    return f"{points:.1f} %" if abs(points) < 0.95 else f"{points:.0f} %"


def significant(value: float, digits: int = 2) -> str:
    """`0.31`, `0.0002`, `1.8`, `46`, `3e-4`: short, never more than `digits` meaningful ones."""
    if not math.isfinite(value):
        return "not a number"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10 ** (digits - 1):
        return f"{value:,.0f}".replace(",", " ")
    if size < 1e-4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    decimals = digits - 1 - math.floor(math.log10(size))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if size < 0.1 else text


def fixed(value: float) -> str:
    """`1.92`, `0.38`, and two meaningful digits where that would say too little: `0.0012`."""
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else significant(value)


def learning_rate(value: float) -> str:
    """`3e-4`, `2.5e-6`: always with an exponent, as it stands in a pipeline file."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def half_width(interval: Interval) -> float:
    """Half of a 95 % interval, in the interval's own unit."""
    return (interval.high - interval.low) / 2


def percent_interval(interval: Interval) -> str:
    """`48 % ± 3`: a share and half its interval in points."""
    return f"{interval.value * 100:.0f} % ± {max(1, round(half_width(interval) * 100))}"


def task_label(task: str) -> str:
    """`microworld/arithmetic` is `arithmetic` on screens."""
    return task.rsplit("/", 1)[-1]


def sparkline(values: Sequence[float], width: int) -> str:
    """The last values as bars of one character; long series are averaged down to `width`."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    shown = thin(finite, width)
    low, high = min(shown), max(shown)
    if high - low < 1e-12:
        return SPARKS[3] * len(shown)
    scale = (len(SPARKS) - 1) / (high - low)
    return "".join(SPARKS[round((value - low) * scale)] for value in shown)


def thin(values: Sequence[float], count: int) -> list[float]:
    """At most `count` values: means of equal stretches, in order."""
    if len(values) <= count:
        return list(values)
    edges = [round(index * len(values) / count) for index in range(count + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]


def bar(share: float, width: int) -> str:
    """A filled bar of `width` characters at most, to an eighth of a character."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    rest = " ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else ""
    return "█" * (eighths // 8) + rest


def printable(text: str, limit: int) -> str:
    """One line that cannot move the cursor: line ends become `⏎`, control characters `·`."""
    line = "".join(
        "⏎" if character == "\n" else character if character.isprintable() else "·"
        for character in text
    )
    return line if len(line) <= limit else f"{line[: max(0, limit - 1)]}…"
