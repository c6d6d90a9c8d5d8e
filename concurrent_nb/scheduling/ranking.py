"""Keys in the order of a number that may change: deadlines, slaves by rating.

A heap with lazy entries: a changed or discarded key leaves its old entry in the heap, which is skipped at the top, and
removed before old entries outnumber valid ones. So every call is O(log n), and memory is proportional to the keys.
"""

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

#: fewest old entries that are removed together
_SWEEP_FROM = 64


class Ranking(Generic[K]):
    """A set of keys, each with a rank; equal ranks come in the order in which they were set."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, K]] = []
        self._entries: dict[K, tuple[float, int, K]] = {}
        self._serial = count()
        self.soonest = inf  #: the lowest rank, infinite without keys; cheaper to read than `first`

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def set(self, key: K, rank: float) -> None:
        """Add a key, or change its rank."""
        # The serial number keeps heapq from comparing keys.
        entry = (rank, next(self._serial), key)
        before = self._entries.get(key)
        self._entries[key] = entry
        heappush(self._heap, entry)
        if rank < self.soonest:
            self.soonest = rank
        elif before is not None and before[0] == self.soonest:
            self.first()
        if len(self._heap) > 2 * len(self._entries) + _SWEEP_FROM:
            self._sweep()

    def discard(self, key: K) -> None:
        """Remove a key if it is there."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        if entry[0] == self.soonest:
            self.first()
        if len(self._heap) > 2 * len(self._entries) + _SWEEP_FROM:
            self._sweep()

    def first(self) -> tuple[float, K] | None:
        """Return the lowest rank and its key, None if there is no key."""
        heap, entries = self._heap, self._entries
        while heap:
            entry = heap[0]
            if entries.get(entry[2]) is entry:
                self.soonest = entry[0]
                return entry[0], entry[2]
            heappop(heap)
        self.soonest = inf
        return None

    def second_rank(self) -> float | None:
        """Return the lowest rank but one, None if there are fewer than two keys."""
        if self.first() is None:
            return None
        entry = heappop(self._heap)
        runner_up = self.first()
        heappush(self._heap, entry)
        self.soonest = entry[0]
        return None if runner_up is None else runner_up[0]

    def take_up_to(self, limit: float) -> list[K]:
        """Remove and return all keys whose rank is `limit` or less, lowest first."""
        taken: list[K] = []
        if limit < self.soonest:
            return taken
        while (first := self.first()) is not None and first[0] <= limit:
            del self._entries[first[1]]
            taken.append(first[1])
        return taken

    def _sweep(self) -> None:
        self._heap = list(self._entries.values())
        heapify(self._heap)
