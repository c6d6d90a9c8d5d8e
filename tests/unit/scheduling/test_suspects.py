"""Tasks that may have killed their slaves: counted, then run alone on a slave, then quarantined; others are spared."""

from collections.abc import Callable

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.scheduling.events import Event, SlaveLost, SlaveSuspected, SlaveTrusted
from concurrent_nb.scheduling.instructions import Instruction
from concurrent_nb.scheduling.placement import TOO_LARGE_AFTER_S
from concurrent_nb.scheduling.strategies.by_name import BY_NAME
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.wire.messages import Needs
from tests.unit.scheduling.bench import CANCELLED, ERROR, JOB, OK, OTHER_JOB, POISON, REFUSED, TIMEOUT, YOU, Bench
from tests.unit.scheduling.client_events import cancelled, gone, opened, submitted
from tests.unit.scheduling.instructions import assigned, attempts, delivered, report, withdrawn
from tests.unit.scheduling.slave_events import ended, joined, lost, resized, returned, slave_id, started, worker_died

HOST, THREAD = Needs(kind="system_host"), Needs(kind="thread")


@pytest.fixture(params=sorted(BY_NAME))
def bench(request: pytest.FixtureRequest) -> Bench:
    make: Callable[[], Strategy] = BY_NAME[request.param]
    return Bench(make())


def lost_twice(bench: Bench, count: int = 1, slots: int = 4, needs: Needs | None = None) -> None:
    """Let tasks 0 to `count` lose two slaves, so that no slave is left and all of them are suspects, in attempt 2."""
    bench(opened(), submitted(range(count), needs=needs))
    for name in ("lost 1", "lost 2"):
        assert assigned(bench(joined(name, slots, 1000))) == {name: [*range(count)]}
        bench(lost(name))


# ------------------------------------------------------------------------------------------------------- who is blamed


@pytest.mark.parametrize("is_reported", [True, False])
def test_a_task_that_kills_every_slave_is_quarantined_with_all_that_is_known(bench: Bench, is_reported: bool) -> None:
    bench(opened(), submitted([0, 1]))
    for number, name in enumerate("abc", 1):
        bench(joined(name, slots=2))
        if is_reported:
            bench(started(name, 0, attempt=number))
        instructions = bench(SlaveLost(slave_id(name), "its connection has broken"))
    assert delivered(instructions) == {0: POISON}
    message = report(instructions)
    start = "" if is_reported else ", though its start was not reported"
    for part in (
        "3 times the worker or the slave of task 6a6f6220/0 died",
        f"1. slave a was lost (its connection has broken) while the task was there with 1 other{start}",
        f"2. slave b was lost (its connection has broken) while the task was there with 1 other{start}",
        f"3. slave c was lost (its connection has broken) while the task was there alone{start}",
        "Run it alone",
    ):
        assert part in message
    # The innocent one runs alone, too, and then ends as it would have.
    assert attempts(bench(joined("d"))) == {1: 3}
    assert delivered(bench(ended("d", 1, attempt=3))) == {1: OK}


def test_a_lost_slave_with_many_tasks_does_not_make_them_run_one_by_one(bench: Bench) -> None:
    bench(opened(), submitted(range(64)), joined("a", slots=64))
    bench(lost("a"))
    assert assigned(bench(joined("b", slots=64))) == {"b": [*range(64)]}


@pytest.mark.parametrize("reason", ["it sent a Bye: no more work", "it has unregistered", "drained"])
def test_no_task_is_to_blame_for_a_slave_that_leaves(bench: Bench, reason: str) -> None:
    bench(opened(), submitted([0, 1]))
    for number, name in enumerate("abcdef", 1):
        assert attempts(bench(joined(name, slots=2))) == {0: number, 1: number}
        bench(started(name, 0, attempt=number))
        assert delivered(bench(SlaveLost(slave_id(name), reason, left=True))) == {}
    assert not bench.scheduler.blamed


