"""Reward models: a transformer with one number for a whole answer, at its last token.

Ordinary sequence-classification folders of one label: anything that reads those scores the same.
Sequences are scored packed, each attending to itself alone, so a score depends neither on padding
nor on what shares the pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.errors import InputError, Problem
from posttrain.model.folders import num_labels, require_model_folder
from posttrain.model.load import from_folder
from posttrain.model.packed import packed_inputs


def new_reward_model(path: str | Path, seed: int, pad_id: int) -> Any:
    """A reward model that starts as the causal language model in a folder, on the CPU, in fp32.

    Its head is drawn from N(0, 1/(hidden size + 1)) by the seed (Stiennon et al. 2020, arXiv
    2009.01325, appendix B). A folder of a reward model keeps its head. Raises InputError for
    folders that hold neither.
    """
    require_model_folder(path)
    labels = num_labels(path)
    if labels not in (None, 1):
        raise InputError(_no_reward_model(path, f"has {labels} labels; a reward is one number"))
    model, missing = from_folder("AutoModelForSequenceClassification", path, "fp32", num_labels=1)
    missing = [name for name in missing if name != "score.weight"]
    if missing:
        raise InputError(_no_reward_model(path, f"lacks {missing[0]}"))
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear):
        raise InputError(_no_reward_model(path, "has no head named `score`"))
    if labels is None:
        generator = torch.Generator().manual_seed(seed % 2**63)
        with torch.no_grad():
            std = (head.in_features + 1) ** -0.5
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * std)
    model.config.get_text_config().pad_token_id = pad_id  # where the last token is looked for
    return model


def load_reward_model(path: str | Path, precision: str | None = "fp32") -> Any:
    """A trained reward model from its folder, on the CPU, in evaluation mode, for packed rows."""
    require_model_folder(path)
    if num_labels(path) != 1:
        raise InputError(_no_reward_model(path, "is no sequence-classification model of one label"))
    model, missing = from_folder("AutoModelForSequenceClassification", path, precision)
    if missing:
        raise InputError(_no_reward_model(path, f"lacks {missing[0]}"))
    return model


def packed_scores(
    model: Any,
    token_ids_T: Tensor,
    lengths: Sequence[int],
    autocast: torch.dtype | None = None,
) -> Tensor:
    """[B] fp32: the score of each sequence, at its last token that is not padding.

    `token_ids_T` holds the sequences one after another. A tokenizer that pads with its end of turn
    has the score one token earlier, as transformers has it for padded rows.
    """
    backbone: Any = getattr(model, model.base_model_prefix)
    pad_id = model.config.get_text_config().pad_token_id
    packed = packed_inputs(token_ids_T, lengths)
    device = token_ids_T.device
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        hidden_TD = backbone(**packed).last_hidden_state[0]
    features_BD = hidden_TD[_last_tokens(token_ids_T, lengths, pad_id)]
    with torch.autocast(device.type, enabled=False):  # bf16 is coarse beside differences of scores
        return nn.functional.linear(features_BD.float(), model.score.weight.float())[:, 0]


def score_sequences(
    model: Any,
    sequences: Sequence[Sequence[int]],
    budget_tokens: int,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """[B] fp32 on the CPU: the scores of token sequences, in passes of at most `budget_tokens`; a
    longer one has a pass of its own.
    """
    device = next(model.parameters()).device
    scores_B = torch.zeros(len(sequences))
    was_training, _ = model.training, model.eval()
    with torch.no_grad():
        for members in passes([len(each) for each in sequences], budget_tokens):
            tokens_T = torch.tensor([t for i in members for t in sequences[i]], device=device)
            lengths = [len(sequences[i]) for i in members]
            scores_B[members] = packed_scores(model, tokens_T, lengths, autocast).cpu()
    model.train(was_training)
    return scores_B


def passes(lengths: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """Places of sequences in groups of at most `budget_tokens`, the longest first."""
    groups: list[list[int]] = []
    room = -1
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[index] > room:
            groups.append([])
            room = max(budget_tokens, lengths[index])
        groups[-1].append(index)
        room -= lengths[index]
    return groups


def _last_tokens(token_ids_T: Tensor, lengths: Sequence[int], pad_id: int | None) -> Tensor:
    """[B] where the last token of each sequence stands that is not `pad_id`; the first where all
    are.
    """
    last = []
    start = 0
    ids = token_ids_T.tolist()
    for length in lengths:
        end = start + length - 1
        while end > start and ids[end] == pad_id:
            end -= 1
        last.append(end)
        start += length
    return torch.tensor(last, device=token_ids_T.device)


def _no_reward_model(path: str | Path, fact: str) -> Problem:
    help = "a causal language model's folder to start from, or a reward model's"
    return Problem("no-reward-model", f"the model folder {fact}", file=str(path), help=help)
