"""Shared memory between two nodes: what was announced or sent to a peer, and what to do if it is on another host.

If both nodes can open each other's descriptors, a buffer travels as a slice, and its segment is announced once in a
session, before its first slice. If they cannot, the content of the buffer travels as frames.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Final, Protocol

from concurrent_nb.errors import TooLarge
from concurrent_nb.nodes.common.size_limits import too_large
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.tasks.shared_objects import object_id
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Buffers, joined, length, slices_of, split_off
from concurrent_nb.wire.session import Session

#: what a content costs besides its bytes
_RECORD_BYTES: Final = 300

#: called with the slices whose content was sent to a peer, and the names (`object_id`) of what it no longer has
ContentsChanged = Callable[[Sequence[m.Slice], Sequence[bytes]], None]


def cost_of(slice_: m.Slice) -> int:
    """Return how many bytes a slice costs a node that receives its content."""
    return slice_.size + _RECORD_BYTES


class OpenSegments(Protocol):
    """Segments that are open in this process: its own, or those of its peers."""

    def handle(self, segment: bytes) -> SegmentHandle | None:
        """Return how peers open a segment; None if it is not open here."""

    def read(self, slice_: m.Slice) -> Buffer:
        """Return a copy of a slice. Raises CannotOpen."""


class PeerSegments(OpenSegments, Protocol):
    """Segments of peers, as `object_store.segment_reader.SegmentReader` keeps them open."""

    def add(self, handle: SegmentHandle) -> None:
        """Open a segment. Raises CannotOpen."""

    def drop(self, segments: Sequence[bytes]) -> None:
        """Close segments."""


class NullSegmentReader:
    """The segment reader of a node that shares no memory."""

    def handle(self, segment: bytes) -> SegmentHandle | None:
        """Return None: no segment is open."""
        return None

    def read(self, slice_: m.Slice) -> Buffer:
        """Raise CannotOpen."""
        raise CannotOpen(f"segment {slice_.segment.hex()[:8]}: this node shares no memory")

    def add(self, handle: SegmentHandle) -> None:
        """Raise CannotOpen."""
        raise CannotOpen(f"segment {handle.segment.hex()[:8]}: this node shares no memory")

    def drop(self, segments: Sequence[bytes]) -> None:
        """Do nothing."""


class MergedSegments:
    """All segments that are open in this process: its own, and those of its peers."""

    def __init__(self, peers: OpenSegments, store: ObjectStore | None) -> None:
        self._peers = peers
        self._store = store

    def handle(self, segment: bytes) -> SegmentHandle | None:
        """Return how peers open a segment; None if it is not open here."""
        own = None if self._store is None else self._store.handle(segment)
        return own or self._peers.handle(segment)

    def read(self, slice_: m.Slice) -> Buffer:
        """Return a copy of a slice. Raises CannotOpen."""
        if self._store is not None and self._store.handle(slice_.segment) is not None:
            return self._store.read(slice_)
        return self._peers.read(slice_)


class AnnouncedSegments:
    """What one peer has of our shared memory, in one session.

    Args:
        session: the session with the peer.
        memory: the segments that are open here.
        shares: whether the peer can open them.
        contents_changed: called when a peer that cannot open them gets or loses a content.
        most_bytes: limit of what is copied at once for a peer that cannot open them; None for no limit.
    """

    def __init__(
        self,
        session: Session,
        memory: OpenSegments,
        shares: bool = False,
        contents_changed: ContentsChanged | None = None,
        most_bytes: int | None = None,
    ) -> None:
        self._session = session
        self._memory = memory
        self._contents_changed = contents_changed
        self._most_bytes = most_bytes
        self._announced: set[bytes] = set()  # segments that the peer knows
        self._contents: dict[tuple[bytes, int], m.Slice] = {}  # whose content it has, by place: segment and offset
        self.content_bytes = 0  #: what those cost
        self.shares = shares

    def share(self, shares: bool) -> None:
        """Note whether the peer can open our memory. On a change, forget what was sent to it so far."""
        if shares != self.shares:
            self.shares = shares
            self._announced.clear()
            self._contents.clear()
            self.content_bytes = 0

    def outgoing(self, sizes: m.Sizes, buffers: Buffers, *, once: bool = False) -> tuple[m.Sizes, Buffers]:
        """Return sizes and buffers as this peer can take them; to be called before they are sent.

        Args:
            sizes: of each buffer: its length, or its slice.
            buffers: those that are not in shared memory.
            once: a peer that cannot open our memory gets the content of each slice once, and keeps it. For what many
                tasks may refer to, so not for results.

        Raises CannotOpen for a slice of a segment that is not open here, TooLarge above the limit.
        """
        slices = slices_of(sizes)
        if not slices:
            return sizes, buffers
        if not self.shares:
            size = self.bytes_to_send(slices) if once else sum(slice_.size for slice_ in slices)
            if self._most_bytes is not None and size > self._most_bytes:
                text = too_large("what lies in shared memory", size, self._most_bytes, "object_bytes")
                raise TooLarge(text, size, self._most_bytes)
            if not once:
                return split_off(joined(sizes, buffers, self._memory.read))
            self._send_contents(slices)
            return sizes, buffers
        for segment in {slice_.segment for slice_ in slices} - self._announced:
            handle = self._memory.handle(segment)
            if handle is not None:  # else the peer reports what it lacks
                self._session.send(m.Segment(segment, handle.pid, handle.fd, handle.size))
                self._announced.add(segment)
        return sizes, buffers

    def _send_contents(self, slices: Iterable[m.Slice]) -> None:
        for slice_ in slices:
            place = slice_.segment, slice_.offset
            former = self._contents.get(place)
            if former is None or former.serial != slice_.serial:
                data = self._memory.read(slice_)
                self._session.send(m.Content(*place, slice_.serial, b"", (slice_.size,)), [[data]])
                if self._contents_changed is not None:
                    gone = [] if former is None else [object_id(*place, former.serial)]
                    self._contents_changed([slice_], gone)
                self._contents[place] = slice_
                self.content_bytes += cost_of(slice_) - (0 if former is None else cost_of(former))
                self._announced.add(slice_.segment)

    def bytes_to_send(self, slices: Iterable[m.Slice]) -> int:
        """Return the cost in bytes of the contents that `outgoing` would send once for these slices."""
        if self.shares:
            return 0
        places = {(slice_.segment, slice_.offset): slice_ for slice_ in slices}
        return sum([cost_of(slice_) for place, slice_ in places.items() if self._contents.get(place) != slice_])

    def segments_with(self, slices: Iterable[m.Slice]) -> int:
        """Return how many of our segments the peer would have open after `outgoing` for these slices."""
        if not self.shares:
            return 0
        return len(self._announced) + len({slice_.segment for slice_ in slices} - self._announced)

    def drop_unused(self, in_use: Container[bytes]) -> bool:
        """Have the peer drop all segments but those `in_use`; they are announced again when they are needed."""
        return self.dropped([segment for segment in self._announced if segment not in in_use])

    def dropped(self, segments: Iterable[bytes]) -> bool:
        """Have the peer drop segments that are closed here. Returns whether it knew any of them."""
        known = {segment for segment in segments if segment in self._announced}
        if not known:
            return False
        self._announced.difference_update(known)
        gone = [self._contents.pop(place) for place in list(self._contents) if place[0] in known]
        self.content_bytes -= sum(map(cost_of, gone))
        if gone and self._contents_changed is not None:
            names = [object_id(slice_.segment, slice_.offset, slice_.serial) for slice_ in gone]
            self._contents_changed([], names)
        self._session.send(m.DropSegments(list(known)))
        return True


class ReceivedContents:
    """Contents that peers on other hosts have sent once: stored here, so that they need not travel again.

    Args:
        store: where they are stored; None keeps the received buffers, where there is no shared memory.
    """

    def __init__(self, store: ObjectStore | None) -> None:
        self._store = store
        # By place: the peer's slice, and what is here instead.
        self._here: dict[tuple[bytes, int], tuple[m.Slice, m.Slice | Buffer]] = {}
        self.size_bytes = 0  #: what all of them cost

    def took(self, content: m.Content, buffers: Buffers) -> None:
        """Keep the content of a peer's slice; it replaces an older content of the same place."""
        data = content.body or buffers[0]
        theirs = m.Slice(content.segment, content.offset, length(data), content.serial)
        here = None if self._store is None else self._store.put(memoryview(data))
        place = content.segment, content.offset
        self._forget(place, clean=True)  # the peer reuses a place only if nothing refers to its old content
        self._here[place] = theirs, data if here is None else here
        self.size_bytes += cost_of(theirs)

    def has(self, slice_: m.Slice) -> bool:
        """Return whether the content of a peer's slice is here."""
        known = self._here.get((slice_.segment, slice_.offset))
        return known is not None and known[0] == slice_

    def translated(self, sizes: m.Sizes, buffers: Buffers) -> tuple[m.Sizes, Buffers]:
        """Return sizes and buffers in which our own slices replace the peer's; unknown ones stay as they are."""
        if not self._here or not any(self.has(slice_) for slice_ in slices_of(sizes)):
            return sizes, buffers
        return split_off(joined(sizes, buffers, self._translate))

    def _translate(self, slice_: m.Slice) -> m.Slice | Buffer:
        return self._here[slice_.segment, slice_.offset][1] if self.has(slice_) else slice_

    def drop(self, segments: Iterable[bytes]) -> list[bytes]:
        """Forget the contents of a peer's segments. Returns segments of ours that are closed by now."""
        gone = set(segments)
        for place in [place for place in self._here if place[0] in gone]:
            self._forget(place, clean=False)
        return [] if self._store is None else self._store.tidy()

    def drop_all(self) -> list[bytes]:
        """Forget all contents. Returns segments of ours that are closed by now."""
        return self.drop([segment for segment, _ in self._here])

    def _forget(self, place: tuple[bytes, int], *, clean: bool) -> None:
        theirs, here = self._here.pop(place, (None, b""))
        if theirs is not None:
            self.size_bytes -= cost_of(theirs)
        if isinstance(here, m.Slice) and self._store is not None:
            self._store.release([here], clean=clean)
