"""Contents that others have sent once, as the workers of a pool read them."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from concurrent_nb.nodes.common.shared_memory_link import ReceivedContents
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffers, ItemBuffers, slices_of


class SegmentUser(Protocol):
    """What opens segments of shared memory: a pool of workers."""

    def add_segment(self, segment: bytes, pid: int, fd: int, size: int) -> None:
        """Remember how a segment is opened."""

    def drop_segments(self, segments: Sequence[bytes]) -> None:
        """Forget segments to which nothing refers any more."""


class PoolContents(ReceivedContents):
    """Received contents, of which a pool knows each segment of the store before the first slice of it.

    Args:
        store: where contents are stored; None keeps the received buffers, where there is no shared memory.
        pool: the pool.
    """

    def __init__(self, store: ObjectStore | None, pool: SegmentUser) -> None:
        super().__init__(store)
        self._pool = pool
        self._known: set[bytes] = set()  # segments of the store that the pool knows

    def translated(self, sizes: m.Sizes, buffers: Buffers) -> tuple[m.Sizes, Buffers]:
        """Return sizes and buffers in which our own slices replace the peer's; unknown ones stay as they are."""
        sizes, own = super().translated(sizes, buffers)
        if self._store is not None:
            for slice_ in slices_of(sizes):
                handle = self._store.handle(slice_.segment)
                if handle is not None and slice_.segment not in self._known:
                    self._known.add(slice_.segment)
                    self._pool.add_segment(handle.segment, handle.pid, handle.fd, handle.size)
        return sizes, own

    def localized(self, run: m.Assign, buffers: ItemBuffers) -> tuple[m.Assign, ItemBuffers]:
        """Return a run of tasks, and their buffers, with our own slices."""
        if not any(task.sizes for task in run.tasks):
            return run, buffers
        parts = [self.translated(task.sizes, buffers[at] if buffers else ()) for at, task in enumerate(run.tasks)]
        frames = [
            task if sizes is task.sizes else msgspec.structs.replace(task, sizes=sizes)
            for task, (sizes, _) in zip(run.tasks, parts, strict=True)
        ]
        return msgspec.structs.replace(run, tasks=frames), [own for _, own in parts]

    def drop(self, segments: Iterable[bytes]) -> list[bytes]:
        """Forget the contents of a peer's segments, and return segments of ours that are closed by now."""
        closed = super().drop(segments)
        self._known.difference_update(closed)
        self._pool.drop_segments(closed)
        return closed

    def end(self) -> None:
        """Have the pool forget all segments of the store."""
        self._pool.drop_segments(list(self._known))
