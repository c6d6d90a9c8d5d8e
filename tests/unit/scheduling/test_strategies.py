"""What every strategy must keep, and what each does beyond that."""

from collections.abc import Callable
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import Digest, JobId, SessionId
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.by_name import BY_NAME
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.scheduling.strategies.push_best import PushBestStrategy
from concurrent_nb.scheduling.strategies.stealing import StealingStrategy
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.tasks.task_record import JobRecord, TaskRecord
from concurrent_nb.wire.messages import STRATEGIES
from tests.unit.scheduling.bench import Bench
from tests.unit.scheduling.client_events import opened, submitted
from tests.unit.scheduling.instructions import assigned, withdrawn
from tests.unit.scheduling.slave_events import ended, joined, resized, returned, slave_id, started

every_strategy = pytest.mark.parametrize("make", BY_NAME.values(), ids=BY_NAME)


def a_slave(name: str, slots: int = 2, credit: int = 100) -> SlaveState:
    return SlaveState(SessionId(name.encode()), name, slots, credit)


def give(slave: SlaveState, count: int, estimate_s: float = 0.02) -> None:
    job = JobRecord(JobId(b"j" * 16), "me")
    slave.take([TaskRecord(job, index, Digest(b"f"), b"") for index in range(count)], estimate_s, 0.0)


# ------------------------------------------------------------------------------------------- the contract


@every_strategy
def test_without_slaves_none_is_chosen(make: Callable[[], Strategy]) -> None:
    assert make().choose(None, 1) is None


@every_strategy
def test_a_slave_that_left_is_not_chosen(make: Callable[[], Strategy]) -> None:
    strategy, slave = make(), a_slave("a")
    strategy.changed(slave)
    strategy.left(slave)
    strategy.left(slave)
    assert strategy.choose(None, 1) is None


@every_strategy
def test_a_slave_without_trust_slots_or_credit_is_not_chosen(make: Callable[[], Strategy]) -> None:
    strategy = make()
    distrusted, draining, full = a_slave("a"), a_slave("b"), a_slave("c", credit=2)
    distrusted.trusted = False
    draining.slots = 0
    give(full, 2)
    for slave in (distrusted, draining, full):
        strategy.changed(slave)
    assert strategy.choose(0.001, 1) is None


@every_strategy
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 20)), min_size=1, max_size=5),
    estimates=st.lists(st.none() | st.floats(1e-6, 1e3), min_size=1, max_size=4),
    waiting=st.integers(1, 200),
)
def test_no_slave_gets_more_than_it_accepts_and_none_is_idle_while_tasks_wait(
    make: Callable[[], Strategy], sizes: list[tuple[int, int]], estimates: list[float | None], waiting: int
) -> None:
    # Given slaves of any size, and tasks that take any time
    strategy = make()
    slaves = [a_slave(str(number), slots, slots + more) for number, (slots, more) in enumerate(sizes)]
    for slave in slaves:
        strategy.changed(slave)
    left = waiting
    # When they are handed out as a scheduler does it
    while left and (chosen := strategy.choose(estimates[left % len(estimates)], waiting)) is not None:
        slave, count = chosen
        assert 1 <= count <= slave.room
        estimate_s = estimates[left % len(estimates)]
        give(slave, min(count, left), strategy.unknown_s if estimate_s is None else estimate_s)
        left -= min(count, left)
        strategy.changed(slave)
    # Then nothing waits while a slot is free
    assert left == 0 or all(slave.load >= slave.slots for slave in slaves)


@every_strategy
def test_equal_slaves_get_about_the_same(make: Callable[[], Strategy]) -> None:
    bench = Bench(make())
    bench(*[joined(name, slots=4) for name in "abcd"], opened())
    shares = {name: len(tasks) for name, tasks in assigned(bench(submitted(range(32)))).items()}
    assert sum(shares.values()) == 32
    assert max(shares.values()) - min(shares.values()) <= 2


