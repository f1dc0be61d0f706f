"""Whether an ensemble tells apart what two prompts want that are much alike: held-out comparisons,
paired by their prompts, each member's scores of both chosen answers after both prompts.

Which prompts are alike is said by the model that members start from, which every worker has: so
each scores the same pairs with the members that it trains. See `ops.contrast` and `ops.neighbours`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from posttrain import ops
from posttrain.model.reward import score_sequences
from posttrain.model.states import mean_states
from posttrain.train.offline import OfflineSettings
from posttrain.train.pairs import RenderedPair

Contrast = tuple[int, int]
"""Two rows."""


def find_contrasts(
    model: Any, rows: Sequence[RenderedPair], settings: OfflineSettings
) -> list[Contrast]:
    """Pairs of rows with prompts that are alike and different chosen answers.

    None is longer, with the other's answer, than the longest row is.
    """
    if len(rows) < 2:
        return []
    prompts = [row.prompt for row in rows]
    states_ND = mean_states(model, prompts, settings.tokens_per_micro_batch, settings.autocast)
    directions_ND = ops.neighbours.directions(states_ND, states_ND.mean(dim=0))
    return ops.contrast.contrast_pairs(directions_ND @ directions_ND.T, _may_pair(rows))


def score_contrasts(
    model: Any,
    rows: Sequence[RenderedPair],
    contrasts: Sequence[Contrast],
    settings: OfflineSettings,
) -> list[list[float]]:
    """For each pair both rows and R(I₁, r₁), R(I₁, r₂), R(I₂, r₁), R(I₂, r₂), as for JSON."""
    sequences = [
        [*rows[asked].prompt, *rows[said].answers["chosen"][1]]
        for pair in contrasts
        for asked in pair
        for said in pair
    ]
    scores = score_sequences(model, sequences, settings.tokens_per_micro_batch, settings.autocast)
    return [
        [*pair, *four] for pair, four in zip(contrasts, scores.view(-1, 4).tolist(), strict=True)
    ]


def contrast_metrics(
    by_member: Sequence[Sequence[Sequence[float]]], means_M: Tensor, stds_M: Tensor
) -> dict[str, float]:
    """What the members' mean says of what `score_contrasts` gives for each; nothing where there is
    no pair.

    Workers on unlike devices may round a pair in or out: those count that every member scored.
    """
    tables = [{(row[0], row[1]): row[2:] for row in rows} for rows in by_member]
    common = sorted(set.intersection(*map(set, tables)))
    if not common:
        return {}
    scores_MB = torch.tensor([[s for pair in common for s in table[pair]] for table in tables])
    mean_B = ops.ensembles.standardised(scores_MB, means_M, stds_M).mean(dim=0)
    scores_P22 = mean_B.view(-1, 2, 2)
    return {
        "contrast_responses": ops.contrast.response_consistency(scores_P22),
        "contrast_instructions": ops.contrast.instruction_consistency(scores_P22),
        "contrast_pairs": float(len(common)),
    }


def _may_pair(rows: Sequence[RenderedPair]) -> Tensor:
    """[N, N] whether two rows' chosen answers differ and fit behind each other's prompts."""
    answers = [row.answers["chosen"][1] for row in rows]
    numbers = {answer: number for number, answer in enumerate(dict.fromkeys(answers))}
    which_N = torch.tensor([numbers[answer] for answer in answers])
    prompt_N = torch.tensor([len(row.prompt) for row in rows])
    answer_N = torch.tensor([len(answer) for answer in answers])
    longest = max(row.length(name) for row in rows for name in row.answers)
    fits_NN = prompt_N[:, None] + answer_N <= longest
    return (which_N[:, None] != which_N) & fits_NN & fits_NN.T
