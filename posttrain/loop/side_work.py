"""Answers that are not trained on: log-prob probes, and held-out questions asked while training.

They run on the same engines, between the training samples, and take no place in the admission
rule.
"""

from __future__ import annotations

import asyncio
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
        self._numbers = 0

    async def ask(
        self, lane: Lane, questions: Sequence[tuple[str, Prompt]], sampling: Sampling
    ) -> list[tuple[Prompt, FinishedSample]]:
        """One answer per (engine, prompt); those of engines that were lost meanwhile are missing.

        The caller bounds the wait.
        """
        futures = [
            self._hand_out(lane, engine, prompt, sampling)
            for engine, prompt in questions
            if engine in self._fleet.links
        ]
        try:
            answers = await asyncio.gather(*(asked.answer for asked in futures))
        finally:
            self._asked = {
                key: asked for key, asked in self._asked.items() if not asked.answer.done()
            }
        return [
            (asked.prompt, answer)
            for asked, answer in zip(futures, answers, strict=True)
            if answer is not None
        ]

    def finished(self, sample: FinishedSample) -> None:
        self._resolve((sample.lane, sample.draw), sample)

    def failed(self, sample: FailedSample) -> None:
        self._resolve((sample.lane, sample.draw), None)

    def lost(self, link: Link) -> None:
        """What this engine was asked has no answer."""
        for key, asked in list(self._asked.items()):
            if asked.engine == link.name:
                self._resolve(key, None)

    def _hand_out(self, lane: Lane, engine: str, prompt: Prompt, sampling: Sampling) -> _Asked:
        self._numbers += 1
        asked = _Asked(prompt, engine, asyncio.get_running_loop().create_future())
        self._asked[lane, self._numbers] = asked
        link = self._fleet.links[engine]
        link.works.append(Work(lane, self._numbers, (0,), prompt, sampling))
        link.news.set()
        return asked

    def _resolve(self, key: tuple[Lane, int], answer: FinishedSample | None) -> None:
        asked = self._asked.pop(key, None)
        if asked is not None and not asked.answer.done():
            asked.answer.set_result(answer)
