"""The pool scheduler with tasks in threads. Each test is one promise."""

from concurrent_nb.outcome import Status
from concurrent_nb.restart_limit import RestartLimit
from concurrent_nb.wire.messages import Needs
from concurrent_nb.workers.slave_side.attempts import Kill, Start
from concurrent_nb.workers.slave_side.pool_scheduler.pool_scheduler import PoolScheduler
from concurrent_nb.workers.slave_side.pool_scheduler.thread_process import THREADS_STARTING_MAX
from concurrent_nb.workers.slave_side.pool_scheduler.worker_lifecycle import SLOW_S, START_S, STUCK_S
from tests.unit.workers.slave_side.model import F, G, Model, ready_model, who_has

THREAD = Needs(kind="thread")


def begun(model: Model, indexes: range | list[int], timeout_s: float | None = None) -> list[int]:
    """Let tasks run in threads, one of each function in each; return the threads."""
    for index in indexes:
        model.assign([index], bytes([index]) * 32, timeout_s, needs=THREAD)
    model.all_ready()
    threads = [who_has(model, index) for index in indexes]
    for thread in threads:
        model.begin(thread)
    return threads


def returned(model: Model) -> list[int]:
    return sorted(ref.index for ref in model.take_reports().returned)


# -------------------------------------------------------------------------------------------------------- who gets what


def test_no_thread_is_started_before_a_task_wants_one() -> None:
    model = ready_model(2)
    model.assign([0])
    assert not [command for command in model.commands if isinstance(command, Start)]
    model.assign([1], needs=THREAD)
    assert [command for command in model.commands if isinstance(command, Start)] == [Start(4, process=3)]
    model.ready(4)
    assert who_has(model, 1) == 4


def test_all_threads_are_in_one_process_and_there_are_as_many_as_slots() -> None:
    model = ready_model(3)
    model.assign(range(100), needs=THREAD)
    starts = [command for command in model.commands if isinstance(command, Start)]
    assert len(starts) == 3
    assert len({start.process for start in starts}) == 1
    model.all_ready()
    assert len({who_has(model, index) for index in range(3)} - {0}) == 3


def test_of_many_threads_a_few_are_started_at_once() -> None:
    model = ready_model(3 * THREADS_STARTING_MAX)
    model.assign(range(1000), needs=THREAD)
    starting = [number for number, worker in model.workers.items() if not worker.ready]
    assert len(starting) == THREADS_STARTING_MAX
    model.ready(starting[0])
    assert sum(not worker.ready for worker in model.workers.values()) == THREADS_STARTING_MAX


def test_a_task_in_a_thread_takes_the_slot_of_a_worker() -> None:
    model = ready_model(2)
    (thread,) = begun(model, [0])
    model.assign([1, 2], G)
    assert len({who_has(model, 1), who_has(model, 2)} - {0}) == 1
    model.end(thread)
    model.flush(thread)
    assert {who_has(model, 1), who_has(model, 2)} == {1, 2}


def test_where_no_slot_is_free_it_waits_for_one_and_then_goes_before_what_came_later() -> None:
    model = ready_model(1)
    model.assign([0], G)
    model.begin(1)
    model.assign([1], needs=THREAD)
    model.ready(3)
    assert not who_has(model, 1)
    model.assign([2])
    model.end(1)
    model.flush(1)
    assert who_has(model, 1) == 3
    assert not who_has(model, 2)
    model.run(3)
    assert who_has(model, 2) == 1


def test_what_came_before_it_goes_first() -> None:
    model = ready_model(1)
    model.assign([0], G)
    model.begin(1)
    model.assign([1], G)  # it is given ahead
    model.assign([2], G)
    model.assign([3], needs=THREAD)
    model.ready(3)
    model.end(1, elapsed_s=1.0)
    model.flush(1)
    model.run(1, 1.0)
    assert who_has(model, 2) == 1
    assert not who_has(model, 3)
    model.run(1, 1.0)
    assert who_has(model, 3) == 3


def test_while_threads_start_slots_do_not_wait_for_them() -> None:
    model = ready_model(1)
    model.assign([0], needs=THREAD)
    model.assign([1])
    assert who_has(model, 1) == 1


def test_a_wide_task_has_its_slots_for_itself() -> None:
    model = ready_model(2)
    (thread,) = begun(model, [0])
    model.assign([1], needs=Needs(cores=2))
    model.assign([2], needs=THREAD)
    assert not who_has(model, 1)
    model.end(thread)
    model.flush(thread)
    wide = who_has(model, 1)
    assert wide
    model.all_ready()
    assert not who_has(model, 2)
    model.run(wide)
    assert who_has(model, 2)


def test_short_tasks_come_in_packs_which_idle_threads_share() -> None:
    model = ready_model(2)
    model.assign([0], F, needs=THREAD)
    model.all_ready()
    model.run(who_has(model, 0), 0.001)
    model.assign(range(1, 60), F, needs=THREAD)
    model.all_ready()
    assert max(size for worker in model.workers.values() for size in worker.packs) > 1
    threads = [number for number, worker in model.workers.items() if worker.process]
    assert all(model.has(number) for number in threads)
    one, other = threads
    while model.workers[one].unstarted:
        model.run(one, 0.001)
    assert len(model.has(other)) <= 1


