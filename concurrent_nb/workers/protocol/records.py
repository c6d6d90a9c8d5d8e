"""The stream between a slave and one of its workers: records of a header and raw buffers.

    record:  u32 length (little endian) | header: msgpack | buffers, in order, with the lengths in the header's `sizes`

A slave sends functions (`LoadFunction`, `ForgetFunctions`), tasks (`RunTasks`) and changes of shared memory
(`AddSegment`, `RemoveSegments`, `ReleaseSlices`). A worker sends notes of a task (`NoteRecord`), changes of its own
shared memory (`AddSegment`, `RemoveSegments`), and lists of `Result`s, which it joins from results that it has encoded
one by one. The first such list is empty and means that the worker is ready. A worker whose initializer has failed sends
`NotInitialized` instead.

Pure: `pack` returns what to send, `RecordReader` where received bytes belong. Both sides use it; nothing is unpickled.
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
#: longest header of a worker: more than results that were kept back (64 KiB), one body (64 KiB), and the slices of
#: `wire.messages.BUFFERS_MAX` buffers (46 bytes each)
WORKER_HEADER_BYTES_MAX: Final = 1024 * 1024
#: ... and of a slave, whose packs of tasks may contain as much as their master has accepted
SLAVE_HEADER_BYTES_MAX: Final = 64 * 1024 * 1024
#: initial size of the space into which bytes are received
SPACE_BYTES: Final = 256 * 1024
#: a buffer of this size or more gets memory from the system, page by page as its bytes come
MAPPED_BYTES: Final = 1024 * 1024
#: with less free space than this at the end, its content is moved to the beginning
_LITTLE_SPACE_BYTES: Final = 16 * 1024

_LENGTH: Final = struct.Struct("<I")
_ARRAY: Final = struct.Struct(">BI")
_MSGPACK_ARRAY32: Final = 0xDD
_RESULTS_BEGIN: Final = bytes([_MSGPACK_ARRAY32])


class LoadFunction(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=1):
    """A function, before the first task that needs it."""

    digest: bytes
    body: bytes  #: empty if it is the first buffer
    sizes: Sizes

    def buffer_sizes(self) -> list[int]:
        """Return the lengths of the buffers that follow."""
        return lengths(self.sizes)


class ForgetFunctions(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=2):
    """Functions that no task needs any more."""

    digests: list[bytes]

    def buffer_sizes(self) -> list[int]:
        """Return the lengths of the buffers that follow: none."""
        return []


class RunTasks(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=3):
    """A pack of tasks of one job and function. Each may start only with a token of this epoch."""

    function: bytes
    epoch: int  #: 0 to 255; tasks of an epoch without tokens were taken back
    #: ticket, body (empty: it is the first buffer), sizes, index in the job, kind
    tasks: list[tuple[int, bytes, Sizes, int, Kind]]
    threads: int = 0  #: how many threads libraries may use meanwhile; 0: no change
    job: bytes = b""
    #: ticket of the task whose result the first one needs, and each other one that of the one before; 0: none does.
    #: If the worker does not have it, they end as INPUT_GONE
    behind: int = 0

    def buffer_sizes(self) -> list[int]:
        """Return the lengths of the buffers that follow."""
        return [length for task in self.tasks if task[2] for length in lengths(task[2])]


class Result(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How one task has ended in the worker."""

    ticket: int
    status: Annotated[int, msgspec.Meta(ge=0, le=12)]  #: outcome.Status
    elapsed_s: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    body: bytes  #: pickled value or encoded ErrorReport; empty if it is the first buffer
    sizes: Sizes = ()
    #: in which pipes there is a marker for this ticket; 1: of descriptor 1; 2: of descriptor 2; 3: of both
    wrote: Annotated[int, msgspec.Meta(ge=0, le=3)] = 0
    keeps: bool = False  #: the worker still refers to shared memory of the arguments
    ended_s: Annotated[float, msgspec.Meta(ge=0, le=1e12)] = 0.0  #: when it ended, by `time.monotonic`
    cpu_us: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0  #: CPU time of its thread; 0: less than a millisecond
    peak_kib: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 0  #: most memory of the process so far; 0 likewise


class NoteRecord(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=4):
    """The next bytes of a task's stream 3, while it runs."""

    ticket: int
    data: bytes

    def buffer_sizes(self) -> list[int]:
        """Return the lengths of the buffers that follow: none."""
        return []


