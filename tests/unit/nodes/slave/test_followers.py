"""Tasks that the master has sent ahead: bound to the result of their leader, or returned."""

from collections.abc import Sequence

import pytest

from concurrent_nb.nodes.slave.core import SlaveCore
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.bound_tasks import Results, unbind
from concurrent_nb.wire.codec import Buffers, decode
from concurrent_nb.wire.session import Session
from tests.inline_pool import InlinePool

JOB = b"the job's id...."
F = b"f" * 32
EPOCH = 7


class Workers(InlinePool):
    """Workers that end tasks when a test says so, and take tasks behind others if they may."""

    takes_followers = 0  #: how many at once

    def follow(self, run: m.Assign, now: float) -> int:
        """Take some of the tasks."""
        count = min(self.takes_followers, len(run.tasks))
        if count and run.behind is not None and self.has(run.behind):
            self.assign(m.Assign(run.job, run.function, None, run.tasks[:count]), (), now)
            return count
        return 0

    def take_reports(self):  # type: ignore[no-untyped-def]
        reports, self._reports = self._reports, type(self._reports)()
        return reports

    def end(self, index: int, status: Status = Status.OK, body: bytes = b"v", sizes: m.Sizes = ()) -> None:
        """End the attempt of an index."""
        (item,) = [item for item in self.waiting if item[2].index == index]
        self.waiting.remove(item)
        outcome = m.OutcomeFrame(index, item[2].attempt, status, 0.01, 1, body, sizes)
        self._reports.outcomes.append((JOB, [outcome], []))

    def give_back(self, index: int) -> None:
        """Return the attempt of an index."""
        (item,) = [item for item in self.waiting if item[2].index == index]
        self.waiting.remove(item)
        self._reports.returned.append(m.TaskRef(JOB, index, item[2].attempt))

    def release(self, slices: Sequence[m.Slice], *, clean: bool) -> None:
        """Take slices back."""

    def degrade(self) -> None:
        """Start no more workers."""
        self._reports.degraded = "no worker starts"


class Slave:
    """A slave's core and the master's end of its session."""

    def __init__(self) -> None:
        self.workers = Workers()
        self.core = SlaveCore("east", EPOCH, self.workers, interval_s=1.0)
        self.master = Session(EPOCH, "from_slave")
        self.now = 0.0

    def __call__(self, *messages: m.AnyMessage) -> list[tuple[str, list[int]]]:
        """Let the slave receive messages; return what it reports, in order."""
        self.now += 1.0
        for message in messages:
            self.master.send(message)
        for envelope in self.master.flush(self.now):
            self.core.received(envelope, self.now)
        said = []
        for frames in self.core.step(self.now):
            for item in self.master.receive(frames, self.now):
                if type(item.message) is m.Outcomes:
                    said.append(("ended", [frame.index for frame in item.message.items]))
                elif type(item.message) is m.Returned:
                    said.append(("returned", [ref.index for ref in item.message.tasks]))
        return said

    @property
    def waiting(self) -> list[int]:
        """The tasks that workers have."""
        return [frame.index for _, _, frame, _ in self.workers.waiting]


def run(*indexes: int, behind: int | None = None, attempt: int = 1) -> m.Assign:
    frames = [m.TaskFrame(index, attempt, b"arguments") for index in indexes]
    return m.Assign(JOB, F, None, frames, None, None if behind is None else m.TaskRef(JOB, behind, 1))


def bound(frame: m.TaskFrame, buffers: Buffers = ()) -> tuple[bytes, dict[tuple[bytes, int], bytes]]:
    """The arguments of a bound task, and the pickles of the results that it has."""
    results: Results = {}
    kind, body, _ = unbind(frame.body, buffers, results)
    assert (frame.kind, kind) == (m.TaskKind.BOUND, m.TaskKind.CALL)
    return bytes(body), {key: bytes(result) for key, (result, _) in results.items()}


@pytest.fixture
def slave() -> Slave:
    slave = Slave()
    slave(m.Function(F, pickles.dumps(len)[0]))
    return slave


def test_each_task_of_a_line_gets_the_result_of_the_one_before(slave: Slave) -> None:
    assert slave(run(0), run(1, 2, behind=0)) == []
    assert slave.waiting == [0]
    slave.workers.end(0, body=b"zero")
    assert slave() == [("ended", [0])]
    (_, _, frame, buffers) = slave.workers.waiting[0]
    assert bound(frame, buffers) == (b"arguments", {(JOB, 0): b"zero"})
    slave.workers.end(1, body=b"one")
    assert slave() == [("ended", [1])]
    (_, _, frame, buffers) = slave.workers.waiting[0]
    assert (frame.index, bound(frame, buffers)[1]) == (2, {(JOB, 1): b"one"})


@pytest.mark.parametrize("status", [Status.ERROR, Status.HIT, Status.DIED, Status.CANCELLED])
def test_whatever_else_becomes_of_a_leader_its_line_is_returned_after_its_outcome(slave: Slave, status: Status) -> None:
    slave(run(0), run(1, 2, behind=0))
    slave.workers.end(0, status)
    assert slave() == [("ended", [0]), ("returned", [1, 2])]
    assert slave.waiting == []


def test_a_result_in_shared_memory_is_not_bound_here(slave: Slave) -> None:
    slave(run(0), run(1, behind=0))
    slave.workers.end(0, body=b"", sizes=(m.Slice(b"s" * 16, 0, 8, 1),))
    assert slave() == [("ended", [0]), ("returned", [1])]


def test_a_follower_of_a_task_that_is_returned_or_unknown_is_returned(slave: Slave) -> None:
    slave(run(0), run(1, behind=0))
    slave.workers.give_back(0)
    assert slave() == [("returned", [0, 1])]
    assert slave(run(5, 6, behind=4)) == [("returned", [5, 6])]


