"""Age of data: how old, in weight versions, the tokens were that each RL stage trained on."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from posttrain.track.formatting import percent
from posttrain.track.report.figure import DataTable, Figure
from posttrain.track.rows import share_by_age
from posttrain.track.views import RunView, StageView


def age_figures(view: RunView) -> list[Figure]:
    """One histogram per RL stage, with the bound as a wall."""
    return [
        _figure(stage, shares)
        for stage in view.stages
        if stage.kind == "online_rl" and (shares := share_by_age(stage.rows, stage.samples))
    ]


def _figure(stage: StageView, shares: Mapping[int, float]) -> Figure:
    staleness = stage.config.get("staleness")
    bound = staleness.get("max") if isinstance(staleness, Mapping) else staleness
    bound = bound if isinstance(bound, int) else None
    oldest = max(shares)
    ages = list(range(max(oldest, bound or 0) + 1))
    finding = f"{percent(shares.get(0, 0.0))} of tokens trained by the version that made them"
    finding += f", the oldest {oldest} version{'s' if oldest != 1 else ''} later"
    several = stage.values("age/multi_version_share")
    if several:
        finding += f"; {percent(fmean(several))} of answers span several versions"
    return Figure(
        id=f"age-{stage.name}",
        title=f"{stage.name}: age of data" + (f", bound {bound}" if bound is not None else ""),
        finding=finding,
        data=[
            {
                "type": "bar",
                "x": ages,
                "y": [round(shares.get(age, 0.0), 5) for age in ages],
                "text": [percent(shares.get(age, 0.0)) for age in ages],
                "textposition": "outside",
                "cliponaxis": False,
                "color": 0,
                "name": "share of tokens",
            }
        ],
        layout={
            "xaxis": {"title": {"text": "weight versions old"}, "dtick": 1},
            "yaxis": {"title": {"text": "share of tokens"}, "tickformat": ".0%"},
            "wall": None if bound is None else bound + 0.5,
            "showlegend": False,
        },
        table=DataTable(
            ["versions old", "share"], [[str(age), percent(shares.get(age, 0.0))] for age in ages]
        ),
    )
