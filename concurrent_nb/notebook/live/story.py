"""The story of a job: what has happened is folded into little plain data, ready to be shown.

    watch thread:   fold(events, notes, counts) --> parts(): head, bars, errors, lanes, view

Used by `line`. Pure: time is an argument, nothing waits, nothing is shown. What is kept has a bound, whatever the
number of tasks, but for one byte each.
"""

import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from concurrent_nb import Job, SystemRun, TaskFuture
from concurrent_nb.api import Counts, TaskEvent, TaskNote
from concurrent_nb.notebook.live.colours import CANCELLED, DONE, FAILED, HIT, RUNNING, WAITING
from concurrent_nb.notebook.live.folds import Folds
from concurrent_nb.notebook.live.lanes import Lanes
from concurrent_nb.notebook.live.text import line_of
from concurrent_nb.notebook.live.views import View
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.notes import Publication, Report, SystemCounts

#: what a job is called that was given no name: the cell, which is above it anyway
_CELL: Final = re.compile(r"In\[\d+\]")
#: tasks whose own bars are shown
BARS_MOST: Final = 6
#: throughput is that of this time
WINDOW_S: Final = 10.0
#: no throughput is told before so many tasks have ended
RATE_TASKS: Final = 2


class Story:
    """What is known of a job.

    Args:
        started: when it was started, by the clock of its events.
        view: what shows the results, None if nothing does.
        traceback: gives the text of a failed task's traceback.
    """

    def __init__(self, job: Job, started: float, view: View | None, traceback: Callable[[TaskFuture], str]) -> None:
        self.view = view
        self.states = bytearray(len(job.futures))  #: state of each task
        self.lanes = Lanes()
        self.folds = Folds()
        self.view_version = 0  #: grows whenever the view may have changed
        self.bars_version = 0
        self._job = job
        self._started = started
        self._traceback = traceback
        self._bars: dict[int, tuple[float | None, str]] = {}
        self._rate: deque[tuple[float, int]] = deque()  #: (when, tasks that had ended)
        self._unread = 0
        self._system: SystemCounts | None = None

    # ----------------------------------------------------------------------------------------------- what happens

    def fold(self, events: Sequence[TaskEvent], notes: Sequence[TaskNote]) -> None:
        """Take what has happened."""
        for note in notes:
            self._note(note)
        for event in events:
            self._event(event)
        self.lanes.settle()

    def _event(self, event: TaskEvent) -> None:
        index, at = event.index, event.at_s - self._started
        self.view_version += 1
        if event.kind == "started":
            if self.states[index] == WAITING:
                self.states[index] = RUNNING
            self.lanes.started(index, event.slave, at)
            return
        future = self._job.futures[index]
        state = self.states[index] = _state_of(future, event.status)
        self.lanes.ended(index, event.slave, event.worker, at, event.elapsed_s, state)
        if self._bars.pop(index, None) is not None:
            self.bars_version += 1
        if state == FAILED and (error := future.exception()) is not None:
            self.folds.add(index, error, lambda: self._traceback(future))
        if self.view is not None:
            self.view.ended(future, state)

    def _note(self, note: TaskNote) -> None:
        content = note.content
        if isinstance(content, SystemCounts):
            self._system = content
            self.bars_version += 1
        elif isinstance(content, Report):
            if self.states[note.index] in (WAITING, RUNNING):
                self._bars[note.index] = (content.fraction, line_of(content.text))
                self.bars_version += 1
        elif self.view is not None and isinstance(content, Publication):
            try:
                value = content.value
            except Exception:  # noqa: BLE001  (unpickling runs the user's code)
                self._unread += 1
                return
            self.view_version += 1
            self.view.published(note.index, value)

    # ------------------------------------------------------------------------------------------------ what is shown

    def head(self, counts: Counts, now: float) -> dict[str, Any]:
        """Give the numbers, by the same clock as `started`."""
        elapsed = max(0.0, now - self._started)
        ended = counts.done + counts.failed + counts.cancelled
        rate, left = self._pace(ended, counts.total, elapsed)
        job = self._job
        if isinstance(job, SystemRun) and job.is_system and not job.told.exhausted:
            left = None  # more is to come than is known
        return {
            "name": "" if _CELL.fullmatch(self._job.name) else line_of(self._job.name),
            "total": counts.total,
            "waiting": counts.waiting,
            "running": counts.running,
            "done": counts.done,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
            "elapsed": round(elapsed, 2),
            "rate": rate,
            "left": left,
            "unread": self._unread,
        }

    def _pace(self, ended: int, total: int, elapsed: float) -> tuple[float | None, float | None]:
        """Give tasks per second of late, and the seconds that the rest will take."""
        samples = self._rate
        if not samples:
            samples.append((0.0, 0))
        if elapsed - samples[-1][0] >= WINDOW_S / 40:
            samples.append((elapsed, ended))
        while len(samples) > 2 and elapsed - samples[1][0] >= WINDOW_S:
            samples.popleft()
        since, before = samples[0]
        if ended < RATE_TASKS or elapsed <= since or ended == before:
            return None, None
        rate = (ended - before) / (elapsed - since)
        return rate, (total - ended) / rate

    def bars(self) -> dict[str, Any]:
        """Give what tasks have reported of themselves; of a task system, how far its phases are."""
        if self._system is not None:
            return self._phases(self._system)
        shown = sorted(self._bars.items())[:BARS_MOST]
        return {
            "bars": [[index, fraction, text] for index, (fraction, text) in shown],
            "more": len(self._bars) - len(shown),
            "single": len(self.states) == 1,
            "word": "task",
        }

    @staticmethod
    def _phases(told: SystemCounts) -> dict[str, Any]:
        shown = [phase for phase in told.phases if phase.unfinished][-BARS_MOST:]
        bars: list[list[Any]] = []
        for phase in shown:
            ended = phase.pushed - phase.unfinished
            failed = f", {phase.failed:,} failed" if phase.failed else ""
            bars.append([phase.number, ended / phase.pushed, f"{ended:,} of {phase.pushed:,} tasks{failed}"])
        if told.stage != "running":
            bars.append([0, None, told.stage])
        return {"bars": bars, "more": 0, "single": False, "word": "phase"}

    def lane_parts(self, elapsed: float) -> dict[str, Any]:
        """Give who did what, when."""
        return {**self.lanes.parts(elapsed), "single": len(self.states) == 1}

    def view_parts(self) -> dict[str, Any] | None:
        """Give what the view shows."""
        return self.view.parts(self.states) if self.view is not None else None

    def finish(self) -> None:
        """Take what has not been told in events: tasks that never ran."""
        for index, state in enumerate(self.states):
            if state in (WAITING, RUNNING):
                future = self._job.futures[index]
                if future.done():
                    self.states[index] = _state_of(future, future.status)
        self._bars.clear()
        self._system = None
        self.bars_version += 1
        self.view_version += 1


def _state_of(future: TaskFuture, status: Status | None) -> int:
    if future.cancelled():
        return CANCELLED
    if not future.done():
        return RUNNING
    if future.exception() is not None:
        return FAILED
    return HIT if status is Status.HIT else DONE
