"""What every stage of a pipeline file has."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from posttrain.config.strict import StrictModel


class Resources(StrictModel):
    """How many processes of each sort a stage may use, in place of the cluster preset's numbers."""

    engines: int | None = Field(default=None, gt=0)
    """Rollout engines (vLLM)."""
    trainers: int | None = Field(default=None, gt=0)
    """Trainer processes (Ray Train ranks)."""


class StageBase(StrictModel):
    """Keys that every stage has."""

    produces: ClassVar[str] = "model"
    """Type of artifact."""
    description: str = ""
    """A sentence for the report."""
    gates: list[str] = Field(default_factory=list)
    """Conditions that stop the run where they fail: `arithmetic > sft.arithmetic`."""
    resources: Resources = Resources()
    """Process counts that differ from the cluster preset's."""
    seed: int | None = None
    """This stage's seed; the pipeline's seed and the stage's name give one otherwise."""
