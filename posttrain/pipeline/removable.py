"""What may go of a run folder: rules on what was found in it, and nothing that reads or removes.

What `resume`, `report`, `chat`, another run or a finished stage needs is never listed:

- of a stage that is done its result, its records and its rollouts stay, its checkpoints may go;
- of a stage that is not done the checkpoint that its commit pointer names stays;
- of stages whose identity `run.json` no longer uses, those stay that something links to (`best`,
  another run), and the newest that is done while the identity in use is not: until then it is what
  `chat RUN/STAGE` answers with.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["checkpoints", "stages", "leftovers"]
KINDS: tuple[Kind, ...] = ("checkpoints", "stages", "leftovers")

TRASH = ".removing-"  # prefix of what is being removed: it was moved to the top of the run
CHECKPOINTS = "checkpoints"
ONLY_UNTIL_DONE = (
    "journal",
    "soups",
    "shares",
    "scored",
    "asked",
    "best.safetensors",
    "reference_logprobs.safetensors",
)
"""What goes, with the checkpoints, once a stage's manifest says that it is done: never before, or a
kill in between would leave neither a finished stage nor what to go on from.
"""

_TOP = re.compile(r"\.best|\.removing-\w+|\..+\.partial-\d+")
_HALF_WRITTEN = re.compile(r"\..+\.partial(-\d+)?|\..+\.replaced-\d+")
_MERGE = re.compile(r"\..+\.merging")  # goes on where it stopped


@dataclass(frozen=True, slots=True)
class FoundStage:
    """A folder `STAGE/IDENTITY` that has a manifest of its own."""

    stage: str
    identity: str
    is_done: bool
    ended: float = 0.0  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Removable:
    """One thing that may go.

    Example: Removable("checkpoints", Path("runs/mine/sft/4f1c9a2e/checkpoints"), 1_200_000,
    "the stage is done")
    """

    kind: Kind
    path: Path
    bytes: int
    why: str


def superseded(
    found: Iterable[FoundStage],
    used: Mapping[str, str],
    linked: Collection[tuple[str, str]] = (),
) -> list[FoundStage]:
    """Stages that may go whole, in the order given.

    `used` is run.json's identity of each stage; `linked` are (stage, identity) that something
    outside of them points to.
    """
    stages = list(found)
    done_in_use = {each.stage for each in stages if each.is_done and _is_used(each, used)}
    stand_ins = {
        (each.stage, each.identity)
        for stage in used.keys() - done_in_use
        if (each := _newest_done(stages, stage)) is not None
    }
    return [
        each
        for each in stages
        if not _is_used(each, used)
        and (each.stage, each.identity) not in linked
        and (each.stage, each.identity) not in stand_ins
    ]


def _is_used(stage: FoundStage, used: Mapping[str, str]) -> bool:
    return used.get(stage.stage) == stage.identity


def _newest_done(stages: Iterable[FoundStage], name: str) -> FoundStage | None:
    done = [each for each in stages if each.stage == name and each.is_done]
    return max(done, key=lambda each: (each.ended, each.identity), default=None)


def is_top_leftover(name: str) -> bool:
    """Whether an entry of the run folder itself is what a process that was killed left behind."""
    return _TOP.fullmatch(name) is not None


def is_leftover(name: str, stage_is_done: bool) -> bool:
    """Whether an entry inside a stage's folder is half-written: only while no run writes there."""
    if _HALF_WRITTEN.fullmatch(name):
        return True
    return stage_is_done and _MERGE.fullmatch(name) is not None


def totals(found: Iterable[Removable]) -> dict[Kind, int]:
    """Bytes by kind; every kind is there."""
    sums: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    for each in found:
        sums[each.kind] += each.bytes
    return sums


def size(num_bytes: int) -> str:
    """`0 B`, `999 B`, `1.2 kB`, `4.1 GB`, `186 GB`: decimal units, as disks are sold in."""
    value, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if unit != "B" and value < 9.95 else f"{value:.0f} {unit}"
