"""Messages between members, packed: those of one group in one step, by the group to which they go.

    MemberOutbox: send(to, value), ... --pack, split--> {group: MessagePack}
    MemberInbox(packs of all groups)   --> values by member

Numbers travel as arrays, other values that cannot change as they are, and anything else with a pickle of its own, so
that no two members get the same object. Groups are ranges of ids, so packs in the order of their groups have their
messages in the order of the senders: sorting them by receiver, in a way that keeps this order, is all there is to do.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from concurrent_nb.errors import WorldError
from concurrent_nb.shipping.serialization import separate_pickles
from concurrent_nb.shipping.serialization.pickles import SMALL_ATOMS, is_small

#: ids of members. Those of messages take 4 bytes each where that is enough
Ids = np.ndarray[Any, np.dtype[Any]]

NO_IDS: Final = np.empty(0, np.int64)


class MessagePack(NamedTuple):
    """Messages in the order of their senders, and of each sender in the order in which it has sent them."""

    to: Ids
    senders: Ids
    values: Any  #: an array of numbers; or a list of values, or of pickles if there is a table
    table: separate_pickles.Table | None  #: of the pickles

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self.values, np.ndarray):
            return MessagePack, tuple(self)
        # One buffer instead of three, because each is stored, announced and mapped by itself.
        parts = [np.ascontiguousarray(part).view(np.uint8) for part in (self.to, self.senders, self.values)]
        kinds = self.to.dtype.char, self.senders.dtype.char, self.values.dtype.char
        return unpacked, (np.concatenate(parts), len(self.to), kinds)

    @property
    def size_bytes(self) -> int:
        """About how much it takes in memory or on its way."""
        size: int = self.to.nbytes * 2
        if isinstance(self.values, np.ndarray):
            return size + int(self.values.nbytes)
        if self.table is None:
            return size + 32 * len(self.values)
        return size + sum(map(len, self.values))

    def take(self, at: Any) -> "MessagePack":
        """Return some of the messages, by index."""
        values = self.values[at] if isinstance(self.values, np.ndarray) else [self.values[i] for i in at.tolist()]
        return MessagePack(self.to[at], self.senders[at], values, self.table)

    def split(self, first_ids: Ids) -> dict[int, "MessagePack"]:
        """Return the messages by the group to which they go; group g begins with the id `first_ids[g]`."""
        return self.divided(split_plan(self.to, first_ids))

    def divided(self, plan: "SplitPlan") -> dict[int, "MessagePack"]:
        """Return the messages as a plan divides them."""
        return {group: self if at is None else self.take(at) for group, at in plan.items()}


def unpacked(buffer: np.ndarray[Any, Any], count: int, kinds: Sequence[str]) -> MessagePack:
    """Return a pack that has travelled in one buffer."""
    arrays = []
    begin = 0
    for kind in kinds:
        end = begin + count * np.dtype(kind).itemsize
        arrays.append(buffer[begin:end].view(kind))
        begin = end
    return MessagePack(arrays[0], arrays[1], arrays[2], None)


#: by group: the indexes of the messages that go to it; None: all
SplitPlan = Mapping[int, Ids | None]


def split_plan(to: Ids, first_ids: Ids) -> SplitPlan:
    """Return which messages go to which group; group g begins with the id `first_ids[g]`."""
    if not len(to):
        return {}
    if len(first_ids) == 1:
        return {0: None}
    groups = np.searchsorted(first_ids, to, side="right") - 1
    # Sorting small integers takes an eighth of the time.
    order = np.argsort(groups.astype(np.uint16) if len(first_ids) < 65536 else groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=len(first_ids)))
    plan: dict[int, Ids | None] = {}
    begin = 0
    for group, end in enumerate(ends.tolist()):
        if end > begin:
            plan[group] = order[begin:end]
        begin = end
    return plan


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


class MemberOutbox:
    """What the members of a group send in a step.

    `begin_step`, `send` for each message, `end_step`; then `pack` and `split`.

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
        self.limit = room  #: of the number of messages, while the present member sends
        self._addressed: _Addressed | None = None  # the messages of the last step
        self.send = self._make_send()

    def _make_send(self) -> Callable[[Any, Any], None]:
        # Closures, because most of the calls of a step are calls of this function.
        to_all, add_to, add_all, values, add_value = (
            self._to,
            self._to.append,
            self._to.extend,
            self._values,
            self._values.append,
        )
        add_multiple, add_count = self._multiple.append, self._counts.append
        send_to_many, check = self._send_to_many, self.check

        def send(to: Any, value: Any) -> None:
            if type(to) is int:
                add_to(to)
                add_value(value)
                if not len(to_all) & 1023:
                    check()
            elif type(to) is list and to and type(to[0]) is int:
                add_multiple(len(values))
                add_count(len(to))
                add_all(to)
                add_value(value)
                if len(to_all) > self.limit:
                    check()
            else:
                send_to_many(to, value)

        return send

    def _send_to_many(self, to: Any, value: Any) -> None:
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
            self.check()

    def check(self) -> None:
        """Raise WorldError if the present member has sent too many messages."""
        if len(self._to) > self.limit:
            raise WorldError(
                f"it has sent more than {self._room:,} messages in this step: send less, or raise messages_max"
            )

    def begin_step(self) -> tuple[list[Any], Callable[[int], None], list[Any]]:
        """Begin a step; return the list of values, a function that takes its length after each member, and the list of
        receivers, for the caller to look after `limit`."""
        self.limit = len(self._to) + self._room
        return self._values, self._ends.append, self._to

    def end_step(self, members: Sequence[int]) -> None:
        """End a step, in which these members were called."""
        self._senders += members

    def drop_member(self) -> None:
        """Drop what the present member has sent."""
        begin = self._ends[-1] if self._ends else 0
        del self._values[begin:]
        while self._multiple and self._multiple[-1] >= begin:
            self._multiple.pop()
            self._counts.pop()
        del self._to[begin + sum(self._counts) - len(self._counts) :]

    @property
    def count(self) -> int:
        """The number of messages."""
        return len(self._to)

    def pack(self, next_id: int) -> tuple[MessagePack, dict[int, Any]]:
        """Return all messages in the order of their senders, and begin anew.

        Also returns, by sender, a receiver that is no id of a member, or of one that was there (those are below
        `next_id`), or why a value cannot be sent. What these members have sent is left out.
        """
        addressed = self._addressed
        if addressed is None or not addressed.is_same(self, next_id):
            addressed = self._address(next_id)
        to, senders, is_wrong = addressed.to, addressed.senders, addressed.is_wrong
        not_sendable: dict[int, NotSendable] = {}
        try:
            values, table = packed_values(self._values)
        except Exception:  # noqa: BLE001  (the values' own pickling may raise anything; those are found one by one)
            not_sendable = self._leave_out_unpicklable()
            values, table = packed_values(self._values)
        if self._multiple:
            if isinstance(values, np.ndarray):
                values = np.repeat(values, addressed.counts)
            else:
                counts = addressed.counts.tolist()
                values = [copy for value, count in zip(values, counts, strict=True) for copy in [value] * count]
        pack = MessagePack(to, senders, values, table)
        wrong: dict[int, Any] = {}
        if is_wrong is not None:
            wrong = {int(senders[at]): self._to[at] for at in np.flatnonzero(is_wrong)[::-1].tolist()}
        if not_sendable or wrong:
            wrong |= not_sendable
            stays = ~np.isin(senders, list(wrong))
            pack = pack.take(
                np.flatnonzero(stays) if addressed.order is None else addressed.order[stays[addressed.order]]
            )
        elif addressed.order is not None:
            pack = pack.take(addressed.order)
        self._addressed = None if wrong else addressed.kept(self, next_id)
        for held in (self._to, self._values, self._multiple, self._counts, self._senders, self._ends):
            held.clear()
        self.limit = self._room
        return pack, wrong

    def split(self, pack: MessagePack, first_ids: Ids) -> dict[int, MessagePack]:
        """Return the pack of the last step by group, as `MessagePack.split` does."""
        addressed = self._addressed
        if addressed is None:
            return pack.split(first_ids)
        if addressed.plan is None or addressed.first_ids is not first_ids:
            if addressed.first_ids is None or not np.array_equal(addressed.first_ids, first_ids):
                addressed.plan = split_plan(pack.to, first_ids)
            addressed.first_ids = first_ids
        assert addressed.plan is not None
        return pack.divided(addressed.plan)

    def _address(self, next_id: int) -> "_Addressed":
        to, is_wrong = self._checked_ids(next_id)
        ends = np.array(self._ends, np.int64)
        senders = np.repeat(np.array(self._senders, np.int64), np.diff(ends, prepend=0))
        counts = np.ones(len(self._values), np.int64)
        if self._multiple:
            counts[self._multiple] = self._counts
            senders = np.repeat(senders, counts)
        if next_id < 2**31:
            to, senders = to.astype(np.int32), senders.astype(np.int32)
        order = None
        if np.any(senders[1:] < senders[:-1]):  # of several steps without a barrier
            order = np.argsort(senders, kind="stable")
        return _Addressed(to, senders, counts, order, is_wrong)

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
    """Who sends to whom in a step. Members often send to the same ones in the next step, and then it is used again.

    Args:
        order: of the messages by sender; None: they are in that order.
        is_wrong: which receivers are no members; None: none of them.
    """

    def __init__(self, to: Ids, senders: Ids, counts: Ids, order: Ids | None, is_wrong: Any) -> None:
        self.to, self.senders, self.counts, self.order, self.is_wrong = to, senders, counts, order, is_wrong
        self.plan: SplitPlan | None = None
        self.first_ids: Ids | None = None
        self._source: tuple[list[Any], ...] | None = None
        self._next_id = 0

    def kept(self, outbox: MemberOutbox, next_id: int) -> "_Addressed":
        """Return this, with a copy of what it was made from."""
        if self._source is None:
            self._source = tuple(list(held) for held in _sources(outbox))
        self._next_id = next_id
        return self

    def is_same(self, outbox: MemberOutbox, next_id: int) -> bool:
        """Return whether the messages of an outbox go the same ways.

        Comparing lists of the same objects takes a tenth of the time of making arrays of them.
        """
        is_int32 = (self._next_id < 2**31) == (next_id < 2**31)
        return self._source is not None and is_int32 and self._source == _sources(outbox)


