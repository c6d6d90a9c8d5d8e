"""Detached jobs: the master takes their outcomes itself and keeps them, with their output, for all who attach.

    scheduler: outcomes  -> DetachedJob -> acknowledged here, kept, sent to each reader
    slaves: output       ->     "       -> kept, sent to each reader
    AttachJob of a client -> what is kept, then what comes

Such a job is its own client: the scheduler delivers to a session that has the id of the job, and no peer. So other jobs
pay nothing. A part of `nodes.master.core`; pure. docs/attach.md has the reasons.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from concurrent_nb.errors import ProtocolError
from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.master.peers import Peer
from concurrent_nb.nodes.master.shared_memory import PeerMemory, SharedMemoryTracker, lost_result
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling import instructions as i
from concurrent_nb.scheduling.ranking import Ranking
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.tasks.task_record import Buffer, JobRecord, TaskState
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import ItemBuffers, size_of, slices_of
from concurrent_nb.wire.session import Session

#: output of one job that is kept; what follows is left out for those who attach later
OUTPUT_OF_JOB_BYTES: Final = 4 * 1024 * 1024
#: what an outcome, or a piece of output, costs besides its bytes
RECORD_BYTES: Final = 300
#: what a job costs besides these
JOB_BYTES: Final = 4000
#: most jobs whose end is remembered, to answer those who come too late
GONE_MAX: Final = 1000
#: tasks of these kinds can only be put together by the application that has sent them
_IN_PARTS: Final = frozenset({m.TaskKind.CHUNK, m.TaskKind.BATCH})
#: ends of tasks that their application would look after
_HANDED_BACK: Final = frozenset({Status.TAKEN_BACK, Status.INPUT_GONE})
_ALONE: Final = "the application that has sent the task had to send it again, and has ended"
_DELIVERED: Final = "it was delivered to the application that has started the job before the master kept it"


@dataclass(slots=True)
class DetachedLimits:
    """How long, and how much, the master keeps. Those of a running master may change."""

    unattended_jobs_s: float = 0.0  #: jobs of applications that have ended without a goodbye; 0: they are cancelled
    results_s: float = 24 * 3600.0  #: after the end of a job
    results_bytes: int = 256 * 1024 * 1024  #: of the jobs of one owner


@dataclass(eq=False, slots=True)
class _KeptOutcome:
    """How a task ended."""

    frame: m.OutcomeFrame
    buffers: Sequence[Buffer]
    slave: str


@dataclass(eq=False, slots=True)
class DetachedJob:
    """A job that the master keeps."""

    id: JobId
    owner: str
    name: str
    notebook: str
    cell: str
    line: str  #: first line of the cell that started it
    opened_s: float
    memory: PeerMemory  #: holds the results that lie in shared memory
    submitter: SessionId | None  #: the session that sends its tasks
    is_unattended: bool = False  #: it was no detached job while its application was there
    is_closed: bool = False  #: all tasks have been sent
    tasks: int = 0  #: number of tasks; their indexes are below
    sent: int = 0  #: number of tasks that have come, those that came again included
    outcomes: dict[int, _KeptOutcome] = field(default_factory=dict)  #: by index
    output: list[m.Output] = field(default_factory=list)
    output_bytes: int = 0
    cut: dict[tuple[bytes, int, int, int], int] = field(default_factory=dict)  #: bytes left out, by stream
    readers: dict[SessionId, Peer] = field(default_factory=dict)
    size_bytes: int = 0  #: of all that is kept
    unwanted: list[m.Slice] = field(default_factory=list)  #: of results that are not kept, still to be released
    arguments: list[PeerMemory] = field(default_factory=list)  #: of applications that have gone, for its tasks
    ended_s: float | None = None
    due_s: float = inf  #: when it is cancelled, or dropped if it has ended

    @property
    def session_id(self) -> SessionId:
        """The session as which it is its own client."""
        return SessionId(self.id)


class DetachedJobs:
    """The detached jobs of a master.

    Args:
        epoch: of the master.
        scheduler: has the jobs.
        memory: the shared memory that the master tracks.
        limits: what is kept.
        emit: called with events for the scheduler.
        send: sends a message to a peer.
        show: executes a `ShowOutcomes`, at a time.
    """

    def __init__(
        self,
        epoch: int,
        scheduler: Scheduler,
        memory: SharedMemoryTracker,
        limits: DetachedLimits,
        *,
        emit: Callable[[e.Event], None],
        send: Callable[[SessionId, m.AnyMessage], None],
        show: Callable[[i.ShowOutcomes, float], None],
    ) -> None:
        self.limits = limits
        self.jobs: dict[JobId, DetachedJob] = {}  #: by id; read-only
        #: outcomes that are kept here, which the scheduler may forget: `take_acknowledged` is to be called
        self.acknowledged: list[e.OutcomesAcknowledged] = []
        self._epoch = epoch
        self._scheduler = scheduler
        self._memory = memory
        self._emit = emit
        self._send = send
        self._show = show
        self._bytes: defaultdict[str, int] = defaultdict(int)  # kept, by owner
        self._due: Ranking[JobId] = Ranking()  # when jobs are cancelled or dropped
        self._gone: OrderedDict[JobId, tuple[str, str]] = OrderedDict()  # owner, and why it was dropped

    # ----------------------------------------------------------------------------------------- messages of applications

    def open(self, peer: Peer, message: m.OpenJob, now: float) -> SessionId:
        """Begin a detached job, or let its application, or its former one, go on in a new session.

        Returns the session as which it is opened at the scheduler. Raises ProtocolError if it is another owner's, or if
        the application is in a task.
        """
        if peer.parent is not None or not peer.comes_back:
            raise ProtocolError("it opens a detached job, and is an application in a task")
        job_id, owner = JobId(message.job), peer.key.decode()
        job = self.jobs.get(job_id)
        if job is not None and job.owner != owner:
            raise ProtocolError(f"job {job_id.hex()[:8]} belongs to another owner")
        self._emit(e.OwnerNamed(peer.session_id, owner))
        if job is None:
            known = self._scheduler.jobs.get(job_id)
            if known is not None and known.owner != owner:
                raise ProtocolError(f"job {job_id.hex()[:8]} belongs to another owner")
            job = self._new(job_id, owner, peer, now)
            job.name, job.notebook, job.cell, job.line = message.name, message.notebook, message.cell, message.line
            if known is not None:
                self._take_over(job, known, now)
        job.submitter = peer.session_id
        job.is_closed, job.ended_s = False, None
        job.readers[peer.session_id] = peer
        self._set_due(job, now)
        self._send_kept(job, peer, now)
        return job.session_id

    def unknown_of(
        self, job: DetachedJob, tasks: list[m.TaskFrame], buffers: ItemBuffers
    ) -> tuple[list[m.TaskFrame], ItemBuffers]:
        """Return those of submitted tasks, with their buffers, whose outcomes are not kept here."""
        job.tasks = max(job.tasks, 1 + max(frame.index for frame in tasks))
        job.sent += len(tasks)
        if not any(frame.index in job.outcomes for frame in tasks):
            return tasks, buffers
        places = [at for at, frame in enumerate(tasks) if frame.index not in job.outcomes]
        return [tasks[at] for at in places], [buffers[at] for at in places] if buffers else ()

    def closed(self, job_id: JobId) -> None:
        """Note that all tasks of a job have been sent."""
        if (job := self.jobs.get(job_id)) is not None:
            job.is_closed = True

    def attach(self, peer: Peer, job_id: JobId, client: Peer | None, now: float, *, with_output: bool = True) -> None:
        """Make an application a reader of a job of its owner, which becomes a detached one if it is none.

        Args:
            peer: the application.
            job_id: the job.
            client: the session that gets its outcomes now.
            now: the time.
            with_output: send it the output that is kept.
        """
        owner = peer.key.decode()
        job, known = self.jobs.get(job_id), self._scheduler.jobs.get(job_id)
        if job is None and known is not None and known.owner == owner:
            if why := why_not_detachable(known, client):
                self._send(peer.session_id, m.JobAttached(job_id, f"job {job_id.hex()} cannot be attached to: {why}"))
                return
            job = self.adopt(known, client, now)
            if client is not None:
                job.submitter = client.session_id
                job.readers[client.session_id] = client
                self._emit(e.OwnerNamed(client.session_id, owner))
        if job is None or job.owner != owner:
            self._send(peer.session_id, m.JobAttached(job_id, self._why_gone(job_id, owner)))
            return
        if job.tasks > job.sent:
            why = f"job {job_id.hex()} cannot be attached to: its tasks are not numbered from 0"
            self._send(peer.session_id, m.JobAttached(job_id, why))
            return
        self._emit(e.OwnerNamed(peer.session_id, owner))
        age_s = (now if job.ended_s is None else job.ended_s) - job.opened_s
        self._send(
            peer.session_id,
            m.JobAttached(job_id, "", job.name, job.tasks, job.notebook, job.cell, job.line, age_s),
        )
        if peer.session_id in job.readers:
            return
        for output in (*job.output, *_notes_on_cuts(job)) if with_output else ():
            self._send(peer.session_id, output)
        if job.cut and with_output:
            peer.output.leave_out([stream for stream in job.cut if stream[3] == m.NOTES])
        job.readers[peer.session_id] = peer
        self._set_due(job, now)
        self._send_kept(job, peer, now)

    def _send_kept(self, job: DetachedJob, peer: Peer, now: float) -> None:
        """Send a reader which tasks run, and how the others ended."""
        record = self._scheduler.jobs.get(job.id)
        running: defaultdict[SessionId, list[m.StartedTask]] = defaultdict(list)
        for task in () if record is None else record.tasks.values():
            if task.started and task.slave is not None and task.state is TaskState.ASSIGNED:
                running[task.slave].append(m.StartedTask(job.id, task.index, task.attempt, task.worker))
        for slave, started in running.items():
            self._send(peer.session_id, m.Started(self._scheduler.slaves[slave].name, started))
        by_slave: defaultdict[str, list[_KeptOutcome]] = defaultdict(list)
        for outcome in job.outcomes.values():
            by_slave[outcome.slave].append(outcome)
        for name, outcomes in by_slave.items():
            frames = [outcome.frame for outcome in outcomes]
            self._show(
                i.ShowOutcomes(peer.session_id, job.id, name, frames, [outcome.buffers for outcome in outcomes]), now
            )

    def _why_gone(self, job_id: JobId, owner: str) -> str:
        known = self._gone.get(job_id)
        if known is not None and known[0] == owner:
            return f"job {job_id.hex()} is not kept any more: {known[1]}"
        return (
            f"there is no job {job_id.hex()} of this user: it has ended and was not detached, it is another user's, or"
            " it never was; %concurrent jobs and `concurrent-nb jobs` list the jobs"
        )

    # ------------------------------------------------------------------------------------- what the scheduler decides

    def ended(self, deliver: i.DeliverOutcomes, now: float) -> None:
        """Keep outcomes of a detached job, and send them to its readers. Those for sessions that are over are left."""
        job = self.jobs.get(deliver.job)
        if job is None or deliver.client != job.session_id:
            return
        items = [self._own_end(frame) for frame in deliver.items]
        for reader in list(job.readers):
            self._show(i.ShowOutcomes(reader, job.id, deliver.slave, items, deliver.buffers), now)
        for at, frame in enumerate(items):
            self._keep(job, frame, deliver.buffers[at] if deliver.buffers else (), deliver.slave, now)
        self.acknowledged.append(e.OutcomesAcknowledged(job.session_id, job.id, [frame.index for frame in items]))

    @staticmethod
    def _own_end(frame: m.OutcomeFrame) -> m.OutcomeFrame:
        return lost_result(frame, _ALONE) if frame.status in _HANDED_BACK else frame

    def _keep(self, job: DetachedJob, frame: m.OutcomeFrame, buffers: Sequence[Buffer], slave: str, now: float) -> None:
        size = RECORD_BYTES + len(frame.body) + sum(map(size_of, frame.sizes))
        if not self._has_room(job, size, now):
            job.unwanted += slices_of(frame.sizes)
            why = (
                f"the results that are kept of detached jobs of this user have more than {self.limits.results_bytes:,}"
                " bytes: attach earlier, or raise MasterNode.detached_results_bytes"
            )
            frame, buffers = lost_result(frame, why), ()
            size = RECORD_BYTES + len(frame.body)
        self._count(job, size)
        job.outcomes[frame.index] = _KeptOutcome(frame, buffers, slave)

    def _has_room(self, job: DetachedJob, size_bytes: int, now: float) -> bool:
        """Return whether so much more may be kept, if need be when jobs are dropped that ended earlier."""
        if self._bytes[job.owner] + size_bytes <= self.limits.results_bytes:
            return True
        over = [each for each in self.jobs.values() if each.owner == job.owner and each.ended_s is not None]
        for each in sorted(over, key=lambda each: each.ended_s or 0.0):
            if each is not job and self._bytes[job.owner] + size_bytes > self.limits.results_bytes:
                self._drop(each, "later jobs needed the room, see MasterNode.detached_results_bytes")
        return self._bytes[job.owner] + size_bytes <= self.limits.results_bytes

    def _count(self, job: DetachedJob, size_bytes: int) -> None:
        job.size_bytes += size_bytes
        self._bytes[job.owner] += size_bytes

    def take_acknowledged(self) -> list[e.OutcomesAcknowledged]:
        """Return events for the scheduler: it may forget what is kept here."""
        acknowledged, self.acknowledged = self.acknowledged, []
        known = [event for event in acknowledged if event.job in self.jobs]
        for event in known:
            job = self.jobs[event.job]
            self._memory.hand_over(job.memory, [event])
            if job.unwanted:
                unwanted, job.unwanted = job.unwanted, []
                self._memory.handle(job.memory, m.Release(unwanted, False), ())
        return known

    def started(self, job_id: JobId, message: m.Started) -> None:
        """Tell the readers of a job that tasks run."""
        if (job := self.jobs.get(job_id)) is not None:
            for reader in job.readers:
                self._send(reader, message)

    def over(self, job_id: JobId, now: float) -> None:
        """Note that the scheduler has forgotten a job: all its outcomes are kept here."""
        job = self.jobs.get(job_id)
        if job is None or job.ended_s is not None:
            return
        missing = [index for index in range(min(job.tasks, job.sent)) if index not in job.outcomes]
        for index in missing:  # acknowledged while the master began to keep the job
            self._keep(job, _lost(index), (), "", now)
        if missing:
            frames = [job.outcomes[index].frame for index in missing]
            for reader in list(job.readers):
                self._show(i.ShowOutcomes(reader, job.id, "", frames, ()), now)
        job.ended_s = now
        self._set_due(job, now)
        self._close_arguments(job, now)

    def _close_arguments(self, job: DetachedJob, now: float) -> None:
        """Close the memory of applications that have gone, unless other jobs need it."""
        arguments, job.arguments = job.arguments, []
        for memory in arguments:
            if not any(memory in each.arguments for each in self.jobs.values()):
                self._memory.close_soon(memory, now)

    # ---------------------------------------------------------------------------------------------------------- output

    def wrote(self, job_id: JobId, message: m.Output, forward: Callable[[Peer, m.Output], None]) -> None:
        """Keep output of a task, and send it to the readers.

        Args:
            job_id: the job.
            message: the output.
            forward: sends it to a client that can take it.
        """
        job = self.jobs.get(job_id)
        if job is None:
            return
        for reader in list(job.readers.values()):
            forward(reader, message)
        ref = message.task
        stream = (ref.job, ref.index, ref.attempt, message.stream)
        size = RECORD_BYTES + len(message.data)
        is_full = job.output_bytes + size > OUTPUT_OF_JOB_BYTES
        if stream in job.cut or is_full or self._bytes[job.owner] + size > self.limits.results_bytes:
            job.cut[stream] = job.cut.get(stream, 0) + len(message.data)
            return
        job.output.append(message)
        job.output_bytes += size
        self._count(job, size)

    # ------------------------------------------------------------------------------------------- applications that go

    def client_gone(self, peer: Peer, *, left: bool, linger_s: float, now: float) -> bool:
        """Note that a session is over, before the scheduler does; keep its jobs if they are to be kept.

        Args:
            peer: the application.
            left: it has said goodbye.
            linger_s: another session has replaced it, and takes its jobs over within this time; 0: none has.
            now: the time.

        Returns whether the memory of the application must stay open: its tasks need it, see `DetachedJob.arguments`.
        """
        for job in list(self.jobs.values()):
            if job.readers.pop(peer.session_id, None) is not None:
                self._set_due(job, now, linger_s)
            if job.submitter != peer.session_id:
                continue
            if job.is_closed:
                if job.ended_s is None:
                    job.arguments.append(peer.memory)
            elif linger_s:
                job.due_s = now + linger_s
                self._due.set(job.id, job.due_s)
            else:
                self._drop(job, "its application has ended before it had sent all tasks")
        if not (left or linger_s) and self.limits.unattended_jobs_s > 0:
            for record in list(self._scheduler.jobs.values()):
                if record.client == peer.session_id and not why_not_detachable(record, peer):
                    self.adopt(record, peer, now).arguments.append(peer.memory)
        return any(peer.memory in job.arguments for job in self.jobs.values())

    def adopt(self, record: JobRecord, client: Peer | None, now: float) -> DetachedJob:
        """Keep a job that was not detached, from now on."""
        job = self._new(record.id, record.owner, client, now)
        job.name, job.notebook, job.cell, job.line = record.name, record.notebook, record.cell, record.line
        job.is_unattended = job.is_closed = True
        self._take_over(job, record, now)
        self._set_due(job, now)
        shares = record.shares_memory
        self._emit(e.JobOpened(job.session_id, job.owner, job.id, job.name, shares_memory=shares))
        self._emit(e.JobClosed(job.session_id, job.id))
        return job

    def _take_over(self, job: DetachedJob, record: JobRecord, now: float) -> None:
        """Note the tasks of a job that the scheduler has already; outcomes that were acknowledged are lost."""
        job.opened_s = record.opened_s
        job.tasks = job.sent = record.accepted
        for index in range(record.accepted):
            if index not in record.tasks:
                self._keep(job, _lost(index), (), "", now)

    def _new(self, job_id: JobId, owner: str, client: Peer | None, now: float) -> DetachedJob:
        session = Session(self._epoch, "from_client")
        memory = self._memory.client(SessionId(job_id), owner.encode(), f"detached job {job_id.hex()[:8]}", session)
        memory.announced.share(True)
        submitter = None if client is None else client.session_id
        job = self.jobs[job_id] = DetachedJob(job_id, owner, "", "", "", "", now, memory, submitter)
        self._gone.pop(job_id, None)
        self._has_room(job, JOB_BYTES, now)
        self._count(job, JOB_BYTES)
        return job

    def _set_due(self, job: DetachedJob, now: float, linger_s: float = 0.0) -> None:
        """Set when a job is cancelled, or dropped."""
        job.due_s = inf
        if job.ended_s is not None:
            job.due_s = job.ended_s + self.limits.results_s
        elif job.is_unattended and not job.readers:
            job.due_s = now + max(linger_s, self.limits.unattended_jobs_s)
        if job.due_s < inf:
            self._due.set(job.id, job.due_s)
        else:
            self._due.discard(job.id)

    def free(self, job_id: JobId, owner: str | None) -> bool:
        """Keep a job that has ended no longer; return whether there is one.

        Args:
            job_id: the job.
            owner: whose job it must be; None for an admin.
        """
        job = self.jobs.get(job_id)
        if job is None or job.ended_s is None or owner not in (None, job.owner):
            return False
        self._drop(job, "it was cancelled when it had ended")
        return True

    def _drop(self, job: DetachedJob, why: str) -> None:
        """Keep a job no longer; if it has not ended, it is cancelled."""
        del self.jobs[job.id]
        self._due.discard(job.id)
        self._bytes[job.owner] -= job.size_bytes
        if not self._bytes[job.owner]:
            del self._bytes[job.owner]
        self._gone[job.id] = job.owner, why
        if len(self._gone) > GONE_MAX:
            self._gone.popitem(last=False)
        self._memory.left(job.memory)
        self._memory.abandon(job.memory, 0.0)
        self._close_arguments(job, 0.0)
        self._emit(e.ClientLost(job.session_id, 0.0))

    # ------------------------------------------------------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        """Cancel the jobs that were unattended for too long, and drop those that were kept for long enough."""
        for job_id in self._due.take_up_to(now):
            job = self.jobs[job_id]
            if job.ended_s is not None:
                self._drop(job, f"it ended {self.limits.results_s:,.0f} s ago, see MasterNode.detached_results_s")
            elif not job.is_closed:
                self._drop(job, "its application has ended before it had sent all tasks")
            else:
                job.due_s = inf
                self._emit(e.CancelRequested(None, job.id, None))

    def apply_limits(self, now: float) -> None:
        """Have changed limits hold for the jobs that are kept."""
        for job in self.jobs.values():
            self._set_due(job, now)

    def next_deadline(self) -> float:
        """Return when `tick` must be called again."""
        return -inf if self.acknowledged else self._due.soonest

    # ---------------------------------------------------------------------------------------------------------- status

    def describe(self) -> dict[str, Any]:
        """Return the settings, and what is kept in all, for the status."""
        return {
            "unattended_jobs_s": self.limits.unattended_jobs_s,
            "detached_results_s": self.limits.results_s,
            "detached_results_bytes": self.limits.results_bytes,
            "jobs": len(self.jobs),
            "kept_bytes": sum(self._bytes.values()),
        }

    def describe_job(self, job: DetachedJob, now: float) -> dict[str, Any]:
        """Return what the status says about a job besides what it says about each."""
        return {
            "detached": True,
            "readers": len(job.readers),
            "kept": len(job.outcomes),
            "kept_bytes": job.size_bytes,
            "left_s": None if job.due_s == inf else max(0.0, job.due_s - now),
        }


def why_not_detachable(job: JobRecord, client: Peer | None) -> str:
    """Return why the master cannot keep a job that was not started as a detached one, "" if it can."""
    if not job.closed:
        return "its application may have more tasks for it"
    if client is not None and (client.parent is not None or not client.comes_back):
        return "its tasks belong to a task"
    tasks = job.tasks.values()
    if any(task.kind in _IN_PARTS for task in tasks) or any(index >= job.accepted for index in job.tasks):
        return "its tasks travel in batches, or together with others, and only its application can divide them"
    if any(task.width == 0 for task in tasks):
        return "it is the host of a task system"
    if job.kept or any(task.links is not None and task.links.is_kept for task in tasks):
        return "its results stay in the cluster for its application (keep)"
    return ""


def _lost(index: int) -> m.OutcomeFrame:
    """Return the outcome of a task whose application has taken its result before the job was kept."""
    return lost_result(m.OutcomeFrame(index, 1, Status.OK, 0.0, 0, b""), _DELIVERED)


def _notes_on_cuts(job: DetachedJob) -> list[m.Output]:
    """Return notes, as output, on what is left out of each stream."""
    notes = []
    for (job_id, index, attempt, stream), count in job.cut.items():
        if stream != m.NOTES:
            text = f"\n[{count:,} bytes of output are left out here: they were not kept]\n"
            notes.append(m.Output(m.TaskRef(job_id, index, attempt), stream, text.encode()))
    return notes
