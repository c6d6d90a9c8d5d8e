"""Which views a notebook's jobs have: that of their cell, those that are asked for later, and those of background jobs.

Used by the magics and `extension`. A job is shown where it was started; as the value of a cell, or with `%concurrent
show`, it is shown again, also after its page was loaded again. A job that nobody waits for is shown when it has run for
a second, or when its cell ends before it: small maps are spared a view.
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

#: views that are kept, to be shown again
KEPT: Final = 20
#: a job in the background is shown when it has run for so long, in seconds, and its cell still runs
SHOWN_AFTER_S: Final = 1.0
POLL_S: Final = 0.2
#: jobs of one cell that are shown by themselves
SHOWN_MOST: Final = 3


@dataclass
class _Pending:
    """A job that is not shown yet."""

    job: Job[Any]
    since_s: float
    parent: Any  #: the message that has asked for its cell


class JobViews:
    """The views of the jobs of one shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._displays: OrderedDict[JobId, LiveDisplay] = OrderedDict()
        self._pending: list[_Pending] = []
        self._shown = 0  #: of the current cell
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, job: Job[Any], live: "LiveDisplay") -> None:
        """Remember the display of a job."""
        with self._lock:
            self._displays[job.id] = live
            ended = [known for known, old in self._displays.items() if old.is_over]
            for known in ended[: max(0, len(self._displays) - KEPT)]:
                del self._displays[known]

    def bundle(self, job: Job[Any]) -> dict[str, Any]:
        """Give what a notebook displays for a job that is the value of a cell."""
        text = {"text/plain": repr(job)}
        if not view_choice.is_possible(self._shell):
            return text
        page = self._display_of(job).current_page()
        return {**text, "text/html": page} if page is not None else text

    def show(self, job: Job[Any]) -> None:
        """Display a job here; it is kept up to date."""
        if not view_choice.is_possible(self._shell):
            print(repr(job))
            return
        live = self._display_of(job)
        handle = display(self.bundle(job), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        live.also_in(handle)

    def job_started(self, job: Job[Any]) -> None:
        """Take note of a job that goes on in the background: it is shown if it lasts."""
        get_parent = getattr(self._shell, "get_parent", None)
        with self._lock:
            self._pending.append(_Pending(job, time.monotonic(), get_parent() if get_parent is not None else None))
            if self._thread is None:
                self._thread = threading.Thread(target=self._show_lasting_jobs, name="concurrent_nb shows", daemon=True)
                self._thread.start()

    def cell_ended(self, *_: Any) -> None:
        """Show what the cell leaves behind that still runs. Registered for `post_run_cell`."""
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
        """Show jobs that last, while their cell waits for them or does other things."""
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
