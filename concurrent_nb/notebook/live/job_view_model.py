"""The view model of a job: aggregates events and notes into small plain data, ready to be shown.

    display thread:   update(events, notes) --> head, bars, errors, timeline, view

Used by `live_display`. Pure: time is an argument, nothing waits, nothing is shown. Its size is bounded, except
for one byte per task.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from concurrent_nb import Job, SystemRun, TaskFuture
from concurrent_nb.api import Counts, TaskEvent, TaskNote
from concurrent_nb.notebook.live.colours import CANCELLED, DONE, FAILED, HIT, RUNNING, WAITING
from concurrent_nb.notebook.live.error_groups import ErrorGroups
from concurrent_nb.notebook.live.pace import Pace
from concurrent_nb.notebook.live.text import REPORT_CHARACTERS, line_of
from concurrent_nb.notebook.live.timeline import Timeline
from concurrent_nb.notebook.live.views import View
from concurrent_nb.notebook.progress_display import inputs_text
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.runtime.notes import ProgressReport, Publication, SystemCounts

#: default name of a job, which is not shown: the job is displayed below this cell
_CELL: Final = re.compile(r"In\[\d+\]")
#: maximum number of bars of single tasks; up to BARS_SPARE more are shown instead of being counted
BARS_MOST: Final = 8
BARS_SPARE: Final = 2
#: maximum number of ended tasks whose last report is kept
REPORTS_MOST: Final = 200


class JobViewModel:
    """The state of a job, as it is shown.

    Args:
        started: when the job was started, by the clock of its events.
        view: what shows the results; None: they are not shown.
        traceback: returns the text of a failed task's traceback.
    """

    def __init__(self, job: Job, started: float, view: View | None, traceback: Callable[[TaskFuture], str]) -> None:
        self.view = view
        self.states = bytearray(len(job.futures))  #: state of each task
        self.timeline = Timeline()
        self.error_groups = ErrorGroups()
        self.view_version = 0  #: incremented when the view may have changed
        self.bars_version = 0
        self._job = job
        self._started = started
        self._traceback = traceback
        self._bars: dict[int, tuple[float | None, str]] = {}  #: last reports of running tasks
        self._reports: dict[int, tuple[float | None, str]] = {}  #: last reports of ended tasks, the latest ones
        self._reported = 0  #: number of ended tasks that have reported
        self._most = 0  #: maximum number of bars so far
        self._pace = Pace()
        self._unread = 0
        self._system: SystemCounts | None = None

    # ---------------------------------------------------------------------------------------------------- updates

    def update(self, events: Sequence[TaskEvent], notes: Sequence[TaskNote]) -> None:
        """Take new events and notes into account."""
        self._make_room()
        for note in notes:
            self._note(note)
        for event in events:
            self._event(event)
        self.timeline.settle()

    def _make_room(self) -> None:
        """Add a state for each new task of an open job."""
        self.states.extend(bytes(max(0, len(self._job.futures) - len(self.states))))

    def _event(self, event: TaskEvent) -> None:
        index, at = event.index, event.at_s - self._started
        self.view_version += 1
        if event.kind == "started":
            if self.states[index] == WAITING:
                self.states[index] = RUNNING
            self.timeline.started(index, event.slave, at)
            return
        future = self._job.futures[index]
        state = self.states[index] = _state_of(future, event.status)
        self.timeline.ended(index, event.slave, event.worker, at, event.elapsed_s, state)
        if (last := self._bars.pop(index, None)) is not None:
            self._keep_report(index, last)
        if state == FAILED and (error := future.exception()) is not None:
            self.error_groups.add(index, error, lambda: self._traceback(future))
        if self.view is not None:
            self.view.ended(future, state)

    def _keep_report(self, index: int, report: tuple[float | None, str]) -> None:
        self.bars_version += 1
        self._reported += 1
        self._reports[index] = report
        if len(self._reports) > REPORTS_MOST:
            del self._reports[next(iter(self._reports))]

    def _note(self, note: TaskNote) -> None:
        content = note.content
        if isinstance(content, SystemCounts):
            self._system = content
            self.bars_version += 1
        elif isinstance(content, ProgressReport):
            if self.states[note.index] in (WAITING, RUNNING):
                self._bars[note.index] = (content.fraction, line_of(content.text, REPORT_CHARACTERS))
                self.bars_version += 1
        elif self.view is not None and isinstance(content, Publication):
            try:
                value = content.value
            except Exception:  # noqa: BLE001  (unpickling runs the user's code)
                self._unread += 1
                return
            self.view_version += 1
            self.view.published(note.index, value)

    # ---------------------------------------------------------------------------------------------------- content

    def head(self, counts: Counts, now: float) -> dict[str, Any]:
        """Return the counts and times; `now` is by the same clock as `started`."""
        elapsed = max(0.0, now - self._started)
        ended = counts.done + counts.failed + counts.cancelled
        part = sum(fraction for fraction, _ in self._bars.values() if fraction is not None)
        rate, left = self._pace.measure(ended, part, counts.total, elapsed)
        job = self._job
        if isinstance(job, SystemRun) and job.is_system and not job.last_counts.exhausted:
            left = None  # the system may still push tasks
        return {
            "name": "" if _CELL.fullmatch(self._job.name) else line_of(self._job.name),
            "total": counts.total,
            "waiting": counts.waiting,
            "running": counts.running,
            "done": counts.done,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
            "part": part,
            "elapsed": round(elapsed, 2),
            "rate": rate,
            "left": left,
            "unread": self._unread,
            "waits_for": inputs_text(job.input_counts()),
        }

    def bars(self) -> dict[str, Any]:
        """Return the progress that tasks have reported, or of a task system the progress of its phases."""
        if self._system is not None:
            return self._phases(self._system)
        running = sorted(self._bars.items())
        shown = running if len(running) <= BARS_MOST + BARS_SPARE else running[:BARS_MOST]
        more = len(running) - len(shown)
        if len(self._reports) + len(running) <= BARS_MOST + BARS_SPARE:
            shown = [*shown, *self._reports.items()]
        elif (room := max(BARS_MOST, self._most) - len(shown)) > 0:
            shown = [*shown, *list(self._reports.items())[-room:]]
        shown_ones = {index for index, _ in shown}
        others = [] if running else sorted(item for item in self._reports.items() if item[0] not in shown_ones)
        self._most = max(self._most, len(shown))
        return {
            "bars": [self._bar(*item) for item in sorted(shown)],
            "others": [self._bar(*item) for item in others],
            "more": more if running else self._reported - len(shown),
            "single": len(self.states) == 1,
            "most": self._most,
        }

    def _bar(self, index: int, report: tuple[float | None, str]) -> list[Any]:
        label = self._job.label(index) if self._job.label is not None else ""
        state = self.states[index]
        shown = f"task {index}{f' · {line_of(label)}' if label else ''}"
        return [shown, report[0], report[1], DONE if state == HIT else max(state, RUNNING)]

    def _phases(self, counts: SystemCounts) -> dict[str, Any]:
        shown = [phase for phase in counts.phases if phase.unfinished][-BARS_MOST:]
        bars: list[list[Any]] = []
        for phase in shown:
            ended = phase.pushed - phase.unfinished
            failed = f", {phase.failed:,} failed" if phase.failed else ""
            text = f"{ended:,} of {phase.pushed:,} tasks{failed}"
            bars.append([f"phase {phase.number}", ended / phase.pushed, text, RUNNING])
        if counts.stage != "running":
            bars.append(["", None, counts.stage, RUNNING])
        self._most = max(self._most, len(bars))
        return {"bars": bars, "others": [], "more": 0, "single": False, "most": self._most}

    def timeline_parts(self, elapsed: float) -> dict[str, Any]:
        """Return which tasks ran when, by slave and worker."""
        return {**self.timeline.parts(elapsed), "single": len(self.states) == 1}

    def view_parts(self) -> dict[str, Any] | None:
        """Return the content of the view."""
        return self.view.parts(self.states) if self.view is not None else None

    def finish(self) -> None:
        """Add tasks without events: those that never ran, and all tasks of a job that is not watched."""
        self._make_room()
        for index, before in enumerate(self.states):
            future = self._job.futures[index]
            if before in (WAITING, RUNNING) and future.done():
                state = self.states[index] = _state_of(future, future.status)
                if state == FAILED and (error := future.exception()) is not None:
                    self.error_groups.add(index, error, partial(self._traceback, future))
        for index, last in sorted(self._bars.items()):
            self._keep_report(index, last)
        self._bars.clear()
        if self._system is not None:
            self._system, self._most = None, 0
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
