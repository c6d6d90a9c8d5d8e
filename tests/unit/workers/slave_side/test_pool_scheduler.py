"""The pool's bookkeeping, spelled out. Each test is one promise."""

import msgspec
import pytest

from concurrent_nb.errors import ProtocolError
from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import Assign, ErrorReport, Needs, StartedTask, TaskFrame, TaskRef
from concurrent_nb.workers.protocol.records import Result
from concurrent_nb.workers.slave_side.attempts import GiveTasks, Interrupt, Kill, Recall, Start
from concurrent_nb.workers.slave_side.pool_scheduler.pool_scheduler import PoolScheduler
from concurrent_nb.workers.slave_side.pool_scheduler.worker_lifecycle import START_S, STUCK_S
from tests.unit.workers.slave_side.model import JOB, F, G, Model, ready_model


def make(slots: int, taught_s: float | None = None) -> Model:
    """Make a pool of so many workers that are ready. With `taught_s`, it knows that its function takes so long."""
    model = ready_model(slots, ahead_s=0.002)
    if taught_s is not None:
        teach(model, taught_s)
    return model


def teach(model: Model, seconds: float, function: bytes = F) -> None:
    """Let the scheduler measure how long a function runs, then clear the table."""
    number = next(iter(model.workers))
    model.assign([10_000], function)
    owner = next(worker.number for worker in model.workers.values() if worker.unstarted)
    model.run(owner, seconds)
    model.take_reports()
    model.ended.clear()
    for worker in model.workers.values():
        worker.packs.clear()
    model.commands.clear()
    assert number in model.workers


def report(model: Model, index: int) -> ErrorReport:
    model.take_reports()
    frame = next(frame for ref, frame in model.ended if ref.index == index)
    return msgspec.msgpack.decode(frame.body, type=ErrorReport)


def test_workers_are_provided_when_each_has_more_than_it_runs() -> None:
    model = make(2)
    seen = [model.scheduler.is_saturated]
    for index in range(4):
        model.assign([index])
        seen.append(model.scheduler.is_saturated)
    model.run(1, 0.001)
    assert [*seen, model.scheduler.is_saturated] == [False, False, False, False, True, False]
    assert not PoolScheduler(2).is_saturated


# ---------------------------------------------------------------------------------------------- who gets what, and when


def test_workers_are_asked_for_at_the_start() -> None:
    assert PoolScheduler(3).start(0.0) == [Start(1), Start(2), Start(3)]


def test_tasks_wait_until_a_worker_is_ready() -> None:
    model = Model(PoolScheduler(1, ahead_s=0.002))
    model.assign([0])
    assert not model.workers[1].unstarted
    model.ready(1)
    assert model.has(1) == [0]


def test_tasks_of_an_unknown_function_go_out_singly() -> None:
    model = make(2)
    model.assign(range(10))
    assert [worker.packs for worker in model.workers.values()] == [[1, 1], [1, 1]]


def test_short_tasks_go_out_in_packs_of_about_2_ms() -> None:
    model = make(1, taught_s=0.0001)
    model.assign(range(100))
    assert model.workers[1].packs == [20, 20]


def test_a_pack_has_at_most_64_tasks() -> None:
    model = make(1, taught_s=0.000001)
    model.assign(range(1000))
    assert model.workers[1].packs == [64, 64]


def test_few_short_tasks_are_shared_out() -> None:
    model = make(4, taught_s=0.00001)
    model.assign(range(40))
    assert sorted(worker.packs[0] for worker in model.workers.values()) == [4, 6, 8, 10]


def test_a_pack_has_one_function() -> None:
    model = make(1)
    teach(model, 0.0001, F)
    teach(model, 0.0001, G)
    model.assign(range(3), F)
    model.withdraw(range(3), stop=True)
    for index in range(6):
        model.assign([index], F if index < 3 else G, attempt=2)
    gives = [command for command in model.commands if isinstance(command, GiveTasks)]
    assert all({attempt.function for attempt in give.attempts} == {give.function} for give in gives)


