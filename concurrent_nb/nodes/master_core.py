"""The master without sockets: who is here, what he may say, what the scheduler makes of it, what goes out.

    frames of a peer -> Session -> event -> Scheduler -> instruction -> Session -> frames for a peer

Called by `Master` from its compute thread, by the simulator and by the tour in tests/test_life_of_a_task.py. Payloads
are opaque here: nothing is ever unpickled.
"""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Any, Final, cast

import msgspec

from concurrent_nb.errors import ConfigurationError, ProtocolError
from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.nodes.kernel_desk import KernelDesk
from concurrent_nb.nodes.memory_desk import Account, MemoryDesk, Said
from concurrent_nb.nodes.shared import Shelf, objects_of
from concurrent_nb.objects.store import Store
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling import instructions as i
from concurrent_nb.scheduling.liveness import Liveness, Lost, Suspected, Trusted
from concurrent_nb.scheduling.ranking import Ranking
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.tasks.task import Job, ObjectSize
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

#: what an application whose connection has broken left is kept so long for its return
KEPT_S: Final = 3600.0
#: the jobs of a session that another one has replaced are opened again within this time
LINGER_S: Final = 10.0
#: of what tasks write, so much is kept for a silent client; more is left out
OUTPUT_KEPT_BYTES: Final = 16 * 1024 * 1024
#: a process that ends is there for a moment after its connection has broken: it is looked for again after so long, and
#: then ever less often
CHECK_S: Final = 0.02
#: so many tasks that had workers or slaves die are told of at most
SUSPECTS_TOLD: Final = 100
#: functions of jobs that are over are kept for the next job, so many of them, of so many bytes in all
IDLE_FUNCTIONS: Final = 64
IDLE_BYTES: Final = 64 * 1024 * 1024
#: a status lists so many clients, and so many jobs, and tells how many more there are
LISTED_MAX: Final = 500

