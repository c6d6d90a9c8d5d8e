"""The master without sockets: who is here, what he may say, what the scheduler makes of it, what goes out.

    frames of a peer -> Session -> event -> Scheduler -> instruction -> Session -> frames for a peer

Called by `Master` from its compute thread, by the simulator and by the tour in tests/test_life_of_a_task.py. Payloads
are opaque here: nothing is ever unpickled.
"""

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, cast

import msgspec

from concurrent_nb.errors import ConfigurationError, ProtocolError
from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.nodes.kernel_desk import KernelDesk
from concurrent_nb.nodes.shared import Contents, EmptyShelf, Introductions, Memories, Shelf, object_id, objects_of
from concurrent_nb.objects.segments import CannotOpen, Handle
from concurrent_nb.objects.store import Store
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling import instructions as i
from concurrent_nb.scheduling.liveness import Liveness, Lost, Suspected, Trusted
from concurrent_nb.scheduling.ranking import Ranking
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.tasks.task import ObjectSize
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import (
    Buffer,
    Buffers,
    ItemBuffers,
    Received,
    encode_error,
    function_digest,
    joined,
    lengths,
    slices_of,
)
from concurrent_nb.wire.session import Session

log = logging.getLogger(__name__)

#: a client that was lost may come back for its jobs within this time
LINGER_S: Final = 10.0
#: functions of jobs that are over are kept for the next job, so many of them, of so many bytes in all
IDLE_FUNCTIONS: Final = 64
IDLE_BYTES: Final = 64 * 1024 * 1024

Outgoing = tuple[SessionId, list[Buffer]]


class _Holder:
    """Says which objects have travelled to a slave.

    Args:
        slave: which one.
        happened: hears of it.
    """

    def __init__(self, slave: SessionId, happened: Callable[[e.Event], None]) -> None:
        self._slave = slave
        self._happened = happened
        self.fetched_bytes = 0

    def got(self, slice_: m.Slice) -> None:
        """Say that it has one more."""
        self.fetched_bytes += slice_.size
        self._happened(e.ObjectsHeld(self._slave, [object_id(slice_.segment, slice_.offset, slice_.serial)]))

    def forgot(self, objects: Sequence[bytes]) -> None:
        """Say that it has these no longer."""
        self._happened(e.ObjectsDropped(self._slave, objects))


@dataclass(eq=False, slots=True)
class Peer:
    """A registered node."""

    session_id: SessionId
    role: str  #: "client" or "slave"
    key: bytes  #: its CURVE public key, z85; a client's principal
    name: str
    session: Session
    introductions: Introductions
    contents: Contents  #: what it has told once, if it cannot share memory with us
    holder: _Holder | None = None  #: what a slave was told once, if it cannot
    segments: set[bytes] = field(default_factory=set)  #: shared memory that it has introduced
    holds: dict[m.Slice, SessionId] = field(default_factory=dict)  #: results that it looks at, by the slave's session
    functions: set[bytes] = field(default_factory=set)  #: digests that a slave has
    slots: int = 0
    credit: int = 0
    heard: bool = False  #: it has said something on the compute channel
    comes_back: bool = True  #: if a client is lost, its jobs wait for it
    done: int = 0  #: outcomes that it has sent or got
    said_at: float = 0.0  #: when we last said something to it
    look_at: float = inf  #: when to look at it again at the latest


@dataclass(eq=False, slots=True)
class _Function:
    message: m.Function
    buffers: Sequence[Buffers]
    jobs: set[bytes]  #: open jobs that use it


@dataclass(eq=False, slots=True)
class _Kept:
    """Where an outcome lies that its owner has not acknowledged."""

    slave: SessionId
    slices: list[m.Slice]


