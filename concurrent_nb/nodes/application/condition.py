"""A condition that stays usable after a KeyboardInterrupt at any point, for threads that wait for the client thread.

`threading.Condition` is entered by a function written in Python: a KeyboardInterrupt that comes when that function has
the lock and has not returned yet leaves the lock taken for ever (https://github.com/python/cpython/issues/74175), and
the client thread then waits for it for ever. This one is a lock itself, entered by C code. Signals are handled between
two calls of C code, so each call below is either not started or done.
"""

import _thread
import threading
from collections import deque
from contextlib import suppress
from typing import Final


class _ThisThread(threading.local):
    #: whether it is a client thread, which ends what all others wait for
    is_client = False


this_thread: Final = _ThisThread()


class Condition(_thread.RLock):  # type: ignore[misc]  # it is not final
    """As `threading.Condition`, but it may be interrupted anywhere. `wait` must not be called by a thread that entered
    it twice."""

    def __init__(self) -> None:
        self._waiters: deque[_thread.LockType] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `notify_all`; return False after `timeout` seconds.

        Raises RuntimeError if it is not entered, and in a client thread, which may not wait.
        """
        if not self._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("cannot wait on un-acquired lock")
        if this_thread.is_client and (timeout is None or timeout > 0):
            raise RuntimeError(
                "a callback of a future may not wait for another task: it runs in the thread that receives results,"
                " which may not wait; add a callback to that future too, or wait in a thread of your own"
            )
        waiter = _thread.allocate_lock()
        waiter.acquire()
        self._waiters.append(waiter)
        state = (
            1,
            threading.get_ident(),
        )  # not what _release_save returns: an interrupt may come before that is assigned
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
        """Wake all threads that wait. Raises RuntimeError if it is not entered."""
        if not self._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("cannot notify on un-acquired lock")
        while self._waiters:
            if self._waiters[0].locked():  # else an interrupt came between its release and its removal
                self._waiters[0].release()
            self._waiters.popleft()
