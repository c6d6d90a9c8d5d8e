"""The log keeps the last tasks, with consistent times whatever slaves report."""

import pytest

from concurrent_nb.ids import Digest, JobId
from concurrent_nb.outcome import Status
from concurrent_nb.tasks.task_log import TaskLog, TaskTimes
from concurrent_nb.tasks.task_record import JobRecord, TaskRecord
from concurrent_nb.wire.messages import Needs, OutcomeFrame, Slice

JOB = JobRecord(JobId(b"j" * 16), "owner")


def record(index: int = 0, accepted_s: float = 1.0, assigned_s: float = 2.0, attempt: int = 1) -> TaskRecord:
    task = TaskRecord(JOB, index, Digest(b"f" * 32), b"body")
    task.accepted_s, task.assigned_s, task.attempt = accepted_s, assigned_s, attempt
    return task


def outcome(
    index: int = 0,
    elapsed_s: float = 3.0,
    *,
    ago_us: int = 500_000,
    cpu_us: int = 0,
    peak_kib: int = 0,
    worker: int = 42,
) -> OutcomeFrame:
    return OutcomeFrame(index, 1, Status.OK, elapsed_s, worker, b"value", (), False, ago_us, cpu_us, peak_kib)


def only(log: TaskLog) -> TaskTimes:
    (times,) = log.read()
    return times


def test_a_task_has_all_its_times_in_the_clock_of_the_master() -> None:
    log = TaskLog()
    log.now_s = 10.0
    log.add(record(), outcome(cpu_us=2_000_000, peak_kib=1024), "east")
    times = only(log)
    assert (times.job, times.index, times.attempt, times.status) == (JOB.id, 0, 1, Status.OK)
    assert (times.slave, times.worker, times.function) == ("east", 42, "66666666")
    assert (times.accepted_s, times.assigned_s) == (1.0, 2.0)
    assert (times.started_s, times.finished_s, times.ended_s) == (6.5, 9.5, 10.0)
    assert (times.cpu_s, times.peak_bytes, times.in_bytes, times.out_bytes) == (2.0, 1 << 20, 4, 5)
    assert times.elapsed_s == 3.0


@pytest.mark.parametrize("ago_us", [0, 10**9, 2**62])
@pytest.mark.parametrize("elapsed_s", [0.0, 1e300, float("inf"), -1.0, -1e300, float("-inf"), float("nan")])
def test_a_slave_cannot_report_times_outside_those_of_its_assignment(ago_us: int, elapsed_s: float) -> None:
    log = TaskLog()
    log.now_s = 10.0
    log.add(record(), outcome(elapsed_s=elapsed_s, ago_us=ago_us, cpu_us=2**62, peak_kib=2**32 - 1), "east")
    times = only(log)
    assert 2.0 <= times.started_s <= times.finished_s <= times.ended_s == 10.0


@pytest.mark.parametrize(("index", "worker"), [(2**63 - 1, 2**64 - 1), (-1, -1)])
def test_numbers_of_any_size_are_no_error(index: int, worker: int) -> None:
    log = TaskLog()
    log.add(record(index, attempt=10**6), outcome(index, worker=worker), "")
    assert len(log) == 1
    assert only(log).attempt == 65535


def test_a_task_that_ran_nowhere_was_assigned_and_started_when_it_ended() -> None:
    log = TaskLog()
    log.now_s = 10.0
    log.add(record(attempt=0, assigned_s=0.0), outcome(elapsed_s=0.0, ago_us=0, worker=0), "")
    times = only(log)
    assert times.assigned_s == times.started_s == times.ended_s == 10.0


def test_functions_have_the_names_that_they_had_when_they_ran() -> None:
    log = TaskLog()
    log.name_of = lambda digest: f"function {digest[:1].decode()}"
    log.add(record(), outcome(), "east")
    log.name_of = lambda digest: "forgotten"
    log.add(record(1), outcome(1), "east")
    assert [times.function for times in log.read()] == ["function f"] * 2


def test_buffers_in_shared_memory_count() -> None:
    log = TaskLog()
    task = record()
    task.sizes = (Slice(b"s" * 16, 0, 1000, 1), 24)
    log.add(task, outcome(), "east")
    assert only(log).in_bytes == 4 + 1024


def test_the_oldest_tasks_are_dropped_in_blocks() -> None:
    log = TaskLog(kept=2000)
    for index in range(4500):
        log.now_s = float(index)
        log.add(record(index, accepted_s=float(index), assigned_s=float(index)), outcome(index), f"slave {index % 3}")
    assert (len(log), log.first) == (4500, 3000)
    numbers = [times.number for times in log.read()]
    assert numbers == list(range(3000, 4500))
    assert [(times.index, times.slave) for times in log.read(4496)] == [
        (index, f"slave {index % 3}") for index in range(4496, 4500)
    ]
    assert [times.number for times in log.read(3998, 4002)] == [3998, 3999, 4000, 4001]
    assert list(log.read(4500)) == []


