"""An optimiser batch as flat tensors, and what can be said of it before any training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from posttrain.types import (
    JUDGE_PART,
    MEMBERS_STD,
    WATCH_PART,
    Rollout,
    TrainBatch,
    told_apart,
)


@dataclass(frozen=True, slots=True)
class Sequences:
    """Prompts with their completions as one row of `S` tokens, sequence after sequence."""

    token_ids_S: Tensor  # [S] int64
    prompt_lengths_B: Tensor  # [B] int64
    lengths_B: Tensor  # [B] int64, completion tokens

    @property
    def total_lengths_B(self) -> Tensor:
        """[B] tokens of prompt and completion together."""
        return self.prompt_lengths_B + self.lengths_B


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """Rollouts of one optimiser batch, sorted by (draw, sample). `T` counts completion tokens."""

    rollouts: tuple[Rollout, ...]  # B
    sequences: Sequences
    rewards_GK: Tensor  # [G, K] fp32
    mask_T: Tensor  # [T] fp32
    behaviour_logprobs_T: Tensor  # [T] fp32, nats
    versions_T: Tensor  # [T] int64
    cut_B: Tensor  # [B] bool
    greedy_rewards_G: Tensor | None = None  # [G] fp32, of the greedy answers where there are any
    # [G, K] fp32 by the name of what scores are made of, NaN where a score has no such part.
    reward_parts: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def lengths_B(self) -> Tensor:
        """[B] int64, completion tokens of each rollout, may be 0."""
        return self.sequences.lengths_B

    @property
    def sequence_T(self) -> Tensor:
        """[T] which rollout each completion token belongs to."""
        return torch.repeat_interleave(torch.arange(len(self.lengths_B)), self.lengths_B)

    @property
    def chosen_tokens_B(self) -> Tensor:
        """[B] fp32, tokens of each rollout that the policy chose."""
        counts_B = torch.zeros(len(self.lengths_B))
        return counts_B.index_add(0, self.sequence_T, self.mask_T)


def flatten(batch: TrainBatch) -> FlatBatch:
    """ValueError where groups differ in size."""
    rollouts = tuple(rollout for scored in batch.groups for rollout in scored.group.rollouts)
    rewards = [[score.value for score in scored.scores] for scored in batch.groups]
    greedy = [g.greedy_score.value for g in batch.groups if g.greedy_score is not None]
    if greedy and len(greedy) < len(batch.groups):
        raise ValueError(f"{len(greedy)} of {len(batch.groups)} groups have a greedy answer")
    return FlatBatch(
        rollouts=rollouts,
        sequences=sequences_of(rollouts),
        rewards_GK=torch.tensor(rewards, dtype=torch.float32),
        mask_T=_concatenate([r.mask for r in rollouts], np.float32),
        behaviour_logprobs_T=_concatenate([r.logprobs for r in rollouts], np.float32),
        versions_T=_concatenate([r.versions for r in rollouts], np.int64),
        cut_B=torch.tensor([rollout.finish == "length" for rollout in rollouts]),
        greedy_rewards_G=torch.tensor(greedy, dtype=torch.float32) if greedy else None,
        reward_parts=_reward_parts(batch),
    )


def _reward_parts(batch: TrainBatch) -> dict[str, Tensor]:
    """name -> [G, K] of everything that any score is made of."""
    groups = [[score.parts for score in scored.scores] for scored in batch.groups]
    names = sorted({name for group in groups for parts in group for name in parts})
    found = {name: [[parts.get(name, math.nan) for parts in g] for g in groups] for name in names}
    return {name: torch.tensor(each, dtype=torch.float32) for name, each in found.items()}


def sequences_of(rollouts: Sequence[Rollout]) -> Sequences:
    """What the model reads of some rollouts."""
    return Sequences(
        token_ids_S=_concatenate(
            [part for r in rollouts for part in (r.prompt_ids, r.token_ids)], np.int64
        ),
        prompt_lengths_B=torch.tensor([len(r.prompt_ids) for r in rollouts]),
        lengths_B=torch.tensor([len(r.token_ids) for r in rollouts]),
    )


def _concatenate(parts: Sequence[Sequence[float]], kind: type[np.generic]) -> Tensor:
    """All entries one after another. (torch.tensor of a list takes four times as long.)"""
    total = sum(len(part) for part in parts)
    return torch.from_numpy(np.fromiter(itertools.chain.from_iterable(parts), kind, total))


def batch_metrics(
    batch: TrainBatch, flat: FlatBatch, compares_answers: bool = True
) -> dict[str, float]:
    """Rewards, groups, answers and ages: everything that needs no model.

    `compares_answers`: whether a prompt whose answers all score the same teaches nothing.
    """
    rewards_GK = flat.rewards_GK
    passed_GK = _passed(batch)
    lengths_B = flat.lengths_B.float()
    right_B, wrong_B = passed_GK.flatten(), ~passed_GK.flatten()
    ages_T = (batch.step - flat.versions_T).float()
    metrics = {
        "reward/mean": float(rewards_GK.mean()),
        "reward/std": float(rewards_GK.std(unbiased=False)),
        "reward/pass_share": float(passed_GK.float().mean()),
        "reward/pass_at_k": float(passed_GK.any(1).float().mean()),
        "groups/trained": float(len(batch.groups)),
        "groups/identical_share": _identical_share(batch),
        "answer/length_tokens": float(lengths_B.mean()),
        "answer/cut_share": float(flat.cut_B.float().mean()),
        "answer/empty_share": float((lengths_B == 0).float().mean()),
        "age/versions/mean": float(ages_T.mean()) if ages_T.numel() else 0.0,
        "age/versions/max": float(ages_T.max()) if ages_T.numel() else 0.0,
        "age/multi_version_share": _multi_version_share(flat.rollouts),
        "age/wait_s": batch.waited_s,
    }
    metrics |= _by_source(batch, rewards_GK, passed_GK) | _part_metrics(batch)
    if compares_answers:
        metrics |= {
            "groups/no_signal_share": _no_signal_share(flat),
            "groups/all_right_share": float(passed_GK.all(1).float().mean()),
            "groups/all_wrong_share": float((~passed_GK).all(1).float().mean()),
        }
    if flat.greedy_rewards_G is not None:
        metrics |= _greedy_metrics(batch, flat.greedy_rewards_G)
    for name, chosen_B in (("right", right_B), ("wrong", wrong_B)):
        if chosen_B.any():
            metrics[f"answer/{name}_length_tokens"] = float(lengths_B[chosen_B].mean())
    for age in range(int(metrics["age/versions/max"]) + 1 if ages_T.numel() else 0):
        metrics[f"age/share/{age}"] = float((ages_T == age).float().mean())
    return metrics


def _by_source(batch: TrainBatch, rewards_GK: Tensor, passed_GK: Tensor) -> dict[str, float]:
    """Of each source of prompts, where there are several."""
    sources = [scored.group.prompt.source for scored in batch.groups]
    metrics: dict[str, float] = {}
    for source in told_apart(sources):
        of_source_G = torch.tensor([each == source for each in sources])
        metrics[f"reward/{source}/mean"] = float(rewards_GK[of_source_G].mean())
        metrics[f"reward/{source}/pass_share"] = float(passed_GK[of_source_G].float().mean())
    return metrics


def _part_metrics(batch: TrainBatch) -> dict[str, float]:
    """Means of what scores are made of, over the answers that have it; of judges, the share of
    answers that violate them.
    """
    values: dict[str, list[float]] = {}
    for scored in batch.groups:
        for score in scored.scores:
            for name, value in score.parts.items():
                # Of an ensemble inside another reward too: it is what stages are stopped by.
                is_spread = name.rpartition("/")[2] == MEMBERS_STD
                values.setdefault(MEMBERS_STD if is_spread else name, []).append(value)
    metrics = {}
    for name, found in sorted(values.items()):
        if name.startswith(JUDGE_PART):
            metrics[f"{name}/violated_share"] = sum(value < 1.0 for value in found) / len(found)
        else:
            metrics[_PARTS.get(name, f"reward/parts/{name}")] = sum(found) / len(found)
    return metrics


_PARTS = {MEMBERS_STD: "reward/members_std", WATCH_PART: "reward/watch_mean"}
"""Parts with metrics of their own names."""


def _no_signal_share(flat: FlatBatch) -> float:
    """Share of groups whose answers, the greedy one included, all score the same."""
    scores_GK = flat.rewards_GK
    if flat.greedy_rewards_G is not None:
        scores_GK = torch.cat([scores_GK, flat.greedy_rewards_G[:, None]], dim=1)
    return float((scores_GK.max(1).values == scores_GK.min(1).values).float().mean())


def _greedy_metrics(batch: TrainBatch, rewards_G: Tensor) -> dict[str, float]:
    """Of the greedy answers: what they score, how many samples say the same, and how many began
    under other weights than a sample of theirs (an engine was lost in between).
    """
    pairs = [
        (rollout, scored.group.greedy)
        for scored in batch.groups
        for rollout in scored.group.rollouts
        if scored.group.greedy is not None
    ]
    same = [rollout.token_ids == greedy.token_ids for rollout, greedy in pairs]
    apart = [rollout.versions[:1] != greedy.versions[:1] for rollout, greedy in pairs]
    greedy = [scored.group.greedy for scored in batch.groups if scored.group.greedy is not None]
    return {
        "reward/greedy_mean": float(rewards_G.mean()),
        "groups/greedy_identical_share": sum(same) / len(pairs),
        "groups/greedy_apart_share": sum(apart) / len(pairs),
        "answer/greedy_length_tokens": sum(len(each.token_ids) for each in greedy) / len(greedy),
        "answer/greedy_cut_share": sum(each.finish == "length" for each in greedy) / len(greedy),
    }


def _passed(batch: TrainBatch) -> Tensor:
    """[G, K] bool: what the reward calls right; without an opinion, a value of 1 or more."""
    return torch.tensor(
        [
            [
                score.value >= 1.0 if score.passed is None else score.passed
                for score in scored.scores
            ]
            for scored in batch.groups
        ]
    )


def _identical_share(batch: TrainBatch) -> float:
    """Share of a group's answers that repeat another answer of the group."""
    total = sum(len(scored.group.rollouts) for scored in batch.groups)
    distinct = sum(len({r.token_ids for r in scored.group.rollouts}) for scored in batch.groups)
    return 1.0 - distinct / total


def _multi_version_share(rollouts: Sequence[Rollout]) -> float:
    return sum(len(set(rollout.versions)) > 1 for rollout in rollouts) / len(rollouts)
