"""Whether an online algorithm's settings go with its stage, and whether its critic is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.config.critic import HEAD, CriticConfig, is_folder, names_a_stage
from posttrain.config.document import Places, show_path
from posttrain.config.paths import neighbour
from posttrain.config.pipeline import ModelStage, OnlineRlStage, Pipeline
from posttrain.errors import Problem

CURE = "a sequence-classification folder with one label, critic: policy, or critic: head"


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
    if labels == 0:
        message = f"`{show_path(folder / 'config.json')}` cannot be read"
        return [Problem("no-critic", message, key, file, line, CURE)]
    if labels not in (None, 1):
        message = f"`{show_path(folder)}` has {labels} labels, a critic says one number"
        return [Problem("no-critic", message, key, file, line, CURE)]
    return []


def _num_labels(folder: Path) -> int | None:
    """Labels of a sequence-classification model; None for any other; 0 where it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        return 0
    names = config.get("architectures") or []
    if not any(str(each).endswith("ForSequenceClassification") for each in names):
        return None
    return len(config.get("id2label") or {"0": "", "1": ""})


def check_algorithm(name: str, config: Any, stage: OnlineRlStage, places: Places) -> list[Problem]:
    """Settings of an algorithm that do not go with those of its stage."""
    found: list[tuple[str, str, str, str]] = []
    if getattr(config, "kl_times_ratio", False) and stage.off_policy.proximal != "behaviour":
        found.append(
            (
                "unused-setting",
                "the ratio would be taken to the proximal policy, not to the one that sampled",
                "kl_times_ratio",
                "off_policy: {proximal: behaviour}; or leave `kl_times_ratio` out",
            )
        )
    has_own = isinstance(config, CriticConfig) and config.critic != HEAD
    if has_own and stage.lora is not None and config.critic_lr is None:
        found.append(
            (
                "critic-without-rate",
                "with `lora` the policy learns by adapters, but the critic is trained whole, "
                "at the adapters' learning rate",
                "critic_lr",
                "critic_lr: a tenth of lr or less; or critic: head, which is small",
            )
        )
    problems = []
    for code, message, setting, help in found:
        key = f"stages.{name}.algorithm.{setting}"
        file, line = places.of(key)
        problems.append(Problem(code, message, key, file, line, help))
    return problems
