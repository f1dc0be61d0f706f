"""A rollout engine without a model, for unit tests of what stands around engines.

It answers like a real one in every respect that its callers see: an answer takes time, its tokens
are spread evenly over that time and stamped with the version that was live at each, the same seed
gives the same answer, an update stalls everything, a dead engine raises EngineFailed. Time is
that of the event loop, so a loop with a virtual clock runs it without waiting.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from posttrain.errors import EngineFailed, WeightsDiffer
from posttrain.types import Prompt, Rollout, Sampling, SyncReport, WeightVersion

END_OF_TURN = 1
FIRST_TOKEN = 2

# (prompt, sample, number of tokens) -> seconds that the answer takes
LatencyModel = Callable[[Prompt, int, int], float]


def per_token(seconds: float) -> LatencyModel:
    """A fixed time per token."""
    return lambda prompt, sample, num_tokens: seconds * num_tokens


@dataclass(slots=True)
class FakeEngine:
    """A RolloutPort. `faulty_checksums` makes the next so many updates raise WeightsDiffer."""

    name: str = "0"
    latency: LatencyModel = field(default_factory=lambda: per_token(0.001))
    update_s: float = 0.0
    vocabulary_size: int = 64
    faulty_checksums: int = 0
    version: int = 0
    _changes: list[tuple[float, int]] = field(default_factory=list)  # (loop time, version)
    _running: int = 0
    _busy_s: float = 0.0
    _tokens: int = 0
    _dead: asyncio.Event = field(default_factory=asyncio.Event)

    async def generate(
        self, group_id: str, prompt: Prompt, num_samples: int, sampling: Sampling
    ) -> tuple[int, list[Rollout]]:
        """(version at the start, the samples); all samples of a prompt run side by side."""
        self._require_alive()
        version = self.version
        answers = [self._answer(group_id, prompt, i, sampling) for i in range(num_samples)]
        return version, list(await asyncio.gather(*answers))

    async def generate_many(self, prompts: list[Prompt], sampling: Sampling) -> list[Rollout]:
        """One answer per prompt, side by side."""
        self._require_alive()
        answers = [self._answer(prompt.id, prompt, 0, sampling) for prompt in prompts]
        return list(await asyncio.gather(*answers))

    async def update_weights(self, version: WeightVersion) -> SyncReport:
        """Takes `update_s`; tokens after it carry the new version."""
        self._require_alive()
        await self._sleep(self.update_s)
        if self.faulty_checksums > 0:
            self.faulty_checksums -= 1
            raise WeightsDiffer(f"engine {self.name} received another checksum")
        self.version = version.version
        self._changes.append((asyncio.get_running_loop().time(), version.version))
        return SyncReport(version.version, True, 1000 * self.update_s, 1000 * self.update_s)

    async def load_model_folder(self, path: str, version: int = 0) -> None:
        """Only the version number changes."""
        self._require_alive()
        self.version = version
        self._changes.append((asyncio.get_running_loop().time(), version))

    async def stats(self) -> Mapping[str, float]:
        """As the real engine's; nothing ever waits here."""
        numbers = {"busy_s": self._busy_s, "tokens": float(self._tokens)}
        self._busy_s, self._tokens = 0.0, 0
        return numbers | {"running": float(self._running), "waiting": 0.0}

    async def shutdown(self) -> None:
        self.die()

    def die(self) -> None:
        """From now on every call raises EngineFailed, those under way too."""
        self._dead.set()

    async def _answer(
        self, group_id: str, prompt: Prompt, sample: int, sampling: Sampling
    ) -> Rollout:
        seed = None if sampling.seed is None else (sampling.seed + sample, prompt.token_ids)
        dice = random.Random(None if seed is None else repr(seed))
        tokens = self._choose(dice, sampling.max_new_tokens)
        loop = asyncio.get_running_loop()
        begin, version = loop.time(), self.version
        num_changes = len(self._changes)
        duration = self.latency(prompt, sample, len(tokens))
        self._running += 1
        try:
            await self._sleep(duration)
        finally:
            self._running -= 1
        times = [begin + duration * (i + 1) / len(tokens) for i in range(len(tokens))]
        changes = self._changes[num_changes:]
        self._busy_s += duration
        self._tokens += len(tokens)
        return Rollout(
            group_id,
            sample,
            prompt.token_ids,
            tokens,
            (1,) * len(tokens),
            tuple(-dice.expovariate(1.0) for _ in tokens),
            tuple(_version_at(moment, version, changes) for moment in times),
            " ".join(str(token) for token in tokens if token != END_OF_TURN),
            "stop" if tokens[-1] == END_OF_TURN else "length",
        )

    def _choose(self, dice: random.Random, limit: int) -> tuple[int, ...]:
        """1 to `limit` tokens, all lengths equally likely; shorter ones end their turn."""
        length = dice.randint(1, limit)
        tokens = [dice.randrange(FIRST_TOKEN, self.vocabulary_size) for _ in range(length)]
        if length < limit:
            tokens[-1] = END_OF_TURN
        return tuple(tokens)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not longer than the engine lives."""
        try:
            await asyncio.wait_for(self._dead.wait(), seconds)
        except TimeoutError:
            return
        self._require_alive()

    def _require_alive(self) -> None:
        if self._dead.is_set():
            raise EngineFailed(f"engine {self.name} is dead")


def _version_at(moment: float, first: int, changes: list[tuple[float, int]]) -> int:
    version = first
    for changed_at, number in changes:
        if changed_at < moment:
            version = number
    return version