def test_deaths_of_workers_and_losses_of_slaves_count_together(bench: Bench) -> None:
    bench(opened(), submitted([0, 1]), joined("a", slots=2))
    bench(lost("a"), joined("b", slots=2))
    bench(worker_died("b", 0, 2))
    # It has one more, and so runs alone, when all others have gone.
    assert attempts(bench(ended("b", 1, attempt=2))) == {0: 3}
    instructions = bench(worker_died("b", 0, 3))
    assert delivered(instructions) == {0: POISON}
    assert "1. slave a was lost" in report(instructions) and "2. killed by SIGSEGV" in report(instructions)


def test_deaths_of_workers_alone_make_no_suspect(bench: Bench) -> None:
    bench(opened(), submitted([0]), joined("a", slots=4))
    bench(worker_died("a", 0, 1))
    assert attempts(bench(worker_died("a", 0, 2))) == {0: 3}
    assert assigned(bench(submitted([1]))) == {"a": [1]}
    # and if the slave is lost now, it may have been the other one
    assert delivered(bench(lost("a"))) == {}
    assert attempts(bench(joined("b"))) == {1: 2}


def test_retries_are_another_count(bench: Bench) -> None:
    bench(opened(), submitted([0], retries=5))
    bench(joined("a", slots=2))
    for attempt in range(1, 4):
        assert attempts(bench(ended("a", 0, status=ERROR, attempt=attempt))) == {0: attempt + 1}
    bench(lost("a"), joined("b"), ended("b", 0, status=ERROR, attempt=5))
    bench(lost("b"), joined("c"))
    assert delivered(bench(lost("c"))) == {0: POISON}


@pytest.mark.parametrize("allowed", [1, 2, 3, 5])
def test_the_cluster_loses_no_more_slaves_than_are_allowed_and_two_at_least(allowed: int) -> None:
    bench = Bench(deaths_allowed=allowed)
    bench(opened(), submitted([0]), submitted([1]), joined("slave 0", slots=2, credit=2))
    slaves = 0
    while not delivered(bench(lost(f"slave {slaves}"))):
        slaves += 1
        bench(joined(f"slave {slaves}", slots=2, credit=2))
        if slaves == 1 and allowed < 3:  # then both are suspects
            assert len(bench.scheduler.slaves[slave_id("slave 1")].tasks) == 1
    assert slaves + 1 == max(2, allowed)


def test_one_that_has_a_slave_for_itself_by_chance_is_surely_to_blame() -> None:
    bench = Bench(deaths_allowed=1)
    bench(joined("a"), opened(), submitted([0]))
    assert delivered(bench(lost("a"))) == {0: POISON}


# -------------------------------------------------------------------------------------------------------------- alone


def test_a_suspect_gets_an_idle_slave_and_nothing_is_put_beside_it(bench: Bench) -> None:
    lost_twice(bench)
    assert assigned(bench(joined("a", slots=4), submitted([1, 2, 3, 4]))) in ({"a": [0]}, {"a": [1, 2, 3, 4]})
    everything = {index for task in bench.scheduler.slaves[slave_id("a")].tasks for index in [task.index]}
    for index in sorted(everything):
        bench(ended("a", index, attempt=3 if index == 0 else 1))
    # Now the others had their turn, or it had its own
    assert {task.index for task in bench.scheduler.slaves[slave_id("a")].tasks} in ({0}, {1, 2, 3, 4})


def test_nothing_is_given_to_its_slave_until_it_has_ended(bench: Bench) -> None:
    lost_twice(bench)
    assert assigned(bench(joined("a", slots=4))) == {"a": [0]}
    for event in (
        submitted([1]),
        submitted([2], needs=THREAD),
        submitted([3], needs=HOST),
        submitted([4], needs=Needs(2)),
    ):
        assert assigned(bench(event)) == {}
    assert sorted(assigned(bench(ended("a", 0, attempt=3)))["a"]) == [1, 2, 3, 4]


