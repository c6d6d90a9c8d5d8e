"""Tasks of several cores, in threads, and hosts: who gets them, who waits for whom, and what is refused."""

from collections.abc import Callable

import pytest

from concurrent_nb.errors import ProtocolError
from concurrent_nb.scheduling.instructions import AssignTasks
from concurrent_nb.scheduling.placement import TOO_LARGE_AFTER_S
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.scheduling.strategies.push_best import PushBestStrategy
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.wire.messages import HOSTS_MAX, Needs
from tests.unit.scheduling.bench import CANCELLED, DIED, OK, OTHER_JOB, REFUSED, YOU, Bench, F, G
from tests.unit.scheduling.client_events import cancelled, gone, opened, submitted
from tests.unit.scheduling.instructions import assigned, attempts, delivered, report, withdrawn
from tests.unit.scheduling.slave_events import ended, joined, lost, resized, returned, slave_id, started, worker_died

HOST, ALL, THREAD = Needs(kind="system_host"), Needs(cores=0), Needs(kind="thread")


@pytest.fixture(params=[PullRoundRobinStrategy, PushBestStrategy])
def bench(request: pytest.FixtureRequest) -> Bench:
    make: Callable[[], Strategy] = request.param
    return Bench(make())


# ------------------------------------------------------------------------------------------------------------- threads


def test_a_task_in_a_thread_takes_a_slot_as_others_do(bench: Bench) -> None:
    bench(joined("a", slots=2), joined("b", slots=2), opened())
    given = assigned(bench(submitted([0, 1], needs=THREAD), submitted([2, 3])))
    assert sorted(map(len, given.values())) == [2, 2]
    assert delivered(bench(*[ended(name, index) for name in given for index in given[name]])) == dict.fromkeys(
        range(4), OK
    )


def test_a_job_of_both_kinds_is_cancelled_while_all_of_it_waits(bench: Bench) -> None:
    bench(opened(), submitted(range(100), needs=THREAD), submitted([100]))
    assert len(delivered(bench(cancelled()))) == 101
    bench(opened(YOU, "you", OTHER_JOB), submitted([0], client=YOU, job=OTHER_JOB))
    assert assigned(bench(joined("a"))) == {"a": [0]}


def test_what_ran_beside_one_that_ended_its_process_runs_again_and_its_time_begins_anew(bench: Bench) -> None:
    bench(joined("a"), opened(), submitted([0], timeout_s=5.0, needs=THREAD))
    bench(started("a", 0))
    for attempt in range(1, 6):  # oftener than a worker may die under a task
        assert attempts(bench.after(4.0, returned("a", 0, attempt=attempt))) == {0: attempt + 1}
        bench(started("a", 0, attempt=attempt + 1))
    assert not withdrawn(bench.after(4.0), stop=True)
    assert delivered(bench(ended("a", 0, attempt=6))) == {0: OK}


# --------------------------------------------------------------------------------------------------------------- hosts


def test_a_host_takes_no_slot(bench: Bench) -> None:
    bench(joined("a", slots=1), opened())
    assert assigned(bench(submitted([0]), submitted([1], needs=HOST))) == {"a": [0, 1]}
    assert bench.scheduler.slaves[slave_id("a")].load == 1
    assert assigned(bench(ended("a", 0), submitted([2]))) == {"a": [2]}


def test_hosts_go_where_there_are_fewest_whatever_the_slots_do(bench: Bench) -> None:
    bench(joined("a", slots=1, credit=1), opened())
    bench(submitted([0]))
    bench(joined("b", slots=8))
    assert assigned(bench(submitted([1, 2, 3, 4], needs=HOST))) == {"a": [1, 3], "b": [2, 4]}


def test_more_hosts_than_slaves_take_wait_for_the_end_of_one(bench: Bench) -> None:
    bench(joined("a"), opened())
    assert assigned(bench(submitted(range(HOSTS_MAX + 2), needs=HOST))) == {"a": [*range(HOSTS_MAX)]}
    assert bench.scheduler.waiting == 2
    assert assigned(bench(ended("a", 3))) == {"a": [HOSTS_MAX]}
    assert assigned(bench(joined("b"))) == {"b": [HOSTS_MAX + 1]}


