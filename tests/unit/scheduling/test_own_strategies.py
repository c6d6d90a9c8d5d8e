"""Jobs that ask for a strategy of their own, beside jobs that do not, and beside other owners."""

import pytest

from concurrent_nb.errors import ProtocolError
from concurrent_nb.scheduling.scheduler import SHARED_S
from concurrent_nb.scheduling.strategies.push_best import PushBestStrategy
from concurrent_nb.scheduling.strategies.stealing import StealingStrategy
from tests.unit.scheduling.bench import JOB, OTHER_JOB, YOU, Bench
from tests.unit.scheduling.client_events import acknowledged, closed, opened, submitted
from tests.unit.scheduling.instructions import assigned, withdrawn
from tests.unit.scheduling.slave_events import ended, joined, lost, returned, slave_id


def names_in_use(bench: Bench) -> list[str]:
    return [strategy.name for strategy in bench.scheduler._state.strategies.all]


def load(bench: Bench, name: str) -> int:
    return bench.scheduler.slaves[slave_id(name)].load


def test_a_job_is_placed_by_the_strategy_that_it_asks_for() -> None:
    bench = Bench()
    bench(joined("a", credit=100), opened(strategy="stealing"), submitted(range(50)))
    assert load(bench, "a") == 50
    bench = Bench()
    bench(joined("a", credit=100), opened(), submitted(range(50)))
    assert load(bench, "a") == 2


def test_a_strategy_knows_the_slaves_that_were_there_before_and_those_that_come_and_go() -> None:
    bench = Bench()
    bench(joined("a"), joined("b"), opened(strategy="stealing"), joined("c"), lost("b"))
    assert assigned(bench(submitted(range(2)))).keys() == {"a", "c"}


def test_a_strategy_is_kept_only_while_a_job_asks_for_it() -> None:
    bench = Bench()
    bench(joined("a"), opened(strategy="stealing"), opened(job=OTHER_JOB, strategy="stealing"))
    assert names_in_use(bench) == ["pull_round_robin", "stealing"]
    bench(submitted([0]), closed(), closed(job=OTHER_JOB))
    assert names_in_use(bench) == ["pull_round_robin", "stealing"]
    bench(ended("a", 0), acknowledged([0]))
    assert names_in_use(bench) == ["pull_round_robin"]


def test_who_asks_for_the_strategy_of_the_cluster_gets_the_one_that_there_is() -> None:
    bench = Bench(PushBestStrategy())
    bench(opened(strategy="push_best"))
    assert names_in_use(bench) == ["push_best"]


def test_an_unknown_strategy_is_refused_and_the_names_are_listed() -> None:
    bench = Bench()
    with pytest.raises(
        ProtocolError, match="'fair'; the strategies are locality, pull_round_robin, push_best, stealing"
    ):
        bench(opened(strategy="fair"))
    bench()
    assert not bench.scheduler.jobs


def test_only_tasks_of_jobs_that_steal_are_stolen() -> None:
    bench = Bench()
    bench(joined("a", credit=100), opened(job=OTHER_JOB, strategy="push_best"), submitted(range(4), job=OTHER_JOB))
    bench(opened(strategy="stealing"), submitted([10, 11]))
    # Of five tasks that wait there three would be taken, but only two are to be had.
    assert withdrawn(bench(joined("b")), stop=False) == {"a": [10, 11]}


# ------------------------------------------------------------------------------------------- other owners


def a_greedy_job(slaves: int = 2) -> Bench:
    """A job that has handed out 100 tasks to each slave, of two slots."""
    bench = Bench()
    bench(*[joined(f"s{number}", slots=2, credit=100) for number in range(slaves)])
    bench(opened(strategy="stealing"), submitted(range(1000)))
    assert [load(bench, f"s{number}") for number in range(slaves)] == [100] * slaves
    return bench


def test_what_a_job_pushed_far_ahead_makes_room_for_another_owner() -> None:
    bench = a_greedy_job()
    instructions = bench(opened(YOU, "you", OTHER_JOB), submitted([0], client=YOU, job=OTHER_JOB))
    # One task needs one slot, so one slave is asked for all but two tasks for each of its slots.
    asked = withdrawn(instructions, stop=False)
    assert list(asked) == ["s0"]
    assert len(asked["s0"]) == 96
    bench(returned("s0", *asked["s0"]))
    # It has the next turn, and the greedy one's tasks wait with the master now.
    instructions = bench(ended("s0", *[task.index for task in list(bench.scheduler.slaves[slave_id("s0")].tasks)[:2]]))
    assert 0 in assigned(instructions)["s0"]
    assert load(bench, "s0") <= 4


def test_more_room_is_made_while_more_is_needed_and_no_sooner_than_needed() -> None:
    bench = a_greedy_job(slaves=3)
    bench(opened(YOU, "you", OTHER_JOB), submitted([0], client=YOU, job=OTHER_JOB))
    bench(submitted(range(1, 4), client=YOU, job=OTHER_JOB))
    due = bench.scheduler.next_deadline()
    assert due is not None
    assert list(withdrawn(bench.after(due - bench.now), stop=False)) == ["s1"]


def test_while_others_have_tasks_and_for_a_moment_after_no_job_prefetches() -> None:
    bench = Bench()
    bench(joined("a", slots=2, credit=100))
    bench(opened(YOU, "you", OTHER_JOB), submitted([0], client=YOU, job=OTHER_JOB))
    bench(opened(strategy="stealing"), submitted(range(50)))
    assert load(bench, "a") == 4
    bench(ended("a", 0, job=OTHER_JOB), acknowledged([0], YOU, OTHER_JOB))
    assert load(bench, "a") == 4
    bench.after(SHARED_S)
    assert load(bench, "a") == 50


def test_jobs_of_one_owner_may_have_what_strategies_they_like() -> None:
    bench = Bench()
    bench(joined("a", slots=2, credit=100))
    bench(opened(), opened(job=OTHER_JOB, strategy="stealing"))
    bench(submitted([0], job=JOB), submitted(range(20), job=OTHER_JOB))
    assert load(bench, "a") == 21


def test_another_strategy_of_the_cluster_places_tasks_from_now_on() -> None:
    bench = Bench()
    bench(joined("a", credit=100), joined("b", credit=100), opened(), submitted(range(50)))
    before = load(bench, "a") + load(bench, "b")
    assert before < 50
    bench.scheduler.use_strategy(StealingStrategy())
    bench()
    assert load(bench, "a") + load(bench, "b") == 50
    assert names_in_use(bench) == ["stealing"]


def test_a_job_keeps_its_strategy_when_that_of_the_cluster_changes() -> None:
    bench = Bench()
    bench(joined("a", credit=100), opened(strategy="stealing"), opened(job=OTHER_JOB, strategy="push_best"))
    bench.scheduler.use_strategy(PushBestStrategy())
    assert names_in_use(bench) == ["push_best", "stealing"]
    bench(submitted(range(50)))
    assert load(bench, "a") == 50
    bench.scheduler.use_strategy(StealingStrategy())
    assert names_in_use(bench) == ["stealing", "push_best"]
    bench(closed(job=OTHER_JOB))
    assert names_in_use(bench) == ["stealing"]
