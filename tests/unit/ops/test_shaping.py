import pytest
import torch

from posttrain.ops import shaping


def test_overlong_punishment_of_the_worked_example():
    # limit 20480, the last 4096 are punished: (16384 - 18432)/4096 = -0.5
    lengths = torch.tensor([0, 16384, 18432, 20480, 20481])
    found = shaping.overlong_punishment(lengths, 20480, 4096)
    assert found.tolist() == [0.0, 0.0, -0.5, -1.0, -1.0]


@pytest.mark.parametrize("buffer", [0, 9])
def test_a_buffer_has_to_fit_the_limit(buffer):
    with pytest.raises(ValueError, match=f"a buffer of {buffer} tokens does not lie"):
        shaping.overlong_punishment(torch.tensor([3]), 8, buffer)


def test_unfinished_answers():
    scores, cut = torch.tensor([10.0, 10.0, 0.0]), torch.tensor([False, True, True])
    assert shaping.unfinished(scores, cut, penalty=1.0).tolist() == [10.0, 9.0, -1.0]
    assert shaping.unfinished(scores, cut, instead=-10.0).tolist() == [10.0, -10.0, -10.0]
    assert shaping.unfinished(scores, cut).tolist() == [10.0, 10.0, 0.0]
