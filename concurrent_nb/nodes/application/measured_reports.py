"""When values that tasks have measured (`concurrent_nb.stats`) are reported to the master, which shows them to others.

Within a second, then every few seconds while it changes, and when the application leaves. Tasks that measure nothing
cost nothing. Pure; used by the client thread.
"""

from collections import OrderedDict
from dataclasses import astuple
from typing import Final

from concurrent_nb.ids import JobId
from concurrent_nb.telemetry.statistic_registry import StatisticRegistry
from concurrent_nb.wire.messages import VALUES_MAX, MeasuredValue

#: least seconds between two reports
REPORT_S: Final = 2.0
#: most jobs in one report; the others are in the next ones
JOBS_MAX: Final = 10
#: jobs without a `Job` (those of single submits and of `map`) whose statistics are kept
OTHERS_KEPT: Final = 20


class MeasuredReports:
    """The statistics of jobs that have changed since the last report."""

    def __init__(self) -> None:
        self._changed: dict[JobId, StatisticRegistry] = {}
        self._others: OrderedDict[JobId, StatisticRegistry] = OrderedDict()
        self._due_s = 0.0

    def of_other(self, job: JobId) -> StatisticRegistry:
        """Return the statistics of a job that has no `Job` to keep them."""
        registry = self._others.get(job)
        if registry is None:
            registry = self._others[job] = StatisticRegistry(VALUES_MAX)
            if len(self._others) > OTHERS_KEPT:
                self._others.popitem(last=False)
        return registry

    def changed(self, job: JobId, statistics: StatisticRegistry) -> None:
        """Note that the statistics of a job have changed."""
        self._changed[job] = statistics

    def is_due(self, now: float) -> bool:
        """Return whether there is something to report now."""
        return bool(self._changed) and now >= self._due_s

    def take(self, now: float) -> list[tuple[JobId, list[MeasuredValue]]]:
        """Return what is to be reported of some jobs; the next report is not before REPORT_S."""
        self._due_s = now + REPORT_S
        jobs = list(self._changed)[:JOBS_MAX]
        return [
            (
                job,
                [MeasuredValue(name, *astuple(summary)) for name, summary in statistics.summaries(VALUES_MAX).items()],
            )
            for job, statistics in ((job, self._changed.pop(job)) for job in jobs)
        ]
