import pytest
import torch

from posttrain.ops import convex


@pytest.mark.parametrize(
    ("points", "corners"),
    [
        # a square with its middle and the middle of an edge
        ([(0, 0), (2, 0), (1, 1), (2, 2), (0, 2), (1, 0)], [0, 1, 3, 4]),
        ([(0, 0), (4, 0), (2, 3), (2, 1)], [0, 1, 2]),  # a triangle and what is inside it
        ([(3, 3), (1, 1), (2, 2), (0, 0)], [3, 0]),  # on a line: both ends
        ([(1, 5), (1, 2), (1, 9)], [1, 2]),
        ([(1, 1), (1, 1), (0, 0), (1, 1)], [2, 0]),  # of equal ones the first
        ([(7, 7), (7, 7)], [0]),
        ([(7, 7)], [0]),
        ([], []),
    ],
)
def test_corners_by_hand(points, corners):
    assert convex.convex_hull(points) == corners


def test_no_point_is_outside_the_hull():
    generator = torch.Generator().manual_seed(0)
    points = [(x, y) for x, y in torch.randn(60, 2, generator=generator).tolist()]
    hull = convex.convex_hull(points)
    for a, b in zip(hull, [*hull[1:], hull[0]], strict=True):
        turns = [convex._turn(points[a], points[b], c) for c in points]
        assert min(turns) >= 0 and turns.count(0) == 2  # all to the left, but the edge's own ends


def test_principal_components_of_points_on_a_plane():
    # 3 along (1, 1, 0)/√2 and 1 along (0, 0, 1), from the middle (5, 5, 5)
    along = torch.tensor([[3.0, 1.0], [3.0, -1.0], [-3.0, 1.0], [-3.0, -1.0]])
    axes = torch.tensor([[0.5**0.5, 0.5**0.5, 0.0], [0.0, 0.0, 1.0]])
    found = convex.principal_components(along @ axes + 5.0)
    torch.testing.assert_close(found.abs(), along.abs().double(), atol=1e-5, rtol=0)
    assert convex.principal_components(torch.randn(1, 8)).tolist() == [[0.0, 0.0]]
    assert convex.principal_components(torch.randn(4, 1)).shape == (4, 2)


def test_states_inside_are_left_out():
    corners = torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 1.0], [4.0, 3.0], [0.0, 3.0]])
    turned = corners @ torch.linalg.qr(torch.randn(6, 2))[0].T + torch.randn(6)
    assert convex.hull_of_states(turned) == [0, 1, 3, 4]
