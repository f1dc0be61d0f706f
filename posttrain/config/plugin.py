"""How a plug-in is named in a pipeline file, and rewards that are made of other rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from posttrain.config.strict import Contradiction, StrictModel
from posttrain.config.suggest import closest

Keys = tuple[str | int, ...]
_FORMS = ("name", "combine", "per_source", "ensemble")


class Plugin(StrictModel):
    """A plug-in by name, with its settings: `grpo`, or `{name: grpo, lr: 1e-6}`."""

    name: str
    """File name in its folder (`grpo`), a path to your own (`./my.py`), or a dotted module."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What the plug-in's own Config accepts; its file documents each."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        value = cls._written_out(value)
        if isinstance(value, dict) and "settings" not in value:
            own = {key: item for key, item in value.items() if key in cls.model_fields}
            return own | {"settings": {k: v for k, v in value.items() if k not in own}}
        return value

    @classmethod
    def _written_out(cls, value: Any) -> Any:
        """The long form of a short one."""
        return value


class RewardPlugin(Plugin):
    """A reward by name, or one made of others.

    `{combine: gated, score: ..., judges: {...}}` is short for `{name: gated, score: ...}`, and
    `{per_source: {gsm8k: gsm8k, ...}}` for `{name: per_source, per_source: {...}}`;
    `{ensemble: rm, combine: uwo}` for `{name: ensemble, ensemble: rm, combine: uwo}`.
    """

    @classmethod
    def _written_out(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "name" in value:
            return value
        if "ensemble" in value:
            return {"name": "ensemble", **value}
        if "per_source" in value:
            return {"name": "per_source", **value}
        if "combine" in value:
            rest = {key: item for key, item in value.items() if key != "combine"}
            return {"name": value["combine"], **rest}
        near = next((best for key in value if (best := closest(key, _FORMS))), None)
        raise Contradiction(
            "names no reward",
            f"did you mean `{near}`?"
            if near
            else "reward: NAME, or combine: NAME, per_source: or ensemble:",
            "missing-key",
        )


@dataclass(frozen=True, slots=True)
class _NamesAStage:
    """Marks a setting whose value is the name of a stage of the pipeline, and what that makes."""

    makes: str = "model"


StageName = Annotated[str, _NamesAStage()]
"""A plug-in's setting that names a stage: the stage becomes an input, and its identity counts."""
EnsembleName = Annotated[str, _NamesAStage("reward_models")]
"""The same of a stage that makes reward models."""


@dataclass(frozen=True, slots=True)
class NamedStage:
    """A stage that a plug-in's settings name.

    Example: NamedStage(("judges", 0, "stage"), "sft", "model")
    """

    keys: Keys  # that lead there
    stage: str
    makes: str  # type of artifact that is wanted


def nested_plugins(value: Any, *path: str | int) -> Iterator[tuple[Keys, Plugin]]:
    """(keys that lead there, plug-in) of the plug-ins that a plug-in's Config names, one level
    down: the parts of a reward that is made of others.
    """
    if isinstance(value, Plugin):
        yield path, value
    else:
        for key, item in _items(value):
            yield from nested_plugins(item, *path, key)


def named_stages(value: Any, *path: str | int) -> Iterator[NamedStage]:
    """The settings of type StageName or EnsembleName in a Config; not in those of plug-ins that it
    names.
    """
    if isinstance(value, BaseModel) and not isinstance(value, Plugin):
        for name, field in type(value).model_fields.items():
            item = getattr(value, name)
            marks = [each for each in field.metadata if isinstance(each, _NamesAStage)]
            if item and marks:
                yield NamedStage((*path, name), item, marks[0].makes)
    if not isinstance(value, Plugin):
        for key, item in _items(value):
            yield from named_stages(item, *path, key)


def _items(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, BaseModel):
        yield from ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        yield from enumerate(value)


def with_each_block(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Plain values in which every block, the innermost first, is what `change` makes of it."""
    if isinstance(value, Mapping):
        return change({key: with_each_block(item, change) for key, item in value.items()})
    if isinstance(value, list):
        return [with_each_block(item, change) for item in value]
    return value


def is_plugin(value: Mapping[str, Any]) -> bool:
    """Whether plain values are a plug-in's, written out."""
    return value.keys() == {"name", "settings"} and isinstance(value["name"], str)
