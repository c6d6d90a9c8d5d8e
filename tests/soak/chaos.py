"""The faults of the soak: processes of one cluster are killed and stopped, as a seed decides."""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import psutil

from concurrent_nb import Cluster

#: mean of the seconds between two faults
PAUSE_S: Final = 0.5
#: seconds between two faults of a slave: one that dies more often is not started again
SLAVE_PAUSE_S: Final = 10.0
#: most seconds after which some of what was stopped goes on
THAW_S: Final = 0.4


class Chaos:
    """Kills and stops processes of an embedded cluster, and only those.

    Args:
        cluster: its slaves are children of this process.
        chance: decides.
    """

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.done: Counter[str] = Counter()  #: faults by kind
        self._cluster = cluster
        self._chance = chance
        self._next_s = 0.0
        self._next_slave_s = 0.0
        self._thaws: list[tuple[float, int]] = []  # when a stopped process goes on
        self._faults: Final[tuple[tuple[str, int, Callable[[], list[int]], int], ...]] = (
            ("worker killed", 6, self._workers, signal.SIGKILL),
            ("worker stopped", 2, self._workers, signal.SIGSTOP),
            ("worker stopped for a moment", 2, self._workers, signal.SIGSTOP),
            ("template killed", 1, self._templates, signal.SIGKILL),
            ("template stopped", 1, self._templates, signal.SIGSTOP),
            ("slave killed", 1, self._slaves, signal.SIGKILL),
            ("slave stopped", 1, self._slaves, signal.SIGSTOP),
        )

    def turn(self) -> None:
        """Cause a fault, if it is time for one."""
        now = time.monotonic()
        for thaw in [each for each in self._thaws if now >= each[0]]:
            self._thaws.remove(thaw)
            _signal(thaw[1], signal.SIGCONT)
        if now < self._next_s:
            return
        self._next_s = now + self._chance.expovariate(1 / PAUSE_S)
        ((kind, _, candidates, number),) = self._chance.choices(
            self._faults, [weight for _, weight, *_ in self._faults]
        )
        if kind.startswith("slave"):
            if now < self._next_slave_s:
                return
            self._next_slave_s = now + SLAVE_PAUSE_S
        if not (pids := candidates()):
            return
        pid = self._chance.choice(sorted(pids))
        if _signal(pid, number):
            self.done[kind] += 1
        if kind.endswith("for a moment"):
            self._thaws.append((now + self._chance.uniform(0, THAW_S), pid))

    def end(self) -> None:
        """Let go on what was stopped for a moment."""
        for _, pid in self._thaws:
            _signal(pid, signal.SIGCONT)
        self._thaws.clear()

    def _slaves(self) -> list[int]:
        return [slave.process.pid for slave in tuple(self._cluster._slaves) if slave.process.poll() is None]

    def _templates(self) -> list[int]:
        return _children(self._slaves())

    def _workers(self) -> list[int]:
        return _children(self._templates())


def _children(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child.pid for child in psutil.Process(pid).children()]
    return found


def _signal(pid: int, number: int) -> bool:
    """Signal a process, if it is still a descendant of this one."""
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        if os.getpid() in (parent.pid for parent in psutil.Process(pid).parents()):
            os.kill(pid, number)
            return True
    return False
