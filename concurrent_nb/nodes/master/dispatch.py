"""Executes the scheduler's instructions: messages for slaves and applications. A part of `nodes.master.core`.

There is a bulkhead around each instruction. A failure affects only the owner of the data: tasks whose function or
arguments are not available are refused, and a result that is not available becomes an error.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from concurrent_nb.errors import TooLarge
from concurrent_nb.ids import JobId, SessionId, task_name
from concurrent_nb.nodes.master.client_limits import Limits
from concurrent_nb.nodes.master.client_output import OUTPUT_KEPT_BYTES
from concurrent_nb.nodes.master.detached_jobs import DetachedJobs
from concurrent_nb.nodes.master.function_table import FunctionTable
from concurrent_nb.nodes.master.peers import Peer
from concurrent_nb.nodes.master.shared_memory import SharedMemoryTracker, lost_result
from concurrent_nb.object_store.segments import CannotOpen
from concurrent_nb.rate_limited_log import RateLimitedLog
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling import instructions as i
from concurrent_nb.tasks.task_record import TaskRecord
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.bound_tasks import ResultParts, bind
from concurrent_nb.wire.codec import Buffers, ItemBuffers, length, move_long_body, slices_of

log = logging.getLogger(__name__)


class Dispatch:
    """Executes instructions.

    Args:
        peers: the registered peers.
        functions: the functions that the master has.
        memory: the shared memory that the master tracks.
        limits: how much is copied for a node that can open no shared memory here.
        on_event: called with events for the scheduler.
        remove: ends a session, with a reason, at a time.
        detached: gets what concerns no registered peer.
    """

    def __init__(
        self,
        peers: dict[SessionId, Peer],
        functions: FunctionTable,
        memory: SharedMemoryTracker,
        limits: Limits,
        on_event: Callable[[e.Event], None],
        remove: Callable[[SessionId, str, float], object],
        detached: DetachedJobs,
    ) -> None:
        self.touched: dict[SessionId, Peer] = {}  #: peers that may have something to send
        self._peers = peers
        self._functions = functions
        self._memory = memory
        self._limits = limits
        self._on_event = on_event
        self._remove = remove
        self._detached = detached
        self._log = RateLimitedLog(log)

    def send(self, to: SessionId, message: m.AnyMessage) -> None:
        """Send a message to a peer, if it is registered."""
        if (peer := self._peers.get(to)) is not None:
            peer.session.send(message)
            self.touched[to] = peer

    def touch(self, session_id: SessionId) -> None:
        """Note that something was sent to a peer."""
        self.touched[session_id] = self._peers[session_id]

    def execute(self, instructions: Sequence[i.Instruction], now: float) -> None:
        """Execute instructions of the scheduler."""
        for instruction in instructions:
            try:
                if type(instruction) is i.AssignTasks:
                    self._assign(instruction)
                elif isinstance(instruction, i.DeliverOutcomes):
                    self._deliver(instruction, now)
                elif type(instruction) is i.WithdrawTasks:
                    self.send(instruction.slave, m.Withdraw(list(instruction.tasks), instruction.stop))
                elif type(instruction) is i.AnnounceStarted:
                    self._announce(instruction)
                elif type(instruction) is i.ForgetJob:
                    self._forget_job(instruction.job, now)
                elif type(instruction) is i.ReleaseResult:
                    self._memory.unpin(instruction.job, instruction.index, clean=instruction.clean)
            except Exception as error:  # noqa: BLE001  (a bulkhead: the other instructions must be executed)
                kind = type(instruction).__name__
                self._log.warning(kind, now, "the instruction %s failed", kind, error=error)
                self._report_failure(instruction, error, now)

    def resume(self, peer: Peer, now: float) -> None:
        """Send what was delayed because a peer had not acknowledged enough, as far as it has by now."""
        if peer.delayed:
            waiting, peer.delayed = peer.delayed, deque()
            while waiting and peer.session.backlog_bytes < self._limits.size_bytes:
                self.execute([waiting.popleft()], now)
            peer.delayed.extend(waiting)
        if peer.is_full and peer.session.backlog_bytes < self._limits.size_bytes // 2:
            peer.is_full = False
            if not peer.is_silent:
                self._on_event(e.SlaveTrusted(peer.session_id))
        if peer.output.has_unsent_cuts and not peer.is_silent and peer.session.backlog_bytes < OUTPUT_KEPT_BYTES // 2:
            for note in peer.output.take_cuts():
                peer.session.send(note)

    def _report_failure(self, instruction: i.Instruction, error: Exception, now: float) -> None:
        """Report a failed instruction, so that no task or client waits for it."""
        why = f"{type(error).__name__}: {error}"[:500]
        if type(instruction) is i.AssignTasks:
            self._refuse(instruction, instruction.tasks, why)
        elif isinstance(instruction, i.DeliverOutcomes | i.AnnounceStarted):  # it registers again, and gets it then
            self._remove(instruction.client, f"the master could not send it something: {why}", now)
        elif type(instruction) is i.WithdrawTasks:
            self._remove(instruction.slave, f"the master could not send it something: {why}", now)

    # ------------------------------------------------------------------------------------------------------- to slaves

    def _assign(self, assign: i.AssignTasks) -> None:
        slave = self._peers.get(assign.slave)
        if slave is None:
            return  # the scheduler gets its SlaveLost next
        self.touched[assign.slave] = slave
        if assign.function not in slave.functions:
            try:
                self._send_function(slave, assign.function)
            except Exception as error:  # noqa: BLE001  (memory of other nodes is read, which may fail in any way)
                self._refuse(assign, assign.tasks, f"its function is not available: {error}")
                return
        buffers: ItemBuffers = ()
        if any(task.sizes or task.links is not None for task in assign.tasks):
            frames, buffers = self._readable_tasks(slave, assign)
            if not frames:
                return
        else:
            frames = [m.TaskFrame(task.index, task.attempt, task.body, (), task.kind) for task in assign.tasks]
        slave.session.send(
            m.Assign(assign.job, assign.function, assign.timeout_s, frames, assign.needs, assign.behind), buffers
        )

    def _readable_tasks(self, slave: Peer, assign: i.AssignTasks) -> tuple[list[m.TaskFrame], ItemBuffers]:
        """Return the tasks whose arguments can be sent now. The others are refused, or wait for another slave."""
        frames: list[m.TaskFrame] = []
        buffers: list[Buffers] = []
        copies = not slave.memory.announced.shares
        for at, task in enumerate(assign.tasks):
            if copies and slave.session.backlog_bytes > self._limits.size_bytes:
                self._take_back(assign, at)
                if not slave.is_full:
                    slave.is_full = True
                    self._on_event(e.SlaveSuspected(slave.session_id))
                break
            try:
                frame, own = _frame_of(slave, task)
            except Exception as error:  # noqa: BLE001  (as above)
                self._refuse(assign, [task], f"its arguments are not available: {error}")
                if assign.behind is not None:  # the next one would wait for it
                    self._take_back(assign, at + 1)
                    break
                continue
            frames.append(frame)
            buffers.append(own)
        return frames, buffers

    def _take_back(self, assign: i.AssignTasks, at: int) -> None:
        """Have the tasks from this place on, which are not sent, assigned anew."""
        rest = [m.TaskRef(assign.job, task.index, task.attempt) for task in assign.tasks[at:]]
        if rest:
            self._on_event(e.TasksReturned(assign.slave, rest))

    def _refuse(self, assign: i.AssignTasks, tasks: Sequence[TaskRecord], why: str) -> None:
        refs = [m.TaskRef(assign.job, task.index, task.attempt) for task in tasks]
        self._on_event(e.AttemptsRefused(assign.slave, refs, f"the master refused the task: {why}"))

    def _send_function(self, slave: Peer, digest: bytes) -> None:
        function = self._functions.get(digest)
        if function is None:
            raise CannotOpen("it is in shared memory that its owner has dropped")
        message = function.message
        sizes, buffers = slave.memory.outgoing_arguments(message.sizes, function.buffers[0])
        if sizes is not message.sizes:
            message = m.Function(message.digest, message.body, sizes, message.name)
        slave.session.send(message, [buffers] if buffers else ())
        slave.functions.add(message.digest)

    # ------------------------------------------------------------------------------------------------- to applications

    def _deliver(self, deliver: i.DeliverOutcomes, now: float) -> None:
        client = self._peers.get(deliver.client)
        if client is None:
            self._detached.ended(deliver, now)
            return
        self.touched[deliver.client] = client
        items, buffers = list(deliver.items), deliver.buffers
        if any(item.sizes for item in items):
            items, buffers = self._readable_outcomes(client, deliver, now)
            if not items:
                return
        client.done += len(items)
        if type(deliver) is i.ShowOutcomes:
            client.session.send(m.Outcomes(deliver.job, deliver.slave, items), buffers)
            return
        acknowledged = e.OutcomesAcknowledged(deliver.client, deliver.job, [item.index for item in items])
        client.session.send(m.Outcomes(deliver.job, deliver.slave, items), buffers, acknowledged)

    def _readable_outcomes(
        self, client: Peer, deliver: i.DeliverOutcomes, now: float
    ) -> tuple[list[m.OutcomeFrame], ItemBuffers]:
        """Return the outcomes that can be sent to the client now, with errors for results that are not available.

        Results that must be copied are delayed while the client has not acknowledged earlier ones.
        """
        items: list[m.OutcomeFrame] = []
        buffers: list[Buffers] = []
        outgoing, copies = client.memory.announced.outgoing, not client.memory.announced.shares
        copied = client.session.backlog_bytes
        for at, item in enumerate(deliver.items):
            own = deliver.buffers[at] if deliver.buffers else ()
            if copies and (client.delayed or copied > self._limits.size_bytes) and slices_of(item.sizes):
                rest = deliver.buffers[at:] if deliver.buffers else ()
                client.delayed.append(msgspec.structs.replace(deliver, items=deliver.items[at:], buffers=rest))
                break
            try:
                sizes, own = outgoing(item.sizes, own)
            except Exception as error:  # noqa: BLE001  (as in `_assign`)
                task = task_name(deliver.job, item.index)
                ids = {"task": task, "job": deliver.job.hex(), "client": client.name}
                self._log.warning(client.key, now, "the result of task %s is lost: %s", task, error, ids=ids)
                item, own = lost_result(item, str(error)), ()
            else:
                if sizes is not item.sizes:
                    item = msgspec.structs.replace(item, sizes=sizes)
                copied += sum(map(length, own))
                if slices_of(item.sizes):
                    self._memory.shown(deliver.job, item.index)
            items.append(item)
            buffers.append(own)
        return items, buffers

    def _announce(self, announce: i.AnnounceStarted) -> None:
        started = m.Started(announce.slave, list(announce.tasks))
        if announce.client in self._peers:
            self.send(announce.client, started)
        else:
            self._detached.started(JobId(announce.client), started)

    def _forget_job(self, job: JobId, now: float) -> None:
        self._detached.over(job, now)
        self._memory.forget_job(job)
        self._functions.forget_job(job)
        for peer in self._peers.values():
            peer.output.forget_job(job)


def _frame_of(slave: Peer, task: TaskRecord) -> tuple[m.TaskFrame, Buffers]:
    """Return a task as this slave can take it, with the results that it needs. Raises as `outgoing_arguments`."""
    kind, body, sizes, buffers = task.kind, task.body, task.sizes, task.buffers
    if task.links is not None and task.links.inputs:
        results = [
            ResultParts(needed.job.id, needed.index, needed.outcome.body, needed.outcome.sizes, needed.outcome_buffers)
            for needed in task.links.inputs
            if needed.outcome is not None
        ]
        kind = int(m.TaskKind.BOUND)
        body, sizes, buffers = bind(task.kind, body, sizes, buffers, results)
        if len(sizes) >= m.BUFFERS_MAX:
            raise TooLarge(
                f"the results that it needs have {len(sizes)} large buffers, at most {m.BUFFERS_MAX - 1} can travel:"
                " gather them in several steps",
                len(sizes),
                m.BUFFERS_MAX - 1,
            )
    sizes, buffers = slave.memory.outgoing_arguments(sizes, buffers)
    body, sizes, buffers = move_long_body(body, sizes, buffers)
    return m.TaskFrame(task.index, task.attempt, body, sizes, kind), buffers
