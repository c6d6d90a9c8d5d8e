"""The mark on a method that may be called from outside. The registry reads it; without it a method is not reachable."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeVar

from concurrent_nb.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])

_ATTRIBUTE = "__remote__"


class Mark(NamedTuple):
    """What `@remote` says about a method."""

    roles: frozenset[str]
    doc: str


def remote(*, roles: Collection[str], doc: str = "") -> Callable[[F], F]:
    """Offer a method to callers whose token has one of `roles`; nobody else may call it.

    `doc` is what the introspection tells; without it, the docstring. The method itself is returned as it was. Its
    parameters need annotations, because arguments are checked against them. If the first one is a `Caller`, it gets
    who calls.

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
    """Give the mark of a function or method, None if it is not remote."""
    mark = getattr(function, _ATTRIBUTE, None)
    return mark if isinstance(mark, Mark) else None
