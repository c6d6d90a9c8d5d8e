"""What tasks have measured by themselves (`concurrent_nb.stats`), as their applications report it; for `stats`.

Bounded: VALUES_MAX statistics of a job, and those of the JOBS_KEPT jobs that were reported last.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import isfinite
from typing import Any, Final

from concurrent_nb.ids import JobId
from concurrent_nb.wire import messages as m

#: jobs whose values are kept
JOBS_KEPT: Final = 200


class MeasuredValues:
    """The last report of each job."""

    def __init__(self) -> None:
        self._reports: OrderedDict[JobId, tuple[m.MeasuredValue, ...]] = OrderedDict()  # the newest last

    def take(self, job: JobId, values: Sequence[m.MeasuredValue]) -> None:
        """Take a report, which has all values of the job so far. What is no number is left out."""
        self._reports.pop(job, None)
        self._reports[job] = tuple(value for value in values if all(map(isfinite, _numbers(value))))
        if len(self._reports) > JOBS_KEPT:
            self._reports.popitem(last=False)

    def of(self, job: JobId) -> dict[str, dict[str, Any]]:
        """Return the values of a job by name, as `StatisticSummary.as_dict` has them."""
        return {
            value.name: {
                "count": value.count,
                "total": value.total,
                "average": value.total / value.count,
                "minimum": value.minimum,
                "maximum": value.maximum,
                "p50": value.p50,
                "p90": value.p90,
                "p99": value.p99,
            }
            for value in self._reports.get(job, ())
        }


def _numbers(value: m.MeasuredValue) -> tuple[float, ...]:
    return value.total, value.minimum, value.maximum, value.p50, value.p90, value.p99
