"""Shared memory of the cluster, as the master tracks it: which peer owns a segment, and which results are in use.

    arguments, functions: application's segment -> open here -> announced to slaves, or its contents sent once
    results:              worker's segment -> ARRIVED -> KEPT -> HELD -> RELEASED (`TRANSITIONS`)
    ... of slaves on other hosts, which other tasks need: the same, in a segment of the master's own

A part of `nodes.master.core`. Slices are only names here: nothing is read except what travels to a node that cannot
open it.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
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
)
from concurrent_nb.nodes.master.client_limits import DEFAULT, Limits
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.outcome import SUCCESSES, Status
from concurrent_nb.rate_limited_log import RateLimitedLog
from concurrent_nb.scheduling import events as e
from concurrent_nb.tasks.shared_objects import object_id
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Buffers, ItemBuffers, encode_error, joined, length, slices_of, split_off
from concurrent_nb.wire.session import Session

log = logging.getLogger(__name__)

#: buffers of results that come from other hosts are stored from this size on, if other tasks need them
STORED_BYTES: Final = 64 * 1024
#: stands for the slave of a result that the master has stored
_MASTER: Final = SessionId(b"")
#: a slave's workers have segments of their own: the additional segments that are opened for each slot
SEGMENTS_PER_SLOT: Final = 64

#: the messages about shared memory
SharedMemoryMessage = m.ShareMemory | m.Segment | m.Content | m.DropSegments | m.Release


class ResultState(IntEnum):
    """Where the shared memory of a result is. Transitions are the table `TRANSITIONS`."""

    ARRIVED = 0  #: reported by its slave; whether the outcome counts is not decided
    KEPT = 1  #: the outcome counts, and its owner has not acknowledged it
    HELD = 2  #: its owner has it, and may read it
    RELEASED = 3  #: the slave has it back, and may use it again if the release was clean


#: (state, what happens) -> next state
TRANSITIONS: Final[dict[tuple[ResultState, str], ResultState]] = {
    (ResultState.ARRIVED, "keep"): ResultState.KEPT,
    (ResultState.ARRIVED, "release"): ResultState.RELEASED,  # the outcome came too late: clean
    (ResultState.KEPT, "hand over"): ResultState.HELD,  # acknowledged by an owner that shares memory
    (ResultState.KEPT, "release"): ResultState.RELEASED,  # the owner has a copy: clean; its job is over: not clean
    (ResultState.HELD, "release"): ResultState.RELEASED,  # by its owner: clean or not; its session has ended: not clean
}


@dataclass(eq=False, slots=True)
class ResultSlice:
    """A slice that holds a result, or a part of one."""

    slice: m.Slice
    slave: SessionId  #: session of the slave that reported it
    state: ResultState = ResultState.ARRIVED
    is_pinned: bool = False  #: tasks that have not ended need it: it is released later
    release: bool | None = None  #: whether the release that waits for that is clean; None: none waits
    was_left: bool = False  #: a process of a task that has needed it may still refer to it

    def move(self, verb: str) -> None:
        """Change the state as `TRANSITIONS` allows. Raises RuntimeError, and changes nothing, for another verb."""
        state = TRANSITIONS.get((self.state, verb))
        if state is None:
            raise RuntimeError(f"cannot {verb} {self.slice!r}, which is {self.state.name}: a bug of the master")
        self.state = state


class PeerMemory:
    """What one peer shares, and what it has of the memory of others, in one session.

    Args:
        session_id: the peer's session.
        key: the peer's CURVE key; segments belong to keys, and so outlive a session.
        label: the peer's name for messages.
        session: the session with it.
        memory: the segments that are open here.
        limits: of what is copied for it at once, if it can open nothing here, and of segments that are opened for one
            session of its key.
        slots: of a slave, which may have more segments for each.
        store: where contents that it sends are stored; None keeps them as they came.
        on_event: called when a content has travelled to it, or is gone from it; None for a peer that runs no tasks.
    """

    def __init__(
        self,
        session_id: SessionId,
        key: bytes,
        label: str,
        session: Session,
        memory: MergedSegments,
        limits: Limits,
        slots: int = 0,
        *,
        store: ObjectStore | None = None,
        on_event: Callable[[e.Event], None] | None = None,
    ) -> None:
        self.session_id = session_id
        self.key = key
        self.label = label
        self.session = session
        self.most_segments = limits.segments + SEGMENTS_PER_SLOT * slots
        self.is_slave = on_event is not None
        changed = self._contents_changed if self.is_slave else None
        self.announced = AnnouncedSegments(session, memory, contents_changed=changed, most_bytes=limits.object_bytes)
        self.contents = ReceivedContents(store)
        self.segments: set[bytes] = set()  #: its segments that are open here
        self.open_error = ""  #: why a segment of it is not open here
        self.held_results: dict[m.Slice, ResultSlice] = {}  #: results that it may read
        self.fetched_bytes = 0  #: of arguments and functions that have travelled to it
        self._memory = memory
        self._on_event = on_event

    def outgoing_arguments(self, sizes: m.Sizes, buffers: Buffers) -> tuple[m.Sizes, Buffers]:
        """Return sizes and buffers of a task or function as this slave can take them; to be called before sending.

        Raises CannotOpen, TooLarge, and any error of reading the memory of others.
        """
        for slice_ in slices_of(sizes):
            if self._memory.handle(slice_.segment) is None:
                raise CannotOpen(f"segment {slice_.segment.hex()[:8]} has been dropped by its owner")
        return self.announced.outgoing(sizes, buffers, once=True)

    def _contents_changed(self, sent: Sequence[m.Slice], gone: Sequence[bytes]) -> None:
        if self._on_event is None:
            return
        if gone:
            self._on_event(e.ObjectsDropped(self.session_id, gone))
        for slice_ in sent:
            self.fetched_bytes += slice_.size
            name = object_id(slice_.segment, slice_.offset, slice_.serial)
            self._on_event(e.ObjectsHeld(self.session_id, [name]))


class SharedMemoryTracker:
    """The shared memory of all peers.

    Args:
        reader: keeps the segments of peers open; None to share none.
        store: where contents that applications on other hosts send are stored; None where no peer can open it.
        touched: called with the session of a peer to which a message was sent.
        on_event: called with events for the scheduler.
        closed: called with segments that are closed, before any peer must drop them.
        is_needed: returns whether tasks that have not ended need a result, by job and index of its task.
        is_kept: returns whether its owner has a result kept, of which it has got none of the memory.
        limits: how much a key may share, and how much is copied for it.
    """

    def __init__(
        self,
        reader: PeerSegments | None,
        store: ObjectStore | None,
        *,
        touched: Callable[[SessionId], None],
        on_event: Callable[[e.Event], None],
        closed: Callable[[set[bytes]], None],
        is_needed: Callable[[JobId, int], bool] = lambda job, index: False,
        is_kept: Callable[[JobId, int], bool] = lambda job, index: False,
        limits: Limits = DEFAULT,
    ) -> None:
        self._reader = reader or NullSegmentReader()
        self._store = store
        self._memory = MergedSegments(self._reader, store)
        self._touched = touched
        self._on_event = on_event
        self._closed = closed
        self._is_needed = is_needed
        self._is_kept = is_kept
        self._shown: set[tuple[JobId, int]] = set()  # pinned results that were sent to their owner
        self._limits = limits
        self._log = RateLimitedLog(log)
        self._peers: dict[SessionId, PeerMemory] = {}
        self._owners: dict[bytes, PeerMemory] = {}  # of each open segment: the session that announced it last
        self._open_counts: Counter[bytes] = Counter()  # open segments by key
        self._references: defaultdict[bytes, int] = defaultdict(int)  # results of a segment that are not released
        self._orphans: set[bytes] = set()  # segments of lost slaves, closed when their last result is released
        #: results that have ARRIVED, with their outcomes: `decide` is still to be called
        self.undecided: list[tuple[JobId, m.OutcomeFrame, list[ResultSlice]]] = []
        self.kept: dict[bytes, dict[int, list[ResultSlice]]] = {}  #: results that are KEPT, by job and index
        self._pinned: dict[tuple[JobId, int], list[ResultSlice]] = {}  # results that tasks need, handed over or not
        self.departed: list[tuple[float, PeerMemory]] = []  #: lost applications, and when to close their segments

    # ------------------------------------------------------------------------------------------------ coming and going

    def client(self, session_id: SessionId, key: bytes, name: str, session: Session) -> PeerMemory:
        """Begin to track an application."""
        peer = PeerMemory(session_id, key, f"client {name!r}", session, self._memory, self._limits, store=self._store)
        self._peers[session_id] = peer
        return peer

    def slave(self, session_id: SessionId, key: bytes, name: str, session: Session, slots: int = 1) -> PeerMemory:
        """Begin to track a slave."""
        peer = PeerMemory(
            session_id, key, f"slave {name!r}", session, self._memory, self._limits, slots, on_event=self._on_event
        )
        self._peers[session_id] = peer
        return peer

    def left(self, peer: PeerMemory) -> None:
        """Send nothing more to a peer: its session is over."""
        del self._peers[peer.session_id]

    def abandon(self, peer: PeerMemory, due: float) -> None:
        """Release the results that a peer held, and close its segments: an application's from `due` on.

        To be called after `left`, when the scheduler has handled the peer's tasks and jobs.
        """
        self._release(peer.held_results.values(), clean=False)
        if peer.is_slave:
            self._orphans |= {segment for segment in peer.segments if segment in self._references}
            self._close([segment for segment in peer.segments if segment not in self._references])
        else:
            self.departed.append((due, peer))

    def close_soon(self, peer: PeerMemory, now: float) -> None:
        """Close the segments of a lost application from now on: nothing needs them any more."""
        self.departed = [(now, each) if each is peer else (due, each) for due, each in self.departed]

    def close_departed(self, now: float) -> None:
        """Close the segments of applications that have not come back in time."""
        over = [departed for departed in self.departed if departed[0] <= now]
        for departed in over:
            self.departed.remove(departed)
            peer = departed[1]
            ours = peer.contents.drop_all()
            self._close([*ours, *(segment for segment in peer.segments if self._owners.get(segment) is peer)])
        if over and self._store is not None:
            self._close(self._store.tidy(0))

    # ---------------------------------------------------------------------------------------------- messages of peers

    def handle(self, peer: PeerMemory, message: SharedMemoryMessage, buffers: Buffers, now: float = 0.0) -> None:
        """Act on a message about shared memory.

        Raises ProtocolError for a segment that is another's, or is not a segment, and for a malformed content.
        """
        if type(message) is m.ShareMemory:
            peer.announced.share(True)
        elif type(message) is m.Segment:
            self._open(peer, message, now)
        elif type(message) is m.Content:
            peer.contents.took(message, buffers)
        elif type(message) is m.DropSegments:
            ours = peer.contents.drop(message.segments)
            self._close([*ours, *(segment for segment in message.segments if segment in peer.segments)])
        elif type(message) is m.Release:
            held = [peer.held_results.pop(slice_) for slice_ in message.slices if slice_ in peer.held_results]
            self._release(held, clean=message.clean)

    def translated(self, peer: PeerMemory, sizes: m.Sizes, buffers: Buffers) -> tuple[m.Sizes, Buffers] | None:
        """Return sizes and buffers of a peer in which slices of ours replace those whose content it has sent.

        None if a slice is not in the peer's own memory, or not open here. Raises ProtocolError for a slice that ends
        behind its segment.
        """
        for slice_ in slices_of(sizes):
            if not peer.contents.has(slice_) and not self._is_readable(peer, slice_):
                return None
        return peer.contents.translated(sizes, buffers)

    def outcomes(
        self, peer: PeerMemory, job: JobId, frames: Sequence[m.OutcomeFrame], buffers: ItemBuffers
    ) -> tuple[Sequence[m.OutcomeFrame], ItemBuffers]:
        """Return a slave's outcomes and their buffers, with errors for results that are not readable here.

        Results in shared memory have ARRIVED: `decide` is to be called when the scheduler has handled the outcomes.
        Large ones that have come from another host are stored if tasks need them: then they travel once to each host.
        Raises ProtocolError for a slice of another's segment, or one that ends behind its segment.
        """
        taken: list[m.OutcomeFrame] = []
        kept: list[Buffers] = []
        arrived: list[tuple[JobId, m.OutcomeFrame, list[ResultSlice]]] = []
        for at, frame in enumerate(frames):
            own = buffers[at] if buffers else ()
            slices = slices_of(frame.sizes) if frame.sizes else []
            if not all(self._is_readable(peer, slice_) for slice_ in slices):
                taken.append(self._unreadable(peer, frame))
                kept.append(())
                continue
            taken.append(frame)
            kept.append(own)
            if slices:
                arrived.append((job, frame, [ResultSlice(slice_, peer.session_id) for slice_ in slices]))
        # All or nothing: only now nothing can be raised.
        if self._store is not None and buffers and not peer.announced.shares:
            for at, frame in enumerate(taken):
                # Failures are read here, and needed by no task.
                if kept[at] and frame.status in SUCCESSES and self._is_needed(job, frame.index):
                    taken[at], kept[at], results = self._stored(frame, kept[at], self._store)
                    if results:
                        arrived.append((job, taken[at], results))
        self.undecided += arrived
        for _, _, results in arrived:
            for result in results:
                self._references[result.slice.segment] += 1
        return taken, kept if buffers else ()

    @staticmethod
    def _stored(
        frame: m.OutcomeFrame, buffers: Buffers, store: ObjectStore
    ) -> tuple[m.OutcomeFrame, Buffers, list[ResultSlice]]:
        """Store the large buffers of a result."""
        parts: list[Buffer | m.Slice] = []
        results = []
        for part in joined(frame.sizes, buffers, lambda slice_: slice_):
            slice_ = None
            if not isinstance(part, m.Slice) and length(part) >= STORED_BYTES:
                slice_ = store.put(memoryview(part), recognise=False)  # each result is released by itself
            if slice_ is not None:
                results.append(ResultSlice(slice_, _MASTER))
            parts.append(part if slice_ is None else slice_)
        if not results:  # they are small, or there is no memory for them
            return frame, buffers, results
        sizes, left = split_off(parts)
        return msgspec.structs.replace(frame, sizes=sizes), left, results

    def _unreadable(self, peer: PeerMemory, frame: m.OutcomeFrame) -> m.OutcomeFrame:
        why = peer.open_error or "it was never announced to the master"
        return lost_result(frame, f"it lies in shared memory of {peer.label} that the master has not open: {why}")

    # ------------------------------------------------------------------------------------------------ states of results

    def decide(self, counts: Callable[[JobId, m.OutcomeFrame], bool]) -> None:
        """Keep the results whose outcomes count; release the others."""
        undecided, self.undecided = self.undecided, []
        for job, frame, results in undecided:
            if not counts(job, frame):
                self._release(results, clean=True)
                continue
            for result in results:
                result.move("keep")
            self.kept.setdefault(job, {})[frame.index] = results

    def hand_over(self, client: PeerMemory, acknowledged: Sequence[e.OutcomesAcknowledged]) -> None:
        """Act on acknowledged outcomes: the client may read their results now; results that it copied are released."""
        for event in acknowledged:
            kept = self.kept.get(event.job, {})
            for index in event.indexes if kept or self._shown else ():
                results = kept.pop(index, None)
                if results is None:
                    results = self._take_shown(event.job, index)
                elif self._is_needed(event.job, index):
                    self._pin(event.job, index, results)
                    if self._is_kept(event.job, index):
                        continue  # its owner has got a receipt
                if results is None:
                    continue
                if not client.announced.shares:
                    self._release(results, clean=True)
                    continue
                for result in results:
                    former = client.held_results.get(result.slice)
                    if former is not None and former is not result:
                        # The slave has reported the slice twice, and the client will release it once.
                        former.move("release")
                        self._drop_reference(result.slice.segment)
                    if result.state is not ResultState.HELD:
                        result.move("hand over")
                    client.held_results[result.slice] = result

    def forget_job(self, job: JobId) -> None:
        """Release the results that are kept for a job."""
        for index, results in self.kept.pop(job, {}).items():
            if self._is_needed(job, index):
                self._pin(job, index, results)
            self._release(results, clean=False)  # the client may have received them without an acknowledgement

    def shown(self, job: JobId, index: int) -> None:
        """Note that slices of a result are sent to its owner, who may read them once that is acknowledged."""
        if (job, index) in self._pinned:
            self._shown.add((job, index))

    def _take_shown(self, job: JobId, index: int) -> list[ResultSlice] | None:
        if (job, index) not in self._shown:
            return None
        self._shown.discard((job, index))
        results = self._pinned.get((job, index))
        for result in results or ():
            # Its owner has it again, and will release it again.
            result.was_left = result.was_left or result.release is False
            result.release = None
        return results

    def _pin(self, job: JobId, index: int, results: list[ResultSlice]) -> None:
        self._pinned[job, index] = results
        for result in results:
            result.is_pinned = True

    def unpin(self, job: JobId, index: int, *, clean: bool) -> None:
        """Release a result that no task needs any more, unless its owner holds it.

        Args:
            job, index: of its task.
            clean: no process of a task that has needed it can refer to it.
        """
        waiting: dict[bool, list[ResultSlice]] = {}
        # Its owner may have got what was sent to it, and may refer to it, although it has not acknowledged that.
        was_shown = (job, index) in self._shown
        self._shown.discard((job, index))
        for result in self._pinned.pop((job, index), ()):
            result.is_pinned = False
            result.was_left = result.was_left or was_shown or not clean
            if result.release is not None or result.state is ResultState.KEPT:
                waiting.setdefault(result.release is not False, []).append(result)
        for is_clean, results in waiting.items():
            self._release(results, clean=is_clean)

    def _release(self, results: Iterable[ResultSlice], *, clean: bool) -> None:
        """Return results to the slaves that made them; close what is left of a lost slave."""
        by_slave: dict[tuple[SessionId, bool], list[m.Slice]] = {}
        for result in results:
            if result.is_pinned:
                result.release = clean
                continue
            result.move("release")
            by_slave.setdefault((result.slave, clean and not result.was_left), []).append(result.slice)
        for (slave, is_clean), slices in by_slave.items():
            if slave == _MASTER and self._store is not None:
                self._store.release(slices, clean=is_clean)
                if closed := self._store.tidy():
                    self._close(closed)
            elif (peer := self._peers.get(slave)) is not None:
                peer.session.send(m.Release(slices, is_clean))
                self._touched(slave)
            for slice_ in slices:
                self._drop_reference(slice_.segment)

    def _drop_reference(self, segment: bytes) -> None:
        self._references[segment] -= 1
        if not self._references[segment]:
            del self._references[segment]
            if segment in self._orphans:
                self._close([segment])

    # --------------------------------------------------------------------------------------------- segments of peers

    def _open(self, peer: PeerMemory, message: m.Segment, now: float) -> None:
        owner = self._owners.get(message.segment)
        if owner is not None and owner.key != peer.key:
            raise ProtocolError(f"segment {message.segment.hex()[:8]} is another's")
        if owner is None and self._open_counts[peer.key] >= peer.most_segments * self._sessions_of(peer.key):
            peer.open_error = (
                f"it has shared {peer.most_segments} segments, and no more are opened: use larger buffers, drop "
                "results that are not needed, or raise MasterNode.segments_per_client"
            )
            self._log.warning(peer.key, now, "shared memory of %s: %s", peer.label, peer.open_error)
            return
        try:
            self._reader.add(SegmentHandle(message.segment, message.pid, message.fd, message.size))
        except (CannotOpen, OSError, ValueError, OverflowError) as error:  # what refers to it is refused, or lost
            peer.open_error = str(error)
            self._log.warning(peer.key, now, "shared memory of %s: %s", peer.label, error)
            return
        if owner is None:
            self._open_counts[peer.key] += 1
        self._owners[message.segment] = peer
        peer.segments.add(message.segment)

    def _sessions_of(self, key: bytes) -> int:
        """Return the number of sessions of a key, at least 1: the limits are for each."""
        return max(1, sum([peer.key == key for peer in self._peers.values()]))

    def _is_readable(self, peer: PeerMemory, slice_: m.Slice) -> bool:
        """Return whether a slice is in the peer's own memory, and its segment is open here.

        Raises ProtocolError for a slice that ends behind its segment.
        """
        owner = self._owners.get(slice_.segment)
        handle = None if owner is None else self._reader.handle(slice_.segment)
        if owner is None or handle is None or owner.key != peer.key:
            return False
        if slice_.offset + slice_.size > handle.size:
            raise ProtocolError(
                f"a slice that ends at {slice_.offset + slice_.size}, behind its segment of {handle.size} bytes"
            )
        return True

    def _close(self, segments: Sequence[bytes]) -> None:
        """Close segments here, and have every peer that knows them drop them."""
        gone = set(segments)
        self._closed(gone)
        for segment in segments:
            owner = self._owners.pop(segment, None)
            if owner is not None:
                owner.segments.discard(segment)
                self._open_counts[owner.key] -= 1
                if not self._open_counts[owner.key]:
                    del self._open_counts[owner.key]
        self._orphans -= gone
        self._reader.drop(segments)
        for peer in self._peers.values():
            if peer.announced.dropped(segments):
                self._touched(peer.session_id)

    # --------------------------------------------------------------------------------------------------- what is held

    def content_bytes(self, key: bytes) -> int:
        """Return the cost in bytes of the contents that applications of a key have sent."""
        peers = {*self._peers.values(), *(peer for _, peer in self.departed)}
        return sum(peer.contents.size_bytes for peer in peers if peer.key == key)

    def held_for(self, session_id: SessionId, key: bytes) -> list[str]:
        """List what is held for a session, or for any session of its key. For tests."""
        kept = [result for job in self.kept.values() for results in job.values() for result in results]
        held = [result for peer in self._peers.values() for result in peer.held_results.values()]
        found = {
            "a record": session_id in self._peers,
            "segments": self._open_counts.get(key, 0),
            "owned segments": sum(peer.key == key for peer in self._owners.values()),
            "results that are kept": sum(result.slave == session_id for result in kept),
            "results that others hold": sum(result.slave == session_id for result in held),
            "memory of a session that is over": sum(peer.key == key for _, peer in self.departed),
        }
        return [f"{count} {what}" for what, count in found.items() if count]


def lost_result(frame: m.OutcomeFrame, why: str) -> m.OutcomeFrame:
    """Return the outcome of a task that has ended, but whose result is not available."""
    report = m.ErrorReport(m.RESULT_LOST, f"the result is lost: {why}", "")
    return msgspec.structs.replace(frame, status=Status.ERROR, body=encode_error(report), sizes=())
