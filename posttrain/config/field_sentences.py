"""The sentence below each field of a configuration class, read from its source where it is wanted.

pydantic can read them itself (`use_attribute_docstrings`), but does so for every class when it is
made, which is a tenth of what `posttrain check` takes, and only schemas and messages need them.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema


@cache
def sentences(model: type[BaseModel]) -> dict[str, str]:
    """Each field's docstring, on one line, by its name; inherited ones included."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if issubclass(each, BaseModel) and each is not BaseModel:
            found |= _of_one(each)
    return {name: found[name] for name in model.model_fields if name in found}


def _of_one(model: type[BaseModel]) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(model))
    except (OSError, TypeError):  # made in a shell, or its file is gone
        return {}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


class DocumentedSchema(GenerateJsonSchema):
    """JSON schemas in which every property has its sentence."""

    def model_schema(self, schema: Any) -> dict[str, Any]:
        """As pydantic's, with descriptions where it has none."""
        found = super().model_schema(schema)
        for name, sentence in sentences(schema["cls"]).items():
            if name in found.get("properties", {}):
                found["properties"][name].setdefault("description", sentence)
        return found
