"""Messages between members, packed: those of one group in one step, by the group to which they go.

    MemberOutbox (member_outbox.py): send(to, value), ... --pack, split--> {group: MessagePack}
    MemberInbox(packs of all groups)                       --> values by member

A pack has a route (who sends to whom) and values. Numbers travel as arrays, other values that cannot change as they
are, and anything else with a pickle of its own, so that no two members get the same object. A value that goes to
several members travels once. Groups are ranges of ids, so packs in the order of their groups have their messages in the
order of the senders: sorting them by receiver, in a way that keeps this order, is all there is to do.

Members often send to the same ones in each step. Then the route is the same object, it is not sorted anew, and only its
key travels to those who have it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from concurrent_nb.shipping.serialization import separate_pickles
from concurrent_nb.shipping.serialization.pickles import SMALL_ATOMS, is_small

#: ids of members. Those of messages take 4 bytes each where that is enough
Ids = np.ndarray[Any, np.dtype[Any]]

NO_IDS: Final = np.empty(0, np.int64)


class Route(NamedTuple):
    """Who sends to whom, in the order of the senders, and of each sender in the order in which it has sent."""

    key: bytes  #: the same for the same route
    to: Ids
    senders: Ids
    which: Ids | None  #: by message: the position of its value; None: each has its own, in this order

    def __reduce__(self) -> tuple[Any, ...]:
        # One buffer instead of three, because each is stored, announced and mapped by itself.
        parts = [self.to, self.senders] if self.which is None else [self.to, self.senders, self.which]
        kinds = [part.dtype.char for part in parts]
        buffer = np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in parts])
        return unpacked_route, (self.key, buffer, len(self.to), kinds)

    def copy(self) -> "Route":
        """Return a copy, which does not hold the memory of the message with which it has come."""
        return Route(self.key, self.to.copy(), self.senders.copy(), None if self.which is None else self.which.copy())

    @property
    def size_bytes(self) -> int:
        """How much it takes in memory or on its way."""
        return int(self.to.nbytes + self.senders.nbytes + (0 if self.which is None else self.which.nbytes))

    def take(self, at: Ids) -> "Route":
        """Return the route of some of the messages, by index."""
        return new_route(self.to[at], self.senders[at], at if self.which is None else self.which[at])


def new_route(to: Ids, senders: Ids, which: Ids | None) -> Route:
    """Return a route with a key of its own."""
    return Route(os.urandom(8), to, senders, which)


def unpacked_route(key: bytes, buffer: np.ndarray[Any, Any], count: int, kinds: Sequence[str]) -> Route:
    """Return a route that has travelled in one buffer."""
    arrays = []
    begin = 0
    for kind in kinds:
        end = begin + count * np.dtype(kind).itemsize
        arrays.append(buffer[begin:end].view(kind))
        begin = end
    return Route(key, arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None)


class MessagePack(NamedTuple):
    """Messages of one group."""

    route: Route
    values: Any  #: an array of numbers; or a list of values, or of pickles if there is a table
    table: separate_pickles.Table | None  #: of the pickles

    @property
    def size_bytes(self) -> int:
        """About how much the values take in memory or on their way."""
        if isinstance(self.values, np.ndarray):
            return int(self.values.nbytes)
        return 32 * len(self.values) if self.table is None else sum(map(len, self.values))

    @property
    def is_bare(self) -> bool:
        """Whether there is only the key of the route, for one who has the route."""
        return not len(self.route.to)

    def bare(self) -> "MessagePack":
        """Return the pack with only the key of its route."""
        return self._replace(route=Route(self.route.key, NO_IDS, NO_IDS, None))

    def take(self, at: Any) -> "MessagePack":
        """Return some of the messages, by index."""
        return self._replace(route=self.route.take(at))

    def split(self, first_ids: Ids) -> dict[int, "MessagePack"]:
        """Return the messages by the group to which they go; group g begins with the id `first_ids[g]`."""
        return self.divided(split_plan(self.route, first_ids))

    def divided(self, plan: "SplitPlan") -> dict[int, "MessagePack"]:
        """Return the messages as a plan divides them."""
        return {group: MessagePack(route, _taken(self.values, at), self.table) for group, (route, at) in plan.items()}


def _taken(values: Any, at: Ids | None) -> Any:
    if at is None:
        return values
    return values[at] if isinstance(values, np.ndarray) else [values[position] for position in at.tolist()]


#: by group: the route of the messages that go to it, and the positions of their values; None: all values
SplitPlan = Mapping[int, tuple[Route, Ids | None]]


def split_plan(route: Route, first_ids: Ids) -> SplitPlan:
    """Return which messages go to which group; group g begins with the id `first_ids[g]`."""
    if not len(route.to):
        return {}
    if len(first_ids) == 1:
        return {0: (route, None)}
    groups = np.searchsorted(first_ids, route.to, side="right") - 1
    # Sorting small integers takes an eighth of the time.
    order = np.argsort(groups.astype(np.uint16) if len(first_ids) < 65536 else groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=len(first_ids)))
    plan: dict[int, tuple[Route, Ids | None]] = {}
    begin = 0
    for group, end in enumerate(ends.tolist()):
        if end > begin:
            plan[group] = _part(route, order[begin:end])
        begin = end
    return plan


def _part(route: Route, at: Ids) -> tuple[Route, Ids | None]:
    """Return the route of some messages, and the positions of the values that they need; None: all values."""
    to, senders = route.to[at], route.senders[at]
    if route.which is None:
        return new_route(to, senders, None), at
    which = route.which[at]
    count = int(route.which.max()) + 1
    is_used = np.zeros(count, bool)
    is_used[which] = True
    used = np.flatnonzero(is_used)
    if 2 * len(used) > count:
        return new_route(to, senders, which), None
    numbers = np.zeros(count, which.dtype)
    numbers[used] = np.arange(len(used))
    return new_route(to, senders, numbers[which]), used


def packed_values(values: Sequence[Any]) -> tuple[Any, separate_pickles.Table | None]:
    """Return values as a MessagePack holds them, and the table of their pickles."""
    kinds = set(map(type, values))
    if kinds == {float}:
        return np.array(values, np.float64), None
    if kinds == {int}:
        try:
            return np.array(values, np.int64), None
        except OverflowError:
            return list(values), None
    if kinds <= SMALL_ATOMS or all(map(is_small, values)):
        return list(values), None
    pickler = separate_pickles.SeparatePickler()
    return [pickler.dumps(value) for value in values], pickler.table


class _Sorted:
    """How messages are sorted by receiver."""

    def __init__(self, routes: Sequence[Route], counts: Sequence[int], ids: Ids) -> None:
        self.keys = [route.key for route in routes]
        self.ids = ids
        self._routes = routes
        to = np.concatenate([route.to for route in routes])
        positions, is_there = _positions_of(to, ids)
        self.undelivered = len(to) - int(np.count_nonzero(is_there))
        order = np.argsort(positions.astype(np.uint16) if len(ids) < 65535 else positions, kind="stable")
        self.order = order[is_there[order]] if self.undelivered else order
        bounds = [0, *np.cumsum(np.bincount(positions, minlength=len(ids))[: len(ids)]).tolist()]
        self.slices = list(map(slice, bounds, bounds[1:]))  #: by position of a member: its messages
        first, which = 0, []
        for route, count in zip(routes, counts, strict=True):
            which.append(first + (np.arange(count) if route.which is None else route.which))
            first += count
        #: by message, in the order of the receivers: the position of its value among those of all packs
        self.which = np.concatenate(which)[self.order]
        self.is_repeated = 2 * first < len(to)
        self._positions: dict[int, int] | None = None
        self._senders: list[int] = []

    def senders_of(self, member: int) -> list[int]:
        """Return the ids of the senders of a member's messages."""
        if self._positions is None:
            self._positions = {number: position for position, number in enumerate(self.ids.tolist())}
            self._senders = np.concatenate([route.senders for route in self._routes])[self.order].tolist()
        return self._senders[self.slices[self._positions[member]]]