def test_columns_have_what_single_tasks_have() -> None:
    log = TaskLog(kept=3000)
    for index in range(4500):
        log.now_s = float(index)
        log.add(record(index, float(index) - 2, float(index) - 1), outcome(index, 0.5, worker=index), f"{index % 3}")
    for since in (0, 3000, 3500, 4499, 4500):
        tasks, columns = list(log.read(since)), list(log.columns(since))
        assert [len(block) for block in columns] == [
            len([task for task in tasks if task.number // 1000 == thousand])
            for thousand in range(5)
            if any(task.number // 1000 == thousand for task in tasks)
        ]
        assert [time for block in columns for time in block.ended_s] == [task.ended_s for task in tasks]
        assert [pid for block in columns for pid in block.worker] == [task.worker for task in tasks]
        assert [block.slaves[slave] for block in columns for slave in block.slave] == [task.slave for task in tasks]
        assert [block.jobs[job] for block in columns for job in block.job] == [task.job for task in tasks]
        assert [block.functions[each] for block in columns for each in block.function] == [t.function for t in tasks]
        for name in ("in_bytes", "out_bytes", "status", "elapsed_s"):
            assert [value for block in columns for value in getattr(block, name)] == [getattr(t, name) for t in tasks]
        for name, value in (("accepted_ago_s", 2.0), ("assigned_ago_s", 1.0), ("reported_ago_s", 0.5)):
            assert all(set(getattr(block, name)) == {value} for block in columns)


YOURS = JobRecord(JobId(b"y" * 16), "you", "yours")


def mixed_log(count: int, kept: int = 2000) -> TaskLog:
    """Return a log in which every tenth task is of another owner."""
    log = TaskLog(kept=kept)
    for index in range(count):
        task = record(index)
        task.job = YOURS if index % 10 == 0 else JOB
        log.add(task, outcome(index), "east")
    return log


def test_the_tasks_of_a_job_or_of_an_owner_are_read_alone() -> None:
    log = mixed_log(1500)
    assert [times.number for times in log.read_of(YOURS.id, None)] == list(range(0, 1500, 10))
    assert [times.number for times in log.read_of(YOURS.id, "you", 1005)] == list(range(1010, 1500, 10))
    assert list(log.read_of(YOURS.id, "owner")) == []
    assert [times.number for times in log.read_of(None, "owner", 1491)] == list(range(1491, 1500))
    assert len(list(log.read_of(None, None))) == 1500
    assert list(log.read_of(b"x" * 16, None)) == []


def test_what_was_dropped_is_counted_by_job() -> None:
    log = mixed_log(4500)
    assert log.first == 3000
    assert log.count_dropped(None, None) == 3000
    assert log.count_dropped(YOURS.id, "you") == log.count_dropped(None, "you") == 300
    assert log.count_dropped(YOURS.id, "owner") == 0
    assert log.count_dropped(JOB.id, None) == 2700
    assert log.count_dropped(b"x" * 16, None) == 0


def test_a_job_is_known_as_long_as_its_tasks_or_their_number() -> None:
    log = mixed_log(10)
    assert log.label_of(YOURS.id) == ("yours", "you")
    assert log.label_of(b"x" * 16) is None
    for index in range(4000):
        log.add(record(index), outcome(index), "east")
    assert not list(log.read_of(YOURS.id, None))
    assert log.label_of(YOURS.id) == ("yours", "you")


def test_records_may_be_decoded_later_and_elsewhere() -> None:
    log = TaskLog(kept=2000)
    for index in range(1003):
        log.add(record(index), outcome(index, cpu_us=1000), "east")
    first, records = log.records(1)
    log.add(record(1003), outcome(1003), "east")
    used = list(log.used(records))
    assert (first, len(used)) == (1, 1002)
    assert (used[-1].status, used[-1].run_s, used[-1].in_bytes, used[-1].out_bytes) == (Status.OK, 3.0, 4, 5)
    assert used[0].cpu_s == pytest.approx(0.001)
    assert list(log.used(log.records(1004)[1])) == []
    for index in range(3000):
        log.add(record(index), outcome(index), "east")
    assert log.records(5)[0] == log.first == 3000


@pytest.mark.parametrize("elapsed_s", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_run_time_that_cannot_be_counts_as_none(elapsed_s: float) -> None:
    log = TaskLog()
    log.add(record(), outcome(elapsed_s=elapsed_s), "east")
    assert [task.run_s for task in log.used(log.records(0)[1])] == [0.0]


def test_tasks_in_threads_are_marked() -> None:
    log = TaskLog()
    for index, needs in enumerate((None, Needs(kind="thread"), Needs(cores=2))):
        task = record(index)
        task.needs = needs
        log.add(task, outcome(index), "east")
    assert [(times.status, times.in_thread) for times in log.read()] == [
        (Status.OK, False),
        (Status.OK, True),
        (Status.OK, False),
    ]
    assert [task.status for task in log.used(log.records(0)[1])] == [Status.OK] * 3
