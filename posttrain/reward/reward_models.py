"""Scoring answers with an ensemble of reward models, in the process that asks.

Members score token ids, not texts: those of the prompt as the policy was asked it, and those that
it answered with. Scores are standardised with each member's own mean and deviation of held-out
answers, so that members can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from posttrain import ops
from posttrain.model.folders import ENSEMBLE, member_folders
from posttrain.model.reward import load_reward_model, score_sequences

TOKENS_PER_PASS = 16_384


class EnsembleScorer:
    """The members of one `reward_models` folder, in memory.

    Raises InputError where one is missing.
    """

    def __init__(self, folder: str | Path, tokens_per_pass: int = TOKENS_PER_PASS) -> None:
        folders = member_folders(folder)
        summary = json.loads((Path(folder) / ENSEMBLE).read_text())
        # Judges of the same process have the first devices; reward models are given one, the last.
        last = torch.cuda.device_count() - 1
        device = f"cuda:{last}" if last >= 0 else "cpu"
        self._members = [load_reward_model(path, None).to(device) for path in folders]
        self._means_M = torch.tensor([each["mean"] for each in summary["members"]])
        self._stds_M = torch.tensor([each["std"] for each in summary["members"]])
        self._budget = tokens_per_pass

    def standardised(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """[M, B] fp32 on the CPU."""
        raw_MB = torch.stack(
            [score_sequences(member, sequences, self._budget) for member in self._members]
        )
        return ops.ensembles.standardised(raw_MB, self._means_M, self._stds_M)

    def scores(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """[B][M] as plain numbers. What occurs several times is scored once: samples of one prompt
        often agree, and scores depend on nothing else.
        """
        once = list(dict.fromkeys(map(tuple, sequences)))
        found: list[list[float]] = self.standardised(once).T.tolist()
        place = {sequence: index for index, sequence in enumerate(once)}
        return [found[place[tuple(sequence)]] for sequence in sequences]
