"""The lines of the notebook that functions were made from: found here, and kept where a traceback needs them."""

import linecache
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from concurrent_nb.shipping.serialization.references import is_importable, references


def unwrapped(value: Any) -> Any:
    """Give the function in a task function, or in another object that wraps one as functools does."""
    inner = getattr(value, "__wrapped__", None) if not isinstance(value, type) else None
    return inner if isinstance(inner, types.FunctionType) else value


def text_of(filename: str) -> str | None:
    """Give the text of a file that is none: a cell of the notebook. None for any other."""
    entry = linecache.cache.get(filename)
    return "".join(entry[2]) if entry is not None and len(entry) == 4 and entry[1] is None else None


def codes_in(values: Iterable[Any]) -> Iterator[types.CodeType]:
    """Give the code of the functions among `values`, and in them, that travel by value."""
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
    """Let tracebacks find the lines of files that are none.

    Args:
        sources: text by the name that the code has for its file.
    """
    linecache.cache.update({name: lines_entry(name, text) for name, text in sources.items()})


def lines_entry(filename: str, text: str) -> tuple[int, None, list[str], str]:
    """Give what linecache keeps of a file; without a time of change it is not looked for on disk."""
    return len(text), None, [f"{line}\n" for line in text.splitlines()], filename
