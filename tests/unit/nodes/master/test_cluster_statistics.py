"""The statistics that the master answers with, and who gets them."""

from typing import Any

import msgspec
import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.master import cluster_statistics
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from tests.unit.nodes.master.bench import ALICE, BOB, EAST, JOB, Bench, function

ID = JobId(JOB)


def submit(count: int) -> m.Submit:
    return m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(index, 0, b"args") for index in range(count)])


def outcome(index: int, status: int = Status.OK, elapsed_s: float = 1.0) -> m.OutcomeFrame:
    return m.OutcomeFrame(index, 1, status, elapsed_s, 42, b"value", (), False, 0, 500_000, 1024)


def bench_with_job(*outcomes: m.OutcomeFrame, tasks: int = 3) -> Bench:
    """A cluster where Alice's tasks were accepted at 0 s, and ended at 5 s."""
    bench = Bench()
    bench.client(ALICE)
    bench.client(BOB)
    bench.slave(EAST, slots=2)
    bench.send(ALICE, m.OpenJob(JOB, "fits", False, False, None, "plans/a.ipynb", "cell-1"), function(), submit(tasks))
    bench.all_sent()
    bench.now = 5.0
    bench.send(EAST, m.Outcomes(JOB, "east", list(outcomes)))
    bench.all_sent()
    return bench


def stats(
    bench: Bench, session: SessionId | None = ALICE, *, job: JobId | None = ID, admin: bool = False
) -> dict[str, Any]:
    return bench.core.statistics(bench.now, job, session, sees_all=admin)


def test_a_job_has_the_sums_of_its_tasks() -> None:
    answer = stats(bench_with_job(outcome(0), outcome(1, Status.ERROR)))
    assert (answer["id"], answer["name"], answer["notebook"], answer["cell"]) == (
        JOB.hex(),
        "fits",
        "plans/a.ipynb",
        "cell-1",
    )
    assert (answer["ended"], answer["failed"], answer["cancelled"], answer["unfinished"]) == (2, 1, 0, 1)
    assert (answer["running_s"], answer["waiting_s"] + answer["shipping_s"]) == (2.0, 8.0)
    assert (answer["cpu_s"], answer["peak_bytes"], answer["in_bytes"], answer["out_bytes"]) == (1.0, 1 << 20, 8, 10)
    assert (answer["busy_s"], answer["slot_s"], answer["idle_slot_s"]) == (5.0, 10.0, 0.0)


def test_cancelled_tasks_are_counted_as_such() -> None:
    bench = bench_with_job(tasks=3)
    bench.send(ALICE, m.Cancel(JOB, None))
    bench.all_sent()
    bench.send(EAST, m.Outcomes(JOB, "east", [outcome(index, Status.CANCELLED) for index in range(3)]))
    answer = stats(bench)
    assert (answer["ended"], answer["failed"], answer["cancelled"], answer["unfinished"]) == (3, 0, 3, 0)


def test_a_job_that_was_forgotten_still_has_them() -> None:
    bench = bench_with_job(outcome(0), tasks=1)
    bench.now = 7.0
    bench.send(ALICE, m.CloseJob(JOB))
    assert ID not in bench.core.scheduler.jobs
    bench.now = 100.0
    answer = stats(bench)
    assert (answer["ended"], answer["unfinished"], answer["fetching_s"], answer["busy_s"]) == (1, 0, 2.0, 7.0)


def test_a_late_task_continues_the_sums() -> None:
    bench = bench_with_job(outcome(0), tasks=1)
    bench.send(ALICE, m.CloseJob(JOB))
    bench.send(ALICE, m.OpenJob(JOB, "fits", False, False), function(), submit(1))
    assert (stats(bench)["ended"], stats(bench)["unfinished"]) == (1, 1)


def test_a_foreign_job_is_none() -> None:
    bench = bench_with_job(outcome(0))
    for session in (BOB, None, SessionId(b"nobody's session"), EAST):
        with pytest.raises(ConfigurationError, match=r"there is no job .* of yours"):
            stats(bench, session)
        answer = stats(bench, session, job=None)
        assert answer["jobs"] == []
    assert stats(bench, BOB, admin=True)["name"] == "fits"