class MemberInbox:
    """The messages to the members of a group, by member.

    Args:
        packs: of all groups, in the order of their groups.
        ids: of the members, ascending.
        before: the inbox of the step before. If the messages go the same ways, they are sorted as those were.
    """

    def __init__(self, packs: Sequence[MessagePack], ids: Ids, before: "MemberInbox | None" = None) -> None:
        packs = [pack for pack in packs if len(pack.route.to)]
        self.values: list[Any] = []
        self.slices: list[slice] = [slice(0)] * len(ids)  #: by position of a member: its values
        self.undelivered = 0  #: messages to members that have left
        self._sorted: _Sorted | None = None
        if not packs:
            return
        known = None if before is None else before._sorted
        keys = [pack.route.key for pack in packs]
        if known is None or known.keys != keys or not np.array_equal(known.ids, ids):
            known = _Sorted([pack.route for pack in packs], [len(pack.values) for pack in packs], ids)
        self._sorted = known
        self.undelivered, self.slices = known.undelivered, known.slices
        self.values = _values_of(packs, known)

    def senders_of(self, member: int) -> list[int]:
        """Return the ids of the senders of a member's messages."""
        return [] if self._sorted is None else self._sorted.senders_of(member)


def _values_of(packs: Sequence[MessagePack], known: _Sorted) -> list[Any]:
    """Return the values of all messages, in the order of their receivers."""
    values: Any
    if all(isinstance(pack.values, np.ndarray) for pack in packs):
        kinds = {pack.values.dtype.char for pack in packs}
        if len(kinds) == 1:
            values = np.concatenate([pack.values for pack in packs])
            if known.is_repeated:  # fewer numbers are made, as they cannot change
                values = values.astype(object)
            found: list[Any] = values[known.which].tolist()
            return found
    if all(pack.table is None for pack in packs):
        values = []
        for pack in packs:
            values += pack.values.tolist() if isinstance(pack.values, np.ndarray) else pack.values
        return list(map(values.__getitem__, known.which.tolist()))
    values = []
    for pack in packs:
        values += _opened(pack)
    return list(map(values.__getitem__, known.order.tolist()))


