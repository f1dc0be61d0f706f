"""Small batches for the tests of online algorithms. Values not given are plain: nothing is masked,
the policy is where it was.
"""

from __future__ import annotations

from typing import Any

import torch

from posttrain.ports import AdvantageInputs, LossInputs

# The worked example: three tokens, d = [0.2, -0.1, 0.2].
LOGPROBS = [-0.5, -1.0, -0.2]
REFERENCE = [-0.7, -0.9, -0.4]


def batch_inputs(rewards: list[list[float]], lengths: list[int], **others: Any) -> AdvantageInputs:
    """What `advantages` sees; lists become tensors."""
    total = sum(lengths)
    given = {
        "rewards_GK": rewards,
        "lengths_B": lengths,
        "mask_T": [1.0] * total,
        "behaviour_logprobs_T": [0.0] * total,
    } | others
    return AdvantageInputs(**{name: _tensor(value) for name, value in given.items()})


def micro_inputs(logprobs: list[float], advantages: list[float], **others: Any) -> LossInputs:
    """What `loss` sees: one sequence unless `sequence_T` says otherwise; totals are its own."""
    mask = others.get("mask_T", [1.0] * len(logprobs))
    sequence = others.get("sequence_T", [0] * len(logprobs))
    chosen = {s for s, m in zip(sequence, mask, strict=True) if m}
    given = {
        "old_logprobs_T": logprobs,
        "advantages_T": advantages,
        "mask_T": mask,
        "sequence_T": torch.tensor(sequence, dtype=torch.long),
        "num_sequences": max(sequence, default=-1) + 1,
        "total_tokens": float(sum(mask)),
        "total_sequences": float(len(chosen)),
        "max_new_tokens": 8,
    } | {name: value for name, value in others.items() if name != "sequence_T"}
    leaf = torch.tensor(logprobs, requires_grad=True)
    return LossInputs(logprobs_T=leaf, **{name: _tensor(value) for name, value in given.items()})


def _tensor(value: Any) -> Any:
    return torch.tensor(value) if isinstance(value, list) else value


def padded(values_T: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """[B, L] the layout of other libraries: a row per answer, zeros behind its end."""
    rows = torch.split(values_T, lengths)
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def packed(values_BL: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """[T] back again."""
    return torch.cat([row[:length] for row, length in zip(values_BL, lengths, strict=True)])
