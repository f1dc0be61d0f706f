"""Scoring answers with an ensemble of reward models, in the process that asks.

Members score token ids, not texts: those of the prompt as the policy was asked it, and those that
it answered with. Scores are standardised with each member's own mean and deviation of held-out
answers, so that members can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain import ops
from posttrain.errors import InputError, RewardBroken
from posttrain.model.chat import render_answer
from posttrain.model.folders import ENSEMBLE, member_folders
from posttrain.model.load import context_length
from posttrain.model.reward import load_reward_model, score_sequences
from posttrain.model.states import mean_states
from posttrain.reward.columns import is_text
from posttrain.types import Prompt

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

    def mean_states(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """[B, D] the first member's (`model.states`)."""
        return mean_states(self._members[0], sequences, self._budget)

    @property
    def context_tokens(self) -> int:
        """Longest sequence that members can read."""
        return context_length(self._members[0].config)

    def scores(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """[B][M] as plain numbers. What occurs several times is scored once: samples of one prompt
        often agree, and scores depend on nothing else.
        """
        once = list(dict.fromkeys(map(tuple, sequences)))
        found: list[list[float]] = self.standardised(once).T.tolist()
        place = {sequence: index for index, sequence in enumerate(once)}
        return [found[place[tuple(sequence)]] for sequence in sequences]


class BaselineScores:
    """What ensembles say of answers that rows bring along, as if the policy had given them.

    Each is scored once, when its prompt is first seen, and kept: a few numbers per prompt.
    """

    def __init__(
        self, ensembles: Mapping[str, EnsembleScorer], columns: Sequence[str], tokenizer: Any
    ) -> None:
        """`ensembles` by stage; `columns` hold the answers; `tokenizer` is the policy's."""
        self._ensembles = ensembles
        self._columns = columns
        self._tokenizer = tokenizer
        self._known: dict[tuple[str, str], dict[str, list[float]]] = {}

    def of(self, prompts: Sequence[Prompt]) -> list[dict[str, dict[str, list[float]]]]:
        """[B] column -> stage -> [M]; without the columns in which the row has no text, for a
        reward to refuse. Raises RewardBroken where the chat template cannot write an answer down.
        """
        wanted = {
            (prompt.id, column): prompt
            for prompt in prompts
            for column in self._columns
            if (prompt.id, column) not in self._known and is_text(prompt.row.get(column))
        }
        sequences = [self._sequence(prompt, column) for (_, column), prompt in wanted.items()]
        if wanted:
            scores = {name: each.scores(sequences) for name, each in self._ensembles.items()}
            for at, key in enumerate(wanted):
                self._known[key] = {name: found[at] for name, found in scores.items()}
        keys = [[(prompt.id, column) for column in self._columns] for prompt in prompts]
        return [{key[1]: self._known[key] for key in each if key in self._known} for each in keys]

    def _sequence(self, prompt: Prompt, column: str) -> tuple[int, ...]:
        try:
            answer = render_answer(prompt.row, prompt.row[column], self._tokenizer)
        except InputError as error:
            message = f"the `{column}` of {prompt.id} cannot be scored: {error.message}"
            raise RewardBroken(message, help=error.help) from error
        return (*prompt.token_ids, *answer)
