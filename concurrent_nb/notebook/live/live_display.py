"""The live display of a job: a page of HTML in the cell, which a widget updates while the job runs.

Used by `job_watch`, as any other ProgressDisplay. One thread per job takes events and notes, updates the view model and
sends the changed parts of the page; it prints nothing. From time to time it displays the whole page again, so that a
notebook that is saved meanwhile contains a recent page, and opens a new widget, so that a reloaded notebook follows the
job.
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
from concurrent_nb.notebook.live.job_document import JobDocument
from concurrent_nb.notebook.live.job_view_model import JobViewModel
from concurrent_nb.notebook.live.update_throttle import TICK_S, UpdateThrottle
from concurrent_nb.notebook.live.view_publisher import PUBLISHER
from concurrent_nb.notebook.live.views import ImageView
from concurrent_nb.notebook.live.widget import JobWidget
from concurrent_nb.notebook.output_tail import OutputTail
from concurrent_nb.notebook.progress_display import job_text
from concurrent_nb.notebook.results import notes_of, summary

#: maximum time in seconds to wait for the end of the thread
JOIN_S: Final = 2.0
#: page and widget are renewed after this part of the job's age, within these limits in seconds
RENEW_PART: Final = 0.25
RENEW_S: Final = (3.0, 15.0)
#: a larger page is displayed again only at the end of the job
PAGE_BYTES: Final = 500_000


class LiveDisplay:
    """The display of a job in its cell. The output of tasks appears below it.

    Args:
        model: the view model of the job; only this object may use it.
        started: when the job was started, by `clock`.
        handle: a display that it replaces; None makes a new one.
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
        self._last: str | None = None  #: the final page, when the job has ended
        self._widget: JobWidget | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._parent: Any = None  #: the request message of the cell
        self._broken: Exception | None = None
        self._shared: JobDocument | None = None  #: while it is shared
        self._was_shared = False
        self._lock = threading.Lock()  #: guards the view model: the last update may overlap one of a slow thread

    def share(self, tail: OutputTail) -> None:
        """Share what it shows, and what the tasks print, with the readers of the cluster, until `end_sharing`."""
        if not self._was_shared and self._job.ask is not None:
            self._was_shared = True
            self._shared = JobDocument(self._job, self._model, self._lock, self._started, tail, self._clock)
            PUBLISHER.add(self._shared)

    def end_sharing(self) -> None:
        """Share the final state, when everything has been shown. Returns immediately; later calls do nothing."""
        shared, self._shared = self._shared, None
        if shared is not None:
            PUBLISHER.finish(shared)

    # ------------------------------------------------------------------------------------------ as a ProgressDisplay

    def show(self, text: str) -> None:
        """Show the page; later calls do nothing, because a thread updates it."""
        if self._thread is None:
            self._open(text)
            self._thread = threading.Thread(target=self._publish, name="concurrent_nb live display", daemon=True)
            self._thread.start()

    def make_room(self) -> None:
        """Do nothing: other output appears below it."""

    def end(self, text: str, elapsed_s: float | None = None, notes: Sequence[str] = ()) -> None:
        """Show the final page, and close the widget."""
        self._over.set()
        try:
            if self._thread is not None:
                self._thread.join(JOIN_S)
            self._poll()
            self._replace(text, elapsed_s, notes)
        finally:
            self._close()
        if self._broken is not None:
            warnings.warn(f"the live display has failed: {self._broken!r}", RuntimeWarning, stacklevel=2)

    def hand_over(self) -> DisplayHandle | None:
        """Close the widget, and return its display, which another LiveDisplay may use; None if there is none."""
        self.end_sharing()
        self._over.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)
        self._close()
        return self._handles[0] if self._handles else None

    def follow(self, text: str, ending: Callable[[], str], printer: Printer) -> None:
        """Show a job in the background, and the output of its tasks; `ending` returns its summary when it has ended."""
        self._open(text)
        self._start_following(ending, printer)

    def _start_following(self, ending: Callable[[], str], printer: Printer) -> None:
        self.share(printer.tail)
        self._thread = threading.Thread(
            target=self._follow, args=(ending, printer), name="concurrent_nb live display", daemon=True
        )
        self._thread.start()

    # ------------------------------------------------------------------------------------------------- shown again

    @property
    def is_over(self) -> bool:
        """Return whether the page is final."""
        return self._last is not None

    def current_page(self) -> str | None:
        """Return the current page; while the job runs, it is updated wherever it is displayed."""
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
        """Update another display too."""
        self._handles.append(handle)

    def open_here(self, parent: Any) -> None:
        """Show a job in the background in the cell of the request `parent`; may be called in any thread."""
        self._parent = parent
        self._adopt_cell()
        self.follow(job_text(self._job, self._job.elapsed_s), self._ending, Printer(True))

    def _follow_unseen(self) -> None:
        """Follow the job without a display, for pages that others display."""
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
        # A kernel that shuts down does not wait for the job, but the thread must end before Python does.
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
                self.end_sharing()
        except Exception:  # noqa: BLE001  (it cannot be reported: the cell has ended)
            self._over.set()
        finally:
            with suppress(Exception):  # the kernel may be shutting down
                self._close()
            atexit.unregister(self._stop_thread)

    def _stop_thread(self) -> None:
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)

    def _adopt_cell(self) -> None:
        """Attribute the output of this thread to the cell that started it, if the kernel supports that."""
        adopt = getattr(self._shell, "set_thread_parent", None)
        if adopt is not None:
            with suppress(Exception):  # a new interface of ipykernel: without it only the parent in messages differs
                adopt(self._parent)

    def _poll(self) -> None:
        """Update the view model. An error of a view must not fail the job."""
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
        """Open a new widget, and display the current page."""
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

    # ------------------------------------------------------------------------------------------------------- the page

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
        """Return a page with the current time, because it may be saved now and loaded much later."""
        with self._lock:
            head = self._model.head(self._job.counts(), now)
        return job_page.page({**parts, "head": job_page.head(head, [job_page.as_of(time.time())])}, self._page_class)

    def _show(self, text: str, page: str | None) -> None:
        """Display the page in all displays of the job."""
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
        """Show the final page, or only the text if no page was shown before and it would contain nothing more."""
        if (shared := self._shared) is not None:
            shared.summarize(text)
        page = None
        is_attended = self._widget is not None
        if self._broken is None:
            try:
                page = self._last = self._last_page(elapsed_s, notes)
                if self._widget is not None and page is not None:
                    self._widget.send_parts({"last": page})  # for reloaded notebooks
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
    """Return the CSS class of the pages of a job."""
    return f"cnb-job-{job.id.hex()}"


def shows_displayed_widgets_only() -> bool:
    """Return whether the front end runs a widget's program only if it is displayed, as VS Code and Colab do."""
    return "VSCODE_PID" in os.environ or "google.colab" in sys.modules
