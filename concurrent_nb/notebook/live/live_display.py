"""The line that lives: a page of HTML in the cell, which a widget keeps up to date while the job runs.

Used by `watch`, as any other line of `progress`. One thread for each job takes what has happened, folds it into the
story and sends bulletins; it prints nothing. Now and then it displays the page anew, so that a notebook that is saved
meanwhile has it as it was then, and opens a new widget, so that a notebook that was loaded again follows the job.
"""

import atexit
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import DisplayHandle, display

from concurrent_nb import Job
from concurrent_nb.clock import Clock, monotonic
from concurrent_nb.notebook.cell_output import Printer
from concurrent_nb.notebook.live import job_page
from concurrent_nb.notebook.live.job_view_model import JobViewModel
from concurrent_nb.notebook.live.update_throttle import TICK_S, UpdateThrottle
from concurrent_nb.notebook.live.views import ImageView
from concurrent_nb.notebook.live.widget import JobWidget
from concurrent_nb.notebook.progress_display import job_text
from concurrent_nb.notebook.results import notes_of, summary

#: the thread has this long to finish what it does
JOIN_S: Final = 2.0
#: page and widget are renewed when the job has become older by this part of its age, within these limits, in seconds
RENEW_PART: Final = 0.25
RENEW_S: Final = (3.0, 15.0)
#: a larger page is not renewed before the job ends
PAGE_BYTES: Final = 500_000