class AddSegment(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=5):
    """A segment of shared memory. Comes before the first slice of it."""

    segment: bytes
    pid: int  #: the process that has it open ...
    fd: int  #: ... under this number
    size: int

    def buffer_sizes(self) -> list[int]:
        """Return the lengths of the buffers that follow: none."""
        return []


class RemoveSegments(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=6):
    """Segments of shared memory that nothing refers to any more."""

    segments: list[bytes]

    def buffer_sizes(self) -> list[int]:
        """Return the lengths of the buffers that follow: none."""
        return []


class ReleaseSlices(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=7):
    """Slices of the worker's own shared memory whose results have been taken."""

    slices: list[Slice]
    clean: bool  #: nothing refers to them any more

    def buffer_sizes(self) -> list[int]:
        """Return the lengths of the buffers that follow: none."""
        return []


class NotInitialized(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=8):
    """The initializer has raised an error, so this worker ends without getting ready."""

    report: str  #: its traceback

    def buffer_sizes(self) -> list[int]:
        """Return the lengths of the buffers that follow: none."""
        return []


class ClusterAt(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=9):
    """Where the slave has found its cluster, for applications in tasks. Comes before the first task."""

    where: str  #: path of the connection file, or its content in one line, which begins with a brace
    slave: str  #: the slave's name

    def buffer_sizes(self) -> list[int]:
        """Return the lengths of the buffers that follow: none."""
        return []


SlaveRecord = LoadFunction | ForgetFunctions | RunTasks | AddSegment | RemoveSegments | ReleaseSlices | ClusterAt
WorkerRecord = NoteRecord | AddSegment | RemoveSegments | NotInitialized


def lengths(sizes: Sizes) -> list[int]:
    """Return the lengths of those buffers that follow the header, not those of slices."""
    return [size for size in sizes if not isinstance(size, Slice)]


class Results(list[Result]):
    """A header that is a list of results."""

    def buffer_sizes(self) -> list[int]:
        """Return the lengths of the buffers that follow."""
        return [length for result in self if result.sizes for length in lengths(result.sizes)]


class Header(Protocol):
    """The beginning of a record."""

    def buffer_sizes(self) -> list[int]:
        """Return the lengths of the buffers that follow."""


H = TypeVar("H", bound=Header)

encode: Final = msgspec.msgpack.Encoder().encode
_slave_records: "Final[msgspec.msgpack.Decoder[SlaveRecord]]" = msgspec.msgpack.Decoder(SlaveRecord)
_results: "Final[msgspec.msgpack.Decoder[list[Result]]]" = msgspec.msgpack.Decoder(list[Result])
_worker_records: "Final[msgspec.msgpack.Decoder[WorkerRecord]]" = msgspec.msgpack.Decoder(WorkerRecord)


def decode_slave_record(header: Buffer) -> SlaveRecord:
    """Decode a header from the slave."""
    return _slave_records.decode(header)


def decode_results(header: Buffer) -> Results:
    """Decode a list of results."""
    return Results(_results.decode(header))


def decode_worker_record(header: Buffer) -> Results | WorkerRecord:
    """Decode a header from the worker."""
    # Results come in an array with a length of 32 bits, however few they are: see `pack_results`.
    return decode_results(header) if header[:1] == _RESULTS_BEGIN else _worker_records.decode(header)


def pack(header: bytes) -> bytes:
    """Return a header with its length before it. The buffers must follow."""
    return _LENGTH.pack(len(header)) + header


def pack_results(encoded: Sequence[bytes]) -> bytes:
    """Return a record of results that are encoded already, with its length before it."""
    items = b"".join(encoded)
    return _LENGTH.pack(len(items) + _ARRAY.size) + _ARRAY.pack(_MSGPACK_ARRAY32, len(encoded)) + items


def unpack_unsent(count: int, encoded: bytes) -> Results:
    """Decode `count` encoded results of a status page. Raises ProtocolError if there are no such results."""
    try:
        return decode_results(_ARRAY.pack(_MSGPACK_ARRAY32, count) + encoded)
    except (msgspec.MsgspecError, struct.error) as error:
        raise ProtocolError(f"has no results in its status page: {error}") from error


