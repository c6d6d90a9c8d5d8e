"""What nodes share, as the master sees it: whose memory is open here, who looks at what lies there, and until when.

    arguments, functions: application's memory -> open here -> introduced, or told once, to slaves
    results:   worker's memory -> arrived -> kept (the outcome counts) -> held (its owner has it) -> released

A part of `master_core`. Slices are names here: nothing is read but what travels to a node that cannot open it.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.common.shared_memory_link import (
    AnnouncedSegments,
    MergedSegments,
    NullSegmentReader,
    PeerSegments,
    ReceivedContents,
    object_id,
)
from concurrent_nb.nodes.master.client_limits import DEFAULT, Limits
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.outcome import Status
from concurrent_nb.rate_limited_log import RateLimitedLog
from concurrent_nb.scheduling import events as e
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffers, encode_error, slices_of
from concurrent_nb.wire.session import Session

log = logging.getLogger(__name__)

#: a slave's workers have segments of their own, so many more for each slot
SEGMENTS_PER_SLOT: Final = 64

#: what peers say about shared memory
SharedMemoryMessage = m.ShareMemory | m.Segment | m.Content | m.DropSegments | m.Release


class MemoryAccount:
    """What one peer shares, and what it has of what others share, in one session.

    Args:
        session_id: whose it is.
        key: who it is; segments belong to keys, and so survive a session.
        label: it, for people.
        session: with it.
        memories: what it may be told of.
        store: where what it tells once is laid down; None to keep that as it came.
        on_event: hears, as events, what travels to it; None for one that runs no tasks.
        most_bytes: so much is copied for it at once, if it can open nothing here.
        segments: so many of its key are opened.
    """

    def __init__(
        self,
        session_id: SessionId,
        key: bytes,
        label: str,
        session: Session,
        memories: MergedSegments,
        store: ObjectStore | None,
        on_event: Callable[[e.Event], None] | None,
        most_bytes: int,
        segments: int,
    ) -> None:
        self.session_id = session_id
        self.key = key
        self.label = label
        self.session = session
        self.is_slave = on_event is not None
        holder = self if self.is_slave else None
        self.introductions = AnnouncedSegments(session, memories, holder=holder, most_bytes=most_bytes)
        self.contents = ReceivedContents(store)
        self.most_segments = segments
        self.why_not = ""  #: why some of its memory is not open here
        self._memories = memories
        self.segments: set[bytes] = set()  #: shared memory that it has introduced
        self.holds: dict[m.Slice, SessionId] = {}  #: results that it looks at, by the slave's session
        self.fetched_bytes = 0  #: of arguments and functions that have travelled to it
        self._on_event = on_event

    def arguments(self, sizes: m.Sizes, buffers: Buffers) -> tuple[m.Sizes, Buffers]:
        """Give sizes and buffers of a task or function as this slave can take them; call it before they are sent.

        Raises CannotOpen, TooLarge, and whatever reading the memory of others comes to.
        """
        for slice_ in slices_of(sizes):
            if self._memories.handle(slice_.segment) is None:
                raise CannotOpen(f"segment {slice_.segment.hex()[:8]} has been dropped by its owner")
        return self.introductions.outgoing(sizes, buffers, once=True)

    def got(self, slice_: m.Slice) -> None:
        """Note that something has travelled to it."""
        self.fetched_bytes += slice_.size
        if self._on_event is not None:
            name = object_id(slice_.segment, slice_.offset, slice_.serial)
            self._on_event(e.ObjectsHeld(self.session_id, [name]))

    def forgot(self, objects: Sequence[bytes]) -> None:
        """Note what it has no longer."""
        if self._on_event is not None:
            self._on_event(e.ObjectsDropped(self.session_id, objects))


@dataclass(eq=False, slots=True)
class _Kept:
    """Where an outcome lies that its owner has not acknowledged."""

    slave: SessionId
    slices: list[m.Slice]


class SharedMemoryTracker:
    """The shared memory of all peers.

    Args:
        shelf: keeps the shared memory of other nodes open; None to share none.
        store: where what applications on other hosts tell once is laid down; None where nobody can open it.
        touched: called with a peer to whom something was said.
        on_event: called with what the scheduler should know.
        closed: called with segments that are gone, before anybody is told.
        limits: how much a key may share, and how much is copied for it.
    """

    def __init__(
        self,
        shelf: PeerSegments | None,
        store: ObjectStore | None,
        *,
        touched: Callable[[SessionId], None],
        on_event: Callable[[e.Event], None],
        closed: Callable[[set[bytes]], None],
        limits: Limits = DEFAULT,
    ) -> None:
        self._shelf = shelf or NullSegmentReader()
        self._store = store
        self._memories = MergedSegments(self._shelf, store)
        self._touched = touched
        self._on_event = on_event
        self._closed = closed
        self._limits = limits
        self._log = RateLimitedLog(log)
        self._segments: Counter[bytes] = Counter()  # that are open, by key
        self._accounts: dict[SessionId, MemoryAccount] = {}
        self._owners: dict[bytes, MemoryAccount] = {}  # who has introduced a segment last
        self._lent: defaultdict[bytes, int] = defaultdict(int)  # how many slices of a segment are kept or looked at
        self._orphans: set[bytes] = set()  # segments of lost slaves, closed when nothing is lent of them
        self.arrived: list[tuple[SessionId, JobId, m.OutcomeFrame]] = []  #: outcomes of which `keep` is not told yet
        self.kept: dict[bytes, dict[int, _Kept]] = {}  #: those that an owner has not acknowledged, by job and index
        self.departed: list[tuple[float, MemoryAccount]] = []  #: when to close what lost applications have shared

    # ------------------------------------------------------------------------------------------------ coming and going

    def client(self, session_id: SessionId, key: bytes, name: str, session: Session) -> MemoryAccount:
        """Open an account for an application."""
        most = self._limits
        account = MemoryAccount(
            session_id,
            key,
            f"client {name!r}",
            session,
            self._memories,
            self._store,
            None,
            most.object_bytes,
            most.segments,
        )
        self._accounts[session_id] = account
        return account

    def slave(self, session_id: SessionId, key: bytes, name: str, session: Session, slots: int = 1) -> MemoryAccount:
        """Open an account for a slave."""
        segments = self._limits.segments + SEGMENTS_PER_SLOT * slots
        account = MemoryAccount(
            session_id,
            key,
            f"slave {name!r}",
            session,
            self._memories,
            None,
            self._on_event,
            self._limits.object_bytes,
            segments,
        )
        self._accounts[session_id] = account
        return account

    def left(self, account: MemoryAccount) -> None:
        """Say nothing to a peer any more: its session is over."""
        del self._accounts[account.session_id]

    def abandon(self, account: MemoryAccount, due: float) -> None:
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
        if over and self._store is not None:
            self._close(self._store.tidy(0))

    # --------------------------------------------------------------------------------------------------- what comes in

    def handle(self, account: MemoryAccount, message: SharedMemoryMessage, buffers: Buffers, now: float = 0.0) -> None:
        """Act on what a peer says about shared memory.

        Raises ProtocolError for a segment that is another's, or no segment, and for a content that is none.
        """
        if type(message) is m.ShareMemory:
            account.introductions.share(True)
        elif type(message) is m.Segment:
            self._introduced(account, message, now)
        elif type(message) is m.Content:
            account.contents.took(message, buffers)
        elif type(message) is m.DropSegments:
            ours = account.contents.drop(message.segments)
            self._close([*ours, *(segment for segment in message.segments if segment in account.segments)])
        elif type(message) is m.Release:
            self._released(account, message)

    def here(self, account: MemoryAccount, sizes: m.Sizes, buffers: Buffers) -> tuple[m.Sizes, Buffers] | None:
        """Give sizes and buffers of a peer with our slices in the place of what it has told once.

        None if some of it lies in shared memory that is not the peer's own, or is not open here. Raises ProtocolError
        for a slice that ends behind its segment.
        """
        for slice_ in slices_of(sizes):
            if not account.contents.has(slice_) and not self._is_of(account, slice_):
                return None
        return account.contents.translated(sizes, buffers)

    def outcomes(
        self, account: MemoryAccount, job: JobId, frames: Sequence[m.OutcomeFrame]
    ) -> Sequence[m.OutcomeFrame]:
        """Give outcomes of a slave, those whose results cannot be had here as errors.

        Notes which lie in shared memory; `keep` is to be called when it is decided which of them count. Raises
        ProtocolError for a slice of another's segment, or one that ends behind its segment.
        """
        taken: list[m.OutcomeFrame] = []
        lent: list[m.Slice] = []
        for frame in frames:
            slices = slices_of(frame.sizes) if frame.sizes else []
            if not all(self._is_of(account, slice_) for slice_ in slices):
                taken.append(self._lost(account, frame))
                continue
            taken.append(frame)
            lent += slices
        for frame in taken:
            if frame.sizes and slices_of(frame.sizes):
                self.arrived.append((account.session_id, job, frame))
        for slice_ in lent:
            self._lent[slice_.segment] += 1
        return taken

    def _lost(self, account: MemoryAccount, frame: m.OutcomeFrame) -> m.OutcomeFrame:
        why = account.why_not or "it was never shown to the master"
        return lost_result(frame, f"it lies in shared memory of {account.label} that the master has not open: {why}")

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

    def hand_over(self, client: MemoryAccount, acknowledged: Sequence[e.OutcomesAcknowledged]) -> None:
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

    def _introduced(self, account: MemoryAccount, message: m.Segment, now: float) -> None:
        owner = self._owners.get(message.segment)
        if owner is not None and owner.key != account.key:
            raise ProtocolError(f"segment {message.segment.hex()[:8]} is another's")
        if owner is None and self._segments[account.key] >= account.most_segments * self._sessions_of(account.key):
            account.why_not = (
                f"it has shared {account.most_segments} pieces, and no more are opened: use larger buffers, drop "
                "results that are not needed, or raise MasterNode.segments_per_client"
            )
            self._log.warning(account.key, now, "shared memory of %s: %s", account.label, account.why_not)
            return
        try:
            self._shelf.add(SegmentHandle(message.segment, message.pid, message.fd, message.size))
        except (CannotOpen, OSError, ValueError, OverflowError) as error:  # what lies there is refused, or lost
            account.why_not = str(error)
            self._log.warning(account.key, now, "shared memory of %s: %s", account.label, error)
            return
        if owner is None:
            self._segments[account.key] += 1
        self._owners[message.segment] = account
        account.segments.add(message.segment)

    def _sessions_of(self, key: bytes) -> int:
        """Say how many sessions a key has: each may have as much as the limits allow."""
        return max(1, sum([account.key == key for account in self._accounts.values()]))

    def _released(self, account: MemoryAccount, message: m.Release) -> None:
        by_slave: dict[SessionId, list[m.Slice]] = {}
        for slice_ in message.slices:
            if (slave := account.holds.pop(slice_, None)) is not None:
                by_slave.setdefault(slave, []).append(slice_)
        for slave, slices in by_slave.items():
            self._release(slave, slices, clean=message.clean)

    def _is_of(self, account: MemoryAccount, slice_: m.Slice) -> bool:
        """Say whether a slice lies in the peer's own memory, and that is open here.

        Raises ProtocolError for one that ends behind its segment.
        """
        owner = self._owners.get(slice_.segment)
        handle = None if owner is None else self._shelf.handle(slice_.segment)
        if owner is None or handle is None or owner.key != account.key:
            return False
        if slice_.offset + slice_.size > handle.size:
            raise ProtocolError(
                f"a slice that ends at {slice_.offset + slice_.size}, behind its segment of {handle.size} bytes"
            )
        return True

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
                self._segments[owner.key] -= 1
                if not self._segments[owner.key]:
                    del self._segments[owner.key]
        self._orphans -= gone
        self._shelf.drop(segments)
        for account in self._accounts.values():
            if account.introductions.dropped(segments):
                self._touched(account.session_id)

    # --------------------------------------------------------------------------------------------------- what is kept

    def told_bytes(self, key: bytes) -> int:
        """Count what is kept of what the applications of a key have told once."""
        accounts = {*self._accounts.values(), *(account for _, account in self.departed)}
        return sum(account.contents.size_bytes for account in accounts if account.key == key)

    def held_for(self, session_id: SessionId, key: bytes) -> list[str]:
        """List what is kept for a session, or for any session of its key. For tests."""
        found = {
            "an account": session_id in self._accounts,
            "segments": self._segments.get(key, 0),
            "owned segments": sum(account.key == key for account in self._owners.values()),
            "results that are kept": sum(
                kept.slave == session_id for job in self.kept.values() for kept in job.values()
            ),
            "results that others look at": sum(
                slave == session_id for account in self._accounts.values() for slave in account.holds.values()
            ),
            "memory of a session that is over": sum(account.key == key for _, account in self.departed),
        }
        return [f"{count} {what}" for what, count in found.items() if count]


def lost_result(frame: m.OutcomeFrame, why: str) -> m.OutcomeFrame:
    """Give the outcome of a task that has ended, but whose result cannot be had."""
    report = m.ErrorReport(m.RESULT_LOST, f"the result is lost: {why}", "")
    return msgspec.structs.replace(frame, status=Status.ERROR, body=encode_error(report), sizes=())
