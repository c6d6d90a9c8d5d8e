"""Events of clients: jobs opened, tasks submitted, cancelled and acknowledged, and sessions that end.

A job belongs to an owner (a public key), not to a session: the session of its owner that opened it last gets its
outcomes. Called by the scheduler, with an event and the time in seconds. Handlers raise EventRefused for what a client
may not do.
"""

from itertools import groupby, repeat
from operator import attrgetter
from typing import Final

import msgspec

from concurrent_nb.ids import ID_BYTES
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.dependencies import Dependencies
from concurrent_nb.scheduling.events import (
    CancelRequested,
    ClientLost,
    ClientResumed,
    ClientSilent,
    FunctionLost,
    JobClosed,
    JobOpened,
    OutcomesAcknowledged,
    OwnerNamed,
    ResultsFreed,
    ResultsWanted,
    TasksRan,
    TasksSubmitted,
)
from concurrent_nb.scheduling.placement import why_too_large
from concurrent_nb.scheduling.refusal import refuse
from concurrent_nb.scheduling.scheduler_state import RECORD_BYTES, SchedulerState, cost_of
from concurrent_nb.scheduling.task_lifecycle import TaskLifecycle
from concurrent_nb.tasks.task_record import JobRecord, TaskLinks, TaskRecord, TaskState
from concurrent_nb.wire.messages import Needs, OutcomeFrame, StartedTask

#: explicit needs that mean the same as None
PLAIN: Final = Needs()
#: ends of tasks that their application looks after: they have not run, and do not count
_HANDED_BACK: Final = frozenset(map(int, (Status.TAKEN_BACK, Status.INPUT_GONE)))


