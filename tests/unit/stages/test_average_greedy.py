"""A greedy soup as a stage: who is asked, what is kept and written down, what is not redone."""

import json
from pathlib import Path

import pytest

from posttrain.config.average import AverageStage
from posttrain.config.suites import Suite
from posttrain.stages import average_greedy, statistics
from posttrain.stages.context import StageContext
from posttrain.stages.jobs import PluginRef
from posttrain.stages.measure import Measurement, TaskResult, points
from posttrain.stages.meter import SuiteMeter
from posttrain.types import Artifact

SUITE = Suite(gain=["gain"], keep=["keep"], tax_since="base")
# (gain on even questions, on odd ones, kept) of 50 each, by what a folder is the mean of.
ABLE = {
    "base": (5, 5, 45),
    "a": (25, 26, 40),
    "b": (30, 28, 42),
    "c": (27, 20, 41),
    "b+c": (29, 50, 42),  # worse where it is decided, however good elsewhere
    "b+a": (30, 32, 44),  # no worse: kept
}


class Records:
    def __init__(self):
        self.rows = []

    def log(self, metrics, **axes):
        self.rows.append(dict(metrics) | axes)

    def event(self, name, **details): ...


class Launcher:
    """Makes folders that say of which models they are the mean."""

    def __init__(self):
        self.made = []

    def call(self, function, job, target):
        assert job.weights == ()
        self.made.append("+".join(name for name, _ in job.models))
        Path(target).mkdir(parents=True)
        (Path(target) / "mean").write_text(self.made[-1])


class Died(BaseException):
    pass


class Evaluator:
    def __init__(self, dies_at=None):
        self.asked, self.dies_at = [], dies_at

    def measure(self, path, name, suite, fingerprint):
        file = Path(path) / "mean"
        who = file.read_text() if file.exists() else Path(path).name
        if who == self.dies_at:
            raise Died
        self.asked.append(who)
        even, odd, kept = ABLE[who]
        passed = [
            tuple(float(i // 2 < (odd if i % 2 else even)) for i in range(100)),
            tuple(float(i // 2 < kept) for i in range(100)),
        ]
        results = {
            task: TaskResult("accuracy", statistics.share(each), 100, each)
            for task, each in zip(("gain", "keep"), passed, strict=True)
        }
        gain, keep = points(suite.gain, results), points(suite.keep, results)
        return Measurement(name, fingerprint, results, gain, keep, 0.1)


def run(tmp_path, evaluator=None, models=("a", "b", "c"), suite=SUITE):
    stage = AverageStage.model_validate(
        {"kind": "average", "method": "soup", "models": list(models), "greedy": True}
    )
    inputs = {name: Artifact("model", name, "f00d", f"/{name}") for name in ("base", *models)}
    tracker, launcher, evaluator = Records(), Launcher(), evaluator or Evaluator()
    context = StageContext("average", tmp_path, inputs, launcher, tracker, None, 1, 9, 0)
    method = PluginRef("averaging", "soup", {}, ".")
    outcome = average_greedy.run(
        stage, method, SuiteMeter("abilities", suite, "f00d", evaluator), context
    )
    assert outcome == "done"
    return json.loads((tmp_path / "soup.json").read_text()), launcher, evaluator, tracker


def test_models_that_do_not_lower_the_score_are_kept(tmp_path):
    soup, launcher, evaluator, _ = run(tmp_path)
    assert soup["order"] == ["b", "c", "a"]  # 60, 54 and 50 % on the questions that decide
    assert [(step["model"], step["soup"], step["kept"]) for step in soup["steps"]] == [
        ("b", ["b"], True),
        ("c", ["b", "c"], False),
        ("a", ["b", "a"], True),
    ]
    assert soup["chosen"] == ["b", "a"]
    assert (tmp_path / "model" / "mean").read_text() == "b+a"
    assert list((tmp_path / "soups").iterdir()) == []  # each goes when it was asked
    assert launcher.made == ["b+c", "b+a", "b+a"]  # the last one again, to be kept
    assert sorted(evaluator.asked) == ["a", "b", "b+a", "b+c", "base", "c"]


def test_what_decides_is_not_what_is_told(tmp_path):
    soup, *_ = run(tmp_path)
    last = soup["steps"][-1]
    assert last["score"]["value"] == pytest.approx(30 / 50)
    assert last["gain"]["value"] == pytest.approx(32 / 50)
    assert last["tax"]["value"] == pytest.approx((45 - 44) / 50)
    assert last["gain"]["low"] < 0.64 < last["gain"]["high"]


def test_each_step_is_one_of_the_curves(tmp_path):
    *_, tracker = run(tmp_path)
    rows = [(row["step"], row["average/score_points"], row["average/kept"]) for row in tracker.rows]
    assert rows == [
        (0, pytest.approx(60), 1.0),
        (1, pytest.approx(58), 0.0),
        (2, pytest.approx(60), 1.0),
    ]


def test_the_best_model_alone_where_no_other_helps(tmp_path):
    soup, launcher, *_ = run(tmp_path, models=("c", "b"))
    assert soup["chosen"] == ["b"]
    assert (tmp_path / "model" / "mean").read_text() == "b"
    assert launcher.made == ["b+c", "b"]


@pytest.mark.parametrize("dies_at", ["a", "c", "b+c", "b+a"])
def test_an_attempt_that_died_asks_nothing_twice(tmp_path, dies_at):
    first = Evaluator(dies_at)
    with pytest.raises(Died):
        run(tmp_path, first)
    soup, _, second, _ = run(tmp_path)
    again = set(first.asked) & set(second.asked)
    assert again <= {"base"}  # only what the tax is counted from
    (tmp_path / "whole").mkdir()
    assert soup == run(tmp_path / "whole")[0]
    assert (tmp_path / "model" / "mean").read_text() == "b+a"


def test_a_suite_without_a_tax(tmp_path):
    soup, _, evaluator, _ = run(tmp_path, suite=Suite(gain=["gain"]))
    assert {step["tax"] for step in soup["steps"] if step["tax"] is None} == {None}
    assert "base" not in evaluator.asked and soup["chosen"] == ["b", "a"]
