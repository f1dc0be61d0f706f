"""The ledger: what became of every prompt draw, written before anybody acts on it.

Append-only JSON lines, one event each: opened, admitted, scored, accepted, filtered, dropped,
trained, published, committed. It is the record for people and audits, and the coordinator's
write-ahead log: a commit holds the state and the position up to which the file is part of it;
whatever stands after that is replayed. Every line reaches the operating system before the event has
consequences, so a killed coordinator can never hand a group out twice; a torn last line is cut off
and counted.

Only a commit waits for the disk. Where the power was cut, lines after it may be lost, or speak of
rollouts that are: the file ends then before the first such line, as the trainer too goes on from
its checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from posttrain.errors import StageFailed
from posttrain.files import flush
from posttrain.loop.machine import MachineState
from posttrain.types import RolloutRef, Score, StoredGroup, WeightVersion


@dataclass(slots=True)
class LedgerState:
    """What all events so far add up to. A draw that stands nowhere here and is below `next_draw`
    is settled: trained and committed, dropped or filtered.
    """

    next_draw: int = 0
    next_step: int = 0  # the first step whose batch was never handed out
    num_trained: int = 0
    num_dropped: int = 0
    num_filtered: int = 0
    num_refilled: int = 0  # of the filtered, those since the last batch was handed out first
    unfinished: dict[int, int] = field(default_factory=dict)  # draw: start version
    scored: dict[int, StoredGroup] = field(default_factory=dict)  # neither accepted nor filtered
    buffered: dict[int, StoredGroup] = field(default_factory=dict)  # in the order of acceptance
    served: dict[int, tuple[StoredGroup, ...]] = field(default_factory=dict)  # step: its batch
    weights: WeightVersion | None = None  # the last that the trainer has published

    # -- one method per event -------------------------------------------------------------------

    def admitted(self, draw: int, start: int) -> None:
        self.unfinished[draw] = start
        self.next_draw = max(self.next_draw, draw + 1)

    def score(self, group: StoredGroup) -> None:
        self.unfinished[group.draw] = group.start_version
        self.scored[group.draw] = group

    def accepted(self, draw: int) -> None:
        del self.unfinished[draw]
        self.buffered[draw] = self.scored.pop(draw)

    def filtered(self, draw: int) -> None:
        del self.unfinished[draw]
        del self.scored[draw]
        self.num_filtered += 1
        self.num_refilled += 1

    def dropped(self, draw: int, reason: str = "") -> None:
        del self.unfinished[draw]
        self.scored.pop(draw, None)
        self.num_dropped += 1

    def trained(self, step: int, draws: Sequence[int]) -> None:
        self.served[step] = tuple(self.buffered.pop(draw) for draw in sorted(draws))
        self.num_trained += len(draws)
        self.next_step = step + 1
        self.num_refilled = 0

    def published(self, **weights: Any) -> None:
        self.weights = WeightVersion(**weights)

    def committed(self, step: int) -> None:
        for done in [served for served in self.served if served < step]:
            del self.served[done]

    # -- as a whole -----------------------------------------------------------------------------

    def machine(self) -> MachineState:
        """What the coordinator's machine goes on from."""
        return MachineState(
            next_draw=self.next_draw,
            num_accepted=self.num_trained + len(self.buffered),
            next_step=self.next_step,
            unfinished=tuple(self.unfinished.items()),
            buffered=tuple((group.draw, group.start_version) for group in self.buffered.values()),
            served={
                step: tuple(group.draw for group in groups) for step, groups in self.served.items()
            },
            num_dropped=self.num_dropped,
            num_filtered=self.num_filtered,
            num_refilled=self.num_refilled,
        )

    def groups(self) -> Iterator[StoredGroup]:
        """Every group whose rollouts may still be read."""
        yield from self.scored.values()
        yield from self.buffered.values()
        for groups in self.served.values():
            yield from groups

    def to_json(self, base: str) -> dict[str, Any]:
        return {
            "next_draw": self.next_draw,
            "next_step": self.next_step,
            "num_trained": self.num_trained,
            "num_dropped": self.num_dropped,
            "num_filtered": self.num_filtered,
            "num_refilled": self.num_refilled,
            "unfinished": list(self.unfinished.items()),
            "scored": [_group_to_json(group, base) for group in self.scored.values()],
            "buffered": [_group_to_json(group, base) for group in self.buffered.values()],
            "served": [
                [step, [_group_to_json(group, base) for group in groups]]
                for step, groups in self.served.items()
            ],
            "weights": asdict(self.weights) if self.weights else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], base: str) -> LedgerState:
        scored = [_group_from_json(entry, base) for entry in data["scored"]]
        buffered = [_group_from_json(entry, base) for entry in data["buffered"]]
        return cls(
            next_draw=data["next_draw"],
            next_step=data["next_step"],
            num_trained=data["num_trained"],
            num_dropped=data["num_dropped"],
            num_filtered=data["num_filtered"],
            num_refilled=data["num_refilled"],
            unfinished={int(draw): start for draw, start in data["unfinished"]},
            scored={group.draw: group for group in scored},
            buffered={group.draw: group for group in buffered},
            served={
                int(step): tuple(_group_from_json(entry, base) for entry in groups)
                for step, groups in data["served"]
            },
            weights=WeightVersion(**weights) if (weights := data.get("weights")) else None,
        )


