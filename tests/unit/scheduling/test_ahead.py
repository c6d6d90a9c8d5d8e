"""Tasks that are sent ahead, to the slave of the only task for whose end they wait."""

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling.ahead import LINE_MAX
from concurrent_nb.tasks.task_record import TaskState
from tests.unit.scheduling.bench import CANCELLED, DIED, ERROR, JOB, ME, OK, OTHER_JOB, TIMEOUT, YOU, Bench, F
from tests.unit.scheduling.client_events import acknowledged, cancelled, gone, needing, opened, submitted
from tests.unit.scheduling.instructions import assigned, attempts, delivered, sent_ahead, withdrawn
from tests.unit.scheduling.slave_events import ended, joined, lost, resized, returned, slave_id, started

FAILED = Status.DEPENDENCY_FAILED
QUICK_S = 0.001


def a_bench(slots: int = 1) -> Bench:
    """A slave that has measured the function."""
    bench = Bench()
    bench(joined("a", slots, 4), opened(), submitted([1000]))
    bench(ended("a", 1000, elapsed_s=QUICK_S))
    bench(acknowledged([1000]))
    return bench


def chain(count: int, start: int = 0) -> e.TasksSubmitted:
    return needing({index: [index - 1] if index else [] for index in range(start, start + count)})


def state_of(bench: Bench, index: int) -> TaskState:
    return bench.scheduler.jobs[JOB].tasks[index].state


def test_a_chain_is_sent_ahead_as_one_line_and_each_link_runs_when_the_one_before_has_ended() -> None:
    bench = a_bench()
    out = bench(chain(4))
    assert assigned(out) == {"a": [0]}
    assert sent_ahead(out) == [(0, [1, 2, 3])]
    assert attempts(out) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert bench.scheduler.blocked == 3
    out = bench(ended("a", 0, 1))
    assert delivered(out) == {0: OK, 1: OK}
    assert (assigned(out), state_of(bench, 2), state_of(bench, 3)) == ({}, TaskState.ASSIGNED, TaskState.AHEAD)
    assert bench.scheduler.slaves[slave_id("a")].load == 1
    assert delivered(bench(ended("a", 2, 3))) == {2: OK, 3: OK}
    assert bench.scheduler.blocked == 0


def test_tasks_that_come_later_are_sent_behind_the_line() -> None:
    bench = a_bench()
    bench(chain(2))
    assert sent_ahead(bench(chain(2, start=2))) == [(1, [2, 3])]


def test_a_line_grows_with_each_link_that_ran_so_and_never_beyond_its_limit() -> None:
    bench = a_bench()
    handle = bench.scheduler.handle  # all invariants are checked at the end: there are many tasks
    lengths = [len(run) for _, run in sent_ahead(handle(chain(6000), now=0.0))]
    job = bench.scheduler.jobs[JOB]
    for index in range(4000):
        lengths += [len(run) for _, run in sent_ahead(handle(ended("a", index, elapsed_s=1e-5), now=0.0))]
        handle(acknowledged([index]), now=0.0)
        assert len(bench.scheduler.slaves[slave_id("a")].followers) <= LINE_MAX
    assert job.ahead_max == LINE_MAX
    assert max(lengths) >= LINE_MAX // 3
    assert len(lengths) < 40  # they travel many at once
    bench()


def test_long_tasks_are_sent_ahead_one_by_one() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([1000]))
    bench(ended("a", 1000, elapsed_s=5.0))
    assert sent_ahead(bench(chain(4))) == [(0, [1])]
    assert sent_ahead(bench(ended("a", 0, elapsed_s=5.0))) == [(1, [2])]


@pytest.mark.parametrize("status", [ERROR, CANCELLED, TIMEOUT])
def test_those_behind_a_task_that_fails_end_with_it_and_what_the_slave_says_of_them_is_late(status: Status) -> None:
    bench = a_bench()
    bench(chain(3))
    out = bench(ended("a", 0, status=status))
    assert delivered(out) == {0: status, 1: FAILED, 2: FAILED}
    assert withdrawn(out, stop=True) == {"a": [1, 2]}
    assert bench.scheduler.slaves[slave_id("a")].load == 2  # they may run, for all that is known
    assert delivered(bench(returned("a", 1, 2))) == {}
    assert bench.scheduler.slaves[slave_id("a")].load == 0


def test_a_slave_that_returns_a_follower_with_the_failed_leader_is_not_asked_again() -> None:
    bench = a_bench()
    bench(chain(3))
    out = bench(ended("a", 0, status=ERROR), returned("a", 1, 2))
    assert delivered(out) == {0: ERROR, 1: FAILED, 2: FAILED}
    assert withdrawn(out, stop=True) == {}


