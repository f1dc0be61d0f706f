"""Fronts of models by what they gain and what they cost: points (gain, tax), shares 0..1.

More gain is better, less tax is. A front's hypervolume is one number for all of it: the area of
what its points are better than, down to a reference point that stays the same. Zitzler and Thiele
1999 (IEEE Trans. Evolutionary Computation 3, 257-271) measure fronts so.

    HV(P) = area of the union over p in P of [gain_ref, gain_p] x [tax_p, tax_ref]

With the reference (0, 1), nothing gained and everything lost, it is the gain that can be had,
averaged over every bound on the tax from 0 to 100 points (where no point has a negative tax; what
lies below 0 counts too, so that a model that loses less than nothing is worth more).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

Point = tuple[float, float]  # (gain, tax)
WORST: Point = (0.0, 1.0)


def hypervolume(points: Iterable[Point], reference: Point = WORST) -> float:
    """The area that the points rule, in shares squared; 0 of none, and of points no better than the
    reference. A point that another one dominates changes nothing, nor does the order.

    Raises ValueError for a number that is none (NaN or infinite).
    """
    least_gain, most_tax = reference
    given = [*points]
    if not all(math.isfinite(number) for point in (reference, *given) for number in point):
        raise ValueError("a front needs finite gains and taxes")
    better = sorted((tax, gain) for gain, tax in given if gain > least_gain and tax < most_tax)
    area, highest = 0.0, least_gain
    for tax, gain in better:  # each adds what is above those that cost less
        if gain > highest:
            area += (gain - highest) * (most_tax - tax)
            highest = gain
    return area
