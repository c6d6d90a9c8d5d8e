"""The statistics of a job and of a cluster, as text and as HTML. Pure: the application and the command line fill them.

Texts of users (names of jobs, slaves and statistics) may contain anything: they are shown as one line of text each.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from concurrent_nb.telemetry.advice import JobFacts, advice
from concurrent_nb.telemetry.amounts import bytes_text, seconds_text, visible
from concurrent_nb.telemetry.statistic import Statistic, StatisticSummary

#: most workers and statistics that are shown; an object has all of them
SHOWN_MAX: Final = 32
_ROW: Final = '<tr><th style="text-align:left">{}</th>{}</tr>'

Row = tuple[str, ...]


@dataclass(slots=True)
class Share:
    """What one slave or worker did for a job."""

    tasks: int = 0
    run_s: float = 0.0  #: seconds that it spent on them


@dataclass(frozen=True, slots=True)
class JobTimes:
    """Where the time of a job went: sums over its tasks that have ended, in seconds, by the clock of the master."""

    ended: int = 0  #: tasks that have ended at the master
    waiting_s: float = 0.0  #: from the acceptance at the master to the assignment to a slave
    shipping_s: float = 0.0  #: from the assignment until a worker began, and from its end until the master knew
    running_s: float = 0.0  #: in workers
    fetching_s: float = 0.0  #: from the end at the master until the application had the result
    busy_s: float = 0.0  #: for which the job had tasks at the master
    slot_s: float = 0.0  #: slots of the cluster times those seconds
    idle_slot_s: float = 0.0  #: ... of slots that had no task of anybody
    cpu_s: float = 0.0  #: CPU time of tasks of a millisecond or more
    peak_bytes: int = 0  #: most memory that a worker had taken by the end of such a task
    in_bytes: int = 0  #: size of all arguments
    out_bytes: int = 0  #: size of all results

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> "JobTimes":
        """Return what the master's method `stats` has answered; what it lacks is 0."""
        return cls(**{name: answer[name] for name in cls.__slots__ if isinstance(answer.get(name), int | float)})

    @property
    def slots(self) -> float:
        """The number of slots, on average."""
        return self.slot_s / self.busy_s if self.busy_s else 0.0

    @property
    def idle_slots(self) -> float:
        """The number of idle slots, on average."""
        return self.idle_slot_s / self.busy_s if self.busy_s else 0.0

    def shares(self) -> dict[str, float]:
        """Return the parts of waiting, shipping, running and fetching, which add up to 1; 0 without time."""
        parts = {
            "waiting": self.waiting_s,
            "shipping": self.shipping_s,
            "running": self.running_s,
            "fetching": self.fetching_s,
        }
        total_s = sum(parts.values())
        return {name: part_s / total_s if total_s else 0.0 for name, part_s in parts.items()}


