"""Whose output it is: what a worker's processes write to descriptors 1 and 2, told apart by task. Slave's side.

After a task that wrote something, the worker puts a marker into the pipe: the nonce of its page, then the ticket. The
worker asks the pipe whether it holds bytes; what the slave has taken out meanwhile it learns from the page, where the
slave counts each read before and after. So whatever stands before a marker belongs to its ticket and to no other, and a
task that writes nothing costs no marker.

Bytes that no marker follows yet are handed on at once if one task ran before and after the read and the pipe is empty.
Else they are kept until the next read or marker tells. What comes while no task runs belongs to none: ticket 0.

`OutputSplitter` is pure and knows one pipe; `OutputCapture` reads the two pipes of one worker.
"""

import os
from typing import Final

from concurrent_nb.errors import ProtocolError
from concurrent_nb.workers.protocol.output_markers import TICKET, marker
from concurrent_nb.workers.protocol.status_page import StatusPage

#: more than a pipe usually holds, so that most reads are shorter, which says that the pipe is empty
READ_BYTES: Final = 128 * 1024
#: what one task may write until the rest is dropped
LIMIT_BYTES: Final = 1024 * 1024
#: a pipe holds no more than that, so what stands in it by now comes before
PIPE_BYTES_MAX: Final = 2 * 1024 * 1024
#: markers of tasks whose results have not been taken; a worker keeps back fewer results
MARKED_MAX: Final = 4096

#: after so many reads, each of which takes all that there is or READ_BYTES, what stood in a pipe has been read
_READS_MAX: Final = PIPE_BYTES_MAX // READ_BYTES

#: ticket, stream, bytes
Piece = tuple[int, int, bytes]


class OutputSplitter:
    """Cut the bytes of one pipe at its markers.

    >>> tape = Tape(b"NONCE")
    >>> tape.feed(b"one" + marker(b"NONCE", 1) + b"two", running=None)
    [(1, b'one')]
    >>> tape.feed(b", more of two", running=2)
    [(2, b'two, more of two')]
    """

    def __init__(self, nonce: bytes, kept_bytes: int = LIMIT_BYTES) -> None:
        self.marked: set[int] = set()  # tickets whose markers have come
        self._nonce = nonce
        self._size = len(marker(nonce, 0))
        self._kept_bytes = kept_bytes
        self._kept = b""  # what no marker has followed and no task is known for

    def feed(self, data: bytes, running: int | None) -> list[tuple[int, bytes]]:
        """Take in what was read. `running` is who wrote what no marker follows; None if that is not known."""
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
            # All of it is one task's, which is over its limit: keep enough to see that, and what may become a marker.
            rest = rest[: self._kept_bytes + 1] + rest[len(rest) - self._size :]
        self._kept = rest
        return pieces

    def rest(self) -> bytes:
        """Hand out what is left when nothing more will come."""
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
    """Read the output pipes of one worker. Returns pieces; those of ticket 0 belong to no task."""

    def __init__(self, page: StatusPage, fds: tuple[int, int], limit_bytes: int = LIMIT_BYTES) -> None:
        self._page = page
        self._fds = fds
        self._tapes = (OutputSplitter(page.nonce, limit_bytes), OutputSplitter(page.nonce, limit_bytes))
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
        return self._limited(stream, self._tapes[stream - 1].feed(data, before if known else None))

    def read_until_marked(self, ticket: int, streams: int) -> list[Piece]:
        """Read until the markers of this ticket have come, in each stream whose bit is set, and forget the ticket."""
        pieces: list[Piece] = []
        for stream in (1, 2):
            marked = self._tapes[stream - 1].marked
            for _ in range(_READS_MAX):  # not for ever: a child of the task may write as fast as we read
                if not streams & stream or ticket in marked:
                    break
                more = self.read(stream)
                if more is None:
                    break  # somebody took the marker, or it never was
                pieces += more
            marked.discard(ticket)
        self._written.pop(ticket, None)
        return pieces

    def finish(self, ticket: int) -> list[Piece]:
        """Read all that a dead worker left; what no marker follows goes to the task that ran when it died."""
        pieces: list[Piece] = []
        for stream in (1, 2):
            for _ in range(_READS_MAX):
                if (more := self.read(stream)) is None:
                    break
                pieces += more
            if rest := self._tapes[stream - 1].rest():
                pieces += self._limited(stream, [(ticket, rest)])
        return pieces

    def _limited(self, stream: int, pieces: list[tuple[int, bytes]]) -> list[Piece]:
        """Drop what is over a task's limit, with one notice."""
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
