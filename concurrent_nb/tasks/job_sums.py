"""Sums over the tasks of a job that have ended: where its time went, and what it used.

Unlike the task log, they also hold for jobs of more tasks than the log keeps. Pure. Times are seconds of the master's
clock.
"""

from typing import Final

_US: Final = 1e-6
_KIB: Final = 1024


class SlotTime:
    """How long slots have been there, and idle: integrals over time, of all slaves together."""

    __slots__ = ("at_s", "idle_slot_s", "slot_s")

    def __init__(self) -> None:
        self.at_s: float | None = None  #: until when
        self.slot_s = 0.0  #: slots times seconds
        self.idle_slot_s = 0.0  #: idle slots times seconds

    def advance(self, now: float, slots: int, idle: int) -> None:
        """Count the time since the last call, in which there were so many slots, and so many of them idle."""
        if self.at_s is not None:
            passed_s = now - self.at_s
            self.slot_s += slots * passed_s
            self.idle_slot_s += idle * passed_s
        self.at_s = now


class JobSums:
    """Sums over the tasks of one job that have ended. `TaskLog.add` adds them."""

    __slots__ = (
        "_began",
        "_busy_s",
        "_idle_slot_s",
        "_slot_s",
        "acknowledged",
        "at_s",
        "cancelled",
        "cpu_us",
        "ended",
        "failed",
        "fetching_s",
        "in_bytes",
        "out_bytes",
        "peak_kib",
        "run_s",
        "since_accepted_s",
        "since_assigned_s",
    )

    def __init__(self) -> None:
        self.ended = 0  #: tasks
        self.failed = 0  #: ... of these
        self.cancelled = 0  #: ... of these
        self.acknowledged = 0  #: tasks whose results the owner has
        self.since_accepted_s = 0.0  #: from the acceptance of each task to its end
        self.since_assigned_s = 0.0  #: from the last assignment of each task to its end
        self.run_s = 0.0  #: what workers spent on the tasks
        self.cpu_us = 0
        self.peak_kib = 0  #: the largest
        self.in_bytes = 0  #: of arguments
        self.out_bytes = 0  #: of results
        self.fetching_s = 0.0  #: for which each result waited for its owner, until `at_s`
        self.at_s = 0.0
        # While the job has tasks: when that began, and the cluster's slot time then.
        self._began: tuple[float, float, float] | None = None
        self._busy_s = self._slot_s = self._idle_slot_s = 0.0

    def add_usage(self, cpu_us: int, peak_kib: int) -> None:
        """Add what a task has used."""
        self.cpu_us += cpu_us
        self.peak_kib = max(self.peak_kib, peak_kib)

    def advance(self, now: float) -> None:
        """Count the time for which results have waited for their owner."""
        self.fetching_s += (self.ended - self.acknowledged) * (now - self.at_s)
        self.at_s = now

    def acknowledge(self, count: int, now: float) -> None:
        """Note that the owner has the results of so many tasks."""
        self.advance(now)
        self.acknowledged += count

    def begin(self, slot_time: SlotTime, now: float) -> None:
        """Note that the job has tasks from now on."""
        self._began = now, slot_time.slot_s, slot_time.idle_slot_s

    def end(self, slot_time: SlotTime, now: float) -> None:
        """Note that the owner has the results of all tasks that have come."""
        self._busy_s, self._slot_s, self._idle_slot_s = self._busy(slot_time, now)
        self._began = None

    def describe(self, slot_time: SlotTime, now: float) -> dict[str, float]:
        """Return the sums, in seconds and bytes."""
        self.advance(now)
        busy_s, slot_s, idle_slot_s = self._busy(slot_time, now)
        return {
            "ended": self.ended,
            "failed": self.failed,
            "cancelled": self.cancelled,
            # Not less than nothing: sums of floats are rounded.
            "waiting_s": max(0.0, self.since_accepted_s - self.since_assigned_s),
            "shipping_s": max(0.0, self.since_assigned_s - self.run_s),
            "running_s": self.run_s,
            "fetching_s": self.fetching_s,
            "busy_s": busy_s,
            "slot_s": slot_s,
            "idle_slot_s": idle_slot_s,
            "cpu_s": self.cpu_us * _US,
            "peak_bytes": self.peak_kib * _KIB,
            "in_bytes": self.in_bytes,
            "out_bytes": self.out_bytes,
        }

    def _busy(self, slot_time: SlotTime, now: float) -> tuple[float, float, float]:
        if self._began is None:
            return self._busy_s, self._slot_s, self._idle_slot_s
        began_s, slot_s, idle_slot_s = self._began
        return (
            self._busy_s + now - began_s,
            self._slot_s + slot_time.slot_s - slot_s,
            self._idle_slot_s + slot_time.idle_slot_s - idle_slot_s,
        )
