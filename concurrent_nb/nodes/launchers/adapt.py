"""Decide how many slaves there should be, from the queue: more at once when tasks wait, fewer after a while. Pure."""

from collections import deque
from dataclasses import dataclass
from typing import Final

#: tasks must wait for so long before a slave is started for them: a moment's queue is gone before it has come
WAIT_BEFORE_UP_S: Final = 1.0
#: the need must have been lower for so long before slaves leave: a slave that comes back costs more than one that idles
WAIT_BEFORE_DOWN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ClusterLoad:
    """The master's numbers of tasks."""

    waiting: int  #: tasks that no slave has
    assigned: int  #: tasks that slaves have, running or next
    slots_per_slave: int  #: workers of a slave, as configured or as those that have joined have


class Adaptation:
    """Follows the load between a least and a most number of slaves.

    Args:
        least, most: numbers of slaves.
        wait_s: seconds for which the need must have been lower before slaves leave.
    """

    def __init__(self, least: int, most: int, wait_s: float = WAIT_BEFORE_DOWN_S) -> None:
        self.least = least
        self.most = most
        self._wait_s = wait_s
        self._waiting_since: float | None = None
        self._needs: deque[tuple[float, int]] = deque()  # (time, need), falling needs, the largest of the window first

    def wanted(self, now: float, current: int, load: ClusterLoad) -> int:
        """Return how many slaves there should be, if `current` are wanted now."""
        slots = max(1, load.slots_per_slave)
        need = min(self.most, max(self.least, -(-(load.waiting + load.assigned) // slots)))
        if not self._needs:
            self._needs.append((now, current))  # which was needed until now, as far as is known
        while self._needs and self._needs[-1][1] <= need:
            self._needs.pop()
        self._needs.append((now, need))
        while now - self._needs[0][0] > self._wait_s and len(self._needs) > 1:
            self._needs.popleft()
        if not load.waiting:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        current = min(self.most, max(self.least, current))
        if need > current:
            has_waited = self._waiting_since is not None and now - self._waiting_since >= WAIT_BEFORE_UP_S
            return need if has_waited or current == 0 else current
        return min(current, self._needs[0][1])
