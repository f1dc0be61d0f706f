"""What reward models say of answers, as columns of the rows that rewards read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.model.load import load_tokenizer
from posttrain.reward.fusion import FusedScores
from posttrain.reward.reward_models import BaselineScores, EnsembleScorer
from posttrain.types import BASELINE_SCORES_COLUMN, SCORES_COLUMN, Prompt, Rollout


class ScoreColumns:
    """Ensembles by the name of the stage that made them: `folders` are theirs.

    `fused` and `baselines` are as of FusedScores and BaselineScores. Raises PosttrainError where
    an ensemble cannot be read.
    """

    def __init__(
        self,
        folders: Mapping[str, str],
        fused: Sequence[tuple[str, int]],
        baselines: Sequence[str],
        tokenizer_path: str,
    ) -> None:
        self._ensembles = {name: EnsembleScorer(at) for name, at in folders.items()}
        self._fused = FusedScores(self._ensembles, folders, fused)
        self._baselines: BaselineScores | None = None
        if baselines:
            tokenizer = load_tokenizer(tokenizer_path)
            self._baselines = BaselineScores(self._ensembles, baselines, tokenizer)

    def rows(
        self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]
    ) -> list[Mapping[str, Any]]:
        """The prompts' rows, with what each member of each ensemble says of the answer and, where a
        reward compares the two, of the row's own.
        """
        answers = [
            (prompt.token_ids, rollout.token_ids)
            for prompt, rollout in zip(prompts, rollouts, strict=True)
        ]
        sequences = [(*asked, *said) for asked, said in answers]
        scores = {name: each.scores(sequences) for name, each in self._ensembles.items()}
        scores |= self._fused.of(answers, scores)
        rows: list[dict[str, Any]] = [
            {**prompt.row, SCORES_COLUMN: {key: found[i] for key, found in scores.items()}}
            for i, prompt in enumerate(prompts)
        ]
        if self._baselines is not None:
            for row, found in zip(rows, self._baselines.of(prompts), strict=True):
                row[BASELINE_SCORES_COLUMN] = found
        return list(rows)
