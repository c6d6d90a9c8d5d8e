"""What one worker may make its slave do: lines in the log, and notes that are none. Pure."""

import struct
from typing import Final

#: a note's bytes, as `shipping.runtime.notes` has them: more is none
NOTE_BYTES_MAX: Final = 16 << 20

_LENGTH: Final = struct.Struct("<I")


class LogLimit:
    """Let through so many lines within so many seconds; count the others.

    >>> limit = LogLimit(1, within_s=60.0)
    >>> limit.admits(0.0), limit.admits(1.0), limit.admits(2.0), limit.admits(61.0), limit.take_left_out()
    (True, False, False, True, 2)
    """

    def __init__(self, lines: int, within_s: float = 60.0) -> None:
        self._lines = lines
        self._within_s = within_s
        self._since = -within_s
        self._count = 0
        self._left_out = 0

    def admits(self, now: float) -> bool:
        """Say whether a line may be logged now, which counts it."""
        if now - self._since >= self._within_s:
            self._since, self._count = now, 0
        self._count += 1
        if self._count > self._lines:
            self._left_out += 1
            return False
        return True

    def take_left_out(self) -> int:
        """Return how many lines were left out since the last call."""
        left_out, self._left_out = self._left_out, 0
        return left_out


class Framing:
    """Say whether a task's stream of notes is one: u32 length (little endian), then a map in msgpack, over and over.

    The slave opens no note, but what is none need not travel: after the first piece in which that shows, no other does.

    >>> framing = Framing()
    >>> framing.admits(_LENGTH.pack(2) + bytes([0x81])), framing.admits(b"x" + _LENGTH.pack(3)), framing.admits(b"abc")
    (True, True, True)
    >>> framing.is_broken, framing.admits(_LENGTH.pack(1) + bytes([0x81]))
    (True, False)
    """

    def __init__(self) -> None:
        self.is_broken = False  #: no note has come where one should have begun
        self._head = b""  # what has come of a length and of the byte that follows
        self._left = 0  # bytes of a note that are still to come

    def admits(self, data: bytes) -> bool:
        """Take the next bytes; False if the stream was broken before them, so that they are nothing."""
        if self.is_broken:
            return False
        at = 0
        while at < len(data) and not self.is_broken:
            if self._left:
                taken = min(self._left, len(data) - at)
                self._left -= taken
                at += taken
                continue
            head = self._head + data[at : at + _LENGTH.size + 1 - len(self._head)]
            at += len(head) - len(self._head)
            self._head = head
            if len(head) > _LENGTH.size:
                (length,) = _LENGTH.unpack_from(head)
                self.is_broken = not (1 <= length <= NOTE_BYTES_MAX and _begins_map(head[-1]))
                self._head, self._left = b"", length - 1
        return True


def _begins_map(byte: int) -> bool:
    return 0x80 <= byte <= 0x8F or byte in (0xDE, 0xDF)
