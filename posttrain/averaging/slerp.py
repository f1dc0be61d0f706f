"""SLERP: along the arc between two models instead of along the chord, tensor by tensor.

    cos ω = <θ_pre, θ_post> / (|θ_pre| |θ_post|)
    θ = sin(w_pre·ω)/sin ω · θ_pre + sin((1 - w_pre)·ω)/sin ω · θ_post

Shoemake 1985 (quaternions); for language models as mergekit does it (Goddard et al., arXiv
2403.13257): the angle comes from normalised tensors, the weights apply to the tensors as they are.
Where the mean of two directions is shorter than either, the arc keeps the length; so it matters for
models that lie far apart. Fine-tuned models are nearly parallel: above |cos ω| = 0.9995, and for a
tensor of zeros, which has no direction, this is linear averaging.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from posttrain.averaging._vectors import base, inner_product, mixed
from posttrain.config.strict import StrictModel
from posttrain.ports import AveragingNeeds, TensorVersions

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = AveragingNeeds(pair=True)


class Config(StrictModel):
    """Settings of SLERP, beside the stage's `weight_pre`."""

    linear_above: float = Field(default=0.9995, gt=0, lt=1)
    """Tensors whose cosine is beyond this, either way, are averaged linearly."""


def merge(versions: TensorVersions, config: Config) -> Tensor:
    """Raises ValueError for a weight outside 0..1."""
    pre, post, weight_pre = base(versions), versions.models[0], versions.weight_pre
    if not 0.0 < weight_pre < 1.0:  # the ends are exact
        return mixed(pre, post, weight_pre)
    return on_the_arc(pre, post, weight_pre, config.linear_above)


def on_the_arc(pre: Tensor, post: Tensor, weight_pre: float, linear_above: float) -> Tensor:
    """The point that leaves the share `weight_pre` of the angle on the side of `post`."""
    lengths = math.sqrt(inner_product(pre, pre) * inner_product(post, post))
    cosine = inner_product(pre, post) / lengths if lengths > 0 else 1.0
    if abs(cosine) > linear_above:
        return mixed(pre, post, weight_pre)
    angle = math.acos(cosine)
    of_pre = math.sin(weight_pre * angle) / math.sin(angle)
    of_post = math.sin((1.0 - weight_pre) * angle) / math.sin(angle)
    return (post * of_post).add_(pre, alpha=of_pre)
