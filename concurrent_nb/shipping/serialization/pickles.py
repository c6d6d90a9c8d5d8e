"""Turn Python objects into bytes and back; used for arguments, results and exceptions alike.

The C pickler is several times faster than cloudpickle, but it pickles objects of `__main__` by reference, without an
error, and the worker cannot import them. So it is used only for objects that are *provably plain*: built from
builtin types, or numpy arrays and scalars without objects. Everything else goes through cloudpickle, which sends what
`__main__` defines by value.

Buffers of at least `OUT_OF_BAND_BYTES` (PEP 574) leave the pickle and travel as frames of their own, uncopied.
"""

import io
import pickle
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from concurrent_nb.shipping.serialization.random_streams import Mode

#: buffers of this size or more leave the pickle
OUT_OF_BAND_BYTES: Final = 64 * 1024
#: limit of the buffers that leave a pickle, because a message has room for their sizes (wire/PROTOCOL.md)
OUT_OF_BAND_MAX: Final = 4096
#: containers with more items are not searched, but left to cloudpickle
PLAIN_ITEMS: Final = 256
#: functions that fill unpickled classes; every pickle that holds a class by value names one of them
_SETTERS: Final = frozenset({"_class_setstate", "fill_main_class", "fill_enum", "fill_struct"})
_SETTER_PATTERNS: Final = [re.compile(name.encode()) for name in sorted(_SETTERS)]  # one pattern for all is slower
#: ... and is never smaller than this
_CLASS_BYTES: Final = 64

Buffer = bytes | bytearray | memoryview

_ATOMS: Final = frozenset({int, float, str, bytes, bool, type(None), complex, type(Ellipsis), range})
#: immutable types without buffers, whose pickling runs no user code
SMALL_ATOMS: Final = _ATOMS - {bytes}


def is_small(value: object) -> bool:
    """Return whether a value is a small atom or a tuple of them, so that it needs no pickle of its own."""
    kind = type(value)
    return kind in SMALL_ATOMS or (kind is tuple and SMALL_ATOMS.issuperset(map(type, value)))  # type: ignore[call-overload]


class MemoryLease(Protocol):
    """Keeps shared memory."""

    def end(self, *, clean: bool) -> None:
        """Keep it no longer. `clean`: no process refers to it because of this lease."""


class Shared:
    """A value in shared memory, made by `ApplicationNode.put`.

    As an argument it stands for the value, which the task gets.

    The value is that of the time of `put`. It is kept as long as this object exists.
    """

    def __init__(self, body: Buffer, buffers: Sequence[Buffer], lease: "MemoryLease | None", text: str) -> None:
        self._body = body
        self._buffers = buffers
        self._lease = lease
        self._text = text

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._body:
            raise pickle.PicklingError(f"{self!r} was released: put the value again")
        return load_shared, tuple(pickle.PickleBuffer(buffer) for buffer in (self._body, *self._buffers))

    def release(self) -> None:
        """Let the memory be used again as soon as the tasks have ended that were submitted with this object.

        It cannot be an argument any more. What becomes garbage without this is closed then, and not used again.
        """
        self._body, self._buffers, lease, self._lease = b"", (), self._lease, None
        if lease is not None:
            lease.end(clean=True)

    def __repr__(self) -> str:
        return f"<shared {self._text}>"


def load_shared(body: Buffer, *buffers: Buffer) -> Any:
    """Unpickle the value of a `Shared`."""
    return pickle.loads(body, buffers=buffers)


#: classes of futures: what they are pickled as is plain if their `plain_budget` says so
REFERENCE_TYPES: set[type] = set()

_CONTAINERS: Final = frozenset({tuple, list, set, frozenset})


def is_plain(thing: object, budget: int = PLAIN_ITEMS) -> bool:
    """Return whether the C pickler is sufficient for `thing`; also False where checking would take long."""
    return budget_after(thing, budget) >= 0


def budget_after(thing: object, budget: int) -> int:
    """Return what is left of `budget` after checking `thing`, or -1 if it is not plain."""
    kind = type(thing)
    budget -= 1  # before its items, so that cycles and deep nesting end the search, too
    if kind in _ATOMS or budget < 0:
        return budget
    if kind in _CONTAINERS:
        for item in thing:  # type: ignore[attr-defined]
            if (budget := budget_after(item, budget)) < 0:
                return -1
        return budget
    if kind is dict:
        for key, value in thing.items():  # type: ignore[attr-defined]
            if (budget := budget_after(key, budget)) < 0 or (budget := budget_after(value, budget)) < 0:
                return -1
        return budget
    if kind is Shared:
        return budget
    if kind in REFERENCE_TYPES:
        return thing.plain_budget(budget)  # type: ignore[attr-defined, no-any-return]
    numpy = sys.modules.get("numpy")
    if numpy is not None and (kind is numpy.ndarray or issubclass(kind, numpy.generic)):
        return budget if not thing.dtype.hasobject else -1  # type: ignore[attr-defined]
    return -1