# --------------------------------------------------------------------------------------------------------- when it ends


def test_what_is_stopped_with_force_takes_its_process_along_and_nobody_else_is_blamed() -> None:
    model = ready_model(3)
    one, other, _ = begun(model, [0, 1, 2])
    model.withdraw([0], stop=True)
    assert model.workers[one].interrupted
    assert not model.workers[other].interrupted
    model.pass_time(2.0)
    assert model.killed(one)
    model.die(one, "died of SIGKILL")
    assert model.statuses() == {0: Status.CANCELLED}
    assert sorted(ref.index for ref in model.reports.returned) == [1, 2]
    model.assign([1, 2], attempt=2, needs=THREAD)
    model.all_ready()
    assert who_has(model, 1)
    assert who_has(model, 2)  # beside each other: none is a suspect


def test_a_task_that_takes_too_long_ends_so_even_if_it_has_to_be_killed() -> None:
    model = ready_model(2)
    model.assign([0], G, timeout_s=1.0, needs=THREAD)
    model.ready(4)
    model.begin(4)
    (neighbour,) = begun(model, [1])
    model.pass_time(5.0)
    assert model.killed(neighbour)
    model.die(neighbour, "died of SIGKILL")
    assert model.statuses() == {0: Status.TIMEOUT}
    assert [ref.index for ref in model.reports.returned] == [1]


def test_results_that_are_there_when_the_process_ends_count() -> None:
    model = ready_model(2)
    one, other = begun(model, [0, 1])
    model.withdraw([0], stop=True)
    model.pass_time(2.0)
    model.end(other)
    model.die(one, "died of SIGKILL")
    assert model.statuses() == {0: Status.CANCELLED, 1: Status.OK}
    assert not model.reports.returned


def test_what_had_not_started_in_a_process_that_ends_is_started_in_the_next_one() -> None:
    model = ready_model(1)
    model.assign([0], F, needs=THREAD)
    model.ready(3)
    model.run(3, 0.001)
    model.assign([1, 2, 3], F, needs=THREAD)
    model.begin(3)
    model.die(3)
    assert model.statuses() == {0: Status.OK, 1: Status.DIED}
    assert not model.reports.returned
    model.all_ready()
    assert model.has(max(model.workers)) == [2, 3]


def test_who_was_alone_when_the_process_died_is_blamed() -> None:
    model = ready_model(2)
    one, other = begun(model, [0, 1])
    model.end(other)
    model.flush(other)
    model.die(one)
    assert model.statuses() == {0: Status.DIED, 1: Status.OK}
    assert sum(not worker.process for worker in model.workers.values()) == 2


def test_of_several_none_is_blamed_and_each_runs_alone_the_next_time() -> None:
    model = ready_model(3)
    one, *_ = begun(model, [0, 1, 2])
    model.die(one)
    assert returned(model) == [0, 1, 2]
    assert model.statuses() == {}
    model.assign([3], G, needs=THREAD)
    model.all_ready()
    other = who_has(model, 3)
    model.begin(other)
    model.assign([0, 1], F, attempt=2, needs=THREAD)
    model.all_ready()
    assert [who_has(model, index) for index in (0, 1)] == [0, 0]  # another task runs
    model.assign([4], G, needs=THREAD)
    assert not who_has(model, 4)  # and no more come
    model.end(other)
    model.flush(other)
    first = who_has(model, 0)
    assert first
    assert not who_has(model, 1)
    assert not who_has(model, 4)
    model.begin(first)
    model.die(first)
    assert model.statuses()[0] is Status.DIED  # this time it is known
    model.all_ready()
    second = who_has(model, 1)
    model.run(second)
    assert model.statuses()[1] is Status.OK
    assert who_has(model, 4)


def test_a_suspect_that_has_ended_well_is_none_any_more() -> None:
    model = ready_model(2)
    one, _ = begun(model, [0, 1])
    model.die(one)
    model.assign([0, 1], attempt=2, needs=THREAD)
    model.all_ready()
    for index in (0, 1):
        model.run(who_has(model, index))
    assert model.statuses() == {0: Status.OK, 1: Status.OK}
    model.assign([0, 1], G, attempt=3, needs=THREAD)
    model.all_ready()
    assert who_has(model, 0)
    assert who_has(model, 1)


def test_where_a_thread_has_lost_its_connection_it_is_the_only_one_to_blame() -> None:
    model = ready_model(3)
    one, *_ = begun(model, [0, 1, 2])
    model.die(one, "closed its connection and was killed", culprits=[one])
    assert model.statuses() == {0: Status.DIED}
    assert sorted(ref.index for ref in model.reports.returned) == [1, 2]


def test_a_process_that_dies_is_not_replaced_before_somebody_wants_it() -> None:
    model = ready_model(1)
    (thread,) = begun(model, [0])
    model.end(thread)
    model.flush(thread)
    model.commands.clear()
    model.die(thread)
    assert model.commands == []
    model.assign([1], needs=THREAD)
    assert isinstance(model.commands[-1], Start)


