import pytest
import torch

from posttrain.ops import neighbours


def test_directions_are_seen_from_the_centre():
    states = torch.tensor([[11.0, 10.0], [10.0, 13.0], [7.0, 6.0], [10.0, 10.0]])
    found = neighbours.directions(states, torch.tensor([10.0, 10.0]))
    wanted = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, -0.8], [0.0, 0.0]])
    torch.testing.assert_close(found, wanted)


def test_states_that_differ_by_rounding_have_no_direction():
    states = torch.tensor([[100.0, 1.0], [100.0, 1.0 + 1e-6]])
    assert neighbours.directions(states, states.mean(dim=0)).tolist() == [[0.0, 0.0]] * 2


def test_the_nearest_come_first_and_none_is_too_far():
    known = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    asked = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = neighbours.nearest(asked, known, 2, 0.5)
    assert [[place for place, _ in each] for each in found] == [[0, 1], [3, 2], []]
    assert [cosine for _, cosine in found[0]] == pytest.approx([1.0, 0.8])
    assert len(neighbours.nearest(asked, known, 9, -1.0)[0]) == 4
