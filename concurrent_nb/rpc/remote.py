"""The mark on a method that may be called remotely. The registry reads it; methods without it cannot be called."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeVar

from concurrent_nb.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])

_ATTRIBUTE = "__remote__"


class Mark(NamedTuple):
    """The arguments of `@remote` for a method."""

    roles: frozenset[str]
    doc: str


def remote(*, roles: Collection[str], doc: str = "") -> Callable[[F], F]:
    """Allow callers whose token has one of `roles` to call a method.

    Introspection shows `doc`, or else the docstring. The method itself is not changed. Its parameters need annotations,
    against which arguments are checked. If the first one is a `Caller`, it receives the caller.

    Raises ConfigurationError if `roles` is empty or a string.

    >>> class Master:
    ...     @remote(roles=["admin"])
    ...     def scale(self, workers: int) -> int:
    ...         "Set the number of workers."
    ...         return workers
    """
    if isinstance(roles, str) or not roles or not all(roles):
        raise ConfigurationError(f"@remote needs a list of the roles that may call, not {roles!r}")

    def mark(function: F) -> F:
        text = doc or function.__doc__ or ""
        setattr(function, _ATTRIBUTE, Mark(frozenset(roles), " ".join(text.split())))
        return function

    return mark


def mark_of(function: object) -> Mark | None:
    """Return the mark of a function or method, None if it is not remote."""
    mark = getattr(function, _ATTRIBUTE, None)
    return mark if isinstance(mark, Mark) else None
