"""What algorithms with a critic let their user set about it."""

from __future__ import annotations

from pydantic import Field

from posttrain.config.strict import StrictModel

POLICY, HEAD = "policy", "head"


def is_folder(critic: str) -> bool:
    """Whether `critic:` is a folder: it is written as a path."""
    return any(mark in critic for mark in "/.~")


def names_a_stage(critic: str) -> bool:
    """Whether `critic:` is the name of a stage: neither a keyword nor a folder."""
    return critic not in (POLICY, HEAD) and not is_folder(critic)


class CriticConfig(StrictModel):
    """The model that predicts what is still to be earned, and how it learns."""

    critic: str = Field(default=POLICY, min_length=1)
    """`policy`: a model of its own that starts as the policy, with a new head of zeros. `head`: a
    value head on the policy's own layers. Otherwise a folder or a stage with a
    sequence-classification model, such as a reward model."""
    critic_lr: float | None = Field(default=None, gt=0)
    """Peak learning rate of the critic; empty takes `lr`."""
    critic_warmup_steps: int = Field(default=0, ge=0)
    """First steps in which only the critic learns, so that the policy never follows an untrained
    one."""
    value_clip: float | None = Field(default=0.2, gt=0)
    """A value's gradient stops once it is so far from what it was when the batch came; empty: it
    never does."""
    value_weight: float = Field(default=0.1, gt=0)
    """Weight of the critic's loss beside the policy's."""
