"""The live displays of a notebook's jobs: in their cells, on request, and of jobs in the background.

Used by the magics and `extension`. A job is shown where it was started. As the value of a cell, or with `%concurrent
show`, it is shown again, also after the notebook was reloaded. A job in the background is shown when it has run for a
second, or when its cell ends before it, so that short maps get no display.
"""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display

from concurrent_nb import Job
from concurrent_nb.ids import JobId
from concurrent_nb.notebook.live import view_choice

if TYPE_CHECKING:
    from concurrent_nb.notebook.live.live_display import LiveDisplay

#: maximum number of displays that are kept, to be shown again
KEPT: Final = 20
#: a job in the background is shown after this time in seconds, while its cell still runs
SHOWN_AFTER_S: Final = 1.0
#: seconds between two checks for such jobs
POLL_S: Final = 0.2
#: maximum number of background jobs of a cell that are shown
SHOWN_MOST: Final = 3


@dataclass
class _Pending:
    """A background job that is not shown yet."""

    job: Job[Any]
    since_s: float
    parent: Any  #: the request message of its cell


class JobViews:
    """The displays of the jobs of one shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._displays: OrderedDict[JobId, LiveDisplay] = OrderedDict()
        self._pending: list[_Pending] = []
        self._shown = 0  #: number of background jobs that the current cell shows
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, job: Job[Any], live: "LiveDisplay") -> None:
        """Remember the display of a job."""
        with self._lock:
            self._displays[job.id] = live
            ended = [known for known, old in self._displays.items() if old.is_over]
            for known in ended[: max(0, len(self._displays) - KEPT)]:
                del self._displays[known]

    def has(self, job: Job[Any]) -> bool:
        """Return whether the job is, or was, displayed."""
        with self._lock:
            return job.id in self._displays

    def bundle(self, job: Job[Any]) -> dict[str, Any]:
        """Return the MIME bundle of a job that is the value of a cell."""
        text = {"text/plain": repr(job)}
        if not view_choice.is_possible(self._shell):
            return text
        page = self._display_of(job).current_page()
        return {**text, "text/html": page} if page is not None else text

    def show(self, job: Job[Any]) -> None:
        """Display a job in the current cell, and keep the display up to date."""
        if not view_choice.is_possible(self._shell):
            print(repr(job))
            return
        live = self._display_of(job)
        handle = display(self.bundle(job), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        live.also_in(handle)

    def job_started(self, job: Job[Any]) -> None:
        """Register a job in the background, which is shown if it lasts."""
        get_parent = getattr(self._shell, "get_parent", None)
        with self._lock:
            self._pending.append(_Pending(job, time.monotonic(), get_parent() if get_parent is not None else None))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._show_lasting_jobs, name="concurrent_nb job views", daemon=True
                )
                self._thread.start()

    def cell_ended(self, *_: Any) -> None:
        """Show the background jobs that outlive the cell. Registered for `post_run_cell`."""
        with self._lock:
            left, self._pending = self._pending, []
        for pending in left:
            if not pending.job.done():
                self._show_pending(pending)
        self._shown = 0

    def _display_of(self, job: Job[Any]) -> "LiveDisplay":
        live = self._displays.get(job.id)
        if live is None:
            live = view_choice.display_on_request(job, self._shell)
            self.add(job, live)
        return live

    def _show_lasting_jobs(self) -> None:
        """Show jobs that have run for SHOWN_AFTER_S while their cell is still running."""
        while True:
            time.sleep(POLL_S)
            now = time.monotonic()
            with self._lock:
                self._pending = [pending for pending in self._pending if not pending.job.done()]
                ripe = [pending for pending in self._pending if now - pending.since_s >= SHOWN_AFTER_S]
                self._pending = [pending for pending in self._pending if pending not in ripe]
                if not self._pending:
                    self._thread = None
            for pending in ripe:
                self._show_pending(pending)
            if self._thread is not threading.current_thread():
                return

    def _show_pending(self, pending: _Pending) -> None:
        if pending.job.id in self._displays or self._shown >= SHOWN_MOST:
            return
        self._shown += 1
        live = view_choice.display_on_request(pending.job, self._shell)
        self.add(pending.job, live)
        live.open_here(pending.parent)
