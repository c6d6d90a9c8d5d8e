"""Slaves come, grow, fall silent and go; how much each is given; what it gives back to those who have nothing to do."""

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.scheduling.events import SlaveJoined, SlaveResized, SlaveSuspected, SlaveTrusted
from concurrent_nb.scheduling.refusal import EventRefused
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.scheduling.strategies.push_best import PushBestStrategy
from tests.unit.scheduling.bench import DIED, ERROR, OK, Bench, F, G
from tests.unit.scheduling.client_events import cancelled, opened, submitted
from tests.unit.scheduling.instructions import assigned, attempts, delivered, withdrawn
from tests.unit.scheduling.slave_events import ended, joined, lost, resized, returned, slave_id, started

# ------------------------------------------------------------------------------------------- trust and size


def test_a_suspected_slave_gets_nothing_until_it_is_trusted_again() -> None:
    bench = Bench()
    bench(joined("a"), opened(), SlaveSuspected(slave_id("a")))
    assert bench(submitted([0])) == []
    assert assigned(bench(SlaveTrusted(slave_id("a")))) == {"a": [0]}


def test_reports_of_a_suspected_slave_count() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0]))
    assert delivered(bench(SlaveSuspected(slave_id("a")), ended("a", 0))) == {0: OK}


def test_a_slave_that_drains_gets_nothing_and_gives_back() -> None:
    bench = Bench()
    bench(joined("a", slots=1), opened(), submitted([0, 1]))
    bench(resized("a", 0, 0), joined("b", slots=2))
    assert attempts(bench(returned("a", 1))) == {1: 2}
    assert delivered(bench(ended("a", 0))) == {0: OK}
    assert assigned(bench(submitted([2]))) == {"b": [2]}


def test_a_slave_that_grows_gets_more() -> None:
    bench = Bench()
    bench(joined("a", slots=1, credit=1), opened(), submitted(range(4)))
    assert assigned(bench(resized("a", 2, 3))) == {"a": [1, 2]}


def test_a_slave_that_shrinks_gets_nothing_until_it_has_room() -> None:
    bench = Bench()
    bench(joined("a", slots=4), opened(), submitted(range(10)))
    bench(resized("a", 1, 1))
    for index in range(7):
        assert assigned(bench(ended("a", index))) == {}
    assert assigned(bench(ended("a", 7))) == {"a": [8]}


def test_events_about_a_slave_that_is_gone_are_dropped() -> None:
    bench = Bench()
    nobody = slave_id("nobody")
    assert bench(SlaveSuspected(nobody), SlaveTrusted(nobody), SlaveResized(nobody, 1, 1), lost("nobody")) == []


@pytest.mark.parametrize(("slots", "credit"), [(0, 5), (-1, 5), (2, 1)])
def test_a_slave_with_an_impossible_size_is_refused(slots: int, credit: int) -> None:
    bench = Bench()
    with pytest.raises(EventRefused, match=f"slots={slots}, credit={credit}"):
        bench(SlaveJoined(slave_id("a"), "a", slots, credit))
    assert not bench.scheduler.slaves
    bench(joined("a"))
    if slots:
        with pytest.raises(EventRefused, match=f"slots={slots}, credit={credit}"):
            bench(resized("a", slots, credit))


def test_a_slave_joins_once() -> None:
    bench = Bench()
    bench(joined("a"))
    with pytest.raises(EventRefused, match="twice"):
        bench(joined("a"))


# ------------------------------------------------------------------------------------------- how much it gets


def test_the_credit_is_never_exceeded() -> None:
    bench = Bench(PushBestStrategy())
    bench(joined("a", slots=2, credit=3), opened(), submitted(range(10)))
    assert attempts(bench(ended("a", 0))) == {3: 1}
    assert bench.scheduler.slaves[slave_id("a")].load == 3


def test_of_an_unknown_function_two_tasks_for_each_slot_are_in_flight() -> None:
    bench = Bench()
    bench(joined("a", slots=3))
    assert assigned(bench(opened(), submitted(range(100)))) == {"a": list(range(6))}


def test_short_tasks_are_fed_ahead_by_time() -> None:
    bench = Bench(PullRoundRobinStrategy(ahead_s=0.02))
    bench(joined("a", slots=2, credit=1000), opened(), submitted(range(1000)))
    # Given tasks of 1 ms each, then 2 slots * 20 ms hold 40 of them
    bench(ended("a", 0, 1, 2, 3, elapsed_s=0.001))
    assert bench.scheduler.slaves[slave_id("a")].load == 40


def test_long_tasks_are_not() -> None:
    bench = Bench(PullRoundRobinStrategy(ahead_s=0.02))
    bench(joined("a", slots=2, credit=1000), opened(), submitted(range(1000)))
    bench(ended("a", 0, 1, elapsed_s=5.0))
    assert bench.scheduler.slaves[slave_id("a")].load == 4


def test_how_long_a_function_takes_is_known_in_the_next_job() -> None:
    bench = Bench()
    bench(joined("a", slots=1, credit=1000), opened(), submitted([0]))
    bench(ended("a", 0, elapsed_s=0.001))
    other = type(opened().job)(b"next".ljust(16))
    assert len(assigned(bench(opened(job=other), submitted(range(50), job=other)))["a"]) == 20
    # and of another function nothing is known
    assert assigned(bench(lost("a"), joined("b"), submitted([99], function=G)))["b"]


