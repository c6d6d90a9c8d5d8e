"""Tasks that are sent ahead: to the slave of the only task for whose end they wait, before it ends.

    leader (ASSIGNED) <-- follower (AHEAD) <-- follower (AHEAD) ... : a line, on one slave

The slave binds the leader's result to its follower and starts it, without a way to the master and back for each link of
a chain. A task has one follower at most, which gets its slot. Whatever else becomes of the leader there, the slave
returns the follower, which is BLOCKED again. A follower whose leader is given up here is withdrawn.

A line has at most `JobRecord.ahead_max` tasks, and about `AHEAD_S` of work. None is sent while another owner's tasks
wait, or the owner's results are not taken. Called by the scheduler.
"""

from itertools import islice
from typing import Final

from concurrent_nb.scheduling.scheduler_state import SchedulerState
from concurrent_nb.tasks.shared_objects import objects_of
from concurrent_nb.tasks.task_record import Line, TaskLinks, TaskRecord, TaskState
from concurrent_nb.wire.messages import TaskRef

#: most tasks of one line
LINE_MAX: Final = 1024
#: seconds of work in a line
AHEAD_S: Final = 0.25
#: ... and most tasks whose run time is unknown
UNKNOWN_MAX: Final = 4
#: most tasks that are sent ahead to one slave
FOLLOWERS_MAX: Final = 4096
#: so many dependents of a task are looked at
_SEEN_MAX: Final = 4
#: a job whose tasks came too late has one sent ahead once in so many times
_RETRY_EVERY: Final = 32


class Ahead:
    """Decide which tasks are sent ahead, and when they count as assigned."""

    def __init__(self, state: SchedulerState) -> None:
        self._state = state

    def send(self, now: float) -> None:
        """Send tasks ahead behind `SchedulerState.leaders`, as far as the limits allow."""
        leaders, self._state.leaders = self._state.leaders, []
        for leader in leaders:
            self._extend(leader, now)

    def promote(self, leader: TaskRecord) -> None:
        """Note that a leader has succeeded: its follower runs, or will."""
        state, links = self._state, leader.links
        assert links is not None
        task, links.follower, links.line = links.follower, None, None
        assert task is not None
        assert task.slave is not None
        assert task.links is not None
        line = task.links.line
        assert line is not None
        slave = state.slaves[task.slave]
        slave.promote(task, state.task_log.now_s)
        state.touch(slave)
        state.unblock(task)
        task.links.leader, task.links.missing, task.links.was_ahead = None, 0, True
        task.objects = objects_with_inputs(task)
        line.length -= 1
        job = task.job
        if links.was_ahead:
            job.ahead_max = min(LINE_MAX, 2 * job.ahead_max or 1)
        if line.length <= job.ahead_max // 2:
            state.leaders.append(line.tail)

    def came_back(self, task: TaskRecord) -> None:
        """Note that a slave has returned a task, which was released."""
        links = task.links
        if links is not None and links.was_ahead:
            links.was_ahead = False
            task.job.ahead_max //= 2

    def withdraw(self, task: TaskRecord) -> None:
        """Withdraw a follower, and those behind it: its leader was given up, or has failed. They are blocked again."""
        state = self._state
        follower: TaskRecord | None = task
        while follower is not None and follower.slave is not None and follower.links is not None:
            behind = follower.links.follower
            slave = state.slaves[follower.slave]
            state.outbox.withdraw(slave.id, TaskRef(follower.job.id, follower.index, follower.attempt), stop=True)
            state.release_unconfirmed(follower, slave)
            follower = behind

    def _extend(self, leader: TaskRecord, now: float) -> None:
        state, links = self._state, leader.links
        if links is None or leader.slave is None or links.follower is not None:
            return
        slave, job = state.slaves[leader.slave], leader.job
        if leader.needs is not None or leader.suspect or leader.cancelled or not slave.is_usable or slave.closed:
            return
        if job.owner in state.paused or len(state.waiting) > state.waiting.of(job.owner):
            return
        if (most := self._most(leader)) < 1:
            return
        line = links.line
        if leader.state is TaskState.AHEAD:
            if line is None or line.tail is not leader:
                return
        elif line is None or line.length or line.tail is not leader:
            line = Line(leader)
        while line.length < most and len(slave.followers) < FOLLOWERS_MAX:
            assert leader.links is not None
            if leader.links.follower is not None:
                return  # of an attempt before, which its slave has not returned yet
            task = _next_of(leader)
            if task is None:
                return
            assert task.links is not None
            slave.follow(task, state.estimates.get(task.function) or 0.0, now)
            leader.links.follower, leader.links.line = task, line
            task.links.leader, task.links.line = leader, line
            line.tail, line.length = task, line.length + 1
            if task.objects:
                state.locations.hold(slave, [each for each, _ in task.objects])
            state.outbox.send_ahead(slave.id, task, leader)
            leader = task

    def _most(self, leader: TaskRecord) -> int:
        """Return how many tasks the line of a leader may have."""
        state, job = self._state, leader.job
        if leader.function in state.estimates.large_bytes:
            return 0  # they are in shared memory, which the slave does not bind
        estimate_s = state.estimates.get(leader.function)
        by_time = UNKNOWN_MAX if estimate_s is None else max(1, int(AHEAD_S / estimate_s))
        if job.ahead_max:
            return min(job.ahead_max, by_time)
        job.ahead_skipped += 1
        if job.ahead_skipped < _RETRY_EVERY:
            return 0
        job.ahead_skipped = 0
        return 1


def may_lead(links: TaskLinks) -> bool:
    """Return whether the first task that waits for one waits for nothing else. Cheap: called for each linked task."""
    dependents = links.dependents
    return bool(dependents) and (first := dependents[0].links) is not None and first.missing == 1


def objects_with_inputs(task: TaskRecord) -> tuple[tuple[bytes, int], ...]:
    """Return the shared objects of a task and of the results that it needs."""
    assert task.links is not None
    objects = dict(task.objects)
    for needed in task.links.inputs:
        if needed.outcome is not None and needed.outcome.sizes:
            objects.update(objects_of(needed.outcome.sizes))
    return tuple(objects.items())


def _next_of(leader: TaskRecord) -> TaskRecord | None:
    """Return a dependent that waits for nothing else, and may be sent ahead."""
    assert leader.links is not None
    for task in islice(leader.links.dependents, _SEEN_MAX):
        is_free = task.state is TaskState.BLOCKED and task.links is not None and task.links.missing == 1
        if is_free and task.needs is None and not (task.deaths or task.cancelled or task.job.ended):
            return task
    return None