@dataclass(eq=False)
class JobStats:
    """The statistics of a job. It shows itself as a table.

    `times` is None, with the reason in `no_times`, while the master does not have them.
    """

    id: str
    name: str
    tasks: int = 0
    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    elapsed_s: float = 0.0  #: from its start to its end, or to now
    run_time: Statistic = field(default_factory=Statistic)  #: seconds that workers spent on each task
    cpu_s: float = 0.0  #: CPU time of tasks of a millisecond or more
    peak_bytes: int = 0  #: most memory that a worker had taken by the end of such a task
    slaves: dict[str, Share] = field(default_factory=dict)  #: by name
    workers: dict[str, Share] = field(default_factory=dict)  #: by slave and pid, as in "slave/123"
    #: what tasks have added to `concurrent_nb.stats`
    values: Mapping[str, Statistic | StatisticSummary] = field(default_factory=dict)
    times: JobTimes | None = None
    no_times: str = ""
    #: the graph, folded by function: name of a function whose results are needed, name of the one that needs them, and
    #: how many edges there are
    graph: list[tuple[str, str, int]] = field(default_factory=list)
    is_batched: bool = False

    @cached_property
    def advice(self) -> str:
        """One line about what would make the job faster; "" if there is none."""
        times = self.times or JobTimes()
        return advice(
            JobFacts(
                tasks=self.run_time.count,
                elapsed_s=self.elapsed_s,
                run_s=self.run_time.total,
                longest_s=self.run_time.maximum if self.run_time.count else 0.0,
                is_batched=self.is_batched,
                waiting_s=times.waiting_s,
                shipping_s=times.shipping_s,
                fetching_s=times.fetching_s,
                slot_s=times.slot_s,
                idle_slot_s=times.idle_slot_s,
                busy_s=times.busy_s,
                in_bytes=times.in_bytes,
                out_bytes=times.out_bytes,
            )
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as builtin values, for JSON."""
        times = None
        if self.times is not None:
            times = {name: getattr(self.times, name) for name in JobTimes.__slots__}
        return {
            "id": self.id,
            "name": self.name,
            "tasks": self.tasks,
            "waiting": self.waiting,
            "running": self.running,
            "done": self.done,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "elapsed_s": self.elapsed_s,
            "run_time": self.run_time.as_dict(),
            "cpu_s": self.cpu_s,
            "peak_bytes": self.peak_bytes,
            "slaves": {name: {"tasks": share.tasks, "run_s": share.run_s} for name, share in self.slaves.items()},
            "workers": {name: {"tasks": share.tasks, "run_s": share.run_s} for name, share in self.workers.items()},
            "values": {name: statistic.as_dict() for name, statistic in self.values.items()},
            "times": times,
            "graph": [list(edge) for edge in self.graph],
            "advice": self.advice,
        }

    def __repr__(self) -> str:
        lines = [self._title(), *aligned(self._rows())]
        for title, rows in self._tables():
            lines += ["", title, *aligned(rows)]
        return "\n".join([*lines, "", f"advice: {self.advice}"] if self.advice else lines)

    def _repr_html_(self) -> str:
        return _html(self._title(), [("", self._rows()), *self._tables()], self.advice)

    def _title(self) -> str:
        named = [(self.done, "done"), (self.failed, "failed"), (self.cancelled, "cancelled")]
        named += [(self.running, "running"), (self.waiting, "waiting")]
        parts = [f"{count:,} {what}" for count, what in named if count]
        tasks = f"{self.tasks:,} task{'s' * (self.tasks != 1)}"
        return f"job {visible(self.name) or self.id[:8]}: {', '.join([tasks, *parts])}; {seconds_text(self.elapsed_s)}"

    def _rows(self) -> list[Row]:
        rows: list[Row] = []
        if self.run_time.count:
            rows.append(("run time", _spread(self.run_time, seconds_text)))
        if self.cpu_s:
            rows.append(("CPU time", seconds_text(self.cpu_s)))
        if self.peak_bytes:
            rows.append(("peak memory", bytes_text(self.peak_bytes)))
        times = self.times
        if times is not None:
            rows.append(("arguments", bytes_text(times.in_bytes)))
            rows.append(("results", bytes_text(times.out_bytes)))
        return rows

    def _tables(self) -> Iterable[tuple[str, list[Row]]]:
        if self.times is not None and self.times.ended:
            yield f"where the time of {_plural(self.times.ended, 'task')} went", _time_rows(self.times)
        elif self.no_times:
            yield "where its time went is not known: " + self.no_times, []
        if self.values:
            yield "measured by its tasks", _value_rows(self.values)
        if self.slaves:
            yield "slaves", _share_rows(self.slaves)
        if len(self.workers) > 1:
            yield "workers", _share_rows(self.workers)
        if self.graph:
            yield "graph", _edge_rows(self.graph)


@dataclass(eq=False)
class ClusterStats:
    """The statistics of a cluster: of each slave, of the last jobs, and of what tasks have measured."""

    slaves: dict[str, dict[str, Any]] = field(default_factory=dict)  #: host, slots, tasks, run_s, uptime_s by name
    jobs: list[dict[str, Any]] = field(default_factory=list)  #: as the master's method `stats` returns them
    values: dict[str, Statistic] = field(default_factory=dict)  #: what tasks of this application have measured
    #: what tasks of the last jobs have measured, also those of other applications: count, total, average, minimum,
    #: maximum, and how many `jobs`, by name; p50, p90 and p99, which are None if there are several jobs
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: int = 0  #: that have ended since the master was started
    slot_s: float = 0.0  #: slots of the cluster times seconds
    idle_slot_s: float = 0.0  #: ... of idle slots

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any], values: Mapping[str, Statistic] | None = None) -> "ClusterStats":
        """Return what the master's method `stats` has answered, and what tasks have measured."""
        return cls(
            answer["slaves"],
            answer["jobs"],
            dict(values or {}),
            answer.get("values", {}),
            answer["tasks"],
            answer["slot_s"],
            answer["idle_slot_s"],
        )

    def __repr__(self) -> str:
        lines = [self._title()]
        for title, rows in self._tables():
            lines += ["", title, *aligned(rows)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return _html(self._title(), self._tables())

    def _title(self) -> str:
        slots = sum(slave["slots"] for slave in self.slaves.values())
        used = f", {100 * (1 - self.idle_slot_s / self.slot_s):.0f} % used so far" if self.slot_s else ""
        return (
            f"{_plural(len(self.slaves), 'slave')}, {_plural(slots, 'slot')}{used}; {_plural(self.tasks, 'task')} ended"
        )

    def _tables(self) -> Iterable[tuple[str, list[Row]]]:
        if self.slaves:
            yield (
                "slaves",
                [
                    (
                        visible(name),
                        _plural(slave["slots"], "slot"),
                        _plural(slave["tasks"], "task"),
                        f"{seconds_text(slave['run_s'])} of run time",
                    )
                    for name, slave in self.slaves.items()
                ],
            )
        if self.jobs:
            yield (
                "jobs",
                [
                    (
                        visible(job["name"]) or job["id"][:8],
                        f"{job['ended']:,} ended",
                        f"{job['failed']:,} failed",
                        f"{seconds_text(job['running_s'])} of run time",
                        f"{bytes_text(job['in_bytes'])} in",
                        f"{bytes_text(job['out_bytes'])} out",
                        job["id"][:8],
                    )
                    for job in self.jobs
                ],
            )
        if self.values:
            yield "measured by tasks of this application", _value_rows(self.values)
        # Reports are a moment old, so what only this application measures has no larger counts there.
        if any(
            name not in self.values or one["count"] > self.values[name].count for name, one in self.measured.items()
        ):
            yield "measured by tasks of all these jobs", _summed_rows(self.measured)


def job_stats_of(answer: Mapping[str, Any]) -> JobStats:
    """Return the statistics in an answer of the master's method `stats` with a sample, without an application."""
    sample = answer.get("sample") or {}
    times = JobTimes.from_answer(answer)
    ended, failed, cancelled, left = (answer[name] for name in ("ended", "failed", "cancelled", "unfinished"))
    return JobStats(
        id=answer["id"],
        name=answer["name"],
        tasks=ended + left,
        waiting=left,
        done=ended - failed - cancelled,
        failed=failed,
        cancelled=cancelled,
        elapsed_s=times.busy_s,
        run_time=Statistic.from_dict(sample["run_time"]) if sample else Statistic(),
        cpu_s=times.cpu_s,
        peak_bytes=times.peak_bytes,
        slaves={name: Share(*share) for name, share in sample.get("slaves", {}).items()},
        workers={name: Share(*share) for name, share in sample.get("workers", {}).items()},
        graph=edges_of(answer),
        values={name: StatisticSummary.from_dict(value) for name, value in answer.get("values", {}).items()},
        times=times,
    )


def edges_of(answer: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return the graph in an answer of the master's method `stats`."""
    return [(source, target, count) for source, target, count in answer.get("graph", ())]


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Return rows as lines of text in columns; `right` has the indexes of right-aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    signs = [">" if column in right else "<" for column in range(len(widths))]
    return [
        "  " + "  ".join(f"{cell:{sign}{width}}" for cell, sign, width in zip(row, signs, widths, strict=True)).rstrip()
        for row in rows
    ]


def _html(title: str, tables: Iterable[tuple[str, Sequence[Row]]], advice: str = "") -> str:
    """Return tables, each with its title ("" for none), as HTML."""
    from html import escape  # here, because only notebooks need it

    parts = [f"<b>{escape(title)}</b>"]
    for name, rows in tables:
        lines = [
            _ROW.format(escape(row[0]), "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row[1:]))
            for row in rows
        ]
        if name:
            parts.append(f"<div>{escape(name)}</div>")
        if lines:
            parts.append(f"<table>{''.join(lines)}</table>")
    if advice:
        parts.append(f"<div><b>Advice:</b> {escape(advice)}</div>")
    return f'<div class="concurrent-nb-stats">{"".join(parts)}</div>'


def _time_rows(times: JobTimes) -> list[Row]:
    shares = times.shares()
    explained = {
        "waiting": "at the master, for a slot",
        "shipping": "on the way to a worker, in front of it, and back",
        "running": "in workers",
        "fetching": "at the master, until the result was here",
    }
    rows: list[Row] = [
        (name, seconds_text(getattr(times, f"{name}_s")), f"{100 * shares[name]:.0f} %", text)
        for name, text in explained.items()
    ]
    idle = f"{times.idle_slots:.2g} of {times.slots:.2g}"
    share = times.idle_slot_s / times.slot_s if times.slot_s else 0.0
    return [*rows, ("idle slots", idle, f"{100 * share:.0f} %", "on average, while the job had tasks")]


def _value_rows(values: Mapping[str, Statistic | StatisticSummary]) -> list[Row]:
    rows = [
        (visible(name), f"{value.count:,} value{'s' * (value.count != 1)}", _spread(value, _number))
        for name, value in list(values.items())[:SHOWN_MAX]
    ]
    return [*rows, *([("...", f"{len(values) - SHOWN_MAX:,} more", "")] if len(values) > SHOWN_MAX else [])]


def _summed_rows(values: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    rows = []
    for name, value in list(values.items())[:SHOWN_MAX]:
        if value["p50"] is not None:
            spread = _spread(StatisticSummary.from_dict(value), _number)
        else:
            average, least, most, total = (_number(value[part]) for part in ("average", "minimum", "maximum", "total"))
            spread = f"average {average}, minimum {least}, maximum {most}, total {total}"
        count = f"{value['count']:,} value{'s' * (value['count'] != 1)}"
        rows.append((visible(name), count, f"of {_plural(value['jobs'], 'job')}", spread))
    return [*rows, *([("...", f"{len(values) - SHOWN_MAX:,} more", "", "")] if len(values) > SHOWN_MAX else [])]


def _share_rows(shares: Mapping[str, Share]) -> list[Row]:
    first = sorted(shares.items(), key=lambda item: (-item[1].run_s, item[0]))
    rows = [
        (visible(name), _plural(share.tasks, "task"), f"{seconds_text(share.run_s)} of run time")
        for name, share in first[:SHOWN_MAX]
    ]
    return [*rows, *([("...", f"{len(first) - SHOWN_MAX:,} more", "")] if len(first) > SHOWN_MAX else [])]


def _edge_rows(edges: Sequence[tuple[str, str, int]]) -> list[Row]:
    largest = sorted(edges, key=lambda edge: -edge[2])
    rows = [
        (visible(source), "to", visible(target), _plural(count, "edge"))
        for source, target, count in largest[:SHOWN_MAX]
    ]
    return [*rows, *([("...", "", "", f"{len(edges) - SHOWN_MAX:,} more")] if len(edges) > SHOWN_MAX else [])]


def _spread(statistic: Statistic | StatisticSummary, text: Any) -> str:
    percentiles = f"50 % {text(statistic.p50)}, 90 % {text(statistic.p90)}, 99 % {text(statistic.p99)}"
    limits = f"minimum {text(statistic.minimum)}, maximum {text(statistic.maximum)}"
    return f"average {text(statistic.average)}, {percentiles}, {limits}, total {text(statistic.total)}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _plural(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