def test_an_unknown_job_is_none() -> None:
    with pytest.raises(ConfigurationError, match=f"there is no job {'00' * 16} of yours"):
        stats(bench_with_job(), job=JobId(bytes(16)), admin=True)


def test_a_cluster_has_its_slaves_and_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_with_job(outcome(0), outcome(1, elapsed_s=3.0))
    answer = stats(bench, job=None)
    assert answer["slaves"] == {"east": {"host": "", "slots": 2, "tasks": 2, "run_s": 4.0, "uptime_s": 5.0}}
    assert [job["name"] for job in answer["jobs"]] == ["fits"]
    assert (answer["tasks"], answer["slot_s"], answer["more_jobs"]) == (2, 10.0, 0)
    monkeypatch.setattr(cluster_statistics, "LISTED_MAX", 1)
    other = b"k" * 16
    bench.send(
        ALICE, m.OpenJob(other, "more", False, False), m.Submit(other, function().digest, None, 0, submit(1).tasks)
    )
    answer = stats(bench, job=None)
    assert ([job["name"] for job in answer["jobs"]], answer["more_jobs"]) == (["more"], 1)


@pytest.mark.parametrize("elapsed_s", [float("nan"), float("inf"), -5.0, 1e300])
def test_a_slave_that_reports_nonsense_ruins_no_sum(elapsed_s: float) -> None:
    answer = stats(bench_with_job(outcome(0, elapsed_s=elapsed_s)))
    assert 0 <= answer["running_s"] <= 5
    assert 0 <= answer["shipping_s"] <= 5


def test_a_sample_describes_the_tasks_in_the_log() -> None:
    bench = bench_with_job(outcome(0), outcome(1, elapsed_s=3.0))
    log = bench.core.scheduler.task_log.tail(10)
    bench.send(EAST, m.Outcomes(JOB, "east", [outcome(2)]))
    answer = cluster_statistics.sample(log, ID)
    assert (answer["run_time"]["count"], answer["run_time"]["maximum"]) == (2, 3.0)
    assert answer["slaves"] == {"east": [2, 4.0]}
    assert answer["workers"] == {"east/42": [2, 4.0]}
    assert list(answer["functions"].values()) == [[2, 4.0]]
    assert cluster_statistics.sample(log, JobId(bytes(16)))["run_time"]["count"] == 0


def test_the_errors_of_a_job_are_folded_by_kind() -> None:
    def failed(
        index: int, status: int = Status.ERROR, message: str = "", kind: str = "", trace: str = ""
    ) -> m.OutcomeFrame:
        report = msgspec.msgpack.encode(m.ErrorReport(kind, message, trace))
        return m.OutcomeFrame(index, 1, status, 1.0, 42, report)

    long = "first\n" + 3000 * "x" + "\nlast"
    outcomes = [failed(index, Status.ERROR, f"no plan {index}\nat all", "fits.NoPlan", long) for index in range(7)]
    timeout = failed(7, Status.TIMEOUT, "it ran longer than 3 s")
    unreadable = m.OutcomeFrame(8, 1, Status.NOT_PICKLABLE, 1.0, 42, b"\xc1")
    bench = bench_with_job(*outcomes[:4], tasks=10)
    for some in (outcomes[4:], [timeout, unreadable]):
        bench.send(EAST, m.Outcomes(JOB, "east", some))
        bench.all_sent()
    errors = stats(bench)["errors"]
    assert [(kind["type"], kind["message"], kind["count"], kind["tasks"]) for kind in errors["kinds"]] == [
        ("NoPlan", "no plan 0", 7, [0, 1, 2, 3, 4]),
        ("timeout", "it ran longer than 3 s", 1, [7]),
        ("not picklable", "", 1, [8]),
    ]
    texts = [kind["text"] for kind in errors["kinds"]]
    assert texts[0].startswith("…\nx") and texts[0].endswith("x\nlast") and len(texts[0]) < 2100
    assert texts[1:] == ["it ran longer than 3 s", ""]
    assert stats(bench_with_job(outcome(0)))["errors"] is None
    with pytest.raises(ConfigurationError):
        stats(bench, BOB)
