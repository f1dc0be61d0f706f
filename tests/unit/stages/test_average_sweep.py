"""An average stage with several shares: what is made, asked, kept and written down."""

from pathlib import Path

import pytest

from posttrain.config.average import AverageStage
from posttrain.config.suites import Suite
from posttrain.errors import StageFailed
from posttrain.stages import average_sweep, statistics
from posttrain.stages.context import StageContext
from posttrain.stages.jobs import PluginRef
from posttrain.stages.measure import Measurement, TaskResult, points
from posttrain.stages.meter import SuiteMeter
from posttrain.types import Artifact

SUITE = Suite(gain=["gain"], keep=["keep"], tax_since="base")
# (gain, keep) of 100 prompts, by folder: the base keeps 90.
ABLE = {
    "base": (10, 90),
    "layerwise-0": (80, 70),
    "layerwise-0.2": (75, 88),
    "layerwise-0.4": (60, 90),
    "linear-0": (80, 70),
    "linear-0.2": (70, 84),
    "linear-0.4": (50, 90),
}


class Records:
    def __init__(self):
        self.rows = []

    def log(self, metrics, **axes):
        self.rows.append(dict(metrics) | axes)

    def event(self, name, **details): ...


class Launcher:
    """Makes folders; remembers the shares that were asked for."""

    def __init__(self):
        self.made = []

    def call(self, function, job, target):
        self.made.append((job.method.name, job.weight_pre))
        Path(target).mkdir(parents=True)
        (Path(target) / "share").write_text(f"{job.method.name} {job.weight_pre}")
        return [{"average/proxy_nll": 2.0}, {"average/proxy_nll": 1.0}]


class Evaluator:
    def measure(self, path, name, suite, fingerprint):
        right = ABLE[Path(path).name]
        results = {
            task: TaskResult("accuracy", statistics.share(passed), 100, passed)
            for task, count in zip(("gain", "keep"), right, strict=True)
            # Even and odd prompts agree: one half chooses, the other is reported.
            for passed in [tuple(float(i < count) for i in range(100))]
        }
        gain, keep = points(suite.gain, results), points(suite.keep, results)
        return Measurement(name, fingerprint, results, gain, keep, 0.1)


def run(tmp_path, method="layerwise", launcher=None, **changes):
    stage = AverageStage.model_validate(
        {"kind": "average", "method": method, "pre": "sft", "post": "rlvr"}
        | {"weight_pre": [0.0, 0.2, 0.4]}
        | changes
    )
    inputs = {name: Artifact("model", name, "f00d", f"/{name}") for name in ("base", "sft", "rlvr")}
    tracker = Records()
    launcher = launcher or Launcher()
    context = StageContext("average", tmp_path, inputs, launcher, tracker, None, 1, 9, 0)
    ref = PluginRef("averaging", method, {}, ".")
    outcome, front = average_sweep.run(
        stage, ref, SuiteMeter("abilities", SUITE, "f00d", Evaluator()), context
    )
    return outcome, front, launcher, tracker


def test_the_best_share_within_the_bound_is_kept(tmp_path):
    outcome, front, launcher, _ = run(tmp_path)
    # Of the method's own: 80 at a tax of 20, 75 at 2, 60 at 0; at most 3 points are allowed.
    assert outcome == "done"
    assert (tmp_path / "model" / "share").read_text() == "layerwise 0.2"
    chosen = [point for point in front["points"] if point["chosen"]]
    assert [(point["method"], point["weight_pre"]) for point in chosen] == [("layerwise", 0.2)]
    assert chosen[0]["gain"]["value"] == pytest.approx(0.75)
    assert chosen[0]["tax"]["value"] == pytest.approx(0.02)
    assert launcher.made == [(m, s) for m in ("layerwise", "linear") for s in (0.0, 0.2, 0.4)]


def test_fronts_have_an_area(tmp_path):
    _, front, *_ = run(tmp_path)
    # Below (0, 1), by (gain, tax) against the 90 of the base. Layer-wise (60, 0) (75, 2) (80, 20):
    # 0.6·1 + 0.15·0.98 + 0.05·0.8; linear (50, 0) (70, 6) (80, 20): 0.5·1 + 0.2·0.94 + 0.1·0.8
    assert front["hypervolume"] == {
        "reference": {"gain": 0.0, "tax": 1.0},
        "of": {"layerwise": pytest.approx(0.787), "linear": pytest.approx(0.768)},
    }


def test_an_attempt_that_died_right_after_it_kept_its_model_is_done_again(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "share").write_text("of the first attempt")
    (tmp_path / "shares" / "linear-0").mkdir(parents=True)
    outcome, *_ = run(tmp_path)
    assert outcome == "done"
    assert (tmp_path / "model" / "share").read_text() == "layerwise 0.2"


def test_each_share_is_a_step_of_the_curves(tmp_path):
    *_, tracker = run(tmp_path)
    gains = [(row["step"], row["average/gain_points"]) for row in tracker.rows if len(row) == 3]
    assert gains == [(0, pytest.approx(80)), (1, pytest.approx(75)), (2, pytest.approx(60))]


def test_uniform_averaging_has_nothing_to_be_compared_with(tmp_path):
    _, front, launcher, _ = run(tmp_path, method="linear", recommend={"tax_at_most": 7})
    assert launcher.made == [("linear", share) for share in (0.0, 0.2, 0.4)]
    assert (tmp_path / "model" / "share").read_text() == "linear 0.2"
    assert [point["chosen"] for point in front["points"]] == [False, True, False]


def test_what_an_earlier_attempt_made_is_not_made_again(tmp_path):
    made = tmp_path / "shares" / "layerwise-0.2"
    made.mkdir(parents=True)
    (made / "share").write_text("of the first attempt")
    *_, launcher, _ = run(tmp_path)
    assert ("layerwise", 0.2) not in launcher.made
    assert (tmp_path / "model" / "share").read_text() == "of the first attempt"


def test_where_no_share_is_cheap_enough_the_stage_fails_and_keeps_its_models(tmp_path):
    with pytest.raises(
        StageFailed, match="none with a tax of at most 3 points gains more than `base`"
    ):
        run(tmp_path, weight_pre=[0.0])
    assert (tmp_path / "shares" / "layerwise-0").exists()
