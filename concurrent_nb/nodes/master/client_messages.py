"""The messages of applications: their functions, jobs and tasks become events. Pure, a part of `nodes.master.core`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.ids import Digest, JobId, SessionId, task_name
from concurrent_nb.nodes.common.size_limits import too_large
from concurrent_nb.nodes.master.client_limits import JOB_BYTES, Limits, count_tasks
from concurrent_nb.nodes.master.detached_jobs import DetachedJobs
from concurrent_nb.nodes.master.function_table import FunctionEntry, FunctionTable
from concurrent_nb.nodes.master.measured_values import MeasuredValues
from concurrent_nb.nodes.master.peers import CREDIT_MAX, Handler, Peer, ids_of
from concurrent_nb.nodes.master.shared_memory import SharedMemoryTracker
from concurrent_nb.outcome import Status
from concurrent_nb.rate_limited_log import RateLimitedLog
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.tasks.shared_objects import objects_of
from concurrent_nb.tasks.task_record import ObjectSize
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffers, ItemBuffers, Received, encode_error, function_digest, joined, length

log = logging.getLogger(__name__)

#: most characters of a job's name that are kept
_NAME_MAX: Final = 200
#: most functions that applications have run themselves whose names are kept
_NAMES_MAX: Final = 1000
#: how a task may have ended that its application has run itself
_RAN: Final = frozenset({Status.OK, Status.HIT, Status.ERROR, Status.NOT_PICKLABLE, Status.NOT_LOADABLE})
#: what an input of a task counts, in bytes
INPUT_BYTES: Final = 16
#: most refused functions of a peer whose reason is kept
_REFUSED_MAX: Final = 64


@dataclass(eq=False, slots=True)
class ClientMessages:
    """Turns the messages of applications into events for the scheduler.

    Args:
        peers: the registered peers.
        functions: the functions that the master has; new ones are added.
        memory: the shared memory that the master tracks.
        scheduler: which jobs there are.
        measured: keeps what tasks have measured by themselves.
        limits: what clients may make the master hold.
        emit: called with each event.
        detached: the detached jobs; new ones are added.
    """

    peers: Mapping[SessionId, Peer]
    functions: FunctionTable
    memory: SharedMemoryTracker
    scheduler: Scheduler
    measured: MeasuredValues
    limits: Limits
    emit: Callable[[e.Event], None]
    detached: DetachedJobs
    # By digest, of functions that applications have run themselves.
    _names_of_ran: dict[bytes, str] = field(default_factory=dict, init=False)
    _log: RateLimitedLog = field(default_factory=lambda: RateLimitedLog(log), init=False)

    def handlers(self) -> dict[type, Handler]:
        """Return what handles each type of message."""
        return {
            m.Function: self._on_function,
            m.OpenJob: self._on_open_job,
            m.AttachJob: self._on_attach_job,
            m.TaskInputs: self._on_task_inputs,
            m.Submit: self._on_submit,
            m.FetchResults: self._on_fetch_results,
            m.FreeResults: self._on_free_results,
            m.Cancel: self._on_cancel,
            m.CloseJob: self._on_close_job,
            m.Measured: self._on_measured,
            m.Ran: self._on_ran,
        }

    def check_usage(self, peer: Peer) -> None:
        """Count exactly what is held for a client's key. Raises LimitExceeded."""
        tasks, size_bytes = count_tasks(self.scheduler.jobs.values(), peer.key.decode())
        size_bytes += self.functions.bytes_in_use(peer.key) + self.memory.content_bytes(peer.key)
        same = [each for each in self.peers.values() if each.key == peer.key]
        size_bytes += sum(each.session.held_bytes for each in same)
        size_bytes += sum(INPUT_BYTES * len(refs) for each in same for refs in each.inputs.values())
        peer.usage.counted(tasks, size_bytes, self.limits)

    def _on_function(self, peer: Peer, message: m.Function, item: Received, now: float) -> None:
        if (known := self.functions.get(message.digest)) is not None:
            self.functions.add(known, peer.key)
            return
        buffers = item.buffers or [()]
        name = f"function {message.digest.hex()[:8]}"
        parts = joined(message.sizes, buffers[0], lambda slice_: slice_)
        if function_digest([message.body, *parts]) != message.digest:
            raise ProtocolError(f"{name} does not have the digest that it names")
        size = len(message.body) + sum(map(length, buffers[0]))
        if size > self.limits.size_bytes:
            self._refuse_function(peer, message.digest, too_large(name, size, self.limits.size_bytes))
        elif (here := self.memory.translated(peer.memory, message.sizes, buffers[0])) is None:
            why = f"{name} lies in shared memory that the master cannot open. {peer.memory.open_error}".rstrip()
            self._log.warning(peer.key, now, "%s of %r is refused: %s", name, peer.name, why, ids=ids_of(peer))
            self._refuse_function(peer, message.digest, why)
        else:
            sizes, own = here
            if sizes is not message.sizes:
                message, buffers = m.Function(message.digest, message.body, sizes, message.name), [own]
            self.functions.add(FunctionEntry(message, buffers), peer.key)

    def _refuse_function(self, peer: Peer, digest: bytes, why: str) -> None:
        peer.refused[digest] = why
        if len(peer.refused) > _REFUSED_MAX:
            del peer.refused[next(iter(peer.refused))]

    def _on_open_job(self, peer: Peer, message: m.OpenJob, _: Received, now: float) -> None:
        peer.usage.size_bytes += JOB_BYTES
        notebook, cell = message.notebook, message.cell
        if peer.parent is not None and not notebook and (parent := self.scheduler.find_job(peer.parent)) is not None:
            notebook, cell = parent.notebook, parent.cell
        session_id = peer.session_id
        if message.detached or message.job in self.detached.jobs:
            session_id = self.detached.open(peer, message, now)
        self.emit(
            e.JobOpened(
                session_id,
                peer.key.decode(),
                JobId(message.job),
                message.name[:_NAME_MAX],
                message.until,
                message.stop_on_error,
                message.strategy or "",
                peer.memory.announced.shares,
                notebook,
                cell,
                message.line,
            )
        )

    def _on_attach_job(self, peer: Peer, message: m.AttachJob, _: Received, now: float) -> None:
        job_id = JobId(message.job)
        job = self.scheduler.jobs.get(job_id)
        client = None if job is None or job.client is None else self.peers.get(job.client)
        self.detached.attach(peer, job_id, client, now, with_output=not message.again)

    def _on_task_inputs(self, peer: Peer, message: m.TaskInputs, _: Received, now: float) -> None:
        refs = peer.inputs.setdefault((message.job, message.index), [])
        refs += [(JobId(each.job), index) for each in message.inputs for index in each.indexes]
        peer.usage.size_bytes += INPUT_BYTES * len(refs)
        if len(refs) > m.INPUTS_MAX or len(peer.inputs) > CREDIT_MAX:
            raise ProtocolError(f"task {task_name(JobId(message.job), message.index)} needs {len(refs)} results")

    def _on_submit(self, peer: Peer, message: m.Submit, item: Received, now: float) -> None:
        function = self.functions.get(message.function)
        if function is None:
            why = peer.refused.get(message.function) or f"function {message.function.hex()[:8]} was never sent"
            self._refuse(peer, message, message.tasks, why)
            return
        tasks, buffers = message.tasks, item.buffers
        if self.detached.jobs and (job := self.detached.jobs.get(JobId(message.job))) is not None and tasks:
            tasks, buffers = self.detached.unknown_of(job, tasks, buffers)
            if not tasks:
                return
            message = msgspec.structs.replace(message, tasks=tasks)
        captured = function.message.sizes
        objects: Sequence[tuple[ObjectSize, ...]] = [objects_of(captured)] * len(tasks) if captured else ()
        if any(task.sizes for task in tasks):
            tasks, buffers = self._readable_arguments(peer, message, buffers)
            if not tasks:
                return
            objects = [objects_of((*captured, *task.sizes)) for task in tasks]
        inputs = self._inputs_of(peer, message, tasks) if peer.inputs else ()
        peer.usage.tasks += len(tasks)
        self.functions.claim(function, message.job, peer.key)
        self.emit(
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
                inputs,
                message.keep,
            )
        )

    def _inputs_of(
        self, peer: Peer, message: m.Submit, tasks: Sequence[m.TaskFrame]
    ) -> list[tuple[int, list[tuple[JobId, int]]]]:
        """Return the inputs of those tasks of a run that have some, which the peer has announced before."""
        job, announced = message.job, peer.inputs
        return [(task.index, announced.pop((job, task.index))) for task in tasks if (job, task.index) in announced]

    def _readable_arguments(
        self, peer: Peer, message: m.Submit, buffers: ItemBuffers
    ) -> tuple[list[m.TaskFrame], ItemBuffers]:
        """Return the tasks whose arguments are readable here; refuse the others."""
        tasks: list[m.TaskFrame] = []
        kept: list[Buffers] = []
        closed: list[m.TaskFrame] = []
        for at, task in enumerate(message.tasks):
            own = buffers[at] if buffers else ()
            size = sum(map(length, own))
            if size > self.limits.size_bytes:
                self._refuse(peer, message, [task], too_large("its arguments", size, self.limits.size_bytes))
            elif (here := self.memory.translated(peer.memory, task.sizes, own)) is None:
                closed.append(task)
            else:
                sizes, own = here
                tasks.append(task if sizes is task.sizes else msgspec.structs.replace(task, sizes=sizes))
                kept.append(own)
        if closed:
            why = f"its arguments lie in shared memory that the master cannot open. {peer.memory.open_error}"
            self._refuse(peer, message, closed, why.rstrip())
        return tasks, kept

    def _refuse(self, peer: Peer, message: m.Submit, tasks: Sequence[m.TaskFrame], why: str) -> None:
        for task in tasks:
            peer.inputs.pop((message.job, task.index), None)
        body = encode_error(m.ErrorReport("", f"the master refused the task: {why}", ""))
        items = [m.OutcomeFrame(task.index, 0, Status.REFUSED, 0.0, 0, body) for task in tasks]
        peer.session.send(m.Outcomes(message.job, "", items))

    def _on_fetch_results(self, peer: Peer, message: m.FetchResults, _: Received, now: float) -> None:
        self.emit(e.ResultsWanted(peer.session_id, JobId(message.job), message.indexes))

    def _on_free_results(self, peer: Peer, message: m.FreeResults, _: Received, now: float) -> None:
        self.emit(e.ResultsFreed(peer.session_id, JobId(message.job), message.indexes))

    def _on_cancel(self, peer: Peer, message: m.Cancel, _: Received, now: float) -> None:
        self.emit(e.CancelRequested(peer.session_id, JobId(message.job), message.indexes, message.unstarted_only))

    def _on_close_job(self, peer: Peer, message: m.CloseJob, _: Received, now: float) -> None:
        self.detached.closed(JobId(message.job))
        self.emit(e.JobClosed(peer.session_id, JobId(message.job)))

    def _on_measured(self, peer: Peer, message: m.Measured, _: Received, now: float) -> None:
        job_id = JobId(message.job)
        job = self.scheduler.find_job(job_id)
        if job is not None and job.owner == peer.key.decode():
            self.measured.take(job_id, job.owner, message.values)

    def _on_ran(self, peer: Peer, message: m.Ran, _: Received, now: float) -> None:
        if peer.parent is None:
            raise ProtocolError("it reports tasks that it has run itself, and is no application in a task")
        for frame in message.items:
            if frame.status not in _RAN or not 0 <= frame.elapsed_s < inf or frame.attempt < 1:
                raise ProtocolError(f"it has run a task itself that ended with {frame.status} in {frame.elapsed_s} s")
            if frame.body or frame.sizes:
                raise ProtocolError("it reports a task that it has run itself, with a result, which only it needs")
        self._names_of_ran[message.function] = message.name
        if len(self._names_of_ran) > _NAMES_MAX:
            del self._names_of_ran[next(iter(self._names_of_ran))]
        self.emit(
            e.TasksRan(peer.session_id, JobId(message.job), Digest(message.function), peer.parent_slave, message.items)
        )

    def name_of(self, digest: bytes) -> str:
        """Return the name of a function for people."""
        function = self.functions.get(digest)
        name = self._names_of_ran.get(digest, "") if function is None else function.message.name
        return name or digest.hex()[:8]
