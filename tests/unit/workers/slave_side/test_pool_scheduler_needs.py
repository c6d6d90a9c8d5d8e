"""The pool scheduler with tasks of several slots and with task systems. Each test is one promise."""

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.restart_limit import RestartLimit
from concurrent_nb.wire.messages import HOSTS_MAX, Needs
from concurrent_nb.workers.slave_side.attempts import Dismiss, Start
from concurrent_nb.workers.slave_side.pool_scheduler.pool_scheduler import PoolScheduler
from concurrent_nb.workers.slave_side.pool_scheduler.worker_lifecycle import SLOW_S, START_S
from tests.unit.workers.slave_side.model import G, Model, ready_model, who_has

HOST, ALL = Needs(kind="system_host"), Needs(cores=0)


# --------------------------------------------------------------------------------------------------------------- hosts


def model_with_host() -> Model:
    """Return one with a slot, whose worker 2 runs host 0."""
    model = ready_model(1)
    model.assign([0], needs=HOST)
    model.ready(2)
    model.begin(2)
    return model


def test_a_host_gets_a_worker_of_its_own() -> None:
    model = ready_model(1)
    model.assign([0], needs=HOST)
    assert model.commands == [Start(2)]
    model.assign([1])
    assert who_has(model, 1) == 1
    model.ready(2)
    assert who_has(model, 0) == 2


def test_the_worker_of_a_host_ends_with_it_and_is_not_replaced() -> None:
    model = ready_model(1)
    model.assign([0], needs=HOST)
    model.ready(2)
    model.run(2, 10.0)
    assert model.commands[-1] == Dismiss(2)
    model.assign([1, 2, 3])
    model.die(2, "ended with exit code 0")
    assert list(model.workers) == [1]
    assert model.statuses() == {0: Status.OK}


def test_a_host_that_follows_another_gets_a_worker_of_its_own_too() -> None:
    model = model_with_host()
    model.assign([1], needs=HOST)
    model.end(2)
    model.flush(2)
    assert Start(3) in model.commands
    model.ready(3)
    assert who_has(model, 1) == 3


def test_workers_for_hosts_get_no_other_work() -> None:
    model = model_with_host()
    model.assign(range(1, 100))
    assert model.has(2) == []


def test_no_more_hosts_than_eight_at_once() -> None:
    model = ready_model(1)
    model.assign(range(HOSTS_MAX + 1), needs=HOST)
    assert len(model.workers) == 1 + HOSTS_MAX
    model.all_ready()
    assert who_has(model, HOSTS_MAX) == 0
    model.run(2)
    assert len(model.workers) == 1 + HOSTS_MAX  # it has not gone yet
    model.die(2, "ended with exit code 0")
    model.all_ready()
    assert who_has(model, HOSTS_MAX) == 2 + HOSTS_MAX


def test_a_worker_that_starts_for_a_host_that_is_gone_is_dismissed() -> None:
    model = ready_model(1)
    model.assign([0], needs=HOST)
    model.withdraw([0], stop=False)
    assert [ref.index for ref in model.take_reports().returned] == [0]
    model.ready(2)
    assert model.commands[-1] == Dismiss(2)


def test_a_host_that_dies_is_blamed_and_one_that_is_killed_before_it_began_is_not() -> None:
    model = model_with_host()
    model.die(2)
    assert model.statuses() == {0: Status.DIED}
    assert list(model.workers) == [1]
    model.assign([1], needs=HOST)
    model.ready(3)
    model.die(3)
    assert list(model.workers) == [1, 4]  # another one for the same host
    model.ready(4)
    assert who_has(model, 1) == 4


def test_a_host_times_out_and_is_killed_after_the_grace_alone() -> None:
    model = ready_model(1)
    model.assign([0], needs=HOST, timeout_s=2.0)
    model.ready(2)
    model.begin(2)
    model.pass_time(5.0)
    assert model.killed(2)
    model.die(2)
    assert model.statuses() == {0: Status.TIMEOUT}
    assert not model.killed(1)


def test_a_drained_pool_returns_hosts_that_wait_and_keeps_those_that_run() -> None:
    model = model_with_host()
    model.assign([1], needs=HOST)
    model.execute(model.scheduler.drained())
    model.assign([2], needs=HOST)
    assert sorted(ref.index for ref in model.take_reports().returned) == [1, 2]
    model.ready(3)
    assert model.commands[-1] == Dismiss(3)
    model.end(2)
    model.flush(2)
    assert model.statuses() == {0: Status.OK}


def test_a_reset_kills_hosts_and_dismisses_those_that_start() -> None:
    model = model_with_host()
    model.assign([1], needs=HOST)
    model.execute(model.scheduler.reset())
    assert model.killed(2)
    model.ready(3)
    assert model.commands[-1] == Dismiss(3)
    model.die(2)
    model.die(3)
    assert list(model.workers) == [1]
    assert model.scheduler.unfinished == 0


