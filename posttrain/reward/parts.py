"""Asking one reward from within another: what rewards that are made of others are built on.

    class Config(StrictModel):
        score: RewardPlugin                                   # of posttrain.config.plugin

    async def score(row, completion, config):
        inner = await scored(config.score, row, completion)

Where some part waits for something outside, answers are scored side by side. Then each part has a
time limit of its own for each answer, and parts that compute have a thread, one at a time, so that
nobody waits for them but those who come after. A thread cannot be killed: where one is over its
limit the process has to end (`Stuck`).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

from posttrain.config.plugin import Plugin, nested_plugins
from posttrain.config.plugins import load_plugin, plugin_config
from posttrain.errors import RewardBroken
from posttrain.reward.protocol import is_batched, scored_by
from posttrain.types import Score


class Stuck(RewardBroken):
    """A part computes and does not end: no other can, in this process."""


class _SideBySide:
    """How answers that are scored side by side are held to their limits; None: they are not."""

    limit_s: float | None = None
    thread = asyncio.Lock()


async def scored(plugin: Plugin, row: Mapping[str, Any], completion: str) -> Score:
    """The answer's score by another reward. Raises RewardBroken that names it where it breaks."""
    module, config = _loaded(plugin)
    try:
        return await within_limit(module, config, row, completion)
    except RewardBroken as error:
        message = f"{plugin.name}: {error.message}"
        raise type(error)(message, help=error.help) from error
    except Exception as error:  # boundary: a reward that raises is broken, its answer is not wrong
        message = f"{plugin.name}: score() raised {type(error).__name__}: {error}"
        raise RewardBroken(message[:500]) from error


async def within_limit(module: Any, config: Any, row: Mapping[str, Any], completion: str) -> Score:
    """`scored_by`, held to the limit where answers are scored side by side."""
    limit_s = _SideBySide.limit_s
    if limit_s is None or any(nested_plugins(config)):  # parts have limits of their own
        return await scored_by(module, config, row, completion)
    if waits(module, config):
        return await _waited_for(module, config, row, completion, limit_s)
    async with _SideBySide.thread:
        return await _computed(module, config, row, completion, limit_s)


async def _waited_for(
    module: Any, config: Any, row: Mapping[str, Any], completion: str, limit_s: float
) -> Score:
    try:
        async with asyncio.timeout(limit_s) as limit:
            return await scored_by(module, config, row, completion)
    except TimeoutError:
        if not limit.expired():
            raise  # the reward's own
        raise _late(RewardBroken, limit_s) from None


async def _computed(
    module: Any, config: Any, row: Mapping[str, Any], completion: str, limit_s: float
) -> Score:
    work = asyncio.create_task(
        asyncio.to_thread(lambda: asyncio.run(scored_by(module, config, row, completion)))
    )
    done, _ = await asyncio.wait({work}, timeout=limit_s)
    if not done:
        raise _late(Stuck, limit_s)
    return work.result()


def _late(kind: type[RewardBroken], limit_s: float) -> RewardBroken:
    return kind(f"no score within {limit_s:g} s", help="see the verifier's file, or timeout_s")


def side_by_side(limit_s: float) -> None:
    """From now on this process scores many answers at once, each part within `limit_s`."""
    _SideBySide.limit_s = limit_s


def waits(module: Any, config: Any) -> bool:
    """Whether a reward, or a part of it, waits for something outside or takes batches: then answers
    are scored side by side.
    """
    parts = [part for _, part in nested_plugins(config)]
    if parts:
        return any(waits(*_loaded(part)) for part in parts)
    return is_batched(module) or inspect.iscoroutinefunction(getattr(module, "score", None))


def num_parts(module: Any, config: Any) -> int:
    """How many times rewards that are not made of others are asked for one score at most, itself
    included; again for each answer of the row that is compared with.
    """
    parts = [_loaded(part) for _, part in nested_plugins(config)]
    if not parts:
        return 1
    columns = module.baseline_columns(config) if hasattr(module, "baseline_columns") else ()
    return (1 + len(columns)) * sum(num_parts(*part) for part in parts)


def warm_up(module: Any, config: Any) -> None:
    """Have a reward, and whatever it is made of, load what it needs for its first answer."""
    if hasattr(module, "warm_up"):
        module.warm_up(config)
    for _, part in nested_plugins(config):
        warm_up(*_loaded(part))


_LOADED: dict[str, tuple[Any, Any]] = {}


def _loaded(plugin: Plugin) -> tuple[Any, Any]:
    """Module and Config, looked up once per process."""
    key = plugin.model_dump_json()
    if key not in _LOADED:
        module = load_plugin("reward", plugin.name)
        _LOADED[key] = module, plugin_config(module, plugin.settings)
    return _LOADED[key]
