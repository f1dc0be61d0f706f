"""Weights & Biases, the only home of `wandb`: one W&B run per stage, fed from a thread of its own.

Callers hand rows over through a bounded queue and go on. What W&B does with them (slow, down, wrong
key) never slows a step and never raises: rows that find the queue full are counted and said.
The run folder is complete without any of this.

    caller -> queue (bounded) -> thread -> wandb process -> runs/NAME/wandb, the server if online
"""

from __future__ import annotations

import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.track.wandb_plan import Mode, WandbPlan, has_key, resolve_mode, without_secrets
from posttrain.types import Artifact

__all__ = ["WandbPlan", "WandbRun", "has_key", "resolve_mode", "without_secrets"]

QUEUE_ROWS = 4096
FINISH_DEADLINE_S = 20.0
INIT_TIMEOUT_S = 30.0
ALERT_EVERY_S = 1800  # at most one alert per code in this time
TABLE_ROWS = 16
CHECKSUM_BYTES = 2_000_000_000  # larger results are referred to by path and size alone
COUNTS = ("ops/", "groups/dropped", "groups/filtered", "groups/refilled")  # of each step
AXES = ("axis/step", "axis/version", "axis/tokens", "axis/time_s")
TABLE_COLUMNS = (
    "step",
    "prompt",
    "completion",
    "score",
    "passed",
    "parts",
    "tokens",
    "cut",
    "version_from",
    "version_to",
    "age",
)
_SECRET_KEY = re.compile(
    r"(api_?key|secret|password|passwd|credentials?|access_?key|_token)$", re.I
)
_URL_WITH_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")


