"""What a run folder says of its run: run.json, and the pipeline as it was resolved."""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from posttrain.errors import PosttrainError
from posttrain.files import write_text
from posttrain.pipeline.plan import RunPlan
from posttrain.pipeline.store import RunFolder
from posttrain.track.wandb import resolve_mode, without_secrets

if TYPE_CHECKING:
    from posttrain.cli.execute import RunOptions

OWN_FILES = ("run.json", "pipeline.yaml")


@dataclass(slots=True)
class RunRecord:
    """Of one run, from its beginning to its end."""

    folder: RunFolder
    run: dict[str, Any] = field(default_factory=dict)  # what run.json says
    before: dict[str, str] = field(default_factory=dict)  # files that `begin` wrote over

    @property
    def run_id(self) -> str:
        return str(self.run["run_id"])

    def begin(self, plan: RunPlan, options: RunOptions) -> None:
        """Write that it runs, and what it will do."""
        folder = self.folder
        before = folder.read()
        self.before = {
            name: (folder.path / name).read_text(encoding="utf-8")
            for name in OWN_FILES
            if (folder.path / name).exists()
        }
        pipeline = plan.loaded.pipeline
        self.run = {
            "schema": 1,
            "name": folder.path.name,
            "run_id": before.get("run_id") or time.strftime("%Y%m%d-%H%M%S"),
            "file": str(plan.loaded.file),
            "overrides": list(options.overrides),
            "smoke": options.smoke,
            "measures": options.measures,
            "description": pipeline.description,
            "state": "running",
            "command": " ".join(sys.argv),
            "started": time.time(),
            "ended": None,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "wandb": resolve_mode(pipeline.wandb),
            "stages": [
                {
                    "name": stage.name,
                    "kind": stage.kind,
                    "identity": stage.identity,
                    "needs": list(stage.needs),
                    "why": stage.why,
                    "description": stage.stage.description,
                }
                for stage in plan.stages
            ],
            "suites": {name: suite.model_dump() for name, suite in plan.suites.items()},
            "recommended": None,
            "error": None,
        }
        folder.write(self.run)
        write_text(
            folder.path / "pipeline.yaml",
            yaml.safe_dump(without_secrets(plan.loaded.raw), sort_keys=False, allow_unicode=True),
        )

    def take_back(self) -> None:
        """Undo `begin`: a run that never started leaves no trace."""
        folder = self.folder
        for name in (*OWN_FILES, "events.jsonl", "live.html"):
            if name in self.before:
                write_text(folder.path / name, self.before[name])
            elif name in OWN_FILES or "run.json" not in self.before:
                (folder.path / name).unlink(missing_ok=True)
        if "run.json" not in self.before:
            (folder.path / "run.lock").unlink(missing_ok=True)
            with suppress(OSError):  # somebody keeps other things there
                folder.path.rmdir()

    def end(
        self,
        state: str,
        recommended: str | None = None,
        error: PosttrainError | None = None,
    ) -> None:
        """Write how it ended. `recommended`: the stage whose model to take."""
        self.run |= {
            "state": state,
            "ended": time.time(),
            "recommended": recommended,
            "error": asdict(error.problem()) if error else None,
        }
        self.folder.write(self.run)
