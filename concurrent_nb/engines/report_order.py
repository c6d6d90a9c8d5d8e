"""The order of the reports of groups: an engine may bring the last one before others, or run a group twice. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from concurrent_nb.engines.group_messages import HostReport
from concurrent_nb.wire.codec import Buffer

#: a report and the buffers of its results
Reported = tuple[HostReport, list[list[Sequence[Buffer]]]]

#: seconds that a report waits for those before it
LATE_S: Final = 3.0


class _RunReports(Struct, eq=False):
    next_serial: int = 0
    held: dict[int, Reported] = {}


class ReportOrder:
    """Holds reports back until those before them have come."""

    def __init__(self) -> None:
        self._runs: dict[tuple[int, bytes], _RunReports] = {}
        self._waits_since: dict[tuple[int, bytes], float] = {}
        self._now = 0.0

    @property
    def due_at(self) -> float | None:
        """When to call `overdue` at the latest; None if no report is held back."""
        return min(self._waits_since.values(), default=None)

    def add(self, report: HostReport, buffers: list[list[Sequence[Buffer]]]) -> list[Reported]:
        """Add a report; return those that may be handled now, in order, or this one if it comes after all others."""
        key = report.number, report.run
        run = self._runs.setdefault(key, _RunReports())
        if report.serial < run.next_serial:  # it was given up, and comes all the same
            return [(report, buffers)]
        run.held[report.serial] = report, buffers
        return list(self._ready(key, run))

    def _ready(self, key: tuple[int, bytes], run: _RunReports) -> Iterator[Reported]:
        while run.next_serial in run.held:
            reported = run.held.pop(run.next_serial)
            run.next_serial += 1
            yield reported
            if reported[0].is_last:
                self.forget(key[0])
                return
        if run.held:
            self._waits_since.setdefault(key, self._now + LATE_S)
        else:
            self._waits_since.pop(key, None)

    def overdue(self, now: float) -> list[Reported]:
        """Return the reports whose predecessors are lost, as what an engine brings beside its results may be."""
        self._now = now
        found: list[Reported] = []
        for key in [key for key, due_at in self._waits_since.items() if now >= due_at]:
            del self._waits_since[key]
            run = self._runs[key]
            run.next_serial = min(run.held)
            found += self._ready(key, run)
        return found

    def forget(self, number: int) -> None:
        """Forget a group, which has ended."""
        for key in [key for key in self._runs if key[0] == number]:
            del self._runs[key]
            self._waits_since.pop(key, None)
