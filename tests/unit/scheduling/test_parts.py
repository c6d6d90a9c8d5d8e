"""The parts below the scheduler, alone: rankings, estimates, the waiting queue, and the checker of invariants."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.ids import Digest, JobId
from concurrent_nb.scheduling.estimates import SHORTEST_S, TaskEstimates, blend
from concurrent_nb.scheduling.ranking import Ranking
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.task_queue import TaskQueue
from concurrent_nb.scheduling.validation import BrokenInvariant
from concurrent_nb.tasks.states import FINISH, move
from concurrent_nb.tasks.task_record import JobRecord, TaskRecord, TaskState
from tests.unit.scheduling.bench import JOB, Bench
from tests.unit.scheduling.client_events import gone, opened, submitted
from tests.unit.scheduling.slave_events import ended, joined, slave_id, started

# ------------------------------------------------------------------------------------------- rankings


def test_keys_come_by_rank_and_equal_ones_in_the_order_in_which_they_were_set() -> None:
    ranking: Ranking[str] = Ranking()
    for key, rank in (("c", 3.0), ("a", 1.0), ("b", 1.0)):
        ranking.set(key, rank)
    assert ranking.first() == (1.0, "a")
    assert ranking.second_rank() == 1.0
    assert ranking.take_up_to(2.9) == ["a", "b"]
    assert ranking.take_up_to(3.0) == ["c"]
    assert ranking.first() is None
    assert ranking.second_rank() is None


_step = st.tuples(st.sampled_from(["set", "discard", "take"]), st.integers(0, 5), st.floats(0, 10))


@given(st.lists(_step, max_size=400))
def test_a_ranking_is_a_sorted_dict(steps: list[tuple[str, int, float]]) -> None:
    ranking: Ranking[int] = Ranking()
    model: dict[int, float] = {}
    for step, key, rank in steps:
        if step == "set":
            ranking.set(key, rank)
            model[key] = rank
        elif step == "discard":
            ranking.discard(key)
            model.pop(key, None)
        else:
            due = [key for key in model if model[key] <= rank]
            assert set(ranking.take_up_to(rank)) == set(due)
            for key in due:
                del model[key]
        ranks = sorted(model.values())
        assert ranking.soonest == (ranks[0] if ranks else math.inf)
        first = ranking.first()
        assert (first[0] if first else None) == (ranks[0] if ranks else None)
        assert ranking.second_rank() == (ranks[1] if len(ranks) > 1 else None)
        assert (len(ranking), set(ranking), 3 in ranking) == (len(model), set(model), 3 in model)


def test_a_ranking_whose_keys_change_often_does_not_grow() -> None:
    ranking: Ranking[str] = Ranking()
    for number in range(10_000):
        ranking.set("a", float(number))
        ranking.set(str(number), float(number))
        ranking.discard(str(number))
    assert len(ranking._heap) < 100


# ------------------------------------------------------------------------------------------- estimates


def test_an_estimate_follows_what_is_measured() -> None:
    estimates, f = TaskEstimates(), Digest(b"f")
    assert estimates.get(f) is None
    estimates.measured(f, 1.0, 1)
    assert estimates.get(f) == 1.0
    estimates.measured(f, 2.0, 1)
    assert estimates.get(f) == pytest.approx(1.2)
    estimates.measured(f, 2.0, 1000)
    assert estimates.get(f) == pytest.approx(2.0)


def test_many_measurements_at_once_count_as_if_they_came_one_by_one() -> None:
    average_s = 1.0
    for _ in range(5):
        average_s = blend(average_s, 3.0, 1)
    assert blend(1.0, 3.0, 5) == pytest.approx(average_s)


def test_an_estimate_is_never_nothing() -> None:
    estimates, f = TaskEstimates(), Digest(b"f")
    estimates.measured(f, 0.0, 1)
    assert estimates.get(f) == SHORTEST_S


def test_the_function_that_was_measured_longest_ago_is_dropped() -> None:
    estimates = TaskEstimates(most=2)
    for name in (b"1", b"2", b"1", b"3"):
        estimates.measured(Digest(name), 1.0, 1)
    assert len(estimates) == 2
    assert estimates.get(Digest(b"2")) is None


# ------------------------------------------------------------------------------------------- the waiting queue


def tasks_of(owner: str, count: int, function: bytes = b"f") -> list[TaskRecord]:
    job = JobRecord(JobId(owner.encode()), owner)
    return [TaskRecord(job, index, Digest(function), b"") for index in range(count)]


def end(queue: TaskQueue, tasks: list[TaskRecord]) -> None:
    for task in tasks:
        move(task, FINISH)
    queue.ended(tasks[0].job.owner, len(tasks))


def test_a_run_is_taken_in_pieces_and_in_order() -> None:
    queue, tasks = TaskQueue(), tasks_of("me", 5)
    queue.add(tasks[:3])
    queue.add(tasks[3:])
    assert queue.take(2) == tasks[:2]
    assert queue.take(9) == tasks[2:]
    assert queue.first() is None
    assert (len(queue), queue.owners, queue.entries) == (0, 0, 0)


def test_what_is_put_back_comes_first_even_if_it_is_of_another_kind() -> None:
    queue, tasks = TaskQueue(), tasks_of("me", 3)
    queue.add(tasks[1:])
    queue.put_back(tasks[0])
    other = TaskRecord(tasks[0].job, 9, Digest(b"g"), b"")
    queue.put_back(other)
    assert queue.take(9) == [other]
    assert queue.take(9) == tasks


def test_ended_tasks_are_skipped_wherever_they_are() -> None:
    queue, tasks = TaskQueue(), tasks_of("me", 6)
    queue.add(tasks)
    end(queue, [tasks[0], tasks[2], tasks[5]])
    assert (len(queue), list(queue)) == (3, [tasks[1], tasks[3], tasks[4]])
    assert queue.take(9) == [tasks[1], tasks[3], tasks[4]]
    assert len(queue) == 0


def test_a_line_without_living_tasks_has_no_turn() -> None:
    queue, mine, yours = TaskQueue(), tasks_of("me", 3), tasks_of("you", 1)
    queue.add(mine)
    queue.add(yours)
    end(queue, mine)
    assert (queue.owners, queue.entries) == (1, 1)
    assert queue.take(9) == yours


def test_what_has_ended_does_not_gather_behind_tasks_that_are_taken() -> None:
    queue, tasks = TaskQueue(), tasks_of("me", 300)
    queue.add(tasks)
    for task in tasks[200:]:
        task.state = TaskState.FORGOTTEN
    queue.ended("me", 100)
    while queue.total > 1:
        for task in queue.take(1):
            task.state = TaskState.ASSIGNED
        assert queue.entries <= 2 * queue.total + 65


@given(st.data())
def test_a_queue_keeps_order_loses_nothing_and_does_not_grow(data: st.DataObject) -> None:
    queue, tasks = TaskQueue(), tasks_of("me", 300)
    model: list[TaskRecord] = []
    fresh = iter(tasks)

    def add() -> None:
        some = [task for task, _ in zip(fresh, range(data.draw(st.integers(0, 90))), strict=False)]
        queue.add(some)
        model.extend(some)

    def take() -> None:
        if model:
            taken = queue.take(data.draw(st.integers(1, 5)))
            assert taken == model[: len(taken)] != []
            del model[: len(taken)]

    def cancel() -> None:
        some = [task for task in model if data.draw(st.booleans())] if len(model) < 20 else model[1::2] + model[:1]
        if some:
            end(queue, some)
            model[:] = [task for task in model if task.state is TaskState.WAITING]

    steps: list[Callable[[], None]] = [add, take, cancel]
    for _ in range(data.draw(st.integers(0, 20))):
        data.draw(st.sampled_from(steps))()
        assert len(queue) == len(model)
        assert list(queue) == model
        assert queue.entries <= 2 * len(model) + 65


# ------------------------------------------------------------------------------------------- the checker itself


def _lose_from_queue(scheduler: Scheduler) -> None:
    scheduler._state.waiting.take(1)


def _lose_from_slave(scheduler: Scheduler) -> None:
    slave = scheduler.slaves[slave_id("a")]
    slave.tasks.popitem()


def _miscount_idle(scheduler: Scheduler) -> None:
    scheduler._state.idle += 1


def _miscount_started(scheduler: Scheduler) -> None:
    scheduler.slaves[slave_id("a")].started += 1


def _miscount_load(scheduler: Scheduler) -> None:
    scheduler.slaves[slave_id("a")].load += 1


def _revive(scheduler: Scheduler) -> None:
    scheduler.jobs[JOB].tasks[0].state = TaskState.WAITING


def _linger(scheduler: Scheduler) -> None:
    scheduler._state.lingering.set(JOB, 1.0)


def _orphan(scheduler: Scheduler) -> None:
    scheduler.jobs[JOB].client = None


def _end_job(scheduler: Scheduler) -> None:
    scheduler.jobs[JOB].ended = True


def _lose_deadline(scheduler: Scheduler) -> None:
    scheduler.jobs[JOB].tasks[1].started = False


BREAKAGES: list[Callable[[Scheduler], None]] = [
    _lose_from_queue,
    _lose_from_slave,
    _miscount_idle,
    _miscount_started,
    _miscount_load,
    _revive,
    _linger,
    _orphan,
    _end_job,
    _lose_deadline,
]


@pytest.mark.parametrize("break_it", BREAKAGES, ids=lambda break_it: break_it.__name__.strip("_"))
def test_a_contradiction_is_found(break_it: Callable[[Scheduler], None]) -> None:
    # Given a state in which everything occurs
    bench = Bench()
    bench(joined("a", slots=2), opened(), submitted(range(8), timeout_s=1.0))
    bench(ended("a", 0), started("a", 1))
    bench.scheduler.validate()
    # When they are falsified, then it shows
    break_it(bench.scheduler)
    with pytest.raises(BrokenInvariant):
        bench.scheduler.validate()


def test_a_state_without_owner_is_valid() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted(range(3)), gone())
