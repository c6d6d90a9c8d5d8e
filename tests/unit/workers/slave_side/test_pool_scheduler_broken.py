"""The pool scheduler with broken workers. Each test is one promise."""

import math

import pytest

from concurrent_nb.errors import ProtocolError
from concurrent_nb.outcome import Status
from concurrent_nb.restart_limit import RestartLimit
from concurrent_nb.wire.messages import Needs
from concurrent_nb.workers.protocol.records import Result
from concurrent_nb.workers.slave_side.attempts import Command
from concurrent_nb.workers.slave_side.pool_scheduler.pool_scheduler import PoolScheduler
from concurrent_nb.workers.slave_side.pool_scheduler.worker_lifecycle import RESULT_S, STUCK_S
from tests.unit.workers.slave_side.model import F, G, Model, ready_model
from tests.unit.workers.slave_side.test_pool_scheduler import report, teach

THREAD = Needs(kind="thread")


def make(slots: int) -> Model:
    """Make a pool of so many workers that are ready."""
    return ready_model(slots, ahead_s=0.01)


def broken(model: Model, number: int, *, may_be_former: bool = False) -> list[Command]:
    """Let a worker send an invalid record."""
    worker = model.workers[number]
    ticket = worker.running.ticket if worker.running else 0
    how = "was killed because it sent an invalid record"
    return model.scheduler.broken(number, how, ticket, worker.ended, may_be_former=may_be_former)


def given(model: Model, count: int) -> None:
    """Have one worker that has so many tasks in one pack, and has run others before."""
    teach(model, 0.001)
    model.assign(range(count))
    assert model.has(1) == list(range(count))


# --------------------------------------------------------------------------------------- a result that does not come


def with_lost_result(count: int) -> Model:
    """Return a model whose worker 1 has that many tasks, and whose first one has ended without a result."""
    model = make(1)
    given(model, count)
    model.begin(1)
    model.end(1)
    model.swallow(1)
    return model


def test_a_worker_whose_result_does_not_come_is_killed_and_its_task_counts_a_death() -> None:
    model = with_lost_result(1)
    model.pass_time(RESULT_S - 0.1)
    assert not model.killed(1)
    model.pass_time(0.2)
    assert model.killed(1)
    model.die(1, "died of SIGKILL")
    assert model.statuses() == {0: Status.DIED}
    assert "the result of a task that had ended did not come within 5 s; it had task" in report(model, 0).message


def test_what_stands_behind_a_task_whose_result_does_not_come_runs_elsewhere_unblamed() -> None:
    model = make(1)
    given(model, 4)
    for _ in range(3):  # the first one swallows its own result, and those of the others
        model.begin(1)
        model.end(1)
        model.swallow(1)
    model.pass_time(RESULT_S + 0.1)
    assert model.killed(1)
    model.die(1, "died of SIGKILL")
    model.all_ready()
    assert model.statuses() == {0: Status.DIED}
    assert model.has(2) == [1, 2, 3]
    assert not model.scheduler.degraded


def test_a_worker_that_runs_on_while_a_result_does_not_come_is_broken_too() -> None:
    model = with_lost_result(2)
    model.begin(1)
    model.pass_time(RESULT_S + 0.2)
    assert model.killed(1)
    model.die(1, "died of SIGKILL")
    assert model.statuses() == {0: Status.DIED}


def test_a_result_that_flows_is_waited_for() -> None:
    model = make(1)
    given(model, 1)
    model.begin(1)
    model.end(1)
    model.workers[1].moves = True
    model.pass_time(10 * RESULT_S)
    assert not model.killed(1)
    model.flush(1)
    assert model.statuses() == {0: Status.OK}


def test_a_task_that_runs_for_long_is_no_result_that_does_not_come() -> None:
    model = make(1)
    given(model, 2)
    model.run(1, 0.001)
    model.begin(1)
    model.pass_time(10 * STUCK_S)
    assert not model.killed(1)


