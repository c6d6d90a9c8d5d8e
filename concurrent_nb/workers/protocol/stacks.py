"""Stacks of running tasks: a file that a slave and a worker share, and the signal at which the worker writes into it.

    slave   empties the file, and has the worker's parent send STACK_SIGNAL
    worker  faulthandler writes the stacks of its threads into the file, in C: whatever the task does, without the GIL
    slave   reads the file until the stack is complete

The worker writes at the end of the file, so that a task has nothing to overwrite, and the slave may empty it meanwhile.
"""

import faulthandler
import fcntl
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

from concurrent_nb.workers.protocol.anonymous_file import make_anonymous_file

#: a worker writes its stacks at this signal; 0 where a system, as Windows, has no such signal
STACK_SIGNAL: Final = int(signal.SIGUSR2) if hasattr(faulthandler, "register") and hasattr(signal, "SIGUSR2") else 0
#: most bytes of the file that are read: its end, where the thread of the task is
READ_BYTES_MAX: Final = 1024 * 1024


def make_stack_file() -> int:
    """Make the file, without a name, and return its descriptor."""
    fd = make_anonymous_file("concurrent_nb.stacks")
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    return fd


class StackFile:
    """The slave's side of the file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def empty(self) -> None:
        """Forget what was written."""
        os.ftruncate(self._fd, 0)

    def read(self) -> str:
        """Return what was written, as `faulthandler` writes it; only the end of it if that is long."""
        size = os.fstat(self._fd).st_size
        start = max(0, size - READ_BYTES_MAX)
        return os.pread(self._fd, size - start, start).decode("ascii", "replace")

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


def can_choose_thread() -> bool:
    """Return whether `send_stack_signal` can address a single thread of a process."""
    return _tgkill() is not None


def send_stack_signal(pid: int, thread: int) -> None:
    """Have a child process write its stacks. Its parent must call this before it reaps it, so that `pid` is its own.

    Nothing is sent to a process that does not handle the signal, because that would end it.

    Args:
        pid: of the process.
        thread: the system's number of the thread that handles the signal; 0 for any, which is the main thread.
    """
    if not STACK_SIGNAL or not _handles(pid):
        return
    tgkill = _tgkill() if thread else None
    if tgkill is not None:
        tgkill(pid, thread, STACK_SIGNAL)  # fails if that is no thread of this process
    elif not thread:
        os.kill(pid, STACK_SIGNAL)


def _handles(pid: int) -> bool:
    """Return whether a process handles the signal, as far as the system tells."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            caught = next(line for line in status if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (STACK_SIGNAL - 1) & 1)
    except (OSError, StopIteration, IndexError, ValueError):
        return sys.platform != "linux"


def _tgkill() -> Callable[[int, int, int], int] | None:
    import ctypes  # here, because a slave needs it for tasks in threads only

    return getattr(ctypes.CDLL(None), "tgkill", None) if sys.platform == "linux" else None
