"""Which engine has kept somebody waiting for too long: a pure function of what is known of it."""

from __future__ import annotations

from posttrain.errors import EngineFailed, WeightsDiffer
from posttrain.loop.fleet import Fleet, Link
from posttrain.loop.settings import LoopSettings
from posttrain.types import WeightVersion


def late(link: Link, fleet: Fleet, settings: LoopSettings, now: float) -> EngineFailed | None:
    """The reason to give an engine up; None: it is in time. `now` is the event loop's, seconds."""
    name, published = link.name, fleet.published
    if not link.waiting and now - link.seen_at > settings.silence_deadline_s:
        return EngineFailed(
            f"the coordinator has heard nothing of engine {name} for {now - link.seen_at:.0f} s"
        )
    if published is not None and link.told == published and link.is_behind(published):
        waited_s = now - link.told_at
        if waited_s > settings.sync_deadline_s:
            others = sorted(each.name for each in fleet.live() if not each.is_behind(published))
            answered = f"; engines {', '.join(others)} answered" if others else ""
            return EngineFailed(
                f"trainer rank 0 waited {waited_s:.0f} s for engine {name} to take version "
                f"{published.version}{answered}"
            )
    if now - link.progressed_at > settings.stuck_deadline_s:
        return EngineFailed(
            f"engine {name} has work and made no token for {now - link.progressed_at:.0f} s"
        )
    return None


def other_weights(
    name: str, answered: WeightVersion, published: WeightVersion
) -> WeightsDiffer | None:
    """An engine that computes with what nobody published; None: its answer is in order.

    Versions above the published one are in order where they are of an earlier attempt: the trainer
    was restarted and is not there again yet.
    """
    if answered.attempt != published.attempt or answered.version < published.version:
        return None
    if answered.version == published.version and answered.checksum == published.checksum:
        return None
    return WeightsDiffer(
        f"engine {name} answers with version {answered.version} ({answered.checksum[:8]}), the "
        f"trainer has published {published.version} ({published.checksum[:8]})",
        place=f"engine {name}",
        help="its unfinished rollouts go on elsewhere; the engine is replaced",
    )
