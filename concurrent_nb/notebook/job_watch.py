"""Wait for a job in the cell that started it: show output and progress, and stop the job when the cell is interrupted.

Used by the magics, on the main thread, which waits in short slices and updates the display in between.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from concurrent_nb import Job
from concurrent_nb.clock import Clock, monotonic
from concurrent_nb.notebook.cell_output import Printer
from concurrent_nb.notebook.progress_display import ProgressDisplay, job_text
from concurrent_nb.notebook.results import notes_of, stopped, summary
from concurrent_nb.notebook.stop_button import StopButton
from concurrent_nb.notebook.tracebacks import show_as

#: seconds between updates of output and progress; front ends process few messages per second
SLICE_S: Final = 0.2
#: seconds until the first update: a quick job gets no display, a slow one is shown soon
FIRST_S: Final = 0.1
#: seconds that the tasks of a stopped job may take to end; the cell must return within a second
CONFIRM_S: Final = 0.7


class JobWatch:
    """Waits for the job of one cell.

    Args:
        button: the stop button, entered before the job was started.
        started: when the job was started, by `clock`.
        where: where the tasks ran, for the summary; None: "on N slaves".
        continues: returns whether another job follows the one that has ended, so that no summary is shown yet.
    """

    def __init__(
        self,
        job: Job,
        progress: ProgressDisplay,
        printer: Printer,
        button: StopButton,
        started: float,
        where: str | None = None,
        clock: Clock = monotonic,
        continues: Callable[[Job], bool] = lambda job: False,
    ) -> None:
        self._job = job
        self._continues = continues
        self._progress = progress
        self._printer = printer
        self._button = button
        self._where = where
        self._clock = clock
        self._started = started

    def wait(self) -> None:
        """Wait until every task has ended, then show the summary of the job.

        Raises KeyboardInterrupt when the stop button is pressed, after the job was stopped.
        """
        try:
            slice_s = FIRST_S
            while not self._button.wait(self._job, slice_s):
                self._refresh()
                slice_s = SLICE_S
        except KeyboardInterrupt as interrupt:
            self._stop()
            show_as(interrupt, ["KeyboardInterrupt: the job was stopped; the results so far are in _job.futures"])
            raise
        if self._continues(self._job):
            self._progress.make_room()
            self._printer.take(self._job)
            return
        elapsed_s = self._clock() - self._started
        self._end(summary(self._job, elapsed_s, self._where), elapsed_s, notes_of(self._job, self._where))

    def _refresh(self) -> None:
        text = job_text(self._job, self._clock() - self._started)
        if self._progress.is_fixed:  # before the output, so that it does not split the output of tasks
            self._progress.show(text)
        self._progress.make_room()
        self._printer.take(self._job)
        if not self._progress.is_fixed:
            self._progress.show(text)

    def _stop(self) -> None:
        before = self._job.counts()
        self._job.cancel()
        with suppress(KeyboardInterrupt):
            self._button.wait(self._job, CONFIRM_S)
        after = self._job.counts()
        elapsed_s = self._clock() - self._started
        self._end(f"stopped: {', '.join(stopped(before, after))}", elapsed_s, ["stopped", *stopped(before, after)[1:]])

    def _end(self, text: str, elapsed_s: float, notes: Sequence[str]) -> None:
        if self._progress.is_fixed:
            self._progress.end(text, elapsed_s, notes)
        self._progress.make_room()
        self._printer.take(self._job)
        self._printer.flush()
        if not self._progress.is_fixed:
            self._progress.end(text, elapsed_s, notes)
