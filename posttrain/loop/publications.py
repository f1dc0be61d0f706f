"""Weights on their way to the engines, and questions that are asked under them.

    trainer --publish--> Fleet.published --mail--> engines --acknowledged--> publish returns
                              (the version before)

The last publication stands in the ledger. A restarted coordinator tells engines of it as soon as
the trainer has called: a trainer that was restarted too begins with a publication of its own, and
the weights of the one before it are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from posttrain.errors import PosttrainError, StageFailed
from posttrain.loop.fleet import Fleet, Link
from posttrain.loop.group_desk import GroupDesk
from posttrain.loop.heldout import ask_heldout
from posttrain.loop.ledger import Ledger
from posttrain.loop.lifecycle import Lifecycle
from posttrain.loop.numbers import Counts, Numbers
from posttrain.loop.settings import LoopSettings
from posttrain.loop.side_work import SideWork
from posttrain.ports import RewardPort, Tracker
from posttrain.types import Prompt, RolloutRef, SyncReport, WeightVersion

PROBE_TOKENS = 16  # a probe checks log-probs, not answers


@dataclass(slots=True)
class Publications:
    """The weights of one stage."""

    settings: LoopSettings
    rewards: RewardPort
    tracker: Tracker
    ledger: Ledger
    fleet: Fleet
    groups: GroupDesk
    side: SideWork
    life: Lifecycle
    counts: Counts
    heldout: Sequence[Prompt]
    numbers: Numbers = field(default_factory=Numbers)
    _round: int = -1  # of held-out questions, the last that began

    def trainer_is_there(self) -> None:
        """The trainer has called, and not to publish: what was published last is its own."""
        if self.fleet.published is None and self.ledger.state.weights is not None:
            self.fleet.published = self.ledger.state.weights
            self.fleet.wake()

    async def publish(self, version: WeightVersion) -> None:
        """Announce new weights; returns at once but for engines that lack the previous ones.

        Raises StageFailed where one trainer publishes an older version than before.
        """
        before = self.ledger.state.weights
        is_first = before is None or before.attempt < version.attempt
        is_again = before is not None and before.is_same_as(version)
        # Before the first: of a trainer that died, and nobody can get it now.
        if not is_first and not is_again:
            self.trainer_is_there()
            await self._all_acknowledged(before)
            before = self.ledger.state.weights
        if before is not None and before.attempt > version.attempt:
            return  # of a trainer that has died since
        if before is not None and not is_first and before.version > version.version:
            raise StageFailed(
                f"the trainer publishes version {version.version} after {before.version}",
                place=f"start {version.attempt} of the trainer",
                help="the stage's count of trainer starts was lost; run the stage again",
            )
        if before != version:
            self.ledger.published(version)
        self.fleet.published = version
        self.fleet.wake()
        self.life.changed.fire()  # a call that a dead trainer left behind waits no longer
        if is_again and before != version:
            return  # sent from another place: another engine is there, or one has gone
        if is_first:
            self.numbers.begin(self.fleet)
        else:
            assert before is not None
            self._log_engines(version.version, before.version)
        every = self.settings.heldout_every
        if self.heldout and every and self._is_due(version.version // every):
            self.life.spawn(self._ask_heldout(version), "asking held-out questions")

    def _is_due(self, round: int) -> bool:
        """Whether a round of held-out questions begins: not every version may be published."""
        is_due, self._round = round > self._round, max(round, self._round)
        return is_due

    async def wait_acknowledged(self, version: int) -> SyncReport:
        """Every live engine computes with `version` or a newer one, and there is one."""
        self.trainer_is_there()
        published = self.fleet.published
        if published is None or published.version < version:
            raise StageFailed(f"version {version} was not published, so no engine can have it")
        await self._all_acknowledged(published)
        while not self.fleet.live():
            await self.life.news()
        return self.fleet.sync_of(version) or SyncReport(version, True, 0.0, 0.0)

    async def _all_acknowledged(self, version: WeightVersion | None) -> None:
        """Wait until no live engine is behind; those that never answer are given up in time."""
        while version is not None and self._is_current(version) and self.fleet.behind(version):
            await self.life.news()

    def _is_current(self, version: WeightVersion) -> bool:
        """False where another trainer has begun to publish meanwhile."""
        published = self.fleet.published
        return published is None or published.attempt == version.attempt

    # -- questions ------------------------------------------------------------------------------

    async def probe(self, num_prompts: int) -> list[tuple[Prompt, RolloutRef]]:
        """A few fresh answers under the published weights. An engine that has other ones is not
        asked: those of a trainer that died, and that its successor has not reached yet.
        """
        self.trainer_is_there()
        settings, published = self.settings, self.fleet.published
        tokens = min(PROBE_TOKENS, settings.sampling.max_new_tokens)
        sampling = replace(settings.sampling, seed=settings.seed, max_new_tokens=tokens)
        if published is None:
            return []
        links = self.fleet.exactly_at(published)
        prompts = [self.groups.prompts.at(draw) for draw in range(num_prompts)]
        questions = [(link.name, prompt) for link in links for prompt in prompts]
        answers = await self.side.ask("probe", questions, sampling, settings.sync_deadline_s)
        # One that was still on its way to other weights has them now, and in part of its answers.
        sound = {link.name for link in self.fleet.exactly_at(published)}
        probes = [(prompt, answer.ref) for engine, prompt, answer in answers if engine in sound]
        if len(probes) < len(questions):
            missing = len(questions) - len(probes)
            self.tracker.event(
                "probe-unanswered",
                version=published.version,
                missing=missing,
                of=len(questions),
            )
        return probes

    async def _ask_heldout(self, version: WeightVersion) -> None:
        """A measurement that fails is told, and does not end the training."""
        sampling = replace(self.settings.sampling, seed=self.settings.seed)
        try:
            await self.wait_acknowledged(version.version)
            links: list[Link] = self.fleet.exactly_at(version)
            if not links:
                return  # all are ahead: the trainer was restarted, and asks for a second time
            metrics = await ask_heldout(
                self.side,
                self.rewards,
                [link.name for link in links],
                self.heldout,
                sampling,
                self.settings.group_deadline_s,
            )
        except PosttrainError as error:
            reason = error.message
            self.tracker.event("heldout-failed", version=version.version, reason=reason)
            return
        if metrics:
            number = version.version
            self.tracker.log(metrics, step=max(0, number - 1), version=number)

    def _log_engines(self, version: int, before: int) -> None:
        """What engines did since `before` was published."""
        metrics = self.numbers.since_last(
            self.fleet,
            self.groups.health,
            self.ledger.state,
            self.counts,
            self.fleet.take_sync(before),
            len(self.groups.open),
        )
        self.tracker.log(metrics, step=version - 1, version=version)
