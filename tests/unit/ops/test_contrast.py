import pytest
import torch

from posttrain.ops import contrast

SCORES = torch.tensor(
    [
        # R(I1, r1), R(I1, r2)    R(I2, r1), R(I2, r2)
        [[0.9, 0.1], [0.5, 0.7]],  # each prompt prefers its answer; each answer prefers its prompt
        [[0.2, 0.4], [0.1, 0.6]],  # I1 prefers r2, I2 prefers r2; r1 and r2 prefer their prompts
        [[0.3, 0.5], [0.3, 0.2]],  # I1 prefers r2, I2 prefers r1; r1 a tie, r2 prefers I1
    ]
)


def test_worked_numbers():
    # (1 + 1)/2, (0 + 1)/2, (0 + 0)/2
    assert contrast.response_consistency(SCORES) == pytest.approx((1 + 0.5 + 0) / 3)
    # (1 + 1)/2, (1 + 1)/2, (1/2 + 0)/2
    assert contrast.instruction_consistency(SCORES) == pytest.approx((1 + 1 + 0.25) / 3)


def test_a_model_that_reads_answers_only_is_at_chance_in_what_was_asked():
    of_answers = torch.tensor([[[0.9, 0.1], [0.9, 0.1]], [[0.2, 0.3], [0.2, 0.3]]])
    assert contrast.response_consistency(of_answers) == 0.5  # right for one prompt of each pair
    assert contrast.instruction_consistency(of_answers) == 0.5  # ties all of them


def test_each_row_is_paired_with_the_nearest_within_the_bounds():
    cosine = torch.tensor(
        [
            [1.00, 0.95, 0.80, 0.85, 0.10],
            [0.95, 1.00, 0.20, 0.76, 0.30],
            [0.80, 0.20, 1.00, 0.10, 0.74],
            [0.85, 0.76, 0.10, 1.00, 0.91],
            [0.10, 0.30, 0.74, 0.91, 1.00],
        ]
    )
    may = torch.ones(5, 5, dtype=torch.bool)
    # 0 with 3 (.85), 1 with 3 (.76; .95 is too near), 2 with 0 (.80), 3 with 0; 4 with none
    assert contrast.contrast_pairs(cosine, may) == [(0, 2), (0, 3), (1, 3)]
    may[0, 3] = may[3, 0] = False  # their answers are the same
    assert contrast.contrast_pairs(cosine, may) == [(0, 2), (1, 3)]
    assert contrast.contrast_pairs(cosine, may, 0.9, 1.0) == [(0, 1), (3, 4)]


def test_no_rows_make_no_pairs():
    assert contrast.contrast_pairs(torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.bool)) == []
    assert contrast.contrast_pairs(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool)) == []
    with pytest.raises(ValueError, match="one pair or more"):
        contrast.response_consistency(torch.zeros(0, 2, 2))
