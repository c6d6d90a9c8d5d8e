"""Stealing: all tasks are assigned immediately, and idle slaves take from the one that has most."""

from collections.abc import Callable
from math import ceil

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.scheduling.ranking import Ranking
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.strategy import Strategy

#: in how many steps for each slave the tasks of a round are spread, see `choose`
_STEPS = 4


class StealingStrategy(Strategy):
    """Early-bound, corrected late: waiting tasks are assigned evenly by number, up to each slave's credit; a slave with
    an idle slot gets half of the unstarted tasks of the one that has most of them.

    Good if nothing is known of tasks or slaves and the round trip to a slave is long: no estimate is needed, no queue
    runs empty before the end, and all slaves end at nearly the same time, however different tasks (a few of them long)
    or slaves (one of them slow) are. Bad for jobs that end early and for short jobs of many owners, as many tasks must
    be recalled, and for tasks with large inputs, which are assigned and moved regardless of where those are.

    Args:
        worth_s: no task is taken from a slave whose tasks are expected to end within this many seconds, as moving them
            takes as long.

    Raises ConfigurationError for `worth_s` below 0.
    """

    name = "stealing"
    prefetching = True

    def __init__(self, *, worth_s: float = 0.002) -> None:
        if not worth_s >= 0:
            raise ConfigurationError(f"worth_s is {worth_s}, it must be 0 seconds or more")
        self._worth_s = worth_s
        self._open: Ranking[SlaveState] = Ranking()  # slaves with room, by load for each slot
        self._rich: Ranking[SlaveState] = Ranking()  # slaves with tasks to spare, most for each slot first

    def changed(self, slave: SlaveState) -> None:
        """Update the slave's ranks."""
        if slave.room:
            self._open.set(slave, slave.load / slave.slots)
        else:
            self._open.discard(slave)
        spare, slots = slave.spare, max(1, slave.slots)
        if spare > 0 and slave.trusted and slave.in_flight_s > self._worth_s * slots:
            self._rich.set(slave, -spare / slots)
        else:
            self._rich.discard(slave)

    def left(self, slave: SlaveState) -> None:
        """Remove the slave from both rankings."""
        self._open.discard(slave)
        self._rich.discard(slave)

    def choose(self, estimate_s: float | None, waiting: int) -> tuple[SlaveState, int] | None:
        """Return the slave with the fewest tasks for each slot, and how many until another one has fewer."""
        first = self._open.first()
        if first is None:
            return None
        load, slave = first
        next_load = self._open.second_rank()
        if next_load is None:
            return slave, slave.room
        until_next = int((next_load - load) * slave.slots)
        step = waiting // (_STEPS * len(self._open))
        return slave, max(1, min(slave.room, max(until_next, step, slave.slots - slave.load)))

    def rebalance(self, wanted: int, recall: Callable[[SlaveState, int], int]) -> None:
        """Recall half of what the slave with most tasks can spare, until there is enough for all idle slots."""
        while wanted > 0 and (first := self._rich.first()) is not None:
            slave = first[1]
            recalled = recall(slave, ceil(slave.spare / 2))
            wanted -= recalled
            if not recalled:  # its tasks run, or have another strategy: it is ranked again when it has changed
                self._rich.discard(slave)
