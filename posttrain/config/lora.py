"""What a stage lets its user set about LoRA adapters."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from posttrain.config.strict import Contradiction, StrictModel

ALL_LINEAR = "all-linear"


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Lora(StrictModel):
    """Train small matrices beside the model's own, which stay as they are. `{}` takes the defaults.

    There is no dropout: log-probs that are trained on must be those that the engine sampled with.
    """

    rank: int = Field(default=16, gt=0)
    """Columns of each pair of small matrices: what the adapter can learn, and what it costs."""
    alpha: float = Field(default=32.0, gt=0)
    """The pair's product counts alpha / rank times."""
    targets: Annotated[
        list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])
    ] = Field(default=[ALL_LINEAR], min_length=1)
    """Layers that get adapters, by their last name ([q_proj, v_proj]); all-linear takes every
    linear layer but the output head."""

    @model_validator(mode="after")
    def _all_or_some(self) -> Lora:
        if ALL_LINEAR in self.targets and len(self.targets) > 1:
            raise Contradiction(
                f"`targets` has {ALL_LINEAR} beside other names",
                f"targets: {ALL_LINEAR}, or the names alone",
            )
        return self

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank
