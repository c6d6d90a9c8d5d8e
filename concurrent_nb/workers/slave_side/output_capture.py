"""Output capture, the slave's side: which task has written what a worker's processes write to descriptors 1 and 2.

After a task that has written something, the worker writes a marker into the pipe: the nonce of its page, then the
ticket. The worker checks whether the pipe contains bytes; what the slave has read meanwhile it finds in the page, where
the slave counts each read before and after. So all bytes before a marker belong to its ticket and to no other, and a
task that writes nothing costs no marker.

Bytes that no marker follows yet are forwarded immediately if the same task ran before and after the read and the pipe
is empty. Otherwise they are kept until the next read or marker. Bytes that come while no task runs have ticket 0.

`OutputSplitter` is pure and handles one pipe; `OutputCapture` reads the two pipes of one worker.
"""

import os
from typing import Final

from concurrent_nb.errors import ProtocolError
from concurrent_nb.workers.protocol.output_markers import TICKET, marker
from concurrent_nb.workers.protocol.status_page import StatusPage

#: more than a pipe usually contains: a shorter read means that the pipe is empty
READ_BYTES: Final = 128 * 1024
#: most bytes of one task; the rest is dropped
LIMIT_BYTES: Final = 1024 * 1024
#: most bytes that a pipe can contain
PIPE_BYTES_MAX: Final = 2 * 1024 * 1024
#: most markers of tasks whose results have not been taken; a worker keeps back fewer results
MARKED_MAX: Final = 4096

#: after this many reads, each of all bytes or of READ_BYTES, what the pipe contained at first has been read
_READS_MAX: Final = PIPE_BYTES_MAX // READ_BYTES

#: ticket, stream, bytes
Piece = tuple[int, int, bytes]


class OutputSplitter:
    """Cuts the bytes of one pipe at its markers.

    >>> splitter = OutputSplitter(b"NONCE")
    >>> splitter.feed(b"one" + marker(b"NONCE", 1) + b"two", running=None)
    [(1, b'one')]
    >>> splitter.feed(b", more of two", running=2)
    [(2, b'two, more of two')]
    """

    def __init__(self, nonce: bytes, kept_bytes: int = LIMIT_BYTES) -> None:
        self.marked: set[int] = set()  # tickets whose markers have come
        self._nonce = nonce
        self._size = len(marker(nonce, 0))
        self._kept_bytes = kept_bytes
        self._kept = b""  # bytes of which the task is not known yet

    def feed(self, data: bytes, running: int | None) -> list[tuple[int, bytes]]:
        """Add bytes; return pieces with their tickets. `running`: ticket of what no marker follows, None if unknown."""
        pieces: list[tuple[int, bytes]] = []
        text = self._kept + data
        begin = 0
        at = text.find(self._nonce, max(0, len(self._kept) - self._size))
        while at >= 0 and at + self._size <= len(text):
            (ticket,) = TICKET.unpack_from(text, at + len(self._nonce))
            self.marked.add(ticket)
            if len(self.marked) > MARKED_MAX:
                raise ProtocolError(f"wrote more than {MARKED_MAX} markers into a pipe of its output")
            if at > begin:
                pieces.append((ticket, text[begin:at]))
            begin = at + self._size
            at = text.find(self._nonce, begin)
        rest = text[begin:]
        tail = self._part_of_marker(rest)
        if running is not None and len(rest) > tail:
            pieces.append((running, rest[: len(rest) - tail]))
            rest = rest[len(rest) - tail :]
        elif len(rest) > self._kept_bytes + self._size:
            # All of it is of one task, which is over its limit: keep enough to notice that, and a possible marker.
            rest = rest[: self._kept_bytes + 1] + rest[len(rest) - self._size :]
        self._kept = rest
        return pieces

    def rest(self) -> bytes:
        """Return what is left when nothing more will come."""
        rest, self._kept = self._kept, b""
        return rest

    def _part_of_marker(self, text: bytes) -> int:
        """Return how many bytes at the end may be the beginning of a marker."""
        at = text.find(self._nonce, max(0, len(text) - self._size))
        if at >= 0:
            return len(text) - at
        for size in range(min(len(self._nonce) - 1, len(text)), 0, -1):
            if text.endswith(self._nonce[:size]):
                return size
        return 0


class OutputCapture:
    """Reads the output pipes of one worker. Returns pieces; those of ticket 0 belong to no task."""

    def __init__(self, page: StatusPage, fds: tuple[int, int], limit_bytes: int = LIMIT_BYTES) -> None:
        self._page = page
        self._fds = fds
        self._splitters = (OutputSplitter(page.nonce, limit_bytes), OutputSplitter(page.nonce, limit_bytes))
        self._limit_bytes = limit_bytes
        self._written: dict[int, int] = {}  # by ticket
        self.ended: set[int] = set()  # streams of which nothing more will come

    def read(self, stream: int) -> list[Piece] | None:
        """Read once from the pipe of stream 1 or 2 without waiting; None at its end or if it is empty."""
        before = self._page.ticket
        self._page.count_read(stream)
        try:
            data = os.read(self._fds[stream - 1], READ_BYTES)
        except BlockingIOError:
            return None
        finally:
            self._page.count_read(stream)
        if not data:
            self.ended.add(stream)
            return None
        known = before == self._page.ticket and len(data) < READ_BYTES
        return self._limited(stream, self._splitters[stream - 1].feed(data, before if known else None))

    def read_until_marked(self, ticket: int, streams: int) -> list[Piece]:
        """Read until the markers of this ticket have come, in each stream whose bit is set, and forget the ticket."""
        pieces: list[Piece] = []
        for stream in (1, 2):
            marked = self._splitters[stream - 1].marked
            for _ in range(_READS_MAX):  # not for ever: a child of the task may write as fast as this reads
                if not streams & stream or ticket in marked:
                    break
                more = self.read(stream)
                if more is None:
                    break  # the marker was read by another process, or never written
                pieces += more
            marked.discard(ticket)
        self._written.pop(ticket, None)
        return pieces

    def finish(self, ticket: int) -> list[Piece]:
        """Read all that a dead worker has left; what no marker follows belongs to the task that ran when it died."""
        pieces: list[Piece] = []
        for stream in (1, 2):
            for _ in range(_READS_MAX):
                if (more := self.read(stream)) is None:
                    break
                pieces += more
            if rest := self._splitters[stream - 1].rest():
                pieces += self._limited(stream, [(ticket, rest)])
        return pieces

    def _limited(self, stream: int, pieces: list[tuple[int, bytes]]) -> list[Piece]:
        """Drop what is over a task's limit, and add one notice."""
        kept: list[Piece] = []
        for ticket, data in pieces:
            if ticket:
                before = self._written.get(ticket, 0)
                room = self._limit_bytes - before
                if room < 0:
                    continue
                self._written[ticket] = before + len(data)
                if len(data) > room:
                    data = data[:room] + f"\n[output cut at {_in_words(self._limit_bytes)}]\n".encode()
            kept.append((ticket, stream, data))
        return kept


def _in_words(size_bytes: int) -> str:
    return f"{size_bytes >> 20} MiB" if size_bytes >= 1 << 20 else f"{size_bytes} bytes"
