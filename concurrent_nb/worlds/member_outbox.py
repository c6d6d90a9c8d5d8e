"""What the members of a group send in a step: noted, and packed when the step ends."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from operator import is_not, length_hint
from typing import Any, Final

import numpy as np

from concurrent_nb.errors import WorldError
from concurrent_nb.shipping.serialization import separate_pickles
from concurrent_nb.worlds.mail import NO_IDS, Ids, MessagePack, Route, SplitPlan, new_route, packed_values, split_plan


class NotSendable(str):
    """Why a value cannot be sent."""

    __slots__ = ()


# What is expected besides receivers. No member sends to these objects.
#: the next call has a new value
_NEW_VALUE: Final = object()
#: the member's step ends
_MEMBER_END: Final = object()
#: all members have been called
_END: Final = object()
#: no value is this object
_NO_VALUE: Final = object()


class MemberOutbox:
    """What the members of a group send in a step.

    `begin_step`; for each member `send` for each message, and `end_member`; `end_step`; then `pack` and `split`.

    When two steps have had the same route, the next one is expected to have it, too: then each receiver is compared
    with the expected one, and not noted. If members have sent the same object in several calls, one after another, that
    is expected as well, and it is held once.

    Args:
        find: returns the id of a member's name; raises WorldError.
        room: messages that a member may send in a step.
    """

    send: Callable[[Any, Any], None]  #: sends a value to a member or several; another function in another step
    end_member: Callable[[], None]  #: ends the step of a member
    _expect: Callable[[Sequence[Any]], None]
    _expected_left: Callable[[], int]

    def __init__(self, find: Callable[[str], int], room: int) -> None:
        self._find = find
        self._room = room
        self._to: list[Any] = []  # ids, but for what is checked only when it is packed
        self._values: list[Any] = []  # of each call; while a route is expected, each once
        self._multiple: list[int] = []  # calls that send to several
        self._counts: list[int] = []  # to how many
        self._ends: list[int] = []  # number of calls at the end of each member's step
        self._senders: list[int] = []  # the members
        self._limit = room  # of the number of messages, before it is looked who has sent how many of them
        self._is_plain = True  # all receivers were given as ints and lists
        self._addressed: _Addressed | None = None  # the messages of the last step
        self._routed: _Routed | None = None  # how they were divided
        self._expected: _Expected | None = None
        self._make_functions()

    def _make_functions(self) -> None:
        # Closures, because most of the calls of a step are calls of these functions.
        to_all, add_to, add_all, values, add_value = (
            self._to,
            self._to.append,
            self._to.extend,
            self._values,
            self._values.append,
        )
        add_multiple, add_count, add_end = self._multiple.append, self._counts.append, self._ends.append
        send_to_many, check = self._send_to_many, self._check
        expected: Iterator[Any] = repeat(None)
        last_value: Any = _NO_VALUE  # that the present member has sent, as expected
        is_expecting = False

        def note(to: Any, value: Any) -> None:
            if is_expecting:  # `send` is kept from another step
                self._give_up(0)
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

        def send_expected(to: Any, value: Any) -> None:
            nonlocal last_value
            if value is not last_value:
                if next(expected) is not _NEW_VALUE:
                    self._give_up(1)
                    note(to, value)
                    return
                add_value(value)
                last_value = value
            coming = next(expected)
            if to is coming or (type(to) is type(coming) and to == coming):
                return
            if coming is _NEW_VALUE:  # it is the same object as before
                add_value(value)
                coming = next(expected)
                if type(to) is type(coming) and to == coming:
                    return
            self._give_up(1)
            note(to, value)

        def end_member() -> None:
            nonlocal last_value
            last_value = _NO_VALUE
            if is_expecting:
                if next(expected) is _MEMBER_END:
                    return
                self._give_up(1)
            add_end(len(values))

        def expect(items: Sequence[Any]) -> None:
            nonlocal expected, last_value, is_expecting
            is_expecting = bool(items)
            expected = iter(items) if is_expecting else repeat(None)
            last_value = _NO_VALUE
            self.send = send_expected if is_expecting else note

        self.send, self.end_member, self._expect = note, end_member, expect
        self._expected_left = lambda: length_hint(expected)

    def _give_up(self, too_many: int) -> None:
        """Expect nothing any more: note what was sent so far as if it had not been expected.

        Args:
            too_many: items that were taken from those that are expected, and are not what came.
        """
        expected, self._expected = self._expected, None
        if expected is None:
            return
        done = len(expected.items) - self._expected_left() - too_many
        self._expect(())
        expected.was_wrong()
        self._values[:], noted = expected.first(done, self._values)
        for held, was in zip(self._noted, noted, strict=True):
            held += was

    @property
    def _noted(self) -> tuple[list[Any], ...]:
        return self._multiple, self._counts, self._to, self._ends

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
            raise WorldError(
                f"it has sent more than {self._room:,} messages in this step: send less, or raise messages_max"
            )
        self._limit = before + self._room

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

    def end_step(self, members: Sequence[int]) -> None:
        """End a step, in which these members were called."""
        self._senders += members

    def drop_member(self) -> None:
        """Drop what the present member has sent."""
        self._give_up(0)
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
        addressed, values = self._addressed, self._values
        is_small = next_id < 2**31
        is_complete = self._expected is not None and self._expected_left() == 1
        if not (is_complete and addressed and addressed.is_from(self._senders, is_small)):
            self._give_up(0)
        expected = self._expected
        if expected is None:
            if addressed is None or not addressed.is_same(self._noted, self._senders, is_small):
                addressed = self._address(next_id)
            elif self._is_plain and not addressed.is_fickle:
                expected = _Expected(addressed, values)
                values = expected.each_once(values)
        assert addressed is not None
        routed = addressed.routed if expected is None else expected.routed
        not_sendable: dict[int, NotSendable] = {}
        try:
            packed, table = packed_values(values)
        except Exception:  # noqa: BLE001  (the values' own pickling may raise anything; those are found one by one)
            self._give_up(0)
            expected, routed = None, addressed.routed
            not_sendable = self._leave_out_unpicklable()
            packed, table = packed_values(self._values)
        pack = MessagePack(routed.route, packed, table)
        count = len(routed.route.to)
        wrong: dict[int, Any] = {}
        if addressed.wrong is not None:
            senders = addressed.routed.route.senders
            wrong = {int(senders[at]): addressed.receivers[at] for at in addressed.wrong[::-1].tolist()}
        if not_sendable or wrong:
            wrong |= not_sendable
            pack = pack.take(np.flatnonzero(~np.isin(pack.route.senders, list(wrong))))
        if wrong:
            self._addressed = self._routed = None
        else:
            if addressed is not self._addressed:
                addressed.keep(self._noted, self._senders, is_small)
            self._addressed, self._routed = addressed, routed
        for held in (*self._noted, self._values, self._senders):
            held.clear()
        self._limit, self._is_plain = self._room, True
        self._expected = expected
        self._expect(() if expected is None else expected.items)
        return pack, wrong, count

    def split(self, pack: MessagePack, first_ids: Ids) -> dict[int, MessagePack]:
        """Return the pack of the last step by group, as `MessagePack.split` does."""
        return pack.split(first_ids) if self._routed is None else pack.divided(self._routed.plan(first_ids))

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
        return _Addressed(_Routed(route), None if is_wrong is None else np.flatnonzero(is_wrong), receivers)

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

    def _leave_out_unpicklable(self) -> dict[int, NotSendable]:
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


class _Routed:
    """A route, and how it was last divided among groups."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self._plan: SplitPlan = {}
        self._first_ids: Ids | None = None

    def plan(self, first_ids: Ids) -> SplitPlan:
        """Return which messages go to which group, as `split_plan` does."""
        if self._first_ids is not first_ids:
            if self._first_ids is None or not np.array_equal(self._first_ids, first_ids):
                self._plan = split_plan(self.route, first_ids)
            self._first_ids = first_ids
        return self._plan