Outgoing = tuple[SessionId, list[Buffer]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node is, as it says: shown to people, believed by nobody."""

    host: str = ""
    pid: int = 0
    cores: int = 0  #: that a slave may use


@dataclass(eq=False, slots=True)
class Peer:
    """A registered node."""

    session_id: SessionId
    role: str  #: "client" or "slave"
    key: bytes  #: its CURVE public key, z85; a client's principal
    name: str
    session: Session
    memory: Account
    functions: set[bytes] = field(default_factory=set)  #: digests that a slave has
    slots: int = 0
    credit: int = 0
    heard: bool = False  #: it has said something on the compute channel
    comes_back: bool = True  #: if a client's connection has broken, its jobs wait for it
    is_alive: Callable[[], bool] = lambda: True  #: whether a client's process is there, as far as can be seen from here
    replaces: SessionId | None = None  #: a client's former session, until this one is heard
    is_silent: bool = False  #: nothing was heard of it for a while
    output_bytes: int = 0  #: what tasks have written for it since it is silent
    cut: "dict[tuple[bytes, int, int, int], int]" = field(default_factory=dict)  #: left out of that, by task and stream
    done: int = 0  #: outcomes that it has sent or got
    outdated: int = 0  #: workers of a slave that are still to be replaced, after a restart
    place: Place = Place()
    since: float = 0.0  #: when it registered
    load: m.HostLoad | None = None  #: how busy a slave's host is, as it last said
    said_at: float = 0.0  #: when we last said something to it
    look_at: float = inf  #: when to look at it again at the latest


@dataclass(eq=False, slots=True)
class _Function:
    message: m.Function
    buffers: Sequence[Buffers]
    jobs: set[bytes]  #: open jobs that use it


def _whereabouts(peer: Peer, now: float) -> dict[str, Any]:
    return {"host": peer.place.host, "pid": peer.place.pid, "uptime_s": now - peer.since}


class MasterCore:
    """Everything that a master decides.

    Args:
        epoch: number of this life, larger than that of any earlier one.
        scheduler: decides who runs what.
        liveness: decides who is gone.
        interval_s: seconds between two signs of life.
        kept_s: for so many seconds an application whose connection has broken may come back.
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
        *,
        kept_s: float = KEPT_S,
    ) -> None:
        self.epoch = epoch
        self._kept_s = kept_s
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
        self._silent: dict[SessionId, Peer] = {}  # clients
        self._next_check = 0.0  # when to see whether their processes are there
        self._check_after_s = CHECK_S  # and how long after that again
        self._scheduler_due = 0.0
        self._restarts = 0  # orders to restart workers
        self.kernels = KernelDesk()
        self._memory = MemoryDesk(
            shelf, store, touched=self._touch, happened=self._note, closed=self._drop_functions_in
        )
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
            m.WorkersOutdated: self._on_workers_outdated,
            m.HostLoad: self._on_host_load,
            m.ShareMemory: self._on_memory,
            m.Segment: self._on_memory,
            m.Content: self._on_memory,
            m.DropSegments: self._on_memory,
            m.Release: self._on_memory,
        }

    # ------------------------------------------------------------------------------------------------ coming and going

    def add_client(
        self,
        session_id: SessionId,
        key: bytes,
        name: str,
        now: float,
        comes_back: bool = True,
        place: Place = Place(),
        *,
        is_alive: Callable[[], bool] = lambda: True,
        replaces: SessionId | None = None,
    ) -> None:
        """Register an application; its jobs belong to `key`.

        Args:
            comes_back: its jobs wait for it when its connection has broken; else they end a moment later.
            is_alive: says whether its process is there, where that can be seen; asked while it is silent.
            replaces: its former session, which ends when this one is heard.
        """
        session = Session(self.epoch, "from_client")
        memory = self._memory.client(session_id, key, name, session)
        peer = Peer(session_id, "client", key, name, session, memory, comes_back=comes_back, place=place)
        peer.is_alive, peer.replaces = is_alive, replaces
        self._add(peer, now)

    def add_slave(
        self,
        session_id: SessionId,
        key: bytes,
        name: str,
        slots: int,
        credit: int,
        now: float,
        place: Place = Place(),
    ) -> str:
        """Register a slave; give the name that it has here (another one if the name is taken)."""
        taken = {peer.name for peer in self.peers.values() if peer.role == "slave"}
        name = next(n for n in (name, *(f"{name}-{k}" for k in range(2, len(taken) + 3))) if n not in taken)
        session = Session(self.epoch, "from_slave")
        memory = self._memory.slave(session_id, key, name, session)
        peer = Peer(session_id, "slave", key, name, session, memory, slots=slots, credit=credit, place=place)
        self._add(peer, now)
        return name

    def _add(self, peer: Peer, now: float) -> None:
        peer.said_at = peer.since = now
        self.peers[peer.session_id] = peer
        self._keys[peer.key] = self._keys.get(peer.key, 0) + 1
        self._liveness.watch(peer.session_id, now)
        log.info("%s %r has registered", peer.role, peer.name)

    def remove(
        self, session_id: SessionId, reason: str, now: float, linger_s: float = 0.0, *, left: bool = False
    ) -> bool:
        """End a session. False if there is none of that id. Its tasks are run elsewhere; its jobs linger or end.

        A slave that has `left`, and did not break, was not killed by what ran there.
        """
        peer = self.peers.pop(session_id, None)
        if peer is None:
            return False
        self._memory.left(peer.memory)
        self._liveness.forget(session_id)
        self._looks.discard(session_id)
        self._touched.pop(session_id, None)
        self._silent.pop(session_id, None)
        self._keys[peer.key] -= 1
        if not self._keys[peer.key]:
            del self._keys[peer.key]
        self._farewells.append((session_id, peer.session.bye(reason)))
        log.info("%s %r has gone: %s", peer.role, peer.name, reason)
        if peer.role == "client":
            self._events.append(e.ClientLost(session_id, linger_s))
        elif peer.heard:
            self._events.append(e.SlaveLost(session_id, reason, left or not peer.slots))
        if peer.role == "slave":
            self.kernels.lost(session_id, reason)
        self._decide(now)
        self._memory.abandon(peer.memory, now + linger_s)
        return True

    def stop(self) -> list[Outgoing]:
        """Give a farewell for every peer: the cluster has been stopped."""
        return [(session_id, peer.session.bye(m.CLUSTER_STOPPED)) for session_id, peer in self.peers.items()]

    def admits(self, key: bytes) -> int:
        """Say how many nodes are registered with this key."""
        return self._keys.get(key, 0)

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

    def restart_workers(self, *, stop: bool) -> int:
        """Have all slaves replace their workers; give how many those are. `status` shows how far they are.

        What runs ends first, or with `stop` runs again.
        """
        self._restarts += 1
        workers = 0
        for peer in self.peers.values():
            if peer.role == "slave" and peer.slots:
                peer.outdated = peer.slots
                workers += peer.slots
                self._send(peer.session_id, m.RestartWorkers(self._restarts, stop))
        return workers

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
                shares = any(type(item.message) is m.ShareMemory for item in items)
                peer.memory.introductions.share(shares)
                if peer.role == "client":
                    self._is_heard_first(peer, now)
                else:
                    self._events.append(e.SlaveJoined(peer.session_id, peer.name, peer.slots, peer.credit, shares))
                    self._decide(now)
            acknowledged = cast("list[e.OutcomesAcknowledged]", peer.session.take_acked())
            if acknowledged and self._memory.kept:
                self._memory.hand_over(peer.memory, acknowledged)  # first: it may release them in this very envelope
            for item in items:
                self._handlers[type(item.message)](peer, item.message, item, now)
            self._events += acknowledged
            self._decide(now)
            if self._memory.arrived:
                self._memory.keep(self._counts)
            if peer.session.closed_by_peer is not None:
                self.remove(peer.session_id, f"it said goodbye: {peer.session.closed_by_peer}", now, left=True)
        except ProtocolError as error:
            log.warning("%s %r broke the protocol: %s", peer.role, peer.name, error)
            self._events.clear()
            self._memory.keep(self._counts)  # none of it does
            self.remove(peer.session_id, f"protocol error: {error}", now)

    def _is_heard_first(self, client: Peer, now: float) -> None:
        """From now on silence is no loss; and what its former session had is this one's."""
        self._liveness.keep(client.session_id, self._kept_s if client.comes_back else None)
        former = None if client.replaces is None else self.peers.get(client.replaces)
        if former is not None and former.role == "client" and former.key == client.key and former is not client:
            self.remove(former.session_id, "it has registered again", now, LINGER_S)

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
        if (here := self._memory.here(peer.memory, message.sizes, buffers[0])) is None:
            log.warning("%s of %r lies in shared memory that cannot be opened: it counts as not sent", name, peer.name)
            return
        sizes, own = here
        if sizes is not message.sizes:
            message, buffers = m.Function(message.digest, message.body, sizes), [own]
        self._functions[message.digest] = _Function(message, buffers, set())
        self._retire(message.digest)

    def _on_open_job(self, peer: Peer, message: m.OpenJob, _: Received, now: float) -> None:
        job = JobId(message.job)
        owner = peer.key.decode()
        self._events.append(
            e.JobOpened(
                peer.session_id,
                owner,
                job,
                message.name,
                message.until,
                message.stop_on_error,
                message.strategy or "",
                peer.memory.introductions.shares,
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
            parts = []
            for at, task in enumerate(tasks):
                here = self._memory.here(peer.memory, task.sizes, buffers[at] if buffers else ())
                if here is None:
                    self._refuse(peer, message, "its arguments lie in shared memory that the master cannot open")
                    return
                parts.append(here)
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
        self._memory.outcomes(peer.session_id, JobId(message.job), message.items)
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
        client = None if task.job.client is None else self.peers.get(task.job.client)
        if client is not None and (not (client.is_silent or client.cut) or self._has_room_for(client, message)):
            self._send(client.session_id, message)

    def _has_room_for(self, client: Peer, message: m.Output) -> bool:
        """Say whether output is kept for a silent client. Of a stream that was cut once nothing more is sent at all."""
        ref = message.task
        name = (ref.job, ref.index, ref.attempt, message.stream)
        if name in client.cut or (client.is_silent and client.output_bytes + len(message.data) > OUTPUT_KEPT_BYTES):
            client.cut[name] = client.cut.get(name, 0) + len(message.data)
            return False
        client.output_bytes += len(message.data)
        return True

    def _on_capacity(self, peer: Peer, message: m.Capacity, _: Received, now: float) -> None:
        if not 0 <= message.slots <= message.credit:
            raise ProtocolError(f"capacity of {message.slots} slots with a credit of {message.credit}")
        peer.slots = message.slots
        self._events.append(e.SlaveResized(peer.session_id, message.slots, message.credit))

    def _on_kernel_opened(self, peer: Peer, message: m.KernelOpened, _: Received, now: float) -> None:
        self.kernels.answered(peer.session_id, message)

    def _on_workers_outdated(self, peer: Peer, message: m.WorkersOutdated, _: Received, now: float) -> None:
        if message.request == self._restarts:
            peer.outdated = message.left

    def _on_host_load(self, peer: Peer, message: m.HostLoad, _: Received, now: float) -> None:
        peer.load = message

    def _on_memory(self, peer: Peer, message: Said, item: Received, now: float) -> None:
        self._memory.heard(peer.memory, message, item.buffers[0] if item.buffers else ())

    def _counts(self, job_id: JobId, frame: m.OutcomeFrame) -> bool:
        """Say whether an outcome is the one of its task."""
        job = self.scheduler.jobs.get(job_id)
        task = None if job is None else job.tasks.get(frame.index)
        return task is not None and task.outcome is frame

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

    def _touch(self, session_id: SessionId) -> None:
        self._touched[session_id] = self.peers[session_id]

    def _note(self, event: e.Event) -> None:
        self._events.append(event)

    def _assign(self, assign: i.Assign) -> None:
        slave = self._touched[assign.slave] = self.peers[assign.slave]
        if assign.function not in slave.functions:
            self._send_function(slave, self._functions[assign.function])
        buffers: ItemBuffers = ()
        if any(task.sizes for task in assign.tasks):
            outgoing = slave.memory.introductions.outgoing
            parts = [outgoing(task.sizes, task.buffers, once=True) for task in assign.tasks]
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
        sizes, buffers = slave.memory.introductions.outgoing(message.sizes, function.buffers[0], once=True)
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
            outgoing = client.memory.introductions.outgoing
            parts = [outgoing(item.sizes, buffers[at] if buffers else ()) for at, item in enumerate(items)]
            buffers = [own for _, own in parts]
            items = [
                item if sizes is item.sizes else msgspec.structs.replace(item, sizes=sizes)
                for item, (sizes, _) in zip(items, parts, strict=True)
            ]
        client.session.send(m.Outcomes(deliver.job, deliver.slave, items), buffers, acknowledged)

    def _forget_job(self, job: JobId) -> None:
        self._memory.forget_job(job)
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

    def _drop_functions_in(self, segments: set[bytes]) -> None:
        """Forget functions that lie in segments that are gone."""
        for digest, function in list(self._functions.items()):
            if any(slice_.segment in segments for slice_ in slices_of(function.message.sizes)):
                self._idle_functions.pop(digest, None)
                self._drop_function(digest)

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
        if self._silent and now >= self._next_check:
            self._next_check = now + self._check_after_s
            self._check_after_s = min(2 * self._check_after_s, self._interval_s)
            for peer in list(self._silent.values()):
                if not peer.is_alive():
                    self.remove(peer.session_id, "its process has ended", now)
        if self._events or now >= self._scheduler_due:
            self._decide(now)
        self.kernels.tick(now)
        if self._memory.departed:
            self._memory.close_departed(now)
        if now >= self._looks.soonest:
            for session_id in self._looks.take_up_to(now):
                self._touched[session_id] = self.peers[session_id]
        return list(self._outgoing(now))

    def _lives(self, change: Suspected | Trusted | Lost, now: float) -> None:
        node = SessionId(change.node)
        peer = self.peers[node]
        if isinstance(change, Lost):
            kept = peer.role == "client" and peer.heard
            self.remove(
                node, "its connection has broken, and it did not return" if kept else "nothing was heard of it", now
            )
        elif peer.role == "client":
            self._is_silent(peer, isinstance(change, Suspected))
        elif peer.heard:
            self._events.append(e.SlaveSuspected(node) if isinstance(change, Suspected) else e.SlaveTrusted(node))

    def _is_silent(self, client: Peer, is_silent: bool) -> None:
        """Tell a silent client nothing but that we are here, so that nothing gathers in front of it."""
        client.is_silent = is_silent
        if is_silent:
            self._silent[client.session_id] = client
            self._next_check, self._check_after_s = 0.0, CHECK_S
            self._events.append(e.ClientSilent(client.session_id))
            return
        self._silent.pop(client.session_id, None)
        client.output_bytes = 0
        for (job, index, attempt, stream), count in client.cut.items():
            if count and stream != m.NOTES:
                note = f"\n[{count:,} bytes of output are left out here, and what follows: nobody took it]\n"
                client.session.send(m.Output(m.TaskRef(job, index, attempt), stream, note.encode()))
        client.cut = dict.fromkeys(client.cut, 0)
        self._touched[client.session_id] = client
        self._events.append(e.ClientHeard(client.session_id))

    def _outgoing(self, now: float) -> Iterator[Outgoing]:
        for session_id, peer in self._touched.items():
            if not peer.heard:
                continue  # there is no connection yet
            envelopes = [] if peer.is_silent else peer.session.flush(now)
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
        due = None if peer.is_silent else peer.session.next_deadline()
        keepalive = peer.said_at + self._interval_s
        due = keepalive if due is None or keepalive < due else due
        if due < peer.look_at or peer.look_at <= now:
            peer.look_at = due
            self._looks.set(peer.session_id, due)

    def next_deadline(self, now: float) -> float:
        """When `step` should be called again at the latest."""
        scheduler_due, alive = self.scheduler.next_deadline(), self._liveness.next_deadline()
        self._scheduler_due = inf if scheduler_due is None else scheduler_due
        due = min(now + self._interval_s, self._scheduler_due, inf if alive is None else alive, self._looks.soonest)
        if self._silent:
            due = min(due, self._next_check)
        return min(due, self.kernels.next_deadline())

    def status(self, now: float, session_id: SessionId | None = None, *, sees_all: bool = False) -> dict[str, Any]:
        """Tell what there is, for people and for the control channel. Times and ages are in seconds, sizes in bytes.

        Args:
            now: the time.
            session_id: of the application that asks: the jobs of its principal are told.
            sees_all: tell the jobs of all principals.
        """
        slaves = [peer for peer in self.peers.values() if peer.role == "slave"]
        asker = None if session_id is None else self.peers.get(session_id)
        owner = asker.key.decode() if asker is not None and asker.role == "client" else None
        jobs = [job for job in self.scheduler.jobs.values() if sees_all or job.owner == owner]
        clients = [peer for peer in self.peers.values() if peer.role == "client"]
        paused = self.scheduler.paused
        assigned = Counter(task.job.id for slave in self.scheduler.slaves.values() for task in slave.tasks)
        return {
            "epoch": self.epoch,
            "slaves": [
                {
                    "name": peer.name,
                    "slots": peer.slots,
                    "done": peer.done,
                    "fetched_bytes": peer.memory.fetched_bytes,
                    "outdated": peer.outdated,
                    "cores": peer.place.cores,
                    **_whereabouts(peer, now),
                    **self._load_of(peer),
                }
                for peer in slaves
            ],
            "clients": [
                {"name": peer.name, "done": peer.done, **_whereabouts(peer, now)} for peer in clients[:LISTED_MAX]
            ],
            "more_clients": max(0, len(clients) - LISTED_MAX),
            "jobs": [
                self._describe_job(job, assigned[job.id], owner, now, paused.get(job.owner, 0))
                for job in jobs[-LISTED_MAX:]
            ],
            "more_jobs": max(0, len(jobs) - LISTED_MAX),
            "other_jobs": len(self.scheduler.jobs) - len(jobs),
            "suspects": self._describe_suspects({job.id for job in jobs}),
            "tasks": self._count_tasks(),
            "functions": len(self._functions),
        }

    def _load_of(self, peer: Peer) -> dict[str, Any]:
        slave, load = self.scheduler.slaves.get(peer.session_id), peer.load
        host = {
            "load": None if load is None else load.load,
            "memory_used_bytes": None if load is None else load.memory_used_bytes,
            "memory_total_bytes": None if load is None else load.memory_total_bytes,
        }
        if slave is None:
            return {"in_flight": 0, "busy": 0, "state": "joining", **host}
        state = "draining" if not slave.slots else "active" if slave.trusted else "suspected"
        busy = min(slave.load, slave.slots)
        return {"in_flight": len(slave.tasks) + len(slave.ghosts), "busy": busy, "state": state, **host}

    def _describe_job(
        self, job: Job, assigned: int, owner: str | None, now: float, untaken_bytes: int
    ) -> dict[str, Any]:
        client = self.peers.get(job.client) if job.client is not None else None
        left = len(job.tasks)
        state = "idle" if not left else "stopping" if job.ended else "running" if assigned else "waiting"
        return {
            "id": job.id.hex(),
            "name": job.name,
            "client": None if client is None else client.name,
            "mine": job.owner == owner,
            "state": state,
            "tasks": job.accepted,
            "done": job.accepted - left,
            "assigned": assigned,
            "untaken_bytes": untaken_bytes,  # of results, for which it waits to be taken; 0 if it does not
            "age_s": now - job.opened_s,
        }

    def _describe_suspects(self, jobs: set[JobId]) -> list[dict[str, Any]]:
        """Tell of tasks of these jobs that had workers or slaves die, and have not ended."""
        told = []
        for task in islice((task for task in self.scheduler.blamed if task.job.id in jobs), SUSPECTS_TOLD):
            slave = None if task.slave is None else self.scheduler.slaves[task.slave].name
            does = "waits for a slave" if slave is None else f"is on slave {slave}"
            alone = "alone, because one of its deaths cost a slave" if task.suspect else "beside others"
            told.append({"task": task.name, "state": f"{does}, to run {alone}", "deaths": list(task.deaths)})
        return told

    def _count_tasks(self) -> dict[str, int]:
        jobs = self.scheduler.jobs.values()
        assigned = sum(len(slave.tasks) for slave in self.scheduler.slaves.values())
        unforgotten = sum(len(job.tasks) for job in jobs)
        waiting = self.scheduler.waiting
        return {"jobs": len(jobs), "waiting": waiting, "assigned": assigned, "kept": unforgotten - waiting - assigned}
