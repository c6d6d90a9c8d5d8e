"""Shared memory between nodes: what a peer has been told of it, and what is done where a peer is on another host.

Each hop is a matter between two nodes. Where both can open each other's descriptors, a buffer is a slice, and its
segment is introduced once in a session, before the first slice of it. Where they cannot, it travels as frames.
"""

from collections.abc import Container, Iterable, Sequence
from typing import Final, Protocol

from concurrent_nb.errors import TooLarge
from concurrent_nb.nodes.common.size_limits import too_large
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.tasks.task_record import ObjectSize
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Buffers, joined, length, slices_of, split_off
from concurrent_nb.wire.session import Session

#: what a content costs besides its bytes
_RECORD_BYTES: Final = 300


def cost_of(slice_: m.Slice) -> int:
    """Say how many bytes a slice takes where it is told once."""
    return slice_.size + _RECORD_BYTES


class OpenSegments(Protocol):
    """Segments that are open in this process: its own, or those of others."""

    def handle(self, segment: bytes) -> SegmentHandle | None:
        """Say how others open a segment; None if it is not open here."""

    def read(self, slice_: m.Slice) -> Buffer:
        """Copy a slice. Raises CannotOpen."""


class PeerSegments(OpenSegments, Protocol):
    """Segments of others. `objects.shelf.Shelf` has it."""

    def add(self, handle: SegmentHandle) -> None:
        """Open a segment. Raises CannotOpen."""

    def drop(self, segments: Sequence[bytes]) -> None:
        """Close segments."""


class NullSegmentReader:
    """The shelf of a node that shares no memory."""

    def handle(self, segment: bytes) -> SegmentHandle | None:
        """Say that it is not open here."""
        return None

    def read(self, slice_: m.Slice) -> Buffer:
        """Say that it is not here."""
        raise CannotOpen(f"segment {slice_.segment.hex()[:8]}: this node shares no memory")

    def add(self, handle: SegmentHandle) -> None:
        """Refuse it."""
        raise CannotOpen(f"segment {handle.segment.hex()[:8]}: this node shares no memory")

    def drop(self, segments: Sequence[bytes]) -> None:
        """Do nothing: there is none."""


class ContentObserver(Protocol):
    """Hears what a peer that cannot open our memory has of it."""

    def got(self, slice_: m.Slice) -> None:
        """Note that the peer has this from now on."""

    def forgot(self, objects: Sequence[bytes]) -> None:
        """Note that the peer has these, named as `object_id` does, no longer."""


def object_id(segment: bytes, offset: int, serial: int) -> bytes:
    """Name what lies in a slice. What takes its place has another name."""
    return b"%d/%d/%b" % (offset, serial, segment)


def objects_of(sizes: m.Sizes) -> tuple[ObjectSize, ...]:
    """List what lies in shared memory, each once: its name and its size in bytes."""
    names = {object_id(slice_.segment, slice_.offset, slice_.serial): slice_.size for slice_ in slices_of(sizes)}
    return tuple(names.items())


class AnnouncedSegments:
    """What one peer knows of our shared memory, in one session.

    Args:
        session: with the peer.
        memory: what we have.
        shares: whether the peer can open it.
        holder: hears what the peer has, if it cannot.
        most_bytes: so much is copied at once for a peer that cannot open it; None: whatever is asked for.
    """

    def __init__(
        self,
        session: Session,
        memory: OpenSegments,
        shares: bool = False,
        holder: ContentObserver | None = None,
        most_bytes: int | None = None,
    ) -> None:
        self._session = session
        self._memory = memory
        self._holder = holder
        self._most_bytes = most_bytes
        self._known: set[bytes] = set()
        self._told: dict[tuple[bytes, int], m.Slice] = {}  # what a peer that cannot open it has, by place
        self.told_bytes = 0  #: of that
        self.shares = shares

    def share(self, shares: bool) -> None:
        """Note whether the peer can open our memory. What it was told as if it could not counts no more."""
        if shares != self.shares:
            self.shares = shares
            self._known.clear()
            self._told.clear()
            self.told_bytes = 0

    def outgoing(self, sizes: m.Sizes, buffers: Buffers, *, once: bool = False) -> tuple[m.Sizes, Buffers]:
        """Give sizes and buffers as this peer can take them; to be called before they are sent.

        Args:
            once: a peer that cannot open our memory gets each slice only once, and keeps it. For what many tasks may
                refer to; results are not among that.

        Raises CannotOpen for a slice of a segment that is not open here, TooLarge for what is over the limit.
        """
        slices = slices_of(sizes)
        if not slices:
            return sizes, buffers
        if not self.shares:
            size = self.bytes_to_tell(slices) if once else sum(slice_.size for slice_ in slices)
            if self._most_bytes is not None and size > self._most_bytes:
                text = too_large("what lies in shared memory", size, self._most_bytes, "object_bytes")
                raise TooLarge(text, size, self._most_bytes)
        if not self.shares and not once:
            return split_off(joined(sizes, buffers, self._memory.read))
        if not self.shares:
            self._tell(slices)
            return sizes, buffers
        for segment in {slice_.segment for slice_ in slices} - self._known:
            handle = self._memory.handle(segment)
            if handle is not None:  # the peer will say what it misses
                self._session.send(m.Segment(segment, handle.pid, handle.fd, handle.size))
                self._known.add(segment)
        return sizes, buffers

    def _tell(self, slices: Iterable[m.Slice]) -> None:
        for slice_ in slices:
            place = slice_.segment, slice_.offset
            former = self._told.get(place)
            if former is None or former.serial != slice_.serial:
                data = self._memory.read(slice_)
                self._session.send(m.Content(*place, slice_.serial, b"", (slice_.size,)), [[data]])
                if self._holder is not None:
                    if former is not None:
                        self._holder.forgot([object_id(*place, former.serial)])
                    self._holder.got(slice_)
                self._told[place] = slice_
                self.told_bytes += cost_of(slice_) - (0 if former is None else cost_of(former))
                self._known.add(slice_.segment)

    def bytes_to_tell(self, slices: Iterable[m.Slice]) -> int:
        """Say how many bytes would travel if these were `outgoing` once."""
        if self.shares:
            return 0
        places = {(slice_.segment, slice_.offset): slice_ for slice_ in slices}
        return sum([cost_of(slice_) for place, slice_ in places.items() if self._told.get(place) != slice_])

    def segments_with(self, slices: Iterable[m.Slice]) -> int:
        """Say how many of our segments the peer would have open if these were `outgoing`."""
        if not self.shares:
            return 0
        return len(self._known) + len({slice_.segment for slice_ in slices} - self._known)

    def drop_unused(self, in_use: Container[bytes]) -> bool:
        """Tell the peer of all segments but those `in_use` that they are gone; they come again if they are needed."""
        return self.dropped([segment for segment in self._known if segment not in in_use])

    def dropped(self, segments: Iterable[bytes]) -> bool:
        """Tell the peer of segments that are gone; say whether it knew any."""
        known = {segment for segment in segments if segment in self._known}
        self._known.difference_update(known)
        told = [self._told.pop(place) for place in list(self._told) if place[0] in known]
        self.told_bytes -= sum(map(cost_of, told))
        gone = [object_id(slice_.segment, slice_.offset, slice_.serial) for slice_ in told]
        if gone and self._holder is not None:
            self._holder.forgot(gone)
        if known:
            self._session.send(m.DropSegments(list(known)))
        return bool(known)