class ClientEventHandler:
    """Handles the events that come from clients."""

    def __init__(self, state: SchedulerState, lifecycle: TaskLifecycle, dependencies: Dependencies) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._dependencies = dependencies

    def opened(self, event: JobOpened, now: float) -> None:
        """Open a job, or attach a new session to it, which gets its unacknowledged outcomes and the running tasks."""
        state = self._state
        if len(event.job) != ID_BYTES:
            refuse(event, f"the id of a job has {len(event.job)} bytes: it has {ID_BYTES}")
        if state.owners.get(event.client, event.owner) != event.owner:
            refuse(event, f"session {event.client.hex()[:8]} opened a job in the name of another owner than before")
        job = state.jobs.get(event.job)
        if job is None:
            if event.strategy and event.strategy not in state.strategies.names:
                names = ", ".join(state.strategies.names)
                refuse(event, f"a job asks for strategy {event.strategy[:100]!r}; the strategies are {names}")
            job = state.jobs[event.job] = JobRecord(
                event.job, event.owner, event.name, event.until, event.stop_on_error, event.strategy, event.client
            )
            job.opened_s, job.shares_memory = now, event.shares_memory
            job.notebook, job.cell, job.line = event.notebook, event.cell, event.line
            former = state.ended_jobs.pop(event.job, None)
            if former is not None and former.owner == event.owner:
                job.sums, job.errors = former.sums, former.errors  # it has got a late task
            state.strategies.opened(job, state.slaves.values())
        elif job.owner != event.owner:
            refuse(event, f"job {event.job.hex()[:8]} belongs to another owner")
        else:
            job.closed = False  # the client has more tasks for it, and will close it again
            if job.client != event.client:
                self._attach(job, event)
        state.owners[event.client] = event.owner

    def owner_named(self, event: OwnerNamed, now: float) -> None:
        """Let a session cancel jobs of its owner, and add tasks to them."""
        if self._state.owners.setdefault(event.client, event.owner) != event.owner:
            refuse(event, f"session {event.client.hex()[:8]} reads a job in the name of another owner than before")

    def submitted(self, event: TasksSubmitted, now: float) -> None:
        """Accept new tasks, deliver the outcomes of known tasks that have finished, ignore other known tasks."""
        job = self._job_of(event)
        if job is None:
            refuse(event, f"tasks came for job {event.job.hex()[:8]}, which is not open: open it first")
        if len(event.buffers) not in (0, len(event.tasks)):
            refuse(event, f"{len(event.tasks)} tasks of job {job.id.hex()[:8]} came with {len(event.buffers)} buffers")
        if event.retries < 0 or (event.timeout_s is not None and not event.timeout_s > 0):
            refuse(event, f"retries={event.retries}, timeout_s={event.timeout_s}: not possible")
        if len(event.objects) not in (0, len(event.tasks)):
            refuse(event, f"{len(event.tasks)} tasks of job {job.id.hex()[:8]} came with {len(event.objects)} objects")
        if event.needs is not None and event.needs.cores < 0:
            refuse(event, f"tasks of job {job.id.hex()[:8]} need {event.needs.cores} cores: not possible")
        if event.needs is not None and event.needs.kind != "process" and event.needs.cores != 1:
            refuse(event, f"a {event.needs.kind} of {event.needs.cores} cores: it has cores=1")
        needs = event.needs if event.needs != PLAIN else None
        if job.sent_again:
            event = _without_answered(job, event)
        had_tasks = bool(job.tasks)
        fresh = self._fresh(job, event, needs, now)
        job.accepted += len(fresh)
        if fresh and not had_tasks:
            self._state.add_busy_job(job)
        if job.ended:
            for task in fresh:
                self._lifecycle.cancel_unstarted(task)
        elif needs is not None and fresh and (why_not := why_too_large(self._state, fresh[0])):
            for task in fresh:
                self._lifecycle.refuse(task, why_not)
            if job.stop_on_error:
                self._lifecycle.end(job)
        else:
            if event.inputs:
                fresh = self._link(fresh, event)
            if event.objects:
                for _, alike in groupby(fresh, attrgetter("objects")):
                    self._state.add(needs, list(alike))
            elif fresh:
                self._state.add(needs, fresh)

    def closed(self, event: JobClosed, now: float) -> None:
        """Close a job: it is forgotten when its last outcome is acknowledged."""
        job = self._job_of(event)
        if job is not None:
            job.closed = True
            self._forget_if_done(job)

    def cancel_requested(self, event: CancelRequested, now: float) -> None:
        """Cancel some tasks, or the whole job; or let the application take back those that have not begun."""
        job = self._job_of(event)
        if job is None:
            return
        if event.unstarted_only:
            indexes = job.tasks if event.indexes is None else event.indexes
            self._lifecycle.take_back([job.tasks[index] for index in indexes if index in job.tasks])
            return
        if event.indexes is None:
            # An application also cancels the rest of a job that ends with its first error.
            job.is_cancelled |= not job.ended and not (job.stop_on_error and job.sums.failed)
            self._lifecycle.end(job)
        else:
            self._lifecycle.cancel(job, [job.tasks[index] for index in event.indexes if index in job.tasks])

    def ran(self, event: TasksRan, now: float) -> None:
        """Count tasks that their application has run itself."""
        job = self._job_of(event)
        if job is None:
            return
        ended: list[tuple[TaskRecord, OutcomeFrame, int]] = []
        for frame in event.items:
            task = TaskRecord(job, frame.index, event.function, b"")
            task.attempt = frame.attempt
            task.accepted_s = task.assigned_s = now - frame.elapsed_s - frame.ago_us * 1e-6
            ended.append((task, frame, 0))
        self._lifecycle.ran(job, ended, event.slave)
        job.accepted += len(ended)
        job.sums.acknowledge(len(ended), now)

    def results_wanted(self, event: ResultsWanted, now: float) -> None:
        """Deliver results that are kept, to the session that asks."""
        job = self._job_of(event)
        if job is None:
            refuse(event, f"results of job {event.job.hex()[:8]} are wanted, which is not open: open it first")
        for index in event.indexes:
            task = job.kept.get(index)
            slave = "" if task is None else task.outcome_slave
            parcel = self._state.outbox.parcel(job, slave)
            if parcel is None:
                return  # it asks again in its next session
            if task is not None and task.outcome is not None:
                parcel.add(task.outcome, task.outcome_buffers)
            elif task is None:
                parcel.add(OutcomeFrame(index, 0, Status.INPUT_GONE, 0.0, 0, b""))

    def results_freed(self, event: ResultsFreed, now: float) -> None:
        """Drop results that are kept, unless tasks need them."""
        job = self._job_of(event)
        if job is None:
            return
        for index in event.indexes:
            if (task := job.kept.get(index)) is not None:
                self._state.free(task)
        self._forget_if_done(job)

    def acknowledged(self, event: OutcomesAcknowledged, now: float) -> None:
        """Forget tasks whose outcomes the owner has."""
        job = self._job_of(event)
        if job is None:
            return
        before = len(job.tasks)
        get, forget = job.tasks.get, self._lifecycle.forget
        kept_bytes = taken_back = 0
        for index in event.indexes:
            task = get(index)
            if task is not None and (outcome := task.outcome) is not None:
                taken_back += outcome.status in _HANDED_BACK
                kept_bytes += cost_of(outcome, job) if outcome.sizes else RECORD_BYTES + len(outcome.body)
                forget(task)
                if outcome.status in _HANDED_BACK and job.sent_again:
                    job.sent_again.discard(index)  # it may come once more
        job.sums.acknowledge(before - len(job.tasks) - taken_back, now)
        if kept_bytes:
            self._state.release_kept_bytes(job.owner, kept_bytes)
        if before and not job.tasks:
            self._state.remove_busy_job(job)
        self._forget_if_done(job)

    def function_lost(self, event: FunctionLost, now: float) -> None:
        """Refuse waiting tasks of a function that is gone. Assigned tasks go on."""
        for job_id in event.jobs:
            job = self._state.jobs.get(job_id)
            if job is None:
                continue
            alike = [task for task in job.tasks.values() if task.function == event.function]
            waited = [task for task in alike if task.state == TaskState.WAITING]
            blocked = [task for task in alike if task.state == TaskState.BLOCKED]
            for task in (*waited, *blocked):
                self._lifecycle.refuse(task, event.why)
            self._state.waiting_ended(waited)
            if (waited or blocked) and job.stop_on_error and not job.ended:
                self._lifecycle.end(job)

    def client_lost(self, event: ClientLost, now: float) -> None:
        """Let the client's jobs go on for `linger_s` seconds."""
        state = self._state
        state.take_undelivered(event.client)
        state.owners.pop(event.client, None)
        for job in state.jobs.values():
            if job.client == event.client:
                job.client = None
                state.lingering.set(job.id, now + event.linger_s)

    def client_silent(self, event: ClientSilent, now: float) -> None:
        """Keep outcomes for the client, and let its jobs go on."""
        self._state.outbox.silent.add(event.client)

    def client_resumed(self, event: ClientResumed, now: float) -> None:
        """Deliver the outcomes that were kept for the client."""
        for task in self._state.take_undelivered(event.client):
            if task.state == TaskState.FINISHED and task.job.client == event.client:
                self._lifecycle.deliver(task)

    def abandon_overdue(self, now: float) -> None:
        """Abandon the jobs whose owner has not come back in time."""
        for job_id in self._state.lingering.take_up_to(now):
            self._lifecycle.abandon(self._state.jobs[job_id])

    def _attach(self, job: JobRecord, event: JobOpened) -> None:
        job.client = event.client
        job.sent_again = set(job.tasks)
        self._state.lingering.discard(job.id)
        if job.shares_memory != event.shares_memory:
            self._count_anew(job, event.shares_memory)
        for task in job.tasks.values():
            if task.state == TaskState.FINISHED:
                self._lifecycle.deliver(task)
            elif task.started and task.slave is not None:
                started = StartedTask(job.id, task.index, task.attempt, task.worker)
                self._state.outbox.announce_started(event.client, self._state.slaves[task.slave].name, started)

    def _count_anew(self, job: JobRecord, shares_memory: bool) -> None:
        """Recount the kept results of a job whose owner has come back on another host, or on this one."""
        outcomes = [task.outcome for task in job.tasks.values() if task.outcome is not None]
        before = sum(cost_of(outcome, job) for outcome in outcomes)
        job.shares_memory = shares_memory
        if outcomes:
            self._state.keep_bytes(job.owner, sum(cost_of(outcome, job) for outcome in outcomes))
            self._state.release_kept_bytes(job.owner, before)

    def _fresh(self, job: JobRecord, event: TasksSubmitted, needs: Needs | None, now: float) -> list[TaskRecord]:
        function, timeout_s, retries, tasks = event.function, event.timeout_s, event.retries, job.tasks
        fresh: list[TaskRecord] = []
        for frame, buffers in zip(event.tasks, event.buffers or repeat(()), strict=False):
            index = frame.index
            known = tasks.get(index)
            if known is None:
                task = TaskRecord(
                    job, index, function, frame.body, frame.sizes, buffers, timeout_s, retries, frame.kind
                )
                task.accepted_s = now
                if needs is not None:
                    task.needs = needs
                tasks[index] = task
                fresh.append(task)
            elif known.state == TaskState.FINISHED:
                self._lifecycle.deliver(known)
        if event.keep:
            for task in fresh:
                task.links = TaskLinks(users=1, is_kept=True)
                job.kept[task.index] = task
        if event.objects:
            objects = {frame.index: each for frame, each in zip(event.tasks, event.objects, strict=True)}
            for task in fresh:
                task.objects = objects[task.index]
        return fresh

    def _link(self, fresh: list[TaskRecord], event: TasksSubmitted) -> list[TaskRecord]:
        """Link those tasks that need results of others; return the others."""
        inputs = dict(event.inputs)
        for task in fresh:
            if (needed := inputs.get(task.index)) is not None:
                self._dependencies.link(task, needed)
        return [task for task in fresh if task.index not in inputs]

    def _forget_if_done(self, job: JobRecord) -> None:
        if job.closed and not job.tasks and not job.kept:
            self._state.forget(job)

    def _job_of(
        self,
        event: TasksSubmitted
        | JobClosed
        | CancelRequested
        | TasksRan
        | OutcomesAcknowledged
        | ResultsWanted
        | ResultsFreed,
    ) -> JobRecord | None:
        """Return the event's job, None if it is unknown or forgotten. Refuse the event if the job has another owner."""
        job = self._state.jobs.get(event.job)
        if event.client is None:
            return job
        if job is not None and job.client != event.client and self._state.owners.get(event.client) != job.owner:
            refuse(event, f"job {event.job.hex()[:8]} belongs to another owner")
        return job


def _without_answered(job: JobRecord, event: TasksSubmitted) -> TasksSubmitted:
    """Return a run without tasks of a former session whose answers the owner has got since it has sent the run."""
    indexes = [frame.index for frame in event.tasks]
    left = [at for at, index in enumerate(indexes) if index in job.tasks or index not in job.sent_again]
    job.sent_again.difference_update(indexes)
    if len(left) == len(indexes):
        return event
    return msgspec.structs.replace(
        event,
        tasks=[event.tasks[at] for at in left],
        buffers=[event.buffers[at] for at in left] if event.buffers else (),
        objects=[event.objects[at] for at in left] if event.objects else (),
    )