def test_a_follower_that_comes_with_the_end_of_its_leader_still_gets_the_result(slave: Slave) -> None:
    slave(run(0))
    slave.workers.end(0)
    assert slave(run(1, behind=0)) == [("ended", [0])]
    assert slave.waiting == [1]


@pytest.fixture
def given(slave: Slave) -> Slave:
    """A slave one of whose workers has a task and two behind it, of three."""
    slave.workers.takes_followers = 2
    slave(run(0), run(1, 2, 3, behind=0))
    assert slave.waiting == [0, 1, 2]
    return slave


def test_a_worker_that_has_the_line_runs_it_without_being_told(given: Slave) -> None:
    given.workers.end(0)
    given.workers.end(1)
    assert given() == [("ended", [0]), ("ended", [1])]
    assert given.waiting == [2]
    given.workers.end(2, body=b"two")
    given()
    (_, _, frame, buffers) = given.workers.waiting[0]
    assert (frame.index, bound(frame, buffers)[1]) == (3, {(JOB, 2): b"two"})


def test_what_comes_back_from_a_worker_waits_again_or_is_bound(given: Slave) -> None:
    given.workers.give_back(1)
    given.workers.give_back(2)
    assert given() == []  # the leader goes on
    given.workers.takes_followers = 0
    given.workers.end(0, body=b"zero")
    assert given() == [("ended", [0])]
    (_, _, frame, buffers) = given.workers.waiting[0]
    assert (frame.index, bound(frame, buffers)[1]) == (1, {(JOB, 0): b"zero"})


def test_what_comes_back_after_its_leader_has_ended_is_bound_to_the_result(given: Slave) -> None:
    given.workers.end(0, body=b"zero")
    given()
    given.workers.takes_followers = 0
    given.workers.give_back(1)
    assert given() == []
    (_, _, frame, buffers) = given.workers.waiting[-1]
    assert (frame.index, bound(frame, buffers)[1]) == (1, {(JOB, 0): b"zero"})
    given.workers.give_back(2)  # it was behind another attempt in the worker
    assert given() == []
    given.workers.end(1, body=b"one")
    assert given() == [("ended", [1])]
    assert given.waiting == [2]


def test_what_a_worker_has_behind_a_task_that_fails_is_returned_when_it_comes_back(given: Slave) -> None:
    given.workers.end(0, Status.ERROR)
    assert given() == [("ended", [0])]
    given.workers.give_back(1)
    given.workers.give_back(2)
    assert given() == [("returned", [1, 2, 3])]


def test_what_a_worker_has_is_withdrawn_from_it_and_returned(given: Slave) -> None:
    assert given(m.Withdraw([m.TaskRef(JOB, 2, 1)], False)) == [("returned", [2, 3])]
    assert given.waiting == [0, 1]


def test_what_a_worker_has_is_returned_by_a_slave_that_drains(given: Slave) -> None:
    given.core.drain()
    given.workers.give_back(2)
    assert given() == [("returned", [3, 2])]
    given.workers.end(0)
    given.workers.end(1)
    assert given() == [("ended", [0]), ("ended", [1])]


def test_a_second_follower_is_returned(slave: Slave) -> None:
    assert slave(run(0), run(1, behind=0), run(2, behind=0)) == [("returned", [2])]


@pytest.mark.parametrize("stop", [False, True])
def test_a_follower_that_is_withdrawn_is_returned_with_those_behind_it(slave: Slave, stop: bool) -> None:
    slave(run(0), run(1, 2, 3, behind=0))
    assert slave(m.Withdraw([m.TaskRef(JOB, 2, 1), m.TaskRef(JOB, 0, 1)], stop)) == [("returned", [0, 2, 3, 1])]


def test_a_slave_that_drains_returns_its_followers_and_those_that_still_come(slave: Slave) -> None:
    slave(run(0), run(1, 2, behind=0))
    slave.core.drain()
    assert slave() == [("returned", [1, 2])]
    assert slave(run(3, behind=0)) == [("returned", [3])]


def test_a_slave_without_workers_returns_its_followers(slave: Slave) -> None:
    slave(run(0), run(1, behind=0))
    slave.workers.degrade()
    assert slave() == [("returned", [1])]


def test_tasks_of_several_jobs_may_wait_for_each_other(slave: Slave) -> None:
    other = b"another job's id"
    behind = m.Assign(other, F, None, [m.TaskFrame(0, 1, b"arguments")], None, m.TaskRef(JOB, 0, 1))
    slave(run(0), behind)
    slave.workers.end(0)
    slave()
    assert [(job, frame.index) for job, _, frame, _ in slave.workers.waiting] == [(other, 0)]


def test_a_pool_that_runs_tasks_when_it_is_asked_gets_through_a_line_in_one_turn() -> None:
    pool = InlinePool()
    core = SlaveCore("east", EPOCH, pool, interval_s=1.0)
    master = Session(EPOCH, "from_slave")
    master.send(m.Function(F, pickles.dumps(abs)[0]))
    master.send(run_of(abs, 0))
    master.send(run(1, 2, behind=0))
    for envelope in master.flush(0.0):
        core.received(envelope, 0.0)
    ended: list[Sequence[m.OutcomeFrame]] = [
        item.message.items
        for frames in core.step(0.0)
        for item in decode(frames, "from_slave")[1]
        if type(item.message) is m.Outcomes
    ]
    statuses = [frame.status for frames in ended for frame in frames]
    assert statuses[0] == Status.OK
    assert len(statuses) >= 2


def run_of(function: object, index: int) -> m.Assign:
    return m.Assign(JOB, F, None, [m.TaskFrame(index, 1, pickles.dumps((-1,))[0])])
