"""Scheduler state: all jobs, slaves and tasks, and the deadlines at which they are re-examined.

Shared by the parts of the scheduler, and not changed by other code.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.outcome import SUCCESSES
from concurrent_nb.scheduling.active_strategies import ActiveStrategies
from concurrent_nb.scheduling.estimates import TaskEstimates
from concurrent_nb.scheduling.object_locations import ObjectLocations
from concurrent_nb.scheduling.outbox import Outbox
from concurrent_nb.scheduling.ranking import Ranking
from concurrent_nb.scheduling.slave_state import SlaveState, is_multi_slot, is_system_host
from concurrent_nb.scheduling.task_queue import TaskQueue
from concurrent_nb.tasks.event_log import EventLog
from concurrent_nb.tasks.function_graph import FunctionGraphs
from concurrent_nb.tasks.job_sums import SlotTime
from concurrent_nb.tasks.task_log import TaskLog
from concurrent_nb.tasks.task_record import JobRecord, TaskRecord
from concurrent_nb.wire.messages import Needs, OutcomeFrame, TaskRef

#: unacknowledged results of one owner above which the owner's tasks wait
RESULTS_KEPT_BYTES: Final = 64 * 1024 * 1024
#: what keeping an outcome costs besides its content
RECORD_BYTES: Final = 500
#: most jobs that are forgotten, and whose sums are kept
ENDED_JOBS_KEPT: Final = 1000
#: a result in shared memory that its owner opens costs their host, not the master: size // SHARED_PARTS counts
SHARED_PARTS: Final = 16


def cost_of(outcome: OutcomeFrame, job: JobRecord) -> int:
    """Return what an outcome costs, in bytes, until its owner has acknowledged it."""
    cost = RECORD_BYTES + len(outcome.body)
    for size in outcome.sizes:
        if isinstance(size, int):
            cost += max(0, size)
        else:
            cost += size.size // SHARED_PARTS if job.shares_memory else size.size
    return cost


class SchedulerState:
    """The state, with the operations that keep its parts consistent.

    Args:
        strategies: of the cluster and of jobs.
        results_kept_bytes: unacknowledged results of one owner above which the owner is paused.
    """

    def __init__(self, strategies: ActiveStrategies, results_kept_bytes: int = RESULTS_KEPT_BYTES) -> None:
        self.strategies = strategies
        self.outbox = Outbox()
        self.task_log = TaskLog()
        self.event_log = EventLog()
        self.failed = 0  #: number of tasks that neither succeeded nor were cancelled, since the start
        self.cancelled = 0
        self.jobs: dict[JobId, JobRecord] = {}
        self.ended_jobs: OrderedDict[JobId, JobRecord] = OrderedDict()  #: forgotten ones, the newest last
        self.slot_time = SlotTime()
        self.slots = 0  #: of all slaves
        self.owners: dict[SessionId, str] = {}  #: by session that has opened a job
        self.busy: dict[str, int] = {}  #: jobs that have tasks, finished ones too, by owner
        self.slaves: dict[SessionId, SlaveState] = {}
        self.undelivered: dict[
            SessionId, list[TaskRecord]
        ] = {}  #: tasks with outcomes that are kept for silent clients
        self.kept_bytes: dict[str, int] = {}  #: cost of unacknowledged outcomes, by owner
        self.paused: set[str] = (
            set()
        )  #: owners with too many unacknowledged results: no more of their tasks are assigned
        self.results_kept_bytes = results_kept_bytes
        self.locations = ObjectLocations()
        self.waiting = TaskQueue()  #: tasks that take one slot each
        self.multi_slot = TaskQueue()  #: tasks that take several slots of one slave
        self.system_hosts = TaskQueue()  #: tasks that take no slot
        self.suspects = TaskQueue()  #: tasks that are to run alone on a slave, whatever their needs
        self.queues = (self.waiting, self.multi_slot, self.system_hosts, self.suspects)
        self.has_suspects = False  #: a suspect may wait, or run
        self.blamed: dict[TaskRecord, None] = {}  #: unfinished tasks with deaths of their workers or slaves
        self.placement_due = False  #: `Placement` has to be called: its queues or slaves have changed
        self.estimates = TaskEstimates()
        #: linked tasks that have ended, or were dropped: `Dependencies.settle` has to be called
        self.settled: deque[TaskRecord] = deque()
        self.blocked = 0  #: number of blocked tasks, those that were sent ahead included
        self.graphs = FunctionGraphs()  #: the linked tasks of each owner, folded by function
        self.leaders: list[TaskRecord] = []  #: assigned tasks behind which others may be sent ahead
        #: tasks that have ended, for a journal; None: there is none
        self.concluded: list[TaskRecord] | None = None
        self.retained: dict[tuple[JobId, int], TaskRecord] = {}  #: forgotten tasks whose results others need
        self.lingering: Ranking[JobId] = Ranking()  #: jobs whose owner is away, by when they are abandoned
        #: tasks that run with a time limit, by when their slave is asked again to stop them
        self.overdue: Ranking[TaskRecord] = Ranking()
        #: tasks whose slave was asked again to stop them, by when they are given up
        self.stop_unconfirmed: Ranking[TaskRecord] = Ranking()
        #: unstarted tasks whose slave was asked to return them, in this attempt
        self.recalled: dict[TaskRecord, None] = {}
        self.oversubscribed: dict[SessionId, SlaveState] = {}  #: slaves that have more tasks than slots
        self.idle = 0  #: idle slots of all trusted slaves
        self._touched: dict[SlaveState, None] = {}
        self._most_slots: int | None = 0

    @property
    def all_waiting(self) -> int:
        """The number of tasks that are on no slave."""
        return sum(queue.total for queue in self.queues)

    @property
    def most_slots(self) -> int:
        """The slots of the largest slave; 0 without slaves, and while all of them drain."""
        if self._most_slots is None:
            self._most_slots = max((slave.slots for slave in self.slaves.values()), default=0)
        return self._most_slots

    def resized(self, before: int, after: int) -> None:
        """Note that a slave's slots have changed; 0 stands for no slave."""
        self._count_slot_time()
        self.slots += after - before
        most = self._most_slots
        if most is not None and after >= most:
            self._most_slots = after
        elif before == most:
            self._most_slots = None  # computed when it is needed
        self.placement_due = True

    def unblock(self, task: TaskRecord) -> None:
        """Note that a task is not blocked any more: it waits, runs, or ends."""
        self.blocked -= 1
        if task.links is not None and task.links.node is not None:
            task.links.node.blocked -= 1

    def retain(self, task: TaskRecord) -> None:
        """Keep the result of a linked task that is forgotten, if tasks that have not ended need it."""
        has_result = task.outcome is not None and task.outcome.status in SUCCESSES
        if not has_result or task.links is None:
            return
        if task.links.users:
            self.retained[task.job.id, task.index] = task
        elif not task.links.clean:
            self.outbox.release_result(task.job.id, task.index, clean=False)

    def release_if_unused(self, task: TaskRecord) -> None:
        """Drop the result of a linked task that is forgotten, if nothing needs it any more."""
        key = task.job.id, task.index
        links = task.links
        if links is not None and not links.users and self.retained.get(key) is task:
            del self.retained[key]
            self.outbox.release_result(task.job.id, task.index, clean=links.clean)

    def free(self, task: TaskRecord, *, settle: bool = True) -> None:
        """Note that the owner of a task does not have its result kept any more.

        Args:
            task: the task, whose result is kept, or was to be.
            settle: drop what is not needed any more.
        """
        links = task.links
        if links is None or not links.is_kept:
            return
        links.is_kept = False
        links.users -= 1
        task.job.kept.pop(task.index, None)
        if settle:
            self.release_if_unused(task)

    def queue_of(self, needs: Needs | None) -> TaskQueue:
        """Return the queue for tasks of these needs that are not suspects."""
        return self.system_hosts if is_system_host(needs) else self.multi_slot if is_multi_slot(needs) else self.waiting

    def queue_for(self, task: TaskRecord) -> TaskQueue:
        """Return the queue for a task."""
        return self.suspects if task.suspect else self.queue_of(task.needs)

    def add(self, needs: Needs | None, tasks: Sequence[TaskRecord]) -> None:
        """Queue new tasks, which share job, function, time limit and needs."""
        self.queue_of(needs).add(tasks)
        self.placement_due = self.placement_due or needs is not None

    def put_back(self, task: TaskRecord) -> None:
        """Queue a task before all others of its owner in the same queue."""
        self.queue_for(task).put_back(task)
        self.placement_due = self.placement_due or task.needs is not None
        self.has_suspects = self.has_suspects or task.suspect

    def waiting_ended(self, waited: Sequence[TaskRecord]) -> None:
        """Note that these waiting tasks of one owner have ended."""
        if not waited:
            return
        special = [self.queue_for(task) for task in waited if task.needs is not None or task.suspect]
        self.placement_due = self.placement_due or bool(special)
        counts = Counter(special)
        counts[self.waiting] += len(waited) - len(special)  # so do tasks in threads
        for queue, count in counts.items():
            queue.ended(waited[0].job.owner, count)

    def keep_undelivered(self, task: TaskRecord) -> None:
        """Note that an outcome was not sent because its client is silent. Without a client, do nothing."""
        if task.job.client is not None:
            self.undelivered.setdefault(task.job.client, []).append(task)

    def take_undelivered(self, client: SessionId) -> list[TaskRecord]:
        """Return the tasks with outcomes kept for a client, which is no longer silent, or gone."""
        self.outbox.silent.discard(client)
        return self.undelivered.pop(client, [])

    def keep_bytes(self, owner: str, size_bytes: int) -> None:
        """Count outcomes that their owner has not acknowledged. Above the limit, pause the owner."""
        kept = self.kept_bytes[owner] = self.kept_bytes.get(owner, 0) + size_bytes
        if kept > self.results_kept_bytes and owner not in self.paused:
            self._pause(owner)

    def release_kept_bytes(self, owner: str, size_bytes: int) -> None:
        """Uncount outcomes that are acknowledged or abandoned. Resume the owner when half of the limit is free."""
        kept = self.kept_bytes[owner] - size_bytes
        if kept:
            self.kept_bytes[owner] = kept
        else:
            del self.kept_bytes[owner]
        if owner in self.paused and kept <= self.results_kept_bytes // 2:
            self._resume(owner)

    def limit_kept_bytes(self, size_bytes: int) -> None:
        """Set the limit of unacknowledged results; pause and resume owners accordingly."""
        self.results_kept_bytes = size_bytes
        for owner, kept in self.kept_bytes.items():
            if kept > size_bytes and owner not in self.paused:
                self._pause(owner)
            elif kept <= size_bytes // 2 and owner in self.paused:
                self._resume(owner)

    def _resume(self, owner: str) -> None:
        self.paused.discard(owner)
        for queue in self.queues:
            queue.resume(owner)
        self.placement_due = True

    def _pause(self, owner: str) -> None:
        """Assign no more tasks of an owner, and recall those that have not started."""
        self.paused.add(owner)
        for queue in self.queues:
            queue.pause(owner)
        self.placement_due = True  # another owner's task may be first now
        for slave in self.slaves.values():
            for task in slave.tasks:
                if task.job.owner == owner and not (task.started or task.cancelled or task in self.recalled):
                    self.recall(task, slave)
            for task in slave.followers:
                if task.job.owner == owner and not task.cancelled:
                    self.outbox.withdraw(slave.id, TaskRef(task.job.id, task.index, task.attempt), stop=False)
            self.touch(slave)

    def touch(self, slave: SlaveState) -> None:
        """Note that a slave's load, size, trust or speed has changed: it is refreshed once, after all events."""
        self._touched[slave] = None

    def refresh_touched(self) -> None:
        """Refresh every slave that has changed."""
        if self._touched:
            touched, self._touched = self._touched, {}
            for slave in touched:
                self.refresh(slave)

    def refresh(self, slave: SlaveState) -> None:
        """Recount a slave's idle slots, and inform the strategies of its change."""
        load, slots = slave.load, slave.slots
        idle = max(0, min(slots, slave.credit) - load) if slave.trusted and not slave.closed else 0
        if idle != slave.idle:
            self._count_slot_time()
            self.idle += idle - slave.idle
            slave.idle = idle
        if load > slots and slave.trusted:
            self.oversubscribed[slave.id] = slave
        else:
            self.oversubscribed.pop(slave.id, None)
        if slave.freed:
            slave.freed = False
            self.placement_due = True
        for strategy in self.strategies.all:
            strategy.changed(slave)

    def _count_slot_time(self) -> None:
        """Count the time until now; before slots come, go, or change between idle and busy."""
        self.slot_time.advance(self.task_log.now_s, self.slots, self.idle)

    def remove_slave(self, slave: SlaveState) -> None:
        """Remove a slave. The caller must requeue its tasks."""
        del self.slaves[slave.id]
        self.resized(slave.slots, 0)
        self._touched.pop(slave, None)
        self.idle -= slave.idle
        self.oversubscribed.pop(slave.id, None)
        self.locations.left(slave)
        for strategy in self.strategies.all:
            strategy.left(slave)

    def recall(self, task: TaskRecord, slave: SlaveState) -> None:
        """Have a slave return a task that has not started. The caller must refresh the slave."""
        self.recalled[task] = None
        slave.recalled += 1
        self.outbox.withdraw(slave.id, TaskRef(task.job.id, task.index, task.attempt), stop=False)

    def drop_recall(self, task: TaskRecord, slave: SlaveState) -> None:
        """Forget the recall of a task, if there was one: the task runs, or has ended."""
        if task in self.recalled:
            del self.recalled[task]
            slave.recalled -= 1

    def stop_tracking(self, task: TaskRecord, slave: SlaveState) -> None:
        """Drop recall and deadlines of a task's attempt, which has ended."""
        if self.recalled:
            self.drop_recall(task, slave)
        if task.started and task.timeout_s is not None:
            self.overdue.discard(task)
            self.stop_unconfirmed.discard(task)

    def release(self, task: TaskRecord, slave: SlaveState) -> None:
        """Take a task off a slave that has reported its end. The caller must touch the slave after all its reports."""
        self.stop_tracking(task, slave)
        slave.release(task)

    def release_unconfirmed(self, task: TaskRecord, slave: SlaveState) -> None:
        """Take a task off a slave that has not reported its end."""
        self.stop_tracking(task, slave)
        slave.release_unconfirmed(task)
        self.touch(slave)

    def add_busy_job(self, job: JobRecord) -> None:
        """Note that a job has its first task."""
        self._count_slot_time()
        job.sums.begin(self.slot_time, self.task_log.now_s)
        self.busy[job.owner] = self.busy.get(job.owner, 0) + 1

    def remove_busy_job(self, job: JobRecord) -> None:
        """Note that a job has no more tasks."""
        self._count_slot_time()
        job.sums.end(self.slot_time, self.task_log.now_s)
        self.busy[job.owner] -= 1
        if not self.busy[job.owner]:
            del self.busy[job.owner]

    def forget(self, job: JobRecord) -> None:
        """Remove a job that has no tasks; its sums are kept for a while, if it had any."""
        del self.jobs[job.id]
        if job.sums.ended:
            job.client = None
            self.ended_jobs[job.id] = job
            if len(self.ended_jobs) > ENDED_JOBS_KEPT:
                self.ended_jobs.popitem(last=False)
        self.strategies.forgotten(job)
        self.lingering.discard(job.id)
        self.outbox.forget(job.id)
        job.forgotten_s = self.task_log.now_s
