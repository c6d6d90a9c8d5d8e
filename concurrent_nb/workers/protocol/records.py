"""The stream between a slave and one of its workers: records of a header and the raw buffers that it announces.

    record:  u32 length (little endian) | header: msgpack | buffers, in order, as long as the header's `sizes` say

A slave sends its worker functions (`LoadFunction`, `ForgetFunctions`), tasks (`RunTasks`) and what there is of shared
memory (`AddSegment`, `RemoveSegments`, `ReleaseSlices`). A worker sends notes of a task (`NoteRecord`), its own shared
memory (`AddSegment`, `RemoveSegments`), or a list of `Result`s, which it puts together from results that it has encoded
one by one. The first such list is empty and means that the worker is ready. A worker that will never be ready sends
`NotInitialized` instead.

Pure: `pack` returns what to send, `RecordReader` where received bytes belong. Used by both ends; nothing is unpickled.
"""

import mmap
import struct
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Generic, Protocol, TypeVar

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire.messages import Kind, Sizes, Slice

Buffer = bytes | bytearray | memoryview

#: bodies of this size or more travel as the first buffer, uncopied
LARGE_BYTES: Final = 64 * 1024
#: most that a worker's header may announce for itself: results that were kept back (64 KiB), one body (64 KiB), and
#: where `wire.messages.BUFFERS_MAX` buffers lie (46 bytes each) are less
HEADER_BYTES_MAX: Final = 1024 * 1024
#: ... and a slave's, whose packs of tasks may refer to as much as their master has let through
ORDER_BYTES_MAX: Final = 64 * 1024 * 1024
#: first size of the space that bytes are received into
ROOM_BYTES: Final = 256 * 1024
#: a buffer of this size or more gets memory of its own from the system, page by page as its bytes come
MAPPED_BYTES: Final = 1024 * 1024
#: with less room than this, what is held is moved to the beginning of the space
_LITTLE_ROOM_BYTES: Final = 16 * 1024

_LENGTH: Final = struct.Struct("<I")
_ARRAY: Final = struct.Struct(">BI")
_MSGPACK_ARRAY32: Final = 0xDD
_RESULTS_BEGIN: Final = bytes([_MSGPACK_ARRAY32])


class LoadFunction(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=1):
    """A function, before the first task that needs it."""

    digest: bytes
    body: bytes  #: empty if it is the first buffer
    sizes: Sizes

    def announced(self) -> list[int]:
        """List the lengths of the buffers that follow."""
        return lengths(self.sizes)


class ForgetFunctions(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=2):
    """Functions that are not needed any more."""

    digests: list[bytes]

    def announced(self) -> list[int]:
        """List the lengths of the buffers that follow: none."""
        return []


class RunTasks(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=3):
    """A pack of tasks of one job and function. Each may start only with a token of this epoch."""

    function: bytes
    epoch: int  #: 0 to 255; tasks of an epoch without tokens were taken back
    #: ticket, body (empty: it is the first buffer), sizes, index in the job, kind
    tasks: list[tuple[int, bytes, Sizes, int, Kind]]
    threads: int = 0  #: that libraries may use meanwhile; 0: as many as they do
    job: bytes = b""

    def announced(self) -> list[int]:
        """List the lengths of the buffers that follow."""
        return [length for task in self.tasks if task[2] for length in lengths(task[2])]


