"""What worker pools in the process of a test have instead of shared memory: errors where a master offers some."""

from collections.abc import Sequence

from concurrent_nb.wire.codec import Buffer, Buffers
from concurrent_nb.wire.messages import Slice


class UnsharedPool:
    """Raises for what can only come from a master that shares memory with its slave."""

    def add_segment(self, segment: bytes, pid: int, fd: int, size: int) -> None:
        """Raise AssertionError."""
        raise AssertionError(f"segment {segment.hex()[:8]} was announced to a pool that shares no memory")

    def drop_segments(self, segments: Sequence[bytes]) -> None:
        """Raise AssertionError: no segment was announced."""
        raise AssertionError(f"{len(segments)} segments are to be dropped by a pool that shares no memory")

    def release(self, slices: Sequence[Slice], *, clean: bool) -> None:
        """Raise AssertionError for any slice: none was lent."""
        if slices:
            raise AssertionError(f"{len(slices)} slices were released to a pool that shares no memory")

    def hold_notes(self, hold: bool) -> None:
        """Do nothing: no task sends notes here."""


def travelled(buffers: Sequence[Buffer | Slice]) -> Buffers:
    """Return the buffers; none may lie in shared memory."""
    assert not any(isinstance(buffer, Slice) for buffer in buffers)
    return [buffer for buffer in buffers if not isinstance(buffer, Slice)]
