"""Snapshots of what is sent: an application's side of shared memory."""

from collections.abc import Sequence

from concurrent_nb.objects.segments import is_available
from concurrent_nb.objects.store import Lease, Store
from concurrent_nb.shipping.pickles import OUT_OF_BAND_BYTES
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer


def lay_down(
    store: Store, body: bytes, buffers: Sequence[memoryview]
) -> tuple[bytes, Sequence[Buffer | m.Slice], Lease | None]:
    """Take a snapshot of a pickle's buffers: in shared memory, or as copies on systems that have none.

    Gives the pickle (empty if it is the first of the parts), the parts, and what keeps those in shared memory.
    """
    if not is_available():
        return body, [bytes(buffer) for buffer in buffers], None
    is_long = len(body) >= OUT_OF_BAND_BYTES
    laid: list[Buffer | m.Slice] = []
    slices: list[m.Slice] = []
    for part in (memoryview(body), *buffers) if is_long else buffers:
        slice_ = store.place(part)
        laid.append(bytes(part) if slice_ is None else slice_)
        if slice_ is not None:
            slices.append(slice_)
    return b"" if is_long else body, laid, Lease(store, slices) if slices else None
