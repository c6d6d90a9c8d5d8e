from math import inf, nan

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.master.measured_values import JOBS_KEPT, SUMMED_MAX, MeasuredValues
from concurrent_nb.telemetry.job_stats import ClusterStats, job_stats_of
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
        kept.take(job, "", [ROWS])
    assert kept.of(jobs[0]) == {}
    kept.take(jobs[1], "", [ROWS])
    kept.take(jobs[0], "", [ROWS])
    assert kept.of(jobs[1]) == kept.of(jobs[-1]) == {"rows": AS_JSON}
    assert kept.of(jobs[2]) == {}


def test_the_statistics_of_the_cluster_have_the_sums_over_jobs() -> None:
    other = b"o" * 16
    bench = with_job()
    bench.send(BOB, m.OpenJob(other, "plans", False, False))
    bench.send(ALICE, m.Measured(JOB, [ROWS, m.MeasuredValue("mine", 1, 5, 5, 5, 5, 5, 5)]))
    bench.send(BOB, m.Measured(other, [m.MeasuredValue("rows", 2, 4.0, 1.0, 3.0, 1.0, 3.0, 3.0)]))
    summed = {"jobs": 2, "count": 4, "total": 44.0, "average": 11.0, "minimum": 1.0, "maximum": 30.0}
    answer = bench.core.statistics(bench.now, None, None, sees_all=True)
    assert list(answer["values"]) == ["mine", "rows"]
    assert answer["values"]["rows"] == {**summed, "p50": None, "p90": None, "p99": None}
    text = repr(ClusterStats.from_answer(answer))
    assert "measured by tasks of all these jobs" in text
    assert "of 2 jobs  average 11, minimum 1, maximum 30, total 44" in text
    assert "of 1 job   average 5, 50 % 5" in text
    of_alice = bench.core.statistics(bench.now, None, ALICE)["values"]
    assert of_alice["rows"] == {"jobs": 1, **AS_JSON}, "those of others are not told"
    assert bench.core.view(bench.now, {}).totals["measured"] == 2
    bench.send(BOB, m.Measured(other, [m.MeasuredValue("rows", 3, 9.0, 1.0, 5.0, 3.0, 5.0, 5.0)]))
    assert bench.core.statistics(bench.now, None, None, sees_all=True)["values"]["rows"]["count"] == 5, (
        "the last report"
    )


def test_those_of_the_newest_jobs_are_summed_if_they_have_too_many_names() -> None:
    kept = MeasuredValues()
    for number in range(SUMMED_MAX // 100 + 1):
        values = [m.MeasuredValue(f"{number}/{at}", 1, 1, 1, 1, 1, 1, 1) for at in range(100)]
        kept.take(JobId(number.to_bytes(16, "big")), "", values)
    assert len(kept.of_all(None)) == SUMMED_MAX
    assert "0/0" not in kept.of_all("") and "1/0" in kept.of_all("")
    assert kept.of_all("somebody") == {}
