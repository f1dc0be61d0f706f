"""Whether a model to start from is there, as far as can be told without loading it."""

from __future__ import annotations

from pathlib import Path

from posttrain.config.document import Places, show_path
from posttrain.config.paths import looks_like_a_file, neighbour
from posttrain.config.pipeline import ModelStage
from posttrain.config.stage_base import StageBase
from posttrain.config.suggest import did_you_mean
from posttrain.errors import Problem
from posttrain.model.chat_templates import shipped_templates

FROM_SCRATCH = ("micro",)
"""Models that can be made from random weights."""


def check_model(stage: StageBase, prefix: str, places: Places) -> list[Problem]:
    """Problems of a `model` stage; of any other kind there are none."""
    if not isinstance(stage, ModelStage):
        return []
    problems = []
    if stage.from_scratch is not None and stage.from_scratch not in FROM_SCRATCH:
        message = f"no model `{stage.from_scratch}` to make from random weights"
        help = did_you_mean(stage.from_scratch, FROM_SCRATCH)
        problems.append(_at("unknown-model", message, f"{prefix}.from_scratch", places, help))
    if stage.path is not None:
        problems += _check_path(stage.path, f"{prefix}.path", places)
    if stage.chat_template is not None:
        problems += _check_template(stage.chat_template, f"{prefix}.chat_template", places)
    return problems


def _check_path(path: str, key: str, places: Places) -> list[Problem]:
    folder = Path(path)
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return []
        below = sorted(each.parent.name for each in folder.glob("*/config.json"))
        help = f"did you mean `{show_path(folder / below[0])}`?" if below else ""
        message = f"`{show_path(folder)}` holds no config.json, so it is no model"
        return [_at("no-model", message, key, places, help)]
    if folder.exists():
        message = f"`{show_path(folder)}` is a file, has to be a folder in Hugging Face form"
        return [_at("no-model", message, key, places)]
    if looks_like_a_file(path):
        near = neighbour(path)
        help = f"did you mean `{show_path(near)}`?" if near else ""
        return [_at("missing-file", f"no folder `{show_path(path)}`", key, places, help)]
    return []


def _check_template(template: str, key: str, places: Places) -> list[Problem]:
    if template.endswith(".jinja") or "/" in template:
        if Path(template).is_file():
            return []
        near = neighbour(template)
        help = f"did you mean `{show_path(near)}`?" if near else ""
        return [_at("missing-file", f"no file `{show_path(template)}`", key, places, help)]
    if template in shipped_templates():
        return []
    help = did_you_mean(template, shipped_templates(), "shipped:") + "; or a path to a .jinja file"
    return [_at("no-chat-template", f"no chat template `{template}`", key, places, help)]


def _at(code: str, message: str, key: str, places: Places, help: str = "") -> Problem:
    file, line = places.of(key)
    return Problem(code, message, key, file, line, help)