def test_others_go_elsewhere_meanwhile(bench: Bench) -> None:
    lost_twice(bench)
    bench(joined("a", slots=4), joined("b", slots=4))
    (name,) = [slave.name for slave in bench.scheduler.slaves.values() if slave.tasks]
    (other,) = {"a", "b"} - {name}
    given = assigned(bench(submitted(range(1, 5)), submitted([5], needs=HOST), submitted([6], needs=Needs(3))))
    assert {*given} == {other} and {5, 6} <= {*given[other]}


def test_a_busy_slave_is_emptied_for_it_although_short_tasks_keep_coming(bench: Bench) -> None:
    lost_twice(bench)
    bench(opened(YOU, "you", OTHER_JOB), submitted(range(1000), client=YOU, job=OTHER_JOB))
    bench(joined("a", slots=2, credit=2))
    for _ in range(20):
        slave = bench.scheduler.slaves[slave_id("a")]
        if slave.suspect is not None:
            break
        task = next(iter(slave.tasks))
        bench(ended("a", task.index, attempt=task.attempt, job=OTHER_JOB))
    assert [task.job.id for task in slave.tasks] == [JOB]
    # The others have their turn when it has ended.
    assert len(assigned(bench(ended("a", 0, attempt=3)))["a"]) == 2


def test_what_has_not_begun_is_asked_back_from_a_slave_that_is_emptied(bench: Bench) -> None:
    bench(joined("a", slots=1, credit=50), opened(YOU, "you", OTHER_JOB))
    bench(submitted(range(50), client=YOU, job=OTHER_JOB))
    bench(started("a", 0, job=OTHER_JOB))
    lost_beside(bench, "a", 900)
    instructions = bench(lost("lost 2"))
    mine = bench.scheduler.slaves[slave_id("a")]
    assert mine.reserved
    assert withdrawn(instructions, stop=False)["a"]
    asked = [task.index for task in bench.scheduler._state.recalled]
    assert sorted(asked) == [task.index for task in mine.tasks if not task.started]
    assert assigned(bench(returned("a", *asked, job=OTHER_JOB))) == {}
    assert assigned(bench(ended("a", 0, job=OTHER_JOB)))["a"][0] == 900


def lost_beside(bench: Bench, name: str, index: int) -> None:
    """Let a task lose one slave, and be on another, "lost 2", whose loss makes it a suspect; a third one stays."""
    slave = bench.scheduler.slaves[slave_id(name)]
    slots, credit = slave.slots, slave.credit
    bench(resized(name, 0, 0), SlaveSuspected(slave_id(name)), opened())
    given = bench(joined("lost 1", slots=1, credit=1), submitted([index], needs=Needs(kind="system_host")))
    assert index in assigned(given)["lost 1"]
    bench(cancelled(list(set(assigned(given)["lost 1"]) - {index}), client=YOU, job=OTHER_JOB))
    bench(lost("lost 1"))
    given = bench(joined("lost 2", slots=1, credit=1))
    assert index in assigned(given)["lost 2"]
    bench(cancelled(list(set(assigned(given)["lost 2"]) - {index}), client=YOU, job=OTHER_JOB))
    bench(resized(name, slots, credit), SlaveTrusted(slave_id(name)))


def test_several_suspects_go_to_several_slaves_at_once(bench: Bench) -> None:
    lost_twice(bench, 4)
    for name in "abcd":
        bench(joined(name, slots=4))
    assert [len(slave.tasks) for slave in bench.scheduler.slaves.values()] == [1, 1, 1, 1]
    assert all(slave.closed for slave in bench.scheduler.slaves.values())


