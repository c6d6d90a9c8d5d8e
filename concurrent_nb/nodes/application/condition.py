"""A condition that the stop button leaves in order, for what a notebook's thread waits for and another thread ends.

`threading.Condition` is entered by a function written in Python: a KeyboardInterrupt that comes when that has the lock
and has not returned yet leaves the lock taken for good (https://github.com/python/cpython/issues/74175), and then the
application's thread waits for it for good. This one is a lock itself, entered by C code. Signals are looked at when a
call has ended, so each call below is either not begun or done.
"""

import _thread
import threading
from collections import deque
from contextlib import suppress


class Condition(_thread.RLock):  # type: ignore[misc]  # it is not final
    """As `threading.Condition`, and it may be interrupted anywhere. Nobody waits who has entered it twice."""

    def __init__(self) -> None:
        self._waiters: deque[_thread.LockType] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until somebody notifies; False after `timeout` seconds. Raises RuntimeError if it is not entered."""
        if not self._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("cannot wait on un-acquired lock")
        waiter = _thread.allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        state = (1, threading.get_ident())  # not what _release_save gives: an interrupt may come before that is kept
        notified = False
        try:
            self._release_save()  # type: ignore[attr-defined]
            notified = waiter.acquire(True, -1 if timeout is None else max(0.0, timeout))
        finally:
            self._acquire_restore(state)  # type: ignore[attr-defined]
            if not notified:
                with suppress(ValueError):  # an interrupt came after the notification
                    self._waiters.remove(waiter)
        return notified

    def notify_all(self) -> None:
        """Wake everybody who waits. Raises RuntimeError if it is not entered."""
        if not self._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("cannot notify on un-acquired lock")
        while self._waiters:
            if self._waiters[0].locked():  # else an interrupt came when it had been released and was still in the row
                self._waiters[0].release()
            self._waiters.popleft()