def test_results_that_are_found_in_a_dead_process_start_no_thread_in_there() -> None:
    model = ready_model(2)
    (thread,) = begun(model, [0])
    model.end(thread)
    model.assign([1], needs=Needs(cores=2))
    model.assign([2, 3], needs=THREAD)  # no thread is started while a wide task waits
    process = model.workers[thread].process
    model.commands.clear()
    model.die(thread)
    (start, *_) = [command for command in model.commands if isinstance(command, Start)]
    assert start.process not in (0, process)


def test_processes_that_die_without_a_task_are_not_started_for_ever() -> None:
    model = Model(PoolScheduler(2, limit=RestartLimit(deaths=2)))
    model.all_ready()
    model.assign([0], needs=THREAD)
    for _ in range(3):
        model.die(max(model.workers), "could not be forked")
    assert model.scheduler.degraded
    assert [ref.index for ref in model.take_reports().returned] == [0]


def test_where_no_more_threads_can_be_started_those_that_there_are_do_the_work() -> None:
    model = ready_model(3)
    model.assign(range(10), needs=THREAD)
    first, second, third = [number for number, worker in model.workers.items() if worker.process]
    for number in (second, third):
        del model.workers[number]
        model.execute(model.scheduler.thread_refused(number, "could not be started", model.clock()))
    model.all_ready()
    assert [number for number, worker in model.workers.items() if worker.process] == [first]
    for _ in range(10):
        model.run(first)
    assert len(model.statuses()) == 10


def test_where_no_thread_at_all_can_be_started_the_slave_says_so() -> None:
    model = Model(PoolScheduler(1, limit=RestartLimit(deaths=2)))
    model.all_ready()
    model.assign([0], needs=THREAD)
    for _ in range(3):
        number = max(model.workers)
        del model.workers[number]
        model.execute(model.scheduler.thread_refused(number, "could not be started", model.clock()))
    assert model.scheduler.degraded
    assert [ref.index for ref in model.take_reports().returned] == [0]


def test_a_process_that_is_replaced_does_not_wait_for_a_thread_that_could_not_be_started() -> None:
    model = ready_model(3)
    model.assign([0, 1], needs=THREAD)
    first, second = [number for number, worker in model.workers.items() if worker.process]
    model.execute(model.scheduler.restart_requested(model.clock(), stop=False))
    model.ready(first)
    assert not model.workers[first].killed
    del model.workers[second]
    model.execute(model.scheduler.thread_refused(second, "could not be started", model.clock()))
    assert model.workers[first].killed


def test_a_killer_among_neighbours_wears_nobody_out() -> None:
    model = Model(PoolScheduler(2, limit=RestartLimit(deaths=0)))
    model.all_ready()
    one, _ = begun(model, [0, 1])
    model.die(one)
    assert not model.scheduler.degraded


def test_threads_that_do_not_come_up_are_given_up() -> None:
    model = ready_model(2)
    model.assign([0, 1], needs=THREAD)
    model.pass_time(2 * START_S + 1)
    assert sum(isinstance(command, Kill) for command in model.commands) == 1
    model.die(4, "died of SIGKILL")
    assert len({worker.process for worker in model.workers.values()} - {0}) == 1


def test_a_stuck_thread_costs_its_neighbours_nothing_but_time() -> None:
    model = ready_model(2)
    model.assign([0], F, needs=THREAD)
    model.ready(4)
    (neighbour,) = begun(model, [1])
    model.pass_time(STUCK_S + 1)
    assert model.killed(neighbour)
    model.die(neighbour, "died of SIGKILL")
    assert model.statuses() == {}
    assert [ref.index for ref in model.reports.returned] == [1]
    model.all_ready()
    assert who_has(model, 0)


def test_a_reset_kills_the_process_and_frees_the_slots() -> None:
    model = ready_model(2)
    one, other = begun(model, [0, 1])
    model.execute(model.scheduler.reset())
    assert model.killed(one)
    assert model.killed(other)
    model.die(one)
    assert model.scheduler.unfinished == 0
    model.assign([2, 3], G)
    assert who_has(model, 2)
    assert who_has(model, 3)


def test_a_pool_that_drains_returns_what_waits_for_a_thread() -> None:
    model = ready_model(1)
    (thread,) = begun(model, [0])
    model.assign([1], needs=THREAD)
    model.execute(model.scheduler.drained())
    assert returned(model) == [1]
    model.end(thread)
    model.flush(thread)
    assert model.statuses() == {0: Status.OK}


def test_what_stands_behind_a_slow_task_in_a_thread_is_given_to_another() -> None:
    model = ready_model(2)
    model.assign([0], F, needs=THREAD)
    model.all_ready()
    model.run(who_has(model, 0), 0.001)
    model.assign([1], G)
    busy = who_has(model, 1)
    model.begin(busy)
    model.assign([2, 3], F, needs=THREAD)
    model.all_ready()
    thread = who_has(model, 2)
    model.begin(thread)
    model.end(busy)
    model.flush(busy)
    model.pass_time(2 * SLOW_S)
    model.all_ready()
    assert who_has(model, 3) not in (0, thread)
