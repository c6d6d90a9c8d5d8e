"""The stop button, obeyed only where that leaves nothing half done.

Used by the magics, from before a job is started to when the cell has shown its end. Python raises KeyboardInterrupt
between any two steps of the main thread: between the start of a job and the wait for it, so that nobody stops it, or in
the middle of a message to the front end.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Final, Protocol

#: so many presses are noted until there is time for them; more are raised wherever they come
DEFERRED_PRESSES: Final = 3


class Waitable(Protocol):
    """A job, or what stands for one."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; tell whether it has come."""


class StopButton:
    """While it is entered, a press raises KeyboardInterrupt in `wait`: at once, or when `wait` is called the next time.

    If it is not called any more, the press is raised on leaving. Off the main thread there are no presses to note.
    """

    def __init__(self) -> None:
        self._presses = 0
        self._handled = 0
        self._is_waiting = False
        self._previous: object = None

    def __enter__(self) -> "StopButton":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)  # type: ignore[arg-type]
        if kind is None:
            self.raise_if_pressed()

    def wait(self, job: Waitable, timeout_s: float) -> bool:
        """Wait for a job. Raises KeyboardInterrupt if the button is pressed, or has been since the last one."""
        try:
            self._is_waiting = True
            self.raise_if_pressed()
            return job.wait(timeout_s)
        finally:
            self._is_waiting = False

    def raise_if_pressed(self) -> None:
        """Raise KeyboardInterrupt if the button has been pressed and nobody has heard of it yet."""
        if self._presses > self._handled:
            self._handled = self._presses
            raise KeyboardInterrupt

    def _press(self, number: int, frame: FrameType | None) -> None:
        self._presses += 1
        if self._is_waiting or self._presses > DEFERRED_PRESSES:
            self._is_waiting = False  # what waits is being left, and may have things to put in order
            self.raise_if_pressed()