class Ledger:
    """Appends events to a file and keeps the state that they add up to."""

    def __init__(
        self,
        path: Path | None,
        snapshot: Mapping[str, Any] | None = None,
        *,
        look_only: bool = False,
        is_readable: Callable[[RolloutRef], bool] = lambda ref: True,
    ) -> None:
        """`snapshot` is what `snapshot()` gave to the last commit; with `look_only` the file stays
        as it is; `is_readable` says whether a rollout that is still wanted is there. Raises
        StageFailed where a line before the last is damaged.
        """
        self._base = f"{path.parent}/" if path else ""
        self._file: FileIO | None = None
        content = path.read_bytes() if path is not None and path.exists() else b""
        end = self._replay(content, snapshot, str(path))
        lost = {each.draw for each in self.state.groups() if not all(map(is_readable, each.refs))}
        if lost:
            end = self._replay(content, snapshot, str(path), lost)
        self.num_torn = int(end < len(content))
        if path is not None and not look_only:
            if end != len(content):
                _set_length(path, len(content), end)
            # Unbuffered: a line has left this process when the call returns, so a coordinator that
            # is killed afterwards has not forgotten it.
            self._file = FileIO(path, "ab")
            self._position = self._file.tell()
            self._write("opened", torn=self.num_torn)

    # -- what happens to a draw -----------------------------------------------------------------

    def admitted(self, draw: int, start_version: int) -> None:
        self.state.admitted(draw, start_version)
        self._write("admitted", draw=draw, start=start_version)

    def scored(self, group: StoredGroup) -> None:
        self.state.score(group)
        self._write("scored", **_group_to_json(group, self._base))

    def accepted(self, draw: int) -> None:
        self.state.accepted(draw)
        self._write("accepted", draw=draw)

    def filtered(self, draw: int) -> None:
        self.state.filtered(draw)
        self._write("filtered", draw=draw)

    def dropped(self, draw: int, reason: str) -> None:
        self.state.dropped(draw)
        self._write("dropped", draw=draw, reason=reason)

    def trained(self, step: int, draws: Sequence[int]) -> tuple[StoredGroup, ...]:
        """Hand out the batch of `step`. On return the line has left this process."""
        self.state.trained(step, draws)
        self._write("trained", step=step, draws=list(draws))
        return self.state.served[step]

    def published(self, weights: WeightVersion) -> None:
        """The trainer has announced new weights."""
        self.state.weights = weights
        self._write("published", **asdict(weights))

    def committed(self, step: int) -> None:
        """A checkpoint holds `step` trained batches: they are not handed out again."""
        self.state.committed(step)
        self._write("committed", step=step)

    # -- the file -------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Bytes written; it only grows, over restarts too."""
        return self._position

    def snapshot(self) -> dict[str, Any]:
        """State and position for a commit, as JSON. The file is on disk up to there."""
        if self._file is not None:
            path = Path(self._file.name)
            flush(path)
            flush(path.parent)
        return {"state": self.state.to_json(self._base), "position": self._position}

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _write(self, event: str, **details: Any) -> None:
        if self._file is None:
            return
        line = json.dumps({"event": event, **details}).encode() + b"\n"
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
                # A write is cut short where the disk gets full; the next one says so.
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._position)
            raise StageFailed(
                f"cannot write the ledger: {error.strerror}",
                place=self._file.name,
                help="make room on that disk and run posttrain resume",
            ) from error
        self._position += len(line)

    def _replay(
        self,
        content: bytes,
        snapshot: Mapping[str, Any] | None,
        place: str,
        lost: Collection[int] = (),
    ) -> int:
        """State and position after the snapshot and the lines behind it; where those end that
        count: before the first that says that a `lost` draw was scored.
        """
        stored = snapshot["state"] if snapshot else None
        self.state = LedgerState.from_json(stored, self._base) if stored else LedgerState()
        self.num_replayed = 0
        self._position = end = int(snapshot["position"]) if snapshot else 0
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[end:whole].splitlines(keepends=True)):
            try:
                if not self._apply(line, lost):
                    break
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise StageFailed(
                    f"a line of the ledger is damaged: line {number + 1} after byte "
                    f"{self._position}",
                    place=place,
                    help="restore the file, or remove the stage's folder to do the stage again",
                ) from error
            end += len(line)
            self.num_replayed += 1
        return end

    def _apply(self, line: bytes, lost: Collection[int]) -> bool:
        """Whether the line counts: not where the disk lost it, or what it speaks of."""
        if b"\0" in line:  # of a block that was never written
            return False
        event = json.loads(line) if line.strip() else {"event": "opened"}
        name = event.pop("event")
        if name == "scored":
            if event["draw"] in lost:
                return False
            self.state.score(_group_from_json(event, self._base))
        elif name != "opened":
            getattr(self.state, name)(**event)
        return True


def _set_length(path: Path, length: int, wanted: int) -> None:
    """Cut what counts no more: appended to, a torn line would swallow the next one. Or fill up with
    empty lines what was lost before a snapshot's position, which says where the next lines begin.
    """
    with path.open("ab") as file:
        if wanted < length:
            file.truncate(wanted)
        else:
            file.write(b"\n" * (wanted - length))


def _group_to_json(group: StoredGroup, base: str) -> dict[str, Any]:
    """Paths are kept relative to the stage's folder, so that a run may be moved."""
    return {
        "draw": group.draw,
        "start": group.start_version,
        "refs": [[ref.path.removeprefix(base), ref.offset] for ref in group.refs],
        "scores": [
            [score.value, score.passed, dict(score.parts), score.reason, score.seconds]
            for score in group.scores
        ],
    }


def _group_from_json(data: Mapping[str, Any], base: str) -> StoredGroup:
    return StoredGroup(
        draw=data["draw"],
        start_version=data["start"],
        refs=tuple(RolloutRef(os.path.join(base, path), offset) for path, offset in data["refs"]),
        scores=tuple(Score(*score) for score in data["scores"]),
    )
