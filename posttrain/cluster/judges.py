"""Stages of the run as judges: a server for each, and rewards that are told where it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from posttrain.cluster.judge_server import JudgeServer
from posttrain.config.plugin import with_each_block
from posttrain.ports import EngineSpec


class Judges:
    """Servers by the stage whose model judges; they end with `close`, or with this process."""

    def __init__(self, specs: Mapping[str, EngineSpec], folder: Path) -> None:
        """Start them one after the other; their logs go to `judge-STAGE.log` in `folder`.

        Raises EngineFailed or DeadlineExceeded, and ends those that were started.
        """
        gpus = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        self._servers = ExitStack()
        self._settings: dict[str, dict[str, str]] = {}
        with ExitStack() as started:
            for stage, spec in specs.items():
                own, gpus = gpus[: spec.gpus], gpus[spec.gpus :]
                # Named by its weights too: judgements are cached by it.
                name = f"{stage}@{Path(spec.model_path).parent.name}"
                log = folder / f"judge-{stage}.log"
                server = started.enter_context(JudgeServer(spec, name, log, gpus=own))
                self._settings[stage] = server.settings
            self._servers = started.pop_all()

    def settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A reward's settings with the addresses of servers in place of the names of stages."""
        told: dict[str, Any] = with_each_block(settings, self._with_address)
        return told

    def _with_address(self, block: dict[str, Any]) -> dict[str, Any]:
        stage = block.get("stage")
        if isinstance(stage, str) and stage in self._settings and "endpoint" in block:
            return block | {"stage": "", **self._settings[stage]}
        return block

    def close(self) -> None:
        self._servers.close()