def test_a_host_waits_for_a_slave_and_runs_again_elsewhere_when_it_is_lost(bench: Bench) -> None:
    assert not assigned(bench(opened(), submitted([0], needs=HOST)))
    assert assigned(bench(joined("a"))) == {"a": [0]}
    bench(started("a", 0), joined("b"))
    again = bench(lost("a"))
    assert (assigned(again), attempts(again)) == ({"b": [0]}, {0: 2})


def test_a_slave_that_drains_gets_no_host(bench: Bench) -> None:
    bench(joined("a"), opened(), resized("a", 0, 0))
    assert not assigned(bench(submitted([0], needs=HOST)))
    assert assigned(bench(resized("a", 1, 1))) == {"a": [0]}


def test_a_host_that_is_given_up_keeps_its_place_until_its_slave_answers(bench: Bench) -> None:
    bench(joined("a"), opened(), submitted(range(HOSTS_MAX), needs=HOST))
    bench(gone(linger_s=1.0))
    bench.after(2.0)
    bench(opened(YOU, "you", OTHER_JOB), submitted([0], client=YOU, job=OTHER_JOB, needs=HOST))
    assert bench.scheduler.waiting == 1
    assert assigned(bench(ended("a", 5, status=CANCELLED))) == {"a": [0]}


def test_a_host_is_not_asked_back_for_idle_slots(bench: Bench) -> None:
    bench(joined("a", slots=1), opened())
    bench(submitted([0, 1]), submitted([2], needs=HOST))
    bench(joined("b", slots=4))
    assert withdrawn(bench.after(1.0), stop=False) == {"a": [1]}


def test_run_times_of_hosts_do_not_measure_their_slave(bench: Bench) -> None:
    bench(joined("a"), opened(), submitted([0], needs=HOST))
    bench(ended("a", 0, elapsed_s=3600.0))
    assert bench.scheduler.slaves[slave_id("a")].task_s is None


@pytest.mark.parametrize("needs", [Needs(cores=2, kind="system_host"), Needs(cores=0, kind="thread")])
def test_hosts_of_several_cores_are_no_such_thing(bench: Bench, needs: Needs) -> None:
    bench(joined("a"), opened())
    with pytest.raises(ProtocolError, match="cores"):
        bench(submitted([0], needs=needs))


# ------------------------------------------------------------------------------------------------------- several cores


def test_what_needs_one_slot_in_a_process_is_plain_however_it_is_written(bench: Bench) -> None:
    bench(joined("a", slots=2), opened())
    (one,) = bench(submitted([0], needs=Needs()), submitted([1]))
    assert isinstance(one, AssignTasks)
    assert one.needs is None


def test_a_task_of_several_cores_takes_as_many_slots(bench: Bench) -> None:
    bench(joined("a", slots=4, credit=4), opened())
    assert assigned(bench(submitted([0, 1, 2], needs=Needs(cores=2)))) == {"a": [0, 1]}
    assert not assigned(bench(submitted([3])))  # its credit is used up
    assert assigned(bench(ended("a", 0))) == {"a": [3, 2]}


def test_the_slave_is_taken_where_it_can_begin_at_once(bench: Bench) -> None:
    bench(joined("a", slots=4), joined("b", slots=4), opened())
    bench(submitted(range(5)))
    busy = {name for name, load in loads(bench).items() if load > 1}
    bench(*[ended("a" if "b" in busy else "b", index) for index in range(5)])
    free = min(loads(bench), key=lambda name: loads(bench)[name])
    assert assigned(bench(submitted([9], needs=ALL))) == {free: [9]}


def loads(bench: Bench) -> dict[str, int]:
    return {slave.name: slave.load for slave in bench.scheduler.slaves.values()}


def test_all_cores_are_those_of_the_slave_it_comes_to(bench: Bench) -> None:
    bench(joined("a", slots=4), joined("b", slots=2), opened())
    bench(submitted([0, 1], needs=ALL))
    assert loads(bench) == {"a": 4, "b": 2}
    bench(ended("a", 0), ended("a", 1), ended("b", 0), ended("b", 1))
    assert loads(bench) == {"a": 0, "b": 0}


