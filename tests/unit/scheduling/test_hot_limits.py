"""Limits that change while tasks are there, and cancellations that do not come from the owner."""

import pytest

from concurrent_nb.scheduling.events import CancelRequested
from tests.unit.scheduling.bench import CANCELLED, JOB, POISON, Bench
from tests.unit.scheduling.client_events import gone, opened, submitted
from tests.unit.scheduling.instructions import withdrawn
from tests.unit.scheduling.slave_events import ended, joined, worker_died


def test_fewer_deaths_are_allowed_from_now_on() -> None:
    bench = Bench(deaths_allowed=5)
    bench(joined("a"), opened(), submitted([0]))
    bench(worker_died("a", 0, attempt=1))
    assert bench.scheduler.jobs[JOB].tasks[0].outcome is None
    bench.scheduler.deaths_allowed = 2
    assert bench.scheduler.deaths_allowed == 2
    bench(worker_died("a", 0, attempt=2))
    outcome = bench.scheduler.jobs[JOB].tasks[0].outcome
    assert outcome is not None and outcome.status == POISON


def test_an_owner_is_paused_and_resumed_by_another_limit() -> None:
    bench = Bench(results_kept_bytes=10_000)
    bench(joined("a", slots=1, credit=1), opened(), submitted(range(10)))
    bench(ended("a", 0))
    assert bench.scheduler.paused == {}
    bench.scheduler.results_kept_bytes = 100
    assert bench.scheduler.results_kept_bytes == 100
    assert bench.scheduler.paused != {}
    bench()
    bench.scheduler.results_kept_bytes = 10_000
    assert bench.scheduler.paused == {}
    bench()


@pytest.mark.parametrize("owner_is_away", [False, True])
def test_a_job_is_cancelled_by_another_than_its_owner(owner_is_away: bool) -> None:
    bench = Bench()
    bench(joined("a", slots=1, credit=1), opened(), submitted(range(3)))
    if owner_is_away:
        bench(gone(linger_s=100.0))
    instructions = bench(CancelRequested(None, JOB, None))
    assert withdrawn(instructions, stop=True) == {"a": [0]}
    statuses = [task.outcome.status for task in bench.scheduler.jobs[JOB].tasks.values() if task.outcome is not None]
    assert statuses == [CANCELLED, CANCELLED]
    assert bench.scheduler.jobs[JOB].ended