def test_a_pack_of_large_arguments_is_small() -> None:
    model = make(1, taught_s=0.0001)
    frames = [TaskFrame(index, 1, b"", (600_000,)) for index in range(4)]
    model.execute(model.scheduler.assigned(Assign(JOB, F, None, frames), [(b"x" * 600_000,)] * 4, 0.0))
    assert model.workers[1].packs == [1, 1]


def test_nothing_is_given_ahead_of_a_task_known_to_be_slow() -> None:
    model = make(2, taught_s=0.5)
    model.assign(range(10))
    assert [worker.packs for worker in model.workers.values()] == [[1], [1]]


def test_a_worker_has_at_most_two_packs() -> None:
    model = make(1, taught_s=0.0001)
    model.assign(range(1000))
    for _ in range(20):
        model.begin(1)
        model.end(1, elapsed_s=0.0001)
    model.flush(1)
    assert model.workers[1].packs == [20, 20, 20]
    assert len(model.workers[1].unstarted) == 40


def test_the_oldest_task_goes_first() -> None:
    model = make(1, taught_s=0.5)
    model.assign(range(5))
    order = []
    for _ in range(5):
        order += model.has(1)
        model.run(1, 0.5)
    assert order == [0, 1, 2, 3, 4]


def test_an_attempt_is_taken_once() -> None:
    model = make(1)
    model.assign([7])
    model.assign([7])
    model.run(1)
    assert not model.workers[1].unstarted
    assert model.statuses() == {7: Status.OK}


# ------------------------------------------------------------------------------------------------- taking work back


def test_what_stands_behind_a_slow_task_goes_to_an_idle_worker() -> None:
    # given: worker 2 runs task 0 and has one ahead, worker 1 alike
    model = make(2)
    model.assign(range(4))
    model.begin(2)
    ahead = model.has(2)
    # when: worker 1 has finished all that it had
    model.run(1, 0.5)
    model.run(1, 0.5)
    # then: it gets what worker 2 had ahead
    assert Recall(2) in model.commands
    assert model.has(1) == ahead
    assert model.has(2) == []


def test_what_stands_behind_a_task_that_turns_out_slow_is_taken_back_soon() -> None:
    model = make(1, taught_s=0.0001)
    model.assign(range(30))
    model.begin(1)
    assert len(model.workers[1].unstarted) == 29
    model.pass_time(0.05)
    assert model.has(1) == []
    # and it is not given to that worker again while the slow task runs
    model.pass_time(1.0)
    assert model.has(1) == []
    # but it is, in order, when the slow task has ended
    model.end(1)
    model.flush(1)
    assert model.has(1) == [1]


def test_results_that_stand_before_a_slow_task_are_not_late() -> None:
    model = make(1, taught_s=0.0001)
    model.assign(range(5))
    model.begin(1)
    model.end(1)
    model.begin(1)
    model.pass_time(0.05)
    assert model.statuses() == {0: Status.OK}
    # and they do not count twice when they are sent at last
    model.end(1)
    model.flush(1)
    assert [ref.index for ref, _ in model.ended] == [0]
    assert model.statuses() == {0: Status.OK, 1: Status.OK}


def test_moving_next_to_nothing_is_not_worth_it() -> None:
    model = make(2, taught_s=0.00001)
    model.assign(range(20))
    while model.workers[1].unstarted:
        model.run(1, 0.00001)
    assert model.workers[2].unstarted
    assert Recall(2) not in model.commands


def test_more_given_back_than_was_given_is_refused() -> None:
    model = make(1)
    model.assign([0])
    with pytest.raises(ProtocolError, match="returned 2 tasks and had 1"):
        model.scheduler.recall_finished(1, 2, 0.0)


# ------------------------------------------------------------------------------------------------------- withdrawal


def test_withdrawn_tasks_that_wait_are_returned() -> None:
    model = make(1)
    model.assign(range(5))
    model.withdraw([3, 4], stop=False)
    assert model.take_reports().returned == [TaskRef(JOB, 3, 1), TaskRef(JOB, 4, 1)]


