import pytest
import torch

from posttrain.ops.over_optimisation import Law, fit

DISTANCES = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
QUALITIES = [0.703972, 1.2, 1.984112, 3.136447, 4.60934]


def test_worked_numbers():
    law = Law(1.2, 0.3)
    assert law.quality(DISTANCES).tolist() == pytest.approx(QUALITIES, abs=1e-6)
    assert law.peak == pytest.approx((20.085537, 6.025661), abs=1e-6)
    assert law.quality(torch.zeros(1)).tolist() == [0.0]


def test_the_peak_is_the_highest_point():
    law = Law(1.2, 0.3)
    around = torch.linspace(15.0, 25.0, 10_001, dtype=torch.float64)
    assert around[law.quality(around).argmax()].item() == pytest.approx(law.peak[0], abs=2e-3)


def test_a_fit_finds_what_made_the_points():
    law = fit(DISTANCES[1:], torch.tensor(QUALITIES[1:], dtype=torch.float64))
    assert law == pytest.approx((1.2, 0.3), abs=1e-5)


def test_the_start_takes_no_part_in_a_fit():
    law = fit(
        torch.cat([torch.tensor([0.0, 1e-5]), DISTANCES]),
        torch.cat([torch.tensor([9.0, 9.0]), Law(1.2, 0.3).quality(DISTANCES)]),
    )
    assert law == pytest.approx((1.2, 0.3))


def test_quality_that_never_falls_has_no_peak():
    assert Law(1.0, 0.0).peak is None
    assert Law(1.0, -0.1).peak is None


def test_one_distance_is_too_little():
    with pytest.raises(ValueError, match="two different distances"):
        fit(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 2.0]))
