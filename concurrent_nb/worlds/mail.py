"""Messages between members, packed: those of one group in one step, by the group to which they go.

    MemberOutbox: send(to, value), ... --pack, split--> {group: MessagePack}
    MemberInbox(packs of all groups)   --> values by member

A pack has a route (who sends to whom) and values. Numbers travel as arrays, other values that cannot change as they
are, and anything else with a pickle of its own, so that no two members get the same object. A value that goes to
several members travels once. Groups are ranges of ids, so packs in the order of their groups have their messages in the
order of the senders: sorting them by receiver, in a way that keeps this order, is all there is to do.

Members often send to the same ones in each step. Then the route is the same object, it is not sorted anew, and only its
key travels to those who have it.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from concurrent_nb.errors import WorldError
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


class NotSendable(str):
    """Why a value cannot be sent."""

    __slots__ = ()


#: follows the last receivers that are expected; nobody sends to it
_END: Final = object()


class MemberOutbox:
    """What the members of a group send in a step.

    `begin_step`, `send` for each message, `end_step`; then `pack` and `split`.

    When two steps have had the same route, the next one is expected to have it, too: then each receiver is compared
    with the expected one, and not noted.

    Args:
        find: returns the id of a member's name; raises WorldError.
        room: messages that a member may send in a step.
    """

    def __init__(self, find: Callable[[str], int], room: int) -> None:
        self._find = find
        self._room = room
        self._to: list[Any] = []  # ids, but for what is checked only when it is packed
        self._values: list[Any] = []
        self._multiple: list[int] = []  # positions of values that go to several
        self._counts: list[int] = []  # to how many
        self._senders: list[int] = []
        self._ends: list[int] = []  # of each sender's values
        self._limit = room  # of the number of messages, before it is looked who has sent how many of them
        self._is_plain = True  # all receivers were given as ints and lists
        self._addressed: _Addressed | None = None  # the messages of the last step
        self._is_expected = False  # the receivers so far are those of the last step, and not noted
        self.send, self._expect = self._make_send()

    def _make_send(self) -> tuple[Callable[[Any, Any], None], Callable[[Sequence[Any]], None]]:
        # Closures, because most of the calls of a step are calls of this function.
        to_all, add_to, add_all, values, add_value = (
            self._to,
            self._to.append,
            self._to.extend,
            self._values,
            self._values.append,
        )
        add_multiple, add_count = self._multiple.append, self._counts.append
        send_to_many, check, note_expected = self._send_to_many, self._check, self._note_expected
        expected: Sequence[Any] = ()

        def send(to: Any, value: Any) -> None:
            if expected:
                next_one = expected[len(values)]
                if type(to) is type(next_one) and to == next_one:
                    add_value(value)
                    return
                note_expected()
            if type(to) is int:
                add_to(to)
                add_value(value)
            elif type(to) is list and to and type(to[0]) is int:
                add_multiple(len(values))
                add_count(len(to))
                add_all(to)
                add_value(value)
            else:
                send_to_many(to, value)
            if len(to_all) > self._limit:
                check()

        def expect(receivers: Sequence[Any]) -> None:
            nonlocal expected
            expected = receivers
            self._is_expected = bool(receivers)

        return send, expect

    def _note_expected(self) -> None:
        """Note the receivers so far, which were those of the last step, as if they had not been expected."""
        if self._is_expected:
            assert self._addressed is not None
            self._expect(())
            self._addressed.is_fickle = True
            for held, noted in zip(self._noted, self._addressed.first(len(self._values)), strict=True):
                held += noted

    @property
    def _noted(self) -> tuple[list[Any], ...]:
        return self._multiple, self._counts, self._to

    def _send_to_many(self, to: Any, value: Any) -> None:
        self._is_plain = False
        if isinstance(to, str):
            to = (self._find(to),)
        elif isinstance(to, np.ndarray):
            to = to.ravel().tolist()
        elif isinstance(to, (int, np.integer)):
            to = (int(to),)
        elif isinstance(to, Iterable):
            to = [self._find(each) if isinstance(each, str) else each for each in to]
        else:
            raise TypeError(f"a message goes to an id, a name or several of them, not to a {type(to).__name__}")
        if to:
            self._multiple.append(len(self._values))
            self._counts.append(len(to))
            self._to.extend(to)
            self._values.append(value)

    def _check(self) -> None:
        """Raise WorldError if the present member has sent too many messages, else look again when it may have."""
        before = self._sent_before()
        if len(self._to) - before > self._room:
            self._drop_message()
            raise WorldError(self._flood_words())
        self._limit = before + self._room

    def _flood_words(self) -> "NotSendable":
        return NotSendable(
            f"it has sent more than {self._room:,} messages in this step: send less, or raise messages_max"
        )

    def _drop_message(self) -> None:
        """Drop the last message."""
        self._values.pop()
        count = 1
        if self._multiple and self._multiple[-1] == len(self._values):
            self._multiple.pop()
            count = self._counts.pop()
        del self._to[-count:]

    def _sent_before(self) -> int:
        """Return how many messages were sent before the present member's step."""
        begin = self._ends[-1] if self._ends else 0
        sent = len(self._values) - begin
        for position, count in zip(reversed(self._multiple), reversed(self._counts), strict=True):
            if position < begin:
                break
            sent += count - 1
        return len(self._to) - sent

    def begin_step(self) -> tuple[list[Any], Callable[[int], None]]:
        """Begin a step; return the list of values, and a function that takes its length after each member."""
        return self._values, self._ends.append

    def end_step(self, members: Sequence[int]) -> None:
        """End a step, in which these members were called."""
        self._senders += members

    def drop_member(self) -> None:
        """Drop what the present member has sent."""
        self._note_expected()
        begin = self._ends[-1] if self._ends else 0
        del self._to[self._sent_before() :]
        del self._values[begin:]
        while self._multiple and self._multiple[-1] >= begin:
            self._multiple.pop()
            self._counts.pop()

    def pack(self, next_id: int) -> tuple[MessagePack, dict[int, Any], int]:
        """Return all messages in the order of their senders, and begin anew.

        Also returns, by sender, a receiver that is no id of a member, or of one that was there (those are below
        `next_id`), or why a value cannot be sent; what these members have sent is left out. And how many messages there
        were with them.
        """
        addressed = self._addressed
        if self._is_expected and not (addressed and addressed.is_complete(self, next_id)):
            self._note_expected()
        if addressed is None or not (self._is_expected or addressed.is_same(self, next_id)):
            addressed = self._address(next_id)
        count = len(addressed.route.to)
        not_sendable: dict[int, NotSendable] = {}
        try:
            values, table = packed_values(self._values)
        except Exception:  # noqa: BLE001  (the values' own pickling may raise anything; those are found one by one)
            not_sendable = self._leave_out_unpicklable()
            values, table = packed_values(self._values)
        pack = MessagePack(addressed.route, values, table)
        wrong: dict[int, Any] = {}
        if addressed.wrong is not None:
            wrong = {int(addressed.route.senders[at]): addressed.receivers[at] for at in addressed.wrong[::-1].tolist()}
        wrong |= dict.fromkeys(addressed.flooders, self._flood_words())
        if not_sendable or wrong:
            wrong |= not_sendable
            pack = pack.take(np.flatnonzero(~np.isin(addressed.route.senders, list(wrong))))
        if wrong:
            self._expect(())
            addressed = None
        elif not self._is_expected:
            self._expect(addressed.expected(self._is_plain) if addressed is self._addressed else ())
            addressed.keep(self, next_id)
        self._addressed = addressed
        for held in (*self._noted, self._values, self._senders, self._ends):
            held.clear()
        self._limit, self._is_plain = self._room, True
        return pack, wrong, count

    def split(self, pack: MessagePack, first_ids: Ids) -> dict[int, MessagePack]:
        """Return the pack of the last step by group, as `MessagePack.split` does."""
        addressed = self._addressed
        if addressed is None:
            return pack.split(first_ids)
        if addressed.plan is None or addressed.first_ids is not first_ids:
            if addressed.first_ids is None or not np.array_equal(addressed.first_ids, first_ids):
                addressed.plan = split_plan(pack.route, first_ids)
            addressed.first_ids = first_ids
        assert addressed.plan is not None
        return pack.divided(addressed.plan)

    def _address(self, next_id: int) -> "_Addressed":
        to, is_wrong = self._checked_ids(next_id)
        ends = np.array(self._ends, np.int64)
        senders = np.repeat(np.array(self._senders, np.int64), np.diff(ends, prepend=0))
        which = None
        counts = np.ones(len(self._values), np.int64)
        if self._multiple:
            counts[self._multiple] = self._counts
            senders = np.repeat(senders, counts)
            which = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        if next_id < 2**31:
            to, senders = to.astype(np.int32), senders.astype(np.int32)
        receivers = list(self._to) if is_wrong is not None else []
        route = new_route(to, senders, which)
        if np.any(senders[1:] < senders[:-1]):  # of several steps without a barrier
            order = np.argsort(senders, kind="stable")
            route = route.take(order)
            if is_wrong is not None:
                is_wrong, receivers = is_wrong[order], [receivers[at] for at in order.tolist()]
        flooders: list[int] = []
        if len(to) > self._room:  # those who have sent what was expected of others were not counted
            before = np.concatenate(([0], np.cumsum(counts)))
            counts = np.diff(before[ends], prepend=0)
            flooders = np.array(self._senders)[counts > self._room].tolist()
        return _Addressed(route, None if is_wrong is None else np.flatnonzero(is_wrong), receivers, flooders)

    def _checked_ids(self, next_id: int) -> tuple[Ids, Any]:
        """Return the receivers as an array of ids, and which of them are wrong; None if none is."""
        if not self._to:
            return NO_IDS, None
        try:
            ids = np.array(self._to)
        except (ValueError, OverflowError):  # there are sequences among them, or huge numbers
            ids = np.empty(0, object)
        if ids.dtype.kind not in "iu" or ids.ndim != 1:
            ids = np.array([self._id_or_none(each) for each in self._to], np.int64)
        ids = ids.astype(np.int64, copy=False)
        if ids.min() >= 0 and ids.max() < next_id:
            return ids, None
        return ids, (ids < 0) | (ids >= next_id)

    def _leave_out_unpicklable(self) -> "dict[int, NotSendable]":
        """Replace values that cannot be pickled; return their senders."""
        pickler = separate_pickles.SeparatePickler()
        found: dict[int, NotSendable] = {}
        for at, value in enumerate(self._values):
            try:
                pickler.dumps(value)
            except Exception as error:  # noqa: BLE001  (as above)
                sender = self._senders[bisect_right(self._ends, at)]
                found.setdefault(sender, NotSendable(f"{type(error).__name__}: {error}"))
                self._values[at] = None
        return found

    def _id_or_none(self, to: Any) -> int:
        """Return the id of a receiver, -1 if it is none."""
        if isinstance(to, str):
            try:
                return self._find(to)
            except WorldError:
                return -1
        return int(to) if isinstance(to, (int, np.integer)) and 0 <= to < 2**62 else -1


