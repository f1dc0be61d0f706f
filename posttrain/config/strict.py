"""The base of every configuration class: unknown keys are mistakes, values are not coerced."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Frozen, refuses unknown keys; each field's docstring is its sentence in the JSON schema."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )


class Contradiction(ValueError):
    """Two keys that cannot both be meant, raised by a validator; `help` says what to write."""

    def __init__(self, message: str, help: str) -> None:
        super().__init__(message)
        self.help = help
