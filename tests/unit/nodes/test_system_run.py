"""What an application is told of its task system, and what it makes of it."""

from typing import Any

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.futures import Counts, TaskFuture, TaskNote
from concurrent_nb.nodes.system_run import SystemRun
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.notes import Display, PhaseCounts, SystemCounts

COUNTS = SystemCounts("running", 10, 6, 4, 2, 3, 1, 0, False, 1.5, [PhaseCounts(1, 10, 6, 3, 1, 0)])


def a_run(**options: Any) -> SystemRun:
    run = SystemRun(JobId(b"\1" * 16), "In[1]", lambda job, indexes: None, **options)
    run.futures = [TaskFuture(run.id, 0, lambda job, indexes: None, run)]
    return run


def test_it_has_nothing_to_tell_before_its_host_has_said_something() -> None:
    run = a_run()
    assert run.counts() == Counts(0, 0, 0, 0, 0)
    assert run.stats()["stage"] == "waiting"


def test_its_counts_are_those_of_the_systems_tasks() -> None:
    run = a_run()
    run.task_said(0, [COUNTS])
    assert run.counts() == Counts(4, 2, 3, 1, 0)
    assert run.stats()["phases"] == [
        {"number": 1, "pushed": 10, "unfinished": 6, "done": 3, "failed": 1, "cancelled": 0}
    ]
    assert run.take_notes() == []


def test_who_watches_it_gets_the_notes_too() -> None:
    run = a_run(watched=True)
    run.task_said(0, [COUNTS])
    assert run.take_notes() == [TaskNote(0, COUNTS)]


def test_when_it_is_over_what_had_not_ended_is_cancelled() -> None:
    run = a_run()
    run.task_said(0, [COUNTS])
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
        run.task_said(0, [Display({"text/plain": "x"})])
        assert len(run.take_output()) == kept
