"""The critic's loss, and how much of the returns it explains."""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.ops.checks import check_floating, check_same_shape
from posttrain.ops.masked import masked_variance


def squared_error(
    values_T: Tensor, old_values_T: Tensor, returns_T: Tensor, clip: float | None
) -> Tensor:
    """[T] ½·max((V - R)², (V' - R)²), V' being V held to within `clip` of the old value.

    The larger of the two: where V has already moved by more than `clip` towards R, the gradient
    stops. `clip` None leaves ½·(V - R)².
    """
    check_same_shape(values_T=values_T, old_values_T=old_values_T, returns_T=returns_T)
    check_floating(values_T=values_T, old_values_T=old_values_T, returns_T=returns_T)
    values_T, returns_T = values_T.float(), returns_T.detach().float()
    errors_T = (values_T - returns_T).square()
    if clip is None:
        return 0.5 * errors_T
    old_values_T = old_values_T.detach().float()
    held_T = torch.clamp(values_T, old_values_T - clip, old_values_T + clip)
    return 0.5 * torch.maximum(errors_T, (held_T - returns_T).square())


def explained_share(values_T: Tensor, returns_T: Tensor, mask_T: Tensor) -> float:
    """1 - Var(R - V) / Var(R): 1 for a perfect critic, 0 for a constant, negative for a worse one.

    0 where the returns do not differ: there is nothing to explain.
    """
    check_same_shape(values_T=values_T, returns_T=returns_T, mask_T=mask_T)
    total = float(masked_variance(returns_T.float(), mask_T))
    if total <= 0.0:
        return 0.0
    return 1.0 - float(masked_variance((returns_T - values_T).float(), mask_T)) / total
