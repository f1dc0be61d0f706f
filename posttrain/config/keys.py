"""Which keys may stand where in a pipeline file, read off the classes in `pipeline.py`."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from posttrain.config.answers import GenerateStage, OverOptimisationStage
from posttrain.config.offline import OfflineStage
from posttrain.config.pipeline import OnlineRlStage, Stage
from posttrain.config.stage_base import StageBase

STAGE_CLASSES: dict[str, type[StageBase]] = {
    get_args(each.model_fields["kind"].annotation)[0]: each for each in get_args(get_args(Stage)[0])
}
"""Stage classes by the word behind `kind:`."""

WITH_DATA = (OfflineStage, OnlineRlStage, GenerateStage, OverOptimisationStage)
"""Classes of stages that read rows."""

TRAINED_KINDS = tuple(
    kind for kind, each in STAGE_CLASSES.items() if issubclass(each, OfflineStage | OnlineRlStage)
)
"""Kinds of stages in which something is trained, step by step."""

SHORT_FORMS = {
    "data": "path",
    "algorithm": "name",
    "reward": "name",
    "watch": "name",
    "scored_by": "name",
    "gold": "name",
    "select": "name",
    "method": "name",
    "suite": "use",
    "staleness": "max",
}
"""`data: x` is short for `data: {path: x}`, and so on, in stages and in tasks."""

EXCLUSIVE = {
    "steps": ("epochs",),
    "epochs": ("steps",),
    "path": ("from_scratch", "mix", "stage"),
    "from_scratch": ("path",),
    "mix": ("path", "stage"),
    "stage": ("path", "mix"),
}
"""Keys that say the same thing in two ways: the one set last takes the place of the others."""

PLUGIN_KINDS = {
    "algorithm": "algorithm",
    "reward": "reward",
    "watch": "reward",
    "scored_by": "reward",
    "gold": "reward",
    "select": "selection",
    "method": "averaging",
}
"""Which sort of plug-in stands behind a key."""


def unwrap(annotation: Any) -> Any:
    """The type inside Annotated and Optional: `Annotated[DataSpec, ...] | None` is DataSpec."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            parts = [each for each in get_args(annotation) if each is not type(None)]
            models = [each for each in parts if is_model(each)]
            if len(parts) > 1 and not models:
                return annotation
            annotation = models[0] if models else parts[0]
        else:
            return annotation


def is_model(value: Any) -> bool:
    """Whether something is a configuration class."""
    return isinstance(value, type) and issubclass(value, BaseModel)


def descend(model: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel] | None:
    """The class that holds the keys at a location below `model`; None where there is none."""
    here: Any = model
    for key in loc:
        if is_model(here):
            field = here.model_fields.get(str(key))
            here = unwrap(field.annotation) if field else None
        elif get_origin(here) is dict:
            here = unwrap(get_args(here)[1])
        else:
            return None
    return here if is_model(here) else None


def stage_class(stage: Any) -> type[StageBase] | None:
    """The class of a raw stage, by its `kind`; None where that is missing or unknown."""
    kind = stage.get("kind") if isinstance(stage, Mapping) else None
    return STAGE_CLASSES.get(kind) if isinstance(kind, str) else None
