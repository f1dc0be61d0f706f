"""The JSON schema of pipeline files: up to date, and it accepts what loading accepts."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from posttrain.config.document import read_document
from posttrain.config.schema import pipeline_schema

ROOT = Path(__file__).parents[3]


def test_the_schema_in_docs_is_up_to_date() -> None:
    stored = json.loads((ROOT / "docs/pipeline.schema.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(pipeline_schema())), (
        "run: posttrain schema docs/pipeline.schema.json"
    )


@pytest.mark.parametrize("file", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_schema_accepts_every_shipped_pipeline(file: Path) -> None:
    jsonschema.Draft202012Validator(pipeline_schema()).validate(read_document(file).data)


def test_the_schema_refuses_unknown_keys() -> None:
    validator = jsonschema.Draft202012Validator(pipeline_schema())
    stage = {"kind": "sft", "model": "a", "data": "x.jsonl", "algorithm": {"name": "sft", "lrr": 1}}
    assert not validator.is_valid({"name": "x", "stages": {"a": stage}})
    stage["algorithm"] = {"name": "./mine.py", "anything": 1}
    assert validator.is_valid({"name": "x", "stages": {"a": stage}})


def test_every_key_has_a_sentence() -> None:
    schema = pipeline_schema()
    for name, definition in {"Pipeline": schema, **schema["$defs"]}.items():
        for branch in (definition, *definition.get("anyOf", ())):
            for key, field in branch.get("properties", {}).items():
                assert field.get("description"), f"{name}.{key} has no sentence"
