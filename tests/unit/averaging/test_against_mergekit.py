"""Our merges beside those of mergekit (0.1.5 or newer) on random tensors, where it has the method.

It is no dependency of ours; without it these tests are skipped, and say so. To run them: `pip
install --no-deps mergekit immutables` beside what is installed here, then pytest this file.
"""

import pytest
import torch

from posttrain.averaging import dare, linear, slerp, soup, task_arithmetic, ties
from posttrain.ports import TensorVersions

methods = pytest.importorskip("mergekit.merge_methods", reason="mergekit is not installed")
SHAPES = [(64,), (48, 32), (7, 1)]
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


def models_of(shape, count=3, seed=0):
    """A base, and models a little way off it."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return base, [base + 0.1 * torch.randn(shape, generator=generator) for _ in range(count)]


def versions(models, base=None, **more):
    return TensorVersions("w", 0, 1, tuple(models), base, **more)


def theirs(name, models, base=None, **parameters):
    """The base stands first, as a model without parameters of its own."""
    tensors = [*models] if base is None else [base, *models]
    base_index = None if base is None else 0
    return methods.merge_tensors(tensors, name, parameters=parameters, base_index=base_index)


def by_model(values):
    """Parameters of all models but the base, which is number 0."""
    return dict(enumerate(values, start=1))


@pytest.mark.parametrize("shape", SHAPES)
def test_soup_is_their_linear(shape):
    _, models = models_of(shape)
    ours = soup.merge(versions(models, weights=(0.5, 0.3, 0.2)), soup.Config())
    torch.testing.assert_close(ours, theirs("linear", models, weight=[0.5, 0.3, 0.2]), **ROUNDING)
    uniform = soup.merge(versions(models), soup.Config())
    torch.testing.assert_close(uniform, theirs("linear", models, weight=1.0), **ROUNDING)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight_pre", [0.0, 0.2, 1.0])
def test_linear_is_their_linear_of_two(shape, weight_pre):
    base, [post] = models_of(shape, 1)
    ours = linear.merge(versions([post], base, weight_pre=weight_pre), linear.Config())
    expected = theirs("linear", [base, post], weight=[weight_pre, 1 - weight_pre])
    torch.testing.assert_close(ours, expected, **ROUNDING)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight_pre", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("far", [True, False])
def test_slerp(shape, weight_pre, far):
    """Their t goes from the base: 1 - weight_pre. Far apart on the arc, near one another a line."""
    base, [near] = models_of(shape, 1)
    post = torch.randn(shape, generator=torch.Generator().manual_seed(1)) if far else near
    ours = slerp.merge(versions([post], base, weight_pre=weight_pre), slerp.Config())
    torch.testing.assert_close(
        ours, theirs("slerp", [post], base, t=1 - weight_pre), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, -0.3, 2.0)])
def test_task_arithmetic(shape, weights):
    base, models = models_of(shape)
    config = task_arithmetic.Config(scale=0.4)
    ours = task_arithmetic.merge(versions(models, base, weights=weights), config)
    expected = theirs("task_arithmetic", models, base, weight=by_model(weights), **{"lambda": 0.4})
    torch.testing.assert_close(ours, expected, **ROUNDING)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 0.3, 2.0)])
def test_ties(shape, density, weights):
    base, models = models_of(shape)
    config = ties.Config(density=density, scale=0.7)
    ours = ties.merge(versions(models, base, weights=weights), config)
    expected = theirs(
        "ties",
        models,
        base,
        weight=by_model(weights),
        density=by_model([density] * 3),
        **{"lambda": 0.7},
    )
    torch.testing.assert_close(ours, expected, **ROUNDING)


def test_ties_differs_where_entries_are_as_large_as_the_smallest_kept():
    """Of equal entries they keep as many as fit, by the order of a sort; we keep all of them."""
    base, model = torch.zeros(4), torch.tensor([1.0, 1.0, 1.0, 0.5])
    ours = ties.merge(versions([model], base), ties.Config(density=0.5))
    other = theirs("ties", [model], base, weight=by_model([1.0]), density=by_model([0.5]))
    assert ours.count_nonzero() == 3 and other.count_nonzero() == 2


@pytest.mark.parametrize("combine", ["linear", "ties"])
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_dare_with_the_same_masks(monkeypatch, combine, density):
    """With our masks in place of their draws, and without their rescaling: ours is 1 / density."""
    base, models = models_of((48, 32))
    masks = [dare.kept(each, density, 5, "w", place) for place, each in enumerate(models)]
    draws = iter(mask.float() for mask in masks)
    monkeypatch.setattr(torch, "bernoulli", lambda shares: next(draws))
    config = dare.Config(density=density, combine=combine, scale=density)
    ours = dare.merge(versions(models, base, weights=(0.5, 0.3, 0.2), seed=5), config)
    expected = theirs(
        f"dare_{combine}",
        models,
        base,
        weight=by_model([0.5, 0.3, 0.2]),
        density=by_model([density] * 3),
        rescale=False,
        normalize=combine == "ties",
    )
    torch.testing.assert_close(ours, expected, **ROUNDING)


def test_dare_differs_in_what_the_kept_changes_are_multiplied_with(monkeypatch):
    """Theirs keeps the sum of sizes of the very tensor, ours its expectation (the paper's form)."""
    base, model = torch.zeros(4), torch.tensor([4.0, 1.0, 1.0, 2.0])
    mask = torch.tensor([1.0, 0.0, 0.0, 1.0])
    monkeypatch.setattr(torch, "bernoulli", lambda shares: mask)
    monkeypatch.setattr(dare, "kept", lambda *_: mask.bool())
    other = theirs("dare_linear", [model], base, weight=by_model([1.0]), density=by_model([0.5]))
    ours = dare.merge(versions([model], base), dare.Config(density=0.5))
    # |4|+|1|+|1|+|2| = 8 over the kept 6: times 4/3; ours: times 2
    assert other.tolist() == pytest.approx([16 / 3, 0, 0, 8 / 3])
    assert ours.tolist() == [8.0, 0.0, 0.0, 4.0]
