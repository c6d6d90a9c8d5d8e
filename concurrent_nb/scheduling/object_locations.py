"""Which slave has which shared objects, as far as the scheduler knows.

A slave that shares memory with the master has all of them. Another slave has those of every task that was assigned to
it, as they travel with the task, and those of ObjectsHeld, until ObjectsDropped. A wrong entry costs a transfer and
nothing else.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Final

from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.tasks.task_record import ObjectSize

#: most objects that are stored for one slave; the oldest is dropped first
MOST: Final = 10_000


class ObjectLocations:
    """Slaves by object. The objects of each slave are in its record, for strategies to read."""

    def __init__(self) -> None:
        self._holders: dict[bytes, OrderedDict[SlaveState, None]] = {}
        self._sharing: OrderedDict[SlaveState, None] = OrderedDict()  # slaves that have all objects

    def __len__(self) -> int:
        """Return how many objects are known to be at a slave."""
        return len(self._holders)

    def joined(self, slave: SlaveState) -> None:
        """Add a slave."""
        if slave.shares_memory:
            self._sharing[slave] = None

    def hold(self, slave: SlaveState, objects: Iterable[bytes]) -> None:
        """Note that a slave has these objects, or gets them before its next task."""
        if slave.shares_memory:
            return
        mine = slave.objects
        for each in objects:
            if each in mine:
                continue
            mine[each] = None
            holders = self._holders.get(each)
            if holders is None:
                holders = self._holders[each] = OrderedDict()
            holders[slave] = None
            if len(mine) > MOST:
                self.drop(slave, (next(iter(mine)),))

    def drop(self, slave: SlaveState, objects: Iterable[bytes]) -> None:
        """Note that a slave no longer has these objects."""
        for each in objects:
            if each in slave.objects:
                del slave.objects[each]
                holders = self._holders[each]
                del holders[slave]
                if not holders:
                    del self._holders[each]

    def left(self, slave: SlaveState) -> None:
        """Remove a slave."""
        self._sharing.pop(slave, None)
        self.drop(slave, tuple(slave.objects))

    def holders(self, each: bytes) -> Iterable[SlaveState]:
        """Return the slaves that are known to have got an object; not those that share memory."""
        return self._holders.get(each, {}).keys()

    def near(self, objects: Sequence[ObjectSize], most: int) -> Iterator[SlaveState]:
        """Iterate over slaves that have some of the objects: those that share memory, then holders of the largest.

        Yields at most `most` slaves; of an object with more holders, the next call yields others. A slave that has
        several of the objects comes several times.
        """
        largest_first = sorted(objects, key=itemgetter(1), reverse=True)
        for holders in (self._sharing, *[self._holders.get(each) for each, _ in largest_first]):
            if not holders:
                continue
            looked_at = [slave for slave, _ in zip(holders, range(most), strict=False)]
            if len(holders) > most:
                for slave in looked_at:
                    holders.move_to_end(slave)
            yield from looked_at
            most -= len(looked_at)


def missing_bytes(slave: SlaveState, objects: Iterable[ObjectSize]) -> int:
    """Return how many bytes of these objects the slave lacks."""
    if slave.shares_memory:
        return 0
    mine = slave.objects
    return sum(size_bytes for each, size_bytes in objects if each not in mine)