def test_a_follower_whose_leader_moves_is_blocked_until_it_is_sent_behind_it_again() -> None:
    bench = a_bench()
    bench(chain(3))
    bench(resized("a", 0, 0))
    bench(returned("a", 0, 1, 2))
    assert [state_of(bench, index) for index in range(3)] == [TaskState.WAITING, TaskState.BLOCKED, TaskState.BLOCKED]
    out = bench(joined("b"))
    assert (assigned(out), sent_ahead(out)) == ({"b": [0]}, [(0, [1, 2])])


def test_a_follower_that_came_too_late_runs_as_any_other_and_fewer_are_sent_ahead_then() -> None:
    bench = a_bench()
    bench(chain(3))
    most = bench.scheduler.jobs[JOB].ahead_max
    out = bench(ended("a", 0), returned("a", 1, 2))
    assert (assigned(out), sent_ahead(out)) == ({"a": [1]}, [(1, [2])])
    assert bench.scheduler.jobs[JOB].ahead_max == most // 2


def test_a_lost_slave_blames_those_that_may_have_run() -> None:
    bench = a_bench()
    bench(chain(3))
    bench(lost("a"))
    tasks = bench.scheduler.jobs[JOB].tasks
    assert [len(tasks[index].deaths) for index in range(3)] == [1, 1, 1]
    out = bench(joined("b"))
    assert (assigned(out), sent_ahead(out)) == ({"b": [0]}, [])  # what may have killed a slave is not sent ahead
    bench(started("b", 0, attempt=2))
    bench(ended("b", 0, attempt=2))
    assert delivered(bench(ended("b", 1, attempt=2))) == {1: OK}


def test_a_task_that_is_known_to_run_alone_is_blamed() -> None:
    bench = a_bench()
    bench(chain(3))
    bench(started("a", 0))
    bench(lost("a"))
    tasks = bench.scheduler.jobs[JOB].tasks
    assert [len(tasks[index].deaths) for index in range(3)] == [1, 0, 0]


def test_suspects_run_alone_even_if_they_were_blocked_when_they_became_so() -> None:
    bench = a_bench()
    bench(chain(2))
    bench(lost("a"))
    for name in ("b", "c"):
        bench(joined(name))
        bench(ended(name, 0, status=DIED, attempt=bench.scheduler.jobs[JOB].tasks[0].attempt, body=b""))
        if 0 not in bench.scheduler.jobs[JOB].tasks or bench.scheduler.jobs[JOB].tasks[0].outcome is not None:
            break
        bench(lost(name))
    assert bench.scheduler.jobs[JOB].tasks[1].outcome is not None  # its input is quarantined


def test_a_leader_that_is_given_up_takes_its_followers_with_it() -> None:
    bench = Bench(grace_s=1.0)
    bench(joined("a"), opened(), submitted([1000]))
    bench(ended("a", 1000, elapsed_s=QUICK_S))
    pairs = [(1, [(JOB, 0)]), (2, [(JOB, 1)])]
    frames = needing({0: [], 1: [0], 2: [1]}).tasks
    bench(e.TasksSubmitted(ME, JOB, F, frames, (), timeout_s=1.0, retries=1, inputs=pairs))
    bench(started("a", 0))
    bench.after(2.5)
    out = bench.after(2.5)
    assert withdrawn(out, stop=True) == {"a": [1, 2]}
    assert (attempts(out), sent_ahead(out)) == ({0: 2, 1: 2, 2: 2}, [(0, [1, 2])])
    assert delivered(bench(ended("a", 0, 1, 2))) == {}  # of attempts that do not count any more


def test_nothing_is_sent_ahead_while_another_owner_waits() -> None:
    bench = a_bench()
    bench(opened(client=YOU, job=OTHER_JOB, owner="you"))
    bench(chain(1), submitted(range(10), client=YOU, job=OTHER_JOB))
    assert sent_ahead(bench(chain(2, start=1))) == []


def test_an_abandoned_job_leaves_nothing_on_the_slave() -> None:
    bench = a_bench()
    bench(chain(3))
    bench(gone(linger_s=1.0))
    out = bench.after(2.0)
    assert sorted(withdrawn(out, stop=True)["a"]) == [0, 1, 2]
    bench(returned("a", 0, 1, 2))
    assert not bench.scheduler.slaves[slave_id("a")].unconfirmed


def test_a_cancelled_job_gets_its_followers_back() -> None:
    bench = a_bench()
    bench(chain(3))
    out = bench(cancelled())
    assert withdrawn(out, stop=True) == {"a": [0, 1, 2]}
    out = bench(ended("a", 0, status=CANCELLED), returned("a", 1, 2))
    assert delivered(out) == dict.fromkeys(range(3), CANCELLED)


def test_a_follower_that_a_worker_had_ends_as_cancelled_before_its_leader() -> None:
    bench = a_bench()
    bench(chain(3))
    bench(cancelled())
    assert delivered(bench(ended("a", 2, 1, status=CANCELLED))) == {2: CANCELLED, 1: CANCELLED}
    assert delivered(bench(ended("a", 0, status=CANCELLED))) == {0: CANCELLED}
    assert bench.scheduler.slaves[slave_id("a")].load == 0
