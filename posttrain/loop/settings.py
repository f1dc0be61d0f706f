"""What one online stage asks of its coordinator."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from posttrain.loop.admission import AdmissionRule
from posttrain.types import Sampling

MOST_ENGINE_LOSSES = 16  # beyond, something else is wrong


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What one online stage asks of its coordinator."""

    rule: AdmissionRule
    num_steps: int
    samples_per_prompt: int
    sampling: Sampling
    seed: int
    # One greedy answer more per prompt, sample `samples_per_prompt`, dispatched with the others.
    greedy: bool = False
    filter_no_signal: bool = False
    max_refill_batches: int = 4
    heldout_every: int = 0  # versions between two rounds of held-out questions; 0: never
    # The last net under a process that hangs; each wait that ends by it says who waited for whom.
    group_deadline_s: float = 3600.0  # one group, from its first engine to its score
    score_deadline_s: float = 3600.0  # one group; a single answer has reward.timeout_s
    sync_deadline_s: float = 120.0  # one engine, to take new weights
    silence_deadline_s: float = 60.0  # an engine that does not report
    stuck_deadline_s: float = 300.0  # an engine that reports, has work, and makes no token
    no_engine_deadline_s: float = 600.0  # a stage without any engine
    most_engine_losses: int = MOST_ENGINE_LOSSES  # over the stage

    @property
    def answers_per_prompt(self) -> int:
        """Sampled ones and the greedy one."""
        return self.samples_per_prompt + self.greedy

    @property
    def greedy_sample(self) -> int | None:
        """Number of a group's greedy answer; None where there is none."""
        return self.samples_per_prompt if self.greedy else None


def draw_seed(stage_seed: int, draw: int) -> int:
    """The seed of a draw's samples: the same wherever and whenever the draw is generated."""
    digest = hashlib.sha256(f"{stage_seed}/{draw}".encode()).digest()
    return int.from_bytes(digest[:6], "big")