def test_hosts_that_cannot_be_started_count_as_workers_that_die_without_a_task() -> None:
    model = Model(PoolScheduler(1, limit=RestartLimit(deaths=2)))
    model.all_ready()
    model.assign([0], needs=HOST)
    for number in (2, 3, 4):
        model.die(number, "could not be forked")
    assert model.scheduler.degraded
    assert [ref.index for ref in model.take_reports().returned] == [0]


# ------------------------------------------------------------------------------------------------------- several cores


def test_a_wide_task_begins_when_it_has_its_slots_and_nobody_else_before_it() -> None:
    model = ready_model(2)
    model.assign([0], G)
    owner = who_has(model, 0)
    model.begin(owner)
    model.assign([1], needs=Needs(cores=2))
    model.assign([2, 3])
    assert [who_has(model, index) for index in (1, 2, 3)] == [0, 0, 0]
    model.end(owner)
    model.flush(owner)
    wide = who_has(model, 1)
    assert wide
    assert [who_has(model, index) for index in (2, 3)] == [0, 0]
    model.run(wide)
    assert sorted([who_has(model, 2), who_has(model, 3)]) == [1, 2]


def test_beside_a_wide_task_others_run_in_the_slots_that_are_left() -> None:
    model = ready_model(4)
    model.assign([0], G, needs=Needs(cores=3))
    wide = who_has(model, 0)
    model.assign([1, 2, 3])
    at_work = {number for number, worker in model.workers.items() if worker.unstarted}
    assert len(at_work) == 2
    assert model.has(wide) == [0]  # and nothing stands behind it
    model.run(wide)
    assert len({number for number, worker in model.workers.items() if worker.unstarted}) == 3


def test_two_wide_tasks_run_beside_each_other_if_they_fit() -> None:
    model = ready_model(4)
    model.assign([0, 1, 2], needs=Needs(cores=2))
    assert sum(bool(who_has(model, index)) for index in range(3)) == 2
    model.run(who_has(model, 0))
    assert who_has(model, 2)


def test_three_of_four_slots_are_not_four() -> None:
    model = ready_model(4)
    model.assign([0], needs=Needs(cores=3))
    model.assign([1], needs=Needs(cores=2))
    assert not who_has(model, 1)


def test_all_slots_of_a_pool_of_one_are_one() -> None:
    model = ready_model(1)
    model.assign([0], needs=ALL)
    assert who_has(model, 0) == 1
    model.assign([1])
    assert not who_has(model, 1)
    model.run(1)
    assert who_has(model, 1) == 1


@pytest.mark.parametrize("how", ["it dies", "its worker is killed before it began", "it is stopped"])
def test_the_slots_of_a_wide_task_are_free_when_it_is_gone(how: str) -> None:
    model = ready_model(2)
    model.assign([0], needs=ALL)
    wide = who_has(model, 0)
    if how == "it is stopped":
        model.begin(wide)
        model.withdraw([0], stop=True)
        model.end(wide, Status.CANCELLED)
        model.flush(wide)
    else:
        if how == "it dies":
            model.begin(wide)
        model.die(wide)
        model.all_ready()
        if how != "it dies":
            model.run(who_has(model, 0))
    model.assign([1, 2])
    assert who_has(model, 1)
    assert who_has(model, 2)
    assert who_has(model, 1) != who_has(model, 2)


def test_a_worker_that_dies_beside_a_wide_task_makes_no_slot_more() -> None:
    model = ready_model(2)
    model.assign([0], needs=ALL)
    wide = who_has(model, 0)
    model.begin(wide)
    (other,) = {1, 2} - {wide}
    model.die(other)
    model.assign([1])
    model.all_ready()
    assert not who_has(model, 1)
    model.end(wide)
    model.flush(wide)
    assert who_has(model, 1)


def test_what_waits_behind_a_wide_task_that_is_withdrawn_begins() -> None:
    model = ready_model(2)
    model.assign([0], G)
    model.begin(who_has(model, 0))
    model.assign([1], needs=ALL)
    model.assign([2])
    assert not who_has(model, 2)
    model.withdraw([1], stop=True)
    assert model.statuses()[1] is Status.CANCELLED
    assert who_has(model, 2)


def test_what_was_given_ahead_does_not_keep_a_wide_task_from_its_slots() -> None:
    model = ready_model(1)
    model.assign([0, 1])
    model.begin(1)
    model.assign([2], needs=ALL)
    assert model.has(1) == [1]
    model.pass_time(2 * SLOW_S)  # it takes long: what stands behind it is taken back
    assert model.has(1) == []
    model.end(1)
    model.flush(1)
    assert who_has(model, 2) == 1


def test_wide_tasks_wait_for_workers_that_start() -> None:
    model = Model(PoolScheduler(2))
    model.assign([0], needs=ALL)
    model.ready(1)
    assert not who_has(model, 0)
    model.ready(2)
    assert who_has(model, 0)
    model.pass_time(START_S * 2)


def test_a_wide_task_is_returned_by_a_pool_that_drains() -> None:
    model = ready_model(2)
    model.assign([0], G)
    model.begin(who_has(model, 0))
    model.assign([1], needs=ALL)
    model.execute(model.scheduler.drained())
    assert [ref.index for ref in model.take_reports().returned] == [1]
