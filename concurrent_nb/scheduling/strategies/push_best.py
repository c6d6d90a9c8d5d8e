"""Push to the best: each task goes at once to the slave that is rated best (the thesis's first strategy)."""

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.scheduling.estimates import SHORTEST_S, blend
from concurrent_nb.scheduling.ranking import Ranking
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.strategy import Strategy

#: with so many steps for each slave a round's tasks are spread, see `choose`
_STEPS = 4


class PushBestStrategy(Strategy):
    """Early-bound: tasks are pushed as soon as they come, up to each slave's credit.

    A slave's rating is (tasks in flight + 1) / slots * how long a task took there lately, in seconds; lower is better.
    So a slave twice as fast gets twice as much.

    Good for many tasks of one kind, and where the way to a slave is long: its queue never runs dry. Bad for tasks of
    very different lengths, as some wait behind a long one, and for jobs that end early, as much must be fetched back.

    Of a function that was never measured, no more is pushed than makes `depth_per_slot` tasks for each slot, so that a
    slave that joins late still finds work.
    """

    name = "push_best"
    prefetching = True

    def __init__(self, *, depth_per_slot: int = 4) -> None:
        if depth_per_slot < 1:
            raise ConfigurationError(f"depth_per_slot is {depth_per_slot}, it must be at least 1")
        self._depth_per_slot = depth_per_slot
        self._known: Ranking[SlaveState] = Ranking()  # who has room for a function that was measured
        self._unknown: Ranking[SlaveState] = Ranking()  # who has room for any function
        self._task_s: float | None = None  # of all slaves: what one is taken for until it was measured itself

    def changed(self, slave: SlaveState) -> None:
        """Rate the slave anew."""
        if not slave.room:
            self.left(slave)
            return
        if slave.task_s is not None:
            self._task_s = blend(self._task_s, slave.task_s, 1)
        rating = (slave.load + 1) / slave.slots * self._seconds(slave)
        self._known.set(slave, rating)
        if slave.load < self._depth_per_slot * slave.slots:
            self._unknown.set(slave, rating)
        else:
            self._unknown.discard(slave)

    def left(self, slave: SlaveState) -> None:
        """Take the slave out of the ranking."""
        self._known.discard(slave)
        self._unknown.discard(slave)

    def choose(self, estimate_s: float | None, waiting: int) -> tuple[SlaveState, int] | None:
        """Return the slave with the lowest rating, and how many tasks until another one's is lower."""
        ranking = self._unknown if estimate_s is None else self._known
        first = ranking.first()
        if first is None:
            return None
        slave = first[1]
        most = slave.room
        if estimate_s is None:
            most = min(most, self._depth_per_slot * slave.slots - slave.load)
        next_rating = ranking.second_rank()
        if next_rating is None:
            return slave, most
        until_next = min(next_rating * slave.slots / self._seconds(slave), slave.credit) - slave.load
        # Equal slaves would take turns after every task. A few tasks at a time are nearly as even, and much cheaper.
        step = waiting // (_STEPS * len(ranking))
        # Nor does it matter who gets what starts at once.
        return slave, max(1, min(most, max(int(until_next), step, slave.slots - slave.load)))

    def _seconds(self, slave: SlaveState) -> float:
        task_s = slave.task_s if slave.task_s is not None else self._task_s
        return max(task_s or 0.0, SHORTEST_S)
