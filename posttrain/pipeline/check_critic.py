"""Whether the critic that an algorithm's settings name is there and can be one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.config.critic import CriticConfig, is_folder, names_a_stage
from posttrain.config.document import Places, show_path
from posttrain.config.paths import neighbour
from posttrain.config.pipeline import ModelStage, Pipeline
from posttrain.errors import Problem

CURE = "a folder written by a reward_model stage, critic: policy, or critic: head"


def check_critic(name: str, config: Any, pipeline: Pipeline, places: Places) -> list[Problem]:
    """Problems of `algorithm.critic` of an online stage; algorithms without one have none."""
    if not isinstance(config, CriticConfig):
        return []
    critic, key = config.critic, f"stages.{name}.algorithm.critic"
    folder = Path(critic) if is_folder(critic) else None
    if names_a_stage(critic):
        stage = pipeline.stages.get(critic)
        if isinstance(stage, ModelStage) and stage.path and Path(stage.path).is_dir():
            folder = Path(stage.path)
    if folder is None:
        return []
    file, line = places.of(key)
    if not (folder / "config.json").is_file():
        near = neighbour(str(folder)) if not folder.exists() else None
        help = f"did you mean `{show_path(near)}`?" if near else CURE
        message = f"`{show_path(folder)}` is no model folder: it has no config.json"
        return [Problem("no-critic", message, key, file, line, help)]
    labels = _num_labels(folder)
    if labels not in (None, 1):
        message = f"`{show_path(folder)}` has {labels} labels, a critic says one number"
        return [Problem("no-critic", message, key, file, line, CURE)]
    return []


def _num_labels(folder: Path) -> int | None:
    """Labels of a sequence-classification model; None for any other."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = config.get("architectures") or []
    if not any(str(each).endswith("ForSequenceClassification") for each in names):
        return None
    return len(config.get("id2label") or {"0": "", "1": ""})
