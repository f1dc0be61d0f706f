"""`plan --measure`: what it runs, where that is kept, and what the plan then says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.cli.execute import Execution
from posttrain.cli.measure import done_models
from posttrain.config.load import load_pipeline
from posttrain.pipeline.graph import build_graph
from posttrain.pipeline.plan import make_plan
from posttrain.pipeline.store import RunFolder

NO_RL = """\
name: plain
stages:
  blank: {kind: model, from_scratch: micro}
  base: {kind: sft, model: blank, data: microworld/skills, steps: 10}
"""


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> list[Execution]:
    """Executions that were asked for; each leaves what a run of `rlvr` would have."""
    executions: list[Execution] = []

    def leave_figures(self: Execution) -> None:
        executions.append(self)
        folder = self.options.runs_dir / str(self.options.name) / "rlvr" / "0123456789"
        folder.mkdir(parents=True)
        row = {
            "attempt": 0,
            "answer/length_tokens": 30.0,
            "train/tokens_per_s": 5000.0,
            "weights/sync_ms": 40.0,
        }
        lines = [json.dumps(row | {"axis/step": step}) for step in range(6)]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")

    monkeypatch.setattr(Execution, "carry_out", leave_figures)
    return executions


def test_it_measures_beside_the_run_and_the_plan_says_so(
    write_pipeline: Callable[..., str],
    carried_out: list[Execution],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["plan", write_pipeline(), "--measure", "--name", "other"]) == 0
    [execution] = carried_out
    assert execution.options.name == "other-measure" and execution.options.measures
    assert list(execution.loaded.pipeline.stages) == ["blank", "base", "sft", "rlvr"]
    said = capsys.readouterr()
    assert "measuring rlvr: 6 steps each, the first one left out" in said.err
    assert "base, sft: two steps" in said.err
    told = " ".join(said.out.split())
    assert "measured in runs/other-measure/rlvr/0123456789, 6 steps, 20" in told
    measured, preset = told.split("measured in ")[1].split("preset, not measured: ")
    assert "a trainer does 5 000 tokens/s" in measured and "40 ms" in measured
    assert "answers of" in preset  # of a model that has learnt nothing: not taken
    assert "To measure" not in told


def test_the_next_plan_finds_the_figures(
    write_pipeline: Callable[..., str],
    carried_out: list[Execution],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write_pipeline()
    assert main(["plan", file, "--measure"]) == 0
    capsys.readouterr()
    assert main(["plan", file, "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    forecast = next(each["forecast"] for each in stages if each["name"] == "rlvr")
    assert len(carried_out) == 1
    assert (forecast["measured_in"], forecast["measured_steps"]) == (
        "runs/mine-measure/rlvr/0123456789", 6,
    )  # fmt: skip
    assert forecast["system"]["trainer"]["seconds_per_token"] == pytest.approx(1 / 5000)


def test_without_an_online_stage_nothing_is_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    carried_out: list[Execution],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.yaml").write_text(NO_RL)
    assert main(["plan", "plain.yaml", "--measure"]) == 0
    assert carried_out == []
    assert "nothing to measure" in capsys.readouterr().err


def test_models_that_are_done_are_started_from(write_pipeline: Callable[..., str]) -> None:
    loaded = load_pipeline(write_pipeline())
    graph, folder = build_graph(loaded.pipeline), RunFolder(Path("runs/mine"))
    fresh = make_plan(loaded, graph, folder)
    assert done_models(fresh, folder) == {}
    for name in ("blank", "base", "sft"):
        folder.stage(name, fresh[name].identity).write_manifest({"state": "done"})
    found = done_models(make_plan(loaded, graph, folder), folder)
    # `blank` is made in a moment; what was trained is taken.
    identities = {name: fresh[name].identity for name in ("base", "sft")}
    wanted = {n: str(Path(f"runs/mine/{n}/{i}/model").resolve()) for n, i in identities.items()}
    assert found == wanted
