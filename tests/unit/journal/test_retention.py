"""What is deleted is not missed: a compacted journal says the same about open tasks as a complete one."""

import random
from collections.abc import Sequence

import pytest

from concurrent_nb.journal import journal_records as r
from concurrent_nb.journal.replayed import Replayed, replay
from concurrent_nb.journal.retention import Retention
from concurrent_nb.wire.messages import OutcomeFrame, TaskFrame

JOB, OTHER, DIGEST = b"j" * 16, b"o" * 16, b"d" * 32
FUNCTION, OPENED = r.FunctionKept(DIGEST, b"pickle", (), "f"), r.JobKept(JOB, "key")


def tasks(*indexes: int, job: bytes = JOB, keep: bool = False) -> r.TasksKept:
    return r.TasksKept(job, DIGEST, [TaskFrame(index, 0, b"%d" % index) for index in indexes], keep=keep)


def outcomes(*indexes: int, job: bytes = JOB) -> r.OutcomesKept:
    return r.OutcomesKept(job, "east", [OutcomeFrame(index, 1, 0, 0.0, 1, b"%d" % index) for index in indexes])


class Rows:
    """A journal in memory, compacted as the one on disk."""

    def __init__(self) -> None:
        self.retention = Retention()
        self.rows: dict[int, r.Record] = {}
        self.number = 0

    def add(self, *records: r.Record) -> "Rows":
        for record in records:
            if (fresh := self.retention.add(self.number + 1, record)) is not None:
                self.number += 1
                self.rows[self.number] = r.only(record, (), fresh)[0]
            for number in self.retention.take_over():
                del self.rows[number]
        assert len(self.retention) == len(self.rows)
        return self

    @property
    def kinds(self) -> list[str]:
        return [type(record).__name__ for record in self.rows.values()]


def summary(replayed: Replayed) -> object:
    """Say what of it a restarted master acts upon."""
    jobs = {}
    for job_id, job in replayed.jobs.items():
        runs = sorted((task.index, task.body, run.keep) for run, _ in job.runs for task in run.tasks)
        ended = sorted((item.index, item.body) for run, _ in job.outcomes for item in run.items)
        jobs[job_id] = (job.opened, runs, ended, job.acknowledged, job.cancelled, job.is_ended)
    return jobs, replayed.slaves


def functions_needed(replayed: Replayed) -> set[bytes]:
    return {run.function for job in replayed.jobs.values() for run, _ in job.runs}


def replayed(records: Sequence[r.Record]) -> Replayed:
    return replay((record, ()) for record in records)


def test_a_job_that_is_over_leaves_nothing() -> None:
    rows = Rows().add(FUNCTION, OPENED, tasks(0, 1, 2), outcomes(0, 1))
    assert rows.kinds == ["FunctionKept", "JobKept", "TasksKept", "OutcomesKept"]
    rows.add(r.TasksAcknowledged(JOB, [0]))
    assert rows.kinds[-1] == "TasksAcknowledged"
    rows.add(r.TasksAcknowledged(JOB, [1]), outcomes(2), r.JobEnded(JOB))
    assert rows.kinds == [
        "FunctionKept", "JobKept", "TasksKept", "TasksAcknowledged", "TasksAcknowledged", "OutcomesKept", "JobEnded",
    ]  # fmt: skip
    rows.add(r.TasksAcknowledged(JOB, [2]))  # the last of its run, with which all that is about it goes
    assert rows.kinds == ["FunctionKept", "JobKept", "JobEnded"]
    rows.add(r.JobForgotten(JOB))
    assert rows.kinds == []


def test_it_does_not_grow_with_finished_tasks() -> None:
    rows = Rows().add(FUNCTION, OPENED)
    for first in range(0, 5000, 10):
        indexes = range(first, first + 10)
        rows.add(tasks(*indexes), outcomes(*indexes[:5]), outcomes(*indexes[5:]))
        rows.add(*(r.TasksAcknowledged(JOB, [index]) for index in indexes))
        assert len(rows.rows) <= 13
    assert rows.kinds == ["FunctionKept", "JobKept"]


