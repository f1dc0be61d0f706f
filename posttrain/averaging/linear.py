"""Linear averaging: one weight for the whole model (Lin et al., *Mitigating the Alignment Tax*).

    θ = w_pre · θ_pre + (1 - w_pre) · θ_post

`w_pre` is always the share of the model *before* training: 0 is the trained model, 1 the one it
started from. Assumes that both lie in one basin of the loss, as fine-tuning leaves them. The paper
sweeps 0, 0.1, ... 1 and finds 0.2 a good value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from posttrain.config.strict import StrictModel
from posttrain.errors import InputError, Problem

if TYPE_CHECKING:
    from torch import Tensor


class Config(StrictModel):
    """Linear averaging has no settings beside `weight_pre`, which every method has."""


def average(
    pre: Mapping[str, Tensor], post: Mapping[str, Tensor], weight_pre: float, config: Config
) -> dict[str, Tensor]:
    """New tensors, named and typed as in `post`; sums are made in fp32 (fp64 stays fp64).

    At 0 and 1 the result equals `post` and `pre` exactly. Raises InputError (`shapes-differ`)
    naming the first tensor that only one model has, or that has two shapes, and ValueError for a
    weight outside 0..1.
    """
    if not 0.0 <= weight_pre <= 1.0:
        raise ValueError(f"weight_pre is {weight_pre}; it is a share, 0 to 1")
    _check_same_tensors(pre, post)
    return {name: _mix(pre[name], post[name], weight_pre) for name in post}


def _mix(pre: Tensor, post: Tensor, weight_pre: float) -> Tensor:
    if not post.is_floating_point() or weight_pre == 0.0:
        return post.clone()
    if weight_pre == 1.0:
        return pre.to(post.dtype, copy=True)
    wide = post.double() if post.itemsize > 4 else post.float()
    return (weight_pre * pre.to(wide.dtype) + (1.0 - weight_pre) * wide).to(post.dtype)


def _check_same_tensors(pre: Mapping[str, Tensor], post: Mapping[str, Tensor]) -> None:
    for name in sorted(set(pre) | set(post)):
        if name not in pre or name not in post:
            which = "pre" if name in pre else "post"
            raise _differ(f"tensor `{name}` is only in `{which}`")
        if pre[name].shape != post[name].shape:
            shapes = f"{tuple(pre[name].shape)} in `pre`, {tuple(post[name].shape)} in `post`"
            raise _differ(f"tensor `{name}` is {shapes}")


def _differ(message: str) -> InputError:
    help = "average two models of one architecture, such as a stage and the one it started from"
    return InputError(Problem("shapes-differ", message, help=help))
