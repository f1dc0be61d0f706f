"""Linear averaging: one weight for the whole model.

    θ = w_pre · θ_pre + (1 - w_pre) · θ_post

Lin et al., *Mitigating the Alignment Tax of RLHF*, arXiv 2309.06256. `w_pre` is always the share of
the model *before* training: 0 is the trained model, 1 the one it started from. Assumes that both
lie in one basin of the loss, as fine-tuning leaves them. The paper sweeps 0, 0.1, ... 1 and finds
0.2 a good value. Degenerate case: at 0 and 1 the result equals `post` and `pre` bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain.averaging._vectors import base, mixed
from posttrain.config.strict import StrictModel
from posttrain.ports import AveragingNeeds, TensorVersions

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = AveragingNeeds(pair=True)


class Config(StrictModel):
    """Linear averaging has no settings beside the stage's `weight_pre`."""


def merge(versions: TensorVersions, config: Config) -> Tensor:
    """Raises ValueError for a weight outside 0..1."""
    return mixed(base(versions), versions.models[0], versions.weight_pre)
