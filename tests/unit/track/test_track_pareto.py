"""Fronts of averages in the picture of gain against tax."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from track_run_folder import write_run

from posttrain.track.gains import parent_model
from posttrain.track.report.fronts import (
    areas_in_words,
    front_areas,
    front_points,
    front_traces,
)
from posttrain.track.report.pareto import Point, _is_dominated, pareto_figure
from posttrain.track.report.soups import SoupRow, soup_rows
from posttrain.track.run_view import read_run
from posttrain.track.views import RunView, StageView


def interval(value):
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


@pytest.fixture
def view(tmp_path: Path):
    points = [
        {"method": method, "weight_pre": share, "gain": interval(gain), "tax": interval(tax)}
        for method, share, gain, tax in (
            ("layerwise", 0.1, 0.75, 0.04),
            ("layerwise", 0.2, 0.70, 0.02),
            ("linear", 0.1, 0.72, 0.05),
            ("linear", 0.2, 0.60, None),
        )
        if tax is not None
    ]
    (tmp_path / "front.json").write_text(json.dumps({"points": points}))
    stage = StageView("average", "average", "done", "f00d", "new", ("sft", "rlvr"), tmp_path)
    other = replace(stage, name="sft", kind="sft")
    return RunView(tmp_path, "mine", "id", "done", (stage, other), (), 0.0)


def test_an_average_is_compared_with_the_trained_model_whatever_else_it_needs(view):
    stage = view.stage("average")
    needs = ("sft", "rlvr", "base")  # the last one only says what the tax is counted from
    of_two = replace(stage, needs=needs, config={"pre": "sft", "post": "rlvr"})
    of_many = replace(stage, needs=needs, config={"post": None, "models": ["sft", "rlvr"]})
    models = dict.fromkeys(needs)
    assert parent_model(view, of_two, models) == "rlvr"
    assert parent_model(view, of_many, models) == "sft"
    assert parent_model(view, stage, models) == "rlvr"  # its configuration is not written yet


def test_points_of_average_stages_only(view):
    assert [(point.name, point.gain, point.tax) for point in front_points(view)] == [
        ("average: layerwise 0.1", 0.75, 0.04),
        ("average: layerwise 0.2", 0.70, 0.02),
        ("average: linear 0.1", 0.72, 0.05),
    ]


def test_a_line_for_each_method_hollow_where_another_is_better(view):
    points = front_points(view)
    places = [Point(p.name, p.gain, p.gain_half, p.tax, p.tax_half) for p in points]
    below = {place.name: _is_dominated(place, places) for place in places}
    layerwise, linear = front_traces(points, below)
    assert layerwise["name"] == "average layerwise" and layerwise["x"] == [4.0, 2.0]
    assert layerwise["symbols"] == ["diamond", "diamond"]
    # 72 % for 5 points: the first point has more for less.
    assert linear["symbols"] == ["diamond-open"] and linear["text"] == ["0.1"]
    assert layerwise["line"]["dash"] != linear["line"]["dash"]


def test_the_area_of_each_line(view):
    areas = front_areas(front_points(view))
    # 0.70·0.98 + 0.05·0.96; 0.72·0.95
    expected = {"average layerwise": 0.734, "average linear": 0.684}
    assert areas == {name: pytest.approx(area) for name, area in expected.items()}
    assert areas_in_words(areas) == (
        "gain to be had, averaged over bounds on the tax of 0 to 100 points: "
        "average layerwise 73.40 %, average linear 68.40 %"
    )
    assert areas_in_words({}) == ""


def test_the_picture_says_it(view, tmp_path: Path):
    run = write_run(tmp_path / "run")
    found = read_run(run)
    before = pareto_figure(found)
    assert before is not None and "averaged over bounds" not in before.finding
    with_front = pareto_figure(replace(found, stages=(*found.stages, view.stage("average"))))
    assert with_front is not None
    assert with_front.finding.startswith(f"{before.finding}; gain to be had, averaged over bounds")
    assert with_front.finding.endswith("average layerwise 73.40 %, average linear 68.40 %")


def test_steps_of_a_greedy_soup(view, tmp_path: Path):
    asked = [
        {"models": names, "score": interval(score), "gain": interval(score - 0.1), "tax": tax}
        for names, score, tax in (
            (["a"], 0.5, None),
            (["b"], 0.6, interval(0.03)),
            (["b", "a"], 0.55, interval(0.01)),
        )
    ]
    steps = [
        asked[1] | {"model": "b", "soup": ["b"], "kept": True},
        asked[2] | {"model": "a", "soup": ["b", "a"], "kept": False},
    ]
    assert soup_rows(view) == []
    (tmp_path / "soup.json").write_text(json.dumps({"asked": asked, "steps": steps}))
    assert soup_rows(view) == [
        SoupRow("average", "b", "60.0 ± 2.0", "60.0 ± 2.0", "50.0 ± 2.0", "3.0 ± 2.0", True),
        SoupRow("average", "a", "50.0 ± 2.0", "55.0 ± 2.0", "45.0 ± 2.0", "1.0 ± 2.0", False),
    ]


def test_equal_models_do_not_dominate_one_another():
    same = [Point(name, 0.5, 0.0, 0.1, 0.0) for name in "ab"]
    assert [_is_dominated(each, same) for each in same] == [False, False]