class MasterCore:
    """Everything that a master decides.

    Args:
        epoch: number of this life, larger than that of any earlier one.
        scheduler: decides who runs what.
        liveness: decides who is gone.
        interval_s: seconds between two signs of life.
        shelf: keeps the shared memory of other nodes open; None to share none.
        store: where what applications on other hosts tell once is laid down; None where nobody can open it.
    """

    def __init__(
        self,
        epoch: int,
        scheduler: Scheduler,
        liveness: Liveness,
        interval_s: float = 1.0,
        shelf: Shelf | None = None,
        store: Store | None = None,
    ) -> None:
        self.epoch = epoch
        self._interval_s = interval_s
        self.scheduler = scheduler
        self._liveness = liveness
        self.peers: dict[SessionId, Peer] = {}
        self._keys: dict[bytes, int] = {}
        self._functions: dict[bytes, _Function] = {}
        self._functions_of: dict[bytes, set[bytes]] = {}
        self._idle_functions: OrderedDict[bytes, int] = OrderedDict()  # digest to size in bytes
        self._farewells: list[Outgoing] = []
        self._events: list[e.Event] = []
        self._touched: dict[SessionId, Peer] = {}  # may have something to say now
        self._looks: Ranking[SessionId] = Ranking()  # when to look at which peer again
        self._scheduler_due = 0.0
        self.kernels = KernelDesk()
        self._shelf = shelf or EmptyShelf()
        self._store = store
        self._memories = Memories(self._shelf, store)
        self._arrived: list[tuple[SessionId, JobId, m.OutcomeFrame]] = []  # outcomes in shared memory, now decided on
        self._kept: dict[bytes, dict[int, _Kept]] = {}  # those that an owner has not acknowledged, by job and index
        self._lent: defaultdict[bytes, int] = defaultdict(int)  # how many slices of a segment are kept or looked at
        self._orphans: set[bytes] = set()  # segments of lost slaves, closed when nothing is lent of them
        self._departed: list[tuple[float, Peer]] = []  # when to close what lost applications have shared
        self._owners: dict[bytes, Peer] = {}  # who has introduced a segment last
        self._handlers: dict[type, Callable[[Peer, Any, Received, float], None]] = {
            m.Function: self._on_function,
            m.OpenJob: self._on_open_job,
            m.Submit: self._on_submit,
            m.Cancel: self._on_cancel,
            m.CloseJob: self._on_close_job,
            m.Outcomes: self._on_outcomes,
            m.Started: self._on_started,
            m.Returned: self._on_returned,
            m.Output: self._on_output,
            m.Capacity: self._on_capacity,
            m.KernelOpened: self._on_kernel_opened,
            m.ShareMemory: self._on_share_memory,
            m.Segment: self._on_segment,
            m.Content: self._on_content,
            m.DropSegments: self._on_drop_segments,
            m.Release: self._on_release,
        }

    # ------------------------------------------------------------------------------------------------ coming and going

    def add_client(self, session_id: SessionId, key: bytes, name: str, now: float, comes_back: bool = True) -> None:
        """Register an application; its jobs belong to `key`. If it never comes back, they end as soon as it is lost."""
        session = Session(self.epoch, "from_client")
        introductions, contents = Introductions(session, self._memories), Contents(self._store)
        peer = Peer(session_id, "client", key, name, session, introductions, contents, comes_back=comes_back)
        self._add(peer, now)

    def add_slave(self, session_id: SessionId, key: bytes, name: str, slots: int, credit: int, now: float) -> str:
        """Register a slave; give the name that it has here (another one if the name is taken)."""
        taken = {peer.name for peer in self.peers.values() if peer.role == "slave"}
        name = next(n for n in (name, *(f"{name}-{k}" for k in range(2, len(taken) + 3))) if n not in taken)
        session = Session(self.epoch, "from_slave")
        holder = _Holder(session_id, lambda event: self._events.append(event))
        introductions = Introductions(session, self._memories, holder=holder)
        contents = Contents(None)
        peer = Peer(
            session_id, "slave", key, name, session, introductions, contents, holder, slots=slots, credit=credit
        )
        self._add(peer, now)
        return name

    def _add(self, peer: Peer, now: float) -> None:
        peer.said_at = now
        self.peers[peer.session_id] = peer
        self._keys[peer.key] = self._keys.get(peer.key, 0) + 1
        self._liveness.watch(peer.session_id, now)
        log.info("%s %r has registered", peer.role, peer.name)

    def remove(self, session_id: SessionId, reason: str, now: float, linger_s: float = 0.0) -> bool:
        """End a session. False if there is none of that id. Its tasks are run elsewhere; its jobs linger or end."""
        peer = self.peers.pop(session_id, None)
        if peer is None:
            return False
        self._liveness.forget(session_id)
        self._looks.discard(session_id)
        self._touched.pop(session_id, None)
        self._keys[peer.key] -= 1
        if not self._keys[peer.key]:
            del self._keys[peer.key]
        self._farewells.append((session_id, peer.session.bye(reason)))
        log.info("%s %r has gone: %s", peer.role, peer.name, reason)
        if peer.role == "client":
            self._events.append(e.ClientLost(session_id, linger_s))
        elif peer.heard:
            self._events.append(e.SlaveLost(session_id))
        if peer.role == "slave":
            self.kernels.lost(session_id, reason)
        self._decide(now)
        self._abandon_memory(peer, now + linger_s)
        return True

    def stop(self) -> list[Outgoing]:
        """Give a farewell for every peer: the cluster has been stopped."""
        return [(session_id, peer.session.bye(m.CLUSTER_STOPPED)) for session_id, peer in self.peers.items()]

    def admits(self, key: bytes) -> bool:
        """Say whether a node with this key is registered."""
        return key in self._keys

    def open_kernel(self, slave: str, now: float) -> int:
        """Ask a slave, by its name, to be a Jupyter kernel. Give the number under which `kernels` will settle it.

        Raises ConfigurationError, which lists the slaves, if there is none of that name.
        """
        slaves = {peer.name: peer for peer in self.peers.values() if peer.role == "slave"}
        if slave not in slaves:
            there = ", ".join(sorted(slaves)) or "none"
            raise ConfigurationError(f"there is no slave {slave[:100]!r}; the slaves are: {there}")
        message = self.kernels.ask(slaves[slave].session_id, slave, now)
        self._send(slaves[slave].session_id, message)
        return message.request

    def heartbeat(self, session_id: SessionId, now: float) -> bool:
        """Take a sign of life from the control channel; False if the session is over (register again)."""
        if session_id not in self.peers:
            return False
        self._liveness.heard(session_id, now)
        return True

    # --------------------------------------------------------------------------------------------------- what comes in

    def received(self, session_id: bytes, key: bytes, frames: Sequence[Buffer], now: float) -> None:
        """Take one envelope. A stranger's is dropped; one that breaks the protocol ends its sender's session."""
        peer = self.peers.get(SessionId(session_id))
        if peer is None or peer.key != key:
            log.warning("dropped an envelope from an unknown session or with another's key")
            if peer is None:
                frames_out = Session(self.epoch, "from_client").bye("this session is over: register again")
                self._farewells.append((SessionId(session_id), frames_out))
            return
        self._liveness.heard(peer.session_id, now)
        self._touched[peer.session_id] = peer
        try:
            items = peer.session.receive(frames, now)
            if not peer.heard:  # only now is there a connection to send tasks over
                peer.heard = True
                peer.introductions.share(any(type(item.message) is m.ShareMemory for item in items))
                if peer.role == "slave":
                    shares = peer.introductions.shares
                    self._events.append(e.SlaveJoined(peer.session_id, peer.name, peer.slots, peer.credit, shares))
                    self._decide(now)
            acknowledged = cast("list[e.OutcomesAcknowledged]", peer.session.take_acked())
            if self._kept and acknowledged:
                self._hand_over(peer, acknowledged)  # first: it may release them in this very envelope
            for item in items:
                self._handlers[type(item.message)](peer, item.message, item, now)
            self._events += acknowledged
            self._decide(now)
            if self._arrived:
                self._keep_arrived()
            if peer.session.closed_by_peer is not None:
                self.remove(peer.session_id, f"it said goodbye: {peer.session.closed_by_peer}", now)
        except ProtocolError as error:
            log.warning("%s %r broke the protocol: %s", peer.role, peer.name, error)
            self._events.clear()
            self._keep_arrived()  # none of it counts
            self.remove(peer.session_id, f"protocol error: {error}", now)

    def unreachable(self, session_id: SessionId, now: float) -> None:
        """Take the transport's word that a peer has no connection."""
        if (peer := self.peers.get(session_id)) is not None and peer.heard:
            self._liveness.unreachable(session_id, now)

    def _on_function(self, peer: Peer, message: m.Function, item: Received, now: float) -> None:
        if message.digest in self._functions:
            return
        buffers = item.buffers or [()]
        name = f"function {message.digest.hex()[:8]}"
        parts = joined(message.sizes, buffers[0], lambda slice_: slice_)
        if function_digest([message.body, *parts]) != message.digest:
            raise ProtocolError(f"{name} does not have the digest that it names")
        sizes, own = peer.contents.translated(message.sizes, buffers[0])
        if sizes is not message.sizes:
            message, buffers = m.Function(message.digest, message.body, sizes), [own]
        if not self._has_all(peer, message.sizes):
            log.warning("%s of %r lies in shared memory that cannot be opened: it counts as not sent", name, peer.name)
            return
        self._functions[message.digest] = _Function(message, buffers, set())
        self._retire(message.digest)

    def _on_open_job(self, peer: Peer, message: m.OpenJob, _: Received, now: float) -> None:
        job = JobId(message.job)
        owner = peer.key.decode()
        self._events.append(
            e.JobOpened(
                peer.session_id, owner, job, message.name, message.until, message.stop_on_error, message.strategy or ""
            )
        )

    def _on_submit(self, peer: Peer, message: m.Submit, item: Received, now: float) -> None:
        function = self._functions.get(message.function)
        if function is None:
            self._refuse(peer, message, f"function {message.function.hex()[:8]} was never sent")
            return
        tasks, buffers = message.tasks, item.buffers
        captured = function.message.sizes
        objects: Sequence[tuple[ObjectSize, ...]] = [objects_of(captured)] * len(tasks) if captured else ()
        if any(task.sizes for task in tasks):
            parts = [
                peer.contents.translated(task.sizes, buffers[at] if buffers else ()) for at, task in enumerate(tasks)
            ]
            if not all(self._has_all(peer, sizes) for sizes, _ in parts):
                self._refuse(peer, message, "its arguments lie in shared memory that the master cannot open")
                return
            buffers = [own for _, own in parts]
            objects = [objects_of((*captured, *sizes)) for sizes, _ in parts]
            tasks = [
                task if sizes is task.sizes else msgspec.structs.replace(task, sizes=sizes)
                for task, (sizes, _) in zip(tasks, parts, strict=True)
            ]
        function.jobs.add(message.job)
        self._idle_functions.pop(message.function, None)
        self._functions_of.setdefault(message.job, set()).add(message.function)
        self._events.append(
            e.TasksSubmitted(
                peer.session_id,
                JobId(message.job),
                Digest(message.function),
                tasks,
                buffers,
                message.timeout_s,
                message.retries,
                objects,
                message.needs,
            )
        )

    def _refuse(self, peer: Peer, message: m.Submit, why: str) -> None:
        body = encode_error(m.ErrorReport("", f"the master refused the task: {why}", ""))
        items = [m.OutcomeFrame(task.index, 0, Status.REFUSED, 0.0, 0, body) for task in message.tasks]
        peer.session.send(m.Outcomes(message.job, "", items))

    def _on_cancel(self, peer: Peer, message: m.Cancel, _: Received, now: float) -> None:
        self._events.append(e.CancelRequested(peer.session_id, JobId(message.job), message.indexes))

    def _on_close_job(self, peer: Peer, message: m.CloseJob, _: Received, now: float) -> None:
        self._events.append(e.JobClosed(peer.session_id, JobId(message.job)))

    def _on_outcomes(self, peer: Peer, message: m.Outcomes, item: Received, now: float) -> None:
        peer.done += len(message.items)
        for frame in message.items:
            if frame.sizes and (slices := slices_of(frame.sizes)):
                self._arrived.append((peer.session_id, JobId(message.job), frame))
                for slice_ in slices:
                    self._lent[slice_.segment] += 1
        self._events.append(e.OutcomesReceived(peer.session_id, JobId(message.job), message.items, item.buffers))

    def _on_started(self, peer: Peer, message: m.Started, _: Received, now: float) -> None:
        self._events.append(e.TasksStarted(peer.session_id, message.tasks))

    def _on_returned(self, peer: Peer, message: m.Returned, _: Received, now: float) -> None:
        self._events.append(e.TasksReturned(peer.session_id, message.tasks))

    def _on_output(self, peer: Peer, message: m.Output, _: Received, now: float) -> None:
        job = self.scheduler.jobs.get(JobId(message.task.job))
        task = None if job is None else job.tasks.get(message.task.index)
        if task is None or task.slave != peer.session_id or task.attempt != message.task.attempt:
            return
        if task.job.client is not None:
            self._send(task.job.client, message)

    def _on_capacity(self, peer: Peer, message: m.Capacity, _: Received, now: float) -> None:
        if not 0 <= message.slots <= message.credit:
            raise ProtocolError(f"capacity of {message.slots} slots with a credit of {message.credit}")
        peer.slots = message.slots
        self._events.append(e.SlaveResized(peer.session_id, message.slots, message.credit))

    def _on_kernel_opened(self, peer: Peer, message: m.KernelOpened, _: Received, now: float) -> None:
        self.kernels.answered(peer.session_id, message)

    # -------------------------------------------------------------------------------------------------- shared memory

    def _on_share_memory(self, peer: Peer, message: m.ShareMemory, _: Received, now: float) -> None:
        peer.introductions.share(True)

    def _on_segment(self, peer: Peer, message: m.Segment, _: Received, now: float) -> None:
        owner = self._owners.get(message.segment)
        if owner is not None and owner.key != peer.key:
            raise ProtocolError(f"segment {message.segment.hex()[:8]} is another's")
        try:
            self._shelf.add(Handle(message.segment, message.pid, message.fd, message.size))
        except CannotOpen as error:  # what lies there is refused, or counts as lost
            log.warning("shared memory of %s %r: %s", peer.role, peer.name, error)
            return
        self._owners[message.segment] = peer
        peer.segments.add(message.segment)

    def _on_content(self, peer: Peer, message: m.Content, item: Received, now: float) -> None:
        peer.contents.took(message, item.buffers[0] if item.buffers else ())

    def _on_drop_segments(self, peer: Peer, message: m.DropSegments, _: Received, now: float) -> None:
        ours = peer.contents.drop(message.segments)
        self._close([*ours, *(segment for segment in message.segments if segment in peer.segments)])

    def _on_release(self, peer: Peer, message: m.Release, _: Received, now: float) -> None:
        by_slave: dict[SessionId, list[m.Slice]] = {}
        for slice_ in message.slices:
            if (slave := peer.holds.pop(slice_, None)) is not None:
                by_slave.setdefault(slave, []).append(slice_)
        for slave, slices in by_slave.items():
            self._release(slave, slices, clean=message.clean)

    def _has_all(self, peer: Peer, sizes: m.Sizes) -> bool:
        """Say whether whatever lies in shared memory lies in the peer's own, and that is open here."""
        return all(self._is_of(peer, slice_) for slice_ in slices_of(sizes))

    def _is_of(self, peer: Peer, slice_: m.Slice) -> bool:
        owner = self._owners.get(slice_.segment)
        if owner is None:  # our own memory, named by nobody but us
            return self._store is not None and self._store.handle(slice_.segment) is not None
        return owner.key == peer.key

    def _keep_arrived(self) -> None:
        """Keep the shared memory of outcomes that counted; give that of late ones back."""
        arrived, self._arrived = self._arrived, []
        for slave, job_id, frame in arrived:
            job = self.scheduler.jobs.get(job_id)
            task = None if job is None else job.tasks.get(frame.index)
            slices = slices_of(frame.sizes)
            if task is not None and task.outcome is frame:
                self._kept.setdefault(job_id, {})[frame.index] = _Kept(slave, slices)
            else:
                self._release(slave, slices, clean=True)

    def _hand_over(self, client: Peer, acknowledged: Sequence[e.OutcomesAcknowledged]) -> None:
        """Note that a client has outcomes: what they lie in is its to release, or free if it has got copies."""
        for event in acknowledged:
            kept = self._kept.get(event.job, {})
            for index in event.indexes if kept else ():
                if (taken := kept.pop(index, None)) is None:
                    continue
                if client.introductions.shares:
                    client.holds.update(dict.fromkeys(taken.slices, taken.slave))
                else:
                    self._release(taken.slave, taken.slices, clean=True)

    def _release(self, slave: SessionId, slices: Sequence[m.Slice], *, clean: bool) -> None:
        """Give slices back to the slave that they came from; close what is left of a lost slave."""
        self._send(slave, m.Release(list(slices), clean))
        for slice_ in slices:
            self._lent[slice_.segment] -= 1
            if not self._lent[slice_.segment]:
                del self._lent[slice_.segment]
                if slice_.segment in self._orphans:
                    self._close([slice_.segment])

    def _close(self, segments: Sequence[bytes]) -> None:
        """Close segments, and tell everybody who knows them. Functions that lie there are gone."""
        gone = set(segments)
        for digest in [d for d, f in self._functions.items() if gone & {s.segment for s in slices_of(f.message.sizes)}]:
            self._idle_functions.pop(digest, None)
            self._drop_function(digest)
        for segment in segments:
            owner = self._owners.pop(segment, None)
            if owner is not None:
                owner.segments.discard(segment)
        self._orphans -= gone
        self._shelf.drop(segments)
        for peer in self.peers.values():
            if peer.introductions.dropped(segments):
                self._touched[peer.session_id] = peer

    def _abandon_memory(self, peer: Peer, due: float) -> None:
        """Act on the end of a peer's session: what it looked at is not used again, what it shared is closed in time."""
        by_slave: dict[SessionId, list[m.Slice]] = {}
        for slice_, slave in peer.holds.items():
            by_slave.setdefault(slave, []).append(slice_)
        for slave, slices in by_slave.items():
            self._release(slave, slices, clean=False)
        if peer.role == "slave":
            self._orphans |= {segment for segment in peer.segments if segment in self._lent}
            self._close([segment for segment in peer.segments if segment not in self._lent])
        else:
            self._departed.append((due, peer))

    def _close_departed(self, now: float) -> None:
        """Close the segments of applications that have not come back."""
        over = [departed for departed in self._departed if departed[0] <= now]
        for departed in over:
            self._departed.remove(departed)
            peer = departed[1]
            ours = peer.contents.drop_all()
            self._close([*ours, *(segment for segment in peer.segments if self._owners.get(segment) is peer)])

    # ------------------------------------------------------------------------------------------------- what is decided

    def _decide(self, now: float) -> None:
        """Hand what has happened to the scheduler, all at once, and do what it says."""
        events, self._events = self._events, []
        self._obey(self.scheduler.handle(*events, now=now))

    def _obey(self, instructions: Sequence[i.Instruction]) -> None:
        for instruction in instructions:
            if type(instruction) is i.Assign:
                self._assign(instruction)
            elif type(instruction) is i.Deliver:
                self._deliver(instruction)
            elif type(instruction) is i.Withdraw:
                self._send(instruction.slave, m.Withdraw(list(instruction.tasks), instruction.stop))
            elif type(instruction) is i.TellStarted:
                self._send(instruction.client, m.Started(instruction.slave, list(instruction.tasks)))
            elif type(instruction) is i.ForgetJob:
                self._forget_job(instruction.job)

    def _send(self, to: SessionId, message: m.AnyMessage) -> None:
        if (peer := self.peers.get(to)) is not None:
            peer.session.send(message)
            self._touched[to] = peer

    def _assign(self, assign: i.Assign) -> None:
        slave = self._touched[assign.slave] = self.peers[assign.slave]
        if assign.function not in slave.functions:
            self._send_function(slave, self._functions[assign.function])
        buffers: ItemBuffers = ()
        if any(task.sizes for task in assign.tasks):
            parts = [slave.introductions.outgoing(task.sizes, task.buffers, once=True) for task in assign.tasks]
            buffers = [own for _, own in parts]
            frames = [
                m.TaskFrame(task.index, task.attempt, task.body, sizes)
                for task, (sizes, _) in zip(assign.tasks, parts, strict=True)
            ]
        else:
            frames = [m.TaskFrame(task.index, task.attempt, task.body) for task in assign.tasks]
        slave.session.send(m.Assign(assign.job, assign.function, assign.timeout_s, frames, assign.needs), buffers)

    def _send_function(self, slave: Peer, function: _Function) -> None:
        message = function.message
        sizes, buffers = slave.introductions.outgoing(message.sizes, function.buffers[0], once=True)
        if sizes is not message.sizes:
            message = m.Function(message.digest, message.body, sizes)
        slave.session.send(message, [buffers] if buffers else ())
        slave.functions.add(message.digest)

    def _deliver(self, deliver: i.Deliver) -> None:
        client = self.peers.get(deliver.client)
        if client is None:
            return
        self._touched[deliver.client] = client
        client.done += len(deliver.items)
        acknowledged = e.OutcomesAcknowledged(deliver.client, deliver.job, [item.index for item in deliver.items])
        items, buffers = list(deliver.items), deliver.buffers
        if any(item.sizes for item in items):
            parts = [
                client.introductions.outgoing(item.sizes, buffers[at] if buffers else ())
                for at, item in enumerate(items)
            ]
            buffers = [own for _, own in parts]
            items = [
                item if sizes is item.sizes else msgspec.structs.replace(item, sizes=sizes)
                for item, (sizes, _) in zip(items, parts, strict=True)
            ]
        client.session.send(m.Outcomes(deliver.job, deliver.slave, items), buffers, acknowledged)

    def _forget_job(self, job: JobId) -> None:
        for kept in self._kept.pop(job, {}).values():
            self._release(kept.slave, kept.slices, clean=False)  # they may have come, and not been acknowledged
        for digest in self._functions_of.pop(job, ()):
            function = self._functions[digest]
            function.jobs.discard(job)
            if not function.jobs:
                self._retire(digest)

    def _retire(self, digest: bytes) -> None:
        """Keep a function that no job uses for a while; drop those that have been idle longest."""
        message = self._functions[digest].message
        idle = self._idle_functions
        idle[digest] = len(message.body) + sum(lengths(message.sizes))
        while len(idle) > IDLE_FUNCTIONS or (len(idle) > 1 and sum(idle.values()) > IDLE_BYTES):
            oldest, _ = idle.popitem(last=False)
            self._drop_function(oldest)

    def _drop_function(self, digest: bytes) -> None:
        for job in self._functions.pop(digest).jobs:
            self._functions_of[job].discard(digest)
        for peer in self.peers.values():
            if digest in peer.functions:
                peer.functions.discard(digest)
                self._send(peer.session_id, m.DropFunctions([digest]))

    # --------------------------------------------------------------------------------------------------- what goes out

    def step(self, now: float) -> list[Outgoing]:
        """Do what time demands, and give all envelopes that should leave now."""
        for change in self._liveness.tick(now):
            self._lives(change, now)
        if self._events or now >= self._scheduler_due:
            self._decide(now)
        self.kernels.tick(now)
        if self._departed:
            self._close_departed(now)
        if now >= self._looks.soonest:
            for session_id in self._looks.take_up_to(now):
                self._touched[session_id] = self.peers[session_id]
        return list(self._outgoing(now))

    def _lives(self, change: Suspected | Trusted | Lost, now: float) -> None:
        node = SessionId(change.node)
        peer = self.peers[node]
        if isinstance(change, Lost):
            linger_s = LINGER_S if peer.comes_back else 0.0
            self.remove(node, "nothing was heard of it", now, linger_s)
        elif peer.role == "slave" and peer.heard:
            self._events.append(e.SlaveSuspected(node) if isinstance(change, Suspected) else e.SlaveTrusted(node))

    def _outgoing(self, now: float) -> Iterator[Outgoing]:
        for session_id, peer in self._touched.items():
            if not peer.heard:
                continue  # there is no connection yet
            envelopes = peer.session.flush(now)
            if not envelopes and now - peer.said_at >= self._interval_s:
                envelopes = [peer.session.keepalive()]
            if envelopes:
                peer.said_at = now
                for frames in envelopes:
                    yield session_id, frames
            self._look_again(peer, now)
        self._touched.clear()
        if self._farewells:
            farewells, self._farewells = self._farewells, []
            yield from farewells

    def _look_again(self, peer: Peer, now: float) -> None:
        """Plan when to look at a peer at the latest; an earlier plan stays, a look too many does no harm."""
        due = peer.session.next_deadline()
        keepalive = peer.said_at + self._interval_s
        due = keepalive if due is None or keepalive < due else due
        if due < peer.look_at or peer.look_at <= now:
            peer.look_at = due
            self._looks.set(peer.session_id, due)

    def probe(self) -> list[Outgoing]:
        """Give an envelope for every peer, so that the transport finds out who has no connection any more."""
        return [(session_id, peer.session.keepalive()) for session_id, peer in self.peers.items() if peer.heard]

    def next_deadline(self, now: float) -> float:
        """When `step` should be called again at the latest."""
        scheduler_due, alive = self.scheduler.next_deadline(), self._liveness.next_deadline()
        self._scheduler_due = inf if scheduler_due is None else scheduler_due
        due = min(now + self._interval_s, self._scheduler_due, inf if alive is None else alive, self._looks.soonest)
        return min(due, self.kernels.next_deadline())

    def status(self) -> dict[str, Any]:
        """Tell what there is, for people and for the control channel."""
        slaves = [peer for peer in self.peers.values() if peer.role == "slave"]
        return {
            "epoch": self.epoch,
            "slaves": [
                {
                    "name": peer.name,
                    "slots": peer.slots,
                    "done": peer.done,
                    "fetched_bytes": 0 if peer.holder is None else peer.holder.fetched_bytes,
                    **self._load_of(peer),
                }
                for peer in slaves
            ],
            "clients": [
                {"name": peer.name, "done": peer.done} for peer in self.peers.values() if peer.role == "client"
            ],
            "tasks": self._count_tasks(),
            "functions": len(self._functions),
        }

    def _load_of(self, peer: Peer) -> dict[str, Any]:
        slave = self.scheduler.slaves.get(peer.session_id)
        if slave is None:
            return {"in_flight": 0, "state": "joining"}
        state = "draining" if not slave.slots else "active" if slave.trusted else "suspected"
        return {"in_flight": len(slave.tasks) + len(slave.ghosts), "state": state}

    def _count_tasks(self) -> dict[str, int]:
        jobs = self.scheduler.jobs.values()
        assigned = sum(len(slave.tasks) for slave in self.scheduler.slaves.values())
        unforgotten = sum(len(job.tasks) for job in jobs)
        waiting = self.scheduler.waiting
        return {"jobs": len(jobs), "waiting": waiting, "assigned": assigned, "kept": unforgotten - waiting - assigned}
