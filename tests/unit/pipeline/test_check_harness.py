"""A suite's tasks of the lm-evaluation-harness, as `check` and a plan see them."""

from pathlib import Path

import pytest

from posttrain.config.load import load_pipeline
from posttrain.pipeline import check_harness
from posttrain.pipeline.check import check

KEEP = "keep: [microworld/copy]"
TASKS = "keep: [microworld/copy, lm_eval/mmlu]"


def rendered(file):
    return [problem.render() for problem in check(load_pipeline(file, [])).problems]


@pytest.fixture
def installed(monkeypatch):
    """`installed(False)`: as if the harness were not there."""

    def pretend(is_it=True):
        monkeypatch.setattr(check_harness, "is_installed", lambda: is_it)

    pretend()
    return pretend


def test_tasks_of_the_harness_are_known_by_their_prefix(write_pipeline, installed):
    assert rendered(write_pipeline(KEEP, TASKS)) == []


def test_the_harness_may_be_missing(write_pipeline, installed):
    installed(False)
    assert rendered(write_pipeline(KEEP, TASKS)) == [
        "error[no-lm-eval] mine.yaml:3 suites.abilities.keep.1: `lm_eval/mmlu` is asked by the "
        "lm-evaluation-harness, which is not installed\n"
        "  help: pip install 'posttrain[lm-eval]'"
    ]
    assert rendered(write_pipeline()) == []  # who asks none of its tasks needs no harness


def test_a_number_of_a_task_that_is_not_asked(write_pipeline, installed):
    block = f"{TASKS}, lm_eval: {{metrics: {{mmul: acc}}}}"
    assert rendered(write_pipeline(KEEP, block)) == [
        "error[unused-task] mine.yaml:3 suites.abilities.lm_eval.metrics.mmul: the suite does not "
        "ask `lm_eval/mmul`\n  help: did you mean `mmlu`?"
    ]


def test_a_folder_of_task_files(write_pipeline, installed):
    Path("tasks").mkdir()
    block = f"{TASKS}, lm_eval: {{tasks: ./%s}}"
    assert rendered(write_pipeline(KEEP, block % "task")) == [
        "error[missing-file] mine.yaml:3 suites.abilities.lm_eval.tasks: no folder `task`\n"
        "  help: did you mean `tasks`?"
    ]
    assert rendered(write_pipeline(KEEP, block % "tasks")) == [
        "error[missing-file] mine.yaml:3 suites.abilities.lm_eval.tasks: `tasks` holds no .yaml "
        "file\n  help: task files as the harness reads them"
    ]
    Path("tasks/mine.yaml").write_text("task: mine\n")
    assert rendered(write_pipeline(KEEP, block % "tasks")) == []


def test_rows_are_not_compared_with_what_the_harness_keeps(write_pipeline, installed):
    clean = "data: {path: microworld/arithmetic_worked, decontaminate: abilities}"
    changes = ("data: microworld/arithmetic_worked", clean)
    assert rendered(write_pipeline(KEEP, TASKS, *changes)) == [
        "warning[not-compared] mine.yaml:7 stages.sft.data.decontaminate: rows are not compared "
        "with the questions of lm_eval/mmlu\n"
        "  help: the harness keeps them; a task with the same questions as `data` is compared"
    ]


def test_gates_compare_them_in_points(write_pipeline, installed):
    gates = "gates: [lm_eval/mmlu > 50, mmlu >= sft.mmlu]"
    file = write_pipeline(KEEP, TASKS, "gates: [arithmetic > sft.arithmetic]", gates)
    assert rendered(file) == []


def test_what_decides_the_questions_is_in_the_fingerprint(plan_of, installed, monkeypatch):
    monkeypatch.setattr("posttrain.stages.harness_tasks.installed_version", lambda: "0.4.13")
    folder = Path("tasks")

    def print_of(block=""):
        return plan_of(changes=(KEEP, TASKS + block)).fingerprints["abilities"]

    first = print_of()
    assert print_of() == first
    assert print_of(", lm_eval: {chat_template: true}") != first
    assert print_of(", lm_eval: {metrics: {mmlu: acc}}") != first
    folder.mkdir()
    (folder / "mine.yaml").write_text("task: mine\n")
    own = print_of(", lm_eval: {tasks: ./tasks}")
    (folder / "rows.jsonl").write_text("{}\n")
    assert print_of(", lm_eval: {tasks: ./tasks}") != own
    monkeypatch.setattr("posttrain.stages.harness_tasks.installed_version", lambda: "0.5.0")
    assert print_of() != first


def test_suites_without_them_keep_their_fingerprint(plan_of):
    """Settings of tasks that are not asked decide nothing: nothing runs again."""
    settings = ", lm_eval: {chat_template: true}"
    plain = plan_of().fingerprints["abilities"]
    assert plan_of(changes=(KEEP, KEEP + settings)).fingerprints["abilities"] == plain
