"""Pickles of many objects, each by itself, with what they have in common once.

    SeparatePickler.dumps(thing) --> bytes, in which classes and functions that cannot be imported are digests
    SeparatePickler.table        --> digest: the pickle of that class or function
    loads(bytes, table)          --> the object
    copy_of(thing)               --> another one, as if it had travelled

No two objects share a part after this, so that it does not matter which of them are pickled by one process: a member of
a world behaves the same wherever it lives. A class of `__main__` takes some kilobytes, which each of thousands of
members would repeat otherwise. A function with a state of its own (a closure, attributes) is a part of its object.
"""

import io
import pickle
import threading
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from xxhash import xxh3_128_digest

from concurrent_nb.shipping.serialization import pickles, task_main
from concurrent_nb.shipping.serialization.references import is_importable

#: digest of a class or function: its pickle, then its large buffers
Table = Mapping[bytes, Sequence[bytes]]

#: classes and functions that were opened in this process, so that each is the same object for all who refer to it
_opened: Final[dict[bytes, Any]] = {}
#: digests of those that came from elsewhere, so that they are not pickled as new ones
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
        # In a worker a class that its user has changed since it came the last time is changed, too.
        load = pickles.loads_result if task_main.CURRENT.module is None else pickles.loads
        thing = load(body, [bytearray(buffer) for buffer in buffers])
        _opened[digest] = thing
        _digests[id(thing)] = digest  # it is kept alive by `_opened`, so no other object gets its id
        _entries[digest] = (body, *buffers)
        return thing


class SeparatePickler:
    """Pickles objects one by one.

    Args:
        table: of earlier pickles, to which entries are added; None: a new one.
    """

    def __init__(self, table: dict[bytes, Sequence[bytes]] | None = None) -> None:
        self.table: dict[bytes, Sequence[bytes]] = {} if table is None else table
        self._own: dict[int, tuple[Any, bytes]] = {}  # of this process: what, so that its id is not used again; digest
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
            return self._dumps_by_value(thing)  # it has a part that only the other pickler knows
        body = stream.getvalue()
        pickler.clear_memo()
        stream.seek(0)
        stream.truncate()
        self._stream, self._pickler = stream, pickler
        return body

    def _dumps_by_value(self, thing: Any) -> bytes:
        buffers: list[memoryview] = []
        stream = io.BytesIO()
        _value_pickler()(stream, self, pickles.out_of_band_into(buffers)).dump(thing)
        body = stream.getvalue()
        return body if not buffers else pickle.dumps(_Whole(body, buffers), 5)

    def digest_of(self, thing: Any) -> bytes:
        """Return the digest of a class or function; add it to the table.

        One that was defined here is pickled anew by each pickler, because it may have been changed, or a variable that
        it uses.
        """
        digest = _digests.get(id(thing))
        if digest is None or _opened.get(digest) is not thing:
            _, digest = self._own.get(id(thing), (None, None))
        if digest is None:
            body, buffers = pickles.dumps(thing)
            entry = (body, *map(bytes, buffers))
            digest = xxh3_128_digest(b"".join(entry))
            self._own[id(thing)] = thing, digest
            _opened[digest], _entries[digest] = thing, entry
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
            digest = self._digests[thing] = None if is_importable(thing) else self._digest_of(thing)
        return NotImplemented if digest is None else (find_entry, (digest,))

    def _digest_of(self, thing: Any) -> bytes:
        if isinstance(thing, types.FunctionType) and not _is_stateless(thing):
            raise pickle.PicklingError("it is pickled by value")  # else it might be pickled by its name
        return self._owner.digest_of(thing)


def _is_stateless(function: types.FunctionType) -> bool:
    """Return whether it does not matter if two objects have this same function or one each."""
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return function.__closure__ is None and not vars(function) and all(map(pickles.is_small, defaults))


@cache
def _value_pickler() -> Any:
    """Return a pickler that pickles everything by value, but for classes."""
    from concurrent_nb.shipping.serialization.pickler import Pickler  # here, because it takes 60 ms

    class ValuePickler(Pickler):
        def __init__(self, stream: io.BytesIO, owner: SeparatePickler, keep: Any) -> None:
            super().__init__(stream, keep)
            self._owner = owner

        def reducer_override(self, thing: Any) -> Any:
            if isinstance(thing, type) and not is_importable(thing):
                return find_entry, (self._owner.digest_of(thing),)
            return super().reducer_override(thing)

    return ValuePickler


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


def copy_of(thing: Any) -> Any:
    """Return a copy that shares nothing with `thing`. Raises whatever its own pickling raises."""
    if pickles.is_small(thing):
        return thing
    pickler = SeparatePickler()
    return loads(pickler.dumps(thing), pickler.table)
