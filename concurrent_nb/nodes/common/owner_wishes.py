"""What a master asks of the process that has started it, its owner, which alone can start slaves.

    master  --Scale, Adapt, RestartSlave: the pipe that is the master's standard output-->  owner
    master  <--WishAnswer: the lease that is the master's standard input--           owner

Each is one line of JSON. `nodes/master/owner.py` is the master's end, `wish_reader.py` the owner's.
"""

from typing import Final

import msgspec

from concurrent_nb.errors import ProtocolError

#: a longer line is left out
LINE_BYTES_MAX: Final = 16_384
#: most characters of a reason, so that its line is never too long
REFUSED_MAX: Final = 500


class Scale(msgspec.Struct, tag="scale", frozen=True):
    """Have so many workers, in all slaves of the owner together, or so many slaves."""

    number: int  #: of the wish
    workers: int  #: 0: as many as the slaves have
    slaves: int = 0  #: 0: as many as have these workers


class Adapt(msgspec.Struct, tag="adapt", frozen=True):
    """Have the number of slaves follow the queue."""

    number: int  #: of the wish
    least: int
    most: int


class RestartSlave(msgspec.Struct, tag="restart_slave", frozen=True):
    """Have a slave leave when its running tasks have ended, and start another one with as many workers."""

    number: int  #: of the wish
    slave: str  #: its name
    host: str
    pid: int


Wish = Scale | Adapt | RestartSlave


class WishAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the owner did."""

    number: int  #: of the wish
    workers: int = 0  #: that the owner had before, slaves if these were asked for; for `RestartSlave`: of the new slave
    refused: str = ""  #: why it did nothing


_WISHES: Final = msgspec.json.Decoder(Wish)
_ANSWERS: Final = msgspec.json.Decoder(WishAnswer)


def line_of(message: Wish | WishAnswer) -> bytes:
    """Return a message as a line."""
    return msgspec.json.encode(message) + b"\n"


def read_wish(line: bytes) -> Wish:
    """Return the wish of a line. Raises ProtocolError."""
    try:
        return _WISHES.decode(line)
    except ValueError as error:
        raise ProtocolError(f"this is no wish of a master: {error}") from None


def read_answer(line: bytes) -> WishAnswer:
    """Return the answer of a line. Raises ProtocolError."""
    try:
        return _ANSWERS.decode(line)
    except ValueError as error:
        raise ProtocolError(f"this is no answer of an owner: {error}") from None


class LineBuffer:
    """Makes lines of what a pipe gives, without holding more than one of LINE_BYTES_MAX; a longer one is left out.

    >>> lines = LineBuffer()
    >>> lines.feed(b"one\\ntw"), lines.feed(b"o\\n")
    ([b'one'], [b'two'])
    """

    def __init__(self) -> None:
        self._left = b""
        self._is_too_long = False  # the line of which `_left` is the end

    def feed(self, received: bytes) -> list[bytes]:
        """Return the lines that are complete now, without their ends."""
        *lines, self._left = (self._left + received).split(b"\n")
        if lines and self._is_too_long:
            del lines[0]
            self._is_too_long = False
        if len(self._left) > LINE_BYTES_MAX:
            self._left, self._is_too_long = b"", True
        return [line for line in lines if len(line) <= LINE_BYTES_MAX]
