"""Arrays in files that are mapped to be written, as arguments of calls whose writes the caller wants to find there.

    application:  by_file(argument)  --pickle: name of the file, where in it-->  worker: the same part of that file

joblib's own backends pass such arrays this way, so that calls can fill a common array. All others travel by value.
"""

import errno
import mmap
import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

#: modes of `numpy.memmap` in which writes reach the file
_WRITABLE: Final = frozenset({"r+", "w+"})
_CONTAINERS: Final = frozenset({list, tuple, dict})


class MappedFile:
    """Stands for an array in its pickle, which becomes the array again."""

    def __init__(self, array: Any, mapped: Any) -> None:
        self.array = array
        low, high = _bounds(array)
        start = low - _bounds(mapped)[0] + mapped.offset
        inner = array.__array_interface__["data"][0] - low
        self._facts = (str(mapped.filename), array.dtype, array.shape, array.strides, start, high - low, inner)

    def __reduce__(self) -> tuple[Any, ...]:
        return opened, self._facts


def opened(
    name: str, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...], start: int, size: int, at: int
) -> Any:
    """Map a part of a file to be written; return the array in it. For pickles.

    Args:
        start, size: of the part, in bytes.
        at: where in that part the first element of the array is, in bytes.

    Raises OSError if this machine has no such file.
    """
    import numpy as np  # here, because a worker may never need it

    try:
        if os.path.getsize(name) < start + size:  # numpy would extend it
            raise OSError(errno.EINVAL, "it is shorter than the array", name)
        part = np.memmap(name, np.uint8, "r+", start, (size,))
    except OSError as error:
        message = (
            f"an array that calls may write to is in the file {name}, which cannot be used on {socket.gethostname()}"
            f" ({error.strerror}): put it where all machines find it by this name, or open it with mode 'r' or 'c'"
        )
        raise type(error)(error.errno, message) from error
    array: Any = np.ndarray.__new__(np.memmap, shape, dtype, part, at, strides)
    array.filename, array.offset, array.mode = Path(name), start + at, "r+"
    return array


def by_file(things: Iterable[Any]) -> list[Any]:
    """Return arguments, with arrays in writable mapped files replaced by what stands for them in a pickle.

    Those in lists, tuples and dicts are replaced, too. All others are the same objects.
    """
    if (numpy := sys.modules.get("numpy")) is None:
        return list(things)
    known: dict[int, Any] = {}  # so that the same object stays the same one in the pickle
    return [_replaced(thing, numpy, known) for thing in things]


def may_have_files(kinds: Iterable[type]) -> bool:
    """Return whether arguments of these types can be or hold such arrays."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and any(kind in _CONTAINERS or issubclass(kind, numpy.ndarray) for kind in kinds)


def _replaced(thing: Any, numpy: Any, known: dict[int, Any]) -> Any:
    kind = type(thing)
    if kind not in _CONTAINERS and not issubclass(kind, numpy.ndarray):
        return thing
    if id(thing) in known:
        return known[id(thing)]
    known[id(thing)] = found = thing
    if kind is dict:
        values = [_replaced(value, numpy, known) for value in thing.values()]
        if any(new is not old for new, old in zip(values, thing.values(), strict=True)):
            found = dict(zip(thing, values, strict=True))
    elif kind in _CONTAINERS:
        values = [_replaced(value, numpy, known) for value in thing]
        if any(new is not old for new, old in zip(values, thing, strict=True)):
            found = kind(values)
    elif thing.size and (mapped := _mapped_under(thing, numpy)) is not None:
        found = MappedFile(thing, mapped)
    known[id(thing)] = found
    return found


def _mapped_under(array: Any, numpy: Any) -> Any:
    """Return the writable mapped file that an array is a part of; None if it is in memory."""
    while isinstance(array, numpy.ndarray) and not isinstance(array.base, mmap.mmap):
        array = array.base
    is_mapped = isinstance(array, numpy.memmap) and array.mode in _WRITABLE and array.filename is not None
    return array if is_mapped else None


def _bounds(array: Any) -> tuple[int, int]:
    """Return the addresses of an array's first byte and of the one behind its last."""
    low = high = array.__array_interface__["data"][0]
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + array.itemsize
