"""Push to the best: each task goes immediately to the slave with the best rating (the thesis's first strategy)."""

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.scheduling.estimates import SHORTEST_S, blend
from concurrent_nb.scheduling.ranking import Ranking
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.strategy import Strategy

#: in how many steps for each slave the tasks of a round are spread, see `choose`
_STEPS = 4


class PushBestStrategy(Strategy):
    """Early-bound: tasks are pushed as soon as they come, up to each slave's credit.

    A slave's rating is (tasks in flight + 1) / slots * recent run time of a task there, in seconds; lower is better. So
    a slave that is twice as fast gets twice as many tasks.

    Good for many tasks of one kind, and if the round trip to a slave is long: its queue never runs empty. Bad for tasks
    of very different lengths, as some wait behind a long one, and for jobs that end early, as many must be recalled.

    Of a function that was never measured, at most `depth_per_slot` tasks for each slot are pushed, so that a slave that
    joins late still gets some.

    Raises ConfigurationError for `depth_per_slot` below 1.
    """

    name = "push_best"
    prefetching = True

    def __init__(self, *, depth_per_slot: int = 4) -> None:
        if depth_per_slot < 1:
            raise ConfigurationError(f"depth_per_slot is {depth_per_slot}, it must be at least 1")
        self._depth_per_slot = depth_per_slot
        self._known: Ranking[SlaveState] = Ranking()  # slaves with room for a measured function
        self._unknown: Ranking[SlaveState] = Ranking()  # slaves with room for any function
        self._task_s: float | None = None  # average of all slaves: assumed for one that was not measured

    def changed(self, slave: SlaveState) -> None:
        """Update the slave's rating."""
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
        """Remove the slave from the ranking."""
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
        # Nor does it matter which slave gets the tasks that start immediately.
        return slave, max(1, min(most, max(int(until_next), step, slave.slots - slave.load)))

    def _seconds(self, slave: SlaveState) -> float:
        task_s = slave.task_s if slave.task_s is not None else self._task_s
        return max(task_s or 0.0, SHORTEST_S)
