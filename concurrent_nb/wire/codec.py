"""Messages to frames and back: one header frame, then large buffers as frames of their own.

Called by `session`. Encoding never copies a buffer. Decoding checks everything, and raises only ProtocolError for bytes
that are not as PROTOCOL.md defines.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from concurrent_nb.errors import ProtocolError, VersionMismatch
from concurrent_nb.ids import Digest, digest_of
from concurrent_nb.wire import messages as m

#: longest frame; the transport cuts a connection that announces more, even before it is authenticated
FRAME_BYTES: Final = 1024 * 1024
#: a body longer than this leaves the header and travels as the first buffer
INLINE_BYTES: Final = 32 * 1024
#: a run of tasks or outcomes is split when its inline bodies reach this
RUN_BYTES: Final = 128 * 1024
#: ... or when it has this many members
RUN_ITEMS: Final = 512
#: a list of task references or indexes is split at this length
REFS: Final = 8192
#: output of a task is split into pieces of this size
OUTPUT_BYTES: Final = 64 * 1024
#: buffers of a message with more bytes than this follow it in envelopes of their own, each with at most this many
PART_BYTES: Final = 4 * 1024 * 1024
#: ... and so do more buffers than this
PART_BUFFERS: Final = 512
#: limits of an envelope; senders keep far below both
ENVELOPE_FRAMES_MAX: Final = 8192
ENVELOPE_BYTES_MAX: Final = 8 * 1024 * 1024
#: most bytes that a size or a slice takes of a header frame
_SIZE_BYTES: Final = 40

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview
Buffers = Sequence[Buffer]
#: the buffers of one message: those of each of its items, in order
ItemBuffers = Sequence[Buffers]


class Envelope(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The header frame: version, epoch, position in its stream, and messages."""

    version: int
    epoch: int  #: the run of the master; envelopes of another run are refused
    seq: int  #: from 1 in each direction; 0 for what is outside of the stream (acknowledgement, heartbeat, Bye)
    ack: int  #: highest seq up to which everything has arrived
    body: list[Any]


class _Head(msgspec.Struct, array_like=True, frozen=True, gc=False):
    version: int


class _FromClient(Envelope, array_like=True, frozen=True, gc=False):
    body: list[m.FromClient]


class _FromSlave(Envelope, array_like=True, frozen=True, gc=False):
    body: list[m.FromSlave]


class _ToClient(Envelope, array_like=True, frozen=True, gc=False):
    body: list[m.ToClient]


class _ToSlave(Envelope, array_like=True, frozen=True, gc=False):
    body: list[m.ToSlave]


#: decoders by direction: the role of the sender, or of the recipient
_DECODERS: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    "from_client": msgspec.msgpack.Decoder(_FromClient),
    "from_slave": msgspec.msgpack.Decoder(_FromSlave),
    "to_client": msgspec.msgpack.Decoder(_ToClient),
    "to_slave": msgspec.msgpack.Decoder(_ToSlave),
}
_HEAD: Final = msgspec.msgpack.Decoder(_Head)
_ENCODER: Final = msgspec.msgpack.Encoder()
_error_decoder: Final = msgspec.msgpack.Decoder(m.ErrorReport)


class Received(msgspec.Struct, frozen=True, gc=False):
    """A received message, with the buffers of its items (empty if no item has any)."""

    message: m.AnyMessage
    buffers: ItemBuffers = ()  #: CUT for a message whose buffers follow in Parts


#: marks a message whose buffers are in the envelopes that follow (`parts.Assembly` joins them)
CUT: Final[ItemBuffers] = ((),)


# ------------------------------------------------------------------------------------------------------- payloads


def pack_body(body: bytes, buffers: Sequence[Buffer | m.Slice]) -> tuple[bytes, m.Sizes, Buffers]:
    """Return (inline body, sizes, buffers that travel) for a frame record: a long body becomes the first buffer."""
    if len(body) > INLINE_BYTES:
        buffers = [body, *buffers]
        body = b""
    if not buffers:
        return body, (), ()
    return body, *split_off(buffers)


def move_long_body(body: bytes, sizes: m.Sizes, buffers: Buffers) -> tuple[bytes, m.Sizes, Buffers]:
    """Make a body that is too long for a header the first buffer of what `pack_body` has returned."""
    if len(body) <= INLINE_BYTES:
        return body, sizes, buffers
    return b"", (len(body), *sizes), [body, *buffers]


