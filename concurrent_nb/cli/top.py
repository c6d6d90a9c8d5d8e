"""What `concurrent-nb top` shows: the cluster with rates, from two readings. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from concurrent_nb.cli.cluster_tables import job_table, slave_table, write_rate
from concurrent_nb.cli.status import write_span
from concurrent_nb.cli.table import Style, coloured, shortened, shown
from concurrent_nb.outcome import SUCCESSES
from concurrent_nb.shipping.serialization.sizes import format_bytes

_GOOD = frozenset(status.name.lower() for status in SUCCESSES)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the master has answered at a time."""

    at_s: float  #: by a clock of the asker
    status: Mapping[str, Any]
    totals: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rates:
    """What has happened per second between two readings; None before the second one, and if a master is new."""

    tasks: float | None = None
    failures: float | None = None
    in_bytes: float | None = None
    out_bytes: float | None = None
    cpu: float | None = None  #: CPU seconds of tasks, so the number of cores that they use
    slaves: Mapping[str, float] | None = None  #: outcomes of each, by name
    jobs: Mapping[str, float] | None = None  #: ended tasks of each, by id

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints beside the status."""
        return {
            "tasks": self.tasks,
            "failures": self.failures,
            "in_bytes": self.in_bytes,
            "out_bytes": self.out_bytes,
            "cpu": self.cpu,
            "slaves": self.slaves,
            "jobs": self.jobs,
        }


def rates_between(before: Reading | None, now: Reading) -> Rates:
    """Return the rates between two readings of one master."""
    if before is None or before.status["epoch"] != now.status["epoch"] or now.at_s <= before.at_s:
        return Rates()
    passed_s = now.at_s - before.at_s

    def per_s(total: Callable[[Mapping[str, Any]], float]) -> float:
        return max(0.0, total(now.totals) - total(before.totals)) / passed_s

    def each(kind: str, key: str) -> dict[str, float]:
        earlier = {entry[key]: entry["done"] for entry in before.status[kind]}
        return {
            entry[key]: max(0, entry["done"] - earlier[entry[key]]) / passed_s
            for entry in now.status[kind]
            if entry[key] in earlier
        }

    return Rates(
        per_s(lambda totals: sum(totals["ended"].values()) + totals["missed"]),
        per_s(lambda totals: sum(count for status, count in totals["ended"].items() if status not in _GOOD)),
        per_s(lambda totals: totals["in_bytes"]),
        per_s(lambda totals: totals["out_bytes"]),
        per_s(lambda totals: totals["cpu_s"]),
        each("slaves", "name"),
        each("jobs", "id"),
    )


def top_lines(reading: Reading, rates: Rates, style: Style) -> list[str]:
    """Return the lines of a screen."""
    status = reading.status
    slaves, tasks = status["slaves"], status["tasks"]
    slots, busy = sum(slave["slots"] for slave in slaves), sum(slave["busy"] for slave in slaves)
    facts = f"up {write_span(status['uptime_s'])}, {busy:,} of {slots:,} workers busy, {tasks['waiting']:,} tasks wait"
    speeds = [f"{write_rate(rates.tasks)} tasks/s", f"{write_rate(rates.cpu)} cores used"]
    speeds += [f"{_bytes(rates.in_bytes)}/s of arguments", f"{_bytes(rates.out_bytes)}/s of results"]
    if rates.failures:
        speeds.append(f"{write_rate(rates.failures)}/s failed or cancelled")
    lines = [
        coloured(_line(f"cluster {shown(status['name'])}", style), "bold", style),
        _line(facts, style),
        coloured(_line(", ".join(speeds), style), "red" if rates.failures else "", style),
        "",
        *slave_table(slaves, style, rates.slaves or {}),
    ]
    if jobs := [job for job in status["jobs"] if job["state"] != "idle"]:
        lines += ["", *job_table(jobs, style, rates.jobs or {})]
    if others := status["other_jobs"] + status["more_jobs"]:
        lines.append(f"and {others:,} more job{'s' * (others != 1)}")
    return lines


def _line(text: str, style: Style) -> str:
    return text if style.width is None else shortened(text, style.width)


def _bytes(per_s: float | None) -> str:
    return "?" if per_s is None else format_bytes(int(per_s))