class _Addressed:
    """The route of all messages of a step. Members often send to the same ones in the next step, and then it is used
    again.

    Args:
        wrong: indexes of messages whose receivers are no members; None: all are.
        receivers: what was given as the receiver of each message, if some are wrong.
    """

    def __init__(self, routed: _Routed, wrong: Ids | None, receivers: list[Any]) -> None:
        self.routed, self.wrong, self.receivers = routed, wrong, receivers
        self.is_fickle = False  #: it was expected, and the members have sent to others
        self.has_own_values = False  #: each call has a value of its own
        self.noted: tuple[list[Any], ...] = ()  #: what it was made from
        self._senders: list[int] = []
        self._is_small = True

    def keep(self, noted: tuple[list[Any], ...], senders: list[int], is_small: bool) -> None:
        """Keep a copy of what it was made from. `is_small`: ids take 4 bytes."""
        self.noted, self._senders, self._is_small = tuple(map(list, noted)), list(senders), is_small

    def is_same(self, noted: tuple[list[Any], ...], senders: list[int], is_small: bool) -> bool:
        """Return whether the messages of another step go the same ways.

        Comparing lists of the same objects takes a tenth of the time of making arrays of them.
        """
        return self.is_from(senders, is_small) and self.noted == noted

    def is_from(self, senders: list[int], is_small: bool) -> bool:
        """Return whether the same members were called in another step."""
        return self._is_small == is_small and self._senders == senders