def test_several_tasks_of_all_cores_take_turns(bench: Bench) -> None:
    bench(joined("a", slots=4), opened())
    assert assigned(bench(submitted([0, 1, 2], needs=ALL))) == {"a": [0]}
    assert assigned(bench(ended("a", 0))) == {"a": [1]}
    assert assigned(bench(ended("a", 1))) == {"a": [2]}


def test_a_task_that_waits_for_slots_goes_where_they_come_free_first(bench: Bench) -> None:
    bench(joined("a", slots=2), joined("b", slots=2), opened(), submitted(range(4)))
    where = {index: name for name, indexes in names_of_tasks(bench).items() for index in indexes}
    (stuck,) = assigned(bench(started("a", *[n for n in where if where[n] == "a"]), submitted([9], needs=ALL)))
    other = {"a": "b", "b": "a"}[stuck]
    instructions = bench.after(1.0, *[ended(other, index) for index in where if where[index] == other])
    assert withdrawn(instructions, stop=False) == {stuck: [9]}
    assert not withdrawn(bench.after(1.0), stop=False)  # it is asked once
    assert assigned(bench(returned(stuck, 9))) == {other: [9]}
    assert bench.scheduler.next_deadline() is None


def test_a_task_that_has_begun_stays(bench: Bench) -> None:
    bench(joined("a", slots=2), opened(), submitted([0]), submitted([9], needs=ALL))
    bench(joined("b", slots=2), started("a", 0, 9))
    assert not withdrawn(bench.after(1.0), stop=False)


def names_of_tasks(bench: Bench) -> dict[str, list[int]]:
    return {slave.name: [task.index for task in slave.tasks] for slave in bench.scheduler.slaves.values()}


def test_a_large_task_does_not_wait_for_the_end_of_many_small_ones(bench: Bench) -> None:
    bench(joined("a", slots=2), opened(), submitted(range(1000)))
    assert assigned(bench(submitted([5000], needs=ALL), submitted(range(1000, 2000)))) == {"a": [5000]}


def test_small_tasks_do_not_wait_for_the_end_of_many_large_ones(bench: Bench) -> None:
    bench(joined("a", slots=2), opened(), submitted(range(100), needs=ALL))
    bench(opened(YOU, "you", OTHER_JOB), submitted(range(100), client=YOU, job=OTHER_JOB))
    a = bench.scheduler.slaves[slave_id("a")]
    for turn in range(20):
        small = [task.index for task in a.tasks if task.needs is None]
        assert len(small) >= 2  # they fill the slots as soon as the large one has ended
        bench(ended("a", turn), ended("a", *small[:2], job=OTHER_JOB))
        assert [task.index for task in a.tasks if task.needs == ALL] == [turn + 1]


def test_a_narrow_task_does_not_overtake_a_wide_one_for_ever(bench: Bench) -> None:
    bench(joined("a", slots=4), opened(), submitted([0], needs=Needs(cores=2)))
    bench(submitted([1], needs=ALL), submitted(range(2, 9), needs=Needs(cores=2)))
    assert bench.scheduler.waiting == 8
    assert assigned(bench(ended("a", 0))) == {"a": [1]}
    assert assigned(bench(ended("a", 1))) == {"a": [2, 3]}


def test_owners_take_turns_with_large_tasks_too(bench: Bench) -> None:
    bench(joined("a", slots=2), opened(), submitted(range(10), needs=ALL))
    bench(opened(YOU, "you", OTHER_JOB), submitted([70], client=YOU, job=OTHER_JOB, needs=ALL))
    given = [assigned(bench(ended("a", 0)))["a"], assigned(bench(ended("a", 1), ended("a", 70, job=OTHER_JOB)))["a"]]
    assert [70] in given


def test_the_cancelled_first_in_the_queue_lets_the_next_one_in(bench: Bench) -> None:
    bench(joined("a", slots=4), opened(), submitted([0], needs=Needs(cores=2)))
    bench(submitted([1], needs=ALL), submitted([2], needs=Needs(cores=2)))
    instructions = bench(cancelled([1]))
    assert (delivered(instructions), assigned(instructions)) == ({1: CANCELLED}, {"a": [2]})


