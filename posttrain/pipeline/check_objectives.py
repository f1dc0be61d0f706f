"""Whether an offline algorithm is one for its stage: for rows, for comparisons, or for scores."""

from __future__ import annotations

from pathlib import Path

from posttrain.config.document import Places
from posttrain.config.offline import (
    OfflineStage,
    PreferenceStage,
    RewardModelStage,
    SftStage,
)
from posttrain.config.plugins import load_plugin, offline_algorithms
from posttrain.errors import Problem
from posttrain.ports import Needs

_WANTED = {
    SftStage: ("sft", (False, False)),
    RewardModelStage: ("reward_model", (True, True)),
    PreferenceStage: ("preference", (True, False)),
}
"""Stage class -> (kind, what `NEEDS.pairs` and `NEEDS.score_head` have to be)."""


def wrong_objective(
    name: str, stage: OfflineStage, base_dir: str | Path, places: Places
) -> Problem | None:
    """A problem where the algorithm, which is known to load, belongs to another kind of stage."""
    algorithm = stage.algorithm  # type: ignore[attr-defined]
    kind, wanted = _WANTED[type(stage)]
    needs = load_plugin("algorithm", algorithm.name, base_dir).NEEDS
    if _form(needs) == wanted:
        return None
    key = f"stages.{name}.algorithm"
    file, line = places.of(key)
    belongs = next(other for other, form in _WANTED.values() if form == _form(needs))
    fitting = [each for each, module in offline_algorithms() if _form(module.NEEDS) == wanted]
    message = f"`{algorithm.name}` is an algorithm for {belongs} stages, this is a {kind} stage"
    help = f"for {kind} stages: {', '.join(fitting)}"
    return Problem("wrong-algorithm", message, key, file, line, help)


def _form(needs: Needs) -> tuple[bool, bool]:
    return needs.pairs or needs.score_head, needs.score_head
