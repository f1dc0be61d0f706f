"""Asking one reward from within another: what rewards that are made of others are built on.

class Config(StrictModel):
    score: RewardPlugin                                   # of posttrain.config.plugin

async def score(row, completion, config):
    inner = await scored(config.score, row, completion)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.config.plugin import Plugin, nested_plugins
from posttrain.config.plugins import load_plugin, plugin_config
from posttrain.errors import RewardBroken
from posttrain.reward.protocol import scored_by
from posttrain.types import Score

_LOADED: dict[str, tuple[Any, Any]] = {}


async def scored(plugin: Plugin, row: Mapping[str, Any], completion: str) -> Score:
    """The answer's score by another reward. Raises RewardBroken that names it where it breaks."""
    module, config = _loaded(plugin)
    try:
        return await scored_by(module, config, row, completion)
    except RewardBroken as error:
        raise RewardBroken(f"{plugin.name}: {error.message}", help=error.help) from error
    except Exception as error:  # boundary: a reward that raises is broken, its answer is not wrong
        message = f"{plugin.name}: score() raised {type(error).__name__}: {error}"
        raise RewardBroken(message[:500]) from error


def warm_up(module: Any, config: Any) -> None:
    """Have a reward, and whatever it is made of, load what it needs for its first answer."""
    if hasattr(module, "warm_up"):
        module.warm_up(config)
    for _, part in nested_plugins(config):
        warm_up(*_loaded(part))


def _loaded(plugin: Plugin) -> tuple[Any, Any]:
    """Module and Config, looked up once per process."""
    key = plugin.model_dump_json()
    if key not in _LOADED:
        module = load_plugin("reward", plugin.name)
        _LOADED[key] = module, plugin_config(module, plugin.settings)
    return _LOADED[key]