class LiveDisplay:
    """A job's place in its cell.

    It `leads`: what tasks print comes below.

    Args:
        story: what is known of the job; from now on only this object touches it.
        started: when the job was started, by `clock`.
        place: a display in whose place it is shown; None makes a new one.
    """

    is_fixed = True

    def __init__(
        self,
        job: Job,
        model: JobViewModel,
        started: float,
        shell: InteractiveShell | None,
        handle: DisplayHandle | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self._job = job
        self._model = model
        self._started = started
        self._shell = shell
        self._clock = clock
        self._throttle = UpdateThrottle(model)
        self._page_class = page_class_of(job)
        self._beats = 0
        self._renewed = 0.0
        self._handles = [] if handle is None else [handle]
        self._last: str | None = None  #: the page when the job has ended
        self._widget: JobWidget | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._parent: Any = None  #: the message that has asked for the cell
        self._broken: Exception | None = None
        self._lock = threading.Lock()  #: around the story: the last look may come while a slow thread has one, too

    # ------------------------------------------------------------------------------------------ as a line of progress

    def show(self, text: str) -> None:
        """Show the widget; from then on it keeps itself up to date."""
        if self._thread is None:
            self._open(text)
            self._thread = threading.Thread(target=self._publish, name="concurrent_nb live view", daemon=True)
            self._thread.start()

    def make_room(self) -> None:
        """Do nothing: it has a place of its own."""

    def end(self, text: str, elapsed_s: float | None = None, notes: Sequence[str] = ()) -> None:
        """Show the page as it stays, and end the widget."""
        self._over.set()
        try:
            if self._thread is not None:
                self._thread.join(JOIN_S)
            self._poll()
            self._replace(text, elapsed_s, notes)
        finally:
            self._close()
        if self._broken is not None:
            warnings.warn(f"the live view has failed: {self._broken!r}", RuntimeWarning, stacklevel=2)

    def hand_over(self) -> DisplayHandle | None:
        """End the widget, and give the display that was its, for another line to be shown in; None if there is none."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)
        self._close()
        return self._handles[0] if self._handles else None

    def follow(self, text: str, ending: Callable[[], str], printer: Printer) -> None:
        """Show a job that nobody waits for, and what its tasks write; `ending` gives its summary when it has ended."""
        self._open(text)
        self._start_following(ending, printer)

    def _start_following(self, ending: Callable[[], str], printer: Printer) -> None:
        self._thread = threading.Thread(
            target=self._follow, args=(ending, printer), name="concurrent_nb live view", daemon=True
        )
        self._thread.start()

    # -------------------------------------------------------------------------------------------- shown once more

    @property
    def is_over(self) -> bool:
        """Say whether the page changes no more."""
        return self._last is not None

    def current_page(self) -> str | None:
        """Give the page as it is; while the job runs it is kept up to date wherever it is displayed."""
        if self._last is None and self._thread is None:
            if self._job.done():
                self._poll()
                self._last = self._last_page(self._job.elapsed_s, notes_of(self._job), always=True)
            else:
                self._follow_unseen()
        if self._last is not None:
            return self._last
        now = self._clock()
        with self._lock:
            parts = self._throttle.page_parts(self._job.counts(), now - self._started, now)
        return self._dated_page(parts, now)

    def also_in(self, handle: DisplayHandle) -> None:
        """Keep another display up to date."""
        self._handles.append(handle)

    def open_here(self, parent: Any) -> None:
        """Show a job that nobody waits for in the cell that `parent` has asked for; in any thread."""
        self._parent = parent
        self._adopt_cell()
        self.follow(job_text(self._job, self._job.elapsed_s), self._ending, Printer(True))

    def _follow_unseen(self) -> None:
        """Follow the job without a display of our own."""
        get_parent = getattr(self._shell, "get_parent", None)
        self._parent = get_parent() if get_parent is not None else None
        now = self._clock()
        self._widget = JobWidget(
            page_class=self._page_class, **self._throttle.whole(self._job.counts(), now - self._started, now)
        )
        self._start_following(self._ending, Printer(True))

    def _ending(self) -> str:
        return summary(self._job, self._job.elapsed_s)

    # ------------------------------------------------------------------------------------------------------- the thread

    def _publish(self) -> None:
        self._adopt_cell()
        while not self._over.wait(TICK_S):
            self._poll()
            self._send()

    def _follow(self, ending: Callable[[], str], printer: Printer) -> None:
        # A kernel that goes down does not wait for the job, but the thread must be gone before Python is.
        atexit.register(self._stop_thread)
        try:
            self._adopt_cell()
            while not self._over.wait(TICK_S) and not self._job.wait(0):
                self._poll()
                self._send()
                printer.take(self._job)
            if not self._over.is_set():
                printer.take(self._job)
                printer.flush()
                self._poll()
                self._replace(ending(), self._job.elapsed_s, notes_of(self._job))
        except Exception:  # noqa: BLE001  (there is nobody to tell: the cell has ended long ago)
            self._over.set()
        finally:
            with suppress(Exception):  # the kernel may be going down
                self._close()
            atexit.unregister(self._stop_thread)

    def _stop_thread(self) -> None:
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)

    def _adopt_cell(self) -> None:
        """Let what this thread says count as said by the cell that started it, where the kernel can tell."""
        adopt = getattr(self._shell, "set_thread_parent", None)
        if adopt is not None:
            with suppress(Exception):  # an interface that is young: without it only the parent in messages is another
                adopt(self._parent)

    def _poll(self) -> None:
        """Take what has happened. A view that fails is no reason for the job to fail."""
        with self._lock:
            events, notes = self._job.take_events(), self._job.take_notes()
            if self._broken is None:
                try:
                    self._model.update(events, notes)
                except Exception as error:  # noqa: BLE001
                    self._broken = error

    def _send(self) -> None:
        if self._broken is not None or self._widget is None:
            return
        now = self._clock()
        elapsed = now - self._started
        try:
            if elapsed - self._renewed >= min(max(RENEW_PART * elapsed, RENEW_S[0]), RENEW_S[1]):
                self._renew(elapsed, now)
                return
            with self._lock:
                due = self._throttle.take(self._job.counts(), elapsed, now)
            if due:
                self._widget.send_parts({**due, "beat": self._beat(elapsed)})
        except Exception as error:  # noqa: BLE001
            self._broken = error

    def _beat(self, elapsed: float) -> tuple[int, str]:
        self._beats += 1
        return self._beats, job_text(self._job, elapsed)

    def _renew(self, elapsed: float, now: float) -> None:
        """Open another widget, and display the page as it is."""
        self._renewed = elapsed
        view = self._model.view
        with self._lock:
            whole = self._throttle.whole(self._job.counts(), elapsed, now)
            picture = view.picture.png() if isinstance(view, ImageView) else None
            drawn = job_page.view(self._model.view_parts(), picture) if picture is not None else whole["view"]
        before, self._widget = self._widget, JobWidget(page_class=self._page_class, **whole)
        self._widget.send_parts({"beat": self._beat(elapsed)})
        if before is not None:
            before.close()
        page = self._dated_page({**whole, "view": drawn}, now)
        if self._handles and len(page) <= PAGE_BYTES:
            self._show(job_text(self._job, elapsed), page)

    # ---------------------------------------------------------------------------------------------------- what is shown

    def _open(self, text: str) -> None:
        get_parent = getattr(self._shell, "get_parent", None)
        if self._parent is None and get_parent is not None:
            self._parent = get_parent()
        now = self._clock()
        elapsed = now - self._started
        first = self._throttle.take(self._job.counts(), elapsed, now)
        self._widget = JobWidget(page_class=self._page_class, **first)
        self._show(text, self._dated_page(first, now))
        self._widget.send_parts({"beat": self._beat(elapsed)})

    def _dated_page(self, parts: dict[str, str], now: float) -> str:
        """Put a page together that says of what time it is, because it may be saved, and loaded much later."""
        with self._lock:
            told = self._model.head(self._job.counts(), now)
        return job_page.page({**parts, "head": job_page.head(told, [job_page.as_of(time.time())])}, self._page_class)

    def _show(self, text: str, page: str | None) -> None:
        """Display the page in the place of the job."""
        data: dict[str, Any] = {"text/plain": text}
        if page is not None:
            data["text/html"] = page
        if self._widget is not None and shows_displayed_widgets_only():
            data.update(self._widget.mime_bundle())
        for handle in self._handles:
            handle.update(data, raw=True)  # type: ignore[no-untyped-call]
        if not self._handles:
            self._handles.append(display(data, raw=True, display_id=True))  # type: ignore[no-untyped-call]

    def _replace(self, text: str, elapsed_s: float | None, notes: Sequence[str]) -> None:
        """Show the page as it stays; just the text if there was never anything else to see."""
        page = None
        is_attended = self._widget is not None
        if self._broken is None:
            try:
                page = self._last = self._last_page(elapsed_s, notes)
                if self._widget is not None and page is not None:
                    self._widget.send_parts({"last": page})  # for notebooks that were loaded again
            except Exception as error:  # noqa: BLE001
                self._broken = error
        self._close()
        if self._handles or not is_attended:
            self._show(text, page)

    def _last_page(self, elapsed_s: float | None, notes: Sequence[str], always: bool = False) -> str | None:
        model = self._model
        with self._lock:
            model.finish()
            counts, now = self._job.counts(), self._clock()
            if model.view is None and not counts.failed and self._thread is None and not always:
                return None
            if elapsed_s is not None:
                now = self._started + elapsed_s
            view = model.view
            picture = view.picture.png() if isinstance(view, ImageView) else None
            return job_page.page(
                {
                    "head": job_page.head(model.head(counts, now), notes),
                    "bars": job_page.bars(model.bars()),
                    "errors": job_page.errors(model.error_groups.parts()),
                    "view": job_page.view(model.view_parts(), picture),
                    "timeline": job_page.timeline(model.timeline_parts(now - self._started)),
                }
            )

    def _close(self) -> None:
        widget, self._widget = self._widget, None
        if widget is not None:
            widget.close()


def page_class_of(job: Job) -> str:
    """Give the class of the pages that are a job's."""
    return f"cnb-job-{job.id.hex()}"


def shows_displayed_widgets_only() -> bool:
    """Say whether the front end runs a widget's program only where the widget is displayed, as VS Code and Colab do."""
    return "VSCODE_PID" in os.environ or "google.colab" in sys.modules
