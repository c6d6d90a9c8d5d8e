"""Tasks that the master has sent ahead: each waits here for the end of another attempt, its leader.

    Assign with `behind` -> hold        a leader has succeeded -> bound to its result: run, like any other task
                                        anything else becomes of it, or it is unknown -> returned to the master

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

#: (job, index, attempt)
_Key = tuple[bytes, int, int]
_OK: Final = int(Status.OK)


@dataclass(slots=True)
class _Follower:
    """A task that waits, and the run with which it came."""

    run: m.Assign
    frame: m.TaskFrame
    buffers: Buffers

    @property
    def key(self) -> _Key:
        return self.run.job, self.frame.index, self.frame.attempt


class Followers:
    """All tasks that wait for their leaders."""

    def __init__(self) -> None:
        self.returned: list[m.TaskRef] = []  #: these do not run here; the caller takes them
        self._behind: dict[_Key, _Follower] = {}  # by the key of the leader
        self._leader_of: dict[_Key, _Key] = {}  # by the follower's own key
        self._unchecked: list[_Key] = []  # whose leader may be unknown

    def __len__(self) -> int:
        return len(self._leader_of)

    def hold(self, run: m.Assign, buffers: ItemBuffers) -> None:
        """Keep tasks of which the first waits for `run.behind`, and each other one for the one before."""
        leader = run.behind
        assert leader is not None
        before = leader.job, leader.index, leader.attempt
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
        """Return the tasks of these that wait here to the master; the others are the result."""
        others = []
        for ref in refs:
            leader = self._leader_of.get((ref.job, ref.index, ref.attempt))
            if leader is None:
                others.append(ref)
            else:
                self._give_back(leader)
        return others

    def go_on(
        self,
        ended: Iterable[tuple[bytes, Sequence[m.OutcomeFrame], Sequence[Sequence[Buffer]]]],
        returned: Iterable[m.TaskRef],
    ) -> list[tuple[m.Assign, ItemBuffers]]:
        """Return the tasks that can run now, because their leaders are among the outcomes `ended`.

        Args:
            ended: what workers have reported, by job.
            returned: attempts that were not begun here.
        """
        ready = []
        for job, frames, buffers in ended:
            for at, frame in enumerate(frames):
                key = (job, frame.index, frame.attempt)
                if key in self._behind:
                    bound = self._bind(key, frame, buffers[at] if buffers else ())
                    if bound is not None:
                        ready.append(bound)
        for ref in returned:
            self._give_back((ref.job, ref.index, ref.attempt))
        return ready

    def check(self, has: Callable[[m.TaskRef], bool]) -> None:
        """Return those new tasks whose leader is not here: its end was reported before they came."""
        unchecked, self._unchecked = self._unchecked, []
        for key in unchecked:
            leader = self._leader_of.get(key)
            if leader is not None and leader not in self._leader_of and not has(m.TaskRef(*leader)):
                self._give_back(leader)

    def drain(self) -> None:
        """Return all tasks that wait."""
        for leader in list(self._behind):
            self._give_back(leader)

    def _bind(
        self, leader: _Key, outcome: m.OutcomeFrame, result: Sequence[Buffer]
    ) -> tuple[m.Assign, ItemBuffers] | None:
        """Return the task behind a leader that has ended, with its result; None if it is returned."""
        follower = self._behind[leader]
        run, frame = follower.run, follower.frame
        is_bound = outcome.status == _OK and not slices_of(outcome.sizes)
        if not is_bound or len(frame.sizes) + len(outcome.sizes) >= m.BUFFERS_MAX - 1:
            self._give_back(leader)
            return None
        del self._behind[leader], self._leader_of[follower.key]
        parts = ResultParts(leader[0], leader[1], outcome.body, outcome.sizes, result)
        body, sizes, buffers = move_long_body(*bind(frame.kind, frame.body, frame.sizes, follower.buffers, [parts]))
        bound = m.TaskFrame(frame.index, frame.attempt, body, sizes, int(m.TaskKind.BOUND))
        return m.Assign(run.job, run.function, run.timeout_s, [bound], run.needs), [buffers] if buffers else ()

    def _give_back(self, leader: _Key) -> None:
        """Return the task behind a leader, and all that are behind it."""
        follower = self._behind.pop(leader, None)
        while follower is not None:
            key = follower.key
            del self._leader_of[key]
            self.returned.append(m.TaskRef(*key))
            follower = self._behind.pop(key, None)
