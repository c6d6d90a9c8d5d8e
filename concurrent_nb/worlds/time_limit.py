"""The time limit of a member's step: an exception in it, where the system has an alarm for that.

In the main thread of a worker on Linux and macOS a step that takes too long is interrupted, unless it is in C code that
returns to Python only later. Elsewhere (Windows, tasks in threads) it fails after it has returned.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from concurrent_nb.errors import WorldError


@contextmanager
def alarm(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Call a function every so many seconds, in this thread; where the system has no alarm for that, never."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda number, frame: call())
    signal.siginterrupt(signal.SIGALRM, False)  # calls of the system in C code continue after it
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class MemberTimer:
    """Limits the time of steps.

    Args:
        timeout_s: of one member's step; None: no limit.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self.is_limited = timeout_s is not None

    @contextmanager
    def limit(self) -> Iterator[None]:
        """Run a step. Raises WorldError in it when its time is over, or after it."""
        assert self._timeout_s is not None
        if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
            began_s = time.monotonic()
            yield
            if time.monotonic() - began_s > self._timeout_s:
                raise self._error()
            return
        outer = signal.setitimer(signal.ITIMER_REAL, 0)  # of `alarm`: it must not count as this one
        before = signal.signal(signal.SIGALRM, self._alarm)
        signal.setitimer(signal.ITIMER_REAL, self._timeout_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if outer[1]:
                signal.setitimer(signal.ITIMER_REAL, *outer)

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        raise self._error()

    def _error(self) -> WorldError:
        return WorldError(f"it took longer than {self._timeout_s:g} s, the world's timeout_s for a member's step")