@pytest.mark.parametrize("elapsed_s", [float("nan"), float("inf"), -1.0])
def test_a_slave_cannot_spoil_the_estimate(elapsed_s: float) -> None:
    bench = Bench()
    bench(joined("a", slots=2), opened(), submitted(range(3)))
    bench(ended("a", 0, elapsed_s=elapsed_s), ended("a", 1, elapsed_s=0.25))
    assert bench.scheduler.slaves[slave_id("a")].task_s == 0.25


def test_what_did_not_run_to_its_end_is_not_measured() -> None:
    bench = Bench()
    bench(joined("a", slots=2), opened(), submitted(range(4)))
    bench(ended("a", 0, status=DIED), ended("a", 1, status=ERROR, elapsed_s=0.5))
    assert bench.scheduler.slaves[slave_id("a")].task_s == 0.5


def test_a_message_may_hold_tasks_of_several_functions() -> None:
    bench = Bench()
    bench(joined("a", slots=4), opened(), submitted([0, 1]), submitted([2, 3], function=G))
    bench(ended("a", 0, 1, elapsed_s=1.0))
    first, second = ended("a", 0, elapsed_s=0.001), ended("a", 2, 3, elapsed_s=2.0)
    bench(submitted([4]), type(first)(first.slave, first.job, [*first.items, *second.items], ()))
    assert len(assigned(bench(submitted(range(10, 20)))).get("a", [])) == 7
    assert F != G


# ------------------------------------------------------------------------------------------- rebalancing


def test_idle_slots_get_the_tasks_that_another_slave_has_not_started() -> None:
    bench = Bench(rebalance_after_s=0.1)
    # Given a slave with one running task and one more, and then another slave with nothing
    bench(joined("a", slots=1), opened(), submitted([0, 1]))
    bench(started("a", 0))
    bench(joined("b", slots=1))
    # When nothing has come from the first for a while, then it is asked for what waits there
    assert bench.scheduler.next_deadline() is not None
    assert withdrawn(bench.after(0.1), stop=False) == {"a": [1]}
    # and what it gives back goes to the other
    instructions = bench(returned("a", 1))
    assert (assigned(instructions), attempts(instructions)) == ({"b": [1]}, {1: 2})
    assert bench.scheduler.next_deadline() is None


def test_a_slave_that_answers_is_not_asked() -> None:
    bench = Bench(PushBestStrategy(), rebalance_after_s=0.1)
    bench(joined("a", slots=1), opened(), submitted([0, 1, 2, 3]))
    bench(joined("b", slots=3))
    bench.after(0.09, ended("a", 0))
    assert bench.after(0.09) == []
    # But when it falls silent.
    bench.after(0.02)
    assert withdrawn(bench.after(0.1), stop=False) == {"a": [2, 3]}


def test_no_more_is_asked_back_than_can_start_at_once_and_each_task_once() -> None:
    bench = Bench(PushBestStrategy(depth_per_slot=10), rebalance_after_s=0.1)
    bench(joined("a", slots=2), opened(), submitted(range(10)))
    bench(joined("b", slots=3))
    assert withdrawn(bench.after(0.1), stop=False) == {"a": [7, 8, 9]}
    # While that is not answered, no more is asked for.
    assert bench.after(1.0) == []
    # A task that has started meanwhile is not to be had, so another is asked for instead.
    assert withdrawn(bench.after(1.0, started("a", 9)), stop=False) == {"a": [6]}


def test_the_slave_with_most_to_spare_is_asked_first() -> None:
    bench = Bench(PushBestStrategy(depth_per_slot=10), rebalance_after_s=0.1)
    bench(joined("a", slots=1, credit=2), joined("b", slots=1, credit=6), opened(), submitted(range(8)))
    bench(joined("c", slots=1))
    assert list(withdrawn(bench.after(0.1), stop=False)) == ["b"]


def test_what_runs_or_is_cancelled_is_not_asked_back() -> None:
    bench = Bench(rebalance_after_s=0.1)
    bench(joined("a", slots=2), opened(), submitted(range(4)))
    bench(started("a", 0, 1), cancelled([2]), joined("b", slots=4))
    assert withdrawn(bench.after(0.1), stop=False) == {"a": [3]}


def test_nothing_is_asked_back_without_need() -> None:
    bench = Bench(rebalance_after_s=0.1)
    # A slave that has only what it runs,
    bench(joined("a", slots=2), opened(), submitted([0, 1]), joined("b", slots=2))
    assert bench.after(1.0) == []
    # or no slave with an idle slot.
    bench(submitted(range(2, 8)))
    assert bench.after(1.0) == []
    assert bench.scheduler.next_deadline() is None


def test_a_suspected_slave_is_neither_asked_nor_served() -> None:
    bench = Bench(rebalance_after_s=0.1)
    bench(joined("a", slots=1), opened(), submitted([0, 1]), SlaveSuspected(slave_id("a")))
    bench(SlaveTrusted(slave_id("a")))
    bench(joined("b"), SlaveSuspected(slave_id("a")))
    assert bench.after(1.0) == []
    bench(SlaveTrusted(slave_id("a")), SlaveSuspected(slave_id("b")))
    assert bench.after(1.0) == []


# ------------------------------------------------------------------------------------------- a strategy that errs


class _Greedy(PullRoundRobinStrategy):
    def choose(self, estimate_s: float | None, waiting: int) -> tuple[SlaveState, int] | None:
        chosen = super().choose(estimate_s, waiting)
        return None if chosen is None else (chosen[0], chosen[0].room + 1)


def test_a_strategy_cannot_exceed_the_credit() -> None:
    bench = Bench(_Greedy())
    with pytest.raises(ConfigurationError, match="choose another strategy"):
        bench(joined("a"), opened(), submitted(range(1000)))
