"""What nodes share, as the master sees it: whose memory is open here, who looks at what lies there, and until when.

    arguments, functions: application's memory -> open here -> introduced, or told once, to slaves
    results:   worker's memory -> arrived -> kept (the outcome counts) -> held (its owner has it) -> released

A part of `master_core`. Slices are names here: nothing is read but what travels to a node that cannot open it.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from concurrent_nb.errors import ProtocolError
from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.shared import Contents, EmptyShelf, Introductions, Memories, Shelf, object_id
from concurrent_nb.objects.segments import CannotOpen, Handle
from concurrent_nb.objects.store import Store
from concurrent_nb.scheduling import events as e
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffers, slices_of
from concurrent_nb.wire.session import Session

log = logging.getLogger(__name__)

#: what peers say about shared memory
Said = m.ShareMemory | m.Segment | m.Content | m.DropSegments | m.Release


class Account:
    """What one peer shares, and what it has of what others share, in one session.

    Args:
        session_id: whose it is.
        key: who it is; segments belong to keys, and so survive a session.
        label: it, for people.
        session: with it.
        memories: what it may be told of.
        store: where what it tells once is laid down; None to keep that as it came.
        happened: hears, as events, what travels to it; None for one that runs no tasks.
    """

    def __init__(
        self,
        session_id: SessionId,
        key: bytes,
        label: str,
        session: Session,
        memories: Memories,
        store: Store | None,
        happened: Callable[[e.Event], None] | None,
    ) -> None:
        self.session_id = session_id
        self.key = key
        self.label = label
        self.session = session
        self.is_slave = happened is not None
        self.introductions = Introductions(session, memories, holder=self if self.is_slave else None)
        self.contents = Contents(store)
        self.segments: set[bytes] = set()  #: shared memory that it has introduced
        self.holds: dict[m.Slice, SessionId] = {}  #: results that it looks at, by the slave's session
        self.fetched_bytes = 0  #: of arguments and functions that have travelled to it
        self._happened = happened

    def got(self, slice_: m.Slice) -> None:
        """Note that something has travelled to it."""
        self.fetched_bytes += slice_.size
        if self._happened is not None:
            name = object_id(slice_.segment, slice_.offset, slice_.serial)
            self._happened(e.ObjectsHeld(self.session_id, [name]))

    def forgot(self, objects: Sequence[bytes]) -> None:
        """Note what it has no longer."""
        if self._happened is not None:
            self._happened(e.ObjectsDropped(self.session_id, objects))


@dataclass(eq=False, slots=True)
class _Kept:
    """Where an outcome lies that its owner has not acknowledged."""

    slave: SessionId
    slices: list[m.Slice]


class MemoryDesk:
    """The shared memory of all peers.

    Args:
        shelf: keeps the shared memory of other nodes open; None to share none.
        store: where what applications on other hosts tell once is laid down; None where nobody can open it.
        touched: called with a peer to whom something was said.
        happened: called with what the scheduler should know.
        closed: called with segments that are gone, before anybody is told.
    """

    def __init__(
        self,
        shelf: Shelf | None,
        store: Store | None,
        *,
        touched: Callable[[SessionId], None],
        happened: Callable[[e.Event], None],
        closed: Callable[[set[bytes]], None],
    ) -> None:
        self._shelf = shelf or EmptyShelf()
        self._store = store
        self._memories = Memories(self._shelf, store)
        self._touched = touched
        self._happened = happened
        self._closed = closed
        self._accounts: dict[SessionId, Account] = {}
        self._owners: dict[bytes, Account] = {}  # who has introduced a segment last
        self._lent: defaultdict[bytes, int] = defaultdict(int)  # how many slices of a segment are kept or looked at
        self._orphans: set[bytes] = set()  # segments of lost slaves, closed when nothing is lent of them
        self.arrived: list[tuple[SessionId, JobId, m.OutcomeFrame]] = []  #: outcomes of which `keep` is not told yet
        self.kept: dict[bytes, dict[int, _Kept]] = {}  #: those that an owner has not acknowledged, by job and index
        self.departed: list[tuple[float, Account]] = []  #: when to close what lost applications have shared

    # ------------------------------------------------------------------------------------------------ coming and going

    def client(self, session_id: SessionId, key: bytes, name: str, session: Session) -> Account:
        """Open an account for an application."""
        account = Account(session_id, key, f"client {name!r}", session, self._memories, self._store, None)
        self._accounts[session_id] = account
        return account

    def slave(self, session_id: SessionId, key: bytes, name: str, session: Session) -> Account:
        """Open an account for a slave."""
        account = Account(session_id, key, f"slave {name!r}", session, self._memories, None, self._happened)
        self._accounts[session_id] = account
        return account

    def left(self, account: Account) -> None:
        """Say nothing to a peer any more: its session is over."""
        del self._accounts[account.session_id]

    def abandon(self, account: Account, due: float) -> None:
        """Act on the end of a session: what the peer looked at is not used again, what it shared is closed in time.

        To be called after `left`, and when its tasks and jobs were seen to. What an application shared is closed by
        `close_departed` from `due` on.
        """
        by_slave: dict[SessionId, list[m.Slice]] = {}
        for slice_, slave in account.holds.items():
            by_slave.setdefault(slave, []).append(slice_)
        for slave, slices in by_slave.items():
            self._release(slave, slices, clean=False)
        if account.is_slave:
            self._orphans |= {segment for segment in account.segments if segment in self._lent}
            self._close([segment for segment in account.segments if segment not in self._lent])
        else:
            self.departed.append((due, account))

    def close_departed(self, now: float) -> None:
        """Close the segments of applications that have not come back."""
        over = [departed for departed in self.departed if departed[0] <= now]
        for departed in over:
            self.departed.remove(departed)
            account = departed[1]
            ours = account.contents.drop_all()
            self._close([*ours, *(segment for segment in account.segments if self._owners.get(segment) is account)])

    # --------------------------------------------------------------------------------------------------- what comes in

    def heard(self, account: Account, message: Said, buffers: Buffers) -> None:
        """Act on what a peer says about shared memory. Raises ProtocolError for a segment that is another's."""
        if type(message) is m.ShareMemory:
            account.introductions.share(True)
        elif type(message) is m.Segment:
            self._introduced(account, message)
        elif type(message) is m.Content:
            account.contents.took(message, buffers)
        elif type(message) is m.DropSegments:
            ours = account.contents.drop(message.segments)
            self._close([*ours, *(segment for segment in message.segments if segment in account.segments)])
        elif type(message) is m.Release:
            self._released(account, message)

    def here(self, account: Account, sizes: m.Sizes, buffers: Buffers) -> tuple[m.Sizes, Buffers] | None:
        """Give sizes and buffers of a peer with our slices in the place of what it has told once.

        None if some of it lies in shared memory that is not the peer's own, or is not open here.
        """
        sizes, buffers = account.contents.translated(sizes, buffers)
        return (sizes, buffers) if all(self._is_of(account, slice_) for slice_ in slices_of(sizes)) else None

    def outcomes(self, slave: SessionId, job: JobId, frames: Sequence[m.OutcomeFrame]) -> None:
        """Note which outcomes lie in shared memory; `keep` is to be called when it is decided which of them count."""
        for frame in frames:
            if frame.sizes and (slices := slices_of(frame.sizes)):
                self.arrived.append((slave, job, frame))
                for slice_ in slices:
                    self._lent[slice_.segment] += 1

    def keep(self, counts: Callable[[JobId, m.OutcomeFrame], bool]) -> None:
        """Keep the shared memory of outcomes that count; give that of late ones back."""
        arrived, self.arrived = self.arrived, []
        for slave, job, frame in arrived:
            slices = slices_of(frame.sizes)
            if counts(job, frame):
                self.kept.setdefault(job, {})[frame.index] = _Kept(slave, slices)
            else:
                self._release(slave, slices, clean=True)

    # --------------------------------------------------------------------------------------------- what is done with it

    def hand_over(self, client: Account, acknowledged: Sequence[e.OutcomesAcknowledged]) -> None:
        """Note that a client has outcomes: what they lie in is its to release, or free if it has got copies."""
        for event in acknowledged:
            kept = self.kept.get(event.job, {})
            for index in event.indexes if kept else ():
                if (taken := kept.pop(index, None)) is None:
                    continue
                if not client.introductions.shares:
                    self._release(taken.slave, taken.slices, clean=True)
                    continue
                for slice_ in taken.slices:
                    if slice_ in client.holds:  # its slave has named it twice, and it will be released once
                        self._came_back(slice_)
                    client.holds[slice_] = taken.slave

    def forget_job(self, job: JobId) -> None:
        """Give back what is kept for a job."""
        for kept in self.kept.pop(job, {}).values():
            self._release(kept.slave, kept.slices, clean=False)  # they may have come, and not been acknowledged

    def _introduced(self, account: Account, message: m.Segment) -> None:
        owner = self._owners.get(message.segment)
        if owner is not None and owner.key != account.key:
            raise ProtocolError(f"segment {message.segment.hex()[:8]} is another's")
        try:
            self._shelf.add(Handle(message.segment, message.pid, message.fd, message.size))
        except CannotOpen as error:  # what lies there is refused, or counts as lost
            log.warning("shared memory of %s: %s", account.label, error)
            return
        self._owners[message.segment] = account
        account.segments.add(message.segment)

    def _released(self, account: Account, message: m.Release) -> None:
        by_slave: dict[SessionId, list[m.Slice]] = {}
        for slice_ in message.slices:
            if (slave := account.holds.pop(slice_, None)) is not None:
                by_slave.setdefault(slave, []).append(slice_)
        for slave, slices in by_slave.items():
            self._release(slave, slices, clean=message.clean)

    def _is_of(self, account: Account, slice_: m.Slice) -> bool:
        """Say whether a slice lies in the peer's own memory, or in ours."""
        owner = self._owners.get(slice_.segment)
        if owner is None:  # our own memory, named by nobody but us
            return self._store is not None and self._store.handle(slice_.segment) is not None
        return owner.key == account.key

    def _release(self, slave: SessionId, slices: Sequence[m.Slice], *, clean: bool) -> None:
        """Give slices back to the slave that they came from; close what is left of a lost slave."""
        if (account := self._accounts.get(slave)) is not None:
            account.session.send(m.Release(list(slices), clean))
            self._touched(slave)
        for slice_ in slices:
            self._came_back(slice_)

    def _came_back(self, slice_: m.Slice) -> None:
        self._lent[slice_.segment] -= 1
        if not self._lent[slice_.segment]:
            del self._lent[slice_.segment]
            if slice_.segment in self._orphans:
                self._close([slice_.segment])

    def _close(self, segments: Sequence[bytes]) -> None:
        """Close segments, and tell everybody who knows them."""
        gone = set(segments)
        self._closed(gone)
        for segment in segments:
            owner = self._owners.pop(segment, None)
            if owner is not None:
                owner.segments.discard(segment)
        self._orphans -= gone
        self._shelf.drop(segments)
        for account in self._accounts.values():
            if account.introductions.dropped(segments):
                self._touched(account.session_id)
