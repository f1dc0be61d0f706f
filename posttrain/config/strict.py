"""The base of every configuration class: unknown keys are mistakes, values are not coerced."""

from __future__ import annotations

from pydantic import BaseModel, BeforeValidator, ConfigDict


class StrictModel(BaseModel):
    """Frozen, refuses unknown keys; the docstring below a field is its sentence in schemas."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
        defer_build=True,  # most kinds of a file that is checked do not occur in it
    )


def short_form(key: str) -> BeforeValidator:
    """`data: x` is short for `data: {path: x}`; `key` says which field the bare value fills."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


class Contradiction(ValueError):
    """Keys that cannot be meant together, raised by a validator; `help` says what to write.

    `code` is the problem's, where `posttrain explain` has more to say than of any bad value.
    """

    def __init__(self, message: str, help: str, code: str = "bad-value") -> None:
        super().__init__(message)
        self.help = help
        self.code = code
