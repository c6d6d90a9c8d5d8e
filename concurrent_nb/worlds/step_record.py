"""What is known of a step of a world, after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from concurrent_nb.worlds.group_runner import FailedMember, GroupOutput

#: a member is late that takes this many times as long as others, and this many seconds
LATE_TIMES: Final = 100
LATE_S: Final = 0.5


@dataclass(frozen=True)
class StepStatistic:
    """The values that members have given to `ctx.measure` in one step, under one name."""

    count: int
    total: float
    least: float
    largest: float

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.total / self.count


@dataclass(frozen=True)
class GroupShare:
    """What one group has done in a step, and where."""

    group: int
    worker: str  #: host and pid
    slave: str
    members: int
    messages: int  #: that they have sent
    elapsed_s: float  #: that it took
    wait_s: float  #: from its end to the end of the step, at the barrier; 0 in a lock-free run


@dataclass(frozen=True)
class Step:
    """A step of a world. Its statistics are those of this step alone.

    In a run with a resolution of several steps it stands for all of them.
    """

    number: int  #: from 1 on
    elapsed_s: float  #: since the step before
    members: int  #: at its end
    messages: int  #: sent in it
    undelivered: int  #: messages to members that had left
    born: int
    left: int
    dropped: Sequence[FailedMember]  #: members that have failed and were removed, with on_error="drop"
    stats: Mapping[str, StepStatistic]  #: what members have measured with `ctx.measure`
    #: id of the member that took longest. -1: members were not timed one by one, as all are short (docs/worlds.md)
    slowest: int
    slowest_s: float
    groups: Sequence[GroupShare] = field(repr=False, default=())

    @property
    def late_member(self) -> str:
        """Words about a member that took far longer than others and so delayed the step; "" if there is none."""
        others = self.members - 1
        if self.slowest_s < LATE_S or others < 1 or not self.groups:
            return ""
        others_s = max(0.0, sum(group.elapsed_s for group in self.groups) - self.slowest_s) / others
        if self.slowest_s < LATE_TIMES * others_s:
            return ""
        return (
            f"member {self.slowest} took {self.slowest_s:.3g} s in step {self.number}, and the other members"
            f" {others_s:.2g} s each: the step has waited for it"
        )

    @property
    def wait_s(self) -> float:
        """The time at the barrier, the mean of all groups."""
        return sum(group.wait_s for group in self.groups) / len(self.groups) if self.groups else 0.0


def measured_in(outputs: Sequence[GroupOutput]) -> dict[str, StepStatistic]:
    """Return the statistics of a step. Sums are in the order of the members, so they are the same for any groups."""
    names = dict.fromkeys(name for output in outputs for name in output.measured)
    found = {}
    for name in names:
        values = np.concatenate([output.measured[name][1] for output in outputs if name in output.measured])
        found[name] = StepStatistic(len(values), float(values.sum()), float(values.min()), float(values.max()))
    return found
