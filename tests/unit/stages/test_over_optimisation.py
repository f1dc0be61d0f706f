"""A sweep's points, its law, and what is made of them in words."""

import json
import math
from contextlib import contextmanager
from datetime import datetime

import pytest

from posttrain.config.answers import OverOptimisationStage
from posttrain.config.pipeline import Cluster
from posttrain.errors import Interrupted, RewardBroken
from posttrain.stages import over_optimisation
from posttrain.stages.context import StageContext
from posttrain.stages.jobs import PluginRef
from posttrain.stages.over_optimisation import Seen, fit_law, summarise
from posttrain.types import Artifact, Interval, Prompt, Rollout, Score


def at(model: str, kl: float, gold: float) -> Seen:
    return Seen(model, Interval(kl, kl, kl), Interval(gold, gold, gold))


def law(distance: float, alpha: float = 1.2, beta: float = 0.3) -> float:
    return distance * (alpha - beta * math.log(distance))


SWEEP = [at("sft", 0.0, 0.5), *(at(f"d{d}", d * d, 0.5 + law(d)) for d in (1, 2, 4, 8))]


def test_the_published_law_is_found_again():
    # Gains over the start at d = 1, 2, 4, 8 lie on alpha 1.2, beta .3.
    assert fit_law(SWEEP) == pytest.approx((1.2, 0.3), abs=1e-5)


def test_the_peak_says_where_to_stop():
    document = summarise(SWEEP, (1.2, 0.3))["over_optimisation"]
    assert document["peak"]["distance"] == pytest.approx(20.085537, abs=1e-5)
    assert document["peak"]["gain"] == pytest.approx(6.025661, abs=1e-5)
    assert document["best"] == "d8"
    assert "beyond all models" in document["why"]


def test_a_peak_within_the_sweep_is_told():
    points = [at("sft", 0.0, 0.0), at("a", 0.5, 0.3), at("b", 2.0, 0.35), at("c", 9.0, 0.1)]
    fitted = fit_law(points)
    document = summarise(points, fitted)["over_optimisation"]
    assert 0.5 < document["peak"]["kl"] < 9.0
    assert document["why"].startswith("b is best: gold 0.350 at 2.00 nats; the law peaks at")


def test_quality_that_never_falls_has_no_peak():
    document = summarise(SWEEP, (0.1, -0.2))["over_optimisation"]
    assert document["peak"] is None and "does not fall" in document["why"]


def test_models_at_one_distance_have_no_law():
    assert fit_law([at("sft", 0.0, 0.0), at("a", 1.0, 0.1), at("b", 1.0, 0.2)]) is None


def test_a_distance_that_chance_made_negative_counts_as_none():
    assert fit_law([at("sft", 0.0, 0.0), at("a", -0.01, 0.1), at("b", 1.0, 0.2)]) is None


class Models:
    """A launcher whose models answer with their number, and keep account of who was asked."""

    def __init__(self, stop_after=99):
        self.asked, self.stop_after, self.scorers = [], stop_after, 0

    def call(self, function, *arguments, **_):
        if function.__name__ == "render_prompts":
            row = {"when": datetime(2026, 12, 1)}  # as parquet files have them, and JSON has not
            return [Prompt(f"rows/{n}", "rows", (1, n), f"{n}=", row) for n in range(4)]
        return function(*arguments)

    def stop_asked(self):
        return len(self.asked) >= self.stop_after

    @contextmanager
    def engines(self, spec, count):
        self.number = int(spec.model_path[-1])
        yield [self]

    @contextmanager
    def scorer(self, job, tracker):
        self.scorers += 1
        yield self

    def generate_many(self, prompts, sampling):
        self.asked.append(self.number)
        said = (self.number, 7)
        return [
            Rollout(p.id, 0, p.token_ids, said, (1, 1), (-0.1, -0.2), (0, 0), f"{n}", "stop")
            for n, p in enumerate(prompts)
        ]

    def token_logprobs(self, asked):
        return [(-0.1 - tokens[0], -0.2) for _, tokens in asked]

    def score(self, prompts, rollouts):
        broken = RewardBroken("no")
        return [
            Score(each.token_ids[0] + int(each.text) / 10) if each.text != "3" else broken
            for each in rollouts
        ]


class Silent:
    def log(self, metrics, **axes): ...

    def event(self, name, **details): ...


def test_models_that_have_answered_are_not_asked_again(tmp_path):
    for number in range(4):
        (tmp_path / f"m{number}").mkdir()
        config = json.dumps({"max_position_embeddings": 64})
        (tmp_path / f"m{number}" / "config.json").write_text(config)
    inputs = {
        name: Artifact("model", name, "a" * 10, str(tmp_path / name))
        for name in ("m0", "m1", "m2", "m3")
    }
    stage = OverOptimisationStage(
        kind="over_optimisation", model="m0", models=["m1", "m2", "m3"], gold="request",
        data={"path": "rows.jsonl"}, max_new_tokens=8,
    )  # fmt: skip

    def run(launcher, name):
        (tmp_path / name).mkdir(exist_ok=True)
        context = StageContext(
            name, tmp_path / name, inputs, launcher, Silent(), Cluster(), 2, 11, 0
        )
        found = over_optimisation.run(stage, PluginRef("reward", "request", {}, "."), context)
        return found["over_optimisation"]["points"]

    straight, first, second = Models(), Models(stop_after=2), Models()
    expected = run(straight, "straight")
    with pytest.raises(Interrupted, match="cut was stopped; it goes on with m2"):
        run(first, "cut")
    assert run(second, "cut") == expected
    assert (first.asked, second.asked, straight.asked) == ([0, 1], [2, 3], [0, 1, 2, 3])
    again = Models()
    assert run(again, "cut") == expected  # killed before it was told
    assert (again.asked, again.scorers) == ([], 0)
    # Model n scores n, n + .1, n + .2, nothing where the verifier broke, and is n nats away.
    assert [each["gold"]["value"] for each in expected] == pytest.approx([0.1, 1.1, 2.1, 3.1])
    assert [each["kl"]["value"] for each in expected] == pytest.approx([0.0, 1.0, 2.0, 3.0])
