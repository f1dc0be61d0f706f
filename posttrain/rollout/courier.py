"""The conversation of one engine's process with the coordinator: reports up, directives down.

    worker --news--> Courier --EngineReport--> coordinator
    worker <------------------Directive--------- coordinator

What has been told once is kept until the coordinator has answered: delivery is at least once, in
order. With nothing to tell, one call stays open, so that the coordinator's news arrive at once. As
soon as something finished, a second call tells it; the coordinator then ends the first one, and
where it does not, that call is given up and what it told is told again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from posttrain.errors import DeadlineExceeded, StageFailed
from posttrain.ports import CoordinatorPort
from posttrain.types import Directive, EngineReport, FailedSample, FinishedSample, SyncReport

News = FinishedSample | FailedSample | SyncReport
UNREACHABLE = (StageFailed, DeadlineExceeded, OSError)  # OSError: broken connections, timeouts
MOST_CALLS = 2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class Letter:
    """What one call tells that has not been told before."""

    news: tuple[News, ...]
    number: int  # of the directives that had arrived when it was written
    everything: bool  # it names all samples that the engine holds

    @property
    def finished(self) -> tuple[FinishedSample, ...]:
        return tuple(each for each in self.news if isinstance(each, FinishedSample))

    @property
    def failed(self) -> tuple[FailedSample, ...]:
        return tuple(each for each in self.news if isinstance(each, FailedSample))

    @property
    def sync(self) -> SyncReport | None:
        newest_first = reversed(self.news)
        return next((each for each in newest_first if isinstance(each, SyncReport)), None)


class Courier:
    """`write` makes the report for a letter; `obey` does what a directive says, without waiting."""

    def __init__(
        self,
        coordinator: CoordinatorPort,
        write: Callable[[Letter], Awaitable[EngineReport]],
        obey: Callable[[Directive], None],
        *,
        name: str,
        gather_s: float = 0.015,
        call_deadline_s: float = 60.0,
        deadline_s: float = 120.0,
    ) -> None:
        self._coordinator = coordinator
        self._write = write
        self._obey = obey
        self._name = name
        self._gather_s = gather_s
        self._call_deadline_s = call_deadline_s
        self._deadline_s = deadline_s
        self._outbox: list[News] = []
        self._calls: dict[asyncio.Task[Directive], Letter] = {}  # oldest first
        self._has_news = False
        self._woken = asyncio.Event()  # there is an answer or news
        self._sent_at = float("-inf")  # of the loop's time
        self._received = 0
        self._newest_weights = 0  # number of the directive that brought them
        self._everything = True  # the next letter names all samples held
        self._over = False
        self._away_since: float | None = None
        self._pause_s = FIRST_PAUSE_S

    def tell(self, *news: News) -> None:
        """Put news into the outbox. Without any: just ask what there is to do."""
        self._outbox += news
        self._has_news = True
        self._woken.set()

    async def run(self) -> None:
        """Talk until the stage is over. Raises DeadlineExceeded if the coordinator stays away."""
        try:
            while True:
                if self._has_news:
                    await self._gather()
                    await self._make_room()
                await self._take_answers()  # first, so that the report confirms them
                if self._over:
                    return
                if self._has_news or not self._calls:
                    await self._send()
                await self._woken.wait()
                self._woken.clear()
        finally:
            for call in self._calls:
                call.cancel()

    async def _gather(self) -> None:
        """Leave some time between two reports: what ends meanwhile is told together."""
        wait_s = self._sent_at + self._gather_s - asyncio.get_running_loop().time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    async def _send(self) -> None:
        self._has_news = False
        letter = Letter(tuple(self._outbox), self._received, self._everything)
        self._outbox.clear()
        self._everything = False
        report = await self._write(letter)
        self._sent_at = asyncio.get_running_loop().time()
        call = asyncio.ensure_future(self._exchange(report))
        call.add_done_callback(lambda _: self._woken.set())
        self._calls[call] = letter

    async def _exchange(self, report: EngineReport) -> Directive:
        async with asyncio.timeout(self._call_deadline_s):
            return await self._coordinator.exchange(report)

    async def _make_room(self) -> None:
        """Let the oldest call end, or end it."""
        if len(self._calls) < MOST_CALLS:
            return
        await asyncio.wait(self._calls, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
        if not any(call.done() for call in self._calls):
            oldest = next(iter(self._calls))
            self._take_back(self._calls.pop(oldest))
            oldest.cancel()

    async def _take_answers(self) -> None:
        failure: BaseException | None = None
        for call in [call for call in self._calls if call.done()]:
            letter = self._calls.pop(call)
            error = call.exception()
            if error is None:
                self._answered(call.result())
            elif isinstance(error, UNREACHABLE):
                self._take_back(letter)
                failure = error
            else:
                raise error
        if failure is not None:
            await self._be_patient(failure)

    def _answered(self, directive: Directive) -> None:
        self._away_since, self._pause_s = None, FIRST_PAUSE_S
        self._received = max(self._received, directive.number)
        self._over = self._over or directive.end
        if directive.weights is not None and directive.number < self._newest_weights:
            directive = replace(directive, weights=None)  # overtaken on the way
        elif directive.weights is not None:
            self._newest_weights = directive.number
        self._obey(directive)

    def _take_back(self, letter: Letter) -> None:
        self._outbox[:0] = letter.news
        self._has_news = True
        self._everything = self._everything or letter.everything

    async def _be_patient(self, error: BaseException) -> None:
        """The coordinator may be another one when it comes back: what it knew is told again."""
        now = asyncio.get_running_loop().time()
        self._received, self._newest_weights, self._everything = 0, 0, True
        if self._away_since is None:
            self._away_since = now
        if now - self._away_since >= self._deadline_s:
            raise DeadlineExceeded(
                f"engine {self._name} waited {now - self._away_since:.0f} s for the coordinator: "
                f"{error}",
                help="look at the coordinator's log; finished rollouts are kept in the journal",
            ) from error
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
