"""What a member receives as `ctx` in its step."""

import inspect
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from concurrent_nb.errors import WorldError
from concurrent_nb.shipping.serialization.pickles import is_small
from concurrent_nb.shipping.serialization.separate_pickles import SeparatePickler
from concurrent_nb.worlds.mail import NO_IDS, MemberInbox
from concurrent_nb.worlds.member_outbox import MemberOutbox
from concurrent_nb.worlds.shared_values import Contribution, SharedStore

if TYPE_CHECKING:
    from concurrent_nb.worlds.mail import Ids


class StepContext:
    """A member's access to its world, in its `step`.

    >>> class Ping:
    ...     def __init__(self, other):
    ...         self.other, self.heard = other, 0
    ...     def step(self, ctx):
    ...         self.heard += len(ctx.inbox)
    ...         ctx.send(self.other, f"step {ctx.step}")
    >>> world = app.world([Ping(1), Ping(0)])
    >>> world.run(5).messages
    2
    >>> world.members[0].heard
    4

    A member reads the world as it was when the step began. Its writes, messages and new members take effect when the
    step ends.
    The object is the same for all members of a group and all steps: use it in `step` only.
    """

    def __init__(self, seed: int, shared: SharedStore, names: Mapping[str, int], messages_max: int) -> None:
        self.id = 0  #: of this member: numbers from 0 on, in the order in which members were added
        self.step = 0  #: number of this step, from 1 on
        #: the values that were sent to this member in the last step, in the order of their senders
        self.inbox: list[Any] = []
        self._seed = seed
        self._shared = shared
        self._names = names
        self._next_id = 0  # no member has an id from here on
        self._mail = MemberInbox((), NO_IDS)
        self._outbox = MemberOutbox(self._find, messages_max)
        # What members have done since the last barrier: id of the member, what, and the step.
        self._writes: dict[str, list[tuple[int, Any, Any, int]]] = {}  # by name: flat indexes or None, value
        self._measured: dict[str, list[tuple[int, float, int]]] = {}
        self._born: list[tuple[int, bytes, str, int]] = []
        self._pickler = SeparatePickler()  # of those who are born, and of what is written to values
        self._left: list[int] = []
        self._readers: dict[str, list[int]] = {}
        #: Send a value to a member, by its id or name, or to several. It is in their inbox in the next step; each gets
        #: a copy of its own. `send(to, value)` raises WorldError for a name that no member has.
        self.send = self._outbox.send

    @property
    def senders(self) -> list[int]:
        """The ids of the senders of the values of `inbox`, in the same order."""
        return self._mail.senders_of(self.id)

    @property
    def rng(self) -> np.random.Generator:
        """A random number generator of this member and step: the same numbers wherever the member lives.

        It is made anew with each call, which takes about 15 us, so keep it in a variable.
        """
        seeds = np.random.SeedSequence(self._seed, spawn_key=(self.id, self.step))
        return np.random.Generator(np.random.PCG64(seeds))

    def read(self, name: str) -> Any:
        """Return shared data as they were when the step began: arrays and containers are read-only.

        Raises WorldError if the world shares no data of that name.
        """
        value = self._shared.read(name)
        if self._shared.is_guarded(name):
            self._readers.setdefault(name, []).append(self.id)
        return value

    def write(self, name: str, value: Any, at: Any = None) -> None:
        """Write shared data; the merge rule of the datum is applied when the step ends.

        Args:
            name: of the datum.
            value: what to write.
            at: of an array: the index of a cell, or of several; None: all of it.

        The value is copied now: changing it afterwards changes nothing that is shared.

        Raises WorldError if there is no such datum, IndexError, TypeError for a value that does not fit an array, and
        whatever pickling the value raises.
        """
        datum = self._shared.find(name)
        if not datum.is_array:
            if at is not None:
                raise TypeError(f"{name!r} is no array, so it has no cells to write at")
            kept = value if is_small(value) else self._pickler.dumps(value)
            self._writes.setdefault(name, []).append((self.id, None, kept, self.step))
            return
        flat = self._shared.flat(name, ... if at is None else at)
        given = np.asarray(value)
        if not np.can_cast(given.dtype, datum.value.dtype, "same_kind") and not (
            given.dtype.kind in "iub" and datum.value.dtype.kind in "iuf"
        ):
            raise TypeError(f"{name!r} is an array of {datum.value.dtype}, which cannot take a value of {given.dtype}")
        if isinstance(value, np.ndarray) or given.ndim:
            value = np.broadcast_to(given, np.shape(flat)).copy()  # as it is now, and if it fits
        self._writes.setdefault(name, []).append((self.id, flat, value, self.step))

    def add(self, name: str, *args: Any) -> None:
        """Add to shared data: `add(name, value)`, or `add(name, at, value)` for cells of an array.

        As `write`, for data whose rule is a sum. Raises WorldError if it is not.
        """
        if self._shared.find(name).merge != "sum":
            raise WorldError(f'{name!r} is not merged by sum: declare it with merge="sum", or use ctx.write')
        *at, value = args
        self.write(name, value, *at)

    def spawn(self, member: Any, name: str = "") -> None:
        """Add a member to the world, which makes its first step in the next one. Its id follows those of all others.

        Args:
            member: an object with a method `step(ctx)`; the world gets a copy of it.
            name: by which others may send to it.

        Raises TypeError if it has no such method, and whatever pickling it raises.
        """
        if not callable(getattr(member, "step", None)):
            raise TypeError(f"a member has a method step(ctx), and a {type(member).__name__} has none")
        if isinstance(member, type):
            raise TypeError(f"{member!r:.80} is a class: a member is an object of it")
        if words := why_step_does_nothing(getattr(type(member), "step", None), type(member).__name__):
            raise TypeError(words)
        self._born.append((self.id, self._pickler.dumps(member), name, self.step))

    def leave(self) -> None:
        """Remove this member from the world when the step ends. What it has written and sent remains."""
        self._left.append(self.id)

    def measure(self, name: str, value: float = 1.0) -> None:
        """Add a value to a statistic of this step, which `Step.stats` has: count, sum, least and largest."""
        self._measured.setdefault(name, []).append((self.id, float(value), self.step))

    def __reduce__(self) -> Any:
        raise TypeError("ctx and its methods cannot be kept or sent: use them in the step only")

    # --------------------------------------------------------------------------------------------------- for the group

    def _find(self, name: str) -> int:
        found = self._names.get(name)
        if found is None or found >= self._next_id:
            raise WorldError(f"no member has the name {name!r}")
        return found

    def _drop_member(self) -> None:
        """Forget what the present member has done in this step."""
        self._outbox.drop_member()
        lists: list[list[Any]] = [*self._writes.values(), *self._measured.values(), self._born]
        for each in lists:
            while each and (each[-1][0], each[-1][-1]) == (self.id, self.step):
                each.pop()
        while self._left and self._left[-1] == self.id:
            self._left.pop()

    def _forget(self, members: set[int]) -> None:
        """Forget what members have done in this step, but for their messages."""
        lists: list[list[Any]] = [*self._writes.values(), *self._measured.values(), self._born]
        for each in lists:
            each[:] = [entry for entry in each if entry[0] not in members]

    def _take_writes(self) -> dict[str, Contribution]:
        writes, self._writes = self._writes, {}
        return {name: self._contribution(name, written) for name, written in writes.items() if written}

    def _contribution(self, name: str, written: list[tuple[int, Any, Any, int]]) -> Contribution:
        written.sort(key=_writer)  # after several steps without a barrier
        datum = self._shared.find(name)
        writers = np.array([member for member, *_ in written], np.int64)
        if not datum.is_array:
            return Contribution(writers, [value for _, _, value, _ in written], None, self._pickler.table)
        kind = datum.value.dtype
        if all(isinstance(flat, np.integer) for _, flat, *_ in written):  # single cells
            single = [value for _, _, value, _ in written]
            values = np.array(single)
            if len(set(map(type, single))) > 1 or values.dtype.kind not in "if":
                # Each by itself: what it is converted to must not depend on what others have written.
                values = np.array([np.asarray(value).astype(kind) for value in single])
            return Contribution(
                writers, values.astype(kind, copy=False), np.array([flat for _, flat, *_ in written], np.int64)
            )
        cells = [np.ravel(flat) for _, flat, *_ in written]
        parts = [np.broadcast_to(np.asarray(v), np.shape(flat)).ravel().astype(kind) for _, flat, v, _ in written]
        counts = [len(each) for each in cells]
        return Contribution(np.repeat(writers, counts), np.concatenate(parts), np.concatenate(cells))

    def _take_measured(self) -> "dict[str, tuple[Ids, np.ndarray[Any, Any]]]":
        measured, self._measured = self._measured, {}
        for values in measured.values():
            values.sort(key=_writer)
        return {
            name: (np.array([m for m, *_ in values], np.int64), np.array([v for _, v, _ in values]))
            for name, values in measured.items()
            if values  # those who have measured it may have been dropped
        }


def why_step_does_nothing(step: object, of: str) -> str:
    """Return why calling a class's `step` would do nothing; "" if it does something."""
    flags = step.__code__.co_flags if isinstance(step, types.FunctionType) else 0
    if flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        return f"step of {of} is a coroutine function, and worlds do not await it: define it without async"
    if flags & inspect.CO_GENERATOR:
        return f"step of {of} is a generator function, and worlds do not iterate over it: define it without yield"
    return ""


def _writer(written: tuple[Any, ...]) -> Any:
    return written[0]
