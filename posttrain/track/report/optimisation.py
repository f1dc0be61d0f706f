"""Pictures of over-optimisation: true quality against how far a policy is from where it started."""

from __future__ import annotations

import math

from posttrain.track.report.figure import Figure, Series, change_in_words, curve_figure
from posttrain.track.views import StageView

LAW_POINTS = 60
DISTANCE = "distance from the start (KL, nats)"


def best_of_n_figures(stage: StageView) -> list[Figure]:
    """What the best of n is worth, and what the reward that chose it says, over the distance."""
    distances, gold = stage.values("best_of/kl_nats"), stage.values("best_of/score")
    proxy = stage.values("best_of/proxy")
    if not gold:
        return []
    xs = {"step": distances}
    series = [
        Series("gold reward", xs, gold, markers=True),
        Series("reward that chooses", xs, proxy, 1, "dash", second_axis=True, markers=True),
    ]
    return [
        curve_figure(
            f"curve-{stage.name}-best-of-n",
            "Best of n",
            series,
            y_title="gold reward",
            second_title="reward that chooses",
            finding=f"{change_in_words('gold reward', gold)}; {_highest(distances, gold)}",
            x_title=DISTANCE,
        )
    ]


def law_figures(stage: StageView) -> list[Figure]:
    """Each model of a sweep, and the law that was fitted through them."""
    distances, gold = (stage.values(f"over_optimisation/{name}") for name in ("kl_nats", "gold"))
    if len(gold) < 2:
        return []
    points = sorted(zip(distances, gold, strict=True))
    xs, ys = ([point[i] for point in points] for i in (0, 1))
    series = [Series("models", {"step": xs}, ys, markers=True)]
    law = [stage.values(f"over_optimisation/law_{name}") for name in ("alpha", "beta")]
    if all(law):
        series.append(_law(law[0][-1], law[1][-1], gold[0], max(distances)))
    return [
        curve_figure(
            f"curve-{stage.name}-law",
            "Quality against distance",
            series,
            y_title="gold reward",
            finding=f"{change_in_words('gold reward', ys)}; {_highest(xs, ys)}",
            x_title=DISTANCE,
        )
    ]


def _law(alpha: float, beta: float, start: float, farthest: float) -> Series:
    distances = [farthest * (index / LAW_POINTS) ** 2 for index in range(1, LAW_POINTS + 1)]
    values = [start + math.sqrt(kl) * (alpha - beta * math.log(math.sqrt(kl))) for kl in distances]
    return Series("fitted law", {"step": distances}, values, 1, "dash")


def _highest(distances: list[float], values: list[float]) -> str:
    best = max(range(len(values)), key=values.__getitem__)
    return f"highest, {values[best]:.3g}, at {distances[best]:.2g} nats"
