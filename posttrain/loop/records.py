"""Groups as JSON, for the snapshot inside a checkpoint. No pickle: files outlive versions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from posttrain.types import Prompt, Rollout, RolloutGroup, Score, ScoredGroup


def scored_group_to_json(scored: ScoredGroup) -> dict[str, Any]:
    return asdict(scored)


def scored_group_from_json(data: dict[str, Any]) -> ScoredGroup:
    group = data["group"]
    return ScoredGroup(
        group=RolloutGroup(
            id=group["id"],
            draw=group["draw"],
            prompt=_prompt(group["prompt"]),
            rollouts=tuple(_rollout(rollout) for rollout in group["rollouts"]),
            start_version=group["start_version"],
            greedy=_rollout(group["greedy"]) if group["greedy"] else None,
        ),
        scores=tuple(Score(**score) for score in data["scores"]),
        greedy_score=Score(**data["greedy_score"]) if data["greedy_score"] else None,
    )


def _prompt(data: dict[str, Any]) -> Prompt:
    return Prompt(**(data | {"token_ids": tuple(data["token_ids"])}))


def _rollout(data: dict[str, Any]) -> Rollout:
    lists = ("prompt_ids", "token_ids", "mask", "logprobs", "versions")
    return Rollout(**(data | {name: tuple(data[name]) for name in lists}))
