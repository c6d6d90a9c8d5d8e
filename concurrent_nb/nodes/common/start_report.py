"""How far the start of a node has come: lines in a pipe, from the node to its owner."""

import contextlib
import os
import select
import threading
from typing import Final

#: states of a slave, in this order: its configuration is valid; the master has registered it
CONFIGURED: Final = "configured"
JOINED: Final = "joined"


class StartReporter:
    """The node's end.

    Args:
        descriptor: of the pipe; None reports nothing.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)  # else it would stay open in workers

    def reached(self, state: str) -> None:
        """Report a state; nothing is reported after JOINED."""
        if self._descriptor is None:
            return
        with contextlib.suppress(BrokenPipeError):  # the owner does not wait any more
            os.write(self._descriptor, f"{state}\n".encode())
        if state == JOINED:
            os.close(self._descriptor)
            self._descriptor = None


class StartReport:
    """The owner's end. May be used by several threads.

    Args:
        descriptor: of the pipe, which this object closes.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        self._lock = threading.Lock()
        self._text = b""

    def wait(self, state: str, timeout_s: float) -> bool:
        """Wait for a state or the end of the reports; return whether one of them has come. Then see `has`."""
        with self._lock:
            while not self._has(state) and self._descriptor is not None:
                poll = select.poll()
                poll.register(self._descriptor, select.POLLIN)
                if not poll.poll(timeout_s * 1000):
                    return False
                received = os.read(self._descriptor, 4096)
                self._text += received
                if not received:
                    self._close()
            return True

    def has(self, state: str) -> bool:
        """Return whether the node has reported a state, as far as `wait` has read."""
        with self._lock:
            return self._has(state)

    def close(self) -> None:
        """Close the pipe."""
        with self._lock:
            self._close()

    def _has(self, state: str) -> bool:
        return state.encode() in self._text.split()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
