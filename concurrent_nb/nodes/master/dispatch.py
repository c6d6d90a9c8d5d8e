"""What the scheduler has decided, made into messages for slaves and applications. A part of `master_core`.

There is a bulkhead around each instruction. What fails is the matter of whose data it is about: tasks whose function or
arguments cannot be had are refused, a result that cannot be had becomes an error. The other instructions are obeyed.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from concurrent_nb.ids import JobId, SessionId, task_name
from concurrent_nb.nodes.master.client_limits import Limits
from concurrent_nb.nodes.master.client_output import OUTPUT_KEPT_BYTES
from concurrent_nb.nodes.master.function_table import FunctionTable
from concurrent_nb.nodes.master.peers import Peer
from concurrent_nb.nodes.master.shared_memory import SharedMemoryTracker, lost_result
from concurrent_nb.object_store.segments import CannotOpen
from concurrent_nb.rate_limited_log import RateLimitedLog
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling import instructions as i
from concurrent_nb.tasks.task_record import TaskRecord
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffers, ItemBuffers, length, slices_of

log = logging.getLogger(__name__)


class Dispatch:
    """Obeys instructions.

    Args:
        peers: who is registered.
        functions, memory: what the master has of functions, and of shared memory.
        limits: how much is copied for a node that can open no shared memory here.
        happened: called with what the scheduler should know.
        remove: ends a session, for a reason.
    """

    def __init__(
        self,
        peers: dict[SessionId, Peer],
        functions: FunctionTable,
        memory: SharedMemoryTracker,
        limits: Limits,
        happened: Callable[[e.Event], None],
        remove: Callable[[SessionId, str, float], object],
    ) -> None:
        self.touched: dict[SessionId, Peer] = {}  #: may have something to send now
        self._peers = peers
        self._functions = functions
        self._memory = memory
        self._limits = limits
        self._happened = happened
        self._remove = remove
        self._log = RateLimitedLog(log)

    def send(self, to: SessionId, message: m.AnyMessage) -> None:
        """Send a message to a peer, if it is there."""
        if (peer := self._peers.get(to)) is not None:
            peer.session.send(message)
            self.touched[to] = peer

    def touch(self, session_id: SessionId) -> None:
        """Note that something was sent to a peer."""
        self.touched[session_id] = self._peers[session_id]

    def obey(self, instructions: Sequence[i.Instruction], now: float) -> None:
        """Do what the scheduler has decided."""
        for instruction in instructions:
            try:
                if type(instruction) is i.AssignTasks:
                    self._assign(instruction)
                elif type(instruction) is i.DeliverOutcomes:
                    self._deliver(instruction, now)
                elif type(instruction) is i.WithdrawTasks:
                    self.send(instruction.slave, m.Withdraw(list(instruction.tasks), instruction.stop))
                elif type(instruction) is i.AnnounceStarted:
                    self.send(instruction.client, m.Started(instruction.slave, list(instruction.tasks)))
                elif type(instruction) is i.ForgetJob:
                    self._forget_job(instruction.job)
            except Exception as error:  # noqa: BLE001  (a bulkhead: the other instructions are others' matters)
                kind = type(instruction).__name__
                self._log.warning(kind, now, "the instruction %s could not be obeyed", kind, error=error)
                self._not_obeyed(instruction, error, now)

    def go_on(self, peer: Peer, now: float) -> None:
        """Go on with what had to wait because a peer did not take what it was sent."""
        if peer.late:
            waiting, peer.late = peer.late, deque()
            while waiting and peer.session.backlog_bytes < self._limits.size_bytes:
                self.obey([waiting.popleft()], now)
            peer.late.extend(waiting)
        if peer.is_full and peer.session.backlog_bytes < self._limits.size_bytes // 2:
            peer.is_full = False
            if not peer.is_silent:
                self._happened(e.SlaveTrusted(peer.session_id))
        if peer.output.is_untold and not peer.is_silent and peer.session.backlog_bytes < OUTPUT_KEPT_BYTES // 2:
            for note in peer.output.cuts():
                peer.session.send(note)

    def _not_obeyed(self, instruction: i.Instruction, error: Exception, now: float) -> None:
        """See to it that nobody waits for what was not done."""
        why = f"{type(error).__name__}: {error}"[:500]
        if type(instruction) is i.AssignTasks:
            self._refuse(instruction, instruction.tasks, why)
        elif isinstance(instruction, i.DeliverOutcomes | i.AnnounceStarted):  # it registers again, and is sent it anew
            self._remove(instruction.client, f"the master could not send it something: {why}", now)
        elif type(instruction) is i.WithdrawTasks:
            self._remove(instruction.slave, f"the master could not send it something: {why}", now)

    # ------------------------------------------------------------------------------------------------------- to slaves

    def _assign(self, assign: i.AssignTasks) -> None:
        slave = self._peers.get(assign.slave)
        if slave is None:
            return  # the scheduler is about to learn it
        self.touched[assign.slave] = slave
        if assign.function not in slave.functions:
            try:
                self._send_function(slave, assign.function)
            except Exception as error:  # noqa: BLE001  (the memory of others is read: whatever that comes to is theirs)
                self._refuse(assign, assign.tasks, f"its function cannot be had: {error}")
                return
        buffers: ItemBuffers = ()
        if any(task.sizes for task in assign.tasks):
            frames, buffers = self._readable_tasks(slave, assign)
            if not frames:
                return
        else:
            frames = [m.TaskFrame(task.index, task.attempt, task.body, (), task.kind) for task in assign.tasks]
        slave.session.send(m.Assign(assign.job, assign.function, assign.timeout_s, frames, assign.needs), buffers)

    def _readable_tasks(self, slave: Peer, assign: i.AssignTasks) -> tuple[list[m.TaskFrame], ItemBuffers]:
        """Give the tasks whose arguments the slave can have now. The others are refused, or wait for another slave."""
        frames: list[m.TaskFrame] = []
        buffers: list[Buffers] = []
        copies = not slave.memory.introductions.shares
        for at, task in enumerate(assign.tasks):
            if copies and slave.session.backlog_bytes > self._limits.size_bytes:
                rest = [m.TaskRef(assign.job, each.index, each.attempt) for each in assign.tasks[at:]]
                self._happened(e.TasksReturned(slave.session_id, rest))
                if not slave.is_full:
                    slave.is_full = True
                    self._happened(e.SlaveSuspected(slave.session_id))
                break
            try:
                sizes, own = slave.memory.arguments(task.sizes, task.buffers)
            except Exception as error:  # noqa: BLE001  (as above)
                self._refuse(assign, [task], f"its arguments cannot be had: {error}")
                continue
            frames.append(m.TaskFrame(task.index, task.attempt, task.body, sizes, task.kind))
            buffers.append(own)
        return frames, buffers

    def _refuse(self, assign: i.AssignTasks, tasks: Sequence[TaskRecord], why: str) -> None:
        refs = [m.TaskRef(assign.job, task.index, task.attempt) for task in tasks]
        self._happened(e.AttemptsRefused(assign.slave, refs, f"the master refused the task: {why}"))

    def _send_function(self, slave: Peer, digest: bytes) -> None:
        function = self._functions.get(digest)
        if function is None:
            raise CannotOpen("it lies in shared memory that its owner has dropped")
        message = function.message
        sizes, buffers = slave.memory.arguments(message.sizes, function.buffers[0])
        if sizes is not message.sizes:
            message = m.Function(message.digest, message.body, sizes)
        slave.session.send(message, [buffers] if buffers else ())
        slave.functions.add(message.digest)

    # ------------------------------------------------------------------------------------------------- to applications

    def _deliver(self, deliver: i.DeliverOutcomes, now: float) -> None:
        client = self._peers.get(deliver.client)
        if client is None:
            return
        self.touched[deliver.client] = client
        items, buffers = list(deliver.items), deliver.buffers
        if any(item.sizes for item in items):
            items, buffers = self._readable_outcomes(client, deliver, now)
            if not items:
                return
        client.done += len(items)
        acknowledged = e.OutcomesAcknowledged(deliver.client, deliver.job, [item.index for item in items])
        client.session.send(m.Outcomes(deliver.job, deliver.slave, items), buffers, acknowledged)

    def _readable_outcomes(
        self, client: Peer, deliver: i.DeliverOutcomes, now: float
    ) -> tuple[list[m.OutcomeFrame], ItemBuffers]:
        """Give the outcomes that the client can have now; those whose results cannot be had are errors.

        Results that have to be copied wait while the client has not taken what was copied before.
        """
        items: list[m.OutcomeFrame] = []
        buffers: list[Buffers] = []
        outgoing, copies = client.memory.introductions.outgoing, not client.memory.introductions.shares
        copied = client.session.backlog_bytes
        for at, item in enumerate(deliver.items):
            own = deliver.buffers[at] if deliver.buffers else ()
            if copies and (client.late or copied > self._limits.size_bytes) and slices_of(item.sizes):
                rest = deliver.buffers[at:] if deliver.buffers else ()
                client.late.append(msgspec.structs.replace(deliver, items=deliver.items[at:], buffers=rest))
                break
            try:
                sizes, own = outgoing(item.sizes, own)
            except Exception as error:  # noqa: BLE001  (as in `_assign`)
                task = task_name(deliver.job, item.index)
                self._log.warning(client.key, now, "the result of task %s is lost: %s", task, error)
                item, own = lost_result(item, str(error)), ()
            else:
                if sizes is not item.sizes:
                    item = msgspec.structs.replace(item, sizes=sizes)
                copied += sum(map(length, own))
            items.append(item)
            buffers.append(own)
        return items, buffers

    def _forget_job(self, job: JobId) -> None:
        self._memory.forget_job(job)
        self._functions.forget_job(job)
        for peer in self._peers.values():
            peer.output.forget_job(job)
