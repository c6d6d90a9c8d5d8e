"""The scheduler's record of one slave: what it can take and what it has.

Strategies read it; only the scheduler changes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.scheduling.estimates import blend
from concurrent_nb.tasks.states import ASSIGN, move
from concurrent_nb.tasks.task import Task

#: (job, index, attempt)
AttemptKey = tuple[JobId, int, int]


@dataclass(slots=True, eq=False)
class Slave:
    """One slave."""

    id: SessionId
    name: str
    slots: int  #: tasks that can run at once; 0: it is draining
    credit: int  #: unfinished tasks that it accepts at most
    trusted: bool = True  #: heard of lately
    tasks: dict[Task, None] = field(default_factory=dict, repr=False)  #: assigned to it, in that order
    ghosts: set[AttemptKey] = field(default_factory=set)  #: given up here, but not answered for: they fill it
    load: int = 0  #: how many unfinished tasks it has, ghosts included
    in_flight_s: float = 0.0  #: estimated run time of `tasks`
    started: int = 0  #: how many of `tasks` it has said to run
    task_s: float | None = None  #: moving average of what a task takes here; None before the first
    quiet_since_s: float = 0.0  #: when it last answered, or got something
    objects: dict[bytes, None] = field(default_factory=dict, repr=False)  #: shared objects that it has, oldest first
    asked: int = 0  #: how many of `tasks` it was asked to give back
    idle: int = 0  #: slots with nothing to do, as last counted by `Books.refresh`

    @property
    def room(self) -> int:
        """How many more tasks it accepts; never below 0, though its credit may have shrunk below its load."""
        return max(0, self.credit - self.load) if self.trusted and self.slots else 0

    @property
    def spare(self) -> int:
        """How many tasks more it has than it can run at once, besides those that it was asked to give back."""
        return self.load - self.slots - self.asked

    def take(self, tasks: Sequence[Task], estimate_s: float) -> None:
        """Begin an attempt of each waiting task here."""
        mine, slave = self.tasks, self.id
        for task in tasks:
            move(task, ASSIGN)
            task.attempt += 1
            task.slave = slave
            task.estimate_s = estimate_s
            mine[task] = None
        if self.ghosts:
            self._pass_ghosts(tasks)
        self.load += len(tasks)
        self.in_flight_s += estimate_s * len(tasks)

    def release(self, task: Task) -> None:
        """End the task's attempt here; its state is the caller's to change."""
        del self.tasks[task]
        self.load -= 1
        self.started -= task.started
        # Sums of floats drift, so begin anew at every chance.
        self.in_flight_s = self.in_flight_s - task.estimate_s if self.tasks else 0.0
        task.slave = None

    def disown(self, task: Task) -> None:
        """Release a task for which the slave has not answered: it goes on to fill the slave until it does."""
        self.release(task)
        self.ghosts.add((task.job.id, task.index, task.attempt))
        self.load += 1

    def lay_ghost(self, attempt: AttemptKey) -> None:
        """Free the place of an attempt that was given up, if this is one: the slave has answered."""
        if attempt in self.ghosts:
            self.ghosts.remove(attempt)
            self.load -= 1

    def measured(self, mean_s: float, count: int) -> None:
        """Learn that `count` tasks took `mean_s` seconds on average here."""
        self.task_s = blend(self.task_s, mean_s, count)

    def _pass_ghosts(self, tasks: Sequence[Task]) -> None:
        # A job that was abandoned and opened again counts its attempts from 1 again. The answer to an old attempt must
        # not be taken for the answer to the new one.
        for task in tasks:
            while (task.job.id, task.index, task.attempt) in self.ghosts:
                task.attempt += 1
