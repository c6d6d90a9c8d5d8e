"""Pull, in turn: a task stays with the master until a slave has room for it."""

from collections import OrderedDict
from math import ceil
from typing import Final

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import SessionId
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.strategy import Strategy

#: expected work that a slave may have ahead for each slot, in seconds
AHEAD_S: Final = 0.1
#: tasks in flight for each slot while their run time is unknown
DEPTH_PER_SLOT: Final = 2

_Ring = OrderedDict[SessionId, SlaveState]


class PullRoundRobinStrategy(Strategy):
    """Late-bound: slaves take turns, and each gets tasks that keep it busy for a moment and no more. The default.

    Good for tasks of any or unknown length, slaves of unequal speed, and jobs that end early (`until`): tasks that were
    not assigned need not be recalled. Bad if the round trip to a slave takes longer than `ahead_s`: the slave then
    waits for the network between two runs.

    A slave with an idle slot comes before one that would only queue. Up to `depth_per_slot` tasks are in flight for
    each slot; more only while their expected run time is below `ahead_s` seconds for each slot.

    Raises ConfigurationError for `ahead_s` that is not above 0, and for `depth_per_slot` below 1.
    """

    name = "pull_round_robin"

    def __init__(self, *, ahead_s: float = AHEAD_S, depth_per_slot: int = DEPTH_PER_SLOT) -> None:
        if not ahead_s > 0:
            raise ConfigurationError(f"ahead_s is {ahead_s}, it must be more than 0 seconds")
        if depth_per_slot < 1:
            raise ConfigurationError(f"depth_per_slot is {depth_per_slot}, it must be at least 1")
        # With this, tasks of unknown length fill a slave at depth_per_slot: one for each slot counts as ahead_s.
        self.unknown_s = ahead_s
        self._ahead_s = ahead_s
        self._depth_per_slot = depth_per_slot
        self._idle: _Ring = OrderedDict()  # slaves with an idle slot; the one whose turn it is comes first
        self._ahead: _Ring = OrderedDict()  # slaves that would queue what they get
        self._places: dict[SessionId, tuple[_Ring, int]] = {}  # ring and slots of each slave
        self._slots = 0  # of the slaves in both rings

    def changed(self, slave: SlaveState) -> None:
        """Move the slave to the end of the ring to which it belongs now."""
        ring = self._ring_for(slave)
        place = self._places.get(slave.id)
        if place is not None:
            if place[0] is ring and place[1] == slave.slots:
                ring.move_to_end(slave.id)
                return
            self.left(slave)
        if ring is not None:
            ring[slave.id] = slave
            self._places[slave.id] = ring, slave.slots
            self._slots += slave.slots

    def left(self, slave: SlaveState) -> None:
        """Remove the slave from its ring."""
        place = self._places.pop(slave.id, None)
        if place is not None:
            ring, slots = place
            del ring[slave.id]
            self._slots -= slots

    def choose(self, estimate_s: float | None, waiting: int) -> tuple[SlaveState, int] | None:
        """Return the slave whose turn it is."""
        for slave in (self._idle or self._ahead).values():
            load, slots = slave.load, slave.slots
            by_count = self._depth_per_slot * slots - load
            by_time = ceil((slots * self._ahead_s - slave.in_flight_s) / (estimate_s or self._ahead_s))
            # Its share of the waiting tasks, so that the first in turn does not take all; but never leave a slot idle.
            share = max(waiting * slots // self._slots, slots - load, 1)
            return slave, max(1, min(share, max(by_count, by_time), slave.room))
        return None

    def _ring_for(self, slave: SlaveState) -> _Ring | None:
        if not slave.room:
            return None
        load, slots = slave.load, slave.slots
        if load < slots:
            return self._idle
        if load < self._depth_per_slot * slots or slave.in_flight_s < slots * self._ahead_s:
            return self._ahead
        return None