def test_deaths_of_broken_workers_are_not_those_of_a_broken_environment() -> None:
    model = Model(PoolScheduler(1, limit=RestartLimit(deaths=1)))
    for worker in range(1, 6):
        model.all_ready()
        model.execute(broken(model, worker))
        model.die(worker, "died of SIGKILL")
    assert not model.scheduler.degraded


def test_the_time_that_a_result_may_take_is_a_setting() -> None:
    model = Model(PoolScheduler(1, result_s=0.5))
    model.all_ready()
    given(model, 1)
    model.begin(1)
    model.end(1)
    model.swallow(1)
    model.pass_time(0.6)
    assert model.killed(1)


# ------------------------------------------------------------------------------------------- a worker that does nothing


def test_a_worker_that_does_nothing_is_killed_and_nobody_is_blamed_the_first_time() -> None:
    model = make(1)
    given(model, 2)
    model.pass_time(RESULT_S + 0.1)
    assert model.killed(1)
    model.die(1, "died of SIGKILL")
    model.all_ready()
    assert model.statuses() == {}
    assert model.has(2) == [0, 1]
    assert not model.scheduler.degraded


@pytest.mark.parametrize(("timeout_s", "status"), [(None, Status.DIED), (2.0, Status.TIMEOUT)])
def test_a_task_with_which_no_worker_does_anything_ends(timeout_s: float | None, status: Status) -> None:
    model = make(1)
    teach(model, 0.001)
    model.assign([0], timeout_s=timeout_s)
    for worker in (1, 2):
        model.workers[worker].ended = 1
        model.pass_time(RESULT_S + 0.1)
        assert model.killed(worker)
        model.die(worker, "died of SIGKILL")
        model.all_ready()
    assert model.statuses() == {0: status}


def test_a_page_that_shows_nonsense_is_no_progress() -> None:
    model = make(1)
    given(model, 1)
    since = model.clock()
    while not model.killed(1):
        model.clock.advance(0.01)
        model.execute(model.scheduler.page_read(1, (1 << 64) - 1, math.nan, False, model.clock(), 77))
    assert RESULT_S < model.clock() - since < RESULT_S + 0.1


@pytest.mark.parametrize("started_at", [math.nan, math.inf, -math.inf, -1.0, 1e300, 0.0])
def test_a_limit_holds_whatever_the_page_says_of_the_start(started_at: float) -> None:
    model = make(1)
    model.assign([0], timeout_s=1.0)
    ticket = model.begin(1).ticket
    model.workers[1].started_at = started_at
    model.pass_time(0.9)
    assert ticket not in model.workers[1].interrupted
    model.pass_time(0.2)
    assert ticket in model.workers[1].interrupted
    model.pass_time(2.0)
    assert model.killed(1)
    model.die(1, "died of SIGKILL")
    assert model.statuses() == {0: Status.TIMEOUT}
    assert 1.0 < model.ended[-1][1].elapsed_s < 5.0


# -------------------------------------------------------------------------------------------------- who is to blame


def test_who_runs_is_blamed_for_what_its_worker_says() -> None:
    model = make(1)
    given(model, 3)
    model.begin(1)
    model.end(1)
    model.flush(1)
    model.begin(1)
    model.execute(broken(model, 1))
    model.die(1, "died of SIGKILL")
    assert model.statuses() == {0: Status.OK, 1: Status.DIED}
    assert "was killed because it sent an invalid record; it had task" in report(model, 1).message


@pytest.mark.parametrize("has_next_begun", [True, False])
def test_who_has_ended_is_blamed_if_its_result_comes_after_the_nonsense(has_next_begun: bool) -> None:
    model = make(1)
    given(model, 3)
    model.begin(1)
    model.end(1)
    model.swallow(1)
    if has_next_begun:
        model.begin(1)
    model.execute(broken(model, 1))
    model.die(1, "died of SIGKILL")
    assert model.statuses() == {0: Status.DIED}


