"""The master without sockets: registered peers, their messages as events, instructions as messages.

    frames of a peer -> Session -> event -> Scheduler -> instruction -> Session -> frames for a peer

Called by `Master` from its compute thread, by the simulator and by the test of a task's life
(tests/test_life_of_a_task.py). Payloads are opaque here: nothing is ever unpickled.

Messages become events in `client_messages` and `slave_messages`; instructions are executed in `dispatch`;
`control_requests` has what callers of the control channel ask.

There is a bulkhead around each peer: any exception while an envelope is handled ends its sender's session, and events
of the envelope that were not handled yet are dropped.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hmac import compare_digest
from math import inf
from types import MappingProxyType
from typing import Any, Final, cast

from concurrent_nb.errors import AccessRefused, LimitExceeded, ProtocolError
from concurrent_nb.ids import Digest, JobId, SessionId, task_name
from concurrent_nb.journal.journal_store import JournalStore
from concurrent_nb.nodes.common.shared_memory_link import PeerSegments
from concurrent_nb.nodes.master.client_limits import DEFAULT, SLACK, Limits, Usage
from concurrent_nb.nodes.master.client_messages import ClientMessages
from concurrent_nb.nodes.master.cluster_statistics import cluster_statistics, job_statistics
from concurrent_nb.nodes.master.cluster_view import view_of
from concurrent_nb.nodes.master.control_requests import ControlRequests
from concurrent_nb.nodes.master.detached_jobs import DetachedJobs, DetachedLimits
from concurrent_nb.nodes.master.dispatch import Dispatch
from concurrent_nb.nodes.master.function_table import FunctionTable
from concurrent_nb.nodes.master.journal_recorder import JournalRecorder
from concurrent_nb.nodes.master.kernel_requests import KernelRequests
from concurrent_nb.nodes.master.measured_values import MeasuredValues
from concurrent_nb.nodes.master.peers import NO_PLACE, UNKNOWN_NODE, Handler, NodeInfo, Peer, SlavePlace, ids_of
from concurrent_nb.nodes.master.recovery import events_of, restore_functions
from concurrent_nb.nodes.master.rejoining import Rejoining
from concurrent_nb.nodes.master.shared_memory import SharedMemoryMessage, SharedMemoryTracker
from concurrent_nb.nodes.master.shared_views import SharedViews
from concurrent_nb.nodes.master.slave_messages import SlaveMessages
from concurrent_nb.nodes.master.stack_requests import StackRequests
from concurrent_nb.nodes.master.status import describe
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.rate_limited_log import RateLimitedLog
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling import instructions as i
from concurrent_nb.scheduling.liveness import Liveness, NodeChange, NodeState
from concurrent_nb.scheduling.ranking import Ranking
from concurrent_nb.scheduling.refusal import EventRefused
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.telemetry.feed_state import ClusterView
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import (
    Buffer,
    Received,
)
from concurrent_nb.wire.session import Session

log = logging.getLogger(__name__)

#: how long jobs and results of an application whose connection has broken are kept for its return
KEPT_S: Final = 3600.0
#: how long the jobs of a session that another one has replaced are kept until they are opened again
LINGER_S: Final = 10.0
#: a process that ends still exists for a moment after its connection has broken: it is checked again after this time,
#: then at growing intervals
CHECK_S: Final = 0.02
#: how long after its registration the first envelope of a node may take
JOIN_WITHIN_S: Final = 10.0

Outgoing = tuple[SessionId, list[Buffer]]


class MasterCore:
    """Everything that a master decides.

    Args:
        epoch: number of this run of the master, larger than that of any earlier one.
        scheduler: assigns tasks to slaves.
        liveness: detects lost nodes.
        interval_s: seconds between two heartbeats.
        reader: keeps the shared memory of other nodes open; None to share none.
        store: where contents from applications on other hosts are stored; None if no node could open them.
        kept_s: how long an application whose connection has broken may come back, in seconds.
        limits: what clients may make this master hold.
        detached: how long, and how much, it keeps of detached jobs.
        journal: takes down what is accepted; None: there is none. No memory may be shared with one.
    """

    def __init__(
        self,
        epoch: int,
        scheduler: Scheduler,
        liveness: Liveness,
        interval_s: float = 1.0,
        reader: PeerSegments | None = None,
        store: ObjectStore | None = None,
        *,
        kept_s: float = KEPT_S,
        limits: Limits = DEFAULT,
        detached: DetachedLimits | None = None,
        journal: JournalStore | None = None,
    ) -> None:
        self.epoch = epoch
        self._kept_s = kept_s
        self._interval_s = interval_s
        self.scheduler = scheduler
        self._liveness = liveness
        self.peers: dict[SessionId, Peer] = {}
        self.limits = limits = replace(limits)  # of its own, because it may change
        self._usages: dict[bytes, Usage] = {}  # by key of the owner
        self._links: Counter[bytes] = Counter()  # registered nodes, by the key of their link
        self._joined: Counter[str] = Counter()  # sessions that have joined, by role
        self._not_joined: dict[str, dict[SessionId, Peer]] = {"client": {}, "slave": {}}  # by role, the oldest first
        self._byes: list[Outgoing] = []
        self._events: list[e.Event] = []  # not handled yet, from this process
        self._peer_events: list[e.Event] = []  # not handled yet, from the current envelope
        self._log = RateLimitedLog(log)
        self._deadlines: Ranking[SessionId] = Ranking()  # when to flush which peer again
        self._silent: dict[SessionId, Peer] = {}  # clients
        self._next_check_s = 0.0  # when to check whether their processes exist
        self._check_after_s = CHECK_S  # and the interval after that
        self._scheduler_due = 0.0
        self.places: Mapping[str, SlavePlace] = {}  #: of slaves that a launcher has started, by name
        self.kernels = KernelRequests()
        self.shared_views = SharedViews(scheduler)
        self.stacks = StackRequests()
        self._functions = FunctionTable(self._on_function_dropped, self._usages.__contains__)
        self._journal = journal
        self._recorder = None if journal is None else JournalRecorder(journal, scheduler, self._functions, self.peers)
        self.rejoining = Rejoining(self.peers, self._add_event, self._on_slave_gone)
        self._memory = SharedMemoryTracker(
            reader,
            store,
            touched=self._touch,
            on_event=self._add_event,
            closed=self._drop_functions_in,
            is_needed=scheduler.needs_result,
            is_kept=scheduler.is_kept,
            limits=limits,
        )
        #: jobs that outlive their applications
        self.detached = DetachedJobs(
            epoch,
            scheduler,
            self._memory,
            detached or DetachedLimits(),
            emit=self._add_event,
            send=self._send,
            show=self._show,
        )
        self._dispatch = Dispatch(
            self.peers, self._functions, self._memory, limits, self._add_event, self.remove, self.detached
        )
        self._measured = MeasuredValues()
        emit = self._peer_events.append
        self._client_messages = ClientMessages(
            self.peers, self._functions, self._memory, scheduler, self._measured, limits, emit, self.detached
        )
        scheduler.task_log.name_of = self._client_messages.name_of
        self._slave_messages = SlaveMessages(
            self.peers, self._memory, scheduler, self.kernels, self.stacks, self._dispatch.send, emit, self.detached
        )
        #: what callers of the control channel ask of slaves and jobs
        self.requests = ControlRequests(
            self.peers,
            scheduler,
            self._dispatch,
            self.kernels,
            self.stacks,
            self._add_event,
            self._decide,
            self.detached,
        )
        self._handlers: dict[type, Handler] = {
            **self._client_messages.handlers(),
            **self._slave_messages.handlers(),
            m.OfferAttempts: self._on_offer,
            m.ShareMemory: self._on_memory,
            m.Segment: self._on_memory,
            m.Content: self._on_memory,
            m.DropSegments: self._on_memory,
            m.Release: self._on_memory,
        }

    def recover(self, now: float, rejoin_s: float) -> None:
        """Go on with what the journal has. To be called once, before any peer registers.

        Args:
            now: the time, in seconds.
            rejoin_s: how long to wait for the slaves of the former run before tasks are assigned.
        """
        if self._journal is None or self._recorder is None:
            return
        replayed = self._journal.take_replayed()
        restore_functions(replayed, self._functions)
        self._recorder.recovered(replayed)
        instructions = self.scheduler.handle(*events_of(replayed, self._kept_s, LINGER_S), now=now)
        self._dispatch.execute(instructions, now)
        self.scheduler.note_conclusions()
        self._recorder.handled((), instructions)
        jobs, waiting = len(self.scheduler.jobs), self.scheduler.waiting
        if jobs:
            log.warning("the journal has %d open jobs, in which %d tasks have not ended", jobs, waiting)
        self.rejoining.wait_for(replayed.slaves, now + (rejoin_s if waiting else 0.0))

    # ------------------------------------------------------------------------------------------------ coming and going

    def add_client(
        self,
        session_id: SessionId,
        key: bytes,
        name: str,
        now: float,
        comes_back: bool = True,
        info: NodeInfo = UNKNOWN_NODE,
        *,
        is_alive: Callable[[], bool] = lambda: True,
        replaces: SessionId | None = None,
        secret: str = "",
        parent: tuple[JobId, int] | None = None,
    ) -> None:
        """Register an application; its jobs belong to `key`. It joins with its first envelope.

        Args:
            session_id: a new id.
            key: its CURVE public key.
            name: for people.
            now: the time, in seconds.
            comes_back: whether its jobs wait for it when its connection has broken; else they end soon.
            info: host and process.
            is_alive: returns whether its process exists, as far as that is visible; called while it is silent.
            replaces: its former session, which ends when this one joins.
            secret: proves on the control channel that a caller has this session.
            parent: job and index of the running task in which it is: its jobs belong to the owner of that task.

        Raises LimitExceeded if there are too many, and AccessRefused if that task does not run.
        """
        self._check_clients(replaces)
        owner, slave = (key, "") if parent is None else self._origin_of_running(*parent)
        session = self._session("from_client")
        memory = self._memory.client(session_id, owner, name, session)
        peer = Peer(session_id, "client", owner, name, session, memory, key, secret, comes_back=comes_back, info=info)
        peer.parent, peer.parent_slave = None if parent is None else parent[0], slave
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
        info: NodeInfo = UNKNOWN_NODE,
        *,
        secret: str = "",
    ) -> str:
        """Register a slave, which joins with its first envelope. Returns its name, another one if `name` is taken."""
        taken = {peer.name for peer in self.peers.values() if peer.role == "slave"}
        name = next(n for n in (name, *(f"{name}-{k}" for k in range(2, len(taken) + 3))) if n not in taken)
        session = self._session("from_slave")
        memory = self._memory.slave(session_id, key, name, session, slots)
        peer = Peer(session_id, "slave", key, name, session, memory, key, secret, slots=slots, credit=credit, info=info)
        self._add(peer, now)
        return name

    def _origin_of_running(self, job_id: JobId, index: int) -> tuple[bytes, str]:
        """Return the key of the owner of a task, and the slave that has it. Raises AccessRefused if none has."""
        job = self.scheduler.jobs.get(job_id)
        task = None if job is None else job.tasks.get(index)
        if job is None or task is None or task.slave is None or task.cancelled:
            raise AccessRefused(
                f"task {task_name(job_id, index)} has no application in it: it has ended, was cancelled, or never was"
            )
        return job.owner.encode(), self.scheduler.slaves[task.slave].name

    def owns_job(self, session_id: SessionId, job_id: JobId) -> bool:
        """Return whether a job, which has not ended, belongs to the owner of an application's jobs."""
        peer, job = self.peers.get(session_id), self.scheduler.jobs.get(job_id)
        return peer is not None and job is not None and job.owner == peer.key.decode()

    def _session(self, direction: str) -> Session:
        most, setting = self.limits.size_bytes, "bytes_per_client"
        if direction == "from_slave":  # a result must not be lost for its size
            most, setting = self.limits.object_bytes, "object_bytes"
        return Session(self.epoch, direction, object_max_bytes=int(most * SLACK), setting=f"MasterNode.{setting}")

    def _add(self, peer: Peer, now: float) -> None:
        not_joined = self._not_joined[peer.role]
        while len(not_joined) >= self.limits.not_joined:  # a new node must not wait for nodes that may never join
            self.remove(next(iter(not_joined)), "it has sent nothing, and others have registered", now)
        peer.sent_s = peer.since = now
        self.peers[peer.session_id] = not_joined[peer.session_id] = peer
        self._links[peer.link_key] += 1
        peer.usage = self._usages.setdefault(peer.key, Usage())
        peer.usage.sessions += 1
        self._log.info(peer.role, now, "%s %r has registered", peer.role, peer.name, ids=ids_of(peer))

    def _check_clients(self, replaces: SessionId | None) -> None:
        """Raise LimitExceeded if there are too many clients for one more, unless it replaces another."""
        if self._joined["client"] >= self.limits.clients and replaces not in self.peers:
            raise LimitExceeded(
                f"{self.limits.clients:,} clients are registered, and there may be no more: raise MasterNode.clients"
            )

    def remove(
        self, session_id: SessionId, reason: str, now: float, linger_s: float = 0.0, *, left: bool = False
    ) -> bool:
        """End a session. Returns False if there is none of that id. Its tasks run elsewhere; its jobs linger or end.

        With `left` a slave has left of its own accord: no task has killed it. Tasks that ran on one in a place that may
        take it away count that.
        """
        peer = self.peers.pop(session_id, None)
        if peer is None:
            return False
        self._memory.left(peer.memory)
        self._liveness.forget(session_id)
        self._deadlines.discard(session_id)
        self._dispatch.touched.pop(session_id, None)
        self._silent.pop(session_id, None)
        self._not_joined[peer.role].pop(session_id, None)
        self._joined[peer.role] -= peer.joined
        peer.usage.joined -= peer.joined
        peer.usage.sessions -= 1
        self._links[peer.link_key] -= 1
        if not self._links[peer.link_key]:
            del self._links[peer.link_key]
        if not peer.usage.sessions:
            del self._usages[peer.key]
            self._functions.forget_key(peer.key)
        self._byes.append((session_id, peer.session.bye(reason)))
        self._log.info(peer.role, now, "%s %r has gone: %s", peer.role, peer.name, reason, ids=ids_of(peer))
        is_needed = False
        if peer.role == "client":
            is_needed = self.detached.client_gone(peer, left=left, linger_s=linger_s, now=now)
            self._events.append(e.ClientLost(session_id, linger_s))
        elif peer.joined:
            left = left or not peer.slots
            place = self.places.get(peer.name, NO_PLACE)
            self._events.append(e.SlaveLost(session_id, reason, left, place.where, place.limit_s))
            kind = "left" if left else "lost"
            text = f"slave {peer.name} {'has left' if left else 'is lost'}: {reason}"
            self.scheduler.event_log.add(now, f"slave {kind}", text, slave=peer.name)
        if peer.role == "slave":
            self.kernels.lost(session_id, reason)
            self.stacks.lost(session_id, reason)
        self._decide(now)
        self._memory.abandon(peer.memory, inf if is_needed else now + linger_s)
        return True

    def stop(self) -> list[Outgoing]:
        """Return a Bye for every peer: the cluster has been stopped."""
        return [(session_id, peer.session.bye(m.CLUSTER_STOPPED)) for session_id, peer in self.peers.items()]

    def admits(self, key: bytes) -> int:
        """Return how many nodes are registered with this key."""
        return self._links[key]

    def is_session(self, session_id: SessionId, role: str, secret: str) -> bool:
        """Return whether a caller of a role has this session: its secret is that of the registration."""
        peer = self.peers.get(session_id)
        given = secret.encode(errors="replace")
        return peer is not None and peer.role == role and compare_digest(peer.secret.encode(), given)

    def owner_of(self, session_id: SessionId) -> str | None:
        """Return the owner whose session of an application it is; None if there is no such session."""
        peer = self.peers.get(session_id)
        return peer.key.decode() if peer is not None and peer.role == "client" else None

    def use_strategy(self, strategy: Strategy, now: float) -> None:
        """Place tasks by another strategy from now on, except those of jobs that name their own."""
        self.scheduler.use_strategy(strategy)
        self._decide(now)

    def keep_results_for(self, kept_s: float) -> None:
        """Set for how many seconds the results of applications whose connection has broken are kept."""
        self._kept_s = kept_s
        for peer in self.peers.values():
            if peer.role == "client" and peer.joined and peer.comes_back:
                self._liveness.keep(peer.session_id, kept_s)

    def heartbeat(self, session_id: SessionId, now: float) -> bool:
        """Take a heartbeat from the control channel. False if the session is over: the node must register again.

        It has no effect before the node has joined on the compute channel.
        """
        if session_id not in self.peers:
            return False
        self._liveness.seen(session_id, now)
        return True

    # --------------------------------------------------------------------------------------------------- what comes in

    def received(self, session_id: bytes, key: bytes, frames: Sequence[Buffer], now: float) -> None:
        """Handle one envelope. One from an unknown sender is dropped; one that violates the protocol ends its session.

        So does one with which its sender exceeds a limit, and one that cannot be handled for any other reason.
        """
        peer = self.peers.get(SessionId(session_id))
        if peer is None or peer.link_key != key:
            self._log.warning("strangers", now, "dropped an envelope from an unknown session or with another's key")
            if peer is None:
                frames_out = Session(self.epoch, "from_client").bye("this session is over: register again")
                self._byes.append((SessionId(session_id), frames_out))
            return
        try:
            self._handle(peer, frames, now)
        except ProtocolError as error:
            text = "%s %r has violated the protocol: %s"
            self._log.warning(key, now, text, peer.role, peer.name, error, ids=ids_of(peer))
            self._end_session(peer, f"protocol error: {error}", now)
        except LimitExceeded as error:
            text = "%s %r is over a limit: %s"
            self._log.warning(key, now, text, peer.role, peer.name, error, ids=ids_of(peer))
            self._end_session(peer, f"{m.OVER_LIMIT}{error}", now)
        except Exception as error:  # noqa: BLE001  (a bulkhead: what one peer sends must not end another)
            text = "an envelope of %s %r could not be handled, so its session ends"
            self._log.warning(key, now, text, peer.role, peer.name, error=error, ids=ids_of(peer))
            self._end_session(
                peer, f"the master could not handle what it sent ({type(error).__name__}: {error})"[:500], now
            )

    def _handle(self, peer: Peer, frames: Sequence[Buffer], now: float) -> None:
        items = peer.session.receive(frames, now)
        self._dispatch.touched[peer.session_id] = peer
        if not peer.joined:  # only now there is a connection over which tasks can be sent
            self._join(peer, items, now)
        self._liveness.seen(peer.session_id, now)
        if acknowledged := cast("list[e.OutcomesAcknowledged]", peer.session.take_acked()):
            if self._memory.kept:
                self._memory.hand_over(peer.memory, acknowledged)  # first: it may release them in this envelope
            self._events += acknowledged
        if peer.delayed or peer.is_full or peer.output.has_unsent_cuts:
            self._dispatch.resume(peer, now)
        if peer.role == "client":
            peer.usage.received(frames)
            if peer.usage.needs_recount:
                self._client_messages.check_usage(peer)
        for item in items:
            self._handlers[type(item.message)](peer, item.message, item, now)
        self._decide(now)
        if self._memory.undecided:
            self._memory.decide(self._is_final)
        if peer.session.closed_by_peer is not None:
            self.remove(peer.session_id, f"it sent a Bye: {peer.session.closed_by_peer[:500]}", now, left=True)

    def _end_session(self, peer: Peer, reason: str, now: float) -> None:
        """End a session whose envelope could not be handled: its events that were not handled yet are dropped."""
        self._peer_events.clear()
        self._functions.settle(self.scheduler.jobs)
        self._memory.decide(self._is_final)
        self.remove(peer.session_id, reason, now)

    def _join(self, peer: Peer, items: Sequence[Received], now: float) -> None:
        """Act on a node's first envelope, which proves that it has the key that it has registered."""
        if peer.role == "client":
            self._check_clients(peer.replaces)
        peer.joined = True
        self._joined[peer.role] += 1
        peer.usage.joined += 1
        del self._not_joined[peer.role][peer.session_id]
        self._liveness.watch(peer.session_id, now)
        shares = any(type(item.message) is m.ShareMemory for item in items)
        peer.memory.announced.share(shares)
        if peer.role == "slave":
            self._events.append(e.SlaveJoined(peer.session_id, peer.name, peer.slots, peer.credit, shares))
            self.rejoining.joined(peer)
            text = f"slave {peer.name} has joined with {peer.slots} slots"
            self.scheduler.event_log.add(now, "slave joined", text, slave=peer.name)
            if (level := self.requests.log_level) is not None:
                peer.session.send(m.SetLogLevel(level))
            return
        # From now on silence does not lose it; and it takes over the jobs of its former session.
        self._liveness.keep(peer.session_id, self._kept_s if peer.comes_back else None)
        former = None if peer.replaces is None else self.peers.get(peer.replaces)
        if former is not None and former.role == "client" and former.key == peer.key and former is not peer:
            self.remove(former.session_id, "it has registered again", now, LINGER_S)

    def unreachable(self, session_id: SessionId, now: float) -> None:
        """Note that a peer has no connection, as the transport reports."""
        if (peer := self.peers.get(session_id)) is not None and peer.joined:
            self._liveness.unreachable(session_id, now)

    def _on_memory(self, peer: Peer, message: SharedMemoryMessage, item: Received, now: float) -> None:
        self._memory.handle(peer.memory, message, item.buffers[0] if item.buffers else (), now)

    def _on_offer(self, peer: Peer, message: m.OfferAttempts, _: Received, now: float) -> None:
        self._peer_events.append(e.AttemptsOffered(peer.session_id, message.tasks))
        if message.is_last:
            self.rejoining.offered(peer)

    def _on_slave_gone(self, key: bytes) -> None:
        if self._recorder is not None:
            self._recorder.slave_gone(key)

    def _is_final(self, job_id: JobId, frame: m.OutcomeFrame) -> bool:
        """Return whether an outcome is the final one of its task."""
        job = self.scheduler.jobs.get(job_id)
        task = None if job is None else job.tasks.get(frame.index)
        return task is not None and task.outcome is frame

    # ------------------------------------------------------------------------------------------------- what is decided

    def _decide(self, now: float) -> None:
        """Pass all events to the scheduler in one call, and execute its instructions."""
        events, self._events = self._events, []
        if self._peer_events:
            events += self._peer_events
            self._peer_events.clear()
        try:
            instructions = self.scheduler.handle(*events, now=now)
        except EventRefused as refused:
            if self._recorder is not None:
                self._recorder.handled(events[: refused.position], ())
            raise
        finally:
            self._functions.settle(self.scheduler.jobs)
        if self._recorder is not None:
            self._recorder.handled(events, instructions)
        self._dispatch.execute(instructions, now)

    def _touch(self, session_id: SessionId) -> None:
        self._dispatch.touch(session_id)

    def _add_event(self, event: e.Event) -> None:
        self._events.append(event)

    def _send(self, to: SessionId, message: m.AnyMessage) -> None:
        self._dispatch.send(to, message)

    def _show(self, shown: i.ShowOutcomes, now: float) -> None:
        self._dispatch.execute([shown], now)

    def _drop_functions_in(self, segments: set[bytes]) -> None:
        """Drop functions in segments that are closed; tasks that wait for them are refused."""
        for digest, jobs in self._functions.drop_in(segments):
            why = "the master refused the task: its function lies in shared memory that its owner has dropped"
            self._events.append(e.FunctionLost(Digest(digest), jobs, why))

    def _on_function_dropped(self, digest: bytes) -> None:
        for peer in self.peers.values():
            if digest in peer.functions:
                peer.functions.discard(digest)
                self._dispatch.send(peer.session_id, m.DropFunctions([digest]))

    # --------------------------------------------------------------------------------------------------- what goes out

    def step(self, now: float) -> list[Outgoing]:
        """Do what is due by now, and return all envelopes that should be sent now."""
        for change in self._liveness.tick(now):
            self._on_node_change(change, now)
        if self._silent and now >= self._next_check_s:
            self._next_check_s = now + self._check_after_s
            self._check_after_s = min(2 * self._check_after_s, self._interval_s)
            for peer in list(self._silent.values()):
                if not peer.is_alive():
                    self.remove(peer.session_id, "its process has ended", now)
        for not_joined in self._not_joined.values():
            while (first := next(iter(not_joined.values()), None)) is not None and now - first.since >= JOIN_WITHIN_S:
                self.remove(first.session_id, f"it has sent nothing within {JOIN_WITHIN_S:.0f} s", now)
        self.detached.tick(now)
        if self.detached.acknowledged:
            self._events += self.detached.take_acknowledged()
        if now >= self.rejoining.due_s:
            self.rejoining.tick(now)
        if self._events or now >= self._scheduler_due:
            self._decide(now)
        self.kernels.tick(now)
        self.shared_views.tick(now)
        self.stacks.tick(now)
        if self._memory.departed:
            self._memory.close_departed(now)
        if now >= self._deadlines.soonest:
            for session_id in self._deadlines.take_up_to(now):
                self._touch(session_id)
        return list(self._outgoing(now))

    def _on_node_change(self, change: NodeChange, now: float) -> None:
        node, state = change
        peer = self.peers[node]
        if state is NodeState.LOST:
            if peer.role == "slave":
                text = f"slave {peer.name} does not answer: it has died, is frozen or cut off; its tasks run elsewhere"
                self._slave_messages.tell_owners(peer, text)
            kept = peer.role == "client" and peer.joined
            self.remove(
                node, "its connection has broken, and it did not return" if kept else "it was silent for too long", now
            )
        elif peer.role == "client":
            self._set_silent(peer, state is NodeState.SUSPECTED)
        else:
            peer.is_silent = state is NodeState.SUSPECTED
            if not peer.is_full and not self.rejoining.is_waiting:
                self._events.append(e.SlaveSuspected(node) if peer.is_silent else e.SlaveTrusted(node))

    def _set_silent(self, client: Peer, is_silent: bool) -> None:
        """Send a silent client heartbeats only, so that nothing gathers in its connection."""
        client.is_silent = is_silent
        if is_silent:
            self._silent[client.session_id] = client
            self._next_check_s, self._check_after_s = 0.0, CHECK_S
            self._events.append(e.ClientSilent(client.session_id))
            return
        self._silent.pop(client.session_id, None)
        for note in client.output.take_cuts():
            client.session.send(note)
        self._touch(client.session_id)
        self._events.append(e.ClientResumed(client.session_id))

    def _outgoing(self, now: float) -> Iterator[Outgoing]:
        touched, self._dispatch.touched = self._dispatch.touched, {}
        for session_id, peer in touched.items():
            if not peer.joined:
                continue  # there is no connection yet
            try:
                envelopes = [] if peer.is_silent and peer.role == "client" else peer.session.flush(now)
            except Exception as error:  # noqa: BLE001  (a bulkhead: the other peers must get their envelopes)
                text = "nothing can be sent to %s %r, so its session ends"
                self._log.warning(peer.key, now, text, peer.role, peer.name, error=error, ids=ids_of(peer))
                self.remove(session_id, f"the master could not send it something: {error}"[:500], now)
                continue
            if not envelopes and now - peer.sent_s >= self._interval_s:
                envelopes = [peer.session.heartbeat()]
            if envelopes:
                peer.sent_s = now
                for frames in envelopes:
                    yield session_id, frames
            self._plan_next(peer, now)
        if self._byes:
            byes, self._byes = self._byes, []
            yield from byes

    def _plan_next(self, peer: Peer, now: float) -> None:
        """Set when to flush a peer at the latest. An earlier deadline stays; a superfluous flush does no harm."""
        due = None if peer.is_silent and peer.role == "client" else peer.session.next_deadline()
        heartbeat = peer.sent_s + self._interval_s
        due = heartbeat if due is None or heartbeat < due else due
        if due < peer.next_due_s or peer.next_due_s <= now:
            peer.next_due_s = due
            self._deadlines.set(peer.session_id, due)

    def next_deadline(self, now: float) -> float:
        """Return when `step` must be called again at the latest."""
        if self._events or self._dispatch.touched:
            return now
        scheduler_due, alive = self.scheduler.next_deadline(), self._liveness.next_deadline()
        self._scheduler_due = inf if scheduler_due is None else scheduler_due
        due = min(now + self._interval_s, self._scheduler_due, inf if alive is None else alive, self._deadlines.soonest)
        if self._silent:
            due = min(due, self._next_check_s)
        due = min(due, self.rejoining.due_s)
        deadlines = (self.kernels, self.stacks, self.shared_views, self.detached)
        return min(due, *(each.next_deadline() for each in deadlines))

    def view(
        self,
        now: float,
        ended: Mapping[str, dict[str, Any]],
        launched: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> ClusterView:
        """Return the state of the cluster for its live feed.

        Args:
            now: the time.
            ended: jobs that have ended, as the feed has them.
            launched: state and place of the slaves that a launcher has started, by name.
        """
        return view_of(
            self.peers,
            self.scheduler,
            now,
            ended,
            self.shared_views.version_of,
            self._measured.version,
            launched,
        )

    def status(self, now: float, session_id: SessionId | None = None, *, sees_all: bool = False) -> dict[str, Any]:
        """Return the state of the cluster, for people and for the control channel, in seconds and bytes.

        Args:
            now: the time.
            session_id: of the application that asks: the jobs of its owner are listed.
            sees_all: list the jobs of all owners.
        """
        asker = None if session_id is None else self.peers.get(session_id)
        status = describe(self.peers, self.scheduler, self.detached, now, asker, sees_all=sees_all)
        journal = {} if self._journal is None else {"journal": self._journal.describe()}
        return {"epoch": self.epoch, **status, "functions": len(self._functions), **journal}

    def statistics(
        self, now: float, job: JobId | None, session_id: SessionId | None, *, sees_all: bool = False
    ) -> dict[str, Any]:
        """Return the statistics of a job, or of the cluster (None), in seconds and bytes.

        Args:
            now: the time.
            job: id of a job.
            session_id: of the application that asks: it gets the jobs of its owner.
            sees_all: the jobs of all owners may be asked for.

        Raises ConfigurationError if there is no such job for the application.
        """
        asker = None if session_id is None else self.peers.get(session_id)
        owner = None if sees_all else asker.key.decode() if asker is not None else ""
        if job is None:
            return {
                **cluster_statistics(self.peers, self.scheduler, now, owner),
                "values": self._measured.of_all(owner),
            }
        statistics = job_statistics(self.scheduler, now, job, owner)
        record = self.scheduler.find_job(job)
        errors = None if record is None or record.errors is None else record.errors.parts()
        return {**statistics, "values": self._measured.of(job), "errors": errors}