def test_what_is_given_back_or_dies_is_placed_again(bench: Bench) -> None:
    bench(joined("a", slots=2), opened(), submitted([0], needs=ALL))
    assert attempts(bench(returned("a", 0))) == {0: 2}
    assert attempts(bench(worker_died("a", 0, attempt=2))) == {0: 3}
    instructions = bench(ended("a", 0, status=DIED, attempt=3), ended("a", 0, status=DIED, attempt=4))
    assert attempts(instructions) == {0: 4}


def test_runs_differ_by_what_they_need(bench: Bench) -> None:
    bench(joined("a", slots=8), opened())
    given = bench(submitted([0], needs=Needs(2)), submitted([1], needs=Needs(3)), submitted([2], function=G))
    assert {(assign.function, assign.needs) for assign in given if isinstance(assign, AssignTasks)} == {
        (F, Needs(2)),
        (F, Needs(3)),
        (G, None),
    }


# ------------------------------------------------------------------------------------------------------------ too large


def test_more_cores_than_any_slave_has_are_refused_at_once(bench: Bench) -> None:
    bench(joined("a", slots=2), joined("b", slots=4), opened())
    instructions = bench(submitted([0, 1], needs=Needs(cores=8)))
    assert delivered(instructions) == {0: REFUSED, 1: REFUSED}
    instructions = bench(submitted([2], needs=Needs(cores=5)))
    assert "needs 5 cores of one slave, and the largest slave has 4" in report(instructions)
    assert assigned(bench(submitted([3], needs=Needs(cores=4)))) == {"b": [3]}


def test_a_refused_task_ends_a_job_that_stops_on_errors(bench: Bench) -> None:
    bench(joined("a", slots=2), opened(stop_on_error=True), submitted([0]))
    instructions = bench(submitted([1], needs=Needs(cores=8)))
    assert delivered(instructions) == {1: REFUSED}
    assert withdrawn(instructions, stop=True) == {"a": [0]}


def test_without_a_slave_it_waits_for_one_that_is_large_enough(bench: Bench) -> None:
    bench(opened(), submitted([0], needs=Needs(cores=8)))
    assert not delivered(bench.after(1000.0))
    bench(joined("a", slots=2))
    assert not delivered(bench.after(TOO_LARGE_AFTER_S / 2))
    assert assigned(bench(joined("b", slots=8))) == {"b": [0]}


def test_where_none_comes_that_is_large_enough_it_is_refused_after_a_while(bench: Bench) -> None:
    bench(opened(), submitted([0, 1], needs=Needs(cores=8)), submitted([2], needs=ALL))
    bench(joined("a", slots=2))
    assert bench.scheduler.next_deadline() == bench.now + TOO_LARGE_AFTER_S
    assert not delivered(bench.after(TOO_LARGE_AFTER_S * 0.9))
    instructions = bench.after(TOO_LARGE_AFTER_S * 0.1)
    assert delivered(instructions) == {0: REFUSED, 1: REFUSED}
    assert assigned(instructions) == {"a": [2]}  # it has waited behind them
    assert bench.scheduler.next_deadline() is None


def test_what_happens_meanwhile_makes_the_wait_no_longer(bench: Bench) -> None:
    bench(opened(), submitted([0], needs=Needs(cores=8)))
    bench(joined("a", slots=2))
    for number in range(4):
        instructions = bench.after(TOO_LARGE_AFTER_S / 4, joined(f"b{number}"), submitted([1 + number], needs=HOST))
    assert delivered(instructions) == {0: REFUSED}


def test_the_large_slave_that_is_lost_may_come_back(bench: Bench) -> None:
    bench(joined("a", slots=2), joined("b", slots=8), opened(), submitted([0], needs=Needs(cores=8)))
    assert not delivered(bench(lost("b")))
    bench.after(TOO_LARGE_AFTER_S / 2)
    assert assigned(bench(joined("b2", slots=8))) == {"b2": [0]}
    assert bench.scheduler.next_deadline() is None


def test_slaves_that_drain_are_as_good_as_gone(bench: Bench) -> None:
    bench(joined("a", slots=8), opened(), resized("a", 0, 0))
    assert not delivered(bench(submitted([0], needs=Needs(cores=8))))
    assert not delivered(bench.after(1000.0))
