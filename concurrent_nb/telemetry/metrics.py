"""The metrics of a master in Prometheus' text format. Pure: facts and records come in, text goes out.

Labels are names of slaves, states and statuses only: a label for each job or task would grow without a limit.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from concurrent_nb.outcome import Status
from concurrent_nb.telemetry.task_totals import BUCKETS_S, TaskTotals

#: most slaves that have labels
SLAVES_MAX: Final = 500
CONTENT_TYPE: Final[str] = CONTENT_TYPE_LATEST
#: metrics of each slave, with the member of the status that it shows
_OF_SLAVES: Final = (
    ("slots", "slots", "Tasks that the slave can run at the same time; 0 while it drains."),
    ("slots_busy", "busy", "Slots of the slave that run a task."),
    ("tasks_in_flight", "in_flight", "Tasks that are assigned to the slave."),
    ("load1", "load", "Load average of the slave's host over a minute."),
    ("memory_used_bytes", "memory_used_bytes", "Memory of the slave's host that is in use."),
    ("memory_total_bytes", "memory_total_bytes", "Memory of the slave's host."),
)
_PREFIX: Final = "concurrent_nb_"


class _MasterCollector(Collector):
    """The metrics of one status."""

    def __init__(self, status: Mapping[str, Any], totals: TaskTotals) -> None:
        self._status = status
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        status, tasks = self._status, self._status["tasks"]
        info = GaugeMetricFamily(f"{_PREFIX}info", "The cluster, by name.", labels=["cluster"])
        info.add_metric([status["name"]], 1)
        yield info
        clients = len(status["clients"]) + status["more_clients"]
        for name, text, value in (
            ("uptime_seconds", "Seconds since the master has started.", status["uptime_s"]),
            ("slaves", "Slaves that have joined.", len(status["slaves"])),
            ("applications", "Applications that have joined.", clients),
            ("jobs", "Jobs that are not over, or whose results are not taken.", tasks["jobs"]),
        ):
            yield GaugeMetricFamily(f"{_PREFIX}{name}", text, value=value)
        by_state = GaugeMetricFamily(f"{_PREFIX}tasks", "Tasks at the master, by state.", labels=["state"])
        for state in ("waiting", "assigned", "kept"):
            by_state.add_metric([state], tasks[state])
        yield by_state
        yield from _of_tasks(self._totals)
        yield from _of_slaves(status["slaves"][:SLAVES_MAX])


def _of_tasks(totals: TaskTotals) -> Iterator[Metric]:
    by_status = CounterMetricFamily(f"{_PREFIX}tasks_ended", "Tasks that have ended, by status.", labels=["status"])
    for status in Status:
        by_status.add_metric([status.name.lower()], totals.by_status[status])
    yield by_status
    run = HistogramMetricFamily(f"{_PREFIX}task_run_seconds", "Seconds that workers have spent on a task.")
    count, buckets = 0, []
    for bound, number in zip([*map(str, BUCKETS_S), "+Inf"], totals.by_bucket, strict=True):
        count += number
        buckets.append((bound, count))
    run.add_metric([], buckets, totals.run_s)
    yield run
    for name, text, value in (
        ("task_cpu_seconds", "CPU time of tasks, of those that took a millisecond or more.", totals.cpu_s),
        ("task_argument_bytes", "Bytes of the arguments of tasks that have ended.", totals.in_bytes),
        ("task_result_bytes", "Bytes of the results of tasks.", totals.out_bytes),
        ("task_records_missed", "Ended tasks that no other metric counts: too many since a scrape.", totals.missed),
    ):
        yield CounterMetricFamily(f"{_PREFIX}{name}", text, value=value)


def _of_slaves(slaves: list[Mapping[str, Any]]) -> Iterator[Metric]:
    for name, member, text in _OF_SLAVES:
        metric = GaugeMetricFamily(f"{_PREFIX}slave_{name}", text, labels=["slave"])
        for slave in slaves:
            if slave[member] is not None:
                metric.add_metric([slave["name"]], slave[member])
        yield metric
    done = CounterMetricFamily(f"{_PREFIX}slave_outcomes", "Attempts that the slave has ended.", labels=["slave"])
    for slave in slaves:
        done.add_metric([slave["name"]], slave["done"])
    yield done


def metrics_text(status: Mapping[str, Any], totals: TaskTotals) -> bytes:
    """Return the metrics of a master's status, of all tasks that were added, and of this process."""
    registry = CollectorRegistry()
    registry.register(_MasterCollector(status, totals))
    ProcessCollector(registry=registry)
    return generate_latest(registry)