@every_strategy
def test_a_late_slave_finds_work(make: Callable[[], Strategy]) -> None:
    bench = Bench(make())
    bench(joined("a", slots=1, credit=1000), opened(), submitted(range(100)))
    instructions = bench(joined("b", slots=1))
    if asked_back := withdrawn(instructions, stop=False):
        instructions = bench(returned("a", *asked_back["a"]))
    assert assigned(instructions)["b"]


def test_the_names_of_strategies_are_those_of_the_wire() -> None:
    assert tuple(BY_NAME) == STRATEGIES
    assert all(strategy.name == name for name, strategy in BY_NAME.items())


# ------------------------------------------------------------------------------------------- pull, in turn


def test_slaves_with_nothing_to_do_come_before_those_that_would_queue() -> None:
    bench = Bench()
    bench(joined("a", slots=4), joined("b", slots=4), opened(), submitted(range(4)))
    # Given that the first has all its slots full (it was its turn), then the next goes to the second
    assert assigned(bench(submitted(range(4, 8)))) == {"b": [4, 5, 6, 7]}


def test_slaves_take_turns() -> None:
    bench = Bench()
    bench(*[joined(name, slots=1) for name in "abc"], opened())
    assert [list(assigned(bench(submitted([index])))) for index in range(6)] == [["a"], ["b"], ["c"]] * 2


def test_the_first_in_turn_does_not_take_all_short_tasks() -> None:
    bench = Bench()
    bench(joined("a", slots=1, credit=1000), opened(), submitted([0]))
    bench(ended("a", 0, elapsed_s=0.0001))
    bench(joined("b", slots=1, credit=1000))
    shares = assigned(bench(submitted(range(1, 101))))
    assert {name: len(tasks) for name, tasks in shares.items()} == {"a": 50, "b": 50}


def test_slaves_get_shares_by_their_slots() -> None:
    bench = Bench()
    bench(joined("a", slots=3), joined("b", slots=1), opened())
    assert {name: len(tasks) for name, tasks in assigned(bench(submitted(range(4)))).items()} == {"a": 3, "b": 1}


def test_a_run_of_short_tasks_is_handed_out_at_once() -> None:
    strategy, slave = PullRoundRobinStrategy(ahead_s=0.02), a_slave("a", slots=2, credit=1000)
    strategy.changed(slave)
    assert strategy.choose(0.001, 1000) == (slave, 40)


@given(slots=st.integers(1, 8), task_s=st.floats(1e-5, 1.0))
def test_what_is_in_flight_is_at_most_two_for_each_slot_or_just_enough_time(slots: int, task_s: float) -> None:
    bench = Bench(PullRoundRobinStrategy(ahead_s=0.02))
    bench(joined("a", slots=slots, credit=100_000), opened(), submitted([0]))
    bench(ended("a", 0, elapsed_s=task_s))
    most = max(2 * slots, ceil(slots * 0.02 / task_s))
    bench(submitted(range(1, min(most, 500) + 10)))
    assert bench.scheduler.slaves[slave_id("a")].load == min(most, min(most, 500) + 9)


@pytest.mark.parametrize("settings", [{"ahead_s": 0.0}, {"ahead_s": float("nan")}, {"depth_per_slot": 0}])
def test_senseless_settings_of_pull_are_refused_by_name(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        PullRoundRobinStrategy(**settings)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- push to the best


def test_tasks_are_pushed_up_to_the_credit_once_the_function_is_known() -> None:
    bench = Bench(PushBestStrategy(depth_per_slot=4))
    bench(joined("a", slots=2, credit=50), opened())
    assert len(assigned(bench(submitted(range(100))))["a"]) == 8
    bench(ended("a", 0, elapsed_s=10.0))
    assert bench.scheduler.slaves[slave_id("a")].load == 50


def test_a_slave_that_is_twice_as_fast_gets_twice_as_much() -> None:
    bench = Bench(PushBestStrategy())
    bench(joined("fast"), joined("slow"), opened(), submitted([0, 1]))
    bench(ended("fast", 0, elapsed_s=1.0), ended("slow", 1, elapsed_s=2.0))
    shares = assigned(bench(submitted(range(2, 32))))
    assert {name: len(tasks) for name, tasks in shares.items()} == {"fast": 20, "slow": 10}


def test_an_idle_slave_is_better_than_an_equal_one_with_work() -> None:
    bench = Bench(PushBestStrategy())
    bench(joined("a"), joined("b"), opened())
    assert [list(assigned(bench(submitted([index])))) for index in range(4)] == [["a"], ["b"], ["a"], ["b"]]


def test_a_slave_that_was_never_measured_is_taken_for_an_average_one() -> None:
    bench = Bench(PushBestStrategy())
    bench(joined("a", slots=1), opened(), submitted([0]))
    bench(ended("a", 0, elapsed_s=1.0))
    bench(joined("new", slots=1))
    shares = assigned(bench(submitted(range(1, 11))))
    assert {name: len(tasks) for name, tasks in shares.items()} == {"a": 5, "new": 5}


def test_a_senseless_setting_of_push_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="depth_per_slot is 0"):
        PushBestStrategy(depth_per_slot=0)


