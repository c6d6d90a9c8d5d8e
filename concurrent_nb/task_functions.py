"""Task functions: a function that runs here when it is called, and on the cluster when it is submitted or mapped.

    @concurrent_nb.task
    def square(x): return x * x

    square(3)                   # here
    square.submit(3).result()   # on the cluster
    square.map(range(100)).results()

Which cluster: the notebook's; elsewhere an embedded one, which the first use starts and the end of the program ends.
"""

import functools
import inspect
import reprlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Generic, ParamSpec, TypeVar

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.job import Job
from concurrent_nb.nodes.application.node import ApplicationNode
from concurrent_nb.nodes.application.task_options import options_of
from concurrent_nb.nodes.cluster import Cluster
from concurrent_nb.shipping.runtime.notes import sink
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.wire.messages import Needs

P = ParamSpec("P")
R = TypeVar("R")


class TaskFunction(Generic[P, R]):
    """A function that can also run on the cluster. Made by `task` and by cells that define functions.

    Args:
        function: what to run. It travels to the cluster by itself, so what it uses has to be able to travel.
        needs: what each task of it needs; None: what the function says, which mostly is a slot of a slave.
    """

    def __init__(self, function: Callable[P, R], needs: Needs | None = None) -> None:
        if isinstance(function, TaskFunction):
            raise ConfigurationError(f"{function!r} is one already")
        if not callable(function):
            raise ConfigurationError(f"a task function needs a function, not a {type(function).__name__}")
        functools.update_wrapper(self, function)
        self.function = function
        self.task_needs: Needs | None = getattr(function, "task_needs", None) if needs is None else needs
        self._options = options_of(None, 0, self.task_needs, "", None)

    def options(
        self,
        *,
        timeout_s: float | None = None,
        retries: int = 0,
        needs: Needs | None = None,
        name: str = "",
        strategy: str | None = None,
    ) -> "TaskFunction[P, R]":
        """Give this function with options for its tasks, as of `ApplicationNode.options`; it itself has none.

        >>> square.options(timeout_s=10, retries=2).map(range(100))                     # doctest: +SKIP
        """
        function = TaskFunction(self.function, self.task_needs if needs is None else needs)
        function._options = options_of(timeout_s, retries, function.task_needs, name, strategy)
        return function

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here."""
        __tracebackhide__ = True  # IPython leaves this frame out
        return self.function(*args, **kwargs)

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[R]:
        """Run it on the cluster; return its future. Raises as `ApplicationNode.submit`."""
        return application()._submit_with(self._options, self.function, args, kwargs)

    def map(
        self,
        *iterables: Iterable[Any],
        timeout_s: float | None = None,
        retries: int | None = None,
        strategy: str | None = None,
        needs: Needs | None = None,
    ) -> Job[R]:
        """Run it on the cluster for the items of the iterables, which are read now; return the job.

        Args:
            timeout_s, retries, strategy, needs: as of `options`, for this call; None: those of this function.
        """
        calls = list(zip(*iterables, strict=False))
        options = self._options
        job = application().start_job(
            self.function,
            calls,
            name=options.name or getattr(self.function, "__name__", "map"),
            timeout_s=options.timeout_s if timeout_s is None else timeout_s,
            retries=options.retries if retries is None else retries,
            prints=True,
            watched=_CURRENT.watched,
            strategy=options.strategy if strategy is None else strategy,
            needs=self.task_needs if needs is None else needs,
        )
        job.label = _labels(self.function, calls)
        _CURRENT.started(job)
        return job

    def __reduce__(self) -> tuple[Any, ...]:
        # In a task it is the plain function: there is no cluster to submit to.
        return pickles.identity, (self.function,)

    def __repr__(self) -> str:
        return f"<task function {getattr(self, '__qualname__', self.function)!s}>"


def task(function: Callable[P, R]) -> TaskFunction[P, R]:
    """Make a task function: `f(x)` runs here, `f.submit(x)` a future and `f.map(xs)` a job on the cluster.

    >>> @concurrent_nb.task                                                             # doctest: +SKIP
    ... def square(x): return x * x
    >>> square(3), square.submit(3).result(), square.map(range(4)).results()            # doctest: +SKIP
    (9, 9, [0, 1, 4, 9])

    The cluster is the notebook's, which `%concurrent` starts or connects to. Elsewhere it is an embedded one with a
    worker for each core, which the first use starts and the end of the program ends.
    """
    return TaskFunction(function)


def _labels(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Callable[[int], str]:
    """Give what says of a task which arguments it has."""

    def label(index: int) -> str:
        try:
            names = [*inspect.signature(function).parameters]
        except (TypeError, ValueError):  # as of some functions in C
            names = []
        names += [""] * (len(calls[index]) - len(names))
        return ", ".join(
            f"{name} = {reprlib.repr(value)}" if name else reprlib.repr(value)
            for name, value in zip(names, calls[index], strict=False)
        )

    return label


def _nothing(job: Job) -> None:
    """Take no note of a job."""


class _Current:
    """Which application node task functions use."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.provider: Callable[[], ApplicationNode] | None = None
        self.started: Callable[[Job], None] = _nothing
        self.watched = False
        self.cluster: Cluster | None = None

    def embedded(self) -> ApplicationNode:
        """Give the node of an embedded cluster, started at the first call."""
        with self.lock:
            if self.cluster is None:
                self.cluster = Cluster().start()
            return self.cluster.application()


_CURRENT: Final = _Current()


def application() -> ApplicationNode:
    """Return the application node that task functions use; starts a cluster if there is none.

    Raises ConfigurationError inside of a task.
    """
    if sink().is_open:
        raise ConfigurationError(
            "a task cannot submit tasks: call the function itself, or give the job more tasks from outside"
        )
    return (_CURRENT.provider or _CURRENT.embedded)()


def use(
    provider: Callable[[], ApplicationNode] | None,
    started: Callable[[Job], None] = _nothing,
    watched: bool = False,
) -> None:
    """Let task functions use the application node that `provider` gives; None for an embedded cluster of their own.

    Args:
        started: called with each job that they start.
        watched: those jobs are watched.
    """
    _CURRENT.watched = watched
    _CURRENT.provider = provider
    _CURRENT.started = started
