"""How the master's main thread asks the compute thread, which alone touches the core."""

from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Asks(Protocol):
    """Returns the answer of the compute thread to a question, which it calls with the time."""

    async def __call__(self, question: Callable[[float], T], /) -> T:
        """Return what the question returns, or raise what it raises."""
