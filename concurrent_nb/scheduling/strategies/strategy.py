"""The interface of strategies: which slave is next, and how many tasks it gets."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from concurrent_nb.scheduling.object_locations import ObjectLocations
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.tasks.task_record import TaskRecord


class Strategy(ABC):
    """Chooses slaves for one scheduler. It reads the records of slaves and must not change them.

    A strategy is called often, so it should keep slaves in an order of its own instead of looking at all of them for
    each task. The same calls must give the same answers: it has no clock and no random numbers.
    """

    #: the name that jobs use for it; "" if they cannot
    name: str = ""
    #: assigns many more tasks than start soon. A job's own strategy may do so only while no other owner has tasks
    prefetching: bool = False
    #: a task with shared objects is not recalled before its slave has answered nothing for this many seconds
    patience_s: float = 0.0
    #: estimated run time of a task of a function that was never measured, in seconds
    unknown_s: float = 0.02

    @abstractmethod
    def changed(self, slave: SlaveState) -> None:
        """Update what is known of a slave.

        Called when it has joined, and after each change of its load, slots, credit, trust or speed: once after a run of
        tasks and not for each task.
        """

    @abstractmethod
    def left(self, slave: SlaveState) -> None:
        """Drop a slave that is lost. No method is called with it afterwards."""

    @abstractmethod
    def choose(self, estimate_s: float | None, waiting: int) -> tuple[SlaveState, int] | None:
        """Return a slave and how many tasks it gets: at least 1, at most its `room`; None if the tasks must wait.

        Called at the end of each call of the scheduler, repeatedly, until no task waits or it returns None. The slave
        may get fewer tasks; `changed` is called after that. It must not return None while a slave has an idle slot.

        Args:
            estimate_s: expected run time of each of the next tasks, in seconds; None if it is unknown.
            waiting: number of tasks, of all jobs, that waited when this round began.
        """

    def choose_near(
        self, task: TaskRecord, locations: ObjectLocations, estimate_s: float | None, waiting: int
    ) -> tuple[SlaveState, int] | None:
        """Choose as `choose` does, for a task with shared objects and those behind it with the same objects.

        Args:
            task: the next task.
            locations: which slaves have which objects.
            estimate_s: as of `choose`.
            waiting: as of `choose`.
        """
        return self.choose(estimate_s, waiting)

    def rebalance(self, wanted: int, recall: Callable[[SlaveState, int], int]) -> None:  # noqa: B027  (most recall nothing)
        """Recall tasks because slots are idle and no task waits; slaves that answer nothing lose tasks anyway.

        Args:
            wanted: how many more tasks could start immediately.
            recall: called with a slave and a number, recalls at most so many unstarted tasks of this strategy, and
                returns how many; the slave's `recalled` has grown by as many, and `changed` was called for it.
        """