def test_many_suspects_leave_half_of_the_slaves_to_others(bench: Bench) -> None:
    lost_twice(bench, 64, slots=64)
    bench(opened(YOU, "you", OTHER_JOB), submitted(range(1000), client=YOU, job=OTHER_JOB))
    for name in "abcd":
        bench(joined(name, slots=2, credit=4))
    for _ in range(30):
        for slave in list(bench.scheduler.slaves.values()):
            for task in list(slave.tasks)[:1]:
                bench(ended(slave.name, task.index, attempt=task.attempt, job=task.job.id))
        closed = [slave.closed for slave in bench.scheduler.slaves.values()]
        assert sum(closed) <= 2
    assert sum(closed) == 2
    assert sum(len(job.tasks) for job in bench.scheduler.jobs.values()) == 1064
    ended_yours = [task for task in bench.scheduler.jobs[OTHER_JOB].tasks.values() if task.outcome is not None]
    ended_mine = [task for task in bench.scheduler.jobs[JOB].tasks.values() if task.outcome is not None]
    assert len(ended_yours) > 50 and len(ended_mine) > 40


def test_with_one_slave_of_one_slot_suspects_and_others_take_turns(bench: Bench) -> None:
    lost_twice(bench, 3, slots=3)
    bench(opened(YOU, "you", OTHER_JOB), submitted(range(3), client=YOU, job=OTHER_JOB))
    bench(joined("a", slots=1, credit=1))
    order = []
    while slave_tasks := list(bench.scheduler.slaves[slave_id("a")].tasks):
        (task,) = slave_tasks
        order.append(task.job.id == JOB)
        bench(ended("a", task.index, attempt=task.attempt, job=task.job.id))
    assert order in ([True, False] * 3, [False, True] * 3)


@pytest.mark.parametrize("needs", [Needs(4), Needs(0), THREAD, HOST, Needs(1)])
def test_whatever_it_needs_it_runs_alone(bench: Bench, needs: Needs) -> None:
    lost_twice(bench, needs=needs)
    bench(joined("b", slots=2))
    bench(joined("a", slots=4))
    (slave,) = [slave for slave in bench.scheduler.slaves.values() if slave.tasks]
    assert slave.closed and slave.suspect is not None and slave.suspect.attempt == 3
    assert slave.slots >= needs.cores
    instructions = bench(lost(slave.name))
    assert delivered(instructions) == {0: POISON}


def test_a_suspect_that_needs_more_slots_than_any_slave_has_is_refused_in_time(bench: Bench) -> None:
    lost_twice(bench, 2, slots=8, needs=Needs(4))
    assert assigned(bench(joined("small", slots=2))) == {}
    assert bench.scheduler.next_deadline() is not None
    assert delivered(bench.after(TOO_LARGE_AFTER_S / 2)) == {}
    # In time comes one that is large enough, for the first
    assert assigned(bench(joined("large", slots=4))) == {"large": [0]}
    bench(lost("large"))
    assert delivered(bench.after(TOO_LARGE_AFTER_S)) == {1: REFUSED}
    assert bench.scheduler.next_deadline() is None
    assert assigned(bench(submitted([5]))) == {"small": [5]}


@pytest.mark.parametrize("end", ["cancelled", "job", "owner", "late"])
def test_however_a_suspect_ends_its_slave_is_free_again(bench: Bench, end: str) -> None:
    bench(opened(), submitted([0], timeout_s=1.0))
    for name in ("lost 1", "lost 2"):
        bench(joined(name))
        bench(lost(name))
    bench(joined("a", slots=2))
    bench(started("a", 0, attempt=3))
    bench(opened(YOU, "you", OTHER_JOB))
    assert assigned(bench(submitted([7], client=YOU, job=OTHER_JOB))) == {}
    if end == "late":
        bench.after(12.0)
        instructions = bench.after(12.0)
        assert delivered(instructions) == {0: TIMEOUT}
    elif end == "owner":
        instructions = bench(gone(linger_s=0.0))
    else:
        assert withdrawn(bench(cancelled([0] if end == "cancelled" else None)), stop=True) == {"a": [0]}
        instructions = bench(ended("a", 0, status=CANCELLED, attempt=3))
    assert bench.scheduler.slaves[slave_id("a")].suspect is None
    given = assigned(instructions) or assigned(bench(submitted([8], client=YOU, job=OTHER_JOB)))
    assert given["a"][0] == 7
    assert not bench.scheduler.blamed


