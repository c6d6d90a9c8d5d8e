"""Decide which slaves of a launcher to start, to drain, to end, and when to give up. Pure: time is an argument.

Each turn gets the states of the slaves, as the launcher and the master know them, and returns instructions:

    launcher  --LaunchedSlave-->  Supervisor  --StartSlave, EndSlaves-->  launcher
    master    --MemberSlave---->              --DrainSlave------------->  master
                                              --GiveUp----------------->  the owner, whose applications fail
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from concurrent_nb.nodes.launchers.launcher import LaunchedSlave, LaunchState

#: after this many failures in a row, or one more than slaves are wanted if that is more, no other slave is started;
#: if slaves are left, one is started every RETRY_S
FAILURES_MAX: Final = 5
RETRY_S: Final = 60.0
#: a slave that has been a member for so long is good: it ends a row, and is in none itself
GOOD_S: Final = 30.0
#: a slave that has joined and that the master has not had for so long is ended: its machine hangs or is cut off
GONE_S: Final = 20.0
#: a slave whose place takes it away within this time is replaced by another one
REPLACE_BEFORE_S: Final = 90.0
#: and leaves at this time at the latest, even if the other one has not joined
DRAIN_BEFORE_S: Final = 45.0
#: seconds between two turns while slaves start, when all have joined, and if this machine was short of files, processes
#: or memory
TURN_WHILE_STARTING_S: Final = 0.1
TURN_S: Final = 0.5
SHORTAGE_TURN_S: Final = 5.0
#: seconds before the next start, after so many failures in a row; the last one holds for more of them
PAUSES_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0)
#: the same if this machine was short of files, processes, memory or disk space. That counts in no row once a slave has
#: joined: the machine gets room again, and until then slaves are started one by one
SHORTAGE_PAUSES_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class MemberSlave:
    """A slave as the master sees it."""

    name: str
    slots: int
    in_flight: int  #: tasks that it has
    is_draining: bool


@dataclass(frozen=True, slots=True)
class StartSlave:
    """Have the launcher start a slave."""

    name: str


@dataclass(frozen=True, slots=True)
class DrainSlave:
    """Have the master drain a slave: it ends when its running tasks have ended."""

    name: str


@dataclass(frozen=True, slots=True)
class EndSlaves:
    """Have the launcher end slaves at once, and forget them."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReportFailure:
    """Log that a slave has failed; others run or are started."""

    text: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No slave runs, and none is started any more."""

    reason: str
    initializer_failed: bool = False  #: the last one's workers could not be initialized


Instruction = StartSlave | DrainSlave | EndSlaves | ReportFailure | GiveUp


@dataclass(slots=True)
class _LaunchRecord:
    running_at: float | None = None
    joined_at: float | None = None
    seen_at: float = 0.0  # at the master
    is_good: bool = False
    is_leaving: bool = False  # it was drained
    is_expiring: bool = False  # its place takes it away soon: another one is started for it
    failure: str = ""  # it could not be launched at all
    is_refused: bool = False  # and never can
    is_shortage: bool = False  # and the reason may pass


class Supervisor:
    """Keeps the wanted number of slaves.

    Args:
        prefix: of the slaves' names.
        wanted: how many slaves there should be.
        start_bound_s: seconds in which a slave that runs must have joined.
    """

    def __init__(self, prefix: str, wanted: int, start_bound_s: float) -> None:
        self.wanted = wanted
        self.has_given_up = False
        self._prefix = prefix
        self._start_bound_s = start_bound_s
        self._records: dict[str, _LaunchRecord] = {}
        self._count = 0  # of slaves that were ever started
        self._failures = 0  # in a row
        self._shortages = 0  # in a row
        self._has_had_members = False
        self._places: int | None = None  # how many slaves there can be, once one was refused; None: as many as wanted
        self._last_failure = ""
        self._initializer_failed = False  # in the last failure
        self._next_start_at = 0.0
        self._to_replace: set[str] = set()

    def want(self, number: int) -> None:
        """Have so many slaves from the next turn on; what has failed before counts no more."""
        self.wanted = number
        self._failures = self._shortages = 0
        self._places = None
        self._next_start_at = 0.0

    def follow(self, number: int) -> None:
        """Have so many slaves from the next turn on, as the queue asks for, but no more than there can be."""
        self.wanted = number if self._places is None else min(number, self._places)

    def replace(self, name: str) -> bool:
        """Start another slave for this one, which leaves. Returns False if there is none, or it leaves already."""
        record = self._records.get(name)
        if record is None or record.is_leaving:
            return False
        self._to_replace.add(name)
        return True

    def launch_failed(self, name: str, reason: str, *, refused: bool, is_shortage: bool = False) -> None:
        """Note that the launcher could not start a slave.

        Args:
            name: of the slave.
            reason: for people.
            refused: it never can.
            is_shortage: this machine was short of something, which may pass.
        """
        if record := self._records.get(name):
            record.failure, record.is_refused, record.is_shortage = reason, refused, is_shortage

    @property
    def joined(self) -> int:
        """The number of slaves that have joined and stay."""
        return sum(each.joined_at is not None and not each.is_leaving for each in self._records.values())

    def next_turn_s(self, instructions: Sequence[Instruction]) -> float:
        """Return how many seconds after a turn with these instructions the next one should follow."""
        return TURN_S if self.joined >= self.wanted and not instructions else TURN_WHILE_STARTING_S

    def turn(
        self, now: float, launched: Iterable[LaunchedSlave], members: Mapping[str, MemberSlave] | None
    ) -> Sequence[Instruction]:
        """Return what to do now.

        Args:
            now: the time, in seconds.
            launched: the slaves as the launcher knows them.
            members: the master's slaves by name; None if it has not answered.
        """
        if self.has_given_up:
            return ()
        done: list[Instruction] = []
        known = {each.name: each for each in launched}
        ended: list[str] = []
        for name, record in list(self._records.items()):
            state = known.get(name)
            member = None if members is None else members.get(name)
            over, failure, refused = self._judge(now, name, record, state, member, has_asked=members is not None)
            if not over:
                self._expire(record, state)
                if state is not None and state.is_misplaced and record.joined_at is not None and not record.is_leaving:
                    self._to_replace.add(name)
                continue
            ended.append(name)
            del self._records[name]
            if failure:
                if record.is_shortage and self._has_had_members:
                    self._count_shortage(now)
                else:
                    self._count_failure(now, failure, refused, was_good=record.is_good)
                self._initializer_failed = state is not None and state.initializer_failed
                done.append(ReportFailure(f"{self._shown(name, state)} has failed: {failure}"))
            elif not record.is_leaving:
                self._drained_by_others(name, record)
            self._to_replace.discard(name)
        if ended:
            done.append(EndSlaves(tuple(ended)))
        for record in self._records.values():
            if not record.is_good and record.joined_at is not None and now - record.joined_at >= GOOD_S:
                record.is_good = True
                self._failures = 0
        if not self.wanted and not self._records:  # what was a row may pass until slaves are wanted again
            self._failures, self._next_start_at = 0, 0.0
        if (given_up := self._give_up()) is not None:
            return [*done, given_up]
        return [*done, *self._adjust(now, known, members)]

    def _judge(
        self,
        now: float,
        name: str,
        record: _LaunchRecord,
        state: LaunchedSlave | None,
        member: MemberSlave | None,
        *,
        has_asked: bool,
    ) -> tuple[bool, str, bool]:
        """Return whether a slave is over, why it has failed ("": it was to leave), and whether it would fail again."""
        if record.failure:
            return True, record.failure, record.is_refused
        if state is None:
            return True, "" if record.is_leaving else "its launcher does not know it any more", False
        if state.state is LaunchState.ENDED:
            is_fine = record.is_leaving or state.drained
            return True, "" if is_fine else state.reason or "it has ended", state.refused and not is_fine
        if state.state is LaunchState.RUNNING and record.running_at is None:
            record.running_at = now
        if member is not None:
            if record.joined_at is None:
                record.joined_at, self._has_had_members, self._shortages = now, True, 0
            record.seen_at = now
            if member.is_draining and not record.is_leaving:
                self._drained_by_others(name, record)
        elif has_asked and record.joined_at is not None and now - record.seen_at > GONE_S:
            return True, "" if record.is_leaving else f"the master has lost it for {GONE_S:.0f} s", False
        elif (
            has_asked
            and record.joined_at is None
            and record.running_at is not None
            and now - record.running_at > self._start_bound_s
        ):
            return True, f"it has not joined within {self._start_bound_s:.0f} s", False
        return False, "", False

    def _drained_by_others(self, name: str, record: _LaunchRecord) -> None:
        """Record that a slave leaves without an instruction: one less is wanted, unless another one replaces it."""
        record.is_leaving = True
        if not record.is_expiring and name not in self._to_replace:
            self.wanted = max(0, self.wanted - 1)

    def _expire(self, record: _LaunchRecord, state: LaunchedSlave | None) -> None:
        if state is not None and state.ends_in_s is not None and state.ends_in_s < REPLACE_BEFORE_S:
            record.is_expiring = True

    def _count_failure(self, now: float, failure: str, refused: bool, *, was_good: bool) -> None:
        self._last_failure = failure
        if refused:
            self.wanted = self._places = max(0, self.wanted - 1)
        if was_good:  # so another one can run, too
            return
        self._failures += 1
        pause_s = RETRY_S if self._is_row() else PAUSES_S[min(self._failures, len(PAUSES_S)) - 1]
        self._next_start_at = max(self._next_start_at, now + pause_s)

    def _count_shortage(self, now: float) -> None:
        pause_s = SHORTAGE_PAUSES_S[min(self._shortages, len(SHORTAGE_PAUSES_S) - 1)]
        self._shortages += 1
        self._next_start_at = max(self._next_start_at, now + pause_s)

    def _is_row(self) -> bool:
        return self._failures >= max(FAILURES_MAX, self.wanted + 1)

    def _give_up(self) -> GiveUp | None:
        is_refused = self._places == 0
        if not is_refused and not (self.wanted and self._is_row()):
            return None
        if not all(each.is_leaving for each in self._records.values()):  # those go on
            return None
        self.has_given_up = True
        why = "it would fail again" if is_refused else f"{self._failures} in a row have failed"
        reason = f"no slave is started any more, because {why}; the last one: {self._last_failure}"
        return GiveUp(reason, self._initializer_failed)

    def _adjust(
        self, now: float, known: Mapping[str, LaunchedSlave], members: Mapping[str, MemberSlave] | None
    ) -> list[Instruction]:
        """Start what is missing; have leave what is too much, expires or is to be replaced."""
        done: list[Instruction] = []
        staying = {
            name: record
            for name, record in self._records.items()
            if not (record.is_leaving or record.is_expiring or name in self._to_replace)
        }
        missing = self.wanted - len(staying)
        if missing > 0 and now >= self._next_start_at:
            if self._is_row():  # slaves are left
                missing, self._next_start_at = 1, now + RETRY_S
            elif self._shortages:
                missing = 1
            for _ in range(missing):
                self._count += 1
                name = f"{self._prefix}-{self._count}"
                self._records[name] = _LaunchRecord()
                done.append(StartSlave(name))
        if missing < 0:
            done += self._have_leave(self._superfluous(staying, -missing, members))
        is_covered = sum(record.joined_at is not None for record in staying.values()) >= self.wanted
        for name, record in list(self._records.items()):
            if record.is_leaving or not (record.is_expiring or name in self._to_replace):
                continue
            left_s = known[name].ends_in_s if name in known else None
            if is_covered or (record.is_expiring and left_s is not None and left_s < DRAIN_BEFORE_S):
                done += self._have_leave([name])
        return done

    def _superfluous(
        self, staying: dict[str, _LaunchRecord], count: int, members: Mapping[str, MemberSlave] | None
    ) -> list[str]:
        """Return which slaves to have leave: those that have not joined, then those with fewest tasks, the youngest."""

        def rank(name: str) -> tuple[bool, int]:
            member = None if members is None else members.get(name)
            return staying[name].joined_at is not None, 0 if member is None else member.in_flight

        youngest_first = list(staying)[::-1]
        return sorted(youngest_first, key=rank)[:count]

    def _have_leave(self, names: Iterable[str]) -> list[Instruction]:
        done: list[Instruction] = []
        for name in names:
            if self._records[name].joined_at is None:
                del self._records[name]
                done.append(EndSlaves((name,)))
            else:
                self._records[name].is_leaving = True
                done.append(DrainSlave(name))
        return done

    def _shown(self, name: str, state: LaunchedSlave | None) -> str:
        return f"slave {name} ({state.place})" if state is not None and state.place else f"slave {name}"
