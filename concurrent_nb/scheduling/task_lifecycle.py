"""How attempts, tasks and jobs end: which ends are final, which tasks run again, which ends end the job.

Called by the parts of the scheduler that handle events. A task must be released from its slave before it is passed to a
method here, unless the method's docstring states otherwise. Methods that return a bool return whether the job ends.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.outcome import RETRIABLE, SUCCESSES, Status
from concurrent_nb.scheduling.scheduler_state import SchedulerState, cost_of
from concurrent_nb.tasks.error_kinds import ErrorKinds
from concurrent_nb.tasks.states import ABANDON, FINISH, FORGET, REQUEUE, move
from concurrent_nb.tasks.task_record import Buffer, JobRecord, TaskRecord, TaskState
from concurrent_nb.wire.messages import ErrorReport, OutcomeFrame, TaskRef

#: allowed deaths are multiplied by this for a task whose deaths others may have caused
COMPANY_FACTOR: Final = 2
#: a task that was cut off after so much of its slave's time limit is too long, not only unlucky
LONG_SHARE: Final = 0.5
_ALONE: Final = (
    "Run it alone to find out why: usual causes are a crash in compiled code, too little memory, or os._exit."
)
_TOO_LONG: Final = (
    "Its slaves were taken away while it ran, and what it had done was lost: give slaves a longer time limit, or divide"
    " the task into shorter ones."
)
#: most characters of a slave's report on how a worker died
_HOW_LENGTH = 1000
#: most characters of an error's message, and of the traceback, that are kept for people who look at the job
_MESSAGE_LENGTH, _TRACEBACK_LENGTH = 200, 2000


class TaskLifecycle:
    """Decides what the end of an attempt means for its task and its job.

    Args:
        state: of the scheduler.
        deaths_allowed: deaths with which a task is quarantined, at least 1.

    Raises ConfigurationError for fewer.
    """

    def __init__(self, state: SchedulerState, *, deaths_allowed: int) -> None:
        if deaths_allowed < 1:
            raise ConfigurationError(f"deaths_allowed is {deaths_allowed}, it must be at least 1")
        self._state = state
        self.deaths_allowed = deaths_allowed

    def finish(self, task: TaskRecord, outcome: OutcomeFrame, buffers: Sequence[Buffer] = (), slave: str = "") -> None:
        """Store a task's outcome and deliver it. `slave` is the name of the slave where it ran, "" if it never ran."""
        self._state.task_log.add(task, outcome, slave)
        if task.links is not None:
            if task.state is TaskState.BLOCKED:
                self._state.unblock(task)
            if task.links.node is not None:
                task.links.node.end(outcome.status, self._state.task_log.now_s)
        self._count(task, outcome, buffers, slave)
        keep(task, outcome, buffers, slave)
        # Only plain values are kept; but for those of a former master, they come by another way.
        if task.links is not None and task.links.is_kept and outcome.status != Status.OK:
            self._state.free(task, settle=False)
        if task.deaths:
            self._state.blamed.pop(task, None)
        self._hand_out(task, outcome)

    def _hand_out(self, task: TaskRecord, outcome: OutcomeFrame) -> None:
        """Deliver an outcome that is kept from now on, and note that the task has ended."""
        self._state.keep_bytes(task.job.owner, cost_of(outcome, task.job))
        if task.links is not None:
            self._state.settled.append(task)
        if self._state.concluded is not None:
            self._state.concluded.append(task)
        self.deliver(task)

    def ran(self, job: JobRecord, ended: Sequence[tuple[TaskRecord, OutcomeFrame, int]], slave: str) -> None:
        """Count tasks that their application has run itself, in a worker of a slave."""
        self._state.task_log.add_all(job, slave, ended)
        for task, outcome, _ in ended:
            self._count(task, outcome, (), slave)

    def _count(self, task: TaskRecord, outcome: OutcomeFrame, buffers: Sequence[Buffer], slave: str) -> None:
        job, status, state = task.job, outcome.status, self._state
        if status == Status.CANCELLED:
            job.sums.cancelled += 1
            state.cancelled += 1
        elif status not in SUCCESSES:
            job.sums.failed += 1
            state.failed += 1
            if status == Status.POISON:
                self._add_event("task quarantined", f"task {task.name} is quarantined: {task.deaths[-1]}", task, slave)
            report = report_of(outcome, buffers)
            if job.errors is None:
                job.errors = ErrorKinds()
            message = report.message[:_MESSAGE_LENGTH].partition("\n")[0]
            kind = report.type_name[:_MESSAGE_LENGTH].rpartition(".")[2] or Status(status).name.lower().replace(
                "_", " "
            )
            job.errors.add(task.index, kind, message, lambda: _end_of(report))
            if job.sums.failed == 1:
                text = f"task {task.name} of job {job.name!r} has failed: {_why_it_failed(report, status)}"
                self._add_event("job failed", text, task, slave)

    def _add_event(self, kind: str, text: str, task: TaskRecord, slave: str) -> None:
        state, job = self._state, task.job
        state.event_log.add(state.task_log.now_s, kind, text, slave=slave, job=job.id, owner=job.owner)

    def deliver(self, task: TaskRecord) -> None:
        """Send a finished task's outcome to its owner, or keep it until the owner is back."""
        parcel = self._state.outbox.parcel(task.job, task.outcome_slave)
        if task.outcome is None:
            return
        if parcel is not None and task.links is not None and task.links.is_kept:
            parcel.add(msgspec.structs.replace(task.outcome, status=int(Status.KEPT), body=b"", sizes=()))
        elif parcel is not None:
            parcel.add(task.outcome, task.outcome_buffers)
        else:
            self._state.keep_undelivered(task)

    def requeue(self, task: TaskRecord) -> None:
        """Queue a task for another attempt, before all others of its owner; one that was sent ahead stays blocked."""
        if task.state is TaskState.BLOCKED:
            return
        move(task, REQUEUE)
        task.started = task.taken_back = False
        self._state.put_back(task)

    def conclude(self, task: TaskRecord, slave: str, outcome: OutcomeFrame, buffers: Sequence[Buffer] = ()) -> bool:
        """Act on the end of an attempt that its slave has reported. Returns whether that ends the job."""
        status = outcome.status
        if status == Status.DIED:
            return self.died(task, slave, _how_it_died(outcome, buffers), outcome)
        if status in RETRIABLE and task.retries_left > 0 and not task.cancelled:
            task.retries_left -= 1
            self.requeue(task)
            return False
        self.finish(task, outcome, buffers, slave)
        return ends_job(task.job, status)

    def died(
        self,
        task: TaskRecord,
        slave: str,
        how: str,
        outcome: OutcomeFrame | None = None,
        *,
        slave_lost: bool = False,
        in_company: bool = False,
        remedy: str = _ALONE,
    ) -> bool:
        """Act on the death of a task's worker, or of its slave. Returns whether that ends the job.

        Args:
            task: the task.
            slave: the slave's name.
            how: how the worker or slave died, for people.
            outcome: the slave's report, if there is one.
            slave_lost: whether the slave died, and not only the worker.
            in_company: whether other tasks may have killed it: such a death alone does not quarantine a task.
            remedy: what the user can do.
        """
        if task.cancelled:
            self.finish(task, _stopped(task, Status.CANCELLED, outcome), slave=slave)
            return False
        task.deaths += (how,)
        if not slave_lost:
            self._add_event("worker died", f"a worker of slave {slave} died with task {task.name}: {how}", task, slave)
        task.lost_slaves += slave_lost
        count, allowed = len(task.deaths), self.deaths_allowed
        # A task that cannot run alone, because it waits for others, is quarantined in the end, too.
        if count < allowed or (in_company and count < allowed * COMPANY_FACTOR):
            task.suspect = task.suspect or (task.lost_slaves > 0 and count >= allowed - 1)
            self._state.blamed[task] = None
            self.requeue(task)
            return False
        self.finish(task, _stopped(task, Status.POISON, outcome, _quarantine_note(task, remedy)), slave=slave)
        return ends_job(task.job, Status.POISON)

    def cut_off(self, task: TaskRecord, slave: str, place: str, limit_s: float | None, ran_s: float) -> bool:
        """Act on a running task whose slave was taken away by its place. Returns whether that ends the job.

        It counts a death, or it would run again for ever. One that was cut off early may only have begun late, so that
        does not quarantine it before it has happened COMPANY_FACTOR times as often.
        """
        limit = "" if limit_s is None else f", whose time limit is {limit_s:.0f} s"
        how = f"slave {slave} was taken away when the task had run for {ran_s:.0f} s; it was {place}{limit}"
        is_early = limit_s is None or ran_s < LONG_SHARE * limit_s
        return self.died(task, slave, how, in_company=is_early, remedy=_TOO_LONG)

    def timed_out(self, task: TaskRecord, slave: str) -> bool:
        """End an attempt that exceeded its time limit and was stopped. Returns whether that ends the job."""
        if task.cancelled:
            self.finish(task, _stopped(task, Status.CANCELLED), slave=slave)
            return False
        note = f"task {task.name} ran on slave {slave} for longer than its limit of {task.timeout_s} s: raise the limit"
        return self.conclude(task, slave, _stopped(task, Status.TIMEOUT, note=note))

    def give_back(self, task: TaskRecord) -> None:
        """Act on an attempt that never ran: the task is cancelled or requeued."""
        if task.cancelled:
            self.cancel_unstarted(task)
        elif task.taken_back:
            self.hand_back(task, Status.TAKEN_BACK)
        else:
            self.requeue(task)

    def cancel_unstarted(self, task: TaskRecord) -> None:
        """End a cancelled task that is on no slave."""
        self.finish(task, _stopped(task, Status.CANCELLED))

    def refuse(self, task: TaskRecord, why: str) -> None:
        """End a waiting task that cannot be run."""
        self.finish(task, _stopped(task, Status.REFUSED, note=why))

    def cancel(self, job: JobRecord, tasks: Iterable[TaskRecord]) -> None:
        """Cancel tasks of one job: waiting ones end now, assigned ones when their slave reports their end."""
        state = self._state
        waited: list[TaskRecord] = []
        for task in tasks:
            if task.state == TaskState.WAITING:
                self.cancel_unstarted(task)
                waited.append(task)
            elif task.state == TaskState.BLOCKED:
                self.cancel_unstarted(task)
            elif task.slave is not None and not task.cancelled:
                task.cancelled = True
                state.outbox.withdraw(task.slave, TaskRef(job.id, task.index, task.attempt), stop=True)
        state.waiting_ended(waited)

    def take_back(self, tasks: Iterable[TaskRecord]) -> None:
        """End those tasks that have not begun, because their application runs them itself.

        Others go on; so do those whose worker or slave has died: they could end the application's process as well. So
        do those that need results of others, or whose results others need.
        """
        state = self._state
        waited: list[TaskRecord] = []
        for task in tasks:
            if task.deaths or task.cancelled or task.links is not None:
                continue
            if task.state == TaskState.WAITING:
                self.hand_back(task, Status.TAKEN_BACK)
                waited.append(task)
            elif task.slave is not None and not task.started and not task.taken_back:
                task.taken_back = True
                state.outbox.withdraw(task.slave, TaskRef(task.job.id, task.index, task.attempt), stop=False)
        state.waiting_ended(waited)

    def hand_back(self, task: TaskRecord, status: Status) -> None:
        """End a task that is on no slave and that its application has to look after: it does not count here.

        Args:
            task: the task.
            status: TAKEN_BACK: its application runs it; INPUT_GONE: it sends it again, with results that it has.
        """
        outcome = _stopped(task, status)
        self._leave_graph(task)
        keep(task, outcome, (), "")
        self._state.free(task, settle=False)
        task.job.accepted -= 1
        self._hand_out(task, outcome)

    def end(self, job: JobRecord) -> None:
        """Cancel the rest of a job, tasks that still come included."""
        job.ended = True
        self.cancel(job, job.tasks.values())

    def abandon(self, job: JobRecord) -> None:
        """Forget a job whose owner is gone for good. Its tasks are stopped; reports about them are dropped."""
        state = self._state
        waited: list[TaskRecord] = []
        kept_bytes = 0
        for task in job.tasks.values():
            if task.slave is not None:
                slave = state.slaves[task.slave]
                state.outbox.withdraw(slave.id, TaskRef(job.id, task.index, task.attempt), stop=True)
                state.release_unconfirmed(task, slave)
            if task.state == TaskState.WAITING:
                waited.append(task)
            elif task.outcome is not None:
                kept_bytes += cost_of(task.outcome, job)
            if task.deaths:
                state.blamed.pop(task, None)
            if task.outcome is None:
                self._leave_graph(task)
            move(task, ABANDON)
            if task.links is not None:
                state.retain(task)
                state.settled.append(task)
        if kept_bytes:
            state.release_kept_bytes(job.owner, kept_bytes)
        if job.tasks:
            state.remove_busy_job(job)
        for task in list(job.kept.values()):
            state.free(task)
        job.tasks.clear()
        state.waiting_ended(waited)
        state.forget(job)

    def _leave_graph(self, task: TaskRecord) -> None:
        """Note that a task which has not ended counts no more."""
        if task.links is None:
            return
        if task.state is TaskState.BLOCKED:
            self._state.unblock(task)
        if task.links.node is not None:
            task.links.node.remove(self._state.task_log.now_s)

    def forget(self, task: TaskRecord) -> None:
        """Drop a task whose outcome its owner has."""
        move(task, FORGET)
        del task.job.tasks[task.index]
        if task.links is not None:
            self._state.retain(task)