def dumps(thing: object, mode: Mode = "keep", least_bytes: int = OUT_OF_BAND_BYTES) -> tuple[bytes, list[memoryview]]:
    """Pickle `thing`; return the pickle and the large buffers that were left out of it.

    Args:
        mode: how generators of random numbers are pickled.
        least_bytes: smaller buffers stay in the pickle, and so do small ones that are read-only.

    Raises whatever the object's own pickling raises (TypeError, PicklingError, RecursionError, ...).
    """
    kind = type(thing)
    if kind in _ATOMS and kind is not bytes:
        return pickle.dumps(thing, 5), []
    buffers: list[memoryview] = []
    keep = out_of_band_into(buffers, least_bytes)
    if is_plain(thing):
        return pickle.dumps(thing, 5, buffer_callback=keep), buffers
    from concurrent_nb.shipping.serialization import pickler  # here, because it takes 60 ms and many never need it

    return pickler.dumps(thing, keep, mode), buffers


#: pickles a thing, as `dumps` does
Dumps = Callable[[Any], tuple[bytes, list[memoryview]]]


def out_of_band_into(
    buffers: list[memoryview], least_bytes: int = OUT_OF_BAND_BYTES
) -> Callable[[pickle.PickleBuffer], bool]:
    """Return the `buffer_callback` that moves large buffers out of a pickle into `buffers`."""

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous: stays in the pickle
            return True
        if raw.nbytes < least_bytes or (raw.readonly and raw.nbytes < OUT_OF_BAND_BYTES):
            return True
        if len(buffers) >= OUT_OF_BAND_MAX:
            return True
        buffers.append(raw)
        return False

    return keep


def dumps_attributes(
    args: tuple[Any, ...], attributes: object, *, only_plain: bool
) -> tuple[bytes, list[memoryview]] | None:
    """Pickle `(args, attributes)`, the arguments of the call for a task object, as `dumps_call` does.

    Return None if they must be `only_plain` and are not.
    """
    if not args and type(attributes) is dict:
        for value in attributes.values():
            if type(value) not in SMALL_ATOMS:
                break
        else:
            return pickle.dumps((args, attributes), 5), []
    if only_plain and not is_plain((args, attributes)):
        return None
    return dumps_call((args, attributes), {})


def dumps_call(args: tuple[Any, ...], kwargs: dict[str, Any], dumps: Dumps = dumps) -> tuple[bytes, list[memoryview]]:
    """Pickle the arguments of a call: `args`, or `(args, kwargs)` if there are keywords. `dumps` pickles large ones."""
    if kwargs:
        return dumps((args, kwargs))
    body = dumps_small(args)
    return dumps(args) if body is None else (body, [])


def dumps_small(args: tuple[Any, ...]) -> bytes | None:
    """Pickle arguments if all of them are small atoms, as those of most tasks that are short; else return None."""
    for arg in args:
        if type(arg) not in SMALL_ATOMS:
            return None
    return pickle.dumps(args, 5)


def dumps_item(args: tuple[Any, ...], number: int, dumps: Dumps = dumps) -> tuple[bytes, list[memoryview]]:
    """Pickle `(args, number)`: the arguments of an item and its number in the job, as `dumps_call` does."""
    for arg in args:
        if type(arg) not in SMALL_ATOMS:
            return dumps((args, number))
    return pickle.dumps((args, number), 5), []


def loads(body: Buffer, buffers: Sequence[Buffer] = ()) -> Any:
    """Unpickle what `dumps` made. Arrays on `buffers` share their memory.

    Raises whatever unpickling raises (ModuleNotFoundError for a module that is missing here, for example).
    """
    return pickle.loads(body, buffers=buffers)


def loads_result(body: Buffer, buffers: Sequence[Buffer] = ()) -> Any:
    """Unpickle a result. Classes that exist in this process stay unchanged.

    A class of `__main__` travels by value in both directions, and cloudpickle would fill the existing class with what
    came
    back: its methods would then use the globals of the worker, and see no later change of the user's.

    Raises whatever unpickling raises.
    """
    if len(body) < _CLASS_BYTES:
        return pickle.loads(body, buffers=buffers) if buffers else pickle.loads(body)
    cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
    if cloudpickle is None or not any(pattern.search(body) for pattern in _SETTER_PATTERNS):
        return pickle.loads(body, buffers=buffers)
    return _ResultUnpickler(body, buffers, set(cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS)).load()


class _ResultUnpickler(pickle.Unpickler):
    """Leaves the known classes unchanged."""

    def __init__(self, body: Buffer, buffers: Sequence[Buffer], known_classes: set[type]) -> None:
        super().__init__(io.BytesIO(body), buffers=buffers)
        self._known_classes = known_classes

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if name not in _SETTERS:
            return found
        return lambda cls, state: cls if cls in self._known_classes else found(cls, state)
