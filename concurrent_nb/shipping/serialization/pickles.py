"""Turn Python objects into bytes and back, one way for arguments, results and exceptions.

The C pickler is several times faster than cloudpickle, but it pickles what comes from `__main__` by reference, without
an error, and the worker cannot find it then. So it is used only for objects that are *provably plain*: built from
builtin types, or numpy arrays and scalars without objects. Everything else goes through cloudpickle, which sends what
`__main__` defines by value.

Buffers of at least `OUT_OF_BAND_BYTES` (PEP 574) leave the pickle and travel as frames of their own, uncopied.
"""

import io
import pickle
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from concurrent_nb.shipping.serialization.random_streams import Mode

#: buffers of this size or more travel outside of the pickle
OUT_OF_BAND_BYTES: Final = 64 * 1024
#: more buffers than this stay in the pickle, because a message has room for the sizes of so many (wire/PROTOCOL.md)
OUT_OF_BAND_MAX: Final = 4096
#: containers with more items than this are not searched, but left to cloudpickle
PLAIN_ITEMS: Final = 256
#: fill classes that are unpickled; one of them is in every pickle that holds a class by value
_SETTERS: Final = frozenset({"_class_setstate", "fill_main_class"})
_SETTER: Final = re.compile(b"|".join(name.encode() for name in _SETTERS))
#: ... which is never as small as this
_CLASS_BYTES: Final = 64

Buffer = bytes | bytearray | memoryview

_ATOMS: Final = frozenset({int, float, str, bytes, bool, type(None), complex, type(Ellipsis), range})
#: atoms that have no buffer, never change, and run no code of a user's when they are pickled
SMALL_ATOMS: Final = _ATOMS - {bytes}


def is_small(value: object) -> bool:
    """Say whether a value is one of those, or a tuple of them: it needs no pickle of its own beside others."""
    kind = type(value)
    return kind in SMALL_ATOMS or (kind is tuple and SMALL_ATOMS.issuperset(map(type, value)))  # type: ignore[call-overload]


class Shared:
    """A value that was put where tasks find it. Give it to a task in the place of the value: the task gets the value.

    Made by `ApplicationNode.put`. The value is what it was when it was put, and stays as long as this object does.
    """

    def __init__(self, body: Buffer, buffers: Sequence[Buffer], lease: object, text: str) -> None:
        self._body = body
        self._buffers = buffers
        self._lease = lease
        self._text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return load_shared, tuple(pickle.PickleBuffer(buffer) for buffer in (self._body, *self._buffers))

    def __repr__(self) -> str:
        return f"<shared {self._text}>"


def load_shared(body: Buffer, *buffers: Buffer) -> Any:
    """Give the value of a `Shared`."""
    return pickle.loads(body, buffers=buffers)


_CONTAINERS: Final = frozenset({tuple, list, set, frozenset})


def is_plain(thing: object, budget: int = PLAIN_ITEMS) -> bool:
    """Say whether the C pickler is enough for `thing`: False where it is not, or where finding out would take long."""
    return _budget_after(thing, budget) >= 0


def _budget_after(thing: object, budget: int) -> int:
    """Give what is left of `budget` after looking at `thing`, or -1 if it is not plain."""
    kind = type(thing)
    budget -= 1  # on the way down, so that what contains itself, or is deep, ends the search too
    if kind in _ATOMS or budget < 0:
        return budget
    if kind in _CONTAINERS:
        for item in thing:  # type: ignore[attr-defined]
            if (budget := _budget_after(item, budget)) < 0:
                return -1
        return budget
    if kind is dict:
        for key, value in thing.items():  # type: ignore[attr-defined]
            if (budget := _budget_after(key, budget)) < 0 or (budget := _budget_after(value, budget)) < 0:
                return -1
        return budget
    if kind is Shared:
        return budget
    numpy = sys.modules.get("numpy")
    if numpy is not None and (kind is numpy.ndarray or issubclass(kind, numpy.generic)):
        return budget if not thing.dtype.hasobject else -1  # type: ignore[attr-defined]
    return -1


def dumps(thing: object, mode: Mode = "keep", least_bytes: int = OUT_OF_BAND_BYTES) -> tuple[bytes, list[memoryview]]:
    """Pickle `thing`; return the pickle and the large buffers that were left out of it.

    Args:
        mode: what becomes of generators of random numbers.
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


def out_of_band_into(
    buffers: list[memoryview], least_bytes: int = OUT_OF_BAND_BYTES
) -> Callable[[pickle.PickleBuffer], bool]:
    """Give the `buffer_callback` that leaves large buffers out of a pickle and adds them to `buffers`."""

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
    """Pickle `(args, attributes)`, as `dumps_call` does: the call for a task object. With a shortcut as well.

    None if they are to be `only_plain` and are not.
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


def dumps_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, list[memoryview]]:
    """Pickle the arguments of a call: `args`, or `(args, kwargs)` if there are keywords.

    Called once for each task, so it has a shortcut.
    """
    if kwargs:
        return dumps((args, kwargs))
    for arg in args:
        if type(arg) not in SMALL_ATOMS:
            return dumps(args)
    return pickle.dumps(args, 5), []


def dumps_item(args: tuple[Any, ...], number: int) -> tuple[bytes, list[memoryview]]:
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
    """Unpickle an answer. Classes that are known here stay as they are.

    A class of `__main__` travels by value, there and back, and cloudpickle would put what came back into the class that
    is here: its methods would then see the names of the worker, and no later change of the user's.
    """
    if len(body) < _CLASS_BYTES:
        return pickle.loads(body, buffers=buffers)
    cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
    if cloudpickle is None or _SETTER.search(body) is None:
        return pickle.loads(body, buffers=buffers)
    return _ResultUnpickler(body, buffers, set(cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS)).load()


class _ResultUnpickler(pickle.Unpickler):
    """Fills no class that is `known_classes` already."""

    def __init__(self, body: Buffer, buffers: Sequence[Buffer], known_classes: set[type]) -> None:
        super().__init__(io.BytesIO(body), buffers=buffers)
        self._known_classes = known_classes

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if name not in _SETTERS:
            return found
        return lambda cls, state: cls if cls in self._known_classes else found(cls, state)


def identity(thing: object) -> object:
    """Return `thing`. For a `__reduce__` of what travels as something else, in a module that costs a worker nothing."""
    return thing
