import pytest

from posttrain.averaging.layer_swapping import Config, merge, share_of_outer
from posttrain.errors import InputError

CONFIG = Config(bottom=2, top=1, transition=1)


def merged(versions, layer, num_layers=8):
    """With 0 as the inner expert and 1 as the outer one."""
    return merge(versions([0.0], [1.0], layer=layer, num_layers=num_layers), CONFIG).item()


def test_eight_layers(versions):
    # [L, L, avg, M, M, M, avg, L]
    shares = [merged(versions, layer) for layer in range(8)]
    assert shares == [1.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.5, 1.0]


def test_outside_the_layers_it_is_the_outer_expert(versions):
    assert merged(versions, None) == 1.0


def test_without_a_transition():
    config = Config(bottom=1, top=2, transition=0)
    assert [share_of_outer(layer, 5, config) for layer in range(5)] == [1, 0, 0, 1, 1]


def test_ends_that_meet(versions):
    with pytest.raises(InputError, match="bottom, top and transitions are 5 layers") as caught:
        merged(versions, 0, num_layers=5)
    assert caught.value.problems[0].code == "bad-value"
