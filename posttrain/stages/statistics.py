"""Intervals of measured values. Pure functions on numbers; shares are 0..1."""

from __future__ import annotations

import math
from collections.abc import Sequence

from posttrain.types import Interval

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def share(passed: Sequence[float]) -> Interval:
    """Wilson's 95 % interval of a share. Source: Wilson 1927, JASA 22, 209-212.

    Of grades between 0 and 1 the normal interval of their mean: they vary less than a share does.
    Example: 8 of 10 -> 0.8 (0.490 to 0.943). ValueError without any observation.
    """
    count = len(passed)
    if count == 0:
        raise ValueError("a share needs at least one observation")
    value = sum(passed) / count
    if any(0.0 < each < 1.0 for each in passed):
        graded = average(passed)
        return Interval(value, max(0.0, graded.low), min(1.0, graded.high))
    z2 = Z95 * Z95 / count
    centre = (value + z2 / 2) / (1 + z2)
    half = Z95 * math.sqrt(value * (1 - value) / count + z2 / (4 * count)) / (1 + z2)
    # At 0 and 1 the bounds touch the value exactly; rounding must not push them past it.
    return Interval(value, max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half)))


def perplexity(nats: Sequence[float], tokens: Sequence[int]) -> Interval:
    """exp of the mean negative log-likelihood per token, over texts; the interval is over texts.

    `nats` is each text's summed negative log-likelihood, `tokens` its number of scored tokens.
    """
    total = sum(tokens)
    if total == 0:
        raise ValueError("perplexity needs at least one scored token")
    mean = sum(nats) / total
    # Ratio estimator: variance of the residuals per text, relative to the mean text length.
    residuals = [n - mean * t for n, t in zip(nats, tokens, strict=True)]
    count = len(nats)
    variance = sum(r * r for r in residuals) / max(1, count - 1)
    half = Z95 * math.sqrt(variance / count) / (total / count)
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def average(values: Sequence[float]) -> Interval:
    """The mean of observations of any size, with its normal 95 % interval; of one, no width."""
    if not values:
        raise ValueError("a mean needs at least one observation")
    count = len(values)
    value = math.fsum(values) / count
    variance = math.fsum((each - value) ** 2 for each in values) / max(1, count - 1)
    half = Z95 * math.sqrt(variance / count)
    return Interval(value, value - half, value + half)


def mean(intervals: Sequence[Interval]) -> Interval:
    """The mean of independent values, with the interval that their half widths add up to."""
    if not intervals:
        raise ValueError("a mean needs at least one value")
    count = len(intervals)
    value = sum(i.value for i in intervals) / count
    low = math.sqrt(sum((i.value - i.low) ** 2 for i in intervals)) / count
    high = math.sqrt(sum((i.high - i.value) ** 2 for i in intervals)) / count
    return Interval(value, value - low, value + high)


def difference(first: Interval, second: Interval) -> Interval:
    """first - second, of independent values."""
    value = first.value - second.value
    low = math.hypot(first.value - first.low, second.high - second.value)
    high = math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, value - low, value + high)
