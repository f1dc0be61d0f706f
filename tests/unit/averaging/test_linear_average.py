import pytest
import torch

from posttrain.averaging import linear
from posttrain.errors import InputError

PRE = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[4.0]])}
POST = {"a": torch.tensor([3.0, 6.0]), "b": torch.tensor([[8.0]])}


def test_a_quarter_of_pre():
    mixed = linear.average(PRE, POST, 0.25, linear.Config())
    assert mixed["a"].tolist() == [2.5, 5.0]  # 0.25·1 + 0.75·3, 0.25·2 + 0.75·6
    assert mixed["b"].tolist() == [[7.0]]


@pytest.mark.parametrize(("weight", "source"), [(0.0, POST), (1.0, PRE)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_ends_are_exact(weight, source, dtype):
    torch.manual_seed(0)
    pre = {"w": torch.randn(50).to(dtype)}
    post = {"w": torch.randn(50).to(dtype)}
    mixed = linear.average(pre, post, weight, linear.Config())["w"]
    assert torch.equal(mixed, (post if source is POST else pre)["w"]) and mixed.dtype == dtype


def test_sums_are_made_in_fp32():
    # bf16 holds 8 bits: 257 is not among them, but 0.5·256 + 0.5·260 = 258 is
    pre, post = torch.tensor([256.0]).bfloat16(), torch.tensor([260.0]).bfloat16()
    assert linear.average({"w": pre}, {"w": post}, 0.5, linear.Config())["w"].item() == 258.0


def test_inputs_are_left_alone():
    linear.average(PRE, POST, 0.0, linear.Config())["a"].zero_()
    assert POST["a"].tolist() == [3.0, 6.0]


def test_whole_numbers_are_taken_from_post():
    mixed = linear.average({"n": torch.tensor(1)}, {"n": torch.tensor(4)}, 0.5, linear.Config())
    assert mixed["n"].item() == 4


def test_the_first_tensor_that_differs_is_named():
    other = {"a": torch.zeros(3), "b": torch.zeros(2, 1)}
    with pytest.raises(InputError, match=r"tensor `a` is \(2,\) in `pre`, \(3,\) in `post`") as got:
        linear.average(PRE, other, 0.5, linear.Config())
    assert got.value.problems[0].code == "shapes-differ"
    with pytest.raises(InputError, match="tensor `b` is only in `pre`"):
        linear.average(PRE, {"a": PRE["a"]}, 0.5, linear.Config())


def test_a_weight_is_a_share():
    with pytest.raises(ValueError, match=r"weight_pre is 1\.5"):
        linear.average(PRE, POST, 1.5, linear.Config())