def test_withdrawn_tasks_that_a_worker_has_not_started_are_returned() -> None:
    model = make(1)
    model.assign(range(2))
    model.begin(1)
    model.withdraw([0, 1], stop=False)
    assert model.take_reports().returned == [TaskRef(JOB, 1, 1)]
    model.end(1)
    model.flush(1)
    assert model.statuses() == {0: Status.OK}


def test_a_withdrawal_does_not_take_what_was_not_named() -> None:
    model = make(1, taught_s=0.0001)
    model.assign(range(10))
    model.begin(1)
    model.withdraw([5], stop=False)
    assert model.take_reports().returned == [TaskRef(JOB, 5, 1)]
    model.end(1)
    model.flush(1)
    assert model.has(1) == [1, 2, 3, 4, 6, 7, 8, 9]


def test_a_withdrawal_of_the_unknown_says_nothing() -> None:
    model = make(1)
    model.withdraw([1], stop=True)
    model.assign([1])
    model.withdraw([1], stop=True, attempt=2)
    assert not model.take_reports()


def test_stopping_a_task_that_waits_cancels_it() -> None:
    model = make(1)
    model.assign(range(5))
    model.withdraw([4], stop=True)
    assert model.statuses() == {4: Status.CANCELLED}


def test_stopping_a_task_that_a_worker_has_not_started_does_not_interrupt_it() -> None:
    model = make(1)
    model.assign(range(2))
    model.begin(1)
    model.withdraw([1], stop=True)
    assert model.statuses() == {1: Status.CANCELLED}
    assert not any(isinstance(command, Interrupt) for command in model.commands)


def test_stopping_a_running_task_interrupts_it_at_once() -> None:
    model = make(1)
    model.assign([0])
    ticket = model.begin(1).ticket
    model.withdraw([0], stop=True)
    assert model.commands[-1] == Interrupt(1, ticket)
    model.end(1, Status.CANCELLED)
    model.flush(1)
    assert model.statuses() == {0: Status.CANCELLED}
    model.pass_time(10)
    assert not model.killed(1)


def test_a_task_that_ignores_the_interrupt_is_killed_after_a_second() -> None:
    model = make(1)
    model.assign([0])
    model.begin(1)
    model.withdraw([0], stop=True)
    model.pass_time(0.9)
    assert not model.killed(1)
    model.pass_time(0.2)
    assert model.killed(1)
    model.die(1, "died of SIGKILL")
    assert model.statuses() == {0: Status.CANCELLED}
    assert Start(2) in model.commands


def test_what_runs_when_the_wrong_worker_is_killed_is_not_to_blame() -> None:
    # given: task 0 ignored its interrupt, and ended between the last look at it and the kill
    model = make(1, taught_s=0.0001)
    model.assign(range(2))
    model.begin(1)
    model.withdraw([0], stop=True)
    model.assign([1])
    model.pass_time(1.1)
    assert model.killed(1)
    model.die(1, "died of SIGKILL")
    # then: only that one is cancelled
    model.all_ready()
    model.run(2)
    assert model.statuses() == {0: Status.CANCELLED, 1: Status.OK}


def test_a_result_that_is_faster_than_its_cancellation_counts() -> None:
    model = make(1)
    model.assign([0])
    model.begin(1)
    model.end(1)
    model.withdraw([0], stop=True)
    model.flush(1)
    assert model.statuses() == {0: Status.OK}


# --------------------------------------------------------------------------------------------------------- deadlines


def test_a_task_over_its_deadline_is_interrupted_and_ends_as_timeout() -> None:
    model = make(1)
    model.assign([0], timeout_s=2.0)
    ticket = model.begin(1).ticket
    model.pass_time(1.9)
    assert Interrupt(1, ticket) not in model.commands
    model.pass_time(0.2)
    assert Interrupt(1, ticket) in model.commands
    model.end(1, Status.CANCELLED)
    model.flush(1)
    assert model.statuses() == {0: Status.TIMEOUT}
    message = report(model, 0).message
    assert "ran longer than its timeout of 2 s and was stopped after 2." in message
    assert "6a6a6a6a/0" in message


