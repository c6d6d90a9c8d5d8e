"""Work as objects: tasks, and task systems that live beside the master and orchestrate themselves.

    class Squares(ITaskSystem):
        def init_system(self, master): self.total = 0
        def generate_tasks(self, master): return (Square(n) for n in range(100))
        def task_finished(self, master, task, result, error): self.total += result
        def gather_result(self, master): return self.total

    app.push_tasksystem(Squares()).result()

A system is pickled and runs in a process of its own in the cluster; its result is what `gather_result` returns. The
names and the order of the calls are those of the thesis; methods marked as optional may be left out.
"""

import logging
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

R_co = TypeVar("R_co", covariant=True)


class Task:
    """A piece of work as an object. A subclass implements the work in `__call__`.

    A copy of the object is sent to a slave and called there, and its result is sent back; the object that was pushed
    stays where it is, and is what `finished` and the callbacks get.

    Args:
        name: a name for people.
        system_id: id of the task system that it belongs to, "" for a task of an application.
        client_id: id of the application, set when it is pushed.
    """

    name: str = ""
    system_id: str = ""
    client_id: str = ""
    task_id: str = ""  #: set when it is pushed
    slave_id: str = ""  #: name of the slave where it ran, once it has ended

    def __init__(self, name: str = "", system_id: str = "", client_id: str = "") -> None:
        self.name = name
        self.system_id = system_id
        self.client_id = client_id

    def __call__(self) -> Any:
        """Do the work, on a slave, and return the result. Must be overridden."""
        raise NotImplementedError(f"{type(self).__name__} has no work: give it a method __call__")

    def finished(self, result: Any, error: BaseException | None) -> None:
        """Handle the end of the task, on the side that pushed it, before the system's `task_finished`. Optional."""

    def clean_up(self) -> None:
        """Clean up on the slave, after `__call__` and before the result is sent, also after an error. Optional."""


class TaskOf(Protocol[R_co]):
    """A Task whose `__call__` returns an R; for type checkers only."""

    task_id: str

    def __call__(self) -> R_co:
        """Do the work."""

    def finished(self, result: Any, error: BaseException | None) -> None:
        """Handle the end of the task."""

    def clean_up(self) -> None:
        """Clean up."""


class MasterHandle(Protocol):
    """The `master` argument of a task system's methods: its access to the cluster."""

    def push_task(self, task: Task) -> None:
        """Run one more task. `task_finished` is called when it has ended."""

    def push_tasks(self, tasks: Iterable[Task]) -> None:
        """Run more tasks. An iterator is read only as fast as tasks end."""

    def cancel(self, tasks: Iterable[Task] | None = None) -> None:
        """Cancel tasks, running ones too, or all (None). `task_finished` is not called for cancelled tasks."""

    def stats(self) -> dict[str, Any]:
        """Return the progress of the system.

        Numbers of tasks: `pushed`, `unfinished` (of these `waiting` and `running`; a task counts as running when it has
        run for a while), `done`, `failed`, `cancelled`. `exhausted`: no iterator is left to be read; `elapsed_s`;
        `stage` ("preparing", "running", "gathering"); `phases`: the same numbers for each phase. Tasks of
        `generate_tasks` are of phase 1; tasks pushed because of a task of phase n are of phase n + 1.
        """

    def log(self, message: str) -> None:
        """Show a line in the cell, or on the terminal, that waits for the system."""

    def status(self) -> dict[str, Any]:
        """Return the cluster's slaves, clients and task counts, as `ApplicationNode.status` does."""


class ITaskSystem:
    """Base class of task systems, which orchestrate their own tasks. All methods run in one thread, one at a time.

    The order of calls: `init_system`, `generate_tasks`; then for each task that ends `task_finished`, until
    `is_complete` is true; then `gather_result`. `is_complete` is called after `generate_tasks`, after each
    `task_finished`, and when no task is left: a system that is not complete then ends with SystemStalled. Completion
    ends the system immediately: waiting tasks are cancelled, running ones are stopped. An exception in a method ends
    the system with that error.

    Of several sources of tasks (a generator, an iterable from `task_finished`, ...) the newest is read first. If the
    process in which a system runs dies, the system is run again from its start, like any task.
    """

    system_id: str = ""  #: set when it is pushed

    @property
    def log(self) -> logging.Logger:
        """A logger whose lines are shown in the cell, or on the terminal, that waits for the system."""
        return logging.getLogger(f"concurrent_nb.system.{self.system_id or type(self).__name__}")

    def init_system(self, master: MasterHandle) -> None:
        """Prepare, in the cluster, before the first task. Optional."""

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        """Return the first tasks: a list, or a generator, which is read only as fast as tasks end."""
        raise NotImplementedError(f"{type(self).__name__} has no tasks: give it a method generate_tasks")

    def task_finished(
        self, master: MasterHandle, task: Task, result: Any, error: BaseException | None
    ) -> Iterable[Task] | None:
        """Handle a task's result, or the error that it ended with. May return more tasks. Optional.

        Unless it is overridden, the first error ends the system.
        """
        if error is not None:
            raise error
        return None

    def is_complete(self, master: MasterHandle) -> bool:
        """Return whether the result can be gathered. By default: whether every task has ended and none is to come."""
        stats = master.stats()
        return bool(stats["exhausted"] and not stats["unfinished"])

    def gather_result(self, master: MasterHandle) -> Any:
        """Return the system's result. Optional; by default None."""
        return None
