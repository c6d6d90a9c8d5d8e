"""Locality: tasks go to slaves that have their shared objects, and wait there for a while rather than move them."""

from math import ceil, inf

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.scheduling.object_locations import ObjectLocations, missing_bytes
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.pull_round_robin import AHEAD_S, DEPTH_PER_SLOT, PullRoundRobinStrategy
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.tasks.task_record import TaskRecord

#: most slaves with a task's objects that are compared; if there are more, others are compared the next time
_CANDIDATES_MAX = 32


class LocalityStrategy(Strategy):
    """A task that refers to shared objects goes to the slave that lacks the fewest bytes of them; of equal ones to the
    one with the lowest load. All other tasks are placed as by `pull_round_robin`.

    Good if many tasks share large inputs and there is not time to send every input to every slave. Bad if inputs are
    small or each is used once (then it is a slower `pull_round_robin`), and if most bytes are one input and tasks are
    long: its first holder gets a longer queue than others.

    Delay scheduling: instead of going to the slave that `pull_round_robin` would choose, a task queues at a slave that
    has more of its bytes, if the tasks in flight there are expected to end within the time that moving the difference
    takes at `bytes_per_s`, and within `patience_s` in any case; while its run time is unknown, behind at most
    `depth_per_slot` tasks for each slot. So it never waits while a slot is idle. A task that was recalled because its
    slave had answered nothing for `patience_s` goes to the next idle slot.

    Args:
        patience_s: how long a task waits for its bytes at most, in seconds, above 0.
        bytes_per_s: assumed transfer rate of objects, above 0.
        ahead_s: as of `pull_round_robin`.
        depth_per_slot: as of `pull_round_robin`.

    Raises ConfigurationError for other values.
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
        """Move the slave in the turns of `pull_round_robin`."""
        self._pull.changed(slave)

    def left(self, slave: SlaveState) -> None:
        """Remove the slave."""
        self._pull.left(slave)

    def choose(self, estimate_s: float | None, waiting: int) -> tuple[SlaveState, int] | None:
        """Return the slave whose turn it is."""
        return self._pull.choose(estimate_s, waiting)

    def choose_near(
        self, task: TaskRecord, locations: ObjectLocations, estimate_s: float | None, waiting: int
    ) -> tuple[SlaveState, int] | None:
        """Return the slave that lacks the fewest bytes, if it is worth waiting for, else the one whose turn it is."""
        objects = task.objects
        away = self._pull.choose(estimate_s, waiting)
        # While no slave has room, the task stays with the master, from where it can go to any slave.
        if away is None or not (away_bytes := missing_bytes(away[0], objects)):
            return away
        near = {
            slave: missing_bytes(slave, objects) for slave in locations.near(objects, _CANDIDATES_MAX) if slave.room
        }
        best = sorted(near.items(), key=lambda pair: (pair[1], pair[0].load / pair[0].slots))
        for at, (slave, bytes_here) in enumerate(best):
            if bytes_here >= away_bytes:
                break
            # A task that was recalled has waited enough.
            wait_s = min(self.patience_s, (away_bytes - bytes_here) / self._bytes_per_s) if task.attempt == 0 else 0.0
            if count := self._room_within(slave, wait_s, estimate_s):
                if at + 1 < len(best) and best[at + 1][1] == bytes_here:
                    count = min(count, _until_as_full(slave, best[at + 1][0]))
                return slave, min(count, waiting, slave.room)
        return away

    def _room_within(self, slave: SlaveState, wait_s: float, estimate_s: float | None) -> int:
        """Return how many tasks a slave may get if they may wait there for `wait_s` seconds."""
        load, slots = slave.load, slave.slots
        at_once = max(0, slots - load)
        if estimate_s is None:
            return max(at_once, self._depth_per_slot * slots - load if wait_s else 0)
        return max(at_once, ceil((wait_s * slots - slave.in_flight_s) / estimate_s))


def _until_as_full(slave: SlaveState, other: SlaveState) -> int:
    """Return how many tasks a slave may get until another one with as many bytes has a lower load."""
    return max(1, slave.slots - slave.load, other.load * slave.slots // other.slots - slave.load)
