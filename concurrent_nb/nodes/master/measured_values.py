"""What tasks have measured by themselves (`concurrent_nb.stats`), as their applications report it; for `stats`.

Bounded: VALUES_MAX statistics of a job, and those of the JOBS_KEPT jobs that were reported last; SUMMED_MAX of all.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import isfinite
from typing import Any, Final, NamedTuple

from concurrent_nb.ids import JobId
from concurrent_nb.wire import messages as m

#: jobs whose values are kept
JOBS_KEPT: Final = 200
#: most values of all jobs together
SUMMED_MAX: Final = 1000


class MeasuredValues:
    """The last report of each job."""

    def __init__(self) -> None:
        self.version = 0  #: how many reports there were
        self._reports: OrderedDict[JobId, _Report] = OrderedDict()  # the newest last

    def take(self, job: JobId, owner: str, values: Sequence[m.MeasuredValue]) -> None:
        """Take a report, which has all values of the job so far. What is no number is left out."""
        self.version += 1
        self._reports.pop(job, None)
        self._reports[job] = _Report(owner, [value for value in values if all(map(isfinite, _numbers(value)))])
        if len(self._reports) > JOBS_KEPT:
            self._reports.popitem(last=False)

    def of(self, job: JobId) -> dict[str, dict[str, Any]]:
        """Return the values of a job by name, as `StatisticSummary.as_dict` has them."""
        report = self._reports.get(job)
        return {} if report is None else {value.name: _as_json(value) for value in report.values}

    def of_all(self, owner: str | None) -> dict[str, dict[str, Any]]:
        """Return the values of all jobs by name: of `owner`, or of all owners (None).

        Each has the number of `jobs` with that value. Percentiles of several jobs are not known from theirs: None.
        """
        summed: dict[str, dict[str, Any]] = {}
        for report in reversed(self._reports.values()):
            if owner not in (None, report.owner):
                continue
            for value in report.values:
                if (known := summed.get(value.name)) is not None:
                    _add(known, value)
                elif len(summed) < SUMMED_MAX:
                    summed[value.name] = {"jobs": 1, **_as_json(value)}
        return {name: summed[name] for name in sorted(summed)}


class _Report(NamedTuple):
    owner: str
    values: list[m.MeasuredValue]


def _as_json(value: m.MeasuredValue) -> dict[str, Any]:
    return {
        "count": value.count,
        "total": value.total,
        "average": value.total / value.count,
        "minimum": value.minimum,
        "maximum": value.maximum,
        "p50": value.p50,
        "p90": value.p90,
        "p99": value.p99,
    }


def _add(known: dict[str, Any], value: m.MeasuredValue) -> None:
    """Add the value of one more job."""
    known["jobs"] += 1
    known["count"] += value.count
    known["total"] += value.total
    known["average"] = known["total"] / known["count"]
    known["minimum"] = min(known["minimum"], value.minimum)
    known["maximum"] = max(known["maximum"], value.maximum)
    known.update(p50=None, p90=None, p99=None)


def _numbers(value: m.MeasuredValue) -> tuple[float, ...]:
    return value.total, value.minimum, value.maximum, value.p50, value.p90, value.p99
