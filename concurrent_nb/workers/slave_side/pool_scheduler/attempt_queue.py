"""The attempts that wait for a worker: a queue from whose middle attempts can be removed. Pure."""

from collections import deque
from typing import Final

from concurrent_nb.workers.protocol.records import lengths
from concurrent_nb.workers.slave_side.attempts import Attempt

#: most tasks and most bytes in a pack (a single task may be larger)
PACK_MAX: Final = 64
PACK_BYTES_MAX: Final = 1024 * 1024


class AttemptQueue:
    """First in, first out; what is recalled goes to the front. `len` counts the attempts that wait.

    A removed attempt is only marked, and skipped later, so a removal costs the same at any position.
    """

    def __init__(self) -> None:
        self._queue: deque[Attempt] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, attempt: Attempt) -> None:
        """Add a new attempt at the end."""
        self._queue.append(attempt)
        self._count += 1

    def push_front(self, attempt: Attempt) -> None:
        """Add an attempt that a worker had at the front."""
        attempt.worker = 0
        self._queue.appendleft(attempt)
        self._count += 1

    def remove(self, attempt: Attempt) -> None:
        """Remove an attempt that waits here, at any position."""
        attempt.is_removed = True
        attempt.body, attempt.buffers = b"", ()  # the record may stay in the queue for a long time
        self._count -= 1

    def clear(self) -> list[Attempt]:
        """Remove all attempts, and return them in order."""
        left = [attempt for attempt in self._queue if not attempt.is_removed]
        self._queue.clear()
        self._count = 0
        return left

    def first(self) -> Attempt:
        """Return the first attempt. The queue must not be empty."""
        while self._queue[0].is_removed:
            self._queue.popleft()
        return self._queue[0]

    def next_function(self) -> bytes:
        """Return the digest of the first attempt's function. The queue must not be empty."""
        return self.first().function

    def pop_pack(self, size: int) -> list[Attempt]:
        """Remove a pack from the front: up to `size` neighbours of one job and function, if they fit."""
        first = self.first()
        pack: list[Attempt] = []
        room = PACK_BYTES_MAX
        while self._queue and len(pack) < size:
            attempt = self._queue[0]
            if not attempt.is_removed:
                room -= len(attempt.body) + (sum(lengths(attempt.sizes)) if attempt.sizes else 0)
                if pack and (attempt.function != first.function or attempt.job != first.job or room < 0):
                    break
                pack.append(attempt)
            self._queue.popleft()
        self._count -= len(pack)
        return pack

    def is_older_than(self, other: "AttemptQueue") -> bool:
        """Return whether the first attempt here came before the first one there. Neither queue may be empty."""
        return self.first().ticket < other.first().ticket
