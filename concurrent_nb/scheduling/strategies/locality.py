"""Locality: tasks go where their shared objects are, and wait there for a while rather than move them."""

from math import ceil, inf

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.scheduling.object_locations import ObjectLocations, missing_bytes
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.pull_round_robin import AHEAD_S, DEPTH_PER_SLOT, PullRoundRobinStrategy
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.tasks.task_record import TaskRecord

#: of the slaves that have some of a task's objects so many are looked at; if there are more, others each time
_CANDIDATES_MAX = 32


class LocalityStrategy(Strategy):
    """A task that refers to shared objects goes to the slave that lacks the fewest bytes of them; of equal ones to the
    one with the least to do. All other tasks are placed as by `pull_round_robin`.

    Good where many tasks share large inputs and there is not time to send every input to every slave. Bad where inputs
    are small or each is used once (then it is `pull_round_robin` with more to look at), and where one input is all that
    counts and tasks are long: its first holder gets a longer queue than others.

    The rule of waiting (delay scheduling): rather than go where `pull_round_robin` would send it, a task queues behind
    others at a slave that has more of its bytes, if what is in flight there is expected to be over within the time that
    moving the difference takes at `bytes_per_s`, and within `patience_s` in any case; while its run time is unknown,
    behind no more than `depth_per_slot` tasks for each slot. So it never waits for a place while a slot is idle. What
    has been asked back from a slave, because that has answered nothing for `patience_s`, goes to the next idle slot.

    Args:
        patience_s: how long a task waits for its bytes at most.
        bytes_per_s: how fast objects are taken to travel.
        ahead_s: as of `pull_round_robin`.
        depth_per_slot: as of `pull_round_robin`.
    """

    name = "locality"

    def __init__(
        self,
        *,
        patience_s: float = 3.0,
        bytes_per_s: float = 200e6,
        ahead_s: float = AHEAD_S,
        depth_per_slot: int = DEPTH_PER_SLOT,
    ) -> None:
        for item, value in (("patience_s", patience_s), ("bytes_per_s", bytes_per_s)):
            if not 0 < value < inf:
                raise ConfigurationError(f"{item} is {value}, it must be a number above 0")
        self._pull = PullRoundRobinStrategy(ahead_s=ahead_s, depth_per_slot=depth_per_slot)
        self.unknown_s = self._pull.unknown_s
        self.patience_s = patience_s
        self._bytes_per_s = bytes_per_s
        self._depth_per_slot = depth_per_slot

    def changed(self, slave: SlaveState) -> None:
        """Give the slave its turn."""
        self._pull.changed(slave)

    def left(self, slave: SlaveState) -> None:
        """Take the slave out."""
        self._pull.left(slave)

    def choose(self, estimate_s: float | None, waiting: int) -> tuple[SlaveState, int] | None:
        """Return the slave whose turn it is."""
        return self._pull.choose(estimate_s, waiting)

    def choose_near(
        self, task: TaskRecord, locations: ObjectLocations, estimate_s: float | None, waiting: int
    ) -> tuple[SlaveState, int] | None:
        """Return the slave that lacks the fewest bytes and is worth waiting for, else the one whose turn it is."""
        objects = task.objects
        away = self._pull.choose(estimate_s, waiting)
        # As long as nobody has use for it, the task stays where it can still go anywhere.
        if away is None or not (away_bytes := missing_bytes(away[0], objects)):
            return away
        near = {
            slave: missing_bytes(slave, objects) for slave in locations.near(objects, _CANDIDATES_MAX) if slave.room
        }
        best = sorted(near.items(), key=lambda pair: (pair[1], pair[0].load / pair[0].slots))
        for at, (slave, bytes_here) in enumerate(best):
            if bytes_here >= away_bytes:
                break
            # A task that was taken from a slave has waited enough.
            wait_s = min(self.patience_s, (away_bytes - bytes_here) / self._bytes_per_s) if task.attempt == 0 else 0.0
            if count := self._room_within(slave, wait_s, estimate_s):
                if at + 1 < len(best) and best[at + 1][1] == bytes_here:
                    count = min(count, _until_as_full(slave, best[at + 1][0]))
                return slave, min(count, waiting, slave.room)
        return away

    def _room_within(self, slave: SlaveState, wait_s: float, estimate_s: float | None) -> int:
        """Return how many tasks may go to a slave that has a right to so many seconds of waiting."""
        load, slots = slave.load, slave.slots
        at_once = max(0, slots - load)
        if estimate_s is None:
            return max(at_once, self._depth_per_slot * slots - load if wait_s else 0)
        return max(at_once, ceil((wait_s * slots - slave.in_flight_s) / estimate_s))


def _until_as_full(slave: SlaveState, other: SlaveState) -> int:
    """Return how many tasks a slave may get before another one, which is no worse, has less to do."""
    return max(1, slave.slots - slave.load, other.load * slave.slots // other.slots - slave.load)