def test_what_is_known_is_not_written_again() -> None:
    rows = Rows().add(FUNCTION, OPENED, tasks(0, 1), outcomes(0), r.SlaveKept(b"k", "east"))
    before = list(rows.rows)
    rows.add(FUNCTION, OPENED, tasks(0, 1), outcomes(0), r.SlaveKept(b"k", "west"), tasks(5, job=OTHER))
    rows.add(r.TasksAcknowledged(JOB, [77]), r.TasksCancelled(OTHER, [1]), r.JobForgotten(OTHER), r.SlaveGone(b"other"))
    assert list(rows.rows) == before
    rows.add(r.JobEnded(JOB), r.JobEnded(JOB))
    assert rows.kinds.count("JobEnded") == 1
    rows.add(OPENED)  # opened again
    assert "JobEnded" not in rows.kinds
    rows.add(r.SlaveGone(b"k"))
    assert "SlaveKept" not in rows.kinds


def test_kept_results_stay_until_they_are_freed() -> None:
    rows = Rows().add(FUNCTION, OPENED, tasks(0, 1, keep=True), outcomes(0, 1), r.TasksAcknowledged(JOB, [0, 1]))
    assert replayed(list(rows.rows.values())).jobs[JOB].acknowledged == [0, 1]
    rows.add(r.ResultsReleased(JOB, [0]))
    job = replayed(list(rows.rows.values())).jobs[JOB]
    assert job.acknowledged == [1]
    assert [task.index for run, _ in job.runs for task in run.tasks if run.keep] == [1]
    rows.add(r.ResultsReleased(JOB, [1]))
    assert rows.kinds == ["FunctionKept", "JobKept"]


def test_freed_before_its_end_it_is_a_plain_task() -> None:
    rows = Rows().add(FUNCTION, OPENED, tasks(0, 1, keep=True), r.ResultsReleased(JOB, [0]))
    runs = replayed(list(rows.rows.values())).jobs[JOB].runs
    assert sorted((task.index, run.keep) for run, _ in runs for task in run.tasks) == [(0, False), (1, True)]


def random_records(rng: random.Random, count: int) -> list[r.Record]:
    """Make a history as a master makes it, with repetitions."""
    known: list[r.Record] = [FUNCTION]
    submitted: dict[bytes, int] = {}
    for _ in range(count):
        job = rng.choice([JOB, OTHER])
        if job not in submitted:
            known.append(r.JobKept(job, "key"))
            submitted[job] = 0
        some = [rng.randrange(submitted[job] + 1) for _ in range(rng.randrange(1, 6))]
        match rng.randrange(12):
            case 0 | 1 | 2:
                first, submitted[job] = submitted[job], submitted[job] + rng.randrange(1, 5)
                first = max(0, first - rng.choice([0, 0, 1, 3]))  # some are submitted again
                known.append(tasks(*range(first, submitted[job]), job=job, keep=rng.random() < 0.3))
            case 3 | 4 | 5:
                known.append(outcomes(*dict.fromkeys(some), job=job))
            case 6 | 7 | 8:
                known.append(r.TasksAcknowledged(job, some))
            case 9:
                known.append(r.ResultsReleased(job, some) if rng.random() < 0.5 else r.TasksCancelled(job, some))
            case 10:
                others: list[r.Record] = [
                    r.JobEnded(job),
                    r.JobKept(job, "key"),
                    r.SlaveKept(b"k", "east"),
                    r.SlaveGone(b"k"),
                ]
                known.append(rng.choice(others))
            case _:
                if rng.random() < 0.3:
                    known += [r.JobForgotten(job), FUNCTION]
                    del submitted[job]
    return known


@pytest.mark.parametrize("seed", range(60))
def test_a_compacted_journal_says_the_same(seed: int) -> None:
    rng = random.Random(seed)
    records, rows = random_records(rng, 80), Rows()
    so_far: list[r.Record] = []
    for record in records:
        rows.add(record)
        so_far.append(record)
        compacted = replayed(list(rows.rows.values()))
        assert summary(compacted) == summary(replayed(so_far))
        assert functions_needed(compacted) <= compacted.functions.keys()
        # A journal that is read again has the same rows.
        again = Retention()
        assert all(again.add(number, each) is not None for number, each in rows.rows.items())
        assert again.take_over() == []
