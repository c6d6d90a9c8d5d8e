"""Functions that have captured arrays: changes that one call makes to them are undone before the next.

    application: dumps(function)    large buffers leave the pickle, as always; small ones are gathered, to be compared
    worker:      loads(...)         a `Restoring`, which undoes changes of the buffers before each call

Only the memory of arrays is restored. Other mutable objects that a function has captured, a list for example, stay as
its last call in this worker has left them.
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any, Final

from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.pickles import OUT_OF_BAND_BYTES, Buffer
from concurrent_nb.shipping.serialization.random_streams import Mode

#: small buffers begin at multiples of this, because items of arrays must be aligned
_ALIGNED_BYTES: Final = 16
_READ_ONLY: Final = (
    "large arrays that a function has with it are shared by all tasks of this worker and read-only, because this worker"
    " has no shared memory: hand them over as arguments, or change a copy, as in `a = a.copy()`"
)


class Restoring:
    """A function whose captured arrays are restored before each call.

    Args:
        restore: callables that undo changes of buffers.
        has_read_only: some arrays cannot be restored, and so are read-only.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        restore: Sequence[Callable[[], None]],
        *,
        has_read_only: bool = False,
    ) -> None:
        self.function = function
        self._restore = restore
        self._has_read_only = has_read_only

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Restore the buffers and call the function."""
        for restore in self._restore:
            restore()
        try:
            return self.function(*args, **kwargs)
        except ValueError as error:
            if self._has_read_only and "read-only" in str(error):
                error.add_note(_READ_ONLY)
            raise


class RestorableCopy:
    """A copy of a buffer whose changes can be undone."""

    def __init__(self, original: Buffer) -> None:
        self._original = bytes(original)
        self.own = bytearray(original)

    def restore(self) -> None:
        """Undo changes."""
        if self.own != self._original:
            self.own[:] = self._original


class _Gathered:
    """A pickle whose small buffers are joined to one. It unpickles as the function."""

    def __init__(self, body: bytes, buffers: Sequence[memoryview]) -> None:
        self._body = body
        self._buffers = buffers

    def __reduce__(self) -> tuple[Any, ...]:
        gathered = bytearray()
        sizes: list[int] = []  # 0 for a large one
        for buffer in self._buffers:
            is_small = buffer.nbytes < OUT_OF_BAND_BYTES
            sizes.append(buffer.nbytes if is_small else 0)
            if is_small:
                gathered += buffer
                gathered += bytes(-len(gathered) % _ALIGNED_BYTES)
        large = [pickle.PickleBuffer(buffer) for buffer in self._buffers if buffer.nbytes >= OUT_OF_BAND_BYTES]
        return _open_gathered, (self._body, sizes, pickle.PickleBuffer(gathered), *large)


def _open_gathered(body: bytes, sizes: Sequence[int], gathered: Buffer, *large: Buffer) -> Any:
    # Any other type: the code that opens this function restores the buffer, as it does large ones.
    copy = RestorableCopy(gathered) if type(gathered) is bytearray else None
    small = memoryview(gathered if copy is None else copy.own)
    rest = iter(large)
    buffers: list[Buffer] = []
    at = 0
    for size in sizes:
        buffers.append(small[at : at + size] if size else next(rest))
        at += size + -size % _ALIGNED_BYTES
    function = pickles.loads(body, buffers)
    return function if copy is None else Restoring(function, [copy.restore])


def dumps(function: object, mode: Mode = "keep") -> tuple[bytes, list[memoryview]]:
    """Pickle a function as `pickles.dumps` does, so that changes by its calls can be undone. Raises the same."""
    body, buffers = pickles.dumps(function, mode, least_bytes=1)
    if all(buffer.nbytes >= OUT_OF_BAND_BYTES for buffer in buffers):
        return body, buffers
    out_of_band: list[memoryview] = []
    return pickle.dumps(_Gathered(body, buffers), 5, buffer_callback=pickles.out_of_band_into(out_of_band)), out_of_band


def loads(body: Buffer, buffers: Sequence[Buffer], restore: Sequence[Callable[[], None]], has_read_only: bool) -> Any:
    """Unpickle a function on buffers that `restore` restores."""
    return with_restore(pickles.loads(body, buffers), restore, has_read_only=has_read_only)


def with_restore(function: Any, restore: Sequence[Callable[[], None]], *, has_read_only: bool = False) -> Any:
    """Return a function whose buffers `restore` restores before each call."""
    return Restoring(function, restore, has_read_only=has_read_only) if restore or has_read_only else function


def loads_on_copies(body: Buffer, buffers: Sequence[Buffer]) -> Any:
    """Unpickle a function on copies of its buffers, as a worker does."""
    copies = [RestorableCopy(buffer) for buffer in buffers]
    return loads(body, [copy.own for copy in copies], [copy.restore for copy in copies], False)
