"""A model's weights spread over the ranks (torch FSDP2), and put together again."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from posttrain.train.ranks import Ranks


def shard(model: Any, ranks: Ranks) -> None:
    """Spread parameters, gradients and optimiser state over the ranks, layer by layer, in place.

    Collective; a group of one is left as it is. Gradients come out as the *sum* over the ranks, as
    losses that are divided by the whole batch's counts ask for.
    """
    if ranks.num == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (ranks.num,))
    # transformers' names for a model's repeated block; a bare layer has none
    layers = set(getattr(model, "_no_split_modules", None) or ())
    for module in [*(m for m in model.modules() if type(m).__name__ in layers), model]:
        sharded = fully_shard(module, mesh=mesh)
        sharded.set_gradient_divide_factor(1.0)
        # gloo has neither an average nor a scaled sum
        sharded.set_force_sum_reduction_for_comms(device == "cpu")


def whole(value: Tensor) -> Tensor:
    """A sharded tensor put together on every rank (collective); any other as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, any other as it is; in the same memory, no gradient."""
    return value.to_local().detach() if isinstance(value, DTensor) else value.detach()


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, known to every rank, sharded as `parameter` is. No communication."""
    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
