import pytest
import torch

from posttrain.averaging.distances import agreement, distances


def test_distance_by_part(versions):
    tensors = [
        versions([3.0, 4.0], pre=[0.0, 4.0], layer=0, num_layers=2),  # moved 3, length 4
        versions([3.0], pre=[3.0], layer=None, num_layers=2),  # moved 0, length 3
    ]
    found = distances(tensors, lambda layer, count: f"{layer} of {count}")
    assert found == pytest.approx(
        {
            "average/distance": 3 / 5,  # sqrt(9 + 0) / sqrt(16 + 9)
            "average/distance/0 of 2": 3 / 4,
            "average/distance/None of 2": 0.0,
        }
    )


def test_distance_of_large_tensors(versions):
    pre = torch.ones(3, 1 << 20)
    found = distances([versions(pre * 1.5, pre=pre)])
    assert found == {"average/distance": pytest.approx(0.5, abs=1e-6)}


def test_agreement_of_changes(two_tasks):
    # τ1·τ2 = 0.08 - 0.12 - 0.0005 - 0.03; |τ1|² = 0.2925, |τ2|² = 0.4101
    found = agreement([two_tasks()])
    cosine = -0.0705 / (0.2925 * 0.4101) ** 0.5
    assert found["average/change_cosine"] == pytest.approx(cosine, abs=1e-5)
    assert found["average/sign_conflict_share"] == 0.75  # all but the first


def test_agreement_of_one_model_or_of_none_that_changed(versions):
    assert agreement([versions([2.0], pre=[1.0])]) == {}
    same = agreement([versions([1.0], [1.0], pre=[1.0])])
    assert same == {"average/change_cosine": 0.0, "average/sign_conflict_share": 0.0}
