"""The time limit of a member's step: an exception in it, where the system has an alarm for that.

In the main thread of a worker on Linux and macOS a step that takes too long is interrupted, unless it is in C code that
returns to Python only later. Elsewhere (Windows, tasks in threads) it fails after it has returned.
"""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, TypeVar

from concurrent_nb.errors import WorldError

T = TypeVar("T")
R = TypeVar("R")

#: seconds that a step has to end after it was interrupted
GRACE_S: Final = 0.05
#: least and most seconds after which it is then interrupted again and again. Not at fixed times, so that one interrupt
#: comes when the step is in none of its `try` blocks
AGAIN_S: Final = 1e-6, 1e-4


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


class _TimeIsOver(BaseException):
    """Interrupts a step. No `except Exception` of the step catches it."""


class MemberTimer:
    """Limits the time of steps.

    A step that catches what interrupts it is interrupted again and again until it ends.

    Args:
        timeout_s: of one member's step; None: no limit.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self.is_limited = timeout_s is not None
        self._is_running = False  # a step that may be interrupted
        self._is_over = False  # its time

    def call(self, step: Callable[[T], R], argument: T) -> R:
        """Call a step. Raises WorldError when its time is over, in it or after it, and whatever it raises itself."""
        assert self._timeout_s is not None
        if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
            began_s = time.monotonic()
            result = step(argument)
            if time.monotonic() - began_s > self._timeout_s:
                raise self._error()
            return result
        outer = signal.setitimer(signal.ITIMER_REAL, 0)  # of `alarm`: it must not count as this one
        before = signal.signal(signal.SIGALRM, self._interrupt)
        self._is_over = False
        try:
            self._is_running = True
            # Again and again, as one that comes just before a call of the system does not interrupt that.
            signal.setitimer(signal.ITIMER_REAL, self._timeout_s, GRACE_S)
            result = step(argument)
        except _TimeIsOver as interrupt:
            self._is_running = False
            raise self._error().with_traceback(interrupt.__traceback__) from None
        finally:
            self._is_running = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if outer[1]:
                signal.setitimer(signal.ITIMER_REAL, *outer)
        if self._is_over:  # it has caught the interrupt, and returned
            raise self._error()
        return result

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code is MemberTimer._interrupt.__code__:
            frame = frame.f_back
        # Not in `call` itself, before or after the step.
        if self._is_running and frame is not None and frame.f_code is not MemberTimer.call.__code__:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(*AGAIN_S) if self._is_over else GRACE_S, GRACE_S)
            self._is_over = True
            raise _TimeIsOver

    def _error(self) -> WorldError:
        return WorldError(f"it took longer than {self._timeout_s:g} s, the world's timeout_s for a member's step")
