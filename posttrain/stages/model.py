"""The `model` stage: a folder, a hub name or random weights, as an ordinary Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from posttrain.config.pipeline import ModelStage
from posttrain.stages.context import StageContext


def run(stage: ModelStage, context: StageContext) -> str:
    """Write (or link) the model; returns "done"."""
    target = str(context.directory / "model")
    if stage.from_scratch is not None:
        context.launcher.call(make_from_scratch, stage.from_scratch, target, context.seed)
    elif stage.tiny:
        context.launcher.call(make_tiny, stage.path, target, stage.chat_template, context.seed)
    else:
        context.launcher.call(adopt, stage.path, target, stage.chat_template)
    return "done"


def make_from_scratch(name: str, target: str, seed: int) -> None:
    """Random weights and their tokenizer. Runs in a process of its own."""
    from posttrain.model.micro import build_micro

    if name != "micro":  # `check` says so before anything starts; this guards direct callers
        raise ValueError(f"from_scratch: {name!r}, but only 'micro' is known")
    build_micro(target, seed)


def make_tiny(path: str | None, target: str, chat_template: str | None, seed: int) -> None:
    """Random weights in the image of an existing model. Runs in a process of its own."""
    from posttrain.model.tiny import adopt_tiny

    assert path is not None
    adopt_tiny(path, Path(target), chat_template, seed)


def adopt(path: str | None, target: str, chat_template: str | None) -> None:
    """Link an existing model into the run folder, with the chat template asked for."""
    from posttrain.model.load import adopt_model

    assert path is not None
    adopt_model(path, Path(target), chat_template)
