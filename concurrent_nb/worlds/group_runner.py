"""The members of a group, and their steps: inputs of a step in, what the members have done out. Pure.

    GroupRunner(terms, adoption) --run(GroupInput)--> GroupOutput     in a worker, or anywhere

The same inputs give the same outputs, so a group that is lost is made again from its last checkpoint and the inputs
since.
"""

import traceback
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from concurrent_nb.errors import RemoteTraceback, WorldError
from concurrent_nb.shipping.serialization import separate_pickles
from concurrent_nb.worlds import time_limit
from concurrent_nb.worlds.context import StepContext
from concurrent_nb.worlds.mail import Ids, MemberInbox, MessagePack, Route
from concurrent_nb.worlds.member_outbox import NotSendable
from concurrent_nb.worlds.shared_values import Change, Contribution, SharedDatum, SharedStore
from concurrent_nb.worlds.time_limit import MemberTimer

#: seconds: members that take less in the mean are timed in some steps only, as that takes about 0.1 us each
SHORT_S: Final = 5e-6
#: ... in one of so many
TIMED_EVERY: Final = 8
#: their frames come before those of a member's step
_MODULES_BEFORE_STEP: Final = (__name__, time_limit.__name__)


class WorldTerms(NamedTuple):
    """What is the same for all groups and steps of a world."""

    seed: int
    on_error: str  #: "stop" or "drop"
    messages_max: int  #: of a member in a step
    timeout_s: float | None  #: of a member's step


class MemberPack(NamedTuple):
    """Pickled members."""

    ids: Ids  #: ascending
    bodies: list[bytes]
    table: separate_pickles.Table
    costs_s: np.ndarray[Any, Any]  #: time of a step of each, a moving average; 0 if it is not known

    def between(self, first: int, end: int) -> "MemberPack":
        """Return the members at the positions `first` to `end`."""
        return MemberPack(self.ids[first:end], self.bodies[first:end], self.table, self.costs_s[first:end])

    def added(self, other: "MemberPack") -> "MemberPack":
        """Return the members of this pack and then of another one."""
        return MemberPack(
            np.concatenate((self.ids, other.ids)),
            self.bodies + other.bodies,
            {**self.table, **other.table},
            np.concatenate((self.costs_s, other.costs_s)),
        )


NO_MEMBERS = MemberPack(np.empty(0, np.int64), [], {}, np.empty(0))


class GroupInput(NamedTuple):
    """What a group needs for its next step, or its next steps if there is no barrier between them."""

    step: int  #: number of the first step, from 1 on
    steps: int
    packs: Sequence[MessagePack | None]  #: messages in the order of groups; None: those that the group has kept itself
    changes: Sequence[Change]  #: of shared data since the group's last step
    born: MemberPack  #: new members
    names: Mapping[str, int]  #: names of new members
    first_ids: Ids  #: of all groups
    group: int  #: number of this one
    next_id: int  #: no member has an id from here on
    doomed: Mapping[tuple[int, int], str] = {}  #: by step and member: it is not called then, but fails: why

    def bare(self, known: Container[bytes]) -> "GroupInput":
        """Return the same without the routes of these keys, for a group that has them from its last step."""
        packs = [pack.bare() if pack is not None and pack.route.key in known else pack for pack in self.packs]
        return self._replace(packs=packs)


class Adoption(NamedTuple):
    """What another worker needs to continue a group: a checkpoint and the inputs since."""

    members: MemberPack
    shared: Mapping[str, SharedDatum]
    names: Mapping[str, int]
    kept: Sequence[MessagePack]  #: messages to the group itself
    log: Sequence[GroupInput]


class FailedMember(NamedTuple):
    """A member whose step has failed."""

    member: int
    step: int
    type_name: str
    text: str  #: one line
    traceback: str


class Collected(NamedTuple):
    """A checkpoint of a group."""

    members: MemberPack
    kept: Sequence[MessagePack]
    elapsed_s: float


class GroupOutput(NamedTuple):
    """What the members of a group have done."""

    step: int  #: number of the last step
    sent: Mapping[int, MessagePack]  #: by group; those to the group itself only with `collected`
    writes: Mapping[str, Contribution]
    born: MemberPack  #: without ids
    born_names: list[str]
    left: list[int]
    failed: list[FailedMember]
    measured: Mapping[str, tuple[Ids, np.ndarray[Any, Any]]]  #: by name: ids of members, values
    members: int  #: that are there now
    messages: int  #: sent
    undelivered: int  #: messages to members that had left
    elapsed_s: float
    slowest: int  #: id of the member that took longest; -1: the members were not timed one by one
    slowest_s: float
    collected: Collected | None


