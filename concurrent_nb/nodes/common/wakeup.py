"""Wake a poll loop from another thread: a socket pair of which one byte is underway at most."""

import contextlib
import socket


class Wakeup:
    """`set` from any thread, `clear` in the loop before it looks at what it was woken for."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._is_set = False

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._reader.fileno()

    def set(self) -> None:
        """Wake the loop, unless it has been woken and has not looked yet."""
        if not self._is_set:
            self._is_set = True
            try:
                self._writer.send(b"!")
            except (BlockingIOError, OSError):
                return  # woken already, or closed: nobody is left to wake

    def rearm(self) -> None:
        """Have the next `set` wake, whatever became of the last: an interrupt may have come before its byte was sent.

        For the loop, before it waits. A byte that is underway all the same wakes it once too often, which is harmless.
        """
        self._is_set = False

    def clear(self) -> None:
        """Take the byte; what is announced from now on wakes again."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(16)
        self._is_set = False

    def close(self) -> None:
        """Give the descriptors back."""
        self._reader.close()
        self._writer.close()
