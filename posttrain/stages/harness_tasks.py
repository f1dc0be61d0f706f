"""A suite's tasks of the lm-evaluation-harness: what decides them, and having them asked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from posttrain.config.suites import Suite
from posttrain.config.tasks import harness_tasks
from posttrain.errors import InputError
from posttrain.harness.answers import HarnessAnswers
from posttrain.harness.names import installed_version, is_installed, not_installed
from posttrain.prompts.sources import EVALUATION_SEED
from posttrain.stages.launcher import Launcher, LeasedEngine

HARNESS_TOKENS = 4096  # of an engine, where the model has as many: five worked examples fit
DEADLINE_S = 86_400.0  # of all tasks; each call to the engine has a shorter one


def harness_fingerprint(suite: Suite) -> dict[str, Any]:
    """What decides the questions: the harness's version, its settings, files of the user's own."""
    return {
        "tasks": harness_tasks(suite),
        "version": installed_version(),
        "metrics": dict(suite.lm_eval.metrics),
        "chat_template": suite.lm_eval.chat_template,
        "files": _content(suite.lm_eval.tasks),
    }


def _content(folder: str | None) -> str:
    """Sixteen hex digits of the files in a folder, with their names: task files and their data."""
    if folder is None:
        return ""
    digest = hashlib.sha256()
    root = Path(folder)
    for file in sorted(each for each in root.rglob("*") if each.is_file()):
        if "__pycache__" not in file.parts:
            digest.update(str(file.relative_to(root)).encode())
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def ask_harness(
    launcher: Launcher,
    engine: LeasedEngine,
    model_path: str,
    suite: Suite,
    length: int,
    answers_kept: int,
) -> dict[str, HarnessAnswers]:
    """Every harness task of a suite, asked of an engine of `length` tokens by a process that has
    the harness. Raises what `posttrain.harness.ask.ask` does.
    """
    if not harness_tasks(suite):
        return {}
    found: dict[str, HarnessAnswers] = launcher.call(
        run_tasks,
        engine,
        model_path,
        suite.model_dump(),
        length,
        answers_kept,
        cpus=0,  # it waits for the engine, which has cores of its own
        deadline_s=DEADLINE_S,
    )
    return found


def run_tasks(
    engine: LeasedEngine,
    model_path: str,
    suite_data: dict[str, Any],
    length: int,
    answers_kept: int,
) -> dict[str, HarnessAnswers]:
    """Runs in a process of its own."""
    suite = Suite.model_validate(suite_data)
    _require_installed(suite)
    from posttrain.harness.ask import Asking, ask

    return ask(engine, Asking(model_path, suite, length, EVALUATION_SEED), answers_kept)


def look_at_harness(model_path: str, suite: Suite, length: int) -> None:
    """Raises InputError for harness tasks that cannot be loaded or asked; asks no model."""
    if not harness_tasks(suite):
        return
    _require_installed(suite)
    from posttrain.harness.ask import Asking, look

    look(Asking(model_path, suite, length, EVALUATION_SEED))


def _require_installed(suite: Suite) -> None:
    if not is_installed():
        raise InputError(not_installed(harness_tasks(suite)[0]))
