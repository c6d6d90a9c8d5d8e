"""The scheduler's record of one slave: what it can take and what it has.

Strategies read it; only the scheduler changes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.scheduling.estimates import blend
from concurrent_nb.tasks.states import ASSIGN, move
from concurrent_nb.tasks.task_record import TaskRecord
from concurrent_nb.wire.messages import HOSTS_MAX, Needs

#: (job, index, attempt)
AttemptKey = tuple[JobId, int, int]
#: what an attempt takes of its slave: its needs, and how many slots that is here
Share = tuple[Needs | None, int]


def is_system_host(needs: Needs | None) -> bool:
    """Say whether a task takes none of the slots."""
    return needs is not None and needs.kind == "host"


def is_multi_slot(needs: Needs | None) -> bool:
    """Say whether a task takes several slots at once; or all, however few there are."""
    return needs is not None and needs.cores != 1


@dataclass(slots=True, eq=False)
class SlaveState:
    """One slave."""

    id: SessionId
    name: str
    slots: int  #: tasks that can run at once; 0: it is draining
    credit: int  #: unfinished tasks that it accepts at most
    shares_memory: bool = False  #: has all shared objects, without any in `objects`
    trusted: bool = True  #: heard of lately
    tasks: dict[TaskRecord, None] = field(default_factory=dict, repr=False)  #: assigned to it, in that order
    unconfirmed: dict[AttemptKey, Share] = field(
        default_factory=dict
    )  #: given up here, but not answered for: they fill it
    load: int = 0  #: slots that its unfinished tasks take or wait for, ghosts included
    multi_slot_load: int = 0  #: those of them that are for tasks of several cores
    system_hosts: int = 0  #: how many hosts it has, ghosts included
    freed: bool = False  #: one of those two has become less since `Books.refresh` looked
    in_flight_s: float = 0.0  #: estimated run time of `tasks`
    started: int = 0  #: how many of `tasks` it has said to run
    task_s: float | None = None  #: moving average of what a task takes here; None before the first
    last_activity_s: float = 0.0  #: when it last answered, or got something
    objects: dict[bytes, None] = field(default_factory=dict, repr=False)  #: shared objects that it has, oldest first
    recalled: int = 0  #: how many of `tasks` it was asked to give back
    idle: int = 0  #: slots with nothing to do, as last counted by `Books.refresh`
    own_slots: int = field(init=False)  #: when it joined; more than those are lent by tasks that wait for their own
    suspect: TaskRecord | None = None  #: it runs here alone; what `tasks` has before it waits for tasks of its own
    reserved: bool = False  #: it gets nothing, so that a suspect finds it empty
    closed: bool = False  #: it gets nothing, for one of these two reasons

    def __post_init__(self) -> None:
        self.own_slots = self.slots

    @property
    def is_usable(self) -> bool:
        """Say whether it can be given anything at all: it is heard of, and does not drain."""
        return self.trusted and self.slots > 0

    @property
    def lent(self) -> int:
        """How many of its tasks wait for tasks of their own: each lends its slot."""
        return max(0, self.slots - self.own_slots)

    @property
    def is_free_for_suspect(self) -> bool:
        """Say whether all that it has waits for tasks of its own, as hosts mostly do, too."""
        return self.load <= self.lent and not self.unconfirmed

    @property
    def runs_suspect_alone(self) -> bool:
        """Say whether its suspect is what came last: what it has besides was waiting then."""
        return self.suspect is not None and next(reversed(self.tasks), None) is self.suspect

    @property
    def suspect_may_wait(self) -> bool:
        """Say whether its suspect may wait for what cannot run elsewhere."""
        return self.suspect is not None and (self.lent > 0 or is_system_host(self.suspect.needs))

    @property
    def takes_system_host(self) -> bool:
        """Say whether it takes one host more."""
        return self.trusted and self.slots > 0 and self.system_hosts < HOSTS_MAX and not self.closed

    def takes_multi_slot(self, cores: int) -> bool:
        """Say whether it takes one task more of so many cores (0: all): then it has slots enough for all of these."""
        return self.trusted and self.multi_slot_load + max(cores or self.slots, 1) <= self.slots and not self.closed

    @property
    def room(self) -> int:
        """How many more tasks it accepts; never below 0, though its credit may have shrunk below its load."""
        return max(0, self.credit - self.load) if self.trusted and self.slots and not self.closed else 0

    @property
    def spare(self) -> int:
        """How many tasks more it has than it can run at once, besides those that it was asked to give back."""
        return self.load - self.slots - self.recalled

    def take(self, tasks: Sequence[TaskRecord], estimate_s: float) -> None:
        """Begin an attempt of each waiting task here."""
        mine, slave = self.tasks, self.id
        for task in tasks:
            move(task, ASSIGN)
            task.attempt += 1
            task.slave = slave
            task.estimate_s = estimate_s
            mine[task] = None
        if self.unconfirmed:
            self._skip_unconfirmed(tasks)
        self.load += len(tasks)
        self.in_flight_s += estimate_s * len(tasks)

    def take_system_host(self, task: TaskRecord) -> None:
        """Begin an attempt of a host here."""
        task.width = 0
        self._take_special(task, 0.0)
        self.system_hosts += 1

    def take_multi_slot(self, task: TaskRecord, width: int, unknown_s: float) -> None:
        """Begin an attempt of a task here that takes `width` slots, for `unknown_s` seconds as far as one knows."""
        task.width = width
        self._take_special(task, width * unknown_s)
        self.multi_slot_load += width

    def release(self, task: TaskRecord) -> None:
        """End the task's attempt here; its state is the caller's to change."""
        del self.tasks[task]
        if task.needs is None:
            self.load -= 1
        else:
            self._free((task.needs, task.width))
        self.started -= task.started
        # Sums of floats drift, so begin anew at every chance.
        self.in_flight_s = self.in_flight_s - task.estimate_s if self.tasks else 0.0
        task.slave = None

    def release_unconfirmed(self, task: TaskRecord) -> None:
        """Release a task for which the slave has not answered: it goes on to fill the slave until it does."""
        self.release(task)
        share = self.unconfirmed[task.job.id, task.index, task.attempt] = (task.needs, task.width)
        self._fill(share)

    def confirm_ended(self, attempt: AttemptKey) -> None:
        """Free the place of an attempt that was given up, if this is one: the slave has answered."""
        if (share := self.unconfirmed.pop(attempt, None)) is not None:
            self._free(share)

    def measured(self, mean_s: float, count: int) -> None:
        """Learn that `count` tasks took `mean_s` seconds on average here."""
        self.task_s = blend(self.task_s, mean_s, count)

    def _take_special(self, task: TaskRecord, estimate_s: float) -> None:
        self.take([task], estimate_s)
        self.load += task.width - 1  # one slot is what `take` has counted

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
        # A job that was abandoned and opened again counts its attempts from 1 again. The answer to an old attempt must
        # not be taken for the answer to the new one.
        for task in tasks:
            while (task.job.id, task.index, task.attempt) in self.unconfirmed:
                task.attempt += 1
