"""How long things take: the stated models on which the virtual clock runs.

Nothing here is measured; whoever makes a `System` says where its figures came from. Tokens are
answer tokens unless a name says otherwise, times are seconds.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class AnswerLengths:
    """Answer lengths: log-normal, cut at a limit. `sigma` is of the logarithm; 0: all equal.

    Example: AnswerLengths(median_tokens=128, sigma=0.91, longest_tokens=2048)
    """

    median_tokens: float
    sigma: float
    longest_tokens: int

    def __post_init__(self) -> None:
        if self.median_tokens < 1 or self.sigma < 0 or self.longest_tokens < 1:
            raise ValueError(f"need median >= 1, sigma >= 0, longest >= 1, got {self}")

    @property
    def mean_tokens(self) -> float:
        """Mean of the distribution with everything above the limit moved to the limit."""
        if self.sigma == 0:
            return min(self.median_tokens, self.longest_tokens)
        at_limit = math.log(self.longest_tokens / self.median_tokens) / self.sigma
        uncut = self.median_tokens * math.exp(self.sigma**2 / 2)
        return uncut * _normal_cdf(at_limit - self.sigma) + self.longest_tokens * _normal_cdf(
            -at_limit
        )


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


class LengthTable:
    """The length of every sample of every draw: the same whoever asks first, in whatever order."""

    def __init__(self, lengths: AnswerLengths, samples_per_prompt: int, seed: int) -> None:
        self._lengths = lengths
        self._num_samples = samples_per_prompt
        self._random = random.Random(seed)
        self._known: list[int] = []

    def of(self, draw: int, sample: int) -> int:
        """Tokens of one sample, at least 1."""
        index = draw * self._num_samples + sample
        if index >= len(self._known):
            self._extend(index + 1)
        return self._known[index]

    def of_draw(self, draw: int) -> int:
        """Tokens of all samples of one draw."""
        start = draw * self._num_samples
        if start + self._num_samples > len(self._known):
            self._extend(start + self._num_samples)
        return sum(self._known[start : start + self._num_samples])

    def _extend(self, count: int) -> None:
        location, sigma = math.log(self._lengths.median_tokens), self._lengths.sigma
        longest, draw = self._lengths.longest_tokens, self._random.lognormvariate
        for _ in range(count - len(self._known) + 4096):
            self._known.append(max(1, min(longest, round(draw(location, sigma)))))


@dataclass(frozen=True, slots=True)
class EngineSpeed:
    """A rollout engine: one decode step gives each running sequence one token.

    A step takes base_s + per_sequence_s * running. Reading the prompt is left out: next to the
    answer it is cheap. New weights stop the engine for sync_s; what runs goes on after that.
    """

    base_s: float
    per_sequence_s: float
    max_running: int  # sequences decoded together
    sync_s: float = 0.0

    def step_s(self, running: int) -> float:
        """Seconds per token of each of `running` sequences."""
        return self.base_s + self.per_sequence_s * running


@dataclass(frozen=True, slots=True)
class TrainerSpeed:
    """A trainer group: fixed_s per step, and what each token costs one trainer, split evenly."""

    seconds_per_token: float  # of one trainer; prompt tokens count too
    fixed_s: float = 0.0

    def batch_s(self, tokens: float, num_trainers: int) -> float:
        """Seconds for one batch, from having it to having made the new weights."""
        return self.fixed_s + self.seconds_per_token * tokens / num_trainers


@dataclass(frozen=True, slots=True)
class System:
    """Everything that decides how fast one online stage is, but for its schedule."""

    num_engines: int
    num_trainers: int
    engine: EngineSpeed
    trainer: TrainerSpeed
    lengths: AnswerLengths
    groups_per_step: int
    samples_per_prompt: int
    prompt_tokens: float = 0.0  # mean; trained over, not generated
    score_s: float = 0.0  # from a group's last token to its scores
    filtered_share: float = 0.0  # of groups: nothing to learn from them, others in their place
    greedy: bool = False  # one answer more per prompt is generated and scored, never trained on
    devices_per_engine: int = 1
    devices_per_trainer: int = 1

    def __post_init__(self) -> None:
        counts = (
            self.num_engines,
            self.num_trainers,
            self.groups_per_step,
            self.samples_per_prompt,
            self.engine.max_running,
            self.devices_per_engine,
            self.devices_per_trainer,
        )
        if min(counts) < 1:
            raise ValueError(f"every count has to be 1 or more, got {counts}")

    @property
    def answers_per_prompt(self) -> int:
        """Generated: samples, and the greedy one."""
        return self.samples_per_prompt + self.greedy

    @property
    def answers_per_step(self) -> int:
        """Generated."""
        return self.groups_per_step * self.answers_per_prompt

    @property
    def rollouts_per_step(self) -> int:
        """Trained on."""
        return self.groups_per_step * self.samples_per_prompt

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens that one step trains, prompts included."""
        return self.rollouts_per_step * (self.lengths.mean_tokens + self.prompt_tokens)

    @property
    def num_devices(self) -> int:
        engines = self.num_engines * self.devices_per_engine
        return engines + self.num_trainers * self.devices_per_trainer

    @property
    def trainer_share(self) -> float:
        """f: the trainers' share of the devices."""
        return self.num_trainers * self.devices_per_trainer / self.num_devices

    def colocated(self) -> System:
        """The same devices, all of them generating, then all of them training."""
        return replace(
            self,
            num_engines=max(1, self.num_devices // self.devices_per_engine),
            num_trainers=max(1, self.num_devices // self.devices_per_trainer),
        )

    def smaller(self, factor: int) -> System:
        """A system of which this one is `factor` copies side by side: the same times per step.

        Engines and groups are divided; a trainer's tokens cost it as much more, so that the batch
        takes as long.
        """
        speed = self.trainer.seconds_per_token * factor
        return replace(
            self,
            num_engines=self.num_engines // factor,
            groups_per_step=self.groups_per_step // factor,
            trainer=replace(self.trainer, seconds_per_token=speed),
        )


@dataclass(frozen=True, slots=True)
class Schedule:
    """Who waits for whom.

    steps_ahead and max_staleness are those of the admission rule. `has_barrier`: new weights are
    taken only when no answer is being generated, as one-step-overlap trainers do it. `sync_every`:
    steps between two publications.
    """

    steps_ahead: int
    max_staleness: int
    has_barrier: bool = False
    sync_every: int = 1


SYNCHRONOUS = Schedule(0, 0)
"""Generate a batch, train it, generate the next. On `System.colocated()`: the classical trainer."""

ONE_STEP_OVERLAP = Schedule(1, 1, has_barrier=True)
"""Train one batch while the next is generated; both wait at the end of each step."""
