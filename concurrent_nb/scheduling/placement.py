"""Where tasks go that take several slots of one slave, and hosts, which take none. All others are the strategy's.

Called by the scheduler after the strategy, and looks only when something has changed that could let one of them in: a
slave that came, went or was resized, or the end of another such task. What one-slot tasks do changes nothing here.

A wide task is assigned as soon as a slave has room for it besides its other wide tasks, one-slot tasks or not: the
slave keeps slots for it as they come free. So neither kind waits for ever for the other. The first in the queue goes
first, however narrow those behind it are; else wide ones would never find room.
"""

from math import inf
from typing import Final

from concurrent_nb.scheduling.scheduler_state import SchedulerState
from concurrent_nb.scheduling.slave_state import SlaveState, is_wide
from concurrent_nb.scheduling.task_lifecycle import TaskLifecycle
from concurrent_nb.scheduling.task_queue import QueuedRun
from concurrent_nb.tasks.task_record import TaskRecord

#: while there are slaves, but none with slots enough, a task waits so long for one that has, in seconds
TOO_LARGE_AFTER_S: Final = 5.0


class Placement:
    """Decide which slave gets which wide task and which host.

    Args:
        move_after_s: from a slave that has answered nothing for so many seconds, a wide task that waits there may be
            moved to another.
    """

    def __init__(self, books: SchedulerState, endings: TaskLifecycle, *, move_after_s: float) -> None:
        self._books = books
        self._endings = endings
        self._move_after_s = move_after_s
        self._next_move_s = 0.0
        self._most_slots = 0
        self._most_slots_since_s = 0.0
        self.give_up_s = inf  #: when the first wide task is refused, if no slave comes that is large enough

    def place(self, now: float) -> None:
        """Assign what can be assigned; refuse what no slave can take and has waited long enough."""
        books = self._books
        if books.unplaced:
            self._look(now)
        while now >= self.give_up_s:
            self._refuse(books.wide.take(len(books.wide)))
            self._look(now)

    def move(self, now: float) -> None:
        """Ask for a wide task that has not begun, where another slave has all slots for it free.

        Called while slaves have more than they can run; as often as Balance, whose deadline is that of both.
        """
        books = self._books
        if now < self._next_move_s or not books.idle or len(books.wide):
            return
        self._next_move_s = now + self._move_after_s
        for slave in books.crowded.values():
            if slave.wide and now - slave.quiet_since_s >= self._move_after_s:
                for task in slave.tasks:
                    if self._could_begin_elsewhere(task):
                        books.ask_back(task, slave)
                        books.refresh(slave)
                        return

    def _could_begin_elsewhere(self, task: TaskRecord) -> bool:
        needs = task.needs
        if needs is None or not is_wide(needs) or task.started or task.cancelled or task in self._books.asked:
            return False
        other = self._for_wide(needs.cores)
        return other is not None and other.load + (needs.cores or other.slots) <= other.slots

    def _look(self, now: float) -> None:
        books = self._books
        while (run := books.hosts.first()) is not None and (slave := self._for_host()) is not None:
            for task in books.hosts.take(1):
                slave.take_host(task)
                self._assign(slave, run, task, now)
        while (run := books.wide.first()) is not None and (slave := self._for_wide(_cores(run))) is not None:
            for task in books.wide.take(1):
                slave.take_wide(task, _cores(run) or slave.slots, books.strategies.default.unknown_s)
                self._assign(slave, run, task, now)
        books.unplaced = False
        if books.most_slots != self._most_slots:
            self._most_slots, self._most_slots_since_s = books.most_slots, now
        too_large = run is not None and _cores(run) > books.most_slots > 0
        self.give_up_s = self._most_slots_since_s + TOO_LARGE_AFTER_S if too_large else inf

    def _assign(self, slave: SlaveState, run: QueuedRun, task: TaskRecord, now: float) -> None:
        slave.quiet_since_s = now
        self._books.out.assign(slave.id, run, [task])
        self._books.refresh(slave)

    def _for_host(self) -> SlaveState | None:
        """Return the slave with the fewest hosts. What its slots do is no matter: a host mostly waits."""
        return min(
            (slave for slave in self._books.slaves.values() if slave.takes_host),
            key=lambda slave: slave.hosts,
            default=None,
        )

    def _for_wide(self, cores: int) -> SlaveState | None:
        """Return a slave where it can begin at once, else the one that is expected to have the slots soonest."""
        return min(
            (slave for slave in self._books.slaves.values() if slave.takes_wide(cores)),
            key=lambda slave: (slave.load + (cores or slave.slots) > slave.slots, slave.in_flight_s / slave.slots),
            default=None,
        )

    def _refuse(self, tasks: list[TaskRecord]) -> None:
        """Refuse tasks that were first in the queue, which they have left; they are of one job."""
        for task in tasks:
            self._endings.refuse(task, why_too_large(self._books, task))
        if tasks and tasks[0].job.stop_on_error and not tasks[0].job.ended:
            self._endings.end(tasks[0].job)


def why_too_large(books: SchedulerState, task: TaskRecord) -> str:
    """Say why no slave can run a task, "" if one can, or if there are no slaves to go by."""
    cores = task.needs.cores if task.needs is not None else 1
    if not cores > books.most_slots > 0:
        return ""
    return (
        f"task {task.name} needs {cores} cores of one slave, and the largest slave has {books.most_slots}: "
        "ask for fewer, or for all of one slave (cores=0, in a cell --needs cores=all)"
    )


def _cores(run: QueuedRun) -> int:
    return run.needs.cores if run.needs is not None else 1
