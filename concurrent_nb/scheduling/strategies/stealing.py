"""Stealing: everything is dealt out at once, and who has finished takes from who has most left."""

from collections.abc import Callable
from math import ceil

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.scheduling.ranking import Ranking
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.strategy import Strategy

#: with so many steps for each slave a round's tasks are spread, see `choose`
_STEPS = 4


class StealingStrategy(Strategy):
    """Early-bound, corrected late: what waits is dealt out evenly by number, up to each slave's credit; a slave with an
    idle slot gets half of the unstarted tasks of the one that has most of them.

    Good where nothing is known of tasks or slaves and the way to a slave is long: no estimate is needed, no queue runs
    dry before the end, and the end comes nearly at once for all, however different tasks (a few of them long) or slaves
    (one of them slow) are. Bad for jobs that end early and for short jobs of many owners, as much must be fetched back
    then, and for tasks with large inputs, which are dealt and moved without a look at where those are.

    Args:
        worth_s: a slave whose tasks are expected to be over within so many seconds is left alone, as what it has would
            not be elsewhere sooner.
    """

    name = "stealing"
    prefetching = True

    def __init__(self, *, worth_s: float = 0.002) -> None:
        if not worth_s >= 0:
            raise ConfigurationError(f"worth_s is {worth_s}, it must be 0 seconds or more")
        self._worth_s = worth_s
        self._open: Ranking[SlaveState] = Ranking()  # who has room, by load for each slot
        self._rich: Ranking[SlaveState] = Ranking()  # who can give, the one with most for each slot first

    def changed(self, slave: SlaveState) -> None:
        """Rank the slave anew."""
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
        """Take the slave out of both rankings."""
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

    def rebalance(self, wanted: int, ask: Callable[[SlaveState, int], int]) -> None:
        """Ask the slave with most to spare for half of that, until there is enough for all idle slots."""
        while wanted > 0 and (first := self._rich.first()) is not None:
            slave = first[1]
            recalled = ask(slave, ceil(slave.spare / 2))
            wanted -= recalled
            if not recalled:  # what it has runs, or is of jobs with another strategy: look again when it has changed
                self._rich.discard(slave)
