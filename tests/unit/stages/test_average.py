"""The average stage's job: folders in, a folder and its metrics out."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from posttrain.config.average import AverageStage
from posttrain.config.plugins import load_plugin, plugin_config, shipped
from posttrain.model.load import load_model, load_state
from posttrain.model.micro import build_micro
from posttrain.stages.average import AverageJob, average_folders, run
from posttrain.stages.average_answers import ROLLOUTS, AnswerSource
from posttrain.stages.context import StageContext
from posttrain.stages.jobs import PluginRef
from posttrain.types import Artifact

ANSWERS = tuple(((5, 6, number), (number, 7, 1)) for number in range(8, 16))
OF_PAIRS, OF_SEVERAL = ("layerwise", "linear", "slerp"), (
    "adamerging", "dare", "ema", "layer_swapping", "pcb_merging", "soup", "task_arithmetic", "ties",
)  # fmt: skip
SETTINGS = {
    "layer_swapping": {"bottom": 1, "top": 1},
    "adamerging": {"steps": 2, "batch_answers": 4},
    "layerwise": {"lr": 0.1},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base, and two models a little way off."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    build_micro(folder / "base", 0)
    state = load_state(folder / "base")
    for seed, name in enumerate(("one", "two")):
        generator = torch.Generator().manual_seed(seed)
        build_micro(folder / name, 0)
        model = load_model(folder / name)
        model.load_state_dict(
            {
                key: value + 0.01 * torch.randn(value.shape, generator=generator)
                for key, value in state.items()
            },
            strict=False,
        )
        model.save_pretrained(folder / name)
    (folder / ROLLOUTS).mkdir()
    write_step(folder / ROLLOUTS, 0, [(0.5, *answer) for answer in ANSWERS])
    return folder


def write_step(folder, step, answers):
    """The columns that are read of a step's rollouts."""
    rows = [
        {"score": score, "prompt_ids": list(prompt), "token_ids": list(ids)}
        for score, prompt, ids in answers
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / f"step-{step:06d}.parquet")


def job_of(folders, method, models, pre=None, **settings):
    ref = PluginRef("averaging", method, settings or SETTINGS.get(method, {}), ".")
    needs = load_plugin("averaging", method).NEEDS
    return AverageJob(
        ref,
        tuple((name, str(folders / name)) for name in models),
        (pre, str(folders / pre)) if pre else None,
        weight_pre=0.25,
        weights=(),
        seed=3,
        answers=AnswerSource(str(folders / ROLLOUTS), 100, 100) if needs.answers else None,
    )


def test_every_method_is_tried_here():
    assert sorted(OF_PAIRS + OF_SEVERAL) == shipped("averaging")


def test_linear(folders, tmp_path):
    [metrics] = average_folders(job_of(folders, "linear", ["one"], "base"), str(tmp_path / "model"))
    before, after, mixed = map(load_state, (folders / "base", folders / "one", tmp_path / "model"))
    for name in mixed:
        assert torch.allclose(mixed[name], 0.25 * before[name] + 0.75 * after[name], atol=1e-6)
    moved = sum(float((after[name] - before[name]).square().sum()) for name in before)
    length = sum(float(before[name].square().sum()) for name in before)
    assert metrics == pytest.approx(
        {"average/weight_pre": 0.25, "average/distance": (moved / length) ** 0.5}, rel=1e-4
    )


@pytest.mark.parametrize("method", OF_PAIRS)
def test_methods_of_a_pair(folders, tmp_path, method):
    rows = average_folders(job_of(folders, method, ["one"], "base"), str(tmp_path / "model"))
    assert 0 < rows[-1]["average/distance"] < 1
    load_model(tmp_path / "model")


