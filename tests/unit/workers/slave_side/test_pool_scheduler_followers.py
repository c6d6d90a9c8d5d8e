"""Tasks that need the result of the one before: they are in the worker of that one, or nowhere."""

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import Assign, Needs, TaskFrame, TaskRef
from concurrent_nb.workers.slave_side.attempts import Attempt
from concurrent_nb.workers.slave_side.pool_scheduler.worker_table import FOLLOW_S, NO_AHEAD_S
from tests.unit.workers.slave_side.model import JOB, F, G, Model
from tests.unit.workers.slave_side.test_pool_scheduler import make, teach

QUICK_S = 1e-4


def with_a_task(slots: int = 2, taught_s: float | None = QUICK_S) -> tuple[Model, int, Attempt]:
    """A model whose worker of this number has a task."""
    model = make(slots, taught_s)
    model.take_reports()
    model.assign([0])
    (number,) = [number for number, worker in model.workers.items() if worker.unstarted]
    return model, number, model.workers[number].unstarted[0]


def returned(model: Model) -> list[int]:
    return [ref.index for ref in model.take_reports().returned]


def test_tasks_follow_the_one_before_into_its_worker_and_run_there() -> None:
    model, number, leader = with_a_task()
    assert model.follow(range(1, 4), leader) == 3
    assert [attempt.index for attempt in model.workers[number].unstarted] == [0, 1, 2, 3]
    assert model.scheduler.unfinished == 4
    for _ in range(4):
        model.run(number, QUICK_S)
    model.take_reports()
    assert [ref.index for ref, _ in model.ended][-4:] == [0, 1, 2, 3]
    assert model.scheduler.unfinished == 0


def test_as_many_follow_as_take_a_moment_together() -> None:
    model, _, leader = with_a_task()
    assert model.follow(range(1, 100_000), leader) == pytest.approx(FOLLOW_S / QUICK_S, rel=0.5)


@pytest.mark.parametrize("taught_s", [None, NO_AHEAD_S])
def test_nothing_follows_a_task_that_may_be_slow(taught_s: float | None) -> None:
    model, _, leader = with_a_task(taught_s=taught_s)
    assert model.follow([1], leader) == 0


def test_nothing_follows_that_may_be_slow() -> None:
    model, _, leader = with_a_task()
    assert model.follow([1], leader, G) == 0
    teach(model, QUICK_S, G)
    assert model.follow([1], leader, G) == 1


def test_nothing_follows_a_task_that_is_not_the_last_of_its_worker_or_waits() -> None:
    model, number, leader = with_a_task(slots=1)
    model.assign(range(1, 3))
    waiting = Attempt(0, JOB, 99, 1, F, None, b"", (), ())
    assert model.follow([5], waiting) == 0
    assert (model.follow([5], leader) == 0) == (model.workers[number].unstarted[-1] is not leader)


def test_nothing_follows_where_it_could_not_stay() -> None:
    model, _, leader = with_a_task()
    model.withdraw([0], stop=False)
    assert model.follow([1], leader) == 0
    model.assign([2], timeout_s=5.0)
    (timed,) = [attempt for worker in model.workers.values() for attempt in worker.unstarted]
    assert model.follow([3], timed) == 0
    model = make(2, QUICK_S)
    model.assign([0], needs=Needs(2))
    (wide,) = [attempt for worker in model.workers.values() for attempt in worker.unstarted]
    assert model.follow([1], wide) == 0


def test_a_task_whose_input_is_not_there_is_returned() -> None:
    model, number, leader = with_a_task()
    model.follow([1, 2], leader)
    model.run(number, QUICK_S, Status.ERROR)
    model.skip_followers(number)
    model.flush(number)
    assert returned(model) == [1, 2]
    assert model.scheduler.unfinished == 0


def test_an_idle_worker_does_not_take_what_only_another_one_can_run() -> None:
    model, number, leader = with_a_task()
    model.follow(range(1, 500), leader)
    model.begin(number)
    model.pass_time(0.001)
    assert len(model.workers[number].unstarted) == 499
    assert returned(model) == []


def test_what_is_behind_a_task_that_turns_out_slow_is_returned_and_the_task_goes_on() -> None:
    model, number, leader = with_a_task()
    model.follow([1, 2], leader)
    model.begin(number)
    model.pass_time(0.1)
    assert returned(model) == [2, 1]
    assert model.follow([1, 2], leader) == 0
    model.end(number)
    model.flush(number)
    assert model.scheduler.unfinished == 0


def test_stopping_a_task_ends_it_and_returns_what_is_behind_it() -> None:
    model, number, leader = with_a_task()
    model.follow([1, 2, 3], leader)
    model.begin(number)
    model.withdraw([2], stop=True)
    assert returned(model) == [3, 1]
    assert model.ended[-1][1].status == Status.CANCELLED
    assert model.scheduler.unfinished == 1


def test_a_worker_that_dies_returns_what_was_behind_the_running_task() -> None:
    model, number, leader = with_a_task()
    model.follow([1, 2], leader)
    model.run(number, QUICK_S)
    model.begin(number)
    model.die(number)
    assert returned(model) == [2]
    assert [(ref.index, frame.status) for ref, frame in model.ended][-2:] == [(0, Status.OK), (1, Status.DIED)]


def test_an_attempt_that_is_here_does_not_follow_again() -> None:
    model, _, leader = with_a_task()
    assert model.follow([1], leader) == 1
    frames = [TaskFrame(1, 1, b"args")]
    run = Assign(JOB, F, None, frames, None, TaskRef(JOB, 1, 1))
    assert model.scheduler.followed(run, model.clock()) == (0, [])


def test_a_draining_pool_takes_none() -> None:
    model, _, leader = with_a_task()
    model.execute(model.scheduler.drained())
    assert model.follow([1], leader) == 0
