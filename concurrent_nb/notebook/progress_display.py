"""One line of text with the progress of a job, replaced by its summary at the end.

Used by `job_watch`, on the main thread. In a notebook the line is a display that is updated in place, on a terminal it
is overwritten; otherwise only the summary is printed.
"""

import sys
from collections.abc import Sequence
from typing import Any, Final, Protocol

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import DisplayHandle, display

from concurrent_nb import Job, SystemRun
from concurrent_nb.notebook.live.text import seconds_text
from concurrent_nb.shipping.runtime.notes import SystemCounts

_ERASE: Final = "\r\x1b[2K"
_BAR: Final = 20


class ProgressDisplay(Protocol):
    """A line that can be replaced."""

    is_fixed: bool  #: it keeps its position, and other output appears below it

    def show(self, text: str) -> None:
        """Replace the line by `text`."""

    def make_room(self) -> None:
        """Erase the line if other output would be appended to it; the next `show` writes it again."""

    def end(self, text: str, elapsed_s: float | None = None, notes: Sequence[str] = ()) -> None:
        """Replace the line by the summary `text`; a live display shows the time and the notes in its page instead."""


class KernelProgress:
    """A display in a notebook, updated in place."""

    is_fixed = True

    def __init__(self) -> None:
        self._handle: DisplayHandle | None = None

    def show(self, text: str) -> None:
        content = {"text/plain": text}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(content, raw=True)  # type: ignore[no-untyped-call]

    def make_room(self) -> None:
        return  # other output appears below it

    def end(self, text: str, elapsed_s: float | None = None, notes: Sequence[str] = ()) -> None:
        self.show(text)


class TerminalProgress:
    """The last line of a terminal."""

    is_fixed = False

    def __init__(self) -> None:
        self._visible = False

    def show(self, text: str) -> None:
        self._write(_ERASE + text)
        self._visible = True

    def make_room(self) -> None:
        if self._visible:
            self._write(_ERASE)
            self._visible = False

    def end(self, text: str, elapsed_s: float | None = None, notes: Sequence[str] = ()) -> None:
        self.make_room()
        self._write(text + "\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class SummaryOnly:
    """Output that cannot be overwritten: only the summary is shown."""

    is_fixed = False

    def show(self, text: str) -> None:
        return

    def make_room(self) -> None:
        return

    def end(self, text: str, elapsed_s: float | None = None, notes: Sequence[str] = ()) -> None:
        sys.stdout.write(text + "\n")


def progress_display_for(shell: InteractiveShell | None) -> ProgressDisplay:
    """Return the kind of display that fits the output of this shell."""
    if hasattr(shell, "kernel"):
        return KernelProgress()
    return TerminalProgress() if sys.stdout.isatty() else SummaryOnly()


def job_text(job: Job, elapsed_s: float) -> str:
    """Return the progress of a job, `elapsed_s` seconds after its start."""
    if isinstance(job, SystemRun) and job.is_system:
        return system_text(job.last_counts, elapsed_s)
    return progress_text(job.counts(), elapsed_s, job.input_counts())


def system_text(counts: SystemCounts, elapsed_s: float) -> str:
    """Return the progress of a task system: its tasks so far, and its phases that have not ended."""
    if counts.stage != "running":
        return f"the system is {counts.stage}, {seconds_text(elapsed_s)}"
    ended = counts.pushed - counts.unfinished
    parts = [f"{ended:,} of {counts.pushed:,} tasks{'' if counts.exhausted else ' so far'}"]
    open_ones = [phase for phase in counts.phases if phase.unfinished]
    parts += [f"phase {phase.number}: {phase.pushed - phase.unfinished:,}/{phase.pushed:,}" for phase in open_ones[-3:]]
    if counts.running:
        parts.append(f"{counts.running} running")
    if counts.failed:
        parts.append(f"{counts.failed} failed")
    if ended and elapsed_s > 0:
        parts.append(f"{ended / elapsed_s:.1f}/s")
    return ", ".join(parts)


def progress_text(counts: Any, elapsed_s: float, inputs: tuple[int, int] = (0, 0)) -> str:
    """Return the progress of a job.

    Args:
        counts: the job's `Counts`.
        elapsed_s: seconds since it was started.
        inputs: how many results of other tasks it needs, and how many of these are not there yet.
    """
    total = counts.total
    ended = total - counts.waiting - counts.running
    if total == 1:
        state = inputs_text(inputs) or ("running" if counts.running else "waiting")
        return f"{state}, {seconds_text(elapsed_s)}"
    bar = "#" * (_BAR * ended // total)
    parts = [f"[{bar:-<{_BAR}}] {ended:,}/{total:,} tasks"]
    if counts.running:
        parts.append(f"{counts.running:,} running")
    if counts.failed:
        parts.append(f"{counts.failed:,} failed")
    if missing := inputs_text(inputs):
        parts.append(missing)
    if ended and elapsed_s > 0:
        rate = ended / elapsed_s
        parts += [f"{rate:,.1f}/s", f"{seconds_text((total - ended) / rate)} left"]
    return ", ".join(parts)


def inputs_text(inputs: tuple[int, int]) -> str:
    """Return what a job waits for, of the results of other tasks that it needs; "" if all are there.

    >>> inputs_text((10, 4)), inputs_text((10, 0))
    ('waits for 4 of 10 results of others', '')
    """
    needed, missing = inputs
    return f"waits for {missing:,} of {needed:,} result{'s' * (needed != 1)} of others" if missing else ""