@pytest.mark.parametrize("method", OF_SEVERAL)
def test_methods_of_several(folders, tmp_path, method):
    needs = load_plugin("averaging", method).NEEDS
    pre = "base" if needs.base else None
    job = job_of(folders, method, ["one", "two"], pre)
    rows = average_folders(job, str(tmp_path / "model"))
    load_model(tmp_path / "model")
    assert ("average/change_cosine" in rows[-1]) == needs.base
    average_folders(job, str(tmp_path / "again"))
    again, first = load_state(tmp_path / "again"), load_state(tmp_path / "model")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_layerwise_logs_its_search_and_writes_what_it_found(folders, tmp_path):
    rows = average_folders(job_of(folders, "layerwise", ["one"], "base"), str(tmp_path / "model"))
    assert len(rows) == 3  # 8 answers, 4 a step; then the whole
    last = rows[-1]
    weights = [last[f"average/weight_pre/{part}"] for part in range(3)]
    assert sum(weights) / 3 == pytest.approx(0.25, abs=1e-5) and len(set(weights)) == 3
    assert {"average/proxy_nll", "average/distance/0", "average/distance/outside"} <= last.keys()
    before, after, mixed = map(load_state, (folders / "base", folders / "one", tmp_path / "model"))
    for layer, weight in [*enumerate(weights), (None, 0.25)]:
        name = "model.norm.weight" if layer is None else f"model.layers.{layer}.mlp.up_proj.weight"
        expected = weight * before[name] + (1 - weight) * after[name]
        assert torch.allclose(mixed[name], expected, atol=1e-5)


def test_layerwise_loses_less_of_what_was_trained(folders, tmp_path):
    """Among averages with the same mean share, the one found has the likelier answers."""
    settings = {"lr": 0.3, "epochs": 20, "evenness": 0.0}
    rows = average_folders(
        job_of(folders, "layerwise", ["one"], "base", **settings), str(tmp_path / "model")
    )
    uniform = average_folders(
        job_of(folders, "layerwise", ["one"], "base", lr=1e-9), str(tmp_path / "uniform")
    )
    assert rows[-1]["average/proxy_nll"] < uniform[-1]["average/proxy_nll"]


def test_a_method_of_ones_own(folders, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from posttrain.config.strict import StrictModel\n"
        "from posttrain.ports import AveragingNeeds\n"
        "NEEDS = AveragingNeeds(pair=True)\n"
        "class Config(StrictModel):\n    factor: float = 1.0\n"
        "def merge(versions, config):\n    return versions.pre * config.factor\n"
    )
    ref = PluginRef("averaging", str(tmp_path / "mine.py"), {"factor": 2.0}, ".")
    job = AverageJob(
        ref, (("one", str(folders / "one")),), ("base", str(folders / "base")), 0.5, (), 0
    )
    average_folders(job, str(tmp_path / "model"))
    before, mixed = load_state(folders / "base"), load_state(tmp_path / "model")
    assert all(torch.equal(mixed[name], 2 * before[name]) for name in mixed)


class Records:
    def __init__(self):
        self.rows = []

    def log(self, metrics, **axes):
        self.rows.append((metrics, axes))


class Launcher:
    def call(self, function, *arguments):
        self.called = function, arguments
        return [{"average/proxy_nll": 2.0}, {"average/proxy_nll": 1.0}]


def test_the_stage_says_what_to_average():
    launcher, tracker = Launcher(), Records()
    stage = AverageStage.model_validate(
        {
            "kind": "average",
            "method": "ties",
            "pre": "base",
            "models": ["b", "a"],
            "weights": [1.0, 2.0],
        }
    )
    inputs = {name: Artifact("model", name, "f00d", f"/{name}") for name in ("base", "a", "b")}
    context = StageContext("x", Path("/run"), inputs, launcher, tracker, None, 1, 9, 0)
    method = PluginRef("averaging", "ties", {}, ".")
    assert run(stage, method, context) == "done"
    job = AverageJob(method, (("b", "/b"), ("a", "/a")), ("base", "/base"), 0.2, (1.0, 2.0), 9)
    assert launcher.called == (average_folders, (job, "/run/model"))
    assert tracker.rows == [
        ({"average/proxy_nll": 2.0}, {"step": 0}),
        ({"average/proxy_nll": 1.0}, {"step": 1}),
    ]


@pytest.mark.parametrize("name", shipped("averaging"))
def test_a_method_fulfils_its_contract(name):
    from posttrain.config.field_sentences import sentences

    module = load_plugin("averaging", name)
    assert module.__doc__ and module.Config.__doc__
    assert set(module.Config.model_fields) == set(sentences(module.Config))
    assert hasattr(module, "coefficients") == module.NEEDS.answers
    assert json.dumps(plugin_config(module, {}).model_dump(mode="json"))
