"""The lines of notebook cells that functions were defined in, for tracebacks."""

import linecache
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from concurrent_nb.shipping.serialization.references import attribute_of, is_importable, references


def unwrapped(value: Any) -> Any:
    """Return the function in a task function, or in another object that wraps one as functools does; else the value."""
    inner = attribute_of(value, "__wrapped__") if not isinstance(value, type) else None
    return inner if isinstance(inner, types.FunctionType) else value


def text_of(filename: str) -> str | None:
    """Return the text of a notebook cell, which has the name of a file; None for real files."""
    entry = linecache.cache.get(filename)
    return "".join(entry[2]) if entry is not None and len(entry) == 4 and entry[1] is None else None


def codes_in(values: Iterable[Any]) -> Iterator[types.CodeType]:
    """Yield the code of the functions that travel by value, among `values` and in them."""
    todo = list(values)
    seen: set[int] = set()
    while todo and len(seen) < 1000:
        value = unwrapped(todo.pop())
        if id(value) in seen or not isinstance(value, (types.FunctionType, type, types.MethodType)):
            continue
        seen.add(id(value))
        if isinstance(value, types.FunctionType) and not is_importable(value):
            yield value.__code__
        todo += [part for _, _, part in references(value)]


def keep_lines(sources: Mapping[str, str]) -> None:
    """Register texts with linecache, where tracebacks find their lines.

    Args:
        sources: texts by the filename of their code.
    """
    linecache.cache.update({name: lines_entry(name, text) for name, text in sources.items()})


def lines_entry(filename: str, text: str) -> tuple[int, None, list[str], str]:
    """Return linecache's entry of a file; without a modification time it is not checked on disk."""
    return len(text), None, [f"{line}\n" for line in text.splitlines()], filename
