"""The scheduler's record of one slave: its capacity and its tasks.

Strategies read it; only the scheduler changes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.scheduling.estimates import blend
from concurrent_nb.tasks.states import ASSIGN, BLOCK, PROMOTE, SEND_AHEAD, move
from concurrent_nb.tasks.task_record import TaskRecord, TaskState
from concurrent_nb.wire.messages import HOSTS_MAX, Needs

#: (job, index, attempt)
AttemptKey = tuple[JobId, int, int]
#: what an attempt takes of its slave: its needs, and its number of slots there
Share = tuple[Needs | None, int]


def is_system_host(needs: Needs | None) -> bool:
    """Return whether a task is a system host, which takes no slot."""
    return needs is not None and needs.kind == "system_host"


def is_multi_slot(needs: Needs | None) -> bool:
    """Return whether a task takes several slots, or all of a slave, however few those are."""
    return needs is not None and needs.cores != 1


@dataclass(slots=True, eq=False)
class SlaveState:
    """One slave."""

    id: SessionId
    name: str
    slots: int  #: tasks that run at the same time; 0: it is draining
    credit: int  #: most unfinished tasks that it accepts
    shares_memory: bool = False  #: it can open all shared objects; `objects` is empty
    trusted: bool = True  #: it is not suspected of being lost
    tasks: dict[TaskRecord, None] = field(default_factory=dict, repr=False)  #: assigned to it, in that order
    #: tasks that were sent ahead to it, in that order: each waits there for another one, and takes no slot meanwhile
    followers: dict[TaskRecord, None] = field(default_factory=dict, repr=False)
    #: attempts that were given up, and whose end the slave has not reported: they still take their slots
    unconfirmed: dict[AttemptKey, Share] = field(default_factory=dict)
    load: int = 0  #: slots that its tasks take or wait for, unconfirmed ones included
    multi_slot_load: int = 0  #: the part of `load` of multi-slot tasks
    system_hosts: int = 0  #: system hosts that it has, unconfirmed ones included
    freed: bool = False  #: one of those two has decreased since the last `SchedulerState.refresh`
    in_flight_s: float = 0.0  #: estimated run time of `tasks`
    started: int = 0  #: number of `tasks` that it has reported to run
    task_s: float | None = None  #: moving average of the run time of a task here; None before the first
    ran: int = 0  #: number of tasks whose run time was measured here
    run_s: float = 0.0  #: ... and the run time of all of them, in slots times seconds
    last_activity_s: float = 0.0  #: when it last reported something, or got a task
    objects: dict[bytes, None] = field(default_factory=dict, repr=False)  #: shared objects that it has, oldest first
    recalled: int = 0  #: number of `tasks` that are recalled
    idle: int = 0  #: idle slots, as counted by the last `SchedulerState.refresh`
    own_slots: int = field(
        init=False
    )  #: its slots when it joined; more are lent by tasks that wait for tasks of their own
    suspect: TaskRecord | None = None  #: it runs here alone; `tasks` before it wait for tasks of their own
    reserved: bool = False  #: it gets no tasks, so that it becomes free for a suspect
    closed: bool = False  #: it gets no tasks, because it has a suspect or is reserved

    def __post_init__(self) -> None:
        self.own_slots = self.slots

    @property
    def is_usable(self) -> bool:
        """Return whether it can get tasks at all: it is trusted, and not draining."""
        return self.trusted and self.slots > 0

    @property
    def lent(self) -> int:
        """The number of its tasks that wait for tasks of their own: each lends its slot."""
        return max(0, self.slots - self.own_slots)

    @property
    def is_free_for_suspect(self) -> bool:
        """Return whether all its tasks wait for tasks of their own, as system hosts mostly do, too."""
        return self.load <= self.lent and not self.unconfirmed

    @property
    def runs_suspect_alone(self) -> bool:
        """Return whether its suspect was assigned last: its other tasks were waiting then."""
        return self.suspect is not None and next(reversed(self.tasks), None) is self.suspect

    @property
    def suspect_may_wait(self) -> bool:
        """Return whether its suspect may be waiting for tasks that cannot run elsewhere."""
        return self.suspect is not None and (self.lent > 0 or is_system_host(self.suspect.needs))

    @property
    def takes_system_host(self) -> bool:
        """Return whether it takes one more system host."""
        return self.trusted and self.slots > 0 and self.system_hosts < HOSTS_MAX and not self.closed

    def takes_multi_slot(self, cores: int) -> bool:
        """Return whether it takes one more task of `cores` cores (0: all): its slots must suffice for all of these."""
        return self.trusted and self.multi_slot_load + max(cores or self.slots, 1) <= self.slots and not self.closed

    @property
    def room(self) -> int:
        """The number of tasks that it still accepts; 0 if its credit has shrunk below its load."""
        return max(0, self.credit - self.load) if self.trusted and self.slots and not self.closed else 0

    @property
    def spare(self) -> int:
        """The number of its tasks above its slots, without recalled ones."""
        return self.load - self.slots - self.recalled

    def take(self, tasks: Sequence[TaskRecord], estimate_s: float, now: float) -> None:
        """Start an attempt of each waiting task here."""
        mine, slave = self.tasks, self.id
        for task in tasks:
            move(task, ASSIGN)
            task.attempt += 1
            task.slave = slave
            task.assigned_s = now
            task.estimate_s = estimate_s
            mine[task] = None
        if self.unconfirmed:
            self._skip_unconfirmed(tasks)
        self.load += len(tasks)
        self.in_flight_s += estimate_s * len(tasks)

    def follow(self, task: TaskRecord, estimate_s: float, now: float) -> None:
        """Start an attempt of a blocked task that takes one slot: it waits here for another task's end."""
        move(task, SEND_AHEAD)
        task.attempt += 1
        task.slave = self.id
        task.assigned_s = now
        task.estimate_s = estimate_s
        self.followers[task] = None
        if self.unconfirmed:
            self._skip_unconfirmed([task])

    def promote(self, task: TaskRecord, now: float) -> None:
        """Note that the end for which a task waits here has come: from now on it takes a slot."""
        move(task, PROMOTE)
        del self.followers[task]
        task.assigned_s = now
        self.tasks[task] = None
        self.load += 1
        self.in_flight_s += task.estimate_s

    def take_system_host(self, task: TaskRecord, now: float) -> None:
        """Start an attempt of a system host here."""
        task.width = 0
        self._take_special(task, 0.0, now)
        self.system_hosts += 1

    def take_multi_slot(self, task: TaskRecord, width: int, unknown_s: float, now: float) -> None:
        """Start an attempt of a task here that takes `width` slots, for an estimate of `unknown_s` seconds."""
        task.width = width
        self._take_special(task, width * unknown_s, now)
        self.multi_slot_load += width

    def release(self, task: TaskRecord) -> None:
        """End a task's attempt here. The caller must change the task's state; one that was sent ahead is BLOCKED."""
        if task.state is TaskState.AHEAD:
            del self.followers[task]
            task.slave = None
            move(task, BLOCK)
            _leave_line(task)
            return
        del self.tasks[task]
        if task.needs is None:
            self.load -= 1
        else:
            self._free((task.needs, task.width))
        self.started -= task.started
        # Sums of floats drift, so reset the sum when there is no task.
        self.in_flight_s = self.in_flight_s - task.estimate_s if self.tasks else 0.0
        task.slave = None

    def release_unconfirmed(self, task: TaskRecord) -> None:
        """Release a task whose end the slave has not reported: it still takes its slots until `confirm_ended`."""
        self.release(task)
        share = self.unconfirmed[task.job.id, task.index, task.attempt] = (task.needs, task.width)
        self._fill(share)

    def refuse(self, attempt: AttemptKey) -> None:
        """Note an attempt that is here, and does not count: it takes a slot until `confirm_ended`."""
        if attempt not in self.unconfirmed:
            share = self.unconfirmed[attempt] = (None, 1)
            self._fill(share)

    def confirm_ended(self, attempt: AttemptKey) -> None:
        """Free the slots of an attempt that was given up, if this is one: the slave has reported its end."""
        if (share := self.unconfirmed.pop(attempt, None)) is not None:
            self._free(share)

    def measured(self, mean_s: float, count: int) -> None:
        """Note that `count` tasks took `mean_s` seconds on average here."""
        self.task_s = blend(self.task_s, mean_s, count)
        self.ran += count
        self.run_s += mean_s * count

    def measured_special(self, elapsed_s: float, width: int) -> None:
        """Note that a task that took several slots here, or none, has run."""
        self.ran += 1
        self.run_s += elapsed_s * width

    def _take_special(self, task: TaskRecord, estimate_s: float, now: float) -> None:
        self.take([task], estimate_s, now)
        self.load += task.width - 1  # `take` has counted one slot

    def _fill(self, share: Share) -> None:
        needs, width = share
        self.load += width
        if is_system_host(needs):
            self.system_hosts += 1
        elif is_multi_slot(needs):
            self.multi_slot_load += width

    def _free(self, share: Share) -> None:
        needs, width = share
        self.load -= width
        if is_system_host(needs):
            self.system_hosts -= 1
            self.freed = True
        elif is_multi_slot(needs):
            self.multi_slot_load -= width
            self.freed = True

    def _skip_unconfirmed(self, tasks: Sequence[TaskRecord]) -> None:
        # A job that was abandoned and opened again numbers its attempts from 1 again. A report about an old attempt
        # must not be taken for one about the new attempt.
        for task in tasks:
            while (task.job.id, task.index, task.attempt) in self.unconfirmed:
                task.attempt += 1


def _leave_line(task: TaskRecord) -> None:
    """Take a task out of its line that was AHEAD, and is BLOCKED now."""
    links = task.links
    assert links is not None
    leader, line = links.leader, links.line
    links.leader = links.line = None
    if leader is not None and leader.links is not None and leader.links.follower is task:
        leader.links.follower = None
    if line is not None:
        line.length -= 1
        if line.tail is task and leader is not None:
            line.tail = leader
