"""Which live engine has the most free places, and the lowest version that any of them has.

Engines with a free place are kept in one heap per acknowledged version. An entry is not moved when
its engine's load changes: a newer one is pushed, and the old one is skipped when it comes to the
top. A heap that is mostly old entries is rebuilt, so every call costs O(log engines), amortised,
times the number of different versions in use (two or three).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

_ENTRIES_PER_ENGINE = 4  # more than this, on average, and a heap is rebuilt
_SMALL_HEAP = 64  # never rebuilt


class Engine:
    """A live engine: what it can hold, what it holds, which weights it has acknowledged."""

    __slots__ = ("acknowledged", "entry", "held", "name", "num_free", "num_running")

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.num_free = capacity  # sequences it has room for; negative where it holds too many
        self.num_running = 0  # sequences that it holds
        self.held: dict[int, int] = {}  # draw -> how many of its samples
        self.acknowledged: int | None = None
        self.entry = 0  # number of the one heap entry that describes it as it is now


class EngineLoads:
    """The live engines, by load and by acknowledged version."""

    def __init__(self) -> None:
        self.lowest: int | None = None  # acknowledged by a live engine
        self.largest = 0  # sequences that the largest live engine decodes together
        self.num_acknowledged = 0  # live engines that have acknowledged any version
        self._engines: dict[str, Engine] = {}
        self._num_at: dict[int, int] = {}  # version -> live engines that have acknowledged it
        self._heaps: dict[int, list[tuple[int, int, Engine]]] = {}  # (-free, entry, engine)
        self._num_entries = 0

    def __contains__(self, name: str) -> bool:
        return name in self._engines

    def get(self, name: str) -> Engine:
        """The live engine of this name. Raises ValueError where there is none."""
        engine = self._engines.get(name)
        if engine is None:
            raise ValueError(f"engine {name} has not joined, or is lost")
        return engine

    def join(self, name: str, capacity: int) -> None:
        """A new engine, not to be used before it acknowledges a version."""
        if name in self._engines:
            raise ValueError(f"engine {name} has joined already")
        if capacity < 1:
            raise ValueError(f"engine {name} joins with room for {capacity} sequences")
        self._engines[name] = Engine(name, capacity)
        self.largest = max(self.largest, capacity)

    def acknowledge(self, name: str, version: int) -> None:
        """The engine computes with this version from now on; an older one is not believed."""
        engine = self.get(name)
        before = engine.acknowledged
        if before is not None and version <= before:
            return
        self._num_at[version] = self._num_at.get(version, 0) + 1
        if before is None:
            self.num_acknowledged += 1
        else:
            self._leave(before)
        engine.acknowledged = version
        self.lowest = min(self._num_at)
        self._changed(engine)

    def lose(self, name: str) -> Engine:
        """Forget a live engine; its `held` says what it leaves behind."""
        engine = self.get(name)
        del self._engines[name]
        self.largest = max((e.num_free + e.num_running for e in self._engines.values()), default=0)
        engine.entry = 0
        if engine.acknowledged is not None:
            self.num_acknowledged -= 1
            self._leave(engine.acknowledged)
            self.lowest = min(self._num_at, default=None)
        return engine

    def give(self, engine: Engine, draw: int, num_samples: int) -> None:
        """The engine holds so many more samples of this draw."""
        engine.held[draw] = engine.held.get(draw, 0) + num_samples
        engine.num_running += num_samples
        engine.num_free -= num_samples
        self._changed(engine)

    def take(self, engine: Engine, draw: int) -> None:
        """The engine holds one sample less of this draw."""
        left = engine.held[draw] - 1
        if left:
            engine.held[draw] = left
        else:
            del engine.held[draw]
        engine.num_running -= 1
        engine.num_free += 1
        self._changed(engine)

    def freest(self, min_version: int = 0, avoid: str | None = None) -> Engine | None:
        """The engine with the most free places, of those that have acknowledged `min_version`.

        The one that has had its load for longest where several are equal. None where no place is
        free. `avoid` is the name of an engine that is not wanted.
        """
        best: tuple[int, int, Engine] | None = None
        for version, heap in self._heaps.items():
            if version < min_version:
                continue
            while heap and heap[0][1] != heap[0][2].entry:
                heappop(heap)
            top = heap[0] if heap else None
            if top is not None and top[2].name == avoid:
                top = self._second(heap)
            if top is not None and (best is None or top < best):
                best = top
        return best[2] if best is not None else None

    def _changed(self, engine: Engine) -> None:
        version, num_free = engine.acknowledged, engine.num_free
        if version is None or num_free <= 0:
            engine.entry = 0
            return
        heap = self._heaps.get(version)
        if heap is None:
            heap = self._heaps[version] = []
        elif len(heap) > max(_SMALL_HEAP, _ENTRIES_PER_ENGINE * self._num_at[version]):
            heap[:] = [entry for entry in heap if entry[1] == entry[2].entry]
            heapify(heap)
        engine.entry = self._num_entries = self._num_entries + 1
        heappush(heap, (-num_free, engine.entry, engine))

    def _second(self, heap: list[tuple[int, int, Engine]]) -> tuple[int, int, Engine] | None:
        first = heappop(heap)
        while heap and heap[0][1] != heap[0][2].entry:
            heappop(heap)
        second = heap[0] if heap else None
        heappush(heap, first)
        return second

    def _leave(self, version: int) -> None:
        self._num_at[version] -= 1
        if not self._num_at[version]:
            del self._num_at[version]
            self._heaps.pop(version, None)  # what is left in it is old