class WandbRun:
    """One W&B run. Every method returns at once; only `finish` waits, and not for long.

    `say(text)` is called from the thread with what a person should know: it fell back to offline,
    rows were dropped, the server refused.
    """

    def __init__(self, plan: WandbPlan, say: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.mode: Mode = resolve_mode(plan.settings)
        self.dropped = 0
        self._said: list[str] = []  # before anyone listened
        self._listener = say
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(QUEUE_ROWS)
        self._closing = threading.Event()
        self._exit_code = 0
        self._last_alert: dict[str, float] = {}
        self._thread: threading.Thread | None = None
        if self.mode != "disabled":
            self._thread = threading.Thread(
                target=self._work, name=f"wandb-{plan.stage}", daemon=True
            )
            self._thread.start()

    # --- what callers use ---

    def say_to(self, listener: Callable[[str], None]) -> None:
        """Who hears from now on what a person should know; what was said before comes first."""
        self._listener = listener
        while self._said:
            listener(self._said.pop(0))

    def log(self, row: Mapping[str, float]) -> None:
        """Metrics with their axes (`axis/step`); never W&B's own step, which cannot go back."""
        self._put("row", dict(row))

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table of at most 16 sampled answers."""
        self._put("table", ("samples", TABLE_COLUMNS, [dict(row) for row in rows[:TABLE_ROWS]]))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Any other table: the pipeline's gain and cost, the Pareto points."""
        self._put("table", (name, tuple(columns), [dict(row) for row in rows]))

    def page(self, name: str, path: Path) -> None:
        """An HTML page, shown in the W&B run: the report."""
        self._put("page", (name, Path(path)))

    def uses(self, artifact: Artifact) -> None:
        """Draws the lineage edge from a result to this run; the plan's inputs are drawn already."""
        self._put("uses", artifact)

    def makes(self, artifact: Artifact, aliases: Sequence[str] = ()) -> None:
        """Logs a result by reference (path and digest); nothing is uploaded.

        The stage's own result is logged when it finishes; this is for anything beside it.
        """
        self._put("makes", (artifact, tuple(aliases)))

    def alert(self, code: str, text: str) -> None:
        """Something a person should act on; at most one per code in half an hour."""
        now = time.monotonic()
        if now - self._last_alert.get(code, -ALERT_EVERY_S) >= ALERT_EVERY_S:
            self._last_alert[code] = now
            self._put("alert", (code, text))

    def finish(self, exit_code: int = 0, deadline_s: float = FINISH_DEADLINE_S) -> None:
        """Send what is queued and close; gives up (and says so) at the deadline."""
        if self._thread is None:
            return
        self._exit_code = exit_code
        self._closing.set()
        self._thread.join(deadline_s)
        if self._thread.is_alive():
            self._say(f"W&B did not finish in {deadline_s:.0f} s; its files in wandb/ are kept")
        if self.dropped:
            self._say(f"{self.dropped} rows did not reach W&B; metrics.jsonl has them all")

    def _say(self, text: str) -> None:
        if self._listener is None:
            self._said.append(text)
        else:
            self._listener(text)

    # --- the thread ---

    def _put(self, what: str, payload: Any) -> None:
        if self._thread is None:
            return
        try:
            self._queue.put_nowait((what, payload))
        except queue.Full:
            self.dropped += 1

    def _work(self) -> None:
        try:
            session = _Session(self.plan, self.mode, self._say)
        except Exception as error:  # the boundary to a library that may fail in any way
            self.mode = "disabled"
            self._thread = None  # nothing is queued from now on
            self._say(f"W&B is off for {self.plan.stage}: {_short(error)}; the run folder has all")
            return
        troubles: set[str] = set()
        while True:
            try:
                what, payload = self._queue.get(timeout=0.2)
            except queue.Empty:
                if self._closing.is_set():
                    break
                continue
            try:
                session.handle(what, payload)
            except Exception as error:  # one row that W&B refuses must not stop the others
                if what not in troubles:
                    troubles.add(what)
                    self._say(f"W&B refused a {what}: {_short(error)}")
        try:
            session.finish(self._exit_code)
        except Exception as error:  # as above
            self._say(f"W&B did not close cleanly: {_short(error)}")


class _Session:
    """The wandb calls of one run; used by its thread alone."""

    def __init__(self, plan: WandbPlan, mode: Mode, say: Callable[[str], None]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline means no request at all
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # else files stay in the home folder
            os.environ.setdefault(name, str(plan.run_directory.resolve() / "wandb" / "local"))
        import wandb

        self._wandb = wandb
        self._plan = plan
        if mode == "online" and not has_key():  # wandb would ask for one on the terminal
            say("W&B is offline: no key (WANDB_API_KEY or netrc)")
            mode = "offline"
        self._offline = mode == "offline"
        self._sums: dict[str, float] = {}
        self._defined: set[str] = set()
        wandb.setup(wandb.Settings(silent=True, quiet=True, console="off"))
        try:
            self._run = self._open(mode)
        except Exception as error:  # no network, a refused key: go on offline
            if mode != "online":
                raise
            say(f"W&B is offline: {_short(error)}")
            self._offline = True
            self._run = self._open("offline")
        for axis in AXES:
            self._run.define_metric(axis, hidden=True)
        self._run.define_metric("*", step_metric="axis/step")
        for stage, identity in plan.inputs.items():
            result = plan.result_of(stage, identity)
            if result is not None:
                self._uses(result)

    def _open(self, mode: Mode) -> Any:
        plan = self._plan
        plan.run_directory.mkdir(parents=True, exist_ok=True)
        return self._wandb.init(
            project=plan.settings.project,
            entity=plan.settings.entity,
            dir=str(plan.run_directory),
            id=plan.id,
            name=f"{plan.run_name}/{plan.stage}",
            group=plan.run_name,
            job_type=plan.kind,
            tags=[tag[:64] for tag in plan.tags if tag],
            config=without_secrets({**plan.config, "identity": plan.identity})
            | {"inputs": dict(plan.inputs)},
            mode=mode,
            resume="allow",
            reinit="create_new",
            save_code=False,
            settings=self._wandb.Settings(
                silent=True,
                quiet=True,
                console="off",
                disable_git=True,
                disable_code=True,
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=FINISH_DEADLINE_S,
            ),
        )

    def handle(self, what: str, payload: Any) -> None:
        getattr(self, f"_{what}")(payload)

    def _row(self, row: Mapping[str, float]) -> None:
        numbers = {
            name: value
            for name, value in row.items()
            if isinstance(value, int | float) and name != "time"
        }
        for name, value in numbers.items():
            self._define(name)
            if name.startswith(COUNTS):
                self._sums[name] = self._sums.get(name, 0.0) + value
        self._run.log(numbers)

    def _define(self, name: str) -> None:
        """What W&B's summary keeps of a metric: the best score, sums of counts, else the last."""
        if name in self._defined:
            return
        self._defined.add(name)
        is_score = name.startswith("eval/") and name.endswith("/score")
        if is_score or name == "reward/heldout_mean":
            self._run.define_metric(name, step_metric="axis/step", summary="max")

    def _table(self, payload: tuple[str, tuple[str, ...], list[dict[str, Any]]]) -> None:
        name, columns, rows = payload
        data = [[_cell(row.get(column)) for column in columns] for row in rows]
        table = self._wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)
        steps = [row["step"] for row in rows if isinstance(row.get("step"), int | float)]
        self._run.log({name: table} | ({"axis/step": max(steps)} if steps else {}))

    def _page(self, payload: tuple[str, Path]) -> None:
        name, path = payload
        self._run.log({name: self._wandb.Html(path.read_text("utf-8"), inject=False)})

    def _artifact(self, artifact: Artifact) -> Any:
        reference = self._wandb.Artifact(
            re.sub(r"[^A-Za-z0-9_.-]", "-", f"{self._plan.run_name}-{artifact.stage}"),
            type=artifact.type,
            metadata={"stage": artifact.stage, "identity": artifact.identity},
        )
        path = Path(artifact.path).resolve()
        files = path.rglob("*") if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in files if file.is_file())
        reference.add_reference(path.as_uri(), checksum=size <= CHECKSUM_BYTES)
        return reference

    def _uses(self, artifact: Artifact) -> None:
        if self._offline:
            return  # wandb refuses; `inputs` in the run's configuration says it instead
        self._run.use_artifact(self._artifact(artifact), aliases=[artifact.identity])

    def _makes(self, payload: tuple[Artifact, tuple[str, ...]]) -> None:
        artifact, aliases = payload
        self._run.log_artifact(self._artifact(artifact), aliases=[artifact.identity, *aliases])

    def _alert(self, payload: tuple[str, str]) -> None:
        code, text = payload
        self._run.alert(title=f"{self._plan.run_name}/{self._plan.stage}: {code}"[:63], text=text)

    def finish(self, exit_code: int) -> None:
        for name, total in self._sums.items():
            self._run.summary[name] = total
        result = self._plan.result_of(self._plan.stage, self._plan.identity)
        if exit_code == 0 and result is not None:
            self._makes((result, ()))
        self._run.finish(exit_code=exit_code)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