def test_a_task_over_its_deadline_that_goes_on_is_killed() -> None:
    model = make(1)
    model.assign([0], timeout_s=2.0)
    model.begin(1)
    model.pass_time(3.2)
    assert Kill(1) in model.commands
    model.die(1, "died of SIGKILL")
    assert model.statuses() == {0: Status.TIMEOUT}


def test_a_deadline_counts_from_the_start_of_the_task() -> None:
    model = make(1)
    model.assign([0, 1], timeout_s=1.0)
    for index in (0, 1):
        model.begin(1)
        model.pass_time(0.8)
        model.end(1)
        model.flush(1)
        assert model.statuses()[index] == Status.OK


def test_what_a_task_returns_after_its_interrupt_does_not_count() -> None:
    model = make(1)
    model.assign([0], timeout_s=1.0)
    model.begin(1)
    model.pass_time(1.5)
    model.end(1)
    model.flush(1)
    model.pass_time(5)
    assert model.statuses() == {0: Status.TIMEOUT}
    assert not model.killed(1)


def test_a_result_that_is_in_time_counts_however_late_it_comes() -> None:
    model = make(1)
    model.assign([0], timeout_s=1.0)
    model.begin(1)
    model.pass_time(1.1)
    model.end(1, elapsed_s=0.99)
    model.flush(1)
    assert model.statuses() == {0: Status.OK}


def test_cancelling_what_times_out_changes_nothing() -> None:
    model = make(1)
    model.assign([0], timeout_s=1.0)
    model.begin(1)
    model.pass_time(1.1)
    model.withdraw([0], stop=True)
    model.end(1, Status.CANCELLED)
    model.flush(1)
    assert model.statuses() == {0: Status.TIMEOUT}


# ------------------------------------------------------------------------------------------------------------ deaths


def test_a_death_is_blamed_on_the_task_that_ran() -> None:
    model = make(1, taught_s=0.0001)
    model.assign(range(3))
    model.begin(1)
    model.end(1)  # task 0 is done, and its result stands in the page
    model.begin(1)
    model.die(1)
    assert model.statuses() == {0: Status.OK, 1: Status.DIED}
    assert report(model, 1).message == "worker 1001 died of SIGSEGV while it ran task 6a6a6a6a/1"
    model.all_ready()
    assert model.has(2) == [2]


def test_a_death_between_tasks_is_blamed_on_nobody() -> None:
    model = make(1)
    model.assign([0])
    model.die(1)
    model.all_ready()
    model.run(2)
    assert model.statuses() == {0: Status.OK}


def test_what_a_dead_worker_had_keeps_its_place() -> None:
    model = make(1, taught_s=0.0001)
    model.assign(range(60))
    model.die(1)
    model.all_ready()
    assert model.has(2) == list(range(40))


def test_a_withdrawn_task_of_a_dead_worker_is_returned() -> None:
    model = make(1)
    model.assign([0])
    model.begin(1)
    model.withdraw([0], stop=True)
    model.die(1)
    assert model.statuses() == {0: Status.CANCELLED}


def test_a_worker_that_never_gets_ready_is_replaced() -> None:
    model = Model(PoolScheduler(1, ahead_s=0.002))
    model.pass_time(START_S + 2)
    assert not model.killed(1)
    model.pass_time(START_S)
    assert model.killed(1)


def test_a_worker_that_has_tasks_and_does_nothing_is_replaced() -> None:
    model = make(1)
    model.assign([0])
    model.pass_time(STUCK_S - 1)
    assert not model.killed(1)
    model.pass_time(2)
    assert model.killed(1)
    model.die(1, "died of SIGKILL")
    model.all_ready()
    model.run(2)
    assert model.statuses() == {0: Status.OK}


