"""What a task of `ApplicationNode.reduce` runs."""

import functools
from collections.abc import Callable
from typing import Any


def folding(fn: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return a function that combines its arguments by `fn`, from left to right. It is pickled once, with `fn`."""

    def fold(*values: Any) -> Any:
        return functools.reduce(fn, values)

    return fold
