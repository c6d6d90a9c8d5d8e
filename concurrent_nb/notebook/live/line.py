"""The line that lives: a job's widget while it runs, its snapshot in the same place when it has ended.

Used by `watch`, as any other line of `progress`. One thread for each job takes what has happened, folds it into the
story and sends bulletins; it prints nothing. What is displayed is displayed by the main thread, except for the snapshot
of a job that nobody waits for.
"""

import atexit
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import DisplayHandle, display

from concurrent_nb import Job
from concurrent_nb.clock import Clock, monotonic
from concurrent_nb.notebook.live.bulletin import TICK_S, Bulletin
from concurrent_nb.notebook.live.snapshot import snapshot
from concurrent_nb.notebook.live.story import Story
from concurrent_nb.notebook.live.views import ImageView
from concurrent_nb.notebook.live.widget import JobWidget
from concurrent_nb.notebook.output import Printer

#: the thread has this long to finish what it does
JOIN_S: Final = 2.0


class LiveLine:
    """A job's place in its cell.

    Args:
        story: what is known of the job; from now on only this object touches it.
        started: when the job was started, by `clock`.
        place: a display in whose place it is shown; None makes a new one.
    """

    def __init__(
        self,
        job: Job,
        story: Story,
        started: float,
        shell: InteractiveShell | None,
        place: DisplayHandle | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self._job = job
        self._story = story
        self._started = started
        self._shell = shell
        self._clock = clock
        self._bulletin = Bulletin(story)
        self._handle = place
        self._widget: JobWidget | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
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

    def end(self, text: str) -> None:
        """Put the snapshot in the widget's place, and end the widget."""
        self._over.set()
        try:
            if self._thread is not None:
                self._thread.join(JOIN_S)
            self._look()
            self._replace(text)
        finally:
            self._close()
        if self._broken is not None:
            warnings.warn(f"the live view has failed: {self._broken!r}", RuntimeWarning, stacklevel=2)

    def give_place(self) -> DisplayHandle | None:
        """End the widget, and give the display that was its, for another line to be shown in; None if there is none."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)
        self._close()
        return self._handle

    def follow(self, text: str, ending: Callable[[], str], printer: Printer) -> None:
        """Show a job that nobody waits for, and what its tasks write; `ending` gives its summary when it has ended."""
        self._open(text)
        self._thread = threading.Thread(
            target=self._follow, args=(ending, printer), name="concurrent_nb live view", daemon=True
        )
        self._thread.start()

    # ------------------------------------------------------------------------------------------------------- the thread

    def _publish(self) -> None:
        self._adopt_cell()
        while not self._over.wait(TICK_S):
            self._look()
            self._send()

    def _follow(self, ending: Callable[[], str], printer: Printer) -> None:
        # A kernel that goes down does not wait for the job, but the thread must be gone before Python is.
        atexit.register(self._leave)
        try:
            self._adopt_cell()
            while not self._over.wait(TICK_S) and not self._job.wait(0):
                self._look()
                self._send()
                printer.take(self._job)
            if not self._over.is_set():
                printer.take(self._job)
                printer.flush()
                self._look()
                self._replace(ending())
        except Exception:  # noqa: BLE001  (there is nobody to tell: the cell has ended long ago)
            self._over.set()
        finally:
            with suppress(Exception):  # the kernel may be going down
                self._close()
            atexit.unregister(self._leave)

    def _leave(self) -> None:
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)

    def _adopt_cell(self) -> None:
        """Let what this thread says count as said by the cell that started it, where the kernel can tell."""
        adopt = getattr(self._shell, "set_thread_parent", None)
        if adopt is not None:
            with suppress(Exception):  # an interface that is young: without it only the parent in messages is another
                adopt(self._parent)

    def _look(self) -> None:
        """Take what has happened. A view that fails is no reason for the job to fail."""
        with self._lock:
            events, notes = self._job.take_events(), self._job.take_notes()
            if self._broken is None:
                try:
                    self._story.fold(events, notes)
                except Exception as error:  # noqa: BLE001
                    self._broken = error

    def _send(self) -> None:
        if self._broken is not None or self._widget is None:
            return
        now = self._clock()
        try:
            with self._lock:
                due = self._bulletin.take(self._job.counts(), now - self._started, now)
            if due:
                self._widget.tell(due)
        except Exception as error:  # noqa: BLE001
            self._broken = error

    # ---------------------------------------------------------------------------------------------------- what is shown

    def _open(self, text: str) -> None:
        get_parent = getattr(self._shell, "get_parent", None)
        self._parent = get_parent() if get_parent is not None else None
        now = self._clock()
        first = self._bulletin.take(self._job.counts(), now - self._started, now)
        self._widget = JobWidget(**first)
        data, metadata = self._widget.bundle(text)
        if self._handle is None:
            self._handle = display(data, metadata=metadata, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, metadata=metadata, raw=True)  # type: ignore[no-untyped-call]

    def _replace(self, text: str) -> None:
        """Show the snapshot; just the text if there was never anything else to see."""
        data: dict[str, Any] = {"text/plain": text}
        if self._broken is None:
            try:
                html = self._snapshot(text)
            except Exception as error:  # noqa: BLE001
                self._broken = error
            else:
                data.update({"text/html": html} if html else {})
        if self._handle is None:
            display(data, raw=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)  # type: ignore[no-untyped-call]

    def _snapshot(self, text: str) -> str | None:
        story = self._story
        with self._lock:
            story.finish()
            counts, now = self._job.counts(), self._clock()
            if story.view is None and not counts.failed and (self._thread is None or counts.total == 1):
                return None
            view = story.view
            return snapshot(
                text,
                story.head(counts, now),
                lanes=story.lane_parts(now - self._started),
                errors=story.folds.parts(),
                view=story.view_parts(),
                picture=view.picture.png() if isinstance(view, ImageView) else None,
            )

    def _close(self) -> None:
        widget, self._widget = self._widget, None
        if widget is not None:
            widget.close()
