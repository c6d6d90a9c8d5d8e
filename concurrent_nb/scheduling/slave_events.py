"""Events of slaves: slaves join and leave, start tasks, return them and finish them.

A report counts only if the task is assigned to that slave in that attempt; any other is late and is dropped. Called by
the scheduler, with an event and the time in seconds. Handlers raise EventRefused for what a slave may not do.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final

from concurrent_nb.ids import Digest, JobId
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling.ahead import Ahead
from concurrent_nb.scheduling.refusal import refuse
from concurrent_nb.scheduling.scheduler_state import RECORD_BYTES, SchedulerState, cost_of
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.task_lifecycle import TaskLifecycle, keep
from concurrent_nb.tasks.task_log import in_bytes_of
from concurrent_nb.tasks.task_record import Buffer, JobRecord, TaskRecord, TaskState
from concurrent_nb.wire.messages import OutcomeFrame, StartedTask, TaskRef

#: most unfinished tasks that a slave may accept
CREDIT_MAX: Final = 1_000_000
#: longest run time that is accepted as a measurement, in seconds
LONGEST_S: Final = 1e8
# Numbers, which are compared and found in sets faster than members of an enumeration.
_OK: Final = int(Status.OK)
_AHEAD: Final = TaskState.AHEAD
#: statuses that a slave may report
_CLAIMS: Final = frozenset(
    map(
        int,
        frozenset(Status) - {Status.POISON, Status.REFUSED, Status.DEPENDENCY_FAILED, Status.INPUT_GONE, Status.KEPT},
    )
)
#: statuses whose run time is a measurement of the function
_MEASURED: Final = frozenset(map(int, (Status.OK, Status.HIT, Status.ERROR)))


class SlaveEventHandler:
    """Handles the events that come from slaves."""

    def __init__(self, state: SchedulerState, lifecycle: TaskLifecycle, ahead: Ahead, *, grace_s: float) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._ahead = ahead
        self._grace_s = grace_s

    def joined(self, event: e.SlaveJoined, now: float) -> None:
        """Add a slave."""
        state = self._state
        if event.slave in state.slaves:
            refuse(event, f"slave {event.name} joined twice in session {event.slave.hex()[:8]}")
        if not 1 <= event.slots <= event.credit <= CREDIT_MAX:
            offer = f"slots={event.slots}, credit={event.credit}"
            refuse(event, f"slave {event.name} has {offer}: 1 <= slots <= credit <= {CREDIT_MAX}")
        slave = SlaveState(event.slave, event.name, event.slots, event.credit, event.shares_memory)
        state.slaves[event.slave] = slave
        slave.last_activity_s = now
        state.locations.joined(slave)
        state.resized(0, slave.slots)
        state.touch(slave)

    def resized(self, event: e.SlaveResized, now: float) -> None:
        """Change the capacity of a slave; it keeps the tasks that it has."""
        slave = self._state.slaves.get(event.slave)
        if slave is None:
            return
        if not 0 <= event.slots <= event.credit <= CREDIT_MAX:
            offer = f"slots={event.slots}, credit={event.credit}"
            refuse(event, f"slave {slave.name} has {offer}: 0 <= slots <= credit <= {CREDIT_MAX}")
        before, slave.slots, slave.credit = slave.slots, event.slots, event.credit
        self._state.resized(before, slave.slots)
        self._state.touch(slave)

    def suspected(self, event: e.SlaveSuspected, now: float) -> None:
        """Assign nothing to the slave for now."""
        self._trust(event, trusted=False)

    def trusted(self, event: e.SlaveTrusted, now: float) -> None:
        """Assign tasks to the slave again."""
        self._trust(event, trusted=True)

    def lost(self, event: e.SlaveLost, now: float) -> None:
        """Requeue the tasks of a lost slave. Each of them may have killed it, whether its start was reported or not.

        A slave that has left was killed by none. But if its place has taken it away, its running tasks may be too long.
        """
        slave = self._state.slaves.get(event.slave)
        if slave is None:
            return
        self._state.remove_slave(slave)
        over: dict[JobRecord, None] = {}
        tasks, followers = list(slave.tasks), self._may_have_run(slave)
        is_only = len(tasks) == 1 and not slave.unconfirmed and not followers
        is_alone = slave.runs_suspect_alone and not followers
        surely = slave.suspect if is_alone else tasks[0] if is_only else None
        company = len(tasks) + len(followers) + len(slave.unconfirmed)
        for task in list(slave.followers):
            slave.release(task)
            if event.left or task not in followers:
                self._lifecycle.give_back(task)
                continue
            how = _how_it_was_lost(slave, event.reason, company - 1, False)
            if self._lifecycle.died(task, slave.name, how, slave_lost=True, in_company=True):
                over[task.job] = None
        # Backwards, so that tasks requeued at the front of the queue keep their order.
        for task in reversed(tasks):
            started = task.started
            self._state.stop_tracking(task, slave)
            slave.release(task)
            if event.left:
                if not (started and event.place):
                    self._lifecycle.give_back(task)
                elif self._lifecycle.cut_off(task, slave.name, event.place, event.place_s, now - task.started_s):
                    over[task.job] = None
                continue
            others = 0 if task is surely else company - 1
            how = _how_it_was_lost(slave, event.reason, others, started)
            if self._lifecycle.died(task, slave.name, how, slave_lost=True, in_company=task is not surely):
                over[task.job] = None
        self._end(over)

    def started(self, event: e.TasksStarted, now: float) -> None:
        """Announce started tasks to their owners, and start the time limits."""
        slave = self._state.slaves.get(event.slave)
        if slave is None:
            return
        for ref in event.tasks:
            task = self._assigned(slave, ref)
            if task is not None and not task.started and task.state is not TaskState.AHEAD:
                self._start(task, ref, slave, now)

    def returned(self, event: e.TasksReturned, now: float) -> None:
        """Requeue tasks that the slave returns."""
        slave = self._state.slaves.get(event.slave)
        if slave is None:
            return
        for ref in reversed(event.tasks):
            task = self._assigned(slave, ref)
            if task is not None:
                self._state.release(task, slave)
                if task.links is not None:
                    self._ahead.came_back(task)
                self._lifecycle.give_back(task)
            else:
                slave.confirm_ended((JobId(ref.job), ref.index, ref.attempt))
        slave.last_activity_s = now
        self._state.touch(slave)

    def attempts_refused(self, event: e.AttemptsRefused, now: float) -> None:
        """End tasks that were assigned to a slave, but cannot be sent to it or to another one."""
        slave = self._state.slaves.get(event.slave)
        if slave is None:
            return
        over: dict[JobRecord, None] = {}
        for ref in event.tasks:
            task = self._assigned(slave, ref)
            if task is None:
                continue
            self._state.release(task, slave)
            if task.cancelled:
                self._lifecycle.cancel_unstarted(task)
                continue
            self._lifecycle.refuse(task, event.why)
            if task.job.stop_on_error:
                over[task.job] = None
        self._state.touch(slave)
        self._end(over)

    def outcomes_received(self, event: e.OutcomesReceived, now: float) -> None:
        """End attempts."""
        slave = self._state.slaves.get(event.slave)
        if slave is None:
            return
        if len(event.buffers) not in (0, len(event.items)):
            refuse(event, f"{len(event.items)} outcomes of slave {slave.name} came with {len(event.buffers)} buffers")
        # All or nothing: statuses are checked before anything is changed.
        if not _CLAIMS.issuperset([item.status for item in event.items]):
            refuse(event, f"slave {slave.name} reports a status that no slave may: its statuses are {sorted(_CLAIMS)}")
        job = self._state.jobs.get(event.job)
        if job is None:
            for item in event.items:
                slave.confirm_ended((event.job, item.index, item.attempt))
        elif self._end_attempts(slave, job, event, now):
            self._end([job])
        slave.last_activity_s = now
        self._state.touch(slave)

    def objects_held(self, event: e.ObjectsHeld, now: float) -> None:
        """Note which shared objects a slave has."""
        if (slave := self._state.slaves.get(event.slave)) is not None:
            self._state.locations.hold(slave, event.objects)

    def objects_dropped(self, event: e.ObjectsDropped, now: float) -> None:
        """Note which shared objects a slave no longer has."""
        if (slave := self._state.slaves.get(event.slave)) is not None:
            self._state.locations.drop(slave, event.objects)

    def enforce_time_limits(self, now: float) -> None:
        """Ask slaves again to stop tasks that are over their time limit, and give up tasks that were not stopped."""
        state = self._state
        for task in state.stop_unconfirmed.take_up_to(now):
            self._give_up(task)
        for task in state.overdue.take_up_to(now):
            if task.slave is not None:
                state.outbox.withdraw(task.slave, TaskRef(task.job.id, task.index, task.attempt), stop=True)
                state.stop_unconfirmed.set(task, now + self._grace_s)

    def _end_attempts(self, slave: SlaveState, job: JobRecord, event: e.OutcomesReceived, now: float) -> bool:
        """End each attempt that is assigned to the slave. Returns whether that ends the job."""
        state, over = self._state, False
        slave_id, slave_name, find = slave.id, slave.name, job.tasks.get
        stop_tracking, release, parcel = state.stop_tracking, slave.release, state.outbox.parcel(job, slave.name)
        recalled = state.recalled
        logged: list[tuple[TaskRecord, OutcomeFrame, int]] = []
        log_task = logged.append
        function: Digest | None = None
        count, total_s, kept_bytes = 0, 0.0, 0
        for item, buffers in zip(event.items, event.buffers or repeat(()), strict=False):
            task = find(item.index)
            if task is None or task.slave != slave_id or task.attempt != item.attempt:
                slave.confirm_ended((event.job, item.index, item.attempt))
                continue
            if task.state is _AHEAD:  # it was stopped before it began, or its leader's result does not count
                state.release(task, slave)
                self._lifecycle.give_back(task)
                continue
            status = item.status
            # Run times of system hosts and multi-slot tasks do not measure the speed of a slave.
            if task.width != 1:
                if 0 <= item.elapsed_s <= LONGEST_S:
                    slave.measured_special(item.elapsed_s, task.width)
            elif status in _MEASURED:
                # Nearly always all tasks of a message share their function, so measure once for all of them.
                if task.function != function:
                    self._measure(slave, function, total_s, count)
                    function, count, total_s = task.function, 0, 0.0
                count += 1
                total_s += item.elapsed_s
            if status == _OK:
                # As SchedulerState.release and TaskLifecycle.finish, without looking everything up for each task.
                if recalled or task.timeout_s is not None:
                    stop_tracking(task, slave)
                release(task)
                log_task((task, item, in_bytes_of(task) if task.sizes else len(task.body)))
                keep(task, item, buffers, slave_name)
                kept_bytes += cost_of(item, job) if item.sizes else RECORD_BYTES + len(item.body)
                if task.deaths:
                    state.blamed.pop(task, None)
                if task.links is not None:
                    if task.links.node is not None:
                        task.links.node.end(status, now)
                    if task.links.follower is not None:
                        self._ahead.promote(task)
                    state.settled.append(task)
                    self._lifecycle.deliver(task)
                elif parcel is not None:
                    parcel.add(item, buffers)
                else:
                    state.keep_undelivered(task)
            elif self._conclude(task, slave, item, buffers):
                over = True
        if logged:
            state.task_log.add_all(job, slave_name, logged)
            if state.concluded is not None:
                state.concluded += [task for task, _, _ in logged]
        self._measure(slave, function, total_s, count)
        if kept_bytes:
            state.keep_bytes(job.owner, kept_bytes)
            if function is not None and count == len(event.items):
                state.estimates.weighed(function, kept_bytes // count)
        return over

    def _may_have_run(self, slave: SlaveState) -> dict[TaskRecord, None]:
        """Return the followers that may have begun: no task before them in their line is known to run."""
        begun: dict[TaskRecord, None] = {}
        for task in slave.followers:
            leader = None if task.links is None else task.links.leader
            if leader is not None and not leader.started and (leader.state is not _AHEAD or leader in begun):
                begun[task] = None
        return begun

    def _conclude(self, task: TaskRecord, slave: SlaveState, item: OutcomeFrame, buffers: Sequence[Buffer]) -> bool:
        reminded = task in self._state.stop_unconfirmed
        self._state.release(task, slave)
        if item.status == Status.CANCELLED and reminded:
            return self._lifecycle.timed_out(task, slave.name)  # it was stopped for its time limit, not cancelled
        return self._lifecycle.conclude(task, slave.name, item, buffers)

    def _measure(self, slave: SlaveState, function: Digest | None, total_s: float, count: int) -> None:
        # A slave may report anything, and one infinite run time would ruin the average. NaN fails the comparison.
        if function is not None and 0 <= total_s <= LONGEST_S * count:
            self._state.estimates.measured(function, total_s / count, count)
            slave.measured(total_s / count, count)

    def _assigned(self, slave: SlaveState, ref: TaskRef) -> TaskRecord | None:
        """Return the task if the slave has it in that attempt."""
        job = self._state.jobs.get(JobId(ref.job))
        task = job.tasks.get(ref.index) if job is not None else None
        return task if task is not None and task.slave == slave.id and task.attempt == ref.attempt else None

    def _start(self, task: TaskRecord, ref: StartedTask, slave: SlaveState, now: float) -> None:
        task.started = True
        task.started_s = now
        task.worker = ref.worker
        slave.started += 1
        self._state.drop_recall(task, slave)
        if task.timeout_s is not None:
            self._state.overdue.set(task, now + task.timeout_s + self._grace_s)
        if task.job.client is not None:
            self._state.outbox.announce_started(task.job.client, slave.name, ref)

    def _give_up(self, task: TaskRecord) -> None:
        state = self._state
        if task.slave is None:
            return
        slave = state.slaves[task.slave]
        state.release_unconfirmed(task, slave)
        if task.links is not None and task.links.follower is not None:
            self._ahead.withdraw(task.links.follower)  # it may get a result that does not count any more
        if self._lifecycle.timed_out(task, slave.name):
            self._lifecycle.end(task.job)

    def _trust(self, event: e.SlaveSuspected | e.SlaveTrusted, *, trusted: bool) -> None:
        slave = self._state.slaves.get(event.slave)
        if slave is not None:
            slave.trusted = trusted
            self._state.placement_due = True
            self._state.touch(slave)

    def _end(self, jobs: Iterable[JobRecord]) -> None:
        for job in jobs:
            if not job.ended:
                self._lifecycle.end(job)


def _how_it_was_lost(slave: SlaveState, reason: str, others: int, started: bool) -> str:
    company = f"with {others} other{'s' if others > 1 else ''}" if others else "alone"
    start = "" if started else ", though its start was not reported"
    return f"slave {slave.name} was lost ({reason}) while the task was there {company}{start}"
