"""How a record is a row: checked bytes, of which a changed or missing one is noticed. Pure.

    magic (2) | version (1) | CRC-32 of version and all that follows (4) | length of the header (4) | header | buffers

The header is msgpack: number of the row, record, and for each of its buffers its length, or the file that has it.
Integers are little endian.
"""

import struct
from collections.abc import Sequence
from typing import Annotated, Final
from zlib import crc32

import msgspec

from concurrent_nb.errors import JournalDamaged, VersionMismatch
from concurrent_nb.journal.journal_records import Record, buffer_count
from concurrent_nb.wire.codec import Buffer

#: version of rows and records; another one is refused
JOURNAL_VERSION: Final = 1
_MAGIC: Final = b"cj"
_PREFIX: Final = struct.Struct("<2sBII")
_CHECKED_FROM: Final = 7  # behind the checksum


class BufferFile(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A buffer in a file of its own."""

    digest: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]  #: SHA-256 of the content, its name
    size: Annotated[int, msgspec.Meta(ge=0)]  #: in bytes


class _RowHeader(msgspec.Struct, array_like=True, frozen=True, gc=False):
    number: int
    record: Record
    buffers: list[Annotated[int, msgspec.Meta(ge=0)] | BufferFile]


class JournalRow(msgspec.Struct, frozen=True, gc=False):
    """A record as it was read."""

    number: int
    record: Record
    buffers: Sequence[Buffer | BufferFile] = ()


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_RowHeader)


def encode_row(number: int, record: Record, buffers: Sequence[Buffer | BufferFile] = ()) -> bytes:
    """Return the bytes of a row. Raises ValueError unless the buffers are those of the record."""
    if buffers or buffer_count(record):
        if len(buffers) != buffer_count(record):
            raise ValueError(f"{type(record).__name__} has {buffer_count(record)} buffers, not {len(buffers)}")
        places = [it if isinstance(it, BufferFile) else memoryview(it).nbytes for it in buffers]
        header = _ENCODER.encode(_RowHeader(number, record, places))
        inline = b"".join([it for it in buffers if not isinstance(it, BufferFile)])
        rest = b"".join((len(header).to_bytes(4, "little"), header, inline))
    else:
        header = _ENCODER.encode(_RowHeader(number, record, []))
        rest = len(header).to_bytes(4, "little") + header
    checksum = crc32(rest, crc32(bytes((JOURNAL_VERSION,))))
    return b"".join((_MAGIC, bytes((JOURNAL_VERSION,)), checksum.to_bytes(4, "little"), rest))


def decode_row(number: int, data: bytes) -> JournalRow:
    """Return what a row has. Raises JournalDamaged, and VersionMismatch for an intact row of another version."""
    if len(data) < _PREFIX.size:
        raise JournalDamaged(f"record {number} of the journal is torn: it has {len(data)} bytes")
    magic, version, checksum, header_bytes = _PREFIX.unpack_from(data)
    view = memoryview(data)
    if magic != _MAGIC or crc32(view[_CHECKED_FROM:], crc32(bytes((version,)))) != checksum:
        raise JournalDamaged(f"record {number} of the journal is torn or was changed: its checksum is wrong")
    if version != JOURNAL_VERSION:
        raise VersionMismatch(
            f"record {number} of the journal has version {version}, and this package reads version {JOURNAL_VERSION}"
        )
    start = _PREFIX.size + header_bytes
    try:
        header = _DECODER.decode(view[_PREFIX.size : start])
    except msgspec.MsgspecError as error:
        raise JournalDamaged(f"record {number} of the journal cannot be read: {error}") from None
    if header.number != number:
        raise JournalDamaged(f"record {number} of the journal is record {header.number}")
    buffers: list[Buffer | BufferFile] = []
    for place in header.buffers:
        if isinstance(place, BufferFile):
            buffers.append(place)
            continue
        buffers.append(bytes(view[start : start + place]))
        start += place
    if start != len(data) or len(buffers) != buffer_count(header.record):
        raise JournalDamaged(f"record {number} of the journal does not have the buffers that it lists")
    return JournalRow(number, header.record, buffers)
