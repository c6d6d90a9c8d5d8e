"""The framing of a task's notes, which the slave checks without opening them. Pure."""

import struct
from typing import Final

#: most bytes of a note, as in `shipping.runtime.notes`
NOTE_BYTES_MAX: Final = 16 << 20

_LENGTH: Final = struct.Struct("<I")


class NoteFraming:
    """Checks a task's stream of notes: each is a u32 length (little endian) and a map in msgpack.

    The piece with the first invalid note is still admitted, and no other after it.

    >>> framing = NoteFraming()
    >>> framing.admits(_LENGTH.pack(2) + bytes([0x81])), framing.admits(b"x" + _LENGTH.pack(3)), framing.admits(b"abc")
    (True, True, True)
    >>> framing.is_broken, framing.admits(_LENGTH.pack(1) + bytes([0x81]))
    (True, False)
    """

    def __init__(self) -> None:
        self.is_broken = False  #: an invalid note has come
        self._head = b""  # the bytes so far of a length and of the byte that follows
        self._left = 0  # bytes of the current note that have not come yet

    def admits(self, data: bytes) -> bool:
        """Check the next bytes; return False if the stream was broken before them."""
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
