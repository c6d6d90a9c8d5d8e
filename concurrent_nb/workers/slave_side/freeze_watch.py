"""Which processes are frozen: stopped by a signal, or waiting for a disk that does not answer. Pure.

A task may compute in C for an hour, hold the GIL or sleep, so the silence of a process says nothing. The system says
more: a frozen process is in the same state at every look and has done nothing in between. One that computes uses
processor time, and one that sleeps, waits for a lock or for a socket is in another state.

    ProcessReading of each process, every `interval_s` -> FreezeWatch.look -> FrozenProcess: tell it, later end it
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final

#: defaults of the settings: a process that is stopped, or waits for a disk, for so long is ended
STOPPED_S: Final = 5.0
HUNG_DISK_S: Final = 60.0
#: a wait for a disk is told after this time, in seconds
TELL_DISK_S: Final = 5.0
#: seconds between two looks
INTERVAL_S: Final = 1.0
#: after so many intervals without a look this process has stood still itself, as on a laptop that slept
GAP_INTERVALS: Final = 3


class StandstillState(Enum):
    """What a process does, as far as it matters here."""

    STOPPED = "stopped"  #: by SIGSTOP or SIGTSTP; not by a debugger
    DISK = "disk"  #: in a system call that signals do not interrupt, as of a file system
    OTHER = "other"  #: it computes, sleeps, or waits for something else


@dataclass(frozen=True, slots=True)
class ProcessReading:
    """What the system says about a process at one moment."""

    state: StandstillState
    cpu_s: float = 0.0  #: processor time that it has used
    switches: int = 0  #: how often it has given up its processor: grows with each wait that ends


@dataclass(frozen=True, slots=True)
class FrozenProcess:
    """A process that has done nothing for a while."""

    pid: int
    state: StandstillState
    frozen_s: float  #: for how long, at least
    is_over: bool  #: it is to be ended; else its user is to be told

    def __str__(self) -> str:
        if self.state is StandstillState.STOPPED:
            return f"has been stopped, as by SIGSTOP, for {self.frozen_s:.0f} s"
        return f"has waited {self.frozen_s:.0f} s for a disk or a network file system that does not answer"


@dataclass(slots=True)
class _Standstill:
    reading: ProcessReading
    since_s: float
    is_told: bool = False
    is_over: bool = False


class FreezeWatch:
    """Finds frozen processes among those that it is shown at every look.

    Args:
        stopped_s: seconds for which a process may be stopped before it is to be ended; 0: for ever.
        hung_disk_s: the same for one that waits for a disk.
    """

    def __init__(self, stopped_s: float = STOPPED_S, hung_disk_s: float = HUNG_DISK_S) -> None:
        limits = {StandstillState.STOPPED: stopped_s or inf, StandstillState.DISK: hung_disk_s or inf}
        self._limits_s = {**limits, StandstillState.OTHER: inf}
        self._tell_s = {state: min(TELL_DISK_S, limit_s) for state, limit_s in limits.items() if limit_s < inf}
        #: seconds between two looks; inf: none is needed
        self.interval_s = min([INTERVAL_S, *(limit_s / 4 for limit_s in limits.values())]) if self._tell_s else inf
        self._standstills: dict[int, _Standstill] = {}
        self._looked_at_s = -inf

    def look(self, now: float, readings: Mapping[int, ProcessReading]) -> list[FrozenProcess]:
        """Return the processes that are now frozen for long enough to tell it, or to end them: each once for each.

        Args:
            now: the time, in seconds.
            readings: all processes to watch, by pid. One that is missing begins anew when it is back.
        """
        if now - self._looked_at_s > GAP_INTERVALS * self.interval_s:
            self._standstills.clear()
        self._looked_at_s = now
        for pid in [pid for pid in self._standstills if pid not in readings]:
            del self._standstills[pid]
        found: list[FrozenProcess] = []
        for pid, reading in readings.items():
            if reading.state not in self._tell_s:
                self._standstills.pop(pid, None)
                continue
            known = self._standstills.get(pid)
            if known is None or known.reading != reading:
                self._standstills[pid] = _Standstill(reading, now)
            elif (frozen := self._judge(pid, known, now)) is not None:
                found.append(frozen)
        return found

    def _judge(self, pid: int, known: _Standstill, now: float) -> FrozenProcess | None:
        state, frozen_s = known.reading.state, now - known.since_s
        is_over = frozen_s >= self._limits_s[state]
        if known.is_over or frozen_s < self._tell_s[state] or (known.is_told and not is_over):
            return None
        known.is_told, known.is_over = True, is_over
        return FrozenProcess(pid, state, frozen_s, is_over)
