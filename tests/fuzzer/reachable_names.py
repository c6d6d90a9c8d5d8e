"""Find names in everything that can be reached from an object, such as the names of peers that have left.

New state of a core is searched without a change here.
"""

import types
import weakref
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import msgspec

#: longer bytes are payloads, and are not searched
SEARCHED_BYTES: Final = 4096
_PLAIN: Final = (int, float, bool, type(None), complex)
_OPAQUE: Final = (
    type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, weakref.ref, memoryview,
    msgspec.msgpack.Decoder, msgspec.msgpack.Encoder,
)  # fmt: skip


def find_names(root: Any, name: str, needles: Mapping[bytes, str]) -> tuple[list[str], int]:
    """Return the places that hold one of the needles, and the number of objects that can be reached.

    Args:
        root: the object where the search starts.
        name: of the root, in the result.
        needles: names to find, each with its description for the result. Text is searched, too.
    """
    found: list[str] = []
    seen: set[int] = set()
    todo: deque[tuple[Any, str]] = deque([(root, name)])
    count = 0
    while todo:
        value, path = todo.pop()
        if isinstance(value, (*_PLAIN, *_OPAQUE)):
            continue
        if isinstance(value, bytes | bytearray | str):
            if len(value) <= SEARCHED_BYTES:
                raw = value.encode(errors="replace") if isinstance(value, str) else value
                found += [f"{path}: {what}" for needle, what in needles.items() if needle in raw]
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        count += 1
        todo.extend(_inner(value, path))
    return found, count


def _inner(value: Any, path: str) -> Iterator[tuple[Any, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key, f"{path}.keys()"
            yield item, f"{path}[{_short(key)}]"
    elif isinstance(value, list | tuple | set | frozenset | deque) or (
        isinstance(value, Collection) and not isinstance(value, msgspec.Struct)
    ):
        for item in value:
            yield item, f"{path}[]"
    for name in _attributes(value):
        yield getattr(value, name, None), f"{path}.{name}"


def _attributes(value: Any) -> Iterator[str]:
    yield from getattr(value, "__dict__", ())
    if isinstance(value, msgspec.Struct):
        yield from value.__struct_fields__
        return
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        yield from (name for name in ((slots,) if isinstance(slots, str) else slots) if name != "__weakref__")


def _short(key: Any) -> str:
    if isinstance(key, bytes):
        return key[:4].hex()
    return str(key)[:20] if isinstance(key, str | int) else type(key).__name__
