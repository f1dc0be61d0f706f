"""Tensors as methods see them, from plain lists."""

import pytest
import torch

from posttrain.ports import TensorVersions


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


def as_tensor(values):
    return values if isinstance(values, torch.Tensor) else torch.tensor(values)


@pytest.fixture(scope="session")
def versions():
    """`versions([3.0], pre=[1.0], weight_pre=0.2)`: a tensor of one model, and of `pre`."""

    def build(*models, pre=None, name="model.layers.0.mlp.up_proj.weight", layer=0, **more):
        return TensorVersions(
            name,
            layer,
            more.pop("num_layers", 1),
            tuple(as_tensor(model) for model in models),
            as_tensor(pre) if pre is not None else None,
            **more,
        )

    return build


@pytest.fixture
def two_tasks(versions):
    """The worked example: a base of ones, and two changes of it."""

    def build(**more):
        base = torch.ones(4)
        changes = torch.tensor([0.4, -0.2, 0.05, 0.3]), torch.tensor([0.2, 0.6, -0.01, -0.1])
        return versions(*(base + change for change in changes), pre=base, **more)

    return build
