"""What every gradient-trained algorithm lets its user set about AdamW and the learning rate."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from posttrain.config.strict import StrictModel


class OptimiserConfig(StrictModel):
    """AdamW with warm-up and a schedule. Algorithms inherit it and set their papers' values."""

    lr: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What becomes of the learning rate after the warm-up; linear and cosine end at 0."""
    warmup_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the steps over which the learning rate rises to its peak."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay; never applied to norms and biases."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """AdamW: how long the gradient's mean remembers."""
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """AdamW: how long its square remembers; 0.95 forgets a spike soon."""
    epsilon: float = Field(default=1e-8, gt=0)
    """AdamW: what is added to the denominator."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients longer than this are shortened to it."""

    def lr_at(self, step: int, num_steps: int) -> float:
        """Learning rate of a step, 0-based; at its peak after the warm-up, never 0 in the run."""
        warmup_steps = math.ceil(self.warmup_share * num_steps)
        if step < warmup_steps:
            return self.lr * (step + 1) / warmup_steps
        left = (num_steps - step) / max(num_steps - warmup_steps, 1)
        if self.schedule == "linear":
            return self.lr * left
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1.0 - math.cos(math.pi * left))
        return self.lr

    def training_arguments(self) -> dict[str, Any]:
        """The same under the names of transformers' TrainingArguments, for trainers of TRL."""
        schedules = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
        return {
            "learning_rate": self.lr,
            "lr_scheduler_type": schedules[self.schedule],
            "warmup_steps": self.warmup_share,  # below 1 it is a share of all steps
            "weight_decay": self.weight_decay,
            "adam_beta1": self.beta1,
            "adam_beta2": self.beta2,
            "adam_epsilon": self.epsilon,
            "max_grad_norm": self.max_grad_norm,
        }


class OfflineConfig(OptimiserConfig):
    """What algorithms that train on rows start from: a rate that falls to 0 after a warm-up."""

    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """What becomes of the learning rate after the warm-up; linear and cosine end at 0."""
    warmup_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the steps over which the learning rate rises to its peak."""
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    """AdamW: how long the squared gradient's mean remembers."""
