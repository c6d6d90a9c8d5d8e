"""The messages of slaves: what became of their tasks becomes events. Pure, a part of `nodes.master.core`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from concurrent_nb.errors import ProtocolError
from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.master.client_output import OUTPUT_KEPT_BYTES
from concurrent_nb.nodes.master.detached_jobs import DetachedJobs
from concurrent_nb.nodes.master.kernel_requests import KernelRequests
from concurrent_nb.nodes.master.peers import CREDIT_MAX, Handler, Peer
from concurrent_nb.nodes.master.shared_memory import SharedMemoryTracker
from concurrent_nb.nodes.master.stack_requests import StackRequests
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.tasks.task_record import TaskRecord
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Received


@dataclass(eq=False, slots=True)
class SlaveMessages:
    """Turns the messages of slaves into events for the scheduler, and passes the output of tasks on.

    Args:
        peers: the registered peers.
        memory: the shared memory that the master tracks.
        scheduler: which tasks there are.
        kernels: is given the answers to requests for kernels.
        stacks: is given the answers to questions for stacks.
        send: sends a message to a peer.
        emit: called with each event.
        detached: gets the output of detached jobs.
    """

    peers: Mapping[SessionId, Peer]
    memory: SharedMemoryTracker
    scheduler: Scheduler
    kernels: KernelRequests
    stacks: StackRequests
    send: Callable[[SessionId, m.AnyMessage], None]
    emit: Callable[[e.Event], None]
    detached: DetachedJobs

    def handlers(self) -> dict[type, Handler]:
        """Return what handles each type of message."""
        return {
            m.Outcomes: self._on_outcomes,
            m.Started: self._on_started,
            m.Returned: self._on_returned,
            m.Output: self._on_output,
            m.Capacity: self._on_capacity,
            m.KernelOpened: self._on_kernel_opened,
            m.StackSampled: self._on_stack_sampled,
            m.WorkersOutdated: self._on_workers_outdated,
            m.HostLoad: self._on_host_load,
        }

    def _on_outcomes(self, peer: Peer, message: m.Outcomes, item: Received, now: float) -> None:
        peer.done += len(message.items)
        items: Sequence[m.OutcomeFrame] = message.items
        buffers = item.buffers
        if any(frame.sizes for frame in items):
            items, buffers = self.memory.outcomes(peer.memory, JobId(message.job), items, buffers)
        self.emit(e.OutcomesReceived(peer.session_id, JobId(message.job), items, buffers))

    def _on_started(self, peer: Peer, message: m.Started, _: Received, now: float) -> None:
        self.emit(e.TasksStarted(peer.session_id, message.tasks))

    def _on_returned(self, peer: Peer, message: m.Returned, _: Received, now: float) -> None:
        self.emit(e.TasksReturned(peer.session_id, message.tasks))

    def tell_owners(self, slave: Peer, text: str) -> None:
        """Tell those whose tasks a slave has, on the standard error of one task of each, which runs if any does."""
        record = self.scheduler.slaves.get(slave.session_id)
        told: dict[SessionId | None, TaskRecord] = {}
        for task in () if record is None else record.tasks:
            known = told.get(task.job.client)
            if known is None or (task.started and not known.started):
                told[task.job.client] = task
        for task in told.values():
            ref = m.TaskRef(task.job.id, task.index, task.attempt)
            self._pass_on(slave, m.Output(ref, 2, f"concurrent_nb: {text}\n".encode()))

    def _on_output(self, peer: Peer, message: m.Output, _: Received, now: float) -> None:
        self._pass_on(peer, message)

    def _pass_on(self, peer: Peer, message: m.Output) -> None:
        job = self.scheduler.jobs.get(JobId(message.task.job))
        task = None if job is None else job.tasks.get(message.task.index)
        if task is None or task.slave != peer.session_id or task.attempt != message.task.attempt:
            return
        client = None if task.job.client is None else self.peers.get(task.job.client)
        if client is None:
            self.detached.wrote(task.job.id, message, self._forward)
        else:
            self._forward(client, message)

    def _forward(self, client: Peer, message: m.Output) -> None:
        output, backlog = client.output, client.session.backlog_bytes
        is_held = client.is_silent or output.has_cuts or backlog > OUTPUT_KEPT_BYTES
        if not is_held or output.accepts(message, client.is_silent, backlog):
            self.send(client.session_id, message)

    def _on_capacity(self, peer: Peer, message: m.Capacity, _: Received, now: float) -> None:
        if not 0 <= message.slots <= message.credit <= CREDIT_MAX:
            raise ProtocolError(f"capacity of {message.slots} slots with a credit of {message.credit}")
        if peer.is_draining:
            return  # it had not got the Drain yet, or confirms it
        peer.slots = message.slots
        self.emit(e.SlaveResized(peer.session_id, message.slots, message.credit))

    def _on_kernel_opened(self, peer: Peer, message: m.KernelOpened, _: Received, now: float) -> None:
        self.kernels.answered(peer.session_id, message)

    def _on_stack_sampled(self, peer: Peer, message: m.StackSampled, _: Received, now: float) -> None:
        self.stacks.answered(peer.session_id, message)

    def _on_workers_outdated(self, peer: Peer, message: m.WorkersOutdated, _: Received, now: float) -> None:
        if not 0 <= message.left <= CREDIT_MAX:
            raise ProtocolError(f"{message.left} workers that are to be replaced")
        if message.request == peer.restart:
            peer.outdated = message.left

    def _on_host_load(self, peer: Peer, message: m.HostLoad, _: Received, now: float) -> None:
        if message.load is not None and not 0 <= message.load < inf:
            raise ProtocolError(f"a host whose load is {message.load}")
        peer.load = message