def split_off(buffers: Sequence[Buffer | m.Slice]) -> tuple[m.Sizes, Buffers]:
    """Return the sizes of buffers, and those among them that travel as frames."""
    sizes = tuple([buffer if isinstance(buffer, m.Slice) else length(buffer) for buffer in buffers])
    return sizes, [buffer for buffer in buffers if not isinstance(buffer, m.Slice)]


def slices_of(sizes: m.Sizes) -> list[m.Slice]:
    """List the slices in shared memory."""
    return [size for size in sizes if type(size) is m.Slice]


def size_of(size: int | m.Slice) -> int:
    """Return the length of a buffer in bytes, in shared memory or not."""
    return size.size if isinstance(size, m.Slice) else size


def lengths(sizes: m.Sizes) -> list[int]:
    """List the lengths of the buffers that travel as frames."""
    return [size for size in sizes if type(size) is int]


def joined(sizes: m.Sizes, buffers: Buffers, read: Callable[[m.Slice], T]) -> list[Buffer | T]:
    """Undo `split_off`: return all buffers in order, those in shared memory as `read` returns them."""
    travelled = iter(buffers)
    return [read(size) if type(size) is m.Slice else next(travelled) for size in sizes]


def function_digest(parts: Sequence[Buffer | m.Slice]) -> Digest:
    """Return a function's digest: the SHA-256 of its pickle and its buffers, with slices in place of shared memory.

    A slice identifies its content: only its owner knows its random id, and a serial is used once.
    """
    return digest_of(b"".join([_ENCODER.encode(part) if isinstance(part, m.Slice) else part for part in parts]))


def unpack_body(body: bytes, buffers: Buffers) -> tuple[Buffer, Buffers]:
    """Undo `pack_body`: return (pickle, out-of-band buffers)."""
    if body or not buffers:
        return body, buffers
    return buffers[0], buffers[1:]


def length(buffer: Buffer) -> int:
    """Return the length of a buffer in bytes."""
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


def encode_error(report: m.ErrorReport) -> bytes:
    """Encode an ErrorReport as the payload of an outcome."""
    return _ENCODER.encode(report)


def decode_error(body: Buffer) -> m.ErrorReport:
    """Decode an outcome's ErrorReport. Raises ProtocolError."""
    try:
        return _error_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"an error report cannot be decoded: {error}") from error


# ------------------------------------------------------------------------------------------------------- envelopes


def encode(envelope: Envelope, buffers: Buffers = ()) -> list[Buffer]:
    """Return the frames of an envelope: the header, then every buffer, in pieces of at most FRAME_BYTES."""
    frames: list[Buffer] = [_ENCODER.encode(envelope)]
    for buffer in buffers:
        view = memoryview(buffer).cast("B") if length(buffer) > FRAME_BYTES else buffer
        if view is buffer:
            frames.append(buffer)
        else:
            frames.extend(view[at : at + FRAME_BYTES] for at in range(0, length(buffer), FRAME_BYTES))
    return frames


def decode(frames: Sequence[Buffer], direction: str) -> tuple[Envelope, list[Received]]:
    """Decode the frames of one envelope; `direction` is a key of the decoders ("from_client", "to_slave", ...).

    Raises VersionMismatch for another protocol version, and ProtocolError for any other error.
    """
    if not frames:
        raise ProtocolError("an envelope without a header frame")
    try:
        envelope = _DECODERS[direction].decode(frames[0])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        _check_version(frames[0])
        raise ProtocolError(f"a header that is not of protocol {m.PROTOCOL_VERSION}: {error}") from error
    if envelope.version != m.PROTOCOL_VERSION:
        _check_version(frames[0])
    if envelope.seq < 0 or envelope.ack < 0:
        raise ProtocolError(f"negative sequence number ({envelope.seq}, {envelope.ack})")
    if len(frames) == 1:
        received = []
        for message in envelope.body:
            received.append(_alone(message) if type(message) in _CARRIERS else Received(message))
        return envelope, received
    if len(frames) > ENVELOPE_BYTES_MAX // FRAME_BYTES:
        _check_size(frames)
    return envelope, _with_buffers(envelope.body, frames)


