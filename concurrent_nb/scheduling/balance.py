"""Work for idle slots when nothing waits: tasks are asked back from slaves that have more than they can run.

Called by the scheduler after everything else. A task that is given back waits again, and the strategy places it.
"""

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.scheduling.slave import Slave
from concurrent_nb.scheduling.state import Books
from concurrent_nb.wire.messages import TaskRef


class Balance:
    """Decide which slave gives back which tasks."""

    def __init__(self, books: Books, *, after_s: float) -> None:
        if not after_s > 0:
            raise ConfigurationError(f"rebalance_after_s is {after_s}, it must be more than 0 seconds")
        self._books = books
        self._after_s = after_s
        self._next_look_s = 0.0

    def next_look_s(self) -> float | None:
        """Return when it is worth to look again, None while nothing can be moved."""
        return self._next_look_s if self._wanted() > 0 else None

    def rebalance(self, now: float) -> None:
        """Ask for tasks that would start sooner elsewhere.

        A slave is asked that has answered nothing for `after_s` seconds, the one with most unstarted tasks first: where
        answers keep coming, the queue is short in time however long it is.
        """
        wanted = self._wanted()
        if wanted <= 0 or now < self._next_look_s:
            return
        self._next_look_s = now + self._after_s
        quiet = [slave for slave in self._books.crowded.values() if now - slave.quiet_since_s >= self._after_s]
        quiet.sort(key=lambda slave: slave.started - len(slave.tasks))
        for slave in quiet:
            wanted -= self._ask(slave, wanted)
            if wanted <= 0:
                return

    def _wanted(self) -> int:
        """Return how many tasks more could start elsewhere at once."""
        books = self._books
        return books.idle - len(books.asked) if books.crowded and not books.waiting else 0

    def _ask(self, slave: Slave, most: int) -> int:
        """Ask for the tasks that it got last; return how many. None is asked for twice in one attempt."""
        asked = self._books.asked
        spare = slave.load - slave.slots - sum(task in asked for task in slave.tasks)
        # What takes several slots, or none, is no matter of idle slots.
        unstarted = [t for t in slave.tasks if t.width == 1 and not (t.started or t.cancelled or t in asked)]
        chosen = unstarted[-min(spare, most) :] if spare > 0 else []
        for task in chosen:
            asked[task] = None
            self._books.out.withdraw(slave.id, TaskRef(task.job.id, task.index, task.attempt), stop=False)
        return len(chosen)
