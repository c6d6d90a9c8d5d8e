"""Shared memory between nodes: what a peer has been told of it, and what is done where a peer is on another host.

Each hop is a matter between two nodes. Where both can open each other's descriptors, a buffer is a slice, and its
segment is introduced once in a session, before the first slice of it. Where they cannot, it travels as frames.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from concurrent_nb.objects.segments import CannotOpen, Handle
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Buffers, joined, slices_of, split_off
from concurrent_nb.wire.session import Session


class Memory(Protocol):
    """Segments that are open in this process: its own, or those of others."""

    def handle(self, segment: bytes) -> Handle | None:
        """Say how others open a segment; None if it is not open here."""

    def read(self, slice_: m.Slice) -> Buffer:
        """Copy a slice. Raises CannotOpen."""


class Shelf(Memory, Protocol):
    """Segments of others. `objects.shelf.Shelf` has it."""

    def add(self, handle: Handle) -> None:
        """Open a segment. Raises CannotOpen."""

    def drop(self, segments: Sequence[bytes]) -> None:
        """Close segments."""


class EmptyShelf:
    """The shelf of a node that shares no memory."""

    def handle(self, segment: bytes) -> Handle | None:
        """Say that it is not open here."""
        return None

    def read(self, slice_: m.Slice) -> Buffer:
        """Say that it is not here."""
        raise CannotOpen(f"segment {slice_.segment.hex()[:8]}: this node shares no memory")

    def add(self, handle: Handle) -> None:
        """Refuse it."""
        raise CannotOpen(f"segment {handle.segment.hex()[:8]}: this node shares no memory")

    def drop(self, segments: Sequence[bytes]) -> None:
        """Do nothing: there is none."""


class Introductions:
    """What one peer knows of our shared memory, in one session.

    Args:
        session: with the peer.
        memory: what we have.
        shares: whether the peer can open it.
    """

    def __init__(self, session: Session, memory: Memory, shares: bool = False) -> None:
        self._session = session
        self._memory = memory
        self._known: set[bytes] = set()
        self.shares = shares

    def outgoing(self, sizes: m.Sizes, buffers: Buffers) -> tuple[m.Sizes, Buffers]:
        """Give sizes and buffers as this peer can take them; to be called before they are sent.

        Raises CannotOpen for a slice of a segment that is not open here.
        """
        slices = slices_of(sizes)
        if not slices:
            return sizes, buffers
        if not self.shares:
            return split_off(joined(sizes, buffers, self._memory.read))
        for segment in {slice_.segment for slice_ in slices} - self._known:
            handle = self._memory.handle(segment)
            if handle is not None:  # the peer will say what it misses
                self._session.send(m.Segment(segment, handle.pid, handle.fd, handle.size))
                self._known.add(segment)
        return sizes, buffers

    def dropped(self, segments: Iterable[bytes]) -> bool:
        """Tell the peer of segments that are gone; say whether it knew any."""
        known = [segment for segment in segments if segment in self._known]
        self._known.difference_update(known)
        if known:
            self._session.send(m.DropSegments(known))
        return bool(known)
