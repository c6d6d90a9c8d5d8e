"""Wake a poll loop from another thread, by a socket pair with at most one byte in transit."""

import contextlib
import socket


class Wakeup:
    """Call `set` in any thread, and `clear` in the loop before it checks for what it was woken."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._is_set = False

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._reader.fileno()

    def set(self) -> None:
        """Wake the loop, unless it was woken since its last `clear`."""
        if not self._is_set:
            self._is_set = True
            try:
                self._writer.send(b"!")
            except (BlockingIOError, OSError):
                return  # woken already, or closed

    def rearm(self) -> None:
        """Let the next `set` wake the loop: an interrupt may have come before the last one sent its byte.

        The loop calls this before it waits. If that byte is in transit, it wakes the loop once too often, which is
        harmless.
        """
        self._is_set = False

    def clear(self) -> None:
        """Read the byte, so that later calls of `set` wake the loop again."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(16)
        self._is_set = False

    def close(self) -> None:
        """Close the descriptors."""
        self._reader.close()
        self._writer.close()
