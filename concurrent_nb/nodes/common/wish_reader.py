"""The owner's end of the pipe from its master: the path of the connection file, then wishes."""

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from concurrent_nb.errors import ProtocolError
from concurrent_nb.nodes.common.owner_wishes import LineBuffer, Wish, read_wish
from concurrent_nb.nodes.common.wakeup import Wakeup

log: Final = logging.getLogger(__name__)
_READ_BYTES: Final = 4096


class WishReader:
    """Reads what a master writes to its owner.

    Args:
        descriptor: of the pipe, which this object closes.
    """

    def __init__(self, descriptor: int) -> None:
        self.has_ended = False  #: the master has closed its end, as it does when it ends, as far as was read
        self._descriptor = descriptor
        self._wake = Wakeup()
        self._buffer = LineBuffer()
        self._lines: deque[bytes] = deque()
        self._thread: threading.Thread | None = None

    def first_line(self, timeout_s: float) -> str:
        """Wait for the first line and return it; "" after `timeout_s` seconds, or if the master has ended."""
        until_s = time.monotonic() + timeout_s
        while not self._lines and (left_s := until_s - time.monotonic()) > 0 and self._read(left_s):
            continue
        return self._lines.popleft().decode().strip() if self._lines else ""

    def serve(self, fulfil: Callable[[Wish], None], name: str) -> None:
        """Call `fulfil` with each wish, in a thread of this name, until the master ends or `close`."""
        self._thread = threading.Thread(target=self._serve, args=(fulfil,), name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, after the wish that it fulfils now, and close the pipe."""
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        os.close(self._descriptor)
        self._wake.close()

    def _serve(self, fulfil: Callable[[Wish], None]) -> None:
        while True:
            while self._lines:
                line = self._lines.popleft()
                try:
                    wish = read_wish(line)
                except ProtocolError as error:
                    log.warning("a line from the master is left out: %s", error)
                else:
                    fulfil(wish)
            if not self._read(None):
                return

    def _read(self, timeout_s: float | None) -> bool:
        """Wait for more of the pipe, and read it. Returns False at its end, and when `close` is called."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._wake.fileno(), select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)]
        if self._wake.fileno() in ready:
            return False
        if self._descriptor in ready:
            received = os.read(self._descriptor, _READ_BYTES)
            self._lines.extend(self._buffer.feed(received))
            self.has_ended = not received
        return not self.has_ended
