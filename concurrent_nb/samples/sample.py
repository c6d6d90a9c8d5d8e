"""What the samples share: three ways to have the same tasks done.

system        the application sends one object, which makes the tasks beside the master and gathers what they give
batch         the application sends all tasks at once, and gathers
one-by-one    the application sends each task when it has the answer to the one before
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Final

from concurrent_nb.api import ApplicationNode
from concurrent_nb.components.core import Component
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.tasks.system import ITaskSystem, Task

Show = Callable[[str], None]

#: seconds between two looks at how far a task system is
POLL_S: Final = 0.1


class Sample(Component):
    """Base of the samples: says what the tasks are, and what becomes of their results."""

    #: the ways in which it can run, the best first
    ways: ClassVar[tuple[str, ...]] = ("system", "batch", "one-by-one")

    @property
    def count(self) -> int:
        """How many tasks there are."""
        raise NotImplementedError

    def tasks(self) -> Iterator[Task]:
        """Make the tasks, for an application that pushes them itself."""
        raise NotImplementedError

    def gather(self, results: Iterable[Any]) -> Any:
        """Give the answer that the results make, which come in any order. To stop reading them ends the rest."""
        raise NotImplementedError

    def system(self) -> ITaskSystem:
        """Make the task system, which does all that by itself."""
        raise NotImplementedError

    def describe(self, answer: Any, elapsed_s: float) -> str:
        """Say in words what came out, after how many seconds."""
        raise NotImplementedError

    def run(self, app: ApplicationNode, way: str, show: Show) -> str:
        """Run on a cluster, in one of the `ways`; return what there is to say about it.

        Args:
            show: called now and then with a line that tells how far it is.
        """
        began = time.perf_counter()
        answer = self.answer(app, way, show)
        return self.describe(answer, time.perf_counter() - began)

    def answer(self, app: ApplicationNode, way: str, show: Show = lambda line: None) -> Any:
        """Run, as `run`, but return the answer itself. Raises ConfigurationError for a way that there is not."""
        if way not in self.ways:
            raise ConfigurationError(
                f"{type(self).__name__} cannot run as {way!r}: choose one of {', '.join(self.ways)}"
            )
        if way == "system":
            return _in_the_cluster(app, self.system(), self.count, show)
        results = {"batch": _all_at_once, "one-by-one": _one_by_one}[way](app, self.tasks())
        return self.gather(_counted(results, self.count, show))


def _in_the_cluster(app: ApplicationNode, system: ITaskSystem, count: int, show: Show) -> Any:
    """Give the result of a task system."""
    run = app.push_tasksystem(system)
    while not run.wait(POLL_S):
        show(f"{run.counts().done} of {count} tasks done")
    return run.result()


def _all_at_once(app: ApplicationNode, tasks: Iterator[Task]) -> Iterator[Any]:
    """Give the results of tasks as they come, all pushed before the first is taken; what is not taken is cancelled."""
    job = app.push_tasks(tasks)
    try:
        for future in job.as_completed():
            yield future.result()
    finally:
        job.cancel()


def _one_by_one(app: ApplicationNode, tasks: Iterator[Task]) -> Iterator[Any]:
    """Give the results of tasks, each pushed when the result before has been taken."""
    return (app.push_task(task).result() for task in tasks)


def _counted(results: Iterator[Any], count: int, show: Show) -> Iterator[Any]:
    """Give results on, and show how many there have been."""
    for done, result in enumerate(results, 1):
        show(f"{done} of {count} tasks done")
        yield result