class _Addressed:
    """The route of all messages of a step. Members often send to the same ones in the next step, and then it is used
    again.

    Args:
        wrong: indexes of messages whose receivers are no members; None: all are.
        receivers: what was given as the receiver of each message, if some are wrong.
        flooders: members that have sent too many messages.
    """

    def __init__(self, route: Route, wrong: Ids | None, receivers: list[Any], flooders: list[int]) -> None:
        self.route, self.wrong, self.receivers, self.flooders = route, wrong, receivers, flooders
        self.plan: SplitPlan | None = None
        self.first_ids: Ids | None = None
        self.is_fickle = False  #: it was expected, and the members have sent to others
        self._noted: tuple[list[Any], ...] | None = None  # what it was made from
        self._calls: tuple[list[int], list[int]] = [], []  # senders and ends
        self._expected: list[Any] = []
        self._next_id = 0

    def keep(self, outbox: MemberOutbox, next_id: int) -> None:
        """Keep a copy of what it was made from."""
        if self._noted is None:
            self._noted = tuple(list(held) for held in outbox._noted)
            self._calls = list(outbox._senders), list(outbox._ends)
        self._next_id = next_id

    def is_same(self, outbox: MemberOutbox, next_id: int) -> bool:
        """Return whether the messages of an outbox go the same ways.

        Comparing lists of the same objects takes a tenth of the time of making arrays of them.
        """
        return self._is_called_same(outbox, next_id) and self._noted == outbox._noted

    def _is_called_same(self, outbox: MemberOutbox, next_id: int) -> bool:
        is_int32 = (self._next_id < 2**31) == (next_id < 2**31)
        return is_int32 and self._noted is not None and self._calls == (outbox._senders, outbox._ends)

    def is_complete(self, outbox: MemberOutbox, next_id: int) -> bool:
        """Return whether an outbox has all of the values that were expected, and of the members that sent them."""
        return len(outbox._values) == len(self._expected) - 1 and self._is_called_same(outbox, next_id)

    def expected(self, is_plain: bool) -> Sequence[Any]:
        """Return the receivers of each value, as they were given, and `_END`; nothing if none should be expected."""
        if self.is_fickle or not is_plain or self._noted is None:
            return ()
        if not self._expected:
            multiple, counts, to = self._noted
            begin = done = 0
            for position, count in zip(multiple, counts, strict=True):
                single = position - done
                self._expected += to[begin : begin + single]
                begin += single + count
                self._expected.append(to[begin - count : begin])
                done = position + 1
            self._expected += [*to[begin:], _END]
        return self._expected

    def first(self, count: int) -> tuple[list[Any], ...]:
        """Return what was noted of the first values."""
        assert self._noted is not None
        multiple, counts, to = self._noted
        found = bisect_left(multiple, count)
        return multiple[:found], counts[:found], to[: count + sum(counts[:found]) - found]


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
        self.bounds = [0, *np.cumsum(np.bincount(positions, minlength=len(ids))[: len(ids)]).tolist()]
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
        position = self._positions[member]
        return self._senders[self.bounds[position] : self.bounds[position + 1]]


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
        self.bounds: list[int] = [0] * (len(ids) + 1)  #: values of the member at position p: bounds[p] to bounds[p + 1]
        self.undelivered = 0  #: messages to members that have left
        self._sorted: _Sorted | None = None
        if not packs:
            return
        known = None if before is None else before._sorted
        keys = [pack.route.key for pack in packs]
        if known is None or known.keys != keys or not np.array_equal(known.ids, ids):
            known = _Sorted([pack.route for pack in packs], [len(pack.values) for pack in packs], ids)
        self._sorted = known
        self.undelivered, self.bounds = known.undelivered, known.bounds
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
