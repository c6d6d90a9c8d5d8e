"""The stop button: raise KeyboardInterrupt only where that leaves nothing half done.

Used by the magics, from before a job is started until the cell has shown its end. Python raises KeyboardInterrupt
between any two steps of the main thread: also between the start of a job and the wait for it, so that the job would not
be stopped, or in the middle of a message to the front end.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Final, Protocol

#: presses that are deferred at most; a further press is raised wherever the main thread is
DEFERRED_PRESSES: Final = 3


class Waitable(Protocol):
    """A job, or anything else to wait for."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; return whether it has come."""


class StopButton:
    """A context manager in which a press raises KeyboardInterrupt only in the current or the next `wait`.

    If `wait` is not called again, KeyboardInterrupt is raised at the end of the context. Has no effect in other threads
    than the main thread.
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
        """Wait for a job. Raises KeyboardInterrupt if the button is pressed, or was pressed since the last call."""
        try:
            self._is_waiting = True
            self.raise_if_pressed()
            return job.wait(timeout_s)
        finally:
            self._is_waiting = False

    def raise_if_pressed(self) -> None:
        """Raise KeyboardInterrupt if the button has been pressed and that was not raised yet."""
        if self._presses > self._handled:
            self._handled = self._presses
            raise KeyboardInterrupt

    def _press(self, number: int, frame: FrameType | None) -> None:
        self._presses += 1
        if self._is_waiting or self._presses > DEFERRED_PRESSES:
            self._is_waiting = False  # `wait` is being left, and may have to clean up
            self.raise_if_pressed()
