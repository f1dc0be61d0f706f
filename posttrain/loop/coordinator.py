"""The coordinator: who may generate, what is trained next, which weights are where.

    prompts.at(draw) --machine.assign--> engine --finished--> rewards.score --> buffer
                             ^                                                     |
                          publish(version) <------- trainer <------- next_batch(step)

Producers: engines, through `exchange`: each call tells what an engine has finished and is answered
with its next work and weights. Consumer: the trainer, through `next_batch`, which blocks until the
machine lets a batch go. Everything runs on one event loop, so no state is shared between threads.
The rules are the machine's (`loop.machine`), the record is the ledger's; engines, groups and
weights have a desk of their own each. Tokens never come by: they lie where the engines wrote them.
Nothing here knows of processes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import PosttrainError
from posttrain.loop.engine_desk import EngineDesk
from posttrain.loop.fleet import Fleet
from posttrain.loop.group_desk import GroupDesk, PromptDraws
from posttrain.loop.ledger import Ledger
from posttrain.loop.lifecycle import Lifecycle
from posttrain.loop.machine import Machine
from posttrain.loop.numbers import Counts, Numbers
from posttrain.loop.publications import Publications
from posttrain.loop.retention import JournalRetention
from posttrain.loop.settings import LoopSettings
from posttrain.loop.side_work import SideWork
from posttrain.ports import RewardPort, Tracker
from posttrain.types import (
    Directive,
    EngineReport,
    Prompt,
    RolloutRef,
    StoredBatch,
    SyncReport,
    WeightVersion,
)

WATCHED_EVERY_S = 1.0


class Coordinator:
    """See the module's picture. All methods must be called on one event loop."""

    def __init__(
        self,
        settings: LoopSettings,
        prompts: PromptDraws,
        rewards: RewardPort,
        tracker: Tracker,
        ledger: Ledger,
        journals: Path | None = None,
        heldout: Sequence[Prompt] = (),
    ) -> None:
        """`ledger` has replayed what an earlier coordinator of the stage wrote; `journals` is the
        folder that the engines write into.
        """
        self._settings = settings
        self._tracker = tracker
        self._ledger = ledger
        self._machine = Machine(
            settings.rule,
            settings.num_steps,
            settings.answers_per_prompt,
            filter_no_signal=settings.filter_no_signal,
            max_refill_batches=settings.max_refill_batches,
            whole_groups=settings.greedy,
            state=ledger.state.machine(),
        )
        self._fleet = Fleet(journal=ledger.position)
        self._retention = JournalRetention(journals)
        self._life = Lifecycle()
        self._watcher: asyncio.Task[None] | None = None
        side, counts = SideWork(self._fleet), Counts()
        shared = (ledger, self._machine, self._fleet, self._life, counts)
        self._groups = GroupDesk(settings, prompts, rewards, tracker, *shared, self._admit)
        self._engines = EngineDesk(
            settings,
            tracker,
            self._machine,
            self._fleet,
            self._groups,
            side,
            self._retention,
            self._life,
            counts,
        )
        self._publications = Publications(
            settings,
            rewards,
            tracker,
            ledger,
            self._fleet,
            self._groups,
            side,
            self._life,
            counts,
            heldout,
            Numbers(ledger.state.num_dropped, ledger.state.num_filtered),
        )
        self._restore()

    # -- what engines say (CoordinatorPort) -----------------------------------------------------

    async def exchange(self, report: EngineReport) -> Directive:
        """Take a report in; answer with what the engine has to do, at the latest after 5 s."""
        self._watch()
        return await self._engines.exchange(report)

    def lost_engines(self) -> dict[str, str]:
        """Engines given up since the last call, and why: their processes should be replaced."""
        return self._engines.take_lost()

    async def engine_died(self, name: str, error: PosttrainError) -> None:
        """The launcher saw an engine's process end, and replaces it."""
        self._engines.died(name, error)

    # -- what the trainer asks (TrainPort) ------------------------------------------------------

    async def next_batch(self, step: int) -> StoredBatch | None:
        """The batch that makes version step+1; the same one when asked again; None: stop."""
        began = time.monotonic()
        self._watch()
        self._publications.trainer_is_there()
        while True:
            if self._life.failure:
                raise self._life.failure
            if self._life.is_stopping or step >= self._settings.num_steps:
                return None
            if step in self._ledger.state.served:
                return StoredBatch(step, self._ledger.state.served[step])
            draws = self._machine.take_batch(step)
            if draws is not None:
                break
            await self._life.changed.wait()
        groups = self._ledger.trained(step, draws)
        waited_s = time.monotonic() - began
        self._tracker.span(
            "coordinator", f"wait for batch {step}", time.time() - waited_s, time.time()
        )
        return StoredBatch(step, groups, waited_s)

    async def publish(self, version: WeightVersion) -> None:
        """Announce new weights; returns at once but for engines that lack the previous ones."""
        self._watch()
        await self._publications.publish(version)

    async def wait_acknowledged(self, version: int) -> SyncReport:
        """Every live engine computes with `version` or a newer one, and there is one."""
        self._watch()
        return await self._publications.wait_acknowledged(version)

    def engines(self, without: WeightVersion | None = None) -> list[str]:
        """Names of the engines that live; of those only that have to take a version."""
        links = self._fleet.links
        return sorted(n for n in links if without is None or links[n].is_behind(without))

    async def probe(self, num_prompts: int = 4) -> list[tuple[Prompt, RolloutRef]]:
        """A few fresh answers of every engine that has the published weights."""
        self._watch()
        return await self._publications.probe(num_prompts)

    async def committed(self, step: int) -> None:
        """A whole checkpoint holds `step` trained batches: they need not be served again."""
        self._ledger.committed(step)
        self._machine.committed(step)
        self._retention.committed(self._groups.files(), self._fleet.links.values())
        self._fleet.journal += 1  # half-generated samples move on into new segments
        self._fleet.wake()

    async def snapshot(self) -> dict[str, Any]:
        """What a restart needs besides the files: the ledger's state and position, as JSON. What it
        speaks of is on disk when it returns.
        """
        self._retention.flush(self._groups.files())
        return self._ledger.snapshot()

    # -- stopping -------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Admit nothing more, write down what is half-generated; a trainer that waits is told to
        save and end.
        """
        self._life.is_stopping = True
        self._fleet.journal += 1
        self._fleet.wake()
        self._life.changed.fire()

    async def close(self) -> None:
        """End every task, and tell the engines that the stage is over."""
        for link in self._fleet.links.values():
            link.over = True
        self._fleet.wake()
        await self._life.close()
        self._ledger.close()

    # -- within ---------------------------------------------------------------------------------

    def _admit(self) -> None:
        self._engines.admit()

    def _restore(self) -> None:
        self._groups.restore(self._retention.all())
        ledger, state = self._ledger, self._ledger.state
        if ledger.num_replayed or ledger.num_torn:
            self._tracker.event(
                "restored",
                step=state.next_step,
                buffered=len(state.buffered),
                unfinished=len(state.unfinished),
                torn=ledger.num_torn,
            )

    def _watch(self) -> None:
        if self._watcher is None and not self._life.is_closed:
            self._watcher = self._life.spawn(self._watch_for_ever(), "watching the deadlines")

    async def _watch_for_ever(self) -> None:
        while True:
            await asyncio.sleep(WATCHED_EVERY_S)
            now = asyncio.get_running_loop().time()
            self._engines.watch(now)
            self._groups.drop_late(now)