class RecordReader(Generic[H]):
    """Reads a stream of records: `get_buffer` returns where its next bytes belong, as in `asyncio.BufferedProtocol`.

    Memory is allocated as bytes come, not as they are announced. After the first invalid record the stream has failed:
    the records before it are returned, and every later call raises ProtocolError.

    >>> reader = RecordReader(decode_results)
    >>> record = pack_results([encode((7, 0, 0.5, b"x"))])
    >>> reader.get_buffer()[: len(record)] = record
    >>> [(results, buffers)] = reader.buffer_updated(len(record))
    >>> results[0].ticket, results[0].body, buffers
    (7, b'x', [])

    Args:
        decode: decodes a header.
        header_bytes_max: most bytes of a header.
        buffer_bytes_max: most bytes of the buffers of a record together.
        over_limit: end of the error message for more than that.
    """

    def __init__(
        self,
        decode: Callable[[memoryview], H],
        *,
        header_bytes_max: int = WORKER_HEADER_BYTES_MAX,
        buffer_bytes_max: int = 1 << 62,
        over_limit: str = "",
    ) -> None:
        self._decode = decode
        self._header_bytes_max = header_bytes_max
        self._buffer_bytes_max = buffer_bytes_max
        self._over_limit = over_limit
        self._failure = ""  # why the stream has failed
        self._space = memoryview(bytearray(SPACE_BYTES))
        self._start = self._end = 0  # what was received and not decoded yet, in the space
        self._header: H | None = None  # of a record whose buffers are not complete
        self._lengths: Sequence[int] = ()  # of its buffers
        self._buffers: list[memoryview] = []  # the complete ones, then the one that is being filled
        self._at = self._filled = 0  # index of the buffer that is being filled, and its bytes so far

    def get_buffer(self) -> memoryview:
        """Return the space for the next bytes, never empty. Raises ProtocolError once the stream has failed."""
        if self._failure:
            raise ProtocolError(self._failure)
        if self._header is not None:
            return self._buffers[self._at][self._filled :]
        if self._start == self._end:
            self._start = self._end = 0
            if len(self._space) > SPACE_BYTES:
                self._space = memoryview(bytearray(SPACE_BYTES))
        elif len(self._space) - self._end < _LITTLE_SPACE_BYTES:
            self._make_space()
        return self._space[self._end :]

    def buffer_updated(self, received: int) -> list[tuple[H, list[memoryview]]]:
        """Handle `received` bytes in the space of `get_buffer`; return the records that are complete now.

        Raises ProtocolError for an invalid record; if valid ones came before it, at the next call.
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
            self._failure = f"sent an invalid record: {str(error) or type(error).__name__}"
            self._header, self._lengths, self._buffers, self._space = None, (), [], memoryview(b"")
            if not records:
                raise ProtocolError(self._failure) from error
        return records

    def _step(self, records: list[tuple[H, list[memoryview]]]) -> bool:
        """Decode the next record; return False if more bytes are needed."""
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
        if buffer_sizes := header.buffer_sizes():
            self._check(buffer_sizes)
            self._lengths = buffer_sizes
        self._header = header
        self._start = begin + length
        return True

    def _check(self, buffer_sizes: Sequence[int]) -> None:
        if min(buffer_sizes) < 0:
            raise ProtocolError(f"it announces a buffer of {min(buffer_sizes)} bytes")
        if (size := sum(buffer_sizes)) > self._buffer_bytes_max:
            raise ProtocolError(
                f"it announces buffers of {size} bytes, more than {self._buffer_bytes_max}{self._over_limit}"
            )

    def _fill(self, buffer: memoryview) -> bool:
        """Move bytes of a buffer from the space; return whether it is complete."""
        if self._start < self._end and self._filled < len(buffer):
            count = min(len(buffer) - self._filled, self._end - self._start)
            buffer[self._filled : self._filled + count] = self._space[self._start : self._start + count]
            self._start += count
            self._filled += count
        return self._filled == len(buffer)

    def _make_space(self) -> None:
        """Move the content to the beginning of the space, or of a new one of twice the content's size."""
        held = self._space[self._start : self._end]
        if 2 * len(held) > len(self._space):
            self._space = memoryview(bytearray(2 * len(held)))
        self._space[: len(held)] = held
        self._start, self._end = 0, len(held)


def _memory(size: int) -> memoryview:
    """Allocate memory for a buffer. Raises MemoryError, or OSError if the system does not have so much."""
    # The system allocates pages when they are written to; a large bytearray is written to immediately.
    if size < MAPPED_BYTES or not hasattr(mmap, "MAP_ANONYMOUS"):
        return memoryview(bytearray(size))
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
