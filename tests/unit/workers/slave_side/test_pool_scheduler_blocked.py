"""A task that waits for tasks of its own lends its slot, so that what it waits for can run."""

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import Needs
from concurrent_nb.workers.slave_side.attempts import Dismiss, Start
from concurrent_nb.workers.slave_side.pool_scheduler import outcome_frames, reserve
from concurrent_nb.workers.slave_side.pool_scheduler.pool_scheduler import PoolScheduler
from concurrent_nb.workers.slave_side.pool_scheduler.pool_state import PAGE_POLL_S
from concurrent_nb.workers.slave_side.pool_scheduler.reserve import RESERVE_S
from tests.unit.workers.slave_side.model import G, Model, who_has


@pytest.fixture
def model() -> Model:
    """Make a pool of one worker that is ready."""
    model = Model(PoolScheduler(1, ahead_s=0.002))
    model.all_ready()
    return model


def block(model: Model, number: int, *, is_blocked: bool = True) -> None:
    """Let the pool find in a worker's page that its task is blocked, or is so no more."""
    running = model.workers[number].running
    assert running is not None
    model.execute(model.scheduler.blocked(number, running.ticket if is_blocked else 0, model.clock()))


def run_blocked(model: Model, number: int, index: int) -> None:
    model.assign([index])
    model.begin(number)
    model.pass_time(2 * PAGE_POLL_S)
    block(model, number)


def test_another_worker_runs_what_a_blocked_task_waits_for(model: Model) -> None:
    run_blocked(model, 1, 0)
    assert [*model.workers] == [1, 2]
    assert model.scheduler.usable_slots == 2
    model.assign([1])
    model.ready(2)
    assert model.has(2) == [1]


def test_what_stands_behind_a_blocked_task_goes_to_the_reserve(model: Model) -> None:
    model.assign([0, 1])
    model.begin(1)
    model.pass_time(2 * PAGE_POLL_S)
    block(model, 1)
    model.ready(2)
    assert (model.has(1), model.has(2)) == ([], [1])


def test_nothing_is_given_ahead_to_a_blocked_worker(model: Model) -> None:
    run_blocked(model, 1, 0)
    model.assign([1, 2])
    assert model.has(1) == []


def test_a_slot_is_taken_back_when_the_task_goes_on(model: Model) -> None:
    run_blocked(model, 1, 0)
    model.ready(2)
    block(model, 1, is_blocked=False)
    assert model.scheduler.usable_slots == 1
    model.assign([1])
    assert model.has(2) == []
    model.end(1)
    model.flush(1)
    assert model.has(1) + model.has(2) == [1]


def test_blocked_tasks_do_not_need_a_new_worker_each_time(model: Model) -> None:
    run_blocked(model, 1, 0)
    model.ready(2)
    for _ in range(3):
        block(model, 1, is_blocked=False)
        block(model, 1)
    assert [*model.workers] == [1, 2]


def test_the_reserve_is_dismissed_when_it_is_not_needed(model: Model) -> None:
    run_blocked(model, 1, 0)
    model.ready(2)
    block(model, 1, is_blocked=False)
    model.end(1)
    model.flush(1)
    model.pass_time(3 * RESERVE_S)
    dismissed = [command for command in model.commands if isinstance(command, Dismiss)]
    assert len(dismissed) == 1
    number = dismissed[0].worker
    count = len(model.workers)
    model.die(number, "has ended")
    assert len(model.workers) == count - 1  # it gets no successor


def test_the_death_of_a_blocked_worker_gives_its_slot_back(model: Model) -> None:
    run_blocked(model, 1, 0)
    model.ready(2)
    model.die(1, "died of SIGKILL")
    assert model.scheduler.usable_slots == 1
    assert [command.worker for command in model.commands if isinstance(command, Start)] == [1, 2, 3]


def test_a_cancelled_blocked_task_frees_what_it_lent(model: Model) -> None:
    run_blocked(model, 1, 0)
    model.withdraw([0], stop=True)
    model.end(1, Status.CANCELLED)
    model.flush(1)
    assert model.scheduler.usable_slots == 1


def test_too_many_blocked_tasks_are_refused_by_name(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserve, "RESERVE_MAX", 1)
    monkeypatch.setattr(outcome_frames, "RESERVE_MAX", 1)
    run_blocked(model, 1, 0)
    model.ready(2)
    run_blocked(model, 2, 1)
    model.end(2, Status.CANCELLED)
    model.flush(2)
    model.take_reports()
    ((ref, frame),) = model.ended
    assert (ref.index, frame.status) == (1, Status.ERROR)
    assert b"waits for tasks of its own, as 1 tasks" in frame.body


def test_hosts_wait_for_tasks_as_a_matter_of_course(model: Model) -> None:
    model.assign([0], needs=Needs(kind="system_host"))
    model.ready(2)
    model.begin(2)
    block(model, 2)
    assert model.scheduler.usable_slots == 1


def test_a_blocked_thread_lends_the_worker_whose_slot_it_has_taken(model: Model) -> None:
    thread = run_in_blocked_thread(model, 0)
    model.assign([1], G)
    assert who_has(model, 1) == 1
    assert model.scheduler.usable_slots == 2
    block(model, thread, is_blocked=False)
    model.begin(1)
    model.end(1)
    model.flush(1)
    model.assign([2], G)
    assert not who_has(model, 2)
    model.end(thread)
    model.flush(thread)
    assert who_has(model, 2) == 1
    assert model.scheduler.usable_slots == 1


def test_a_task_in_a_thread_may_wait_for_another_in_a_thread(model: Model) -> None:
    first = run_in_blocked_thread(model, 0)
    second = run_in_blocked_thread(model, 1)
    assert first != second
    assert model.scheduler.usable_slots == 3
    for thread in (second, first):
        model.end(thread)
        model.flush(thread)
    assert model.scheduler.usable_slots == 1


def run_in_blocked_thread(model: Model, index: int) -> int:
    model.assign([index], bytes([index]) * 32, needs=Needs(kind="thread"))
    model.all_ready()
    thread = who_has(model, index)
    model.begin(thread)
    model.pass_time(2 * PAGE_POLL_S)
    block(model, thread)
    return thread


def test_the_death_of_blocked_threads_gives_their_slots_back(model: Model) -> None:
    thread = run_in_blocked_thread(model, 0)
    model.die(thread, "died of SIGKILL")
    assert model.scheduler.usable_slots == 1
