"""SFT: supervised fine-tuning, next-token cross-entropy on what the model should say.

    L = Σ over completion tokens of -log π(y_t | x, y_<t), over their number in the whole batch

The end-of-turn token is one of them; prompt tokens are not. The division is by the optimiser
batch's token count, over micro-batches and ranks: a mean of micro-batch means would let a token of
a short micro-batch weigh more (two 1s and eight 2s: 1.5 instead of 1.8). Degenerate case: a row
without a completion contributes nothing.

The defaults suit pretrained models of some billions of parameters (Tülu 3: lr 5e-6, linear, warm-up
3 %, no weight decay; arXiv 2411.15124).
"""

from __future__ import annotations

from pydantic import Field

from posttrain.config.optimiser import OfflineConfig
from posttrain.ports import Needs, Objective

NEEDS = Needs()


class Config(OfflineConfig):
    """Settings of SFT."""

    lr: float = Field(default=5e-6, gt=0)
    """Peak learning rate; about 3e-3 for a micro model from scratch."""
    warmup_share: float = Field(default=0.03, ge=0.0, lt=1.0)
    """Share of the steps over which the learning rate rises to its peak."""


def objective(config: Config) -> Objective:
    """Settings under transformers' TrainingArguments names; TRL's own loss is the right one."""
    return Objective(config.training_arguments())
