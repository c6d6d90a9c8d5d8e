"""Work as objects: tasks, and task systems that live beside the master and orchestrate themselves.

    class Squares(ITaskSystem):
        def init_system(self, master): self.total = 0
        def generate_tasks(self, master): return (Square(n) for n in range(100))
        def task_finished(self, master, task, result, error): self.total += result
        def gather_result(self, master): return self.total

    app.push_tasksystem(Squares()).result()

A system is pickled, runs in a process of its own in the cluster, and answers once: with what `gather_result` gives.
The names and the order of the calls are those of the thesis; what one does not need may be left out.
"""

import logging
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

R_co = TypeVar("R_co", covariant=True)


class Task:
    """A piece of work as an object. A subclass says what to do in `__call__`.

    The object travels to a slave, is called there, and its result travels back; the object that was pushed stays where
    it is, and is what `finished` and the callbacks get.

    Args:
        name: for people.
        system_id: id of the task system that it belongs to, "" for a task of an application.
        client_id: id of the application, filled in when it is pushed.
    """

    name: str = ""
    system_id: str = ""
    client_id: str = ""
    task_id: str = ""  #: given when it is pushed
    slave_id: str = ""  #: name of the slave where it ran, once it has ended

    def __init__(self, name: str = "", system_id: str = "", client_id: str = "") -> None:
        self.name = name
        self.system_id = system_id
        self.client_id = client_id

    def __call__(self) -> Any:
        """Do the work, on a slave; what is returned is the result. To be overridden."""
        raise NotImplementedError(f"{type(self).__name__} does not say what to do: give it a method __call__")

    def finished(self, result: Any, error: BaseException | None) -> None:
        """Learn the end, on the side that pushed the task: before the system's `task_finished`. Optional."""

    def clean_up(self) -> None:
        """Tidy up on the slave, after `__call__` and before the result travels, also after an error. Optional."""


class TaskOf(Protocol[R_co]):
    """A Task whose `__call__` returns an R: for types only."""

    task_id: str

    def __call__(self) -> R_co:
        """Do the work."""

    def finished(self, result: Any, error: BaseException | None) -> None:
        """Learn the end."""

    def clean_up(self) -> None:
        """Tidy up."""


class MasterHandle(Protocol):
    """What a task system is given as `master`: its way to the cluster."""

    def push_task(self, task: Task) -> None:
        """Run one more task. It ends in `task_finished`."""

    def push_tasks(self, tasks: Iterable[Task]) -> None:
        """Run more tasks; an iterator is read only as fast as there is room."""

    def cancel(self, tasks: Iterable[Task] | None = None) -> None:
        """Cancel tasks, running ones too, or all (None). Cancelled tasks do not come to `task_finished`."""

    def stats(self) -> dict[str, Any]:
        """Tell how far the system is.

        Numbers of tasks: `pushed`, `unfinished` (of these `waiting` and `running`, which is told of those that have run
        for a while), `done`, `failed`, `cancelled`; `exhausted`: nothing is left to be read; `elapsed_s`; `stage`
        ("preparing", "running", "gathering"); `phases`: the same numbers for each phase. Tasks of `generate_tasks` are
        phase 1; what comes of a task of phase n is of phase n + 1.
        """

    def log(self, message: str) -> None:
        """Show a line in the cell, or on the terminal, that waits for the system."""

    def status(self) -> dict[str, Any]:
        """Ask the master what there is: slaves, clients, tasks."""


class ITaskSystem:
    """Base of task systems: an orchestrator of its own tasks. All methods run in one thread, one at a time.

    The order of calls: `init_system`, `generate_tasks`; then for each task that ends `task_finished`, until
    `is_complete` is true; then `gather_result`. `is_complete` is asked after `generate_tasks`, after each
    `task_finished`, and when no task is left: a system that is not complete then ends with SystemStalled. Completion
    ends the system at once: what waits is cancelled, what runs is stopped. What a method raises ends the system with
    that error.

    Of several sources of tasks (a generator, what `task_finished` returned, ...) the one that came last is read first.
    If the process in which a system runs dies, the system is run again from its start, as any task is.
    """

    system_id: str = ""  #: given when it is pushed

    @property
    def log(self) -> logging.Logger:
        """A logger whose lines are shown in the cell, or on the terminal, that waits for the system."""
        return logging.getLogger(f"concurrent_nb.system.{self.system_id or type(self).__name__}")

    def init_system(self, master: MasterHandle) -> None:
        """Prepare, in the cluster, before the first task. Optional."""

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        """Give the first tasks: a list, or a generator, which is read only as fast as there is room."""
        raise NotImplementedError(f"{type(self).__name__} has no tasks: give it a method generate_tasks")

    def task_finished(
        self, master: MasterHandle, task: Task, result: Any, error: BaseException | None
    ) -> Iterable[Task] | None:
        """Take a result, or the error that a task ended with. Returns more tasks, if there are any. Optional.

        Unless it is overridden, the first error ends the system.
        """
        if error is not None:
            raise error
        return None

    def is_complete(self, master: MasterHandle) -> bool:
        """Say whether the result can be gathered. Unless overridden: when every task has ended and none is to come."""
        stats = master.stats()
        return bool(stats["exhausted"] and not stats["unfinished"])

    def gather_result(self, master: MasterHandle) -> Any:
        """Give the system's result. Optional: None."""
        return None