class Result(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How one task ended in the worker."""

    ticket: int
    status: Annotated[int, msgspec.Meta(ge=0, le=8)]  #: outcome.Status
    elapsed_s: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    body: bytes  #: pickled value or encoded ErrorReport; empty if it is the first buffer
    sizes: Sizes = ()
    #: 1: a marker for this ticket is in the pipe of descriptor 1; 2: in that of descriptor 2; 3: in both
    wrote: Annotated[int, msgspec.Meta(ge=0, le=3)] = 0
    keeps: bool = False  #: the worker still refers to shared memory of the arguments


class NoteRecord(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=4):
    """The next bytes of a task's stream 3, while it runs."""

    ticket: int
    data: bytes

    def announced(self) -> list[int]:
        """List the lengths of the buffers that follow: none."""
        return []


class AddSegment(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=5):
    """A segment of shared memory, before the first slice of it."""

    segment: bytes
    pid: int  #: the process that has it open ...
    fd: int  #: ... under this number
    size: int

    def announced(self) -> list[int]:
        """List the lengths of the buffers that follow: none."""
        return []


class RemoveSegments(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=6):
    """Segments of shared memory that nothing refers to any more."""

    segments: list[bytes]

    def announced(self) -> list[int]:
        """List the lengths of the buffers that follow: none."""
        return []


class ReleaseSlices(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=7):
    """Slices of the worker's own shared memory whose results have been taken."""

    slices: list[Slice]
    clean: bool  #: nobody refers to them any more

    def announced(self) -> list[int]:
        """List the lengths of the buffers that follow: none."""
        return []


class NotInitialized(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=8):
    """The initializer has raised an error, so this worker never gets ready and ends."""

    report: str  #: its traceback

    def announced(self) -> list[int]:
        """List the lengths of the buffers that follow: none."""
        return []


Order = LoadFunction | ForgetFunctions | RunTasks | AddSegment | RemoveSegments | ReleaseSlices
Said = NoteRecord | AddSegment | RemoveSegments | NotInitialized


def lengths(sizes: Sizes) -> list[int]:
    """List the lengths of those buffers that follow."""
    return [size for size in sizes if not isinstance(size, Slice)]


class Results(list[Result]):
    """A list of results, as a header."""

    def announced(self) -> list[int]:
        """List the lengths of the buffers that follow."""
        return [length for result in self if result.sizes for length in lengths(result.sizes)]


class Header(Protocol):
    """What a record begins with."""

    def announced(self) -> list[int]:
        """List the lengths of the buffers that follow."""


H = TypeVar("H", bound=Header)

encode: Final = msgspec.msgpack.Encoder().encode
_orders: "Final[msgspec.msgpack.Decoder[Order]]" = msgspec.msgpack.Decoder(Order)
_results: "Final[msgspec.msgpack.Decoder[list[Result]]]" = msgspec.msgpack.Decoder(list[Result])
_said: "Final[msgspec.msgpack.Decoder[Said]]" = msgspec.msgpack.Decoder(Said)


def decode_order(header: Buffer) -> Order:
    """Decode a header from the slave."""
    return _orders.decode(header)


def decode_results(header: Buffer) -> Results:
    """Decode a list of results."""
    return Results(_results.decode(header))


def decode_said(header: Buffer) -> Results | Said:
    """Decode a header from the worker."""
    # Results come in an array of 32 bits' length however few they are, see `pack_results`.
    return decode_results(header) if header[:1] == _RESULTS_BEGIN else _said.decode(header)


def pack(header: bytes) -> bytes:
    """Put its length before a header. The buffers follow as they are."""
    return _LENGTH.pack(len(header)) + header


def pack_results(encoded: Sequence[bytes]) -> bytes:
    """Make a record's header, length included, of results that are encoded already."""
    items = b"".join(encoded)
    return _LENGTH.pack(len(items) + _ARRAY.size) + _ARRAY.pack(_MSGPACK_ARRAY32, len(encoded)) + items


def unpack_unsent(count: int, encoded: bytes) -> Results:
    """Decode what a worker has not sent: `count` encoded results in a row. Raises ProtocolError if that is not so."""
    try:
        return decode_results(_ARRAY.pack(_MSGPACK_ARRAY32, count) + encoded)
    except (msgspec.MsgspecError, struct.error) as error:
        raise ProtocolError(f"has no results in its status page: {error}") from error


class RecordReader(Generic[H]):
    """Say where the next bytes of a stream go, and give the records that they complete.

    Memory is taken as bytes come, not as they are announced. A stream that has once been no record is never one again:
    what was complete before is given, and every later call raises ProtocolError.

    >>> reader = Reader(decode_results)
    >>> record = pack_results([encode((7, 0, 0.5, b"x"))])
    >>> reader.room()[: len(record)] = record
    >>> reader.took(len(record))
    [([Result(ticket=7, status=0, elapsed_s=0.5, body=b'x', sizes=(), wrote=0)], [])]

    Args:
        decode: reads a header.
        header_bytes_max: most bytes that a header may have.
        buffer_bytes_max: most bytes that the buffers of a record may have together.
        over_limit: what to say to who has announced more than that.
    """

    def __init__(
        self,
        decode: Callable[[memoryview], H],
        *,
        header_bytes_max: int = HEADER_BYTES_MAX,
        buffer_bytes_max: int = 1 << 62,
        over_limit: str = "",
    ) -> None:
        self._decode = decode
        self._header_bytes_max = header_bytes_max
        self._buffer_bytes_max = buffer_bytes_max
        self._over_limit = over_limit
        self._failure = ""  # why this is no stream of records
        self._space = memoryview(bytearray(ROOM_BYTES))
        self._start = self._end = 0  # received and not yet used, in the space
        self._header: H | None = None  # a header whose buffers are not complete
        self._lengths: Sequence[int] = ()  # of its buffers
        self._buffers: list[memoryview] = []  # those of them that are complete, then the one that is being filled
        self._at = self._filled = 0  # the buffer that is being filled, and how far it is

    def room(self) -> memoryview:
        """Give the space for the next bytes: never empty. Raises ProtocolError once the stream has failed."""
        if self._failure:
            raise ProtocolError(self._failure)
        if self._header is not None:
            return self._buffers[self._at][self._filled :]
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._space) > ROOM_BYTES:
                self._space = memoryview(bytearray(ROOM_BYTES))
        elif len(self._space) - self._end < _LITTLE_ROOM_BYTES:
            self._make_room()
        return self._space[self._end :]

    def took(self, received: int) -> list[tuple[H, list[memoryview]]]:
        """Note that `received` bytes were written into the room; return the records that are complete now.

        Raises ProtocolError where the bytes are no record; if records came before them, at the next call.
        """
        if self._failure:
            raise ProtocolError(self._failure)
        if self._header is None:
            self._end += received
        else:
            self._filled += received
        records: list[tuple[H, list[memoryview]]] = []
        try:
            while self._step(records):
                pass
        except Exception as error:
            self._failure = f"said what is no record: {str(error) or type(error).__name__}"
            self._header, self._lengths, self._buffers, self._space = None, (), [], memoryview(b"")
            if not records:
                raise ProtocolError(self._failure) from error
        return records

    def _step(self, records: list[tuple[H, list[memoryview]]]) -> bool:
        """Go one header and its buffers on; False if more bytes are needed."""
        if self._header is None and not self._take_header():
            return False
        header = self._header
        assert header is not None
        while self._at < len(self._lengths):
            if self._at == len(self._buffers):
                self._buffers.append(_memory(self._lengths[self._at]))
            if not self._fill(self._buffers[self._at]):
                return False
            self._at, self._filled = self._at + 1, 0
        records.append((header, self._buffers))
        self._header, self._lengths, self._buffers, self._at = None, (), [], 0
        return True

    def _take_header(self) -> bool:
        held = self._end - self._start
        if held < _LENGTH.size:
            return False
        (length,) = _LENGTH.unpack_from(self._space, self._start)
        if length > self._header_bytes_max:
            raise ProtocolError(f"its header announces {length} bytes, more than {self._header_bytes_max}")
        if held < _LENGTH.size + length:
            return False
        begin = self._start + _LENGTH.size
        header = self._decode(self._space[begin : begin + length])
        if announced := header.announced():
            self._check(announced)
            self._lengths = announced
        self._header = header
        self._start = begin + length
        return True

    def _check(self, announced: Sequence[int]) -> None:
        if min(announced) < 0:
            raise ProtocolError(f"it announces a buffer of {min(announced)} bytes")
        if (size := sum(announced)) > self._buffer_bytes_max:
            raise ProtocolError(
                f"it announces buffers of {size} bytes, more than {self._buffer_bytes_max}{self._over_limit}"
            )

    def _fill(self, buffer: memoryview) -> bool:
        """Move what is there of a buffer from the space; True if it is complete."""
        if self._start < self._end and self._filled < len(buffer):
            count = min(len(buffer) - self._filled, self._end - self._start)
            buffer[self._filled : self._filled + count] = self._space[self._start : self._start + count]
            self._start += count
            self._filled += count
        return self._filled == len(buffer)

    def _make_room(self) -> None:
        """Move what is held to the beginning of the space, or of one that is twice as large as that."""
        held = self._space[self._start : self._end]
        if 2 * len(held) > len(self._space):
            self._space = memoryview(bytearray(2 * len(held)))
        self._space[: len(held)] = held
        self._start, self._end = 0, len(held)


def _memory(size: int) -> memoryview:
    """Give memory for a buffer. Raises MemoryError, or OSError if the system does not have so much."""
    # The system gives pages when they are written to; a large bytearray is written to, and so taken, at once.
    if size < MAPPED_BYTES or not hasattr(mmap, "MAP_ANONYMOUS"):
        return memoryview(bytearray(size))
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
