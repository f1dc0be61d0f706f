"""The JSON schema of pipeline files: completion and a sentence per key in any editor.

It is what pydantic makes of the classes, with three things added that loading allows: short forms
(`data: x`), `uses:` with keys left to presets, and the settings of each shipped plug-in.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from posttrain.config.field_sentences import DocumentedSchema
from posttrain.config.keys import STAGE_CLASSES
from posttrain.config.pipeline import Pipeline
from posttrain.config.plugins import PACKAGES, algorithm_mode, shipped
from posttrain.config.presets import shipped_presets

_TEXT_FORMS = {"DataSpec": "path", "SuiteUse": "use"}
_PLUGIN_FIELDS: dict[str, dict[str, tuple[str, str | None]]] = {
    "SftStage": {"algorithm": ("algorithm", "offline")},
    "RewardModelStage": {"algorithm": ("algorithm", "offline")},
    "PreferenceStage": {"algorithm": ("algorithm", "offline")},
    "OnlineRlStage": {
        "algorithm": ("algorithm", "online"),
        "reward": ("reward", None),
        "watch": ("reward", None),
    },
    "GenerateStage": {"scored_by": ("reward", None), "select": ("selection", None)},
    "BestOfNStage": {"scored_by": ("reward", None), "gold": ("reward", None)},
    "OverOptimisationStage": {"gold": ("reward", None)},
    "AverageStage": {"method": ("averaging", None)},
    "TaskSpec": {"reward": ("reward", None)},
}


_REWARD_KEYS = {
    ("OnlineRlStage", "reward"): "RewardSpec",
    ("OnlineRlStage", "watch"): "ScoredReward",
    ("TaskSpec", "reward"): "ScoredReward",
    ("GenerateStage", "scored_by"): "ScoredReward",
    ("BestOfNStage", "scored_by"): "ScoredReward",
    ("BestOfNStage", "gold"): "ScoredReward",
    ("OverOptimisationStage", "gold"): "ScoredReward",
}
"""Whose keys stand beside a reward's settings."""


def pipeline_schema() -> dict[str, Any]:
    """The schema as plain JSON values."""
    schema = Pipeline.model_json_schema(schema_generator=DocumentedSchema)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    definitions = schema["$defs"]
    for definition in definitions.values():
        _one_line(definition)
    _one_line(schema)
    schema["title"] = "posttrain pipeline"
    for owner, fields in _PLUGIN_FIELDS.items():
        for key, (kind, mode) in fields.items():
            _add_plugin(definitions, owner, key, kind, mode)
    for name, key in _TEXT_FORMS.items():
        definitions[name] = _or_text(definitions[name], key)
    definitions["Staleness"] = _or(definitions["Staleness"], {"type": "integer", "minimum": 0})
    for model in STAGE_CLASSES.values():
        _allow_presets(definitions[model.__name__], required=["kind"])
    _allow_presets(definitions["Cluster"], required=[])
    schema["properties"]["cluster"]["anyOf"][0]["examples"] = _cluster_names()
    for unused in ("Plugin", *_REWARD_KEYS.values()):
        definitions.pop(unused, None)
    return schema


def write_schema(path: Path) -> None:
    """Write the schema as indented JSON."""
    text = json.dumps(pipeline_schema(), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _one_line(definition: dict[str, Any]) -> None:
    """Descriptions without the line breaks of the source; no titles, which only repeat the keys."""
    definition.pop("title", None)
    if "description" in definition:
        definition["description"] = " ".join(definition["description"].split())
    for field in definition.get("properties", {}).values():
        _one_line(field)


def _or(definition: dict[str, Any], short: dict[str, Any]) -> dict[str, Any]:
    return {"description": definition.get("description", ""), "anyOf": [short, definition]}


def _or_text(definition: dict[str, Any], key: str) -> dict[str, Any]:
    return _or(definition, {"type": "string", "description": f"Short for {{{key}: ...}}."})


def _allow_presets(definition: dict[str, Any], required: list[str]) -> None:
    """`uses` beside the keys; what a preset may give is not required of the file."""
    names = {"type": "string", "examples": shipped_presets()}
    definition["properties"]["uses"] = {
        "description": "Presets to start from, left to right; the file's own keys win.",
        "anyOf": [names, {"type": "array", "items": names}],
    }
    definition["required"] = required
    if not required:
        del definition["required"]


def _cluster_names() -> list[str]:
    return [name.partition("/")[2] for name in shipped_presets() if name.startswith("cluster/")]


def _add_plugin(
    definitions: dict[str, Any], owner: str, key: str, kind: str, mode: str | None
) -> None:
    """Names and settings of the shipped plug-ins; other names with any settings."""
    field = definitions[owner]["properties"][key]
    base = definitions[_REWARD_KEYS[owner, key] if kind == "reward" else "Plugin"]
    common = {k: v for k, v in base["properties"].items() if k != "settings"}
    names, branches = [], []
    for name in shipped(kind):
        module = importlib.import_module(f"{PACKAGES[kind]}.{name}")
        if kind == "algorithm" and algorithm_mode(module) != mode:
            continue
        names.append(name)
        settings = module.Config.model_json_schema(schema_generator=DocumentedSchema)
        for setting in settings.get("properties", {}).values():
            _one_line(setting)
        definitions |= settings.pop("$defs", {})
        allowed = common | settings.get("properties", {})
        branches.append(
            {
                "if": {"properties": {"name": {"const": name}}, "required": ["name"]},
                "then": {"properties": allowed, "additionalProperties": False},
            }
        )
    text = {"type": "string", "examples": names}
    block = {"type": "object", "properties": common | {"name": text}, "allOf": branches}
    description = field.get("description", "")
    definitions[owner]["properties"][key] = {
        "description": " ".join(description.split()),
        "anyOf": [text, block],
    }
