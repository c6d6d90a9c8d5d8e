"""Handles that are no futures pass the reports of their task on."""

from concurrent.futures import CancelledError
from queue import SimpleQueue

import pytest

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.system_job import CellRun
from concurrent_nb.nodes.worker.system_host import _SystemTaskHandle
from concurrent_nb.outcome import Status
from concurrent_nb.tasks.system_driver import Event, SystemTaskEnded, SystemTaskRunning

ID = JobId(b"\1" * 16)


def test_a_system_learns_that_a_task_runs_and_how_it_ends() -> None:
    inbox: SimpleQueue[Event] = SimpleQueue()
    handle = _SystemTaskHandle(ID, 3, lambda job, indexes: None, inbox)
    handle.note_running("north")
    handle.set_outcome(7, None, None)
    assert inbox.get_nowait() == SystemTaskRunning(3)
    assert inbox.get_nowait() == SystemTaskEnded(3, 7, None, "north")
    error = ValueError("no")
    handle.end(None, error)
    assert error.__notes__ == ["task 3 of the system, on slave north"]
    assert inbox.get_nowait() == SystemTaskEnded(3, None, error, "north")
    handle.end_cancelled()
    ended = inbox.get_nowait()
    assert isinstance(ended, SystemTaskEnded) and isinstance(ended.error, CancelledError)
    assert inbox.empty()


def test_cancelling_a_task_of_a_system_asks_the_cluster() -> None:
    asked: list[object] = []
    handle = _SystemTaskHandle(ID, 3, lambda job, indexes: asked.append((job, indexes)), SimpleQueue())
    assert not handle.cancel()
    assert (asked, handle.cancelled()) == ([(ID, (3,))], False)


def test_the_task_of_a_cell_ends_the_future_of_its_job() -> None:
    run = CellRun(ID, "In[1]", lambda job, indexes: None, False, False, lambda run, system: None)
    handle, (future,) = run._new_handle(0), run.futures
    shown: list[object] = []
    handle.note_running("north")
    assert future.running() and not handle.cancelled() and handle.task == future.task
    handle.slave, handle.worker, handle.attempt, handle.elapsed_s, handle.status = "north", 7, 2, 0.5, Status.ERROR
    handle.set_outcome(None, ValueError("no"), lambda ended, error: shown.append((ended, str(error))))
    assert (future.slave, future.worker, future.attempt, future.elapsed_s) == ("north", 7, 2, 0.5)
    assert (future.status, shown, run.slaves) == (Status.ERROR, [(future, "no")], {"north"})
    with pytest.raises(ValueError, match="no"):
        run.result(0)
    assert not handle.cancel()
