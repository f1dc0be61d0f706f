"""Answers that are not trained on: log-prob probes, and held-out questions asked while training.

They run on the same engines, between the training samples, and take no place in the admission
rule.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.loop.fleet import Fleet, Link
from posttrain.types import FailedSample, FinishedSample, Lane, Prompt, Sampling, Work


@dataclass(slots=True)
class _Asked:
    prompt: Prompt
    engine: str
    answer: asyncio.Future[FinishedSample | None]


class SideWork:
    """Hands single questions to engines and gathers the answers. For one event loop."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._asked: dict[tuple[Lane, int], _Asked] = {}
        # Engines may still answer what an earlier coordinator has asked.
        self._numbers = time.time_ns() // 1000

    async def ask(
        self,
        lane: Lane,
        questions: Sequence[tuple[str, Prompt]],
        sampling: Sampling,
        patience_s: float,
    ) -> list[tuple[str, Prompt, FinishedSample]]:
        """The answers, each with who gave it: one per (engine, prompt). Missing are those of
        engines that were lost meanwhile, and those that have not come in time: engines are told to
        let them be.
        """
        keys = [
            self._hand_out(lane, engine, prompt, sampling)
            for engine, prompt in questions
            if engine in self._fleet.links
        ]
        try:
            if keys:
                await asyncio.wait([self._asked[key].answer for key in keys], timeout=patience_s)
        finally:
            over = [self._give_up(key) for key in keys]
        answers = []
        for asked in over:
            answer = asked.answer.result() if asked.answer.done() else None
            if answer is not None:
                answers.append((asked.engine, asked.prompt, answer))
        return answers

    def is_wanted(self, lane: Lane, number: int) -> bool:
        """Whether somebody waits for this answer."""
        return (lane, number) in self._asked

    def finished(self, sample: FinishedSample) -> None:
        self._resolve((sample.lane, sample.draw), sample)

    def failed(self, sample: FailedSample) -> None:
        self._resolve((sample.lane, sample.draw), None)

    def lost(self, link: Link) -> None:
        """What this engine was asked has no answer."""
        for key, asked in list(self._asked.items()):
            if asked.engine == link.name:
                self._resolve(key, None)

    def _hand_out(
        self, lane: Lane, engine: str, prompt: Prompt, sampling: Sampling
    ) -> tuple[Lane, int]:
        self._numbers += 1
        key = lane, self._numbers
        self._asked[key] = _Asked(prompt, engine, asyncio.get_running_loop().create_future())
        link = self._fleet.links[engine]
        link.works.append(Work(*key, (0,), prompt, sampling))
        link.news.fire()
        return key

    def _resolve(self, key: tuple[Lane, int], answer: FinishedSample | None) -> None:
        asked = self._asked.get(key)
        if asked is not None and not asked.answer.done():
            asked.answer.set_result(answer)

    def _give_up(self, key: tuple[Lane, int]) -> _Asked:
        """The question is over, answered or not."""
        asked = self._asked.pop(key)
        link = self._fleet.links.get(asked.engine)
        if link is not None and not asked.answer.done():
            link.unwanted(*key)
        return asked