def test_a_suspect_that_is_cancelled_while_it_waits_frees_the_slave_that_is_emptied_for_it(bench: Bench) -> None:
    bench(joined("a", slots=1, credit=1), opened(YOU, "you", OTHER_JOB))
    bench(submitted(range(5), client=YOU, job=OTHER_JOB))
    bench(opened(), submitted([0], needs=Needs(2)))
    for name in ("lost 1", "lost 2"):
        bench(joined(name, slots=2, credit=2))
        bench(lost(name))
    bench(cancelled([0]))
    first = next(iter(bench.scheduler.slaves[slave_id("a")].tasks))
    assert "a" in assigned(bench(ended("a", first.index, attempt=first.attempt, job=OTHER_JOB)))


@pytest.mark.parametrize("ends", [SlaveSuspected(slave_id("a")), resized("a", 0, 0), lost("a")])
def test_a_slave_that_falls_silent_drains_or_goes_is_not_waited_for(bench: Bench, ends: Event) -> None:
    lost_twice(bench)
    bench(opened(YOU, "you", OTHER_JOB), submitted(range(9), client=YOU, job=OTHER_JOB))
    bench(joined("a", slots=1, credit=1))
    while bench.scheduler.slaves[slave_id("a")].suspect is not None:
        bench(returned("a", 0, attempt=bench.scheduler.jobs[JOB].tasks[0].attempt))
    assert bench.scheduler.slaves[slave_id("a")].reserved
    bench(ends)
    assert not any(slave.reserved for slave in bench.scheduler.slaves.values())
    bench(joined("b", slots=1, credit=1))
    assert bench.scheduler.slaves[slave_id("b")].closed or bench.scheduler.slaves[slave_id("b")].reserved


def test_a_suspect_that_comes_back_waits_to_run_alone_again(bench: Bench) -> None:
    lost_twice(bench)
    bench(joined("a", slots=4))
    bench(returned("a", 0, attempt=3))
    assert bench.scheduler.slaves[slave_id("a")].suspect is not None
    assert delivered(bench(ended("a", 0, attempt=4))) == {0: OK}


def test_owners_take_turns_with_their_suspects() -> None:
    bench = Bench()
    bench(opened(), opened(YOU, "you", OTHER_JOB))
    bench(submitted(range(3)), submitted(range(3), client=YOU, job=OTHER_JOB))
    for name in ("lost 1", "lost 2"):
        bench(joined(name, slots=6))
        bench(lost(name))
    bench(joined("a", slots=6))
    order = []
    while tasks := list(bench.scheduler.slaves[slave_id("a")].tasks):
        (task,) = tasks
        order.append(task.job.owner)
        bench(ended("a", task.index, attempt=task.attempt, job=task.job.id))
    assert sorted(order[:2]) == sorted(order[2:4]) == ["me", "you"]


# ------------------------------------------------------------------------------------- tasks that wait for their own


def test_a_host_does_not_keep_a_suspect_from_the_only_slave() -> None:
    bench = Bench(deaths_allowed=2)
    bench(opened(), submitted([0], needs=HOST), joined("lost", slots=2))
    bench(submitted([1]))
    bench(lost("lost"))
    # Both are suspects, and the host may wait for the task
    assert sorted(assigned(bench(joined("a", slots=2)))["a"]) == [0, 1]
    # What came last is to blame
    assert delivered(bench(lost("a"))) == {1: POISON}
    assert assigned(bench(joined("b"))) == {"b": [0]}


