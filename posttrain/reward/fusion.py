"""Answers scored after the prompt that was asked and after those of training that are like it.

Which are like it is said by the ensemble's first member, of whose states of the prompts of training
the artifact holds a copy: see `ops.fusion` for the formula, `ops.neighbours` for the likeness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from posttrain import ops
from posttrain.model.known_prompts import KnownPrompts, read_known_prompts
from posttrain.reward.reward_models import EnsembleScorer
from posttrain.types import scores_key

LOWEST_SIMILARITY = 0.9
"""Prompts that are less alike than this (the paper's bound) may want something else."""

Ids = tuple[int, ...]
Answer = tuple[Ids, Ids]
"""Token ids of a prompt and of what was answered."""
Scores = list[list[float]]
"""[B][M] standardised."""


class FusedScores:
    """What rewards want fused, of the ensembles that score."""

    def __init__(
        self,
        ensembles: Mapping[str, EnsembleScorer],
        folders: Mapping[str, str],
        asked: Sequence[tuple[str, int]],
    ) -> None:
        """`asked`: stages, and over how many prompts each is to be fused. Raises InputError where
        an ensemble does not know the prompts of its training.
        """
        self._fusions = {
            (stage, fuse): Fusion(ensembles[stage], read_known_prompts(folders[stage]), fuse)
            for stage, fuse in asked
        }

    def of(self, answers: Sequence[Answer], plain: Mapping[str, Scores]) -> dict[str, Scores]:
        """By the keys under which rewards look for them. `plain` are the ensembles' scores after
        the prompts that were asked, by stage.
        """
        return {
            scores_key(stage, fuse): fusion.scores(answers, plain[stage])
            for (stage, fuse), fusion in self._fusions.items()
        }


class Fusion:
    """One ensemble whose scores are averaged over prompts that it knows."""

    def __init__(self, ensemble: EnsembleScorer, known: KnownPrompts, fuse: int) -> None:
        """`fuse`: most prompts that are looked at beside the one asked."""
        self._ensemble = ensemble
        self._known = known
        self._fuse = fuse
        states_ND = known.states_ND.float()
        self._centre_D = states_ND.mean(dim=0)
        self._directions_ND = ops.neighbours.directions(states_ND, self._centre_D)

    def scores(self, answers: Sequence[Answer], own: Scores) -> Scores:
        """Fused ones. `own`: those after the prompts that were asked.

        A prompt whose tokens leave no room for the answer is passed over: positions beyond the
        context mean nothing.
        """
        prompts = list(dict.fromkeys(prompt for prompt, _ in answers))
        alike = dict(zip(prompts, self.alike(prompts), strict=True))
        sequences: list[Ids] = []
        similarities = [1.0] * len(answers)
        owners = list(range(len(answers)))
        for number, (prompt, answer) in enumerate(answers):
            room = self._ensemble.context_tokens - len(answer)
            for ids, similarity in alike[prompt]:
                if len(ids) <= room:
                    sequences.append((*ids, *answer))
                    similarities.append(similarity)
                    owners.append(number)
        if not sequences:
            return own
        scores_NM = torch.tensor([*own, *self._ensemble.scores(sequences)])
        fused_MB = ops.fusion.fused(
            scores_NM.T, torch.tensor(similarities), torch.tensor(owners), len(answers)
        )
        found: Scores = fused_MB.T.tolist()
        return found

    def alike(self, prompts: Sequence[Ids]) -> list[list[tuple[Ids, float]]]:
        """(prompt, similarity) of the nearest prompts of training; the one asked is none."""
        states_BD = self._ensemble.mean_states(prompts)
        asked_BD = ops.neighbours.directions(states_BD, self._centre_D)
        nearest = ops.neighbours.nearest(
            asked_BD, self._directions_ND, self._fuse + 1, LOWEST_SIMILARITY
        )
        return [
            [
                (self._known.prompts[place], similarity)
                for place, similarity in each
                if self._known.prompts[place] != prompt
            ][: self._fuse]
            for prompt, each in zip(prompts, nearest, strict=True)
        ]