def _sources(outbox: MemberOutbox) -> tuple[list[Any], ...]:
    return outbox._multiple, outbox._counts, outbox._senders, outbox._ends, outbox._to


class _Sorted(NamedTuple):
    """How messages are sorted by receiver."""

    ids: Ids  #: of the members
    to: Ids
    order: Ids
    bounds: list[int]
    undelivered: int


class MemberInbox:
    """The messages to the members of a group, by member.

    Args:
        packs: of all groups, in the order of their groups.
        ids: of the members, ascending.
        before: the inbox of the step before. If the messages go the same ways, they are sorted as those were.
    """

    def __init__(self, packs: Sequence[MessagePack], ids: Ids, before: "MemberInbox | None" = None) -> None:
        packs = [pack for pack in packs if len(pack.to)]
        self.values: list[Any] = []
        self.bounds: list[int] = [0] * (len(ids) + 1)  #: values of the member at position p: bounds[p] to bounds[p + 1]
        self.undelivered = 0  #: messages to members that have left
        self._packs = packs
        self._sorted: _Sorted | None = None
        self._senders: list[int] | None = None
        if not packs:
            return
        to = np.concatenate([pack.to for pack in packs])
        known = None if before is None else before._sorted
        if known is None or not (np.array_equal(known.ids, ids) and np.array_equal(known.to, to)):
            known = _sort(to, ids)
        self._sorted = known
        self.undelivered, self.bounds, order = known.undelivered, known.bounds, known.order
        kinds = {pack.values.dtype.char if isinstance(pack.values, np.ndarray) else "" for pack in packs}
        if len(kinds) == 1 and "" not in kinds:
            self.values = np.concatenate([pack.values for pack in packs])[order].tolist()
        else:
            values: list[Any] = []
            for pack in packs:
                values += _opened(pack)
            self.values = [values[at] for at in order.tolist()]

    def senders_of(self, position: int) -> list[int]:
        """Return the ids of the senders of a member's messages."""
        if self._senders is None:
            self._senders = []
            if self._sorted is not None:
                senders = np.concatenate([pack.senders for pack in self._packs])
                self._senders = senders[self._sorted.order].tolist()
        return self._senders[self.bounds[position] : self.bounds[position + 1]]


def _sort(to: Ids, ids: Ids) -> _Sorted:
    positions, is_there = _positions_of(to, ids)
    undelivered = len(to) - int(np.count_nonzero(is_there))
    order = np.argsort(positions.astype(np.uint16) if len(ids) < 65535 else positions, kind="stable")
    if undelivered:
        order = order[is_there[order]]
    counts = np.bincount(positions, minlength=len(ids))[: len(ids)]
    return _Sorted(ids, to, order, [0, *np.cumsum(counts).tolist()], undelivered)


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
    if isinstance(pack.values, np.ndarray):
        values: list[Any] = pack.values.tolist()
        return values
    if pack.table is None:
        return list(pack.values)
    return separate_pickles.loads_all(pack.values, pack.table)


def split_packs(packs: Iterable[MessagePack], first_ids: Ids) -> Mapping[int, list[MessagePack]]:
    """Return packs by the group to which they go."""
    found: dict[int, list[MessagePack]] = {}
    for pack in packs:
        for group, part in pack.split(first_ids).items():
            found.setdefault(group, []).append(part)
    return found