def test_workers_that_die_without_a_task_again_and_again_are_not_replaced_for_ever() -> None:
    model = make(1)
    model.assign([0])
    for number in range(1, 6):
        model.die(number, "ended with exit code 1")
        assert number + 1 in model.workers
    model.die(6, "ended with exit code 1")
    assert not model.workers
    reports = model.take_reports()
    assert reports.degraded.startswith("6 workers ended within 10 s without a task to blame")
    assert "exit code 1" in reports.degraded
    assert reports.returned == [TaskRef(JOB, 0, 1)]
    # and what comes later is returned immediately
    model.assign([1])
    assert model.take_reports().returned == [TaskRef(JOB, 1, 1)]


def test_workers_that_die_now_and_then_are_replaced() -> None:
    model = make(1)
    for number in range(1, 50):
        model.clock.advance(3)
        model.die(number)
    assert list(model.workers) == [50]


def test_deaths_that_tasks_are_to_blame_for_do_not_count() -> None:
    model = make(1)
    for number in range(1, 50):
        model.assign([number])
        model.all_ready()
        model.begin(number)
        model.die(number)
    assert list(model.workers) == [50]
    assert set(model.statuses().values()) == {Status.DIED}


# ----------------------------------------------------------------------------------------------------------- reports


def test_only_tasks_that_run_for_a_while_are_reported_as_started_and_once() -> None:
    model = make(1)
    model.assign([0])
    model.begin(1)
    model.pass_time(0.015)
    assert model.take_reports().started == []
    model.pass_time(0.1)
    assert model.take_reports().started == [StartedTask(JOB, 0, 1, 1001)]
    model.pass_time(1)
    assert model.take_reports().started == []


def test_outcomes_come_by_job_with_their_buffers() -> None:
    model = make(1)
    other = b"k" * 16
    for job in (JOB, other):
        frames = [TaskFrame(index, 1, b"") for index in range(2)]
        model.execute(model.scheduler.assigned(Assign(job, F, None, frames), (), 0.0))
    tickets = [model.begin(1).ticket]
    model.workers[1].running = None
    results = [Result(tickets[0], Status.OK, 0.1, b"", (2, 3))]
    model.execute(model.scheduler.outcomes(1, results, [b"ab", b"cde"], 0.0))
    (outcome,) = model.scheduler.take_reports().outcomes
    assert outcome[0] == JOB
    assert list(map(list, outcome[2])) == [[b"ab", b"cde"]]


def test_nothing_is_to_be_looked_at_while_nothing_runs() -> None:
    model = make(1)
    model.assign([0])
    assert model.scheduler.next_deadline() is not None
    model.run(1)
    model.pass_time(0.1)
    model.pass_time(START_S)
    assert model.scheduler.next_deadline() is None
    assert model.scheduler.busy_workers() == []


def test_a_reset_forgets_everything_and_kills_who_is_busy() -> None:
    model = make(2)
    model.assign([0])
    owner = next(worker.number for worker in model.workers.values() if worker.unstarted)
    model.execute(model.scheduler.reset())
    assert [worker.number for worker in model.workers.values() if worker.killed] == [owner]
    assert not model.take_reports()
    assert model.scheduler.unfinished == 0
    model.die(owner, "died of SIGKILL")
    model.all_ready()
    assert not model.take_reports()
    # and an attempt of the same name is new
    model.assign([0])
    assert model.scheduler.unfinished == 1


def test_reports_of_an_unknown_worker_are_ignored() -> None:
    model = make(1)
    model.execute(model.scheduler.outcomes(77, [Result(1, Status.OK, 0.0, b"")], [], 0.0))
    model.execute(model.scheduler.page_read(77, 1, 0.0, False, 0.0))
    assert not model.take_reports()


# ------------------------------------------------------------------------------------------------------- it is drained


def returned(model: Model) -> list[int]:
    return sorted(ref.index for ref in model.take_reports().returned)


