"""How a plug-in is named in a pipeline file, and rewards that are made of other rewards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Field, model_validator

from posttrain.config.strict import StrictModel


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
    `{per_source: {gsm8k: gsm8k, ...}}` for `{name: per_source, per_source: {...}}`.
    """

    @classmethod
    def _written_out(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "name" in value:
            return value
        if "per_source" in value:
            return {"name": "per_source", **value}
        if "combine" in value:
            rest = {key: item for key, item in value.items() if key != "combine"}
            return {"name": value["combine"], **rest}
        return value


JUDGE_STAGE = "stage"
"""The setting of a judge that names a stage of the pipeline: its model judges."""


def judge_stages(settings: Mapping[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """(keys as they are written, stage) of the judges in a reward's settings that are models of the
    run itself.
    """
    for key, value in settings.items():
        if key == JUDGE_STAGE and isinstance(value, str) and value:
            yield (*path, key), value
        elif isinstance(value, Mapping):
            yield from judge_stages(value, *path, *(() if key == "settings" else (str(key),)))
        elif isinstance(value, RewardPlugin):
            yield from judge_stages(value.settings, *path, str(key))


def is_plugin(value: Mapping[str, Any]) -> bool:
    """Whether plain values are a plug-in's, written out."""
    return value.keys() == {"name", "settings"} and isinstance(value["name"], str)


def nested_plugins(value: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Plugin]]:
    """(keys that lead there, plug-in) of the plug-ins that a plug-in's Config names, one level
    down: the parts of a reward that is made of others.
    """
    if isinstance(value, Plugin):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from nested_plugins(getattr(value, name), *path, name)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from nested_plugins(item, *path, str(key))
