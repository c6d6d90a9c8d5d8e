"""What a strategy is: it answers who is next, and how many tasks that slave has room for."""

from abc import ABC, abstractmethod

from concurrent_nb.scheduling.slave import Slave


class Strategy(ABC):
    """Choose the slaves of one scheduler. It reads the records of slaves and never changes them.

    A strategy is asked often, so it keeps slaves in an order of its own and does not look at all of them for each task.
    Same calls, same answers: it has no clock and no random numbers.
    """

    #: what a task of a function that was never measured counts as while it is in flight, in seconds
    unknown_s: float = 0.02

    @abstractmethod
    def changed(self, slave: Slave) -> None:
        """Look at a slave again.

        Called when it has joined, and after each change of its load, slots, credit, trust or speed: once after a run of
        tasks and not for each task.
        """

    @abstractmethod
    def left(self, slave: Slave) -> None:
        """Drop a slave that is lost. Nothing is called for it afterwards."""

    @abstractmethod
    def choose(self, estimate_s: float | None, waiting: int) -> tuple[Slave, int] | None:
        """Return a slave and how many tasks to give it: at least 1 and no more than its `room`; None to let them wait.

        Called at the end of each call of the scheduler, again and again, until nothing waits or the answer is None.
        What is given is followed by `changed`; it may be less than was asked for. A slave with an idle slot must be
        found: tasks do not wait while a slot is free.

        Args:
            estimate_s: expected run time of each of the next tasks, in seconds; None if their function is unknown.
            waiting: how many tasks waited when this round began, of whatever job.
        """