def _check_size(frames: Sequence[Buffer]) -> None:
    """Raise ProtocolError if an envelope is above the limits."""
    size_bytes = sum(map(length, frames[1:]))
    if len(frames) > ENVELOPE_FRAMES_MAX or size_bytes > ENVELOPE_BYTES_MAX:
        raise ProtocolError(
            f"an envelope of {len(frames)} frames and {size_bytes} bytes: at most {ENVELOPE_FRAMES_MAX} frames and "
            f"{ENVELOPE_BYTES_MAX} bytes are allowed"
        )


def _check_version(header: Buffer) -> None:
    try:
        version = _HEAD.decode(header).version
    except (msgspec.MsgspecError, RecursionError):
        return
    if version != m.PROTOCOL_VERSION:
        raise VersionMismatch(f"the peer uses protocol {version}, this node uses {m.PROTOCOL_VERSION}")


def _alone(message: Any) -> Received:
    """Return a message without frames in its envelope. Raises ProtocolError if it announces some."""
    count, size_bytes = _announced(message)
    if not count:
        return Received(message)
    if not is_cut(count, size_bytes) or type(message) is m.Part:
        raise ProtocolError(f"{type(message).__name__} announces buffers, but no frame follows")
    return Received(message, CUT)


def is_cut(count: int, size_bytes: int) -> bool:
    """Return whether `count` buffers of `size_bytes` in all follow their message in envelopes of their own."""
    return size_bytes > PART_BYTES or count > PART_BUFFERS


def _announced(message: Any) -> tuple[int, int]:
    """Return how many buffers of a message travel, and their bytes. Raises ProtocolError if it has no body, or two."""
    if type(message) in _SINGLE:
        _check_body(message)
        travelling = lengths(message.sizes)
    else:
        travelling = [size for item in _items_of(message) for size in item.sizes if type(size) is int]
    return (len(travelling), sum(travelling)) if travelling else (0, 0)


def _check_body(message: Any) -> None:
    if type(message) is m.Content:
        # The content of a slice is one piece, in the message or as its buffer.
        if bool(message.body) == bool(message.sizes) or any(
            type(size) is not int or not size for size in message.sizes
        ):
            raise ProtocolError("Content has one body, inline or as its only buffer")
        if len(message.sizes) > 1:
            raise ProtocolError(f"Content has one body, not {len(message.sizes)} buffers")
    elif type(message) is m.Function and not message.body and not message.sizes:
        raise ProtocolError("Function has no body, neither inline nor as its first buffer")


def _items_of(message: Any) -> list[Any]:
    return message.items if type(message) is m.Outcomes else message.tasks


def sizes_of(message: Any) -> list[m.Sizes]:
    """Return the sizes of each item of a message that has buffers."""
    if type(message) in _SINGLE:
        return [message.sizes]
    return [item.sizes for item in _items_of(message)]


def _with_buffers(body: list[Any], frames: Sequence[Buffer]) -> list[Received]:
    """Assign the frames after the header to the items that announce them."""
    received = []
    at = 1
    for message in body:
        if type(message) not in _CARRIERS:
            received.append(Received(message))
            continue
        if is_cut(*_announced(message)) and type(message) is not m.Part:
            received.append(Received(message, CUT))
            continue
        item_buffers: list[Buffers] = []
        for sizes in sizes_of(message):
            buffers = []
            for size in sizes:
                if type(size) is int:
                    buffer, at = _take(frames, at, size)
                    buffers.append(buffer)
            item_buffers.append(buffers)
        received.append(Received(message, item_buffers))
    if at != len(frames):
        raise ProtocolError(f"{len(frames)} frames, but the header announces {at}")
    return received