# ------------------------------------------------------------------------------------------- stealing


def dealt_out() -> Bench:
    """Two slaves, with 20 tasks dealt out to each."""
    bench = Bench(StealingStrategy())
    bench(joined("a", credit=1000), joined("b", credit=1000), opened(), submitted(range(40)))
    assert [len(has(bench, name)) for name in "ab"] == [20, 20]
    return bench


def has(bench: Bench, name: str) -> list[int]:
    """What a slave has, in the order in which it got it."""
    return [task.index for task in bench.scheduler.slaves[slave_id(name)].tasks]


def test_everything_is_dealt_out_by_number_though_nothing_is_known() -> None:
    bench = Bench(StealingStrategy())
    bench(joined("a", slots=3, credit=1000), joined("b", credit=1000), joined("full", credit=2), opened())
    bench(submitted(range(102)))
    assert len(has(bench, "full")) == 2
    assert 60 <= len(has(bench, "a")) <= 80
    assert bench.scheduler.waiting == 0


def test_who_runs_dry_takes_half_of_what_the_fullest_has_not_started() -> None:
    bench = dealt_out()
    mine, others = has(bench, "a"), has(bench, "b")
    assert not withdrawn(bench(ended("a", *mine[:-1])), stop=False), "it has one left, which runs"
    # When it has nothing left, then half of the other's 19 that wait there are asked for, the last ones,
    assert withdrawn(bench(ended("a", mine[-1])), stop=False) == {"b": others[10:]}
    # and they are the idle one's as soon as they are back, without a wait for anything.
    assert assigned(bench(returned("b", *others[10:]))) == {"a": others[10:]}


def test_nothing_more_is_stolen_while_enough_is_on_its_way() -> None:
    bench = dealt_out()
    bench(ended("a", *has(bench, "a")))
    assert not withdrawn(bench(joined("c")), stop=False)


def test_what_runs_is_not_stolen() -> None:
    bench = dealt_out()
    others = has(bench, "b")
    bench(started("b", *others[-2:]))
    assert withdrawn(bench(ended("a", *has(bench, "a"))), stop=False) == {"b": others[8:18]}


def test_the_fullest_is_robbed_first() -> None:
    bench = dealt_out()
    mine, others = has(bench, "a"), has(bench, "b")
    bench(ended("a", *mine[:4]))
    assert withdrawn(bench(joined("c")), stop=False) == {"b": others[10:]}


def test_what_is_over_in_a_moment_is_not_worth_a_theft() -> None:
    bench = Bench(StealingStrategy(worth_s=0.01))
    bench(joined("a", credit=1000), opened(), submitted([0]))
    bench(ended("a", 0, elapsed_s=0.001))
    bench(submitted(range(1, 11)))
    # Given ten tasks of 1 ms on one slave, then none is taken from it; of eleven half of those that wait
    assert withdrawn(bench(joined("b")), stop=False) == {}
    bench(resized("b", 0, 0), submitted([11, 12]))
    assert withdrawn(bench(resized("b", 1, 1)), stop=False) == {"a": [7, 8, 9, 10, 11, 12]}


def test_a_senseless_setting_of_stealing_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="worth_s is -1"):
        StealingStrategy(worth_s=-1)
