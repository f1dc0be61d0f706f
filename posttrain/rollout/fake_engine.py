"""A rollout engine without a model, for unit tests of what stands around engines.

It answers like a real one in every respect that its callers see: an answer takes time, its tokens
are spread evenly over that time and stamped with the version that was live at each, the same seed
gives the same answer, an update stalls everything, a dead engine raises EngineFailed. Time is
that of the event loop, so a loop with a virtual clock runs it without waiting.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from posttrain.errors import EngineFailed, WeightsDiffer
from posttrain.rollout.samples import Answer, Growth, Partial, SampleKey, SampleTask
from posttrain.types import Prompt, Rollout, Sampling, SyncReport, WeightVersion

END_OF_TURN = 1
FIRST_TOKEN = 2

# (prompt, sample, number of tokens) -> seconds that the answer takes
LatencyModel = Callable[[Prompt, int, int], float]


def per_token(seconds: float) -> LatencyModel:
    """A fixed time per token."""
    return lambda prompt, sample, num_tokens: seconds * num_tokens


@dataclass(frozen=True, slots=True)
class _Course:
    """An answer that is chosen already and spoken token by token."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    begin: float  # of the loop's time
    duration: float
    version: int  # at the begin
    changes: list[tuple[float, int]]  # (loop time, version) of all updates, also of later ones
    num_changes: int  # of them before the begin

    def spoken(self, now: float) -> Partial:
        """The tokens up to a moment, each with the version that was live."""
        count = len(self.token_ids)
        times = [self.begin + self.duration * (i + 1) / count for i in range(count)]
        there = sum(moment <= now for moment in times)
        changes = self.changes[self.num_changes :]
        versions = (_version_at(moment, self.version, changes) for moment in times[:there])
        return Partial(self.token_ids[:there], self.logprobs[:there], tuple(versions), self.version)


@dataclass(slots=True)
class FakeEngine:
    """A `samples.SampleEngine`. `faulty_checksums` makes the next so many updates raise
    WeightsDiffer.
    """

    name: str = "0"
    latency: LatencyModel = field(default_factory=lambda: per_token(0.001))
    update_s: float = 0.0
    vocabulary_size: int = 64
    faulty_checksums: int = 0
    version: int = 0
    max_model_len: int = 1 << 20
    _changes: list[tuple[float, int]] = field(default_factory=list)  # (loop time, version)
    _running: int = 0
    _busy_s: float = 0.0
    _tokens: int = 0
    _dead: asyncio.Event = field(default_factory=asyncio.Event)
    _samples: dict[SampleKey, tuple[SampleTask, _Course, asyncio.Task[None]]] = field(
        default_factory=dict
    )
    _answers: list[Answer] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

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

    def submit(self, tasks: Sequence[SampleTask]) -> None:
        """All samples run side by side; each is answered when its last token is spoken."""
        self._require_alive()
        for task in tasks:
            if len(task.prompt.token_ids) + task.sampling.max_new_tokens > self.max_model_len:
                self._answers.append(Answer(task, self.version, None, "no room"))
                self._news.set()
                continue
            sampling = task.sampling
            course = self._course(task.prompt, task.key[2], sampling, task.num_given)
            ending = asyncio.ensure_future(self._finish(task, course))
            self._samples[task.key] = (task, course, ending)

    async def finished(self) -> list[Answer]:
        """Samples that have ended since the last call; waits for the first one."""
        while not self._answers:
            self._require_alive()
            await self._news.wait()
            self._news.clear()
        answers, self._answers = self._answers, []
        return answers

    async def growth(self, known: Mapping[SampleKey, int], at_least: int) -> list[Growth]:
        """What every running sample has beyond the tokens known of it, if `at_least` as many."""
        self._require_alive()
        now, found = asyncio.get_running_loop().time(), []
        for key, (task, course, _) in self._samples.items():
            whole, have = _joined(task.prefix, course.spoken(now)), known.get(key, 0)
            if len(whole.token_ids) - have >= at_least:
                new = whole.token_ids[have:], whole.logprobs[have:], whole.versions[have:]
                found.append(Growth(task, have, Partial(*new, whole.start_version)))
        return found

    async def abort(self, keys: Collection[SampleKey]) -> None:
        """Stop generating these samples."""
        for key in keys:
            if key in self._samples:
                self._samples.pop(key)[2].cancel()
        self._answers = [answer for answer in self._answers if answer.task.key not in keys]

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
        now = {"running": float(self._running), "waiting": 0.0, "cache_hit_share": 0.0}
        return numbers | now

    async def shutdown(self) -> None:
        self.die()

    def die(self) -> None:
        """From now on every call raises EngineFailed, those under way too."""
        self._dead.set()
        self._news.set()

    async def _answer(
        self, group_id: str, prompt: Prompt, sample: int, sampling: Sampling
    ) -> Rollout:
        course = self._course(prompt, sample, sampling, 0)
        await self._speak(course)
        return _rollout(group_id, sample, prompt, course.spoken(float("inf")))

    def _course(self, prompt: Prompt, sample: int, sampling: Sampling, given: int) -> _Course:
        """The answer from token number `given` on; it depends on the seed and on that number."""
        seed: tuple[object, ...] | None = None
        if sampling.seed is not None:
            seed = (sampling.seed + sample, prompt.token_ids)
        if sampling.temperature == 0:
            seed = ("greedy", prompt.token_ids)
        if seed is not None and given > 0:
            seed = (*seed, given)
        dice = random.Random(None if seed is None else repr(seed))
        tokens = self._choose(dice, sampling.max_new_tokens - given)
        return _Course(
            tokens,
            tuple(_float32(-dice.expovariate(1.0)) for _ in tokens),
            asyncio.get_running_loop().time(),
            self.latency(prompt, sample, len(tokens)),
            self.version,
            self._changes,
            len(self._changes),
        )

    async def _speak(self, course: _Course) -> None:
        self._running += 1
        try:
            await self._sleep(course.duration)
        finally:
            self._running -= 1
        self._busy_s += course.duration
        self._tokens += len(course.token_ids)

    async def _finish(self, task: SampleTask, course: _Course) -> None:
        try:
            await self._speak(course)
        except EngineFailed:
            return  # `finished` says so
        whole = _joined(task.prefix, course.spoken(float("inf")))
        rollout = _rollout(str(task.key[1]), task.key[2], task.prompt, whole)
        del self._samples[task.key]
        self._answers.append(Answer(task, whole.start_version, rollout))
        self._news.set()

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


def _joined(prefix: Partial | None, rest: Partial) -> Partial:
    if prefix is None:
        return rest
    return Partial(
        prefix.token_ids + rest.token_ids,
        prefix.logprobs + rest.logprobs,
        prefix.versions + rest.versions,
        prefix.start_version,
    )


def _rollout(group_id: str, sample: int, prompt: Prompt, whole: Partial) -> Rollout:
    return Rollout(
        group_id,
        sample,
        prompt.token_ids,
        whole.token_ids,
        (1,) * len(whole.token_ids),
        whole.logprobs,
        whole.versions,
        " ".join(str(token) for token in whole.token_ids if token != END_OF_TURN),
        "stop" if whole.token_ids[-1] == END_OF_TURN else "length",
    )


def _float32(value: float) -> float:
    """Rounded as an engine's log-probs are."""
    return struct.unpack("<f", struct.pack("<f", value))[0]
