"""What crews of one process have instead of shared memory: nobody tells them of any."""

from collections.abc import Sequence

from concurrent_nb.wire.codec import Buffer, Buffers
from concurrent_nb.wire.messages import Slice


class UnsharedPool:
    """Refuse what can only come from a master that shares memory with its slave."""

    def add_segment(self, segment: bytes, pid: int, fd: int, size: int) -> None:
        """Refuse a segment."""
        raise AssertionError(f"segment {segment.hex()[:8]} was introduced to a crew that shares no memory")

    def drop_segments(self, segments: Sequence[bytes]) -> None:
        """Refuse to forget what was never known."""
        raise AssertionError(f"{len(segments)} segments are to be dropped by a crew that shares no memory")

    def release(self, slices: Sequence[Slice], *, clean: bool) -> None:
        """Take nothing back, because nothing was lent."""
        if slices:
            raise AssertionError(f"{len(slices)} slices were released to a crew that shares no memory")

    def hold_notes(self, hold: bool) -> None:
        """Do nothing: no task sends notes here."""


def travelled(buffers: Sequence[Buffer | Slice]) -> Buffers:
    """Give buffers of which none lies in shared memory."""
    assert not any(isinstance(buffer, Slice) for buffer in buffers)
    return [buffer for buffer in buffers if not isinstance(buffer, Slice)]
