"""The base class of the samples, and three ways to run the same tasks.

system        the application sends a task system, which makes the tasks on the cluster and combines their results
all-at-once   the application sends all tasks, and combines the results
one-by-one    the application sends each task when it has the result of the task before
"""

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait
from typing import Any, ClassVar, Final

from concurrent_nb.api import ApplicationNode
from concurrent_nb.components.core import Component, ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.tasks.system import ITaskSystem, Task

Show = Callable[[str], None]

#: seconds between two progress lines of a task system
POLL_S: Final = 0.1


class Sample(Component):
    """Base class of the samples: defines the tasks, and how their results are combined."""

    #: the ways in which it can run, the best one first
    ways: ClassVar[tuple[str, ...]] = ("system", "all-at-once", "one-by-one")
    #: packages that it needs, on which concurrent_nb does not depend
    packages: ClassVar[tuple[str, ...]] = ()

    def __init__(self, manager: ComponentManager) -> None:
        super().__init__(manager)
        self.require(*self.packages)

    def require(self, *packages: str) -> None:
        """Raise ConfigurationError unless these packages are installed."""
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            raise ConfigurationError(
                f"{type(self).__name__} needs {' and '.join(missing)}: pip install 'concurrent-nb[samples]'"
            )

    @property
    def count(self) -> int:
        """Return the number of tasks."""
        raise NotImplementedError

    def tasks(self) -> Iterator[Task]:
        """Yield the tasks, for an application that pushes them itself."""
        raise NotImplementedError

    def gather(self, results: Iterable[Any]) -> Any:
        """Combine the results, which arrive in any order. If it stops reading them, the other tasks are cancelled."""
        raise NotImplementedError

    def system(self) -> ITaskSystem:
        """Return the task system, which makes the tasks and combines their results."""
        raise NotImplementedError

    def describe(self, answer: Any, elapsed_s: float) -> str:
        """Return a text about the answer and the time in seconds that it took."""
        raise NotImplementedError

    def run(self, app: ApplicationNode, way: str, show: Show) -> str:
        """Run on a cluster, in one of the `ways`; return the text to print.

        Args:
            show: called from time to time with a progress line.
        """
        began = time.perf_counter()
        answer = self.answer(app, way, show)
        return self.describe(answer, time.perf_counter() - began)

    def answer(self, app: ApplicationNode, way: str, show: Show = lambda line: None) -> Any:
        """Run as `run` does, but return the answer itself. Raises ConfigurationError for an unknown way."""
        self.check_way(way)
        if way == "system":
            return _in_the_cluster(app, self.system(), self.count, show)
        results = {"all-at-once": _all_at_once, "one-by-one": _one_by_one}[way](app, self.tasks())
        return self.gather(_counted(results, self.count, show))

    def check_way(self, way: str) -> None:
        """Raise ConfigurationError unless it can run so."""
        if way not in self.ways:
            raise ConfigurationError(
                f"{type(self).__name__} cannot run as {way!r}: choose one of {', '.join(self.ways)}"
            )


def _in_the_cluster(app: ApplicationNode, system: ITaskSystem, count: int, show: Show) -> Any:
    """Run a task system; return its result."""
    run = app.push_tasksystem(system)
    while wait(run.futures, POLL_S).not_done:  # not run.wait, which shows a bar of its own
        show(f"{run.counts().done} of {count} tasks done")
    return run.result()


def _all_at_once(app: ApplicationNode, tasks: Iterator[Task]) -> Iterator[Any]:
    """Push all tasks, then yield their results as they arrive; cancel the job when the caller stops reading."""
    job = app.push_tasks(tasks)
    try:
        for future in job.as_completed():
            yield future.result()
    finally:
        job.cancel()


def _one_by_one(app: ApplicationNode, tasks: Iterator[Task]) -> Iterator[Any]:
    """Yield the results of tasks, each of which is pushed when the previous result has been read."""
    return (app.push_task(task).result() for task in tasks)


def _counted(results: Iterator[Any], count: int, show: Show) -> Iterator[Any]:
    """Yield results, and show how many have arrived."""
    for done, result in enumerate(results, 1):
        show(f"{done} of {count} tasks done")
        yield result