class _Expected:
    """What is expected of a step: the calls of the step before.

    Args:
        addressed: the messages of that step.
        values: of its calls.
    """

    def __init__(self, addressed: _Addressed, values: Sequence[Any]) -> None:
        self.routed = addressed.routed
        self._addressed = addressed
        multiple, counts, to, ends = addressed.noted
        is_new = np.ones(len(values), bool)
        if not addressed.has_own_values and len(values):
            is_new[1:] = np.fromiter(map(is_not, values[1:], values), bool, len(values) - 1)
            is_new[[end for end in ends if end < len(values)]] = True
            if 2 * np.count_nonzero(is_new) > len(values):  # so looking for them would take longer
                is_new[:] = True
        self._value_of = np.cumsum(is_new) - 1  # by call
        self._firsts = np.flatnonzero(is_new).tolist()
        self._is_shared = len(self._firsts) < len(values)
        if self._is_shared:
            route = self.routed.route
            which = self._value_of if route.which is None else self._value_of[route.which]
            self.routed = _Routed(new_route(route.to, route.senders, which.astype(np.int32)))
        # The items of each call are its receiver, and before it that it has a new value. After those of each member
        # is its end.
        ended = np.searchsorted(ends, np.arange(len(values)), side="right")
        self._calls = np.arange(len(values)) + self._value_of + 1 + ended
        self._ends = np.arange(len(ends)) + np.concatenate(([0], self._value_of + 1))[ends] + np.array(ends, np.int64)
        items = np.full(len(values) + len(self._firsts) + len(ends) + 1, _NEW_VALUE, object)
        items[self._calls] = self._receivers(len(values), multiple, counts, to)
        items[self._ends] = _MEMBER_END
        items[-1] = _END
        self.items: list[Any] = items.tolist()  #: receivers, and what comes between them

    @staticmethod
    def _receivers(calls: int, multiple: list[int], counts: list[int], to: list[Any]) -> np.ndarray[Any, Any]:
        """Return the receiver of each call, or the list of them."""
        found = np.empty(calls, object)
        sizes = np.ones(calls, np.int64)
        sizes[multiple] = counts
        begins = np.cumsum(sizes) - sizes
        is_single = np.ones(calls, bool)
        is_single[multiple] = False
        singles = np.empty(len(to), object)
        singles[:] = to
        found[is_single] = singles[begins[is_single]]
        for at, begin, count in zip(multiple, begins[multiple].tolist(), counts, strict=True):
            found[at] = to[begin : begin + count]
        return found

    def each_once(self, values: list[Any]) -> list[Any]:
        """Return the values of all calls, without those that are the same as before."""
        return [values[at] for at in self._firsts] if self._is_shared else values

    def was_wrong(self) -> None:
        """Note that something else came."""
        if self._is_shared:
            self._addressed.has_own_values = True
        else:
            self._addressed.is_fickle = True

    def first(self, items: int, values: list[Any]) -> tuple[list[Any], tuple[list[Any], ...]]:
        """Return the values of calls, and what would have been noted, when so many items came as expected.

        Args:
            values: each once.
        """
        multiple, counts, to, ends = self._addressed.noted
        calls = int(np.searchsorted(self._calls, items))
        found = bisect_left(multiple, calls)
        counts = counts[:found]
        noted = multiple[:found], counts, to[: calls + sum(counts) - found], ends[: bisect_left(self._ends, items)]
        return list(map(values.__getitem__, self._value_of[:calls].tolist())), noted
