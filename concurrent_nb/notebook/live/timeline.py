"""The timeline: which tasks ran when, on which slave, with a row for each worker.

Used by `job_view_model`. Few tasks are kept one by one. Many are summed up in bins of time, whose width doubles as the
job goes on, so that the size of the data is bounded.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Final

from concurrent_nb.notebook.live.colours import CANCELLED, FAILED, RUNNING
from concurrent_nb.notebook.live.text import line_of

#: maximum number of tasks that are kept one by one
PIECES_MOST: Final = 240
#: maximum number of bins of a row, and their first width in seconds
BINS: Final = 160
BIN_S: Final = 0.05
#: maximum number of rows of a slave; with more workers it has one row for all of them
ROWS_MOST: Final = 8
SLAVES_MOST: Final = 8


@dataclass(slots=True)
class _Row:
    """A worker: its tasks as pieces (start, end, state, task), and its busy seconds in each bin."""

    worker: int
    pieces: list[tuple[float, float, int, int]] = field(default_factory=list)
    busy: list[float] = field(default_factory=lambda: [0.0] * BINS)
    ended: list[int] = field(default_factory=lambda: [0] * BINS)  #: tasks that ended in each bin
    failed: list[int] = field(default_factory=lambda: [0] * BINS)
    until: float = 0.0
    fresh: list[tuple[float, float, int, int]] = field(default_factory=list)  #: (arrived, duration, state, task)


@dataclass(slots=True)
class _SlaveRow:
    rows: list[_Row] = field(default_factory=list)
    by_worker: dict[int, _Row] = field(default_factory=dict)
    tasks: int = 0  #: tasks that have run to their end
    failed: int = 0
    stopped: int = 0


class Timeline:
    """The timeline of a job. Times are in seconds since its start."""

    def __init__(self) -> None:
        self._slaves: dict[str, _SlaveRow] = {}
        self._running: dict[int, tuple[str, float]] = {}  #: task -> (slave, since)
        self._pieces = 0
        self._began = math.inf  #: when the first task began
        self._bin_s = BIN_S
        self._unsettled: list[_Row] = []

    def started(self, task: int, slave: str, at: float) -> None:
        """Record that a task is running."""
        self._running[task] = (slave, at)

    def ended(self, task: int, slave: str, worker: int, at: float, took: float, state: int) -> None:
        """Record that a task has ended: `at` is the arrival of the message. Call `settle` after a group of these."""
        self._running.pop(task, None)
        if not slave or (state == CANCELLED and not took):
            return  # it never ran
        timeline = self._slaves.get(slave)
        if timeline is None:
            timeline = self._slaves[slave] = _SlaveRow()
        timeline.tasks += state != CANCELLED
        timeline.stopped += state == CANCELLED
        timeline.failed += state == FAILED
        row = timeline.by_worker.get(worker)
        if row is None:
            row = timeline.by_worker[worker] = _Row(worker)
            timeline.rows.append(row)
        if not row.fresh:
            self._unsettled.append(row)
        row.fresh.append((at, took, state, task))

    def settle(self) -> None:
        """Compute when the tasks ran that have ended since the last call.

        Results of quick tasks arrive together, so each task counts as ended when the next one began.
        """
        for row in self._unsettled:
            placed = []
            cursor = row.fresh[-1][0]
            for at, took, state, task in reversed(row.fresh):
                end = max(min(at, cursor), row.until)
                start = max(end - took, row.until)
                placed.append((start, end, state, task))
                cursor = start
            self._began = min(self._began, cursor)
            placed.reverse()
            row.until = placed[-1][1]
            row.fresh.clear()
            self._pieces += len(placed)
            if self._pieces <= PIECES_MOST:
                row.pieces += placed
            for start, end, state, _ in placed:
                self._bin(row, start, end, state)
        self._unsettled.clear()
        if self._pieces > PIECES_MOST:
            for slave in self._slaves.values():
                for row in slave.rows:
                    row.pieces.clear()

    def _bin(self, row: _Row, start: float, end: float, state: int) -> None:
        while end >= BINS * self._bin_s:
            self._bin_s *= 2
            for slave in self._slaves.values():
                for each in slave.rows:
                    _halve(each)
        first, last = int(max(0.0, start) / self._bin_s), int(max(0.0, end) / self._bin_s)
        if first == last:
            row.busy[first] += end - start
        else:
            row.busy[first] += (first + 1) * self._bin_s - start
            row.busy[last] += end - last * self._bin_s
            for middle in range(first + 1, last):
                row.busy[middle] += self._bin_s
        row.ended[last] += 1
        row.failed[last] += state == FAILED

    def parts(self, now: float) -> dict[str, Any]:
        """Return the content as plain data.

        Rows contain pieces, or two texts of digits from 0 to 8: how busy each bin was, and the share of failed tasks.
        """
        running = min((since for _, since in self._running.values()), default=math.inf)
        began = min(self._began, running, now)
        names = set(self._slaves) | {slave for slave, _ in self._running.values() if slave}
        ranked = sorted(names, key=lambda name: (-self._tasks_of(name), name))
        single = self._pieces <= PIECES_MOST
        shown = [self._slave_timeline(name, now, single) for name in sorted(ranked[:SLAVES_MOST])]
        return {
            "now": round(now, 3),
            "began": round(max(0.0, began), 3),
            "bin": 0 if single else self._bin_s,
            "slaves": shown,
            "more": max(0, len(ranked) - SLAVES_MOST),
        }

    def _tasks_of(self, name: str) -> int:
        return self._slaves[name].tasks if name in self._slaves else 0

    def _slave_timeline(self, name: str, now: float, single: bool) -> dict[str, Any]:
        timeline = self._slaves.get(name) or _SlaveRow()
        running = sorted((since, task) for task, (slave, since) in self._running.items() if slave == name)
        rows = self._pieces_of(timeline, running, now) if single else self._levels_of(timeline, running, now)
        return {
            "name": line_of(name),
            "tasks": timeline.tasks,
            "failed": timeline.failed,
            "stopped": timeline.stopped,
            "rows": rows,
        }

    def _pieces_of(self, timeline: _SlaveRow, running: list[tuple[float, int]], now: float) -> list[Any]:
        rows: list[list[tuple[float, float, int, int]]] = [list(row.pieces) for row in timeline.rows]
        free = [(row.until, number) for number, row in enumerate(timeline.rows)]
        # The worker of a running task is not known before it has ended: choose any row that was free when it began.
        for since, task in running:
            fits = [(until, number) for until, number in free if until <= since + BIN_S]
            if fits:
                until, number = max(fits)
                free.remove((until, number))
            else:
                until, number = 0.0, len(rows)
                rows.append([])
            rows[number].append((max(since, until), now, RUNNING, task))
        if len(rows) > ROWS_MOST:  # joined into ROWS_MOST rows
            rows = [[piece for row in rows[number::ROWS_MOST] for piece in row] for number in range(ROWS_MOST)]
        return [[[round(start, 3), round(end, 3), state, task] for start, end, state, task in row] for row in rows]

    def _levels_of(self, timeline: _SlaveRow, running: list[tuple[float, int]], now: float) -> list[Any]:
        width = self._bin_s
        count = min(BINS, int(now / width) + 1)
        rows = [(row.busy[:count], row.ended[:count], row.failed[:count]) for row in timeline.rows]
        more = [0.0] * count
        for since, _ in running:
            for number in range(min(count, int(since / width)), count):
                more[number] += min(now, (number + 1) * width) - max(since, number * width)
        if len(rows) > ROWS_MOST:
            times = len(rows)
            busy = [sum(row[0][number] for row in rows) / times for number in range(count)]
            ended = [sum(row[1][number] for row in rows) for number in range(count)]
            failed = [sum(row[2][number] for row in rows) for number in range(count)]
            rows = [(busy, ended, failed)]
        for number, extra in enumerate(more):  # running tasks, divided among the rows
            for busy, _, _ in rows:
                busy[number] += extra / len(rows)
        return [
            ["".join(_level(part, width) for part in busy), "".join(map(_level, failed, ended))]
            for busy, ended, failed in rows
        ]


def _level(part: float, whole: float) -> str:
    """Return a share as a digit from 0 (nothing) to 8."""
    return str(min(8, max(1, round(8 * part / whole)))) if part > 0 else "0"


def _halve(row: _Row) -> None:
    """Join each two bins to one."""
    row.busy = [row.busy[at] + row.busy[at + 1] for at in range(0, BINS, 2)] + [0.0] * (BINS // 2)
    for counts in (row.ended, row.failed):
        counts[:] = [counts[at] + counts[at + 1] for at in range(0, BINS, 2)] + [0] * (BINS // 2)
