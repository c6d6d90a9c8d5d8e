"""What a task of `ApplicationNode.reduce` runs."""

import functools
from collections.abc import Callable
from typing import Any


def folding(fn: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return a function that combines its arguments by `fn`, from left to right. It is pickled once, with `fn`.

    It has the name of `fn`, by which people know its tasks.
    """

    def fold(*values: Any) -> Any:
        return functools.reduce(fn, values)

    name = getattr(fn, "__qualname__", None)
    if isinstance(name, str):
        fold.__qualname__ = name
    return fold