def test_nobody_is_blamed_where_it_may_have_been_another_but_only_once() -> None:
    model = make(1)
    given(model, 3)
    for worker in (1, 2):
        assert model.statuses() == {}
        model.begin(worker)
        model.execute(broken(model, worker, may_be_former=True))
        model.die(worker, "died of SIGKILL")
        model.all_ready()
    assert model.statuses() == {0: Status.DIED}


def test_what_has_not_begun_is_not_blamed_for_what_its_worker_says() -> None:
    model = make(1)
    given(model, 3)
    model.execute(broken(model, 1))
    model.die(1, "died of SIGKILL")
    assert model.statuses() == {}


def test_a_worker_that_has_nothing_and_is_broken_is_replaced() -> None:
    model = make(2)
    model.execute(
        model.scheduler.broken(1, "was killed because it sent an invalid record", 77, 78, may_be_former=False)
    )
    model.die(1, "died of SIGKILL")
    model.all_ready()
    model.assign([0, 1])
    assert {n for n in model.workers if model.has(n)} == {2, 3}


def test_a_task_that_was_to_be_stopped_is_stopped_also_by_the_end_of_a_broken_worker() -> None:
    model = make(1)
    given(model, 2)
    model.begin(1)
    model.withdraw([0], stop=True)
    model.execute(broken(model, 1))
    model.die(1, "died of SIGKILL")
    assert model.statuses() == {0: Status.CANCELLED}


def test_a_thread_that_is_broken_makes_all_that_run_beside_it_suspects() -> None:
    model = make(2)
    for index in (0, 1):
        model.assign([index], bytes([index]) * 32, needs=THREAD)
    model.all_ready()
    threads = [number for number, worker in model.workers.items() if worker.process and worker.unstarted]
    for thread in threads:
        model.begin(thread)
    model.execute(broken(model, threads[0]))
    assert all(model.killed(thread) for thread in threads)
    model.die(threads[0], "died of SIGKILL")
    assert sorted(ref.index for ref in model.take_reports().returned) == [0, 1]
    # when: each runs alone, and one does it again
    model.assign([0, 1], attempt=2, needs=THREAD)
    model.all_ready()
    (alone,) = [number for number, worker in model.workers.items() if worker.process and worker.unstarted]
    attempt = model.begin(alone)
    model.execute(broken(model, alone))
    model.die(alone, "died of SIGKILL")
    assert model.statuses() == {attempt.index: Status.DIED}


# ------------------------------------------------------------------------------------------------- what is not its own


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.DIED, Status.POISON, Status.REFUSED, -1, 10])
def test_a_worker_cannot_report_what_only_others_can(status: int) -> None:
    model = make(1)
    given(model, 2)
    ticket = model.begin(1).ticket
    with pytest.raises(ProtocolError, match="an invalid result"):
        model.scheduler.outcomes(1, [Result(ticket, status, 0.1, b"x")], [], model.clock())
    assert model.statuses() == {}


def test_a_result_of_nothing_is_none() -> None:
    model = make(1)
    given(model, 1)
    ticket = model.begin(1).ticket
    with pytest.raises(ProtocolError, match="an invalid result"):
        model.scheduler.outcomes(1, [Result(ticket, Status.OK, 0.1, b"")], [], model.clock())


def test_a_worker_cannot_answer_for_another() -> None:
    model = make(2)
    model.assign([0], F)
    model.assign([1], G)
    tickets = {number: model.begin(number).ticket for number in (1, 2)}
    for ticket in (tickets[2], 0, -1, 999, 1 << 63):
        with pytest.raises(ProtocolError, match=f"named ticket {ticket}, which is not its own"):
            model.scheduler.outcomes(1, [Result(ticket, Status.OK, 0.1, b"x")], [], model.clock())
        with pytest.raises(ProtocolError, match="not its own"):
            model.scheduler.ref(1, ticket)
    # a ticket with an outcome is no error: its result may have come before, through the page
    model.end(1)
    model.flush(1)
    model.execute(model.scheduler.outcomes(1, [Result(tickets[1], Status.ERROR, 0.1, b"x")], [], model.clock()))
    assert model.scheduler.ref(1, tickets[1]) is None
    assert len(model.statuses()) == 1
