"""Traces in Chrome's trace event format (JSON object format), which Perfetto and chrome://tracing open.

    pages of the task log, as `trace` of the control channel answers them  -->  TraceEvents  -->  events

Each node is a process of the trace: applications with a row for each job, the master with two rows for each slave, each
slave with two rows of its own and one for each worker. A task is a slice of its worker's row. An arrow (a flow) goes
from its job through master and slave to that slice, and back. A task of a function whose tasks need results of others
names the functions of these. Times are microseconds of the master's clock. Pure, and needs little memory however many
tasks there are. The format: "Trace Event Format" of the Chromium project.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from math import floor
from typing import Any, Final

from concurrent_nb.outcome import SUCCESSES, Status

#: an event, as it is in the file
TraceEvent = dict[str, Any]

#: tasks that have an arrow, the first ones; all others are slices only, or the file would be ten times as large
ARROWS_MAX: Final = 10_000
#: jobs that have a row in their application; tasks of others have an arrow from the master on
JOB_ROWS_MAX: Final = 500
#: what master and slave do with a task has no length, and arrows need a slice: it has this one, in microseconds
MARK_US: Final = 10
#: marks that are remembered, so that tasks that came in one message share one
_MARKS: Final = 10_000
_MASTER: Final = 1


class TraceEvents:
    """Turns records of tasks into events.

    Args:
        cluster: name of the cluster.
        host, pid: where its master runs.
    """

    def __init__(self, cluster: str, host: str = "", pid: int = 0) -> None:
        self.tasks = 0  #: tasks so far
        self.arrows = 0  #: tasks with an arrow so far
        self.slaves = 0  #: slaves so far
        self._master = f"master of {cluster}" + (f" ({host}, process {pid})" if pid else "")
        self._processes: dict[str, int] = {}
        self._rows: dict[tuple[int, str], int] = {}
        self._lanes: dict[tuple[int, int], list[_Lane]] = {}  # of workers, by process and pid
        self._jobs: dict[str, _JobRow] = {}
        self._graphs: dict[str, list[Any]] = {}  # by job, edges by function: source, target, how many
        self._marks: set[tuple[int, int, int]] = set()  # process, row, time

    @property
    def graph(self) -> dict[str, int]:
        """How many results tasks of one function need of another, over all jobs: `{"load -> clean": 10}`."""
        return _edges([edge for edges in self._graphs.values() for edge in edges])

    def add(self, page: Mapping[str, Any]) -> Iterator[TraceEvent]:
        """Yield the events of a page of tasks."""
        self._graphs |= {job: label["graph"] for job, label in page["jobs"].items() if label.get("graph")}
        for task in page["tasks"]:
            self.tasks += 1
            yield from self._task(task, page["jobs"].get(task["job"], {}))

    def close(self) -> Iterator[TraceEvent]:
        """Yield the events that need the end of the trace: the rows of the jobs. To be called once, after `add`."""
        for job, row in self._jobs.items():
            start = floor(row.first_us) - 1
            args: dict[str, Any] = {"job": job, "tasks": row.tasks}
            if job in self._graphs:
                args["graph"] = _edges(self._graphs[job])
            yield _slice(row.name or job[:8], "job", row.process, row.tid, start, row.last_us + 1 - start, args)

    def _task(self, task: Mapping[str, Any], job: Mapping[str, Any]) -> Iterator[TraceEvent]:
        accepted, assigned, started, finished, ended = (
            round(task[f"{at}_s"] * 1e6, 3) for at in ("accepted", "assigned", "started", "finished", "ended")
        )
        row = yield from self._job(task["job"], job, accepted, ended)
        args = _arguments(task, job.get("needs", {}).get(task["function"], ()))
        master = yield from self._process(self._master, _MASTER)
        if not task["slave"]:
            tid = yield from self._row(master, "ended without a slave")
            instant = {"name": task["function"], "cat": "task", "ph": "i", "s": "t", "ts": ended}
            yield {**instant, "pid": master, "tid": tid, "args": args}
            return
        slave = yield from self._process(f"slave {task['slave']}", None)
        lane, started, finished = self._place(slave, task, started, finished, ended)
        tid = yield from self._row(slave, lane)
        category = "task" if task["status"] in SUCCESSES else "task,failed"
        yield _slice(task["function"], category, slave, tid, started, finished - started, args)
        if self.arrows >= ARROWS_MAX:
            return
        self.arrows += 1
        stops = [] if row is None else [(row.process, row.tid, accepted)]
        for process, mark, at, name in (
            (master, f"to {task['slave']}", assigned, "assign"),
            (slave, "tasks in", started, "start"),
            (slave, "", started, ""),
            (slave, "results out", ended, "report"),
            (master, f"from {task['slave']}", ended, "result"),
        ):
            if name:
                stops.append((process, (yield from self._mark(process, mark, at, name)), at))
            else:
                stops.append((slave, tid, at))
        if row is not None:
            stops.append((row.process, row.tid, ended))
        last = len(stops) - 1
        for number, (process, tid, at) in enumerate(stops):
            phase = "s" if not number else "f" if number == last else "t"
            flow = {"name": "task", "cat": "flow", "ph": phase, "id": task["number"] + 1, "ts": at}
            yield {**flow, "pid": process, "tid": tid, **({"bp": "e"} if phase == "f" else {})}

    def _job(
        self, job: str, label: Mapping[str, Any], accepted: float, ended: float
    ) -> "Generator[TraceEvent, None, _JobRow | None]":
        """Count a task in the row of its job; the value is the row, None for jobs without one."""
        row = self._jobs.get(job)
        if row is None:
            if len(self._jobs) >= JOB_ROWS_MAX:
                return None
            name = label.get("name", "")
            process = yield from self._process(f"application {label.get('application') or '(left)'}", None)
            tid = yield from self._row(process, f"{name} ({job[:8]})".strip())
            row = self._jobs[job] = _JobRow(name, process, tid, accepted, ended)
        row.tasks += 1
        row.first_us, row.last_us = min(row.first_us, accepted), max(row.last_us, ended)
        return row

    def _place(
        self, slave: int, task: Mapping[str, Any], started: float, finished: float, ended: float
    ) -> tuple[str, float, float]:
        """Return the row of a task in its worker, and its times there: slices of a row may not overlap.

        Tasks in threads of one process overlap, so it has as many rows as run at once. Those of other processes do not,
        but may seem to, as reports of a slave take different times: then the later one is drawn a little later.
        """
        worker = task["worker"]
        lanes = self._lanes.setdefault((slave, worker), [])
        free = next((lane for lane in lanes if lane.until_us <= started), None)
        if free is None and lanes and not task["in_thread"] and lanes[0].until_us <= ended:
            free = lanes[0]
            started, finished = free.until_us, min(free.until_us + finished - started, ended)
        if free is None:
            number = f" ({len(lanes) + 1})" if lanes else ""
            free = _Lane(f"worker {worker}{number}" if worker else f"in no worker{number}")
            lanes.append(free)
        free.until_us = finished
        return free.name, started, finished

    def _mark(self, process: int, row: str, at: float, name: str) -> Generator[TraceEvent, None, int]:
        """Yield the short slice through which an arrow goes, once for all arrows of that time; the value is its row."""
        tid = yield from self._row(process, row)
        start = floor(at / MARK_US) * MARK_US
        if (process, tid, start) not in self._marks:
            if len(self._marks) >= _MARKS:
                self._marks.clear()
            self._marks.add((process, tid, start))
            yield _slice(name, "message", process, tid, start, MARK_US)
        return tid

    def _process(self, name: str, number: int | None) -> Generator[TraceEvent, None, int]:
        """Yield the name of a process when it is new; the value is its number."""
        known = self._processes.get(name)
        if known is None:
            known = self._processes[name] = number or len(self._processes) + _MASTER + 1
            self.slaves += name.startswith("slave ")
            order = 0 if name.startswith("application ") else 1 if known == _MASTER else 2
            yield _metadata("process_name", known, 0, {"name": name})
            yield _metadata("process_sort_index", known, 0, {"sort_index": order})
        return known

    def _row(self, process: int, name: str) -> Generator[TraceEvent, None, int]:
        """Yield the name of a row of a process when it is new; the value is its number."""
        known = self._rows.get((process, name))
        if known is None:
            known = self._rows[process, name] = len(self._rows) + 1
            yield _metadata("thread_name", process, known, {"name": name})
            yield _metadata("thread_sort_index", process, known, {"sort_index": known})
        return known


class _Lane:
    """A row of a worker."""

    __slots__ = ("name", "until_us")

    def __init__(self, name: str) -> None:
        self.name = name
        self.until_us = 0.0  #: its last slice ends then


class _JobRow:
    """The row of a job."""

    __slots__ = ("first_us", "last_us", "name", "process", "tasks", "tid")

    def __init__(self, name: str, process: int, tid: int, first_us: float, last_us: float) -> None:
        self.name, self.process, self.tid = name, process, tid
        self.first_us, self.last_us = first_us, last_us
        self.tasks = 0


def _edges(edges: Iterable[Sequence[Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for source, target, count in edges:
        pair = f"{source} -> {target}"
        counts[pair] = counts.get(pair, 0) + count
    return counts


def _arguments(task: Mapping[str, Any], needs: Sequence[str]) -> dict[str, Any]:
    """Return what is known of a task; `needs` are the functions of whose tasks its function needs results."""
    needed = {"function_needs": ", ".join(needs)} if needs else {}
    return needed | {
        "task": f"{task['job'][:8]}/{task['index']}",
        "attempt": task["attempt"],
        "status": Status(task["status"]).name.lower(),
        "waited_s": round(task["started_s"] - task["accepted_s"], 6),
        "run_s": round(task["finished_s"] - task["started_s"], 6),
        "cpu_s": round(task["cpu_s"], 6),
        "peak_bytes": task["peak_bytes"],
        "in_bytes": task["in_bytes"],
        "out_bytes": task["out_bytes"],
    }


def _slice(
    name: str, category: str, process: int, tid: int, start: float, length: float, args: Any = None
) -> TraceEvent:
    event = {"name": name, "cat": category, "ph": "X", "ts": start, "dur": round(length, 3), "pid": process, "tid": tid}
    return event if args is None else {**event, "args": args}


def _metadata(name: str, process: int, tid: int, args: Any) -> TraceEvent:
    return {"name": name, "ph": "M", "ts": 0, "pid": process, "tid": tid, "args": args}
