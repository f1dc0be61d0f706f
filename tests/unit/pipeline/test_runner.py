"""A whole run with a launcher that trains nothing: order, failures, gates, questions."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.errors import GateFailed, Interrupted, StageFailed
from posttrain.loop.admission import AdmissionRule
from posttrain.pipeline import runner as runner_module
from posttrain.pipeline import stage_run
from posttrain.pipeline.plan import RunPlan
from posttrain.pipeline.room import Room
from posttrain.pipeline.runner import Runner
from posttrain.pipeline.store import RunFolder, StageFolder
from posttrain.stages import statistics
from posttrain.stages.measure import Measurement, TaskResult, points
from posttrain.track.jsonl import read_jsonl
from posttrain.types import Prompt

Plans = Callable[..., RunPlan]

RIGHT_OF_TWENTY = {  # by stage: arithmetic, copy
    "base": (1, 19),
    "sft": (6, 18),
    "rlvr": (19, 15),
    "average": (17, 19),
}


class Records:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def log(self, metrics: Any, **axes: float) -> None:
        self.metrics |= metrics | {f"axis/{name}": value for name, value in axes.items()}

    def event(self, name: str, **details: Any) -> None: ...

    def samples(self, step: int, rows: Any) -> None: ...


class FakeLauncher:
    """Writes the folders that stages leave behind, and a diary of what ran when."""

    def __init__(self, outcomes: dict[str, Any] | None = None) -> None:
        self.diary: list[str] = []
        self.jobs: dict[str, Any] = {}
        self.opened: dict[str, dict[str, Any]] = {}
        self.closed: dict[str, str] = {}
        self.stops = 0
        self._outcomes = outcomes or {}
        self._records: dict[str, Records] = {}

    def open_stage(self, **stage: Any) -> Records:
        self.opened[stage["name"]] = stage
        self.diary.append(stage["name"])
        return self._records.setdefault(stage["name"], Records())

    def close_stage(self, stage: str, summary: Any) -> dict[str, float]:
        self.closed[stage] = summary["state"]
        return self._records[stage].metrics

    def request_stop(self) -> None:
        self.stops += 1

    def call(self, function: Any, *arguments: Any, **_: Any) -> Any:
        if function.__name__ == "render_prompts":
            return [Prompt("rows/1", "rows", (1, 2, 3), "1+1=", {"answer": "2"})]
        if function.__name__ == "make_from_scratch":
            write_model(Path(arguments[1]))
            return None
        assert function.__name__ == "average_folders"
        write_model(Path(arguments[-1]))
        return [{"average/distance": 0.25}]

    def run_offline(self, job: Any, tracker: Records) -> str:
        tracker.log({"train/loss": 0.5}, step=job.steps - 1)
        return self._train(job)

    def put_together(self, job: Any, tracker: Records) -> None:
        (Path(job.directory) / "reward_models").mkdir()
        self.diary.append(f"together {job.stage}")

    def run_online(self, job: Any, tracker: Records) -> str:
        tracker.log({"reward/mean": 0.75}, step=job.loop.num_steps - 1)
        return self._train(job)

    def _train(self, job: Any) -> str:
        self.jobs[job.stage] = job
        outcome = self._outcomes.get(job.stage, "done")
        if callable(outcome):
            outcome = outcome()
        if isinstance(outcome, Exception):
            raise outcome
        if outcome == "done":
            write_model(Path(job.directory) / "model")
        return outcome

    @contextlib.contextmanager
    def engines(self, spec: Any, count: int) -> Iterator[list[Any]]:
        raise AssertionError("the evaluator is a fake: nobody leases engines")

    def prewarm(self, spec: Any, count: int) -> None:
        self.diary.append("prewarm")


def write_model(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"max_position_embeddings": 128}')


class FakeEvaluator:
    """Knows how good the models are; `slow` says what is done before a stage is asked."""

    asked: list[tuple[str, str]]
    answered: list[str]
    slow: dict[str, Callable[[], object]]
    is_closed = False

    def __init__(self, launcher: Any, cluster: Any) -> None:
        self._lock = threading.Lock()

    def close(self) -> None:
        FakeEvaluator.is_closed = True

    def engine_for(self, model_path: str, suite: Any) -> str:
        return "engine"

    def measure(self, model_path: str, name: str, suite: Any, fingerprint: str) -> Measurement:
        stage = Path(model_path).parts[-3]
        with self._lock:
            self.asked.append((stage, name))
        self.slow.get(stage, lambda: None)()
        self.answered.append(stage)
        results = {
            f"microworld/{task}": TaskResult("accuracy", statistics.share(passed), 20, passed)
            for task, right in zip(("arithmetic", "copy"), RIGHT_OF_TWENTY[stage], strict=True)
            for passed in [(1,) * right + (0,) * (20 - right)]
        }
        gain, keep = points(suite.gain, results), points(suite.keep, results)
        return Measurement(name, fingerprint, results, gain, keep, 0.5)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """(stage, suite) in the order asked; every run of the test uses the fake evaluator."""
    FakeEvaluator.asked, FakeEvaluator.answered, FakeEvaluator.slow = [], [], {}
    FakeEvaluator.is_closed = False
    monkeypatch.setattr(runner_module, "Evaluator", FakeEvaluator)
    yield FakeEvaluator.asked
    assert FakeEvaluator.is_closed  # however the run ended


def runner_of(plan: RunPlan, folder: RunFolder, launcher: FakeLauncher, **more: Any) -> Runner:
    return Runner(plan, folder, "run1", launcher, **{"num_cores": 4, "room": Room(8, 0)} | more)


def manifest_of(folder: RunFolder, plan: RunPlan, stage: str) -> dict[str, Any]:
    manifest = folder.stage(stage, plan[stage].identity).manifest
    assert manifest is not None
    return manifest


def states(folder: RunFolder, plan: RunPlan) -> dict[str, str]:
    manifests = {s.name: folder.stage(s.name, s.identity).manifest for s in plan.stages}
    return {name: manifest["state"] if manifest else "" for name, manifest in manifests.items()}


def gate_events(folder: RunFolder) -> list[tuple[str, str, str]]:
    events = read_jsonl(folder.path / "events.jsonl")
    return [(e["stage"], e["gate"], e["verdict"]) for e in events if e["name"] == "gate"]


def test_stages_run_in_order_and_leave_their_manifests(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]]
) -> None:
    plan, launcher = plan_of("stages.final.recommend={tax_at_most: 10}"), FakeLauncher()
    assert runner_of(plan, run_folder, launcher).run() == "average"
    assert launcher.diary == ["blank", "prewarm", "base", "sft", "rlvr", "average", "final"]
    assert set(states(run_folder, plan).values()) == {"done"}
    manifest = manifest_of(run_folder, plan, "rlvr")
    picked = {
        key: manifest[key]
        for key in (
            "schema", "stage", "kind", "identity", "attempt", "inputs", "artifact", "seed",
            "steps", "metrics", "error",
        )
    }  # fmt: skip
    assert picked == {
        "schema": 1,
        "stage": "rlvr",
        "kind": "online_rl",
        "identity": plan["rlvr"].identity,
        "attempt": 0,
        "inputs": {"sft": plan["sft"].identity},
        "artifact": {"type": "model", "path": "model"},
        "seed": plan["rlvr"].seed,
        "steps": 60,
        "metrics": {"reward/mean": 0.75, "axis/step": 59},
        "error": None,
    }
    assert "_began" not in manifest
    stored = run_folder.stage("rlvr", plan["rlvr"].identity).path / "config.yaml"
    assert yaml.safe_load(stored.read_text()) == plan["rlvr"].config()
    assert manifest_of(run_folder, plan, "final")["artifact"] == {
        "type": "measurements",
        "path": "measurements.json",
    }
    assert (run_folder.path / "best").readlink() == Path(
        f"average/{plan['average'].identity}/model"
    )


KEPT_UNTIL_DONE = ("checkpoints/latest.json", "journal/0-a-000000.journal", "best.safetensors")


def test_what_a_stage_goes_on_from_goes_once_its_manifest_says_that_it_is_done(
    plan_of: Plans,
    run_folder: RunFolder,
    asked: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_of()
    folder = run_folder.stage("rlvr", plan["rlvr"].identity).path
    kept = [folder / name for name in KEPT_UNTIL_DONE]

    def trained() -> str:
        for path in kept:
            path.parent.mkdir(exist_ok=True)
            path.write_text("{}")
        return "done"

    there_when_done = []
    write = StageFolder.write_manifest

    def written(stage: StageFolder, manifest: Any) -> None:
        write(stage, manifest)
        if stage.stage == "rlvr" and manifest["state"] == "done":
            there_when_done.extend(path.exists() for path in kept)

    monkeypatch.setattr(StageFolder, "write_manifest", written)
    runner_of(plan, run_folder, FakeLauncher({"rlvr": trained})).run()
    assert there_when_done == [True] * len(kept)
    assert [path.exists() for path in kept] == [False] * len(kept)


@pytest.mark.parametrize("stage", ["sft", "rlvr"])
def test_a_model_that_was_finished_right_before_a_kill_is_not_trained_again(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]], stage: str
) -> None:
    plan = plan_of()
    runner_of(plan, run_folder, FakeLauncher()).run()
    folder = run_folder.stage(stage, plan[stage].identity)
    folder.write_manifest(manifest_of(run_folder, plan, stage) | {"state": "running"})
    launcher = FakeLauncher()
    runner_of(plan, run_folder, launcher).run()
    assert launcher.jobs == {}
    assert launcher.diary == [stage]
    assert manifest_of(run_folder, plan, stage)["state"] == "done"


def test_the_job_of_an_ensemble(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]]
) -> None:
    rm = "{kind: reward_model, model: sft, members: 3, data: microworld/preferences, steps: 5}"
    block = f"  rm: {rm}\n  rlvr:\n"
    plan = plan_of(changes=("  rlvr:\n", block))
    launcher = FakeLauncher()
    runner_of(plan, run_folder, launcher).run()
    job = launcher.jobs["rm"]
    assert (job.kind, job.members, job.num_trainers, job.batch_rows) == ("reward_model", 3, 1, 64)
    assert "together rm" in launcher.diary
    manifest = run_folder.stage("rm", plan["rm"].identity).manifest
    assert manifest is not None
    assert manifest["artifact"] == {"type": "reward_models", "path": "reward_models"}
    assert manifest["steps"] == 15  # of all members


def test_the_job_of_an_online_stage(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]]
) -> None:
    plan, launcher = plan_of("stages.rlvr.staleness=2"), FakeLauncher()
    runner_of(plan, run_folder, launcher).run()
    job = launcher.jobs["rlvr"]
    assert job.model_path == str(run_folder.path / "sft" / plan["sft"].identity / "model")
    assert (job.loop.num_steps, job.loop.samples_per_prompt) == (60, 8)
    assert job.loop.rule == AdmissionRule(groups_per_step=32, steps_ahead=1, max_staleness=2)
    assert job.loop.seed == plan["rlvr"].seed
    assert job.engine.max_model_len == 128  # the model's own, less than 3 + 256 rounded up
    assert (job.num_engines, job.num_trainers, job.trainer_threads) == (1, 1, 3)
    assert job.algorithm.settings["lr"] == 3e-4
    assert job.attempt == 0


def test_every_trained_model_is_asked_once(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]]
) -> None:
    plan = plan_of()
    runner_of(plan, run_folder, FakeLauncher()).run()
    # each after its stage, and all of them again by `final`
    assert sorted(stage for stage, _ in asked) == sorted([*RIGHT_OF_TWENTY, *RIGHT_OF_TWENTY])
    path = run_folder.stage("sft", plan["sft"].identity).path / "measurements" / "abilities.json"
    assert json.loads(path.read_text())["points"]["gain"]["value"] == 0.3
    asked.clear()
    again = FakeLauncher()
    kept = plan_of()
    assert all(stage.kept for stage in kept.stages)
    runner_of(kept, run_folder, again).run()
    assert (asked, again.diary) == ([], [])


def test_only_what_is_asked_differently_is_asked_again(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]]
) -> None:
    runner_of(plan_of(), run_folder, FakeLauncher()).run()
    asked.clear()
    launcher = FakeLauncher()
    changed = plan_of("stages.average.weight_pre=0.5")
    runner_of(changed, run_folder, launcher).run()
    assert launcher.diary == ["average", "final"]
    assert asked[0] == ("average", "abilities")
    assert len(asked) == 1 + 4


def test_a_failed_stage_keeps_the_earlier_ones_and_starts_no_later_one(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]]
) -> None:
    error = StageFailed("the trainer died", place="rank 0", help="look at its log")
    plan, launcher = plan_of(), FakeLauncher({"rlvr": error})
    with pytest.raises(StageFailed, match="the trainer died"):
        runner_of(plan, run_folder, launcher).run()
    assert states(run_folder, plan) == {
        "blank": "done", "base": "done", "sft": "done", "rlvr": "failed", "average": "",
        "final": "",
    }  # fmt: skip
    assert launcher.closed["rlvr"] == "failed"
    assert manifest_of(run_folder, plan, "rlvr")["error"] == {
        "code": "stage-failed",
        "message": "the trainer died",
        "help": "look at its log",
        "place": "rank 0",
    }
    mended = FakeLauncher()
    runner_of(plan_of(), run_folder, mended).run()
    assert mended.diary == ["rlvr", "average", "final"]
    manifest = manifest_of(run_folder, plan, "rlvr")
    assert (manifest["attempt"], manifest["state"], manifest["error"]) == (1, "done", None)
    assert mended.jobs["rlvr"].attempt == 1


def test_a_bug_is_recorded_like_any_failure(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]]
) -> None:
    plan = plan_of()
    with pytest.raises(KeyError):
        runner_of(plan, run_folder, FakeLauncher({"sft": KeyError("lost")})).run()
    error = manifest_of(run_folder, plan, "sft")["error"]
    assert (error["code"], error["message"]) == ("stage-failed", "KeyError: 'lost'")


def test_a_gate_that_fails_stops_what_follows(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]]
) -> None:
    plan = plan_of("stages.sft.gates=[arithmetic > 80]")
    launcher = FakeLauncher()
    with pytest.raises(GateFailed) as caught:
        runner_of(plan, run_folder, launcher).run()
    # 6 of 20: 30 % (14.5 to 51.9)
    assert caught.value.message == (
        "gate `arithmetic > 80` failed: microworld/arithmetic (30.0 ± 18.7) > 80: fail"
    )
    assert caught.value.place == "stages.sft.gates"
    assert caught.value.exit_code == 3
    assert launcher.diary == ["blank", "prewarm", "base", "sft"]
    assert states(run_folder, plan)["sft"] == "done"  # its model is kept
    assert gate_events(run_folder) == [("sft", "arithmetic > 80", "fail")]
    # with another gate the kept model is enough to go on
    looser = FakeLauncher()
    runner_of(plan_of("stages.sft.gates=[arithmetic > 10]"), run_folder, looser).run()
    assert looser.diary == ["rlvr", "average", "final"]


def test_where_gates_do_not_stop_a_failed_one_is_told_and_the_run_goes_on(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]]
) -> None:
    plan = plan_of("stages.sft.gates=[arithmetic > 80]", "stages.rlvr.gates=[]")
    launcher = FakeLauncher()
    runner_of(plan, run_folder, launcher, gates_stop=False).run()
    assert launcher.diary[-3:] == ["rlvr", "average", "final"]
    assert gate_events(run_folder) == [("sft", "arithmetic > 80", "fail")]


def test_a_gate_that_passes_or_is_undecided_lets_the_run_go_on(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]]
) -> None:
    plan = plan_of("stages.average.gates=[arithmetic > rlvr.arithmetic]")
    runner_of(plan, run_folder, FakeLauncher()).run()
    assert sorted(gate_events(run_folder)) == [
        ("average", "arithmetic > rlvr.arithmetic", "undecided"),  # 85 % against 95 %
        ("rlvr", "arithmetic > sft.arithmetic", "pass"),  # 95 % against 30 %
    ]


def test_a_gate_on_the_tax_waits_until_its_base_was_asked(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]]
) -> None:
    FakeEvaluator.slow = {"base": lambda: time.sleep(0.5)}
    plan = plan_of("stages.sft.gates=[tax < 60]", "stages.rlvr.gates=[]", "cluster.engines=2")
    runner_of(plan, run_folder, FakeLauncher()).run()
    assert gate_events(run_folder) == [("sft", "tax < 60", "pass")]


def test_a_stop_saves_what_runs_and_starts_nothing_new(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]]
) -> None:
    runners: list[Runner] = []

    def stopped() -> str:
        runners[0].ask_to_stop()
        time.sleep(0.25)  # two ticks: the trainer is told in the meantime
        return "stopped"

    plan, launcher = plan_of(), FakeLauncher({"rlvr": stopped})
    runners.append(runner_of(plan, run_folder, launcher))
    with pytest.raises(Interrupted, match="rlvr was stopped and saved"):
        runners[0].run()
    assert launcher.stops == 1
    assert states(run_folder, plan) == {
        "blank": "done", "base": "done", "sft": "done", "rlvr": "stopped", "average": "",
        "final": "",
    }  # fmt: skip
    assert manifest_of(run_folder, plan, "rlvr")["error"]["code"] == "interrupted"
    runner_of(plan_of(), run_folder, FakeLauncher()).run()
    assert set(states(run_folder, plan).values()) == {"done"}


@pytest.mark.parametrize(("gpus", "answered"), [(1, ["base"]), (2, [])])
def test_where_an_engine_and_a_trainer_do_not_fit_together_they_take_turns(
    plan_of: Plans,
    run_folder: RunFolder,
    asked: list[tuple[str, str]],
    gpus: int,
    answered: list[str],
) -> None:
    begun = threading.Event()
    together = not answered  # then they wait for each other
    FakeEvaluator.slow = {"base": lambda: begun.wait(60) if together else time.sleep(0.3)}
    before_sft: list[str] = []

    def train() -> str:
        before_sft.extend(FakeEvaluator.answered)
        begun.set()
        return "done"

    plan = plan_of("cluster.gpus_per_engine=1", "cluster.gpus_per_trainer=1")
    runner_of(plan, run_folder, FakeLauncher({"sft": train}), room=Room(8, gpus)).run()
    assert before_sft == answered


@pytest.mark.parametrize(("resources", "at_once"), [("{}", 1), ("{engines: 1}", 2)])
def test_stages_that_only_generate_share_the_cluster_s_engines(
    plan_of: Plans,
    run_folder: RunFolder,
    asked: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    resources: str,
    at_once: int,
) -> None:
    running: list[str] = []
    most: list[int] = []

    def generate(stage: Any, scored_by: Any, selection: Any, context: Any) -> str:
        running.append(context.name)
        end = time.monotonic() + 60
        while not most and len(running) < at_once and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)  # for one more, which is not to come
        most.append(len(running))
        running.remove(context.name)
        return "done"

    monkeypatch.setattr(stage_run.generate, "run", generate)
    text = "kind: generate, model: base, data: {path: microworld/copy, take: 4}, select: best"
    text += f", resources: {resources}"
    plan = plan_of("cluster.engines=2", *(f"stages.make{each}={{{text}}}" for each in range(3)))
    runner_of(plan, run_folder, FakeLauncher()).run()
    assert max(most) == at_once


def test_ticks_come_while_stages_run(
    plan_of: Plans, run_folder: RunFolder, asked: list[tuple[str, str]]
) -> None:
    ticks: list[float] = []
    runner_of(
        plan_of(), run_folder, FakeLauncher(), on_tick=lambda: ticks.append(time.monotonic())
    ).run()
    assert len(ticks) >= 6  # at least one for each stage