def test_a_suspect_that_waits_for_its_own_tasks_lets_them_onto_the_only_slave(bench: Bench) -> None:
    lost_twice(bench)
    bench(joined("a", slots=1, credit=1))
    bench(opened(YOU, "you", OTHER_JOB))
    assert assigned(bench(submitted([7], client=YOU, job=OTHER_JOB))) == {}
    assert assigned(bench(resized("a", 2, 2))) == {"a": [7]}
    # where others can run elsewhere, they do
    bench(ended("a", 7, job=OTHER_JOB), joined("b", slots=1))
    assert assigned(bench(submitted([8], client=YOU, job=OTHER_JOB))) == {"b": [8]}


def test_a_suspect_that_others_wait_for_runs_beside_them_on_the_only_slave(bench: Bench) -> None:
    lost_twice(bench, needs=Needs(2), slots=2)
    bench(joined("a", slots=1, credit=2), opened(YOU, "you", OTHER_JOB))
    bench(submitted([7], client=YOU, job=OTHER_JOB), started("a", 7, job=OTHER_JOB))
    assert assigned(bench(resized("a", 2, 3))) == {"a": [0]}
    assert delivered(bench(lost("a"))) == {0: POISON}


def test_one_that_can_never_run_alone_is_not_spared_for_ever(bench: Bench) -> None:
    bench(opened(), submitted([0], needs=HOST), submitted(range(1, 9)))
    slaves = 0
    ends: dict[int, Status] = {}
    while ends.get(0) != POISON:
        slave = bench.scheduler.slaves.get(slave_id(f"slave {slaves}"))
        if slave is None:
            bench(joined(f"slave {slaves}", slots=2))
        elif any(task.index == 0 for task in slave.tasks):
            ends |= delivered(bench(lost(slave.name)))
            slaves += 1
        else:
            bench(*[ended(slave.name, task.index, attempt=task.attempt) for task in slave.tasks])
    # It has always been there beside another one that might have killed the slave, but not always the same
    assert slaves <= 6 and len(ends) <= 5


def test_what_has_died_is_known_until_it_ends(bench: Bench) -> None:
    lost_twice(bench, 2)
    assert [len(task.deaths) for task in bench.scheduler.blamed] == [2, 2]
    bench(cancelled([1]), joined("a"))
    bench(ended("a", 0, attempt=3))
    assert not bench.scheduler.blamed


# ------------------------------------------------------------------------------------- slaves that are taken away


def taken_away(bench: Bench, after_s: float, limit_s: float | None, number: int) -> list[Instruction]:
    """Let task 0 run on a slave of a batch system for a while, until that ends the slave."""
    bench(joined(name := f"s{number}", slots=2))
    bench(started(name, 0, attempt=number))
    place = f"Slurm job {number}"
    return bench.after(after_s, SlaveLost(slave_id(name), "it has unregistered", True, place, limit_s))


def test_a_task_that_is_longer_than_its_slaves_may_run_is_quarantined(bench: Bench) -> None:
    bench(opened(), submitted([0, 1]))
    for number in (1, 2):
        assert delivered(taken_away(bench, 150, 240, number)) == {}
    instructions = taken_away(bench, 150, 240, 3)
    assert delivered(instructions) == {0: POISON}
    assert (
        "2. slave s2 was taken away when the task had run for 150 s; it was Slurm job 2, whose time limit is 240 s"
        in (report(instructions))
    )
    assert "give slaves a longer time limit" in report(instructions)
    # The other one, which never ran, is not to blame, and nobody runs alone.
    assert attempts(bench(joined("d", slots=2))) == {1: 4}
    assert not bench.scheduler.blamed


@pytest.mark.parametrize("limit_s", [240.0, None])
def test_a_task_that_is_cut_off_early_has_more_tries(bench: Bench, limit_s: float | None) -> None:
    bench(opened(), submitted([0, 1]))
    for number in range(1, 6):
        assert delivered(taken_away(bench, 100, limit_s, number)) == {}
    assert delivered(taken_away(bench, 100, limit_s, 6)) == {0: POISON}
