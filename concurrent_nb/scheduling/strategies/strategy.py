"""What a strategy is: it answers who is next, and how many tasks that slave has room for."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from concurrent_nb.scheduling.object_locations import ObjectLocations
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.tasks.task_record import TaskRecord


class Strategy(ABC):
    """Choose the slaves of one scheduler. It reads the records of slaves and never changes them.

    A strategy is asked often, so it keeps slaves in an order of its own and does not look at all of them for each task.
    Same calls, same answers: it has no clock and no random numbers.
    """

    #: what jobs call it that ask for it; "" if they cannot
    name: str = ""
    #: hands out much more than starts soon. A job's own strategy may do so only while nobody else has tasks
    prefetching: bool = False
    #: a task that refers to shared objects is left to a slave that answers nothing for at least so many seconds
    patience_s: float = 0.0
    #: what a task of a function that was never measured counts as while it is in flight, in seconds
    unknown_s: float = 0.02

    @abstractmethod
    def changed(self, slave: SlaveState) -> None:
        """Look at a slave again.

        Called when it has joined, and after each change of its load, slots, credit, trust or speed: once after a run of
        tasks and not for each task.
        """

    @abstractmethod
    def left(self, slave: SlaveState) -> None:
        """Drop a slave that is lost. Nothing is called for it afterwards."""

    @abstractmethod
    def choose(self, estimate_s: float | None, waiting: int) -> tuple[SlaveState, int] | None:
        """Return a slave and how many tasks to give it: at least 1 and no more than its `room`; None to let them wait.

        Called at the end of each call of the scheduler, again and again, until nothing waits or the answer is None.
        What is given is followed by `changed`; it may be less than was asked for. A slave with an idle slot must be
        found: tasks do not wait while a slot is free.

        Args:
            estimate_s: expected run time of each of the next tasks, in seconds; None if their function is unknown.
            waiting: how many tasks waited when this round began, of whatever job.
        """

    def choose_near(
        self, task: TaskRecord, locations: ObjectLocations, estimate_s: float | None, waiting: int
    ) -> tuple[SlaveState, int] | None:
        """Return what `choose` does, for a task that refers to shared objects and those behind it with the same ones.

        Args:
            task: the next one.
            holdings: who has which objects.
            estimate_s: as of `choose`.
            waiting: as of `choose`.
        """
        return self.choose(estimate_s, waiting)

    def rebalance(self, wanted: int, ask: Callable[[SlaveState, int], int]) -> None:  # noqa: B027  (most have nothing to ask)
        """Ask for tasks back because slots are idle and nothing waits; slaves that answer nothing are asked anyway.

        Args:
            wanted: how many more tasks could start at once.
            ask: asks a slave for so many unstarted tasks of this strategy at most and returns how many those are;
                the slave's `asked` has grown by as many, and `changed` was called for it, if it is not 0.
        """
