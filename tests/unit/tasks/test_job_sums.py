"""The sums of a job: where its time went, for any number of tasks and whatever slaves report."""

import pytest

from concurrent_nb.ids import Digest, JobId
from concurrent_nb.outcome import Status
from concurrent_nb.tasks.job_sums import JobSums, SlotTime
from concurrent_nb.tasks.task_log import TaskLog
from concurrent_nb.tasks.task_record import JobRecord, TaskRecord
from concurrent_nb.wire.messages import OutcomeFrame


def job_with(*ends: OutcomeFrame, at_s: float = 10.0, kept: int = 1000) -> JobRecord:
    """A job whose tasks were accepted at 1 s, assigned at 3 s and end at `at_s`."""
    job, log = JobRecord(JobId(b"j" * 16), "owner"), TaskLog(kept)
    log.now_s = at_s
    for outcome in ends:
        task = TaskRecord(job, outcome.index, Digest(b"f" * 32), b"body")
        task.accepted_s, task.assigned_s, task.attempt = 1.0, 3.0, 1
        log.add(task, outcome, "east")
    return job


def end(elapsed_s: float = 4.0, cpu_us: int = 0, peak_kib: int = 0) -> OutcomeFrame:
    return OutcomeFrame(0, 1, Status.OK, elapsed_s, 42, b"value", (), False, 0, cpu_us, peak_kib)


def test_the_time_of_tasks_is_waiting_shipping_and_running() -> None:
    sums = job_with(end(4.0), end(5.0)).sums.describe(SlotTime(), 10.0)
    assert (sums["ended"], sums["waiting_s"], sums["shipping_s"], sums["running_s"]) == (2, 4.0, 5.0, 9.0)
    assert (sums["in_bytes"], sums["out_bytes"]) == (8, 10)


def test_usage_is_summed_and_memory_is_the_most() -> None:
    sums = job_with(end(cpu_us=1_500_000, peak_kib=7), end(), end(cpu_us=500_000, peak_kib=3)).sums
    described = sums.describe(SlotTime(), 10.0)
    assert (described["cpu_s"], described["peak_bytes"]) == (2.0, 7 * 1024)


@pytest.mark.parametrize("elapsed_s", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_task_ran_no_longer_than_it_was_at_its_slave(elapsed_s: float) -> None:
    sums = job_with(end(elapsed_s)).sums.describe(SlotTime(), 10.0)
    assert (sums["running_s"], sums["shipping_s"]) == (7.0, 0.0)


def test_results_wait_until_their_owner_has_them() -> None:
    sums = job_with(end(), end()).sums
    sums.acknowledge(1, 11.0)
    assert sums.describe(SlotTime(), 11.0)["fetching_s"] == 2.0
    assert sums.describe(SlotTime(), 14.0)["fetching_s"] == 5.0
    sums.acknowledge(1, 15.0)
    assert sums.describe(SlotTime(), 100.0)["fetching_s"] == 6.0


def test_sums_hold_for_more_tasks_than_the_log_keeps() -> None:
    sums = job_with(*[end(1.0)] * 5000).sums.describe(SlotTime(), 10.0)
    assert (sums["ended"], sums["running_s"]) == (5000, 5000.0)


def test_slots_are_counted_while_the_job_has_tasks() -> None:
    time, sums = SlotTime(), JobSums()
    time.advance(0.0, 8, 8)
    time.advance(10.0, 8, 8)
    sums.begin(time, 10.0)
    time.advance(12.0, 8, 2)
    assert sums.describe(time, 12.0)["idle_slot_s"] == 4.0
    time.advance(14.0, 4, 1)
    sums.end(time, 14.0)
    time.advance(50.0, 4, 4)
    described = sums.describe(time, 50.0)
    assert (described["busy_s"], described["slot_s"], described["idle_slot_s"]) == (4.0, 24.0, 6.0)
    sums.begin(time, 50.0)
    time.advance(51.0, 4, 0)
    sums.end(time, 51.0)
    assert sums.describe(time, 60.0)["busy_s"] == 5.0