class GroupRunner:
    """A group whose members live in this process.

    Args:
        clock: the time in seconds.

    Raises whatever unpickling a member raises.
    """

    def __init__(self, terms: WorldTerms, adoption: Adoption, clock: Callable[[], float]) -> None:
        self._terms = terms
        self._clock = clock
        self._shared = SharedStore(adoption.shared)
        self._names = dict(adoption.names)
        self._ids = np.array(adoption.members.ids)
        self._members: list[Any] = separate_pickles.loads_all(adoption.members.bodies, adoption.members.table)
        self._costs_s = np.array(adoption.members.costs_s, np.float64)
        self._is_short = False  # members take less than SHORT_S in the mean
        self._kept = list(adoption.kept)
        self._context = StepContext(terms.seed, self._shared, self._names, terms.messages_max)
        self._mail: MemberInbox | None = None
        self._routes: dict[bytes, Route] = {}  # of the messages to this group in its last step, by key
        self._timer = MemberTimer(terms.timeout_s)
        self.step = 0  #: number of the last step
        self.batch = -1  #: number of the orders for which it has made its last step; set by those who keep it
        self.first_id = 0  #: where the range of its ids begins; set by those who keep it
        #: called with step and member before each step of a member; None: nothing is
        self.report_call: Callable[[int, int], None] | None = None
        #: by receiving group: the key of the route that its driver has; set by those who keep it
        self.sent_routes: dict[int, bytes] = {}

    def repeat(self, log: Sequence[GroupInput]) -> None:
        """Make the steps of a log, which this group has made elsewhere, without a time limit: it was in time there.

        Raises WorldError if a member fails that has not failed there.
        """
        timer, self._timer = self._timer, MemberTimer(None)
        for inputs in log:
            for failed in self.run(inputs).failed:
                is_new = failed.type_name and (failed.step, failed.member) not in inputs.doomed
                if is_new or self._terms.on_error == "stop":
                    raise WorldError(
                        f"member {failed.member} failed when step {failed.step} was repeated, and not when it was made:"
                        f" {failed.type_name}: {failed.text}. What a step does must depend on the member, ctx and"
                        " shared data only, because it is repeated when a worker is lost",
                        failed.step,
                        failed.member,
                    ) from (RemoteTraceback(failed.traceback) if failed.traceback else None)
        self._timer = timer

    def knows(self, inputs: GroupInput) -> bool:
        """Return whether the inputs can be understood: it has the routes that were left out."""
        return all(pack is None or not pack.is_bare or pack.route.key in self._routes for pack in inputs.packs)

    def _packs(self, inputs: GroupInput) -> list[MessagePack]:
        """Return the messages with their routes, and remember those."""
        packs = [
            pack and pack._replace(route=self._routes[pack.route.key] if pack.is_bare else pack.route.copy())
            for pack in inputs.packs
        ]
        self._routes = {pack.route.key: pack.route for pack in packs if pack is not None}
        return [pack for each in packs for pack in (self._kept if each is None else (each,))]

    def run(self, inputs: GroupInput, collect: bool = False) -> GroupOutput:
        """Make a step, or several; return what the members have done.

        Args:
            collect: add a checkpoint to the output.

        If a member has failed and the terms are to stop, the output has nothing else, and the group must not be used.
        """
        began_s = self._clock()
        for change in inputs.changes:
            self._shared.apply(change)
        self._names.update(inputs.names)
        if len(inputs.born.ids):
            self._add(inputs.born)
        context = self._context
        context._next_id = inputs.next_id
        context._pickler = separate_pickles.SeparatePickler()
        context._mail = MemberInbox(self._packs(inputs), self._ids, self._mail)
        self._mail = context._mail
        undelivered = context._mail.undelivered
        failed: list[FailedMember] = []
        slowest, slowest_s = -1, -1.0
        left: list[int] = []
        for number in range(inputs.step, inputs.step + inputs.steps):
            if number > inputs.step:
                context._mail = MemberInbox((), self._ids)
            context.step = number
            if inputs.doomed:
                self._doom(number, inputs.doomed)
            times = self._step_all(number, failed)
            if failed and self._terms.on_error == "stop":
                return _only_failed(number, failed, len(self._ids))
            if len(times):
                at = int(np.argmax(times))
                if times[at] > slowest_s:
                    slowest, slowest_s = int(self._ids[at]), float(times[at])
            gone = {*context._left, *(each.member for each in failed)}
            left += sorted(set(context._left))
            context._left = []
            if gone:
                self._remove(gone)
        self.step = inputs.step + inputs.steps - 1
        if self.report_call is not None:
            self.report_call(self.step, -1)  # no member is called any more
        pack, wrong, messages = context._outbox.pack(inputs.next_id)
        if wrong:
            failed += [self._no_receiver(sender, to, inputs.next_id) for sender, to in wrong.items()]
            if self._terms.on_error == "stop":
                return _only_failed(self.step, failed, len(self._ids))
            context._forget(set(wrong))
            self._remove(set(wrong))
        collect_s, members = 0.0, NO_MEMBERS
        if collect:
            collect_began_s = self._clock()
            members, not_picklable = self._pickled()
            collect_s = self._clock() - collect_began_s
            failed += not_picklable
            if not_picklable and self._terms.on_error == "stop":
                return _only_failed(self.step, failed, len(self._ids))
            wrong |= {each.member: each.text for each in not_picklable}
            if not_picklable:
                context._forget(set(wrong))
                pack = pack.take(np.flatnonzero(~np.isin(pack.route.senders, list(wrong))))
        born, born_names = self._take_born()
        sent = pack.split(inputs.first_ids) if wrong else context._outbox.split(pack, inputs.first_ids)
        self._kept = [sent[inputs.group]] if inputs.group in sent else []
        elapsed_s = self._clock() - began_s - collect_s
        collected = Collected(members, list(self._kept), collect_s) if collect else None
        if collected is None:
            sent.pop(inputs.group, None)
        return GroupOutput(
            self.step,
            sent,
            context._take_writes(),
            born,
            born_names,
            left,
            failed,
            context._take_measured(),
            len(self._ids),
            messages,
            undelivered,
            elapsed_s,
            slowest,
            max(0.0, slowest_s),
            collected,
        )

    def _no_receiver(self, sender: int, to: Any, next_id: int) -> FailedMember:
        text = f"it sends to {to!r:.80}, and the members of this world have ids from 0 to {next_id - 1}"
        if isinstance(to, NotSendable):
            text = f"it sends what cannot be pickled: {to}"
        return FailedMember(sender, self.step, "", text, "")

    def _step_all(self, step: int, failed: list[FailedMember]) -> np.ndarray[Any, Any]:
        """Call all members; return the seconds that each took, or nothing if they were not timed one by one."""
        context, clock, timer = self._context, self._clock, self._timer
        outbox, is_limited = context._outbox, self._timer.is_limited
        is_dropping = self._terms.on_error == "drop"  # so it must be known who has changed shared data
        context.send, end_member = outbox.send, outbox.end_member
        # What follows is done for each member, so it calls nothing that it can do itself.
        numbers, inbox, slices = self._ids.tolist(), context._mail.values, context._mail.slices
        members = self._members
        is_timed = not self._is_short or step % TIMED_EVERY == 0
        if self.report_call is not None:
            members = [_Watched(member, self.report_call) for member in members]
        times = [clock()]
        add_time = times.append
        for member, context.id, context.inbox in zip(members, numbers, map(inbox.__getitem__, slices), strict=True):
            try:
                if is_limited:
                    timer.call(member.step, context)
                else:
                    member.step(context)
            except (Exception, SystemExit) as error:  # noqa: BLE001  (the user's: the step fails, or it is dropped)
                context._drop_member()
                failed.append(_failure(context.id, step, error))
                if self._terms.on_error == "stop":
                    break
            if is_dropping and context._readers and (change := self._shared_change()):
                context._drop_member()
                if not failed or (failed[-1].member, failed[-1].step) != (context.id, step):
                    failed.append(FailedMember(context.id, step, "", change[0], ""))
            end_member()
            if is_timed:
                add_time(clock())
        context.inbox = []
        outbox.end_step(numbers)
        if context._readers and (change := self._shared_change()):
            failed.append(FailedMember(change[1], step, "", change[0], ""))
        if not is_timed:
            self._is_short = clock() - times[0] < SHORT_S * len(members)
        seconds = np.diff(np.array(times))
        if len(seconds) == len(self._costs_s) > 0:
            self._costs_s = np.where(self._costs_s > 0, 0.8 * self._costs_s + 0.2 * seconds, seconds)
            self._is_short = bool(self._costs_s.min() > 0.0 and self._costs_s.mean() < SHORT_S)
        return seconds

    def _shared_change(self) -> tuple[str, int] | None:
        """Return what is wrong, and a member, if a member has changed shared data that it was given to read."""
        readers, self._context._readers = self._context._readers, {}
        for name, members in readers.items():
            if self._shared.restore(name):
                who = ", ".join(map(str, members[:3])) + (", ..." if len(members) > 3 else "")
                return f"{name!r} was changed, and may only be read; it was read by {who}: use ctx.write", members[0]
        return None

    def _doom(self, step: int, doomed: Mapping[tuple[int, int], str]) -> None:
        """Have members fail in this step, in which they would kill their worker, or have failed before."""
        for (its_step, number), words in doomed.items():
            for position in np.flatnonzero(self._ids == number).tolist() if its_step == step else ():
                self._members[position] = _Doomed(words)

    @property
    def at_work(self) -> tuple[int, int]:
        """The step and the member that is being called, or was called last."""
        return self._context.step, self._context.id

    def _add(self, born: MemberPack) -> None:
        self._members += separate_pickles.loads_all(born.bodies, born.table)
        self._ids = np.concatenate((self._ids, born.ids))
        self._costs_s = np.concatenate((self._costs_s, born.costs_s))
        self._is_short = False

    def _remove(self, gone: set[int]) -> None:
        stays = ~np.isin(self._ids, list(gone))
        self._members = [member for member, is_here in zip(self._members, stays.tolist(), strict=True) if is_here]
        self._ids = self._ids[stays]
        self._costs_s = self._costs_s[stays]

    def _take_born(self) -> tuple[MemberPack, list[str]]:
        born, self._context._born = self._context._born, []
        if not born:
            return NO_MEMBERS, []
        born.sort(key=lambda each: each[0])
        bodies = [body for _, body, *_ in born]
        pack = MemberPack(np.zeros(len(born), np.int64), bodies, self._context._pickler.table, np.zeros(len(born)))
        return pack, [name for _, _, name, _ in born]

    def _pickled(self) -> tuple[MemberPack, list[FailedMember]]:
        """Return a pickle of each member, and those that cannot be pickled; they are removed."""
        pickler = separate_pickles.SeparatePickler()
        bodies: list[bytes] = []
        failed: list[FailedMember] = []
        for number, member in zip(self._ids.tolist(), self._members, strict=True):
            try:
                bodies.append(pickler.dumps(member))
            except Exception as error:  # noqa: BLE001  (the member's own pickling may raise anything)
                text = f"it cannot be pickled for a checkpoint: {type(error).__name__}: {error}"
                failed.append(FailedMember(number, self.step, "", text, ""))
        if failed:
            self._remove({each.member for each in failed})
        return MemberPack(self._ids.copy(), bodies, pickler.table, self._costs_s.copy()), failed

    def members(self) -> MemberPack:
        """Return a pickle of each member. Raises WorldError for one that cannot be pickled."""
        pack, failed = self._pickled()
        if failed:
            member, step, _, text, _ = failed[0]
            raise WorldError(f"member {member}, after step {step}: {text}", step, member)
        return pack


class _Watched:
    """A member whose steps are announced."""

    def __init__(self, member: Any, report_call: Callable[[int, int], None]) -> None:
        self._member, self._report_call = member, report_call

    def step(self, context: StepContext) -> None:
        self._report_call(context.step, context.id)
        self._member.step(context)


class _Doomed:
    """Stands for a member that must not be called."""

    def __init__(self, words: str) -> None:
        self._words = words

    def step(self, context: StepContext) -> None:
        raise WorldError(self._words)


def _only_failed(step: int, failed: list[FailedMember], members: int) -> GroupOutput:
    return GroupOutput(step, {}, {}, NO_MEMBERS, [], [], failed, {}, members, 0, 0, 0.0, -1, 0.0, None)


def _failure(member: int, step: int, error: BaseException) -> FailedMember:
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__") in _MODULES_BEFORE_STEP:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    return FailedMember(member, step, type(error).__name__, f"{error}"[:1000], text[-20000:])