def test_a_pool_that_is_drained_returns_what_has_not_started_and_ends_what_has() -> None:
    model = make(2)
    model.assign(range(10))
    runs = model.begin(1).index
    model.execute(model.scheduler.drained())
    assert returned(model) == [index for index in range(10) if index != runs]
    assert model.scheduler.unfinished == 1
    model.end(1)
    model.flush(1)
    assert model.statuses() == {runs: Status.OK}
    assert not model.scheduler.unfinished


def test_a_pool_that_is_drained_takes_nothing_any_more() -> None:
    model = make(1)
    model.execute(model.scheduler.drained())
    model.assign(range(3))
    assert returned(model) == [0, 1, 2]
    assert not model.workers[1].unstarted


def test_what_stood_behind_a_worker_that_died_is_returned_by_a_pool_that_is_drained() -> None:
    model = make(1, taught_s=0.0001)
    model.assign(range(10))
    model.begin(1)
    model.execute(model.scheduler.drained())
    model.die(1)
    assert model.statuses() == {0: Status.DIED}
    assert sorted(ref.index for ref in model.reports.returned) == list(range(1, 10))


# --------------------------------------------------------------------------------- workers that run so many tasks each


def retiring(slots: int, tasks_max: int) -> Model:
    """Make a pool whose workers run `tasks_max` tasks each."""
    model = Model(PoolScheduler(slots, ahead_s=0.002, tasks_max=tasks_max))
    model.all_ready()
    return model


def run_all(model: Model, tasks: int) -> dict[int, int]:
    """Run until `tasks` tasks have ended, replacing what is dismissed; give how many each worker ran."""
    ran: dict[int, int] = {}
    for _ in range(20 * tasks):
        for worker in list(model.workers.values()):
            if worker.killed:
                model.die(worker.number, "ended with exit code 0")
            elif not worker.ready:
                model.ready(worker.number)
            elif worker.unstarted:
                model.run(worker.number, 0.0001)
                ran[worker.number] = ran.get(worker.number, 0) + 1
        if sum(ran.values()) == tasks:
            break
    return ran


@pytest.mark.parametrize(("slots", "tasks_max", "tasks"), [(1, 1, 7), (2, 3, 50), (3, 64, 500), (2, 1000, 30)])
def test_no_worker_runs_more_tasks_than_it_may_and_all_run_once(slots: int, tasks_max: int, tasks: int) -> None:
    model = retiring(slots, tasks_max)
    model.assign(range(tasks))
    ran = run_all(model, tasks)
    assert sum(ran.values()) == tasks
    assert max(ran.values()) <= tasks_max
    assert model.statuses() == dict.fromkeys(range(tasks), Status.OK)
    assert not model.scheduler.degraded  # although many ended within a moment


def test_a_worker_that_is_done_is_dismissed_and_its_successor_comes_when_it_has_gone() -> None:
    model = retiring(1, 2)
    model.assign(range(3))
    model.run(1)
    model.run(1)
    assert model.killed(1)
    assert list(model.workers) == [1]
    model.die(1, "ended with exit code 0")
    assert list(model.workers) == [2]
    model.ready(2)
    assert model.has(2) == [2]


def test_what_a_worker_gives_back_does_not_count() -> None:
    model = retiring(2, 2)
    teach(model, 0.001)
    first, second = (worker for worker in model.workers.values())
    model.assign(range(4))
    model.begin(first.number)
    model.withdraw(range(4), stop=False)
    model.end(first.number)
    model.flush(first.number)
    given_back = [worker for worker in (first, second) if not worker.killed]
    model.assign(range(10, 14))
    assert given_back
    assert sum(len(model.has(worker.number)) for worker in given_back) > 0


def test_a_worker_that_dies_early_still_counts_as_one_that_died() -> None:
    model = retiring(1, 100)
    for number in range(1, 7):
        model.die(number)
        if number < 6:
            model.ready(number + 1)
    assert model.scheduler.degraded


# ----------------------------------------------------------------------------------------------- the user's initializer


