"""The state of a world between steps, as its driver knows it: groups, shared data, and what is needed to repeat. Pure.

    WorldState.inputs(group)           what the group needs for its next step
    WorldState.commit(group, output)   the group has made it
    WorldState.adoption(group)         a checkpoint of the group, and its inputs since
    WorldState.divide(count)           other groups, of equal cost

Members are opaque here: pickles. Shared data are not, because rules merge what members write.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from concurrent_nb.errors import WorldError
from concurrent_nb.worlds.group_runner import (
    NO_MEMBERS,
    Adoption,
    GroupInput,
    GroupOutput,
    MemberPack,
    WorldTerms,
)
from concurrent_nb.worlds.mail import Ids, MessagePack, Route, split_packs
from concurrent_nb.worlds.shared_values import Change, SharedDatum, SharedStore, size_bytes_of


@dataclass
class MemberGroup:
    """The members of a range of ids, as they were at their last checkpoint, and the inputs of the steps since."""

    members: MemberPack
    kept: Sequence[MessagePack]  #: messages to the group itself at the checkpoint
    step: int  #: the last step that it has made
    seen: int  #: changes of shared data that it knew at the checkpoint
    count: int  #: members that it has now
    has_kept: bool = False  #: it holds messages to itself, which it has sent in its last step
    sees: int = 0  #: changes of shared data that it knows now
    log: list[GroupInput] = field(default_factory=list)
    arrived: list[tuple[int, int, MessagePack]] = field(default_factory=list)  #: step and group of the sender, messages
    born: list[MemberPack] = field(default_factory=list)  #: that begin with the next step
    names: dict[str, int] = field(default_factory=dict)  #: of new members, that the group does not know yet
    log_bytes: int = 0
    log_steps: int = 0  #: how many steps the inputs are for
    known: set[bytes] = field(default_factory=set)  #: keys of the routes that the worker has in which it lives
    routes: dict[int, Route] = field(default_factory=dict)  #: of what it has sent last, by receiving group


class WorldState:
    """The state of a world.

    Args:
        members: all of them.
        shared: data by name.
        names: ids by name.
        groups: how many groups to make.
    """

    def __init__(
        self,
        terms: WorldTerms,
        members: MemberPack,
        shared: Mapping[str, SharedDatum],
        names: Mapping[str, int],
        groups: int,
        step: int = 0,
    ) -> None:
        self.terms = terms
        #: messages are delivered as soon as they have arrived, not in the step after that in which they were sent
        self.is_lock_free = False
        self.shared = SharedStore(shared)
        self.names = dict(names)
        self.next_batch = 0  #: number of the next orders, for a driver
        self.next_id = int(members.ids[-1]) + 1 if len(members.ids) else 0
        self._base = self.shared.copy()  # as it was after `_based` changes
        self._based = 0
        self._changes: list[Change] = []  # since then
        self._changes_bytes: list[int] = []  # of each
        self.groups: list[MemberGroup] = []
        self.first_ids: Ids = np.zeros(1, np.int64)
        self._set_groups(members, [], groups, step)

    @property
    def step(self) -> int:
        """The number of the last step that all groups have made."""
        return min(group.step for group in self.groups)

    @property
    def count(self) -> int:
        """The number of members, without those that begin with the next step."""
        return sum(group.count for group in self.groups)

    @property
    def changed(self) -> int:
        """How many changes of shared data there were."""
        return self._based + len(self._changes)

    @property
    def changes_bytes(self) -> int:
        """About how much the changes of shared data take that are kept for groups that are lost."""
        return sum(self._changes_bytes)

    def _add_change(self, change: Change) -> None:
        self._changes.append(change)
        self._changes_bytes.append(sum(map(size_bytes_of, change.values())))

    def is_even(self) -> bool:
        """Return whether all groups have made the same steps."""
        return len({group.step for group in self.groups}) == 1

    # ------------------------------------------------------------------------------------------------------ the steps

    def inputs(self, number: int, steps: int) -> GroupInput:
        """Return what a group needs for its next steps: what has been sent and written in earlier ones."""
        group = self.groups[number]
        arrived = [entry for entry in group.arrived if entry[0] <= group.step or self.is_lock_free]
        packs: list[tuple[int, int, MessagePack | None]] = [*arrived]
        if group.has_kept:
            packs.append((group.step, number, None))
        packs.sort(key=lambda entry: entry[:2])
        born = NO_MEMBERS
        for pack in group.born:
            born = born.added(pack) if len(born.ids) else pack
        return GroupInput(
            group.step + 1,
            steps,
            [pack for _, _, pack in packs],
            self._changes[group.sees - self._based :],
            born,
            dict(group.names),
            self.first_ids,
            number,
            self.next_id,
        )

    def with_routes(self, number: int, output: GroupOutput) -> GroupOutput | None:
        """Return the output of a group with the routes that were left out; None if one of them is not known."""
        routes = self.groups[number].routes
        sent = dict(output.sent)
        for other, pack in output.sent.items():
            if not pack.is_bare:
                routes[other] = pack.route
            elif other not in routes or routes[other].key != pack.route.key:
                return None
            else:
                sent[other] = pack._replace(route=routes[other])
        return output._replace(sent=sent)

    def commit(self, made: Mapping[int, tuple[GroupInput, GroupOutput]]) -> None:
        """Take over what groups have done in one step, in the order of the groups.

        Raises WorldError if what was written cannot be merged. Then nothing is taken over.
        """
        order = sorted(made)
        self._check_names([name for number in order for name in made[number][1].born_names if name])
        change = self.shared.merge([made[number][1].writes for number in order])
        if change:
            self._add_change(change)
        for number in order:
            self._commit_group(number, *made[number])
        self._forget_changes()

    def _commit_group(self, number: int, inputs: GroupInput, output: GroupOutput) -> None:
        group = self.groups[number]
        delivered = {id(pack) for pack in inputs.packs}
        group.arrived = [entry for entry in group.arrived if id(entry[2]) not in delivered]
        group.sees += len(inputs.changes)
        packs = [pack for pack in inputs.packs if pack is not None]
        if len(inputs.born.ids):
            group.born = [born for born in group.born if born.ids[0] > inputs.born.ids[-1]]
        for name in inputs.names:
            group.names.pop(name, None)
        group.step = output.step
        group.count = output.members
        kept = output.sent.get(number)
        group.has_kept = output.collected is None or kept is not None
        for other, pack in output.sent.items():
            if other != number:
                self.groups[other].arrived.append((output.step, number, pack))
        if output.collected is not None:
            group.members, group.kept = output.collected.members, output.collected.kept
            group.seen = group.sees
            group.log, group.log_bytes, group.log_steps = [], 0, 0
        else:
            # A step that is repeated must end for each member as it has ended now, also if that was by chance.
            failed = {(f.step, f.member): f"{f.type_name}: {f.text}" for f in output.failed if f.type_name}
            group.log.append(inputs._replace(doomed={**inputs.doomed, **failed}) if failed else inputs)
            group.log_steps += inputs.steps
            group.log_bytes += sum(pack.size_bytes for pack in packs)
            group.log_bytes += sum(pack.route.size_bytes for pack in packs if pack.route.key not in group.known)
        group.known = {pack.route.key for pack in packs}
        if output.born_names:
            self._add_born(output)

    def _check_names(self, names: Sequence[str]) -> None:
        """Raise WorldError for a new member with the name of another one."""
        for name, count in Counter(names).items():
            if count > 1 or name in self.names:
                raise WorldError(f"two members have the name {name!r}", self.step)

    def _add_born(self, output: GroupOutput) -> None:
        first = self.next_id
        self.next_id += len(output.born_names)
        ids = np.arange(first, self.next_id, dtype=np.int64)
        self.groups[-1].born.append(output.born._replace(ids=ids))
        for name, number in zip(output.born_names, ids.tolist(), strict=True):
            if name:
                self.add_name(name, number)

    def add_name(self, name: str, number: int) -> None:
        """Give a member a name. Raises WorldError if another one has it."""
        if name in self.names:
            raise WorldError(f"two members have the name {name!r}: {self.names[name]} and {number}", self.step, number)
        self.names[name] = number
        for group in self.groups:
            group.names[name] = number

    def add_members(self, members: MemberPack) -> None:
        """Add members, whose ids follow all others; they begin with the next step."""
        self.next_id = int(members.ids[-1]) + 1
        self.groups[-1].born.append(members)

    def write(self, name: str, value: Any) -> None:
        """Replace a shared datum between two steps. Raises WorldError and ValueError."""
        datum = self.shared.find(name)
        if datum.is_array:
            value = np.broadcast_to(np.asarray(value, datum.value.dtype), datum.value.shape).copy()
        change = {name: value}
        self.shared.apply(change)
        self._add_change(change)

    # -------------------------------------------------------------------------------------------- losses and new groups

    def adoption(self, number: int) -> Adoption:
        """Return what another worker needs to continue a group."""
        group = self.groups[number]
        base = self._base
        if group.seen > self._based:
            base = base.copy()
            for change in self._changes[: group.seen - self._based]:
                base.apply(change)
        return Adoption(group.members, base.data, self.names, group.kept, group.log)

    def seen(self, number: int) -> int:
        """Return how many changes of shared data a group had seen at its last checkpoint."""
        return self.groups[number].seen

    def _forget_changes(self) -> None:
        """Forget changes of shared data that no group would need again."""
        needed = min(group.seen for group in self.groups)
        for change in self._changes[: needed - self._based]:
            self._base.apply(change)
        del self._changes[: needed - self._based]
        del self._changes_bytes[: needed - self._based]
        self._based = needed

    def collected(self) -> MemberPack:
        """Return all members, also those that begin with the next step. All groups must have just been collected."""
        pack = NO_MEMBERS
        for group in self.groups:
            assert not group.log, "a group has made steps since its checkpoint"
            pack = pack.added(group.members)
        for group in self.groups:
            for born in group.born:
                pack = pack.added(born)
        return pack

    def divide(self, count: int) -> None:
        """Divide the members into so many groups of equal cost. All groups must have just been collected."""
        step = self.step
        packs = [
            entry
            for number, group in enumerate(self.groups)
            for entry in (*group.arrived, *((group.step, number, pack) for pack in group.kept))
        ]
        packs.sort(key=lambda entry: entry[:2])
        self._set_groups(self.collected(), [pack for _, _, pack in packs], count, step)

    def _set_groups(self, members: MemberPack, packs: Sequence[MessagePack], count: int, step: int) -> None:
        bounds = equal_parts(members.costs_s, max(1, count))
        self.first_ids = np.array([0, *(int(members.ids[at]) for at in bounds[1:-1])], np.int64)
        changed = self.changed
        self._base, self._based, self._changes, self._changes_bytes = self.shared.copy(), changed, [], []
        self.groups = []
        for first, end in itertools.pairwise(bounds):
            part = members.between(first, end)
            self.groups.append(MemberGroup(part, (), step, changed, end - first, sees=changed))
        for number, parts in split_packs(packs, self.first_ids).items():
            # As if an own message each, because who has sent them is now in another group.
            self.groups[number].arrived = [(step, at - len(parts), pack) for at, pack in enumerate(parts)]


def equal_parts(costs_s: np.ndarray[Any, Any], count: int) -> list[int]:
    """Return the bounds of `count` ranges, none of them empty, with about equal sums; fewer if there are fewer costs.

    Costs that are not known (0) are taken for the mean of the others.

    >>> equal_parts(np.array([1.0, 1, 1, 1, 4]), 2)
    [0, 4, 5]
    """
    count = max(1, min(count, len(costs_s)))
    if not len(costs_s):
        return [0, 0]
    known = costs_s > 0
    costs_s = np.where(known, costs_s, costs_s[known].mean() if known.any() else 1.0)
    ends = np.cumsum(costs_s)
    middles = ends - costs_s / 2
    bounds = [0]
    for part in range(1, count):
        at = int(np.searchsorted(middles, ends[-1] * part / count))
        bounds.append(min(max(at, bounds[-1] + 1), len(costs_s) - count + part))
    return [*bounds, len(costs_s)]
