"""Tasks that the master has sent ahead: each waits here for the end of another attempt, its leader.

    Assign with `behind` -> hold --give--> the leader's worker has it, and runs it with the leader's result
                              |                 | it comes back: the worker has been recalled, was slow, or died
                              |<----------------'
                              '--the leader has succeeded--> bound to its result: run, like any other task

    anything else becomes of the leader, or it is unknown -> returned to the master

Pure. A leader is an attempt that a worker has or will get, or itself one that waits here. Results in shared memory are
not bound here: only the master knows how long they are needed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.bound_tasks import ResultParts, bind
from concurrent_nb.wire.codec import Buffer, Buffers, ItemBuffers, move_long_body, slices_of

#: most tasks that are given to a worker at once
GIVEN_MAX: Final = 1024
#: (job, index, attempt)
_Key = tuple[bytes, int, int]
_OK: Final = int(Status.OK)


@dataclass(slots=True)
class _Follower:
    """A task that waits, and the run with which it came."""

    run: m.Assign
    frame: m.TaskFrame
    buffers: Buffers
    is_given: bool = False  #: its leader's worker has it
    is_void: bool = False  #: ... and it is returned to the master when it comes back
    result: ResultParts | None = None  #: of its leader, which has ended; only while a worker has it

    @property
    def key(self) -> _Key:
        return self.run.job, self.frame.index, self.frame.attempt


class Followers:
    """All tasks that wait for their leaders."""

    def __init__(self) -> None:
        self.returned: list[m.TaskRef] = []  #: these do not run here; the caller takes them
        self._behind: dict[_Key, _Follower] = {}  # by the key of the leader
        self._leader_of: dict[_Key, _Key] = {}  # by the follower's own key
        self._unchecked: list[_Key] = []  # followers whose leader may be unknown
        self._ungiven: list[_Key] = []  # leaders whose worker may get what is behind them

    def __len__(self) -> int:
        return len(self._leader_of)

    def hold(self, run: m.Assign, buffers: ItemBuffers) -> None:
        """Keep tasks of which the first waits for `run.behind`, and each other one for the one before."""
        leader = run.behind
        assert leader is not None
        before = leader.job, leader.index, leader.attempt
        self._ungiven.append(before)
        for at, frame in enumerate(run.tasks):
            follower = _Follower(run, frame, buffers[at] if buffers else ())
            key = follower.key
            if before in self._behind or key in self._leader_of:  # it has one already
                self.returned.append(m.TaskRef(*key))
            else:
                self._behind[before] = follower
                self._leader_of[key] = before
                self._unchecked.append(key)
            before = key

    def withdraw(self, refs: Sequence[m.TaskRef]) -> Sequence[m.TaskRef]:
        """Return the tasks of these that wait here to the master. The result are the others, which workers have."""
        others = []
        for ref in refs:
            leader = self._leader_of.get((ref.job, ref.index, ref.attempt))
            if leader is None:
                others.append(ref)
            else:
                if self._behind[leader].is_given:
                    others.append(ref)
                self._give_back(leader)
        return others

    def go_on(
        self,
        ended: Iterable[tuple[bytes, Sequence[m.OutcomeFrame], Sequence[Sequence[Buffer]]]],
        returned: Iterable[m.TaskRef],
    ) -> tuple[list[tuple[m.Assign, ItemBuffers]], list[m.TaskRef]]:
        """Return the tasks that can run now, and those of `returned` that are for the master.

        Args:
            ended: what workers have reported, by job.
            returned: attempts that were not begun here.
        """
        ready: list[tuple[m.Assign, ItemBuffers]] = []
        for job, frames, buffers in ended:
            for at, frame in enumerate(frames):
                key = (job, frame.index, frame.attempt)
                if (leader := self._leader_of.pop(key, None)) is not None:
                    del self._behind[leader]
                if key in self._behind:
                    self._leader_ended(key, frame, buffers[at] if buffers else (), ready)
        others = []
        for ref in returned:
            key = (ref.job, ref.index, ref.attempt)
            leader = self._leader_of.get(key)
            if leader is None:
                others.append(ref)
                self._give_back(key)
            else:
                self._came_back(leader, ready)
        return ready, others

    def check(self, has: Callable[[m.TaskRef], bool]) -> None:
        """Return those tasks whose leader is not here: its end was reported before they came."""
        unchecked, self._unchecked = self._unchecked, []
        for key in unchecked:
            leader = self._leader_of.get(key)
            if leader is not None and leader not in self._leader_of and not has(m.TaskRef(*leader)):
                self._give_back(leader)

    def give(self, follow: Callable[[m.Assign], int]) -> None:
        """Have the workers of leaders take what is behind them.

        Args:
            follow: has a worker take tasks, of which the first is behind the last one that it has; returns how many.
        """
        leaders, self._ungiven = self._ungiven, []
        for leader in leaders:
            while line := self._line(leader):
                first = line[0].run
                frames = [follower.frame for follower in line]
                run = m.Assign(first.job, first.function, None, frames, None, m.TaskRef(*leader))
                count = follow(run)
                for follower in line[:count]:
                    follower.is_given = True
                if count < len(line):
                    break
                leader = line[-1].key

    def drain(self) -> None:
        """Return all tasks that wait."""
        for leader in list(self._behind):
            self._give_back(leader)

    def _line(self, leader: _Key) -> list[_Follower]:
        """Return the tasks behind a leader that can travel to its worker together."""
        line: list[_Follower] = []
        while len(line) < GIVEN_MAX:
            follower = self._behind.get(leader)
            if follower is None or follower.is_given or follower.is_void:
                break
            run, first = follower.run, line[0].run if line else follower.run
            if run.timeout_s is not None or follower.frame.sizes:
                break
            if (run.job, run.function) != (first.job, first.function):
                break
            line.append(follower)
            leader = follower.key
        return line

    def _leader_ended(
        self,
        leader: _Key,
        outcome: m.OutcomeFrame,
        buffers: Sequence[Buffer],
        ready: list[tuple[m.Assign, ItemBuffers]],
    ) -> None:
        follower = self._behind[leader]
        is_bound = outcome.status == _OK and not slices_of(outcome.sizes) and not follower.is_void
        if not is_bound or len(follower.frame.sizes) + len(outcome.sizes) >= m.BUFFERS_MAX - 1:
            self._give_back(leader)
            return
        result = ResultParts(leader[0], leader[1], outcome.body, outcome.sizes, buffers)
        if follower.is_given:
            follower.result = result
        else:
            ready.append(self._bind(leader, result))

    def _came_back(self, leader: _Key, ready: list[tuple[m.Assign, ItemBuffers]]) -> None:
        """Handle a task that its leader's worker had, and has not begun."""
        follower = self._behind[leader]
        follower.is_given = False
        if follower.is_void:
            self._give_back(leader)
        elif follower.result is not None:
            ready.append(self._bind(leader, follower.result))
        else:
            self._unchecked.append(follower.key)

    def _bind(self, leader: _Key, result: ResultParts) -> tuple[m.Assign, ItemBuffers]:
        """Return the task behind a leader with its result."""
        follower = self._behind.pop(leader)
        key, run, frame = follower.key, follower.run, follower.frame
        del self._leader_of[key]
        if key in self._behind:
            self._ungiven.append(key)
        body, sizes, buffers = move_long_body(*bind(frame.kind, frame.body, frame.sizes, follower.buffers, [result]))
        bound = m.TaskFrame(frame.index, frame.attempt, body, sizes, int(m.TaskKind.BOUND))
        return m.Assign(run.job, run.function, run.timeout_s, [bound], run.needs), [buffers] if buffers else ()

    def _give_back(self, leader: _Key) -> None:
        """Return the task behind a leader, and all that are behind it; those that a worker has when they come back."""
        follower = self._behind.get(leader)
        while follower is not None:
            key = follower.key
            if follower.is_given:
                follower.is_void = True
                return
            del self._behind[self._leader_of.pop(key)]
            self.returned.append(m.TaskRef(*key))
            follower = self._behind.get(key)
