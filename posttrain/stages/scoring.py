"""The processes that score a stage's or a suite's answers, as its reward asks for them."""

from __future__ import annotations

from pathlib import Path

from posttrain.config.pipeline import ScoredReward
from posttrain.config.plugins import with_parts
from posttrain.reward.worker import RewardPool

VERIFIER_TIMEOUT_S = 10.0
OUTSIDE_TIMEOUT_S = 300.0  # of rewards that ask something outside, with retries of their own


def time_limit_s(reward: ScoredReward, base_dir: str | Path | None = None) -> float:
    """For one answer: what the file says, or what suits the reward and its parts."""
    if reward.timeout_s is not None:
        return reward.timeout_s
    asks_outside = any(hasattr(module, "ready") for *_, module, _ in with_parts(reward, base_dir))
    return OUTSIDE_TIMEOUT_S if asks_outside else VERIFIER_TIMEOUT_S


def reward_pool(reward: ScoredReward) -> RewardPool:
    """Not started yet; to be closed."""
    return RewardPool(
        reward.name,
        reward.settings,
        time_limit_s(reward),
        reward.processes,
        reward.process_memory_mb,
    )