def _take(frames: Sequence[Buffer], at: int, size: int) -> tuple[Buffer, int]:
    """Return one buffer of `size` bytes from the frames at `at`, and the index of the next frame."""
    count = max(1, -(-size // FRAME_BYTES))
    pieces = frames[at : at + count]
    lengths = [length(piece) for piece in pieces]
    if size < 0 or len(pieces) != count or sum(lengths) != size or any(n != FRAME_BYTES for n in lengths[:-1]):
        raise ProtocolError(f"a buffer of {size} bytes is announced, its frames have {lengths[:8]} bytes")
    if count == 1:
        return pieces[0], at + 1
    return bytearray(b"").join(pieces), at + count


#: messages that have one body with its buffers, and those that have several
_SINGLE: Final = frozenset({m.Function, m.Content, m.Part})
_CARRIERS: Final = _SINGLE | {m.Outcomes, m.Submit, m.Assign}


# ------------------------------------------------------------------------------------------------- splitting messages


def size_if_small(message: m.AnyMessage) -> int:
    """Return roughly the bytes of a message without buffers that need not be split; 0 for any other message."""
    name = _RUNS.get(type(message))
    if name is None:
        return 0
    items = getattr(message, name)
    size = sum([len(item.body) + _SIZE_BYTES * len(item.sizes) for item in items])
    return 64 + 24 * len(items) + size if len(items) <= RUN_ITEMS and size <= RUN_BYTES else 0


def split(message: m.AnyMessage, buffers: ItemBuffers = ()) -> Iterator[tuple[m.AnyMessage, Buffers, int]]:
    """Split a message into messages that fit into a header frame; yield each with its flat buffers and its bytes."""
    kind = type(message)
    if kind in _SINGLE:
        flat = list(buffers[0]) if buffers else []
        size = len(message.body) + _SIZE_BYTES * len(message.sizes)  # type: ignore[union-attr]
        yield message, flat, 64 + size + sum(map(length, flat))
    elif kind in _RUNS:
        yield from _split_run(message, buffers)
    elif kind in _LISTS:
        name, each_bytes = _LISTS[kind]
        members = getattr(message, name)
        for at in range(0, max(1, len(members or ())), REFS):
            part = message if members is None or len(members) <= REFS else _replace(message, name, members, at, REFS)
            yield part, (), 64 + each_bytes * min(len(members or ()), REFS)
    elif kind is m.TaskInputs:
        yield message, (), 64 + _bytes_of_inputs(message)  # type: ignore[arg-type]
    elif kind is m.Output and len(message.data) > OUTPUT_BYTES:  # type: ignore[union-attr]
        for at in range(0, len(message.data), OUTPUT_BYTES):  # type: ignore[union-attr]
            piece = message.data[at : at + OUTPUT_BYTES]  # type: ignore[union-attr]
            yield msgspec.structs.replace(message, data=piece), (), 64 + len(piece)
    else:
        yield message, (), 128 + len(getattr(message, "data", b"")) + len(getattr(message, "stack", ""))


def _bytes_of_inputs(message: m.TaskInputs) -> int:
    return sum([24 + 5 * len(each.indexes) for each in message.inputs])


def _split_run(message: Any, buffers: ItemBuffers) -> Iterator[tuple[m.AnyMessage, Buffers, int]]:
    name = _RUNS[type(message)]
    items = getattr(message, name)
    start = size = count = travelling = 0
    for at, item in enumerate(items):
        item_bytes = len(item.body) + _SIZE_BYTES * len(item.sizes)
        own = buffers[at] if buffers else ()
        own_bytes = sum(map(length, own))
        is_full = at - start >= RUN_ITEMS or size + item_bytes > RUN_BYTES
        if at > start and (is_full or is_cut(count + len(own), travelling + own_bytes)):
            yield _run(message, name, items, buffers, start, at, size)
            start, size, count, travelling = at, 0, 0, 0
        size += item_bytes
        count += len(own)
        travelling += own_bytes
    yield _run(message, name, items, buffers, start, len(items), size)


def _run(
    message: Any, name: str, items: list[Any], buffers: ItemBuffers, start: int, end: int, size: int
) -> tuple[m.AnyMessage, Buffers, int]:
    flat = [buffer for item in buffers[start:end] for buffer in item] if buffers else []
    if start > 0 or end < len(items):
        message = _replace(message, name, items, start, end - start)
        if start > 0 and type(message) is m.Assign and message.behind is not None:
            before = items[start - 1]
            message = msgspec.structs.replace(message, behind=m.TaskRef(message.job, before.index, before.attempt))
    return message, flat, 64 + 24 * (end - start) + size + sum(map(length, flat))


def _replace(message: Any, name: str, members: list[Any], at: int, count: int) -> Any:
    return msgspec.structs.replace(message, **{name: members[at : at + count]})


_RUNS: Final[dict[type, str]] = {m.Outcomes: "items", m.Submit: "tasks", m.Assign: "tasks"}
_LISTS: Final[dict[type, tuple[str, int]]] = {
    m.Started: ("tasks", 35),
    m.Returned: ("tasks", 30),
    m.Withdraw: ("tasks", 30),
    m.Cancel: ("indexes", 5),
    m.FetchResults: ("indexes", 5),
    m.FreeResults: ("indexes", 5),
    m.DropFunctions: ("digests", 34),
    m.DropSegments: ("segments", 18),
    m.Release: ("slices", 30),
}
