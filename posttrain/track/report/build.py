"""Builds the report: reads the run folder, gathers the sections, renders one HTML file.

The file asks the network for nothing (a content security policy forbids it), carries plotly's
script compressed, and escapes everything: completions are text from a model, not markup.
"""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from posttrain.errors import PosttrainError
from posttrain.track.formatting import duration, long_duration
from posttrain.track.report.curves import stage_curves
from posttrain.track.report.data_age import age_figures
from posttrain.track.report.figure import Figure
from posttrain.track.report.gain_cost import cost_table
from posttrain.track.report.graph import graph_drawing
from posttrain.track.report.headline import headline
from posttrain.track.report.health import health
from posttrain.track.report.lineage import environment, lineage
from posttrain.track.report.pareto import pareto_figure
from posttrain.track.report.rewards import reward_rows
from posttrain.track.report.sample_pairs import before_and_after, stage_samples
from posttrain.track.report.soups import soup_rows
from posttrain.track.report.timeline import stage_timelines
from posttrain.track.run_view import read_run
from posttrain.track.trace_read import READ_BYTES
from posttrain.track.views import RunView

HERE = Path(__file__).parent
REFRESH_S = 10  # of live.html
LIVE_TRACE_BYTES = 1 << 20  # of a trace's end; the driver holds twice as much meanwhile


def write_report(run_dir: Path | str, out_path: Path | str, live: bool = False) -> Path:
    """Write the report of a run folder to `out_path`; returns that path.

    With `live` the page loads itself again every 10 s while the run goes on. The file is replaced
    in one move, so that a browser never reads half of it.

    Raises ReportFailed where plotly's script is not installed.
    """
    view = read_run(run_dir)
    page = render_report(view, live=live)
    target = Path(out_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    unfinished.write_text(page, "utf-8")
    unfinished.replace(target)
    return target


class ReportFailed(PosttrainError):
    """The report could not be built; the run folder is complete without it."""

    code = "report-failed"


def render_report(view: RunView, live: bool = False) -> str:
    """The page as text."""
    context = _sections(view, LIVE_TRACE_BYTES if live else READ_BYTES)
    figures: list[Figure] = context.pop("figures")
    scripts = {"figures": Markup(_json_for_html([figure.as_json() for figure in figures]))}
    return _template().render(
        **context,
        **scripts,
        title=view.name,
        view=view,
        css=Markup((HERE / "style.css").read_text("utf-8")),
        script=Markup((HERE / "script.js").read_text("utf-8")),
        plotly=Markup(_plotly_gzip_base64()) if figures else "",
        refresh_s=REFRESH_S if live and view.state == "running" else 0,
        started=_when(view.started),
        written=_when(view.now),
        took=long_duration(view.seconds or 0.0),
    )


def _sections(view: RunView, trace_bytes: int) -> dict[str, Any]:
    pareto = pareto_figure(view)
    curves = [found for stage in view.stages if (found := stage_curves(stage, view))]
    ages = age_figures(view)
    timelines = stage_timelines(view, trace_bytes)
    figures = [*([pareto] if pareto else []), *(f for c in curves for f in c.figures), *ages]
    for timeline in timelines:
        figures += [*([timeline.bars] if timeline.bars else []), *timeline.curves]
    return {
        "figures": figures,
        "headline": headline(view),
        "graph": graph_drawing(view),
        "cost": cost_table(view),
        "pareto": pareto,
        "soups": soup_rows(view),
        "curves": curves,
        "curve_names": {curve.stage.name for curve in curves},
        "ages": ages,
        "timelines": timelines,
        "pairs": before_and_after(view),
        "samples": stage_samples(view),
        "rewards": reward_rows(view),
        "health": health(view),
        "lineage": lineage(view),
        "environment": environment(view),
    }


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(HERE)
    surroundings = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    surroundings.filters["duration"] = duration
    return surroundings.get_template("template.jinja")


def _json_for_html(value: Any) -> str:
    """JSON that may stand inside a script element: no `<`, `>` or `&` in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@lru_cache(maxsize=1)
def _plotly_gzip_base64() -> str:
    """The installed plotly's script, compressed: 4.8 MB become 2."""
    found = importlib.util.find_spec("plotly")
    folders = found.submodule_search_locations if found else None
    path = Path(next(iter(folders))) / "package_data" / "plotly.min.js" if folders else None
    if path is None or not path.is_file():
        raise ReportFailed("plotly's script is not installed", help="pip install plotly")
    return base64.b64encode(gzip.compress(path.read_bytes(), 9, mtime=0)).decode("ascii")


def _when(moment: float | None) -> str:
    return time.strftime("%d %b %Y, %H:%M", time.localtime(moment)) if moment else ""
