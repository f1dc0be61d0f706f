"""What a model makes of a whole sequence: the mean of its last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from posttrain.model.packed import packed_inputs
from posttrain.model.reward import passes


def mean_states(
    model: Any,
    sequences: Sequence[Sequence[int]],
    budget_tokens: int,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """[B, D] fp32 on the CPU: of each sequence the mean over its tokens, each of which has seen
    those before it. In passes of at most `budget_tokens`, packed; a head is not used.
    """
    backbone = getattr(model, model.base_model_prefix)
    device = next(model.parameters()).device
    size = model.config.get_text_config().hidden_size
    states_BD = torch.zeros(len(sequences), size)
    was_training, _ = model.training, model.eval()
    with torch.no_grad():
        for members in passes([len(each) for each in sequences], budget_tokens):
            lengths = [len(sequences[i]) for i in members]
            tokens_T = torch.tensor([t for i in members for t in sequences[i]], device=device)
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                hidden_TD = backbone(**packed_inputs(tokens_T, lengths)).last_hidden_state[0]
            owner_T = torch.arange(len(members)).repeat_interleave(torch.tensor(lengths))
            sums_BD = torch.zeros(len(members), size, device=device)
            sums_BD.index_add_(0, owner_T.to(device), hidden_TD.float())
            counts_B = torch.tensor(lengths, device=device).clamp(min=1)
            states_BD[members] = (sums_BD / counts_B[:, None]).cpu()
    model.train(was_training)
    return states_BD
