"""Work as objects: tasks, and task systems, which orchestrate their own tasks in the cluster.

    class Squares(ITaskSystem):
        def init_system(self, master): self.total = 0
        def generate_tasks(self, master): return (Square(n) for n in range(100))
        def task_finished(self, master, task, result, error): self.total += result
        def gather_result(self, master): return self.total

    app.push_tasksystem(Squares()).result()

A system is pickled and runs in a process of its own in the cluster. Its result is what `gather_result` returns. The
names and the order of the calls are those of the thesis; methods that a system does not need may be left out.
"""

import logging
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

R_co = TypeVar("R_co", covariant=True)


class Task:
    """A piece of work as an object. A subclass defines `__call__`.

    >>> class Square(concurrent_nb.Task):
    ...     def __init__(self, n):
    ...         super().__init__(name=f"square of {n}")
    ...         self.n = n
    ...     def __call__(self):
    ...         return self.n ** 2
    >>> app.push_task(Square(7)).result()
    49

    A copy of the object travels to a worker and is called there; its result travels back. The object that was pushed
    stays here: its `finished` is called with the result, and callbacks receive it.

    Args:
        name: a name for people.
        system_id: id of the task system that it belongs to, "" for a task of an application.
        client_id: id of the application; set when it is pushed.

    `task_id` is set when the task is pushed, `slave_id` when it has ended.
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
        """Do the work, in a worker; the return value is the result. Must be overridden."""
        raise NotImplementedError(f"{type(self).__name__} has no work: give it a method __call__")

    def finished(self, result: Any, error: BaseException | None) -> None:
        """Receive the result or the error, in the process that pushed the task. May be overridden."""

    def clean_up(self) -> None:
        """Release resources in the worker, after `__call__` and before the result travels, also after an error. May be
        overridden."""


class TaskOf(Protocol[R_co]):
    """A Task whose `__call__` returns an R. For types only."""

    task_id: str

    def __call__(self) -> R_co:
        """Do the work."""

    def finished(self, result: Any, error: BaseException | None) -> None:
        """Receive the result or the error."""

    def clean_up(self) -> None:
        """Release resources."""


class MasterHandle(Protocol):
    """What a task system receives as `master`: its access to the cluster."""

    def push_task(self, task: Task) -> None:
        """Run one more task. Its end is reported to `task_finished`."""

    def push_tasks(self, tasks: Iterable[Task]) -> None:
        """Run more tasks. An iterator is read only as fast as tasks end."""

    def cancel(self, tasks: Iterable[Task] | None = None) -> None:
        """Cancel tasks, running ones too, or all (None). Their end is not reported to `task_finished`."""

    def stats(self) -> dict[str, Any]:
        """Return the progress of the system.

        Numbers of tasks: `pushed`, `unfinished` (of these `waiting` and `running`; only tasks that have run for a while
        are reported as running), `done`, `failed`, `cancelled`. `exhausted`: no more tasks can be read. `elapsed_s`.
        `stage`: "preparing", "running" or "gathering". `phases`: the same numbers for each phase. Tasks of
        `generate_tasks` are phase 1; tasks that the end of a task of phase n leads to are phase n + 1. `values`: what
        tasks have added to `concurrent_nb.stats`, as statistics by name.
        """

    def log(self, message: str) -> None:
        """Show a line in the cell, or on the terminal, that waits for the system."""

    def status(self) -> dict[str, Any]:
        """Return the cluster's slaves, applications (`clients`) and task counts."""


class ITaskSystem:
    """Base class of task systems: an object that runs in the cluster and orchestrates its own tasks.

    >>> class Square(concurrent_nb.Task):
    ...     def __init__(self, n):
    ...         super().__init__()
    ...         self.n = n
    ...     def __call__(self):
    ...         return self.n ** 2
    >>> class SumOfSquares(concurrent_nb.ITaskSystem):
    ...     def init_system(self, master):
    ...         self.total = 0
    ...     def generate_tasks(self, master):
    ...         return (Square(n) for n in range(10))
    ...     def task_finished(self, master, task, result, error):
    ...         self.total += result
    ...     def gather_result(self, master):
    ...         return self.total
    >>> app.push_tasksystem(SumOfSquares()).result()
    285

    All methods are called in one thread, one at a time, in this order: `init_system`, `generate_tasks`; then
    `task_finished` for each task that ends, until `is_complete` returns True; then `gather_result`. Only
    `generate_tasks` must be defined.

    `is_complete` is called after `generate_tasks`, after each `task_finished`, and when no task is left; if it returns
    False then, the system ends with SystemStalled. When the system is complete, waiting tasks are cancelled and running
    ones stopped. An exception of a method ends the system with that exception.

    Tasks that `task_finished` returns run before the rest of `generate_tasks`, which has not been read yet: of several
    sources of tasks, the newest is read first. If the process in which the system runs dies, the system runs again from
    its start, as any task does.
    """

    system_id: str = ""  #: set when it is pushed

    @property
    def log(self) -> logging.Logger:
        """A logger whose lines are shown in the cell, or on the terminal, that waits for the system."""
        return logging.getLogger(f"concurrent_nb.system.{self.system_id or type(self).__name__}")

    def init_system(self, master: MasterHandle) -> None:
        """Prepare, in the cluster, before the first task. May be overridden."""

    def generate_tasks(self, master: MasterHandle) -> Iterable[Task]:
        """Return the first tasks: a list, or a generator, which is read only as fast as there is room. Must be
        overridden."""
        raise NotImplementedError(f"{type(self).__name__} has no tasks: give it a method generate_tasks")

    def task_finished(
        self, master: MasterHandle, task: Task, result: Any, error: BaseException | None
    ) -> Iterable[Task] | None:
        """Receive the result of a task, or its error; return more tasks, or None. May be overridden.

        Unless it is overridden, the first error ends the system.
        """
        if error is not None:
            raise error
        return None

    def is_complete(self, master: MasterHandle) -> bool:
        """Return whether the result can be gathered: by default, when all tasks have ended and no more will come."""
        stats = master.stats()
        return bool(stats["exhausted"] and not stats["unfinished"])

    def gather_result(self, master: MasterHandle) -> Any:
        """Return the system's result. By default None."""
        return None