class ReceivedContents:
    """What peers on other hosts have told us once: laid down here, so that it need not travel again.

    Args:
        store: where it is laid down; where there is no shared memory it is kept as it came.
    """

    def __init__(self, store: ObjectStore | None) -> None:
        self._store = store
        self._here: dict[tuple[bytes, int], tuple[m.Slice, m.Slice | Buffer]] = {}  # theirs, and what it is here
        self.size_bytes = 0  #: of all that is kept

    def took(self, content: m.Content, buffers: Buffers) -> None:
        """Keep what a slice of theirs holds from now on."""
        data = content.body or buffers[0]
        theirs = m.Slice(content.segment, content.offset, length(data), content.serial)
        here = None if self._store is None else self._store.put(memoryview(data))
        place = content.segment, content.offset
        self._forget(place, clean=True)  # it would not be used again if anybody looked at it
        self._here[place] = theirs, data if here is None else here
        self.size_bytes += cost_of(theirs)

    def has(self, slice_: m.Slice) -> bool:
        """Say whether we know what lies in a slice of theirs."""
        known = self._here.get((slice_.segment, slice_.offset))
        return known is not None and known[0] == slice_

    def translated(self, sizes: m.Sizes, buffers: Buffers) -> tuple[m.Sizes, Buffers]:
        """Give sizes and buffers with our own slices in the place of theirs; what we do not know stays as it is."""
        if not self._here or not any(self.has(slice_) for slice_ in slices_of(sizes)):
            return sizes, buffers
        return split_off(joined(sizes, buffers, self._translate))

    def _translate(self, slice_: m.Slice) -> m.Slice | Buffer:
        return self._here[slice_.segment, slice_.offset][1] if self.has(slice_) else slice_

    def drop(self, segments: Iterable[bytes]) -> list[bytes]:
        """Forget what lies in segments of theirs; give segments of ours that are closed by now."""
        gone = set(segments)
        for place in [place for place in self._here if place[0] in gone]:
            self._forget(place, clean=False)
        return [] if self._store is None else self._store.tidy()

    def drop_all(self) -> list[bytes]:
        """Forget everything; give segments of ours that are closed by now."""
        return self.drop([segment for segment, _ in self._here])

    def _forget(self, place: tuple[bytes, int], *, clean: bool) -> None:
        theirs, here = self._here.pop(place, (None, b""))
        if theirs is not None:
            self.size_bytes -= cost_of(theirs)
        if isinstance(here, m.Slice) and self._store is not None:
            self._store.release([here], clean=clean)


class MergedSegments:
    """The segments that are open in this process: those of others, and its own."""

    def __init__(self, shelf: OpenSegments, store: ObjectStore | None) -> None:
        self._shelf = shelf
        self._store = store

    def handle(self, segment: bytes) -> SegmentHandle | None:
        """Say how others open a segment; None if it is not open here."""
        own = None if self._store is None else self._store.handle(segment)
        return own or self._shelf.handle(segment)

    def read(self, slice_: m.Slice) -> Buffer:
        """Copy a slice. Raises CannotOpen."""
        if self._store is not None and self._store.handle(slice_.segment) is not None:
            return self._store.read(slice_)
        return self._shelf.read(slice_)
