"""Pickles of many objects, each by itself, with what they have in common once.

    SeparatePickler.dumps(thing) --> bytes, in which classes and functions that cannot be imported are digests
    SeparatePickler.table        --> digest: the pickle of that class or function
    loads(bytes, table)          --> the object

No two objects share a part after this, so that it does not matter which of them are pickled by one process: a member of
a world behaves the same wherever it lives. A class of `__main__` takes some kilobytes, which each of thousands of
members would repeat otherwise.
"""

import io
import pickle
import threading
import types
from collections.abc import Mapping, Sequence
from typing import Any, Final

from xxhash import xxh3_128_digest

from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.references import is_importable

#: digest of a class or function: its pickle, then its large buffers
Table = Mapping[bytes, Sequence[bytes]]

#: classes and functions that were opened in this process, so that each is the same object for all who refer to it
_opened: Final[dict[bytes, Any]] = {}
#: their digests, so that what was opened here is not pickled as a new one
_digests: Final[dict[int, bytes]] = {}
#: their pickles
_entries: Final[dict[bytes, Sequence[bytes]]] = {}


class _OpenTable(threading.local):
    table: Table = {}  # noqa: RUF012  (never changed)


_open: Final = _OpenTable()


def find_entry(digest: bytes) -> Any:
    """Return the class or function of this digest, while `loads` runs."""
    try:
        return _opened[digest]
    except KeyError:
        body, *buffers = _open.table[digest]
        thing = pickles.loads_result(body, [bytearray(buffer) for buffer in buffers])
        _remember(digest, thing, (body, *buffers))
        return _opened[digest]


def _remember(digest: bytes, thing: Any, entry: Sequence[bytes]) -> None:
    _opened.setdefault(digest, thing)
    _digests.setdefault(id(thing), digest)  # it is kept alive by `_opened`, so no other object gets its id
    _entries.setdefault(digest, entry)


class SeparatePickler:
    """Pickles objects one by one.

    Args:
        table: of earlier pickles, to which entries are added; None: a new one.
    """

    def __init__(self, table: dict[bytes, Sequence[bytes]] | None = None) -> None:
        self.table: dict[bytes, Sequence[bytes]] = {} if table is None else table
        self._stream = io.BytesIO()
        self._pickler: _TablePickler | None = None  # one for all, as making one takes a third of the time

    def dumps(self, thing: Any) -> bytes:
        """Pickle an object. Raises whatever its own pickling raises."""
        stream, pickler = self._stream, self._pickler
        self._pickler = None  # not used again after an error, nor by an object that pickles others while it is pickled
        if pickler is None:
            stream = self._stream = io.BytesIO()
            pickler = _TablePickler(stream, self)
        try:
            pickler.dump(thing)
        except (pickle.PicklingError, TypeError, AttributeError):
            # It has a part that only the other pickler knows, which repeats classes in each pickle.
            body, buffers = pickles.dumps(thing, least_bytes=pickles.OUT_OF_BAND_BYTES)
            return body if not buffers else pickle.dumps(_Whole(body, buffers), 5)
        body = stream.getvalue()
        pickler.clear_memo()
        stream.seek(0)
        stream.truncate()
        self._stream, self._pickler = stream, pickler
        return body

    def digest_of(self, thing: Any) -> bytes:
        """Return the digest of a class or function; add it to the table."""
        digest = _digests.get(id(thing))
        if digest is None or _opened.get(digest) is not thing:
            body, buffers = pickles.dumps(thing)
            entry = (body, *map(bytes, buffers))
            digest = xxh3_128_digest(b"".join(entry))
            _opened[digest] = thing
            _digests[id(thing)] = digest
            _entries[digest] = entry
        self.table[digest] = _entries[digest]
        return digest


class _Whole:
    """An object whose large buffers are beside its pickle."""

    def __init__(self, body: bytes, buffers: Sequence[memoryview]) -> None:
        self._parts = body, [bytes(buffer) for buffer in buffers]

    def __reduce__(self) -> tuple[Any, ...]:
        return load_whole, self._parts


def load_whole(body: bytes, buffers: Sequence[bytes]) -> Any:
    """Unpickle an object with its large buffers, which it may change."""
    return pickles.loads_result(body, [bytearray(buffer) for buffer in buffers])


class _TablePickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, owner: SeparatePickler) -> None:
        super().__init__(stream, 5)
        self._owner = owner
        self._digests: dict[Any, bytes | None] = {}  # of classes and functions; None: it can be imported

    def reducer_override(self, thing: Any) -> Any:
        if not isinstance(thing, (type, types.FunctionType)):
            return NotImplemented
        try:
            digest = self._digests[thing]
        except KeyError:
            digest = self._digests[thing] = None if is_importable(thing) else self._owner.digest_of(thing)
        return NotImplemented if digest is None else (find_entry, (digest,))


def loads(body: bytes, table: Table) -> Any:
    """Unpickle an object of `SeparatePickler.dumps`.

    Raises whatever unpickling raises.
    """
    _open.table = table
    return pickle.loads(body)


def loads_all(bodies: Sequence[bytes], table: Table) -> list[Any]:
    """Unpickle many objects of `SeparatePickler.dumps`. Raises as `loads`."""
    _open.table = table
    return [pickle.loads(body) for body in bodies]