def keep(task: TaskRecord, outcome: OutcomeFrame, buffers: Sequence[Buffer], slave: str) -> None:
    """Finish a task with an outcome, which is kept until its owner acknowledges it."""
    move(task, FINISH)
    task.outcome = outcome
    if buffers:
        task.outcome_buffers = buffers
    task.outcome_slave = slave
    # The arguments are not needed any more, and outcomes may be kept for a long time.
    task.body, task.sizes, task.buffers = b"", (), ()


def ends_job(job: JobRecord, status: int) -> bool:
    """Return whether such an end of a task ends its job."""
    if status == Status.HIT:
        return job.until
    # Cancelling one task is not a failure of the job.
    return job.stop_on_error and status not in SUCCESSES and status != Status.CANCELLED


def _stopped(task: TaskRecord, status: Status, last: OutcomeFrame | None = None, note: str = "") -> OutcomeFrame:
    """Return an outcome for a task that no worker reports; `last` is the last report of a worker."""
    body = msgspec.msgpack.encode(ErrorReport("", note, "")) if note else b""
    elapsed_s, worker = (last.elapsed_s, last.worker) if last is not None else (0.0, 0)
    return OutcomeFrame(task.index, task.attempt, status, elapsed_s, worker, body)


def _how_it_died(outcome: OutcomeFrame, buffers: Sequence[Buffer]) -> str:
    return report_of(outcome, buffers).message[:_HOW_LENGTH] or f"worker {outcome.worker} died for an unknown reason"


def _why_it_failed(report: ErrorReport, status: int) -> str:
    parts = (report.type_name[:_HOW_LENGTH], report.message[:_HOW_LENGTH])
    return ": ".join(part for part in parts if part) or Status(status).name


def _end_of(report: ErrorReport) -> str:
    """Return the end of a traceback, which matters most; of an error without one, its message."""
    text = report.traceback or report.message
    return text if len(text) <= _TRACEBACK_LENGTH else f"…\n{text[-_TRACEBACK_LENGTH:]}"


def report_of(outcome: OutcomeFrame, buffers: Sequence[Buffer]) -> ErrorReport:
    """Return what a slave reports on a failure; an empty report if that cannot be read here."""
    body = buffers[0] if buffers and not outcome.body else outcome.body
    try:
        return msgspec.msgpack.decode(body, type=ErrorReport)
    except msgspec.MsgspecError:
        return ErrorReport("", "", "")


def _quarantine_note(task: TaskRecord, remedy: str) -> str:
    deaths = "".join(f"\n  {number}. {how}" for number, how in enumerate(task.deaths, 1))
    return (
        f"{len(task.deaths)} times the worker or the slave of task {task.name} died, "
        f"so it is not run again:{deaths}\n{remedy}"
    )
