"""The application of a worker's tasks. A composition root, as the system host is.

    task: concurrent_nb.application() --> TaskApplications.of --> ApplicationNode --a client--> master

It is made when a task first asks for it, and registers with a key of its own, as an application in this task: the
master takes its jobs for those of the task's owner. It is kept for the next tasks of the same owner, because
registering takes several milliseconds. What a task leaves unfinished ends with the task.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from concurrent_nb.errors import AccessRefused, ClusterError, ConfigurationError, ProtocolError, TooLarge
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.inside_task import InsideTask
from concurrent_nb.nodes.application.kept_tasks import KeptTasks
from concurrent_nb.nodes.application.node import ApplicationNode
from concurrent_nb.nodes.common import nested
from concurrent_nb.nodes.worker.run_here import HereRunner, OpenFunction
from concurrent_nb.nodes.worker.waiting_here import WaitingHere, WaitingThreads, nesting_max
from concurrent_nb.shipping.environment.entering import Environments
from concurrent_nb.shipping.environment.envelope import EnvironmentSource
from concurrent_nb.shipping.runtime import notes
from concurrent_nb.transport import connection_file, keys

#: of so many jobs it is remembered that they belong to the owner
JOBS_MAX: Final = 1000


class TaskApplications:
    """Gives the tasks of one thread their application, one task after the other.

    Args:
        environment: the environment source of the tasks' own tasks.
        environments: of this process.
        open_function: unpickles functions.
        note_blocked: called with an application and whether it has unanswered tasks.
        is_thread: tasks of other threads run in this process, too.
        thread: in which the tasks run.
    """

    def __init__(
        self,
        environment: EnvironmentSource,
        environments: Environments,
        open_function: OpenFunction,
        note_blocked: Callable[[object, bool], None],
        is_thread: bool,
        thread: int,
    ) -> None:
        self._lock = threading.RLock()  # threads of a task may ask at the same time
        self._thread = thread
        self._environment = environment
        self._environments = environments
        self._open_function = open_function
        self._note_blocked = note_blocked
        self._is_thread = is_thread
        self._waiting = _waiting_threads()
        self._sink = notes.sink()
        self._app: ApplicationNode | None = None
        self._inside: InsideTask | None = None
        self._where = ""
        self._jobs: set[JobId] = set()  # that belong to the same owner as the application
        self._task: tuple[JobId, int] | None = None  # the one that has asked last, while it runs

    def of(self, where: str, slave: str, job: JobId, index: int) -> ApplicationNode:
        """Return the application of the running task.

        Args:
            where: path of the cluster's connection file, or its content in one line.
            slave: name of the slave.
            job, index: the task.

        Raises:
            ConfigurationError: there is no connection file.
            AccessRefused: the task has been cancelled meanwhile.
            MasterUnreachable, ClusterNotFound: the cluster is gone.
        """
        with self._lock:
            return self._of(where, slave, job, index)

    def _of(self, where: str, slave: str, job: JobId, index: int) -> ApplicationNode:
        app = self._app
        if app is not None and (app.is_closed or app._has_left or not self._fits(app, where, job, index)):
            self.close()
        if self._app is None:
            self._app = self._connected(where, slave, job, index)
            self._jobs = {job}
        assert self._inside is not None
        self._inside.job, self._inside.index = job, index
        self._task = job, index
        return self._app

    def task_ended(self) -> None:
        """End what the task has left unfinished."""
        if self._task is not None:
            if self._app is not None and self._app._is_like_new():
                self._app.renew_submits()
            else:
                self.close()
            self._task = None  # last, because an interrupt may be raised before

    def close(self) -> None:
        """Leave the cluster, which cancels what is unfinished."""
        app, self._app = self._app, None
        self._jobs.clear()
        self._waiting.use(self._thread, None)
        if app is not None and not app._has_left:
            app._quit()

    def threads(self) -> frozenset[threading.Thread]:
        """Return the threads of the application."""
        if self._app is None:
            return frozenset()
        prefix = f"concurrent_nb {self._app.name}"
        return frozenset(thread for thread in threading.enumerate() if thread.name.startswith(prefix))

    def _connected(self, where: str, slave: str, job: JobId, index: int) -> ApplicationNode:
        if not where:
            raise ConfigurationError(nested.no_application(""))
        self._inside = InsideTask(job, index, self._environment)
        self._where = where
        name = f"tasks in worker {os.getpid()}.{threading.get_native_id()}"
        is_content = where.startswith("{")
        source = connection_file.parse(where.encode(), "what the slave has been given") if is_content else Path(where)
        app = ApplicationNode(source, keys.fresh(), name, inside=self._inside)
        app.present_displays(self._forward_display)
        client_thread = app._client_thread
        client_thread.streams.task_measured = self._sink.put_progress
        client_thread.kept = KeptTasks()
        client_thread.note_blocked = self._note_blocked
        runner = HereRunner(self._environments, self._open_function, client_thread.store, self._is_thread)
        nesting = nesting_max(is_thread=self._is_thread)
        self._waiting.use(self._thread, WaitingHere(client_thread.kept, client_thread, runner, slave, nesting))
        return app

    def _fits(self, app: ApplicationNode, where: str, job: JobId, index: int) -> bool:
        """Return whether an application is this task's, or can be its: no other task has it."""
        if self._task is not None:
            return self._task == (job, index)
        return where == self._where and self._belongs_to_owner(app, job)

    def _belongs_to_owner(self, app: ApplicationNode, job: JobId) -> bool:
        """Return whether a task of this job has the same owner as the tasks before."""
        if job in self._jobs:
            return True
        with contextlib.suppress(ClusterError, ProtocolError, AccessRefused, OSError):  # then it registers anew
            if app._owns_job(job):
                if len(self._jobs) >= JOBS_MAX:
                    self._jobs.clear()
                self._jobs.add(job)
                return True
        return False

    def _forward_display(self, display: notes.Display) -> None:
        """Show what a task's task displays where the task's own displays are shown."""
        try:
            self._sink.put(display)
        except TooLarge as error:
            print(f"what tasks of this task display is not shown any more: {error}")  # noqa: T201  (in the task's output)


def _waiting_threads() -> WaitingThreads:
    """Return what the threads of this process wait with."""
    if not isinstance(nested.waiting, WaitingThreads):
        nested.waiting = WaitingThreads()
    return nested.waiting
