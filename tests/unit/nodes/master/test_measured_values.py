from math import inf, nan

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.master.measured_values import JOBS_KEPT, MeasuredValues
from concurrent_nb.telemetry.job_stats import job_stats_of
from concurrent_nb.wire import messages as m
from tests.unit.nodes.master.bench import ALICE, BOB, JOB, Bench

ROWS = m.MeasuredValue("rows", 2, 40.0, 10.0, 30.0, 10.0, 30.0, 30.0)
AS_JSON = {"count": 2, "total": 40.0, "average": 20.0, "minimum": 10.0, "maximum": 30.0, "p50": 10.0} | {
    "p90": 30.0,
    "p99": 30.0,
}


def with_job() -> Bench:
    bench = Bench()
    bench.client(ALICE)
    bench.client(BOB)
    bench.send(ALICE, m.OpenJob(JOB, "fits", False, False))
    return bench


def values(bench: Bench) -> object:
    return bench.core.statistics(bench.now, JobId(JOB), None, sees_all=True)["values"]


def test_the_statistics_of_a_job_have_what_its_tasks_have_measured() -> None:
    bench = with_job()
    assert values(bench) == {}
    bench.send(ALICE, m.Measured(JOB, [ROWS]))
    assert values(bench) == {"rows": AS_JSON}
    bench.send(ALICE, m.Measured(JOB, [ROWS, m.MeasuredValue("n", 1, nan, 1, 1, 1, 1, inf)]))
    assert values(bench) == {"rows": AS_JSON}, "what is no number is left out"
    text = repr(job_stats_of(bench.core.statistics(bench.now, JobId(JOB), None, sees_all=True)))
    assert "measured by its tasks" in text and "rows" in text and "average 20" in text


def test_only_the_owner_of_a_job_reports_about_it_and_only_about_one_that_there_is() -> None:
    bench = with_job()
    bench.send(BOB, m.Measured(JOB, [ROWS]))
    bench.send(ALICE, m.Measured(b"x" * 16, [ROWS]))
    assert values(bench) == {}
    with pytest.raises(ConfigurationError):
        bench.core.statistics(bench.now, JobId(JOB), BOB)


def test_those_of_few_jobs_are_kept() -> None:
    kept = MeasuredValues()
    jobs = [JobId(number.to_bytes(16, "big")) for number in range(JOBS_KEPT + 1)]
    for job in jobs:
        kept.take(job, [ROWS])
    assert kept.of(jobs[0]) == {}
    kept.take(jobs[1], [ROWS])
    kept.take(jobs[0], [ROWS])
    assert kept.of(jobs[1]) == kept.of(jobs[-1]) == {"rows": AS_JSON}
    assert kept.of(jobs[2]) == {}
