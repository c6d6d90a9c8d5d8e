"""Writes down for the journal what the scheduler has handled. A part of `nodes.master.core`.

One record for each event about a run of tasks, so it costs little for each task; a master without a journal makes none.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from concurrent_nb.ids import SessionId
from concurrent_nb.journal import journal_records as r
from concurrent_nb.journal.journal_store import JournalStore
from concurrent_nb.journal.replayed import Replayed
from concurrent_nb.nodes.master.function_table import FunctionTable
from concurrent_nb.nodes.master.peers import Peer
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling import instructions as i
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.tasks.task_record import TaskRecord
from concurrent_nb.wire.codec import Buffer, slices_of


class JournalRecorder:
    """Makes the records.

    Args:
        journal: takes them.
        scheduler: has handled what is recorded.
        functions: the functions that the master has.
        peers: the registered peers.
    """

    def __init__(
        self,
        journal: JournalStore,
        scheduler: Scheduler,
        functions: FunctionTable,
        peers: Mapping[SessionId, Peer],
    ) -> None:
        self._append = journal.append
        self._scheduler = scheduler
        self._functions = functions
        self._peers = peers
        self._jobs: dict[bytes, set[bytes]] = {}  # those in the journal, with the functions of their tasks
        self._users: dict[bytes, set[bytes]] = {}  # functions in the journal, with their jobs
        self._ended: set[bytes] = set()  # jobs to which no more tasks come
        self._slaves: dict[SessionId, bytes] = {}  # keys of slaves by session
        self._sessions: Counter[bytes] = Counter()  # of slaves, by key

    def recovered(self, replayed: Replayed) -> None:
        """Take note of what the journal has."""
        self._users = {digest: set() for digest in replayed.functions}
        for job_id, job in replayed.jobs.items():
            used = {run.function for run, _ in job.runs} & self._users.keys()
            self._jobs[job_id] = used
            for digest in used:
                self._users[digest].add(job_id)
            if job.is_ended:
                self._ended.add(job_id)

    def slave_gone(self, key: bytes) -> None:
        """Record that a slave of the former run has not come back."""
        if not self._sessions[key]:
            self._append(r.SlaveGone(key))

    def handled(self, events: Sequence[e.Event], instructions: Sequence[i.Instruction]) -> None:
        """Record events that the scheduler has handled, and what has become of tasks and jobs."""
        forgotten = [each.job for each in instructions if type(each) is i.ForgetJob]
        # A job may be opened again in the same call in which it was forgotten.
        for job in forgotten:
            if job in self._scheduler.jobs:
                self._forget(job)
        for event in events:
            self._record(event)
        if concluded := self._scheduler.take_concluded():
            self._record_outcomes(concluded)
        for job in forgotten:
            if job not in self._scheduler.jobs:
                self._forget(job)

    def _record(self, event: e.Event) -> None:
        if isinstance(event, e.TasksSubmitted):
            self._record_tasks(event)
        elif isinstance(event, e.OutcomesAcknowledged):
            self._append(r.TasksAcknowledged(event.job, list(event.indexes)))
        elif isinstance(event, e.JobOpened):
            self._record_job(event)
        elif isinstance(event, e.JobClosed):
            if event.job in self._jobs:
                self._ended.add(event.job)
                self._append(r.JobEnded(event.job))
        elif isinstance(event, e.CancelRequested):
            if not event.unstarted_only and event.job in self._jobs:
                indexes = None if event.indexes is None else list(event.indexes)
                self._append(r.TasksCancelled(event.job, indexes))
        elif isinstance(event, e.ResultsFreed):
            if event.job in self._jobs:
                self._append(r.ResultsReleased(event.job, list(event.indexes)))
        elif isinstance(event, e.SlaveJoined):
            if (peer := self._peers.get(event.slave)) is not None:
                self._slaves[event.slave] = peer.key
                self._sessions[peer.key] += 1
                self._append(r.SlaveKept(peer.key, event.name))
        elif isinstance(event, e.SlaveLost) and (lost := self._slaves.pop(event.slave, None)) is not None:
            self._sessions[lost] -= 1
            if not self._sessions[lost]:  # else it has joined again
                del self._sessions[lost]
                self._append(r.SlaveGone(lost))

    def _record_job(self, event: e.JobOpened) -> None:
        if event.job in self._jobs and event.job not in self._ended:
            return  # another session of its owner
        self._jobs.setdefault(event.job, set())
        self._ended.discard(event.job)
        peer = self._peers.get(event.client)
        self._append(
            r.JobKept(
                event.job,
                event.owner,
                event.name,
                event.until,
                event.stop_on_error,
                event.strategy,
                event.notebook,
                event.cell,
                peer is None or peer.comes_back,
            )
        )

    def _record_tasks(self, event: e.TasksSubmitted) -> None:
        functions = self._jobs.setdefault(event.job, set())
        if event.function not in functions:
            self._record_function(event.function)
            functions.add(event.function)
            self._users[event.function].add(event.job)
        flat: list[Buffer] = [each for own in event.buffers for each in own] if event.buffers else []
        inputs: list[tuple[int, list[tuple[bytes, int]]]] = [
            (index, [(job, number) for job, number in needed]) for index, needed in event.inputs
        ]
        job = self._scheduler.jobs.get(event.job)
        accepted = job.tasks if job is not None else {}
        record, own = r.only(
            r.TasksKept(
                event.job,
                event.function,
                list(event.tasks),
                event.timeout_s,
                event.retries,
                event.needs,
                event.keep,
                inputs,
            ),
            flat,
            accepted,
        )
        self._append(record, own)

    def _record_function(self, digest: bytes) -> None:
        if digest in self._users:
            return
        self._users[digest] = set()
        function = self._functions.get(digest)
        if function is None or slices_of(function.message.sizes):
            return  # its segment was dropped: its tasks are refused
        message = function.message
        sizes = tuple(size for size in message.sizes if isinstance(size, int))
        self._append(r.FunctionKept(digest, message.body, sizes, message.name), list(function.buffers[0]))

    def _record_outcomes(self, tasks: Sequence[TaskRecord]) -> None:
        for (job, slave), alike in groupby(tasks, lambda task: (task.job.id, task.outcome_slave)):
            ended = [task for task in alike if task.outcome is not None]
            items = [task.outcome for task in ended if task.outcome is not None]
            self._append(r.OutcomesKept(job, slave, items), [each for task in ended for each in task.outcome_buffers])

    def _forget(self, job: bytes) -> None:
        self._ended.discard(job)
        for digest in self._jobs.pop(job, ()):
            users = self._users[digest]
            users.discard(job)
            if not users:
                del self._users[digest]
        self._append(r.JobForgotten(job))