def test_a_failing_initializer_ends_it_all_at_once() -> None:
    model = Model(PoolScheduler(2, initializes=True))
    model.assign([0])
    model.scheduler.initializer_failed("ValueError: no model")
    reports = model.take_reports()
    assert "ValueError: no model" in reports.degraded
    assert reports.returned == [TaskRef(JOB, 0, 1)]
    assert model.scheduler.has_initializer_failed
    model.die(1, "ended with exit code 1")
    assert list(model.workers) == [2]


def test_an_initializer_that_kills_its_worker_is_tried_three_times_however_long_it_takes() -> None:
    model = Model(PoolScheduler(1, initializes=True))
    for number in (1, 2, 3):
        assert not model.scheduler.degraded
        model.clock.advance(1000.0)
        model.die(number)
    assert model.scheduler.has_initializer_failed
    assert "3 workers ended in a row" in model.take_reports().degraded
    assert not model.workers


def test_an_initializer_may_take_long() -> None:
    model = Model(PoolScheduler(1, initializes=True))
    model.pass_time(10 * START_S)
    assert not model.killed(1)


def test_deaths_in_between_which_a_worker_got_ready_are_not_the_initializers() -> None:
    model = Model(PoolScheduler(2, initializes=True))
    for number in range(1, 6):
        model.die(number)
        model.ready(number + 1)
        model.assign([number])
        model.run(number + 1)
    assert not model.scheduler.degraded


# ---------------------------------------------------------------------------------------------------- fresh workers


def test_idle_workers_are_replaced_at_once() -> None:
    model = make(2)
    model.execute(model.scheduler.restart_requested(0.0, stop=False))
    assert [worker.killed for worker in model.workers.values()] == [True, True]
    assert model.scheduler.outdated == 2
    model.die(1)
    model.die(2)
    assert model.scheduler.outdated == 2  # their successors are not ready
    model.all_ready()
    assert model.scheduler.outdated == 0
    assert sorted(model.workers) == [3, 4]
    assert not model.scheduler.degraded


def test_what_runs_ends_first_and_what_waits_behind_it_runs_in_a_fresh_worker() -> None:
    model = make(1)
    model.assign(range(3))
    model.begin(1)
    model.execute(model.scheduler.restart_requested(0.0, stop=False))
    assert not model.killed(1)
    assert model.has(1) == []
    model.end(1)
    model.flush(1)
    assert model.killed(1)
    model.die(1)
    model.ready(2)
    assert model.has(2) != []
    assert model.statuses() == {0: Status.OK}


def test_what_is_stopped_for_it_is_given_back_without_blame() -> None:
    model = make(1)
    model.assign(range(3))
    model.begin(1)
    model.execute(model.scheduler.restart_requested(0.0, stop=True))
    assert model.killed(1)
    model.die(1, "died of SIGKILL")
    assert model.take_reports().returned == [TaskRef(JOB, 0, 1)]
    assert not model.ended
    model.ready(2)
    assert model.has(2) != []


def test_a_task_that_is_being_cancelled_ends_so_when_workers_are_restarted() -> None:
    model = make(1)
    model.assign([0])
    model.begin(1)
    model.withdraw([0], stop=True)
    model.execute(model.scheduler.restart_requested(0.0, stop=True))
    model.die(1, "died of SIGKILL")
    assert model.statuses() == {0: Status.CANCELLED}
    assert not model.reports.returned


def test_threads_are_replaced_together_when_the_last_has_ended() -> None:
    model = make(2)
    model.assign([0, 1], needs=Needs(kind="thread"))
    for number in (3, 4, 5):
        if number in model.workers:
            model.ready(number)
    threads = [worker.number for worker in model.workers.values() if worker.process]
    first, second = threads
    model.begin(first)
    model.begin(second)
    model.execute(model.scheduler.restart_requested(0.0, stop=False))
    model.end(first)
    model.flush(first)
    assert not model.killed(first)  # the process goes on for the other
    model.assign([2], needs=Needs(kind="thread"))
    fresh = [worker for worker in model.workers.values() if worker.process and worker.number not in threads]
    assert fresh
    model.end(second)
    model.flush(second)
    assert model.killed(first)
    assert model.killed(second)
