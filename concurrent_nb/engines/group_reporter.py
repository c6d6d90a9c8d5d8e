"""Reports of a group while it runs in a host. Results come with its end, or when a slow task holds them up."""

import logging
import time
from collections.abc import Callable
from typing import Final

from concurrent_nb.engines.group_messages import HostReport, Parcel, pack
from concurrent_nb.foreign import describe
from concurrent_nb.wire import messages as m
from concurrent_nb.workers.slave_side.attempts import PoolReports

log = logging.getLogger(__name__)

#: output and starts are reported after this time, in seconds; outcomes that a slow task holds up after REPORT_LATE_S
REPORT_S: Final = 0.03
REPORT_LATE_S: Final = 0.2

#: sends a report while the group runs
Report = Callable[[Parcel], None]


class GroupReporter:
    """Gathers the reports of a group, and sends them while it runs.

    Args:
        number: the group's.
        run: names this run of the group.
        host: name of the host.
        report: sends a report; None: all comes with the last one.
    """

    def __init__(self, number: int, run: bytes, host: bytes, report: Report | None) -> None:
        self.number = number
        self.due_at: float | None = None  #: when to call `send`; None: nothing is urgent
        self._run = run
        self._host = host
        self._report = report
        self._serial = 0
        self._reports = PoolReports()

    def add(self, reports: PoolReports) -> None:
        """Add what has happened."""
        ours = self._reports
        ours.output += reports.output
        ours.started += reports.started
        ours.returned += reports.returned
        ours.stacks += reports.stacks
        ours.outcomes += reports.outcomes
        if self._report is None:
            return
        now = time.monotonic()
        urgent = bool(ours.output or ours.started or ours.returned or ours.stacks)
        if urgent:
            self.due_at = now + REPORT_S if self.due_at is None else min(self.due_at, now + REPORT_S)
        elif ours.outcomes and self.due_at is None:
            self.due_at = now + REPORT_LATE_S

    def send(self) -> None:
        """Send what has been added, but for large results, which come with the last report."""
        self.due_at = None
        if self._report is None:
            return
        late = [it for it in self._reports.outcomes if any(it[2])]
        self._reports.outcomes = [it for it in self._reports.outcomes if not any(it[2])]
        parcel = self._parcel(is_last=False)
        self._reports.outcomes = late
        try:
            self._report(parcel)
        except Exception as error:  # noqa: BLE001  (an engine's: what follows comes with the last report)
            log.warning("reports of group %d come only when it ends: %s", self.number, describe(error))
            self._report = None
        else:
            self._serial += 1

    def last(self) -> Parcel:
        """Return the last report."""
        return self._parcel(is_last=True)

    def _parcel(self, *, is_last: bool) -> Parcel:
        reports, self._reports = self._reports, PoolReports()
        return pack(
            HostReport(
                self.number,
                self._run,
                self._serial,
                self._host,
                is_last,
                [m.Outcomes(job, "", frames) for job, frames, _ in reports.outcomes],
                reports.started,
                reports.returned,
                [m.Output(ref, stream, bytes(data)) for ref, stream, data in reports.output],
                reports.stacks,
            ),
            [
                buffer
                for _, frames, buffers in reports.outcomes
                for at in range(len(frames))
                for buffer in (buffers[at] if buffers else ())
            ],
        )
