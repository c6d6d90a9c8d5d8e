"""The size of an object's pickle, estimated without pickling it, so that what is too large is refused immediately.

Used by `captured_names`. Arrays and strings are counted exactly, long containers by sample, other objects by their
references. Calls no code of the object, except for `memory_usage` of pandas' objects.
"""

import itertools
import types
from collections.abc import Collection
from typing import Any, Final

from concurrent_nb.shipping.serialization.pickles import Shared
from concurrent_nb.shipping.serialization.references import attribute_of, pickles_itself, references

#: items of one container that are measured; the others are assumed to be like them
SAMPLE: Final = 1000
DEPTH: Final = 12
#: rough size of the pickle of a small object
SMALL_BYTES: Final = 16


def estimate_bytes(thing: Any) -> int:
    """Estimate the size of `thing` in a pickle, in bytes."""
    return _measure(thing, set(), 0)


def _measure(thing: Any, seen: set[int], depth: int) -> int:
    kind = type(thing)
    if kind is int:
        return SMALL_BYTES + int(thing.bit_length() // 8)
    if kind in (float, bool, type(None), complex):
        return SMALL_BYTES
    if id(thing) in seen:
        return SMALL_BYTES
    seen.add(id(thing))
    if isinstance(thing, (bytes, bytearray, str)):
        return SMALL_BYTES + len(thing)
    if (own := _own_bytes(thing)) is not None:
        return SMALL_BYTES + own
    if depth >= DEPTH or isinstance(thing, types.ModuleType | Shared):  # the last is in shared memory already
        return SMALL_BYTES
    if isinstance(thing, dict):
        return _measure_items(thing.keys(), seen, depth) + _measure_items(thing.values(), seen, depth)
    if isinstance(thing, (list, tuple, set, frozenset)):
        return _measure_items(thing, seen, depth)
    if not isinstance(thing, (type, types.FunctionType)) and pickles_itself(kind):
        return SMALL_BYTES  # its attributes may not be in its pickle
    return SMALL_BYTES + sum(_measure(part, seen, depth + 1) for _, _, part in references(thing))


def _measure_items(items: Collection[Any], seen: set[int], depth: int) -> int:
    if len(items) <= SAMPLE:
        return SMALL_BYTES + sum(_measure(item, seen, depth + 1) for item in items)
    # Evenly spread, because the first items are often not like the others.
    step = len(items) // SAMPLE
    measured = [_measure(item, seen, depth + 1) for item in itertools.islice(items, 0, None, step)]
    return SMALL_BYTES + sum(measured) * len(items) // len(measured)


def _own_bytes(thing: Any) -> int | None:
    """Return the size that an array or a table reports; None for other objects."""
    size = attribute_of(thing, "nbytes")
    if isinstance(size, int) and not isinstance(thing, type):
        return size
    if type(thing).__module__ == "array":
        return len(thing) * int(thing.itemsize)
    if type(thing).__module__.startswith("pandas.") and hasattr(thing, "memory_usage"):
        usage = thing.memory_usage(index=True)
        return int(getattr(usage, "sum", lambda: usage)())
    return None


def format_bytes(size: int) -> str:
    """Return a size as text for people.

    >>> format_bytes(3 << 20)
    '3.0 MiB'
    """
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
