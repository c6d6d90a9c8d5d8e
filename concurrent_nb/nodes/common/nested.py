"""Applications in tasks: what the process of a task gives to the layers above. Set by workers only.

A task may submit tasks to its own cluster and wait for them, and they may need the slot of their own task. So the
applications of a worker report with every turn of their loops whether they have unanswered tasks: the slave then lets
another worker use the slot (workers/slave_side/pool_scheduler/). A thread that waits for such tasks also runs those
that have not started (nodes/worker/waiting_here.py).
"""

import threading
from collections.abc import Callable
from typing import Any, Final, Protocol


class Waiting(Protocol):
    """Waits for tasks as `nodes.worker.waiting_here.WaitingThreads` does."""

    def for_future(self, future: Any, timeout_s: float | None) -> float | None:
        """Wait for the end of a task; return how much of `timeout_s` is left."""

    def for_job(self, job: Any, is_over: Callable[[], bool], timeout_s: float | None) -> None:
        """Wait until something `is_over` that tasks of a job end, at most `timeout_s` seconds."""

    def waiters_of(self, future: Any) -> list[Any]:
        """Return a list for those who wait for a future with functions of `concurrent.futures`."""


#: called with an application, and whether it has unanswered tasks; None in a process that runs no tasks
note_blocked: Callable[[object, bool], None] | None = None

#: returns the application that the running task belongs to, and raises ConfigurationError if no task runs in this
#: thread; None in a process that runs no tasks
application_of_task: Callable[[], Any] | None = None

#: what threads wait with for tasks; None: without running any
waiting: Waiting | None = None


class _TaskThread(threading.local):
    """What is known of this thread, in a process that is no worker."""

    #: tasks run in it, on the engine of this name, which gives them no application
    engine = ""


THREAD: Final = _TaskThread()


def no_application(engine: str) -> str:
    """Return why tasks on an engine have no application, and what to do. "": on one whose name is not known here."""
    where = f"the engine {engine!r}" if engine else "an engine (Dask, Ray or an executor)"
    return (
        f"this task has no application, and can start no tasks: it runs on {where}. Run it on a cluster, whose tasks"
        " can: concurrent_nb.Cluster(), or slaves inside of Dask's or Ray's workers with Cluster(on='dask://HOST:PORT')"
        " and `%concurrent start --on dask://HOST:PORT`"
    )
