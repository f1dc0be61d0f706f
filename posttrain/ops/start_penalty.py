"""What the distance to the weights that training started from costs: L1 and L2.

    Ω(θ) = l1 · Σ|θ - θ_0| + l2 / 2 · Σ(θ - θ_0)²

The L2 part is L2-SP (Li, Grandvalet and Davoine, arXiv 1802.01483), whose half makes the gradient
l2 · (θ - θ_0). The L1 part keeps most entries near where they were. Both are baselines of the
alignment tax (Lin et al., arXiv 2309.06256). At θ = θ_0 value and gradient are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gradient(difference: Tensor, l1: float, l2: float) -> Tensor:
    """∂Ω/∂θ where `difference` is θ - θ_0: l1 · sign + l2 · difference, of the same shape.

    At 0, where |·| has no gradient, it is 0.
    """
    return l1 * torch.sign(difference) + l2 * difference


def value(sum_absolute: float, sum_squares: float, l1: float, l2: float) -> float:
    """Ω from Σ|θ - θ_0| and Σ(θ - θ_0)², over all parameters."""
    return l1 * sum_absolute + 0.5 * l2 * sum_squares
