"""Values that are pickled when they are sealed, and unpickled only where they are opened.

So a message for many receivers may have a part for each, and no receiver unpickles the parts of others. Large parts
travel beside the pickle of the message, as any buffers do; where memory is shared, no other receiver reads them.
"""

import pickle
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.pickles import Buffer

T = TypeVar("T")


class Sealed(Generic[T]):
    """A value that is opened only where it is needed. Make one with `seal`."""

    def __init__(self, body: Buffer, buffers: Sequence[Buffer]) -> None:
        self._body = body
        self._buffers = buffers

    def open(self) -> T:
        """Return the value; arrays in it share memory with the message. Raises whatever unpickling raises."""
        value: T = pickles.loads(self._body, self._buffers)
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return unseal, tuple(pickle.PickleBuffer(buffer) for buffer in (self._body, *self._buffers))


def seal(value: T) -> Sealed[T]:
    """Pickle a value. Raises whatever pickling raises."""
    return Sealed(*pickles.dumps(value))


def unseal(body: Buffer, *buffers: Buffer) -> Sealed[Any]:
    """Return what has travelled."""
    return Sealed(body, buffers)