def _positions_of(to: Ids, ids: Ids) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the positions of ids among ascending ones, and whether they are there; if not, the position is the end."""
    if not len(ids):
        return np.zeros(len(to), np.int64), np.zeros(len(to), bool)
    first, count = int(ids[0]), len(ids)
    span = int(ids[-1]) - first + 1
    at = to - first
    is_inside = (at >= 0) & (at < span)
    if span == count:
        return np.where(is_inside, at, count), is_inside
    if span <= 16 * count + 1024:  # a table is faster than a search
        positions = np.full(span + 1, count)
        positions[ids - first] = np.arange(count)
        found = positions[np.where(is_inside, at, span)]
        return found, found < count
    found = np.searchsorted(ids, to)
    found[ids[np.minimum(found, count - 1)] != to] = count
    return found, found < count


def _opened(pack: MessagePack) -> list[Any]:
    """Return a value for each message."""
    values = pack.values.tolist() if isinstance(pack.values, np.ndarray) else pack.values
    if pack.route.which is not None:
        values = list(map(values.__getitem__, pack.route.which.tolist()))
    return list(values) if pack.table is None else separate_pickles.loads_all(values, pack.table)


def split_packs(packs: Iterable[MessagePack], first_ids: Ids) -> Mapping[int, list[MessagePack]]:
    """Return packs by the group to which they go."""
    found: dict[int, list[MessagePack]] = {}
    for pack in packs:
        for group, part in pack.split(first_ids).items():
            found.setdefault(group, []).append(part)
    return found
