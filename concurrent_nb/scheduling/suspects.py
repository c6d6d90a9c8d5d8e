"""Where tasks go that may have killed their slaves: each to a slave that has nothing else, and gets nothing meanwhile.

So one more loss of a slave is surely the fault of the task that had it for itself, and a task costs the cluster no more
slaves than deaths are allowed. Called by the scheduler before and after everything else is placed, while there are such
tasks.

A suspect takes a slave that has nothing, else one is emptied for it: it gets no more, and what has not begun there is
asked back. While others wait too, at most half of the slaves, and at least one, are set aside so; if that is the only
one, suspects and all others take turns there.

What waits for tasks of its own (hosts mostly do, and tasks that have lent their slot) neither keeps a suspect from a
slave nor, as a suspect, others from the last one: they would wait for each other.
"""

from math import inf

from concurrent_nb.ids import SessionId
from concurrent_nb.scheduling.placement import TOO_LARGE_AFTER_S, why_too_large
from concurrent_nb.scheduling.scheduler_state import SchedulerState
from concurrent_nb.scheduling.slave_state import SlaveState, is_host, is_wide
from concurrent_nb.scheduling.task_lifecycle import TaskLifecycle
from concurrent_nb.scheduling.task_queue import QueuedRun
from concurrent_nb.tasks.task_record import TaskRecord
from concurrent_nb.wire.messages import HOSTS_MAX


class Suspects:
    """Decide which slave runs which suspect, and which slave is emptied for the next."""

    def __init__(self, books: SchedulerState, endings: TaskLifecycle) -> None:
        self._books = books
        self._endings = endings
        self._aside: dict[SessionId, SlaveState] = {}  # slaves that are emptied, or have a suspect
        self.give_up_s = inf  #: when the first suspect is refused, if no slave comes that is large enough

    def settle(self) -> None:
        """Open slaves whose suspect has ended, and those that need not be emptied any more."""
        books = self._books
        for slave in list(self._aside.values()):
            if slave.suspect is not None and slave.suspect not in slave.tasks:
                slave.suspect, slave.emptied = None, self._is_kept(slave)
            if books.slaves.get(slave.id) is not slave:
                del self._aside[slave.id]
        emptied = [slave for slave in self._aside.values() if slave.emptied]
        most = self._most_emptied()
        for slave in emptied:
            if not slave.is_usable or most <= 0:
                slave.emptied = False
            else:
                most -= 1
        self._close()
        books.has_suspects = bool(self._aside or books.suspects.total)

    def place(self, now: float) -> bool:
        """Assign suspects, empty slaves for those that wait; say whether slaves were opened that others may get."""
        queue = self._books.suspects
        while (run := queue.first()) is not None:
            slave = min(
                (slave for slave in self._candidates(run) if slave.is_quiet),
                key=lambda slave: (slave.hosts, slave.load, slave.slots),
                default=None,
            )
            if slave is not None:
                for task in queue.take(1):
                    self._assign(slave, run, task, now)
            elif not self._is_refused(run, now):
                break
        if run is None:
            self.give_up_s = inf
        self._empty_for(run)
        return self._close()

    def _is_kept(self, slave: SlaveState) -> bool:
        """Say whether a slave that has got rid of its suspect stays closed, for the next one."""
        return not self._others_wait() or any(
            other.is_usable and not other.closed for other in self._books.slaves.values() if other is not slave
        )

    def _others_wait(self) -> bool:
        books = self._books
        return bool(len(books.waiting) or len(books.wide) or len(books.hosts))

    def _most_emptied(self) -> int:
        """Return how many slaves may be empty at once, or about to be."""
        books = self._books
        usable = sum(slave.is_usable for slave in books.slaves.values())
        taken = sum(slave.suspect is not None and not slave.is_lenient for slave in self._aside.values())
        most = max(1, usable // 2) if self._others_wait() else usable
        return min(most - taken, len(books.suspects))

    def _candidates(self, run: QueuedRun) -> list[SlaveState]:
        """List the slaves that may get a suspect, once they are quiet."""
        cores = _cores(run)
        fit = [slave for slave in self._books.slaves.values() if slave.is_usable and slave.slots >= cores]
        if is_host(run.needs):
            fit = [slave for slave in fit if slave.hosts < HOSTS_MAX]
        free = [slave for slave in fit if slave.suspect is None]
        return free or [slave for slave in fit if slave.is_lenient]

    def _empty_for(self, run: QueuedRun | None) -> None:
        """Set slaves aside for a run of suspects, and for those behind it; open those that are of no use to them."""
        fit = [] if run is None else self._candidates(run)
        emptied = 0
        for slave in self._aside.values():
            slave.emptied = slave.emptied and slave in fit
            emptied += slave.emptied
        others = [slave for slave in fit if not slave.emptied]
        others.sort(key=lambda slave: (slave.hosts, slave.started, slave.load / slave.slots))
        for slave in others[: max(0, self._most_emptied() - emptied)]:
            slave.emptied = True
            self._aside[slave.id] = slave
            for task in slave.tasks:
                if not (task.started or task.cancelled or is_host(task.needs) or task in self._books.asked):
                    self._books.ask_back(task, slave)

    def _assign(self, slave: SlaveState, run: QueuedRun, task: TaskRecord, now: float) -> None:
        books = self._books
        estimate_s = books.estimates.get(run.function)
        unknown_s = books.strategies.of(run.job).unknown_s
        if is_host(run.needs):
            slave.take_host(task)
        elif is_wide(run.needs):
            slave.take_wide(task, _cores(run) or slave.slots, unknown_s)
        else:
            slave.take([task], unknown_s if estimate_s is None else estimate_s)
        slave.suspect, slave.emptied = task, False
        slave.quiet_since_s = now
        self._aside[slave.id] = slave
        if run.objects:
            books.holdings.hold(slave, [each for each, _ in run.objects])
        books.out.assign(slave.id, run, [task])
        books.refresh(slave)

    def _is_refused(self, run: QueuedRun, now: float) -> bool:
        """Refuse suspects that need more than any slave has, if that has been so for long enough."""
        books = self._books
        if not _cores(run) > books.most_slots > 0:
            self.give_up_s = inf
            return False
        self.give_up_s = min(self.give_up_s, now + TOO_LARGE_AFTER_S)
        if now < self.give_up_s:
            return False
        self.give_up_s = inf
        tasks = books.suspects.take(len(books.suspects))
        for task in tasks:
            self._endings.refuse(task, why_too_large(books, task))
        if tasks and run.job.stop_on_error and not run.job.ended:
            self._endings.end(run.job)
        return True

    def _close(self) -> bool:
        """Close the slaves that are set aside, open those that are not any more; say whether there are such."""
        books, opened = self._books, False
        others = any(slave.is_usable for slave in books.slaves.values() if slave.id not in self._aside)
        for slave in list(self._aside.values()):
            closed = slave.emptied or (slave.suspect is not None and (others or not slave.is_lenient))
            if not (slave.emptied or slave.suspect):
                del self._aside[slave.id]
            if closed != slave.closed:
                slave.closed = closed
                opened = opened or not closed
                books.unplaced = True
                books.refresh(slave)
        return opened


def _cores(run: QueuedRun) -> int:
    """Return how many cores a task of a run needs; 0: all of a slave, however few those are."""
    return run.needs.cores if run.needs is not None else 1
