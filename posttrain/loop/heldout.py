"""Held-out questions, asked of the running engines while training goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from posttrain.loop.side_work import SideWork
from posttrain.ports import RewardPort
from posttrain.types import Prompt, Sampling


async def ask_heldout(
    side: SideWork,
    rewards: RewardPort,
    engines: Sequence[str],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    patience_s: float,
) -> dict[str, float]:
    """One answer per prompt, spread over the engines, scored: `reward/heldout_mean` with half its
    95 % interval. Answers of engines that die meanwhile are left out, and those that do not come
    within `patience_s`. Empty without any.
    """
    questions = [(engines[i % len(engines)], prompt) for i, prompt in enumerate(prompts)]
    answers = await side.ask("evaluation", questions, sampling, patience_s)
    scorings = await asyncio.gather(
        *(rewards.score(prompt, (answer.ref,)) for _, prompt, answer in answers)
    )
    values = [score.value for each in scorings for score in each.scores if score is not None]
    if not values:
        return {}
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    return {
        "reward/heldout_mean": mean,
        "reward/heldout_ci": 1.96 * (variance / len(values)) ** 0.5,
    }
