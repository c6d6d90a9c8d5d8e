"""What a host reports of a task system, and what the system's job makes of it."""

from typing import Any

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.job import Counts, TaskNote
from concurrent_nb.nodes.application.system_job import CellRun, SystemRun
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.runtime.notes import Display, PhaseCounts, SystemCounts
from concurrent_nb.tasks.system import ITaskSystem

COUNTS = SystemCounts("running", 10, 6, 4, 2, 3, 1, 0, False, 1.5, [PhaseCounts(1, 10, 6, 3, 1, 0)])


def a_run(**options: Any) -> SystemRun:
    run = SystemRun(JobId(b"\1" * 16), "In[1]", lambda job, indexes: None, **options)
    run.futures = [TaskFuture(run.id, 0, lambda job, indexes: None, run)]
    return run


def test_its_counts_are_0_before_its_host_has_reported() -> None:
    run = a_run()
    assert run.counts() == Counts(0, 0, 0, 0, 0)
    assert run.progress()["stage"] == "waiting"


def test_its_counts_are_those_of_the_systems_tasks() -> None:
    run = a_run()
    run._task_noted(0, [COUNTS])
    assert run.counts() == Counts(4, 2, 3, 1, 0)
    assert run.progress()["phases"] == [
        {"number": 1, "pushed": 10, "unfinished": 6, "done": 3, "failed": 1, "cancelled": 0}
    ]
    assert run.take_notes() == []


def test_a_watched_one_keeps_the_notes() -> None:
    run = a_run(watched=True)
    run._task_noted(0, [COUNTS])
    assert run.take_notes() == [TaskNote(0, COUNTS)]


def test_when_it_is_over_what_had_not_ended_is_cancelled() -> None:
    run = a_run()
    run._task_noted(0, [COUNTS])
    run.futures[0].end_cancelled()
    assert run.wait(0)
    assert run.counts() == Counts(0, 0, 3, 1, 6)


def test_its_result_is_its_hosts() -> None:
    run = a_run()
    run.futures[0].status = Status.OK
    run.futures[0].end("all", None)
    assert run.result(0) == "all"


def test_what_its_tasks_display_is_not_kept_by_one_that_prints() -> None:
    for prints, kept in ((True, 0), (False, 1)):
        run = a_run(prints=prints)
        run._task_noted(0, [Display({"text/plain": "x"})])
        assert len(run.take_output()) == kept


# ---------------------------------------------------------------------------------------------- what may be a system


class Cell:
    """A job that may go on, and what it has asked for."""

    def __init__(self) -> None:
        self.pushed: list[Any] = []
        self.cancelled: list[tuple[JobId, Any]] = []
        self.run = CellRun(
            JobId(b"\1" * 16),
            "In[1]",
            lambda job, indexes: self.cancelled.append((job, indexes)),
            False,
            False,
            lambda run, system: self.pushed.append(system),
        )
        self.handle = self.run._new_handle(0)
        (self.future,) = self.run.futures

    def answer(self, value: Any, error: BaseException | None = None) -> None:
        self.handle.status = Status.OK if error is None else Status.ERROR
        self.handle.set_outcome(value, error, None)


def test_a_cell_that_gives_no_system_ends_with_its_value() -> None:
    cell = Cell()
    assert cell.run.counts() == Counts(1, 0, 0, 0, 0)
    cell.answer(7)
    assert (cell.run.result(0), cell.run.counts(), cell.pushed) == (7, Counts(0, 0, 1, 0, 0), [])


def test_one_that_fails_ends_with_its_error() -> None:
    cell = Cell()
    cell.answer(None, ValueError("x"))
    assert cell.run.wait(0)
    assert (cell.run.counts(), cell.run.is_system) == (Counts(0, 0, 0, 1, 0), False)


def test_one_that_gives_a_system_ends_with_what_that_gives_even_if_it_is_a_system() -> None:
    cell, system, inner = Cell(), ITaskSystem(), ITaskSystem()
    cell.answer(system)
    assert (cell.pushed, cell.run.wait(0), cell.run.is_system) == ([system], False, True)
    cell.run.id = JobId(b"\2" * 16)
    cell.handle = cell.run._new_handle(0)
    assert cell.handle is cell.future
    assert cell.future.job_id == cell.run.id
    cell.run._task_noted(0, [COUNTS])
    assert cell.run.counts() == Counts(4, 2, 3, 1, 0)
    cell.answer(inner)
    assert (cell.pushed, cell.run.result(0)) == ([system], inner)


def test_one_that_was_cancelled_pushes_no_system() -> None:
    by_job, by_future = Cell(), Cell()
    assert not by_job.run.was_cancelled()
    by_job.run.cancel()
    assert by_job.run.was_cancelled()
    by_future.future.cancel()
    assert by_future.run.was_cancelled()
    by_future.answer(ITaskSystem())
    assert by_future.future.cancelled()
