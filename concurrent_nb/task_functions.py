"""Task functions: a function that runs here when it is called, and on the cluster when it is submitted or mapped.

    @concurrent_nb.task
    def square(x): return x * x

    square(3)                            # here
    square.submit(3).result()            # on the cluster
    square.map(range(100)).results()

They use the notebook's cluster. In a script it is an embedded one, which starts at the first use and ends with the
program.
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
from concurrent_nb.nodes.common import nested
from concurrent_nb.shipping.functions import functions_in_tasks
from concurrent_nb.shipping.serialization.references import attribute_of, text_attribute_of
from concurrent_nb.wire.messages import Needs

P = ParamSpec("P")
R = TypeVar("R")


class TaskFunction(Generic[P, R]):
    """A function that can also run on the cluster. Made by `task`, and by cells that define functions.

    >>> def square(x):
    ...     return x * x
    >>> square = concurrent_nb.TaskFunction(square)
    >>> square(3)                            # here
    9
    >>> square.submit(3).result()            # on the cluster
    9
    >>> square.options(timeout_s=10, retries=2).map(range(4)).results()
    [0, 1, 4, 9]

    Args:
        function: what to run. It is sent to the cluster, so what it uses must be picklable.
        needs: cores or kind of worker that each task needs, see `Needs`. None: what the function asks for, else one
            slot.

    Raises ConfigurationError if `function` is not a function, or is a task function already.
    """

    def __init__(self, function: Callable[P, R], needs: Needs | None = None) -> None:
        if isinstance(function, TaskFunction):
            raise ConfigurationError(f"{function!r} is a task function already")
        if not callable(function):
            raise ConfigurationError(f"a task function needs a function, not {reprlib.repr(function)}")
        functools.update_wrapper(self, function)
        for name in functions_in_tasks.METHODS:  # of a function in a task
            self.__dict__.pop(name, None)
        self.function = function
        self.task_needs: Needs | None = attribute_of(function, "task_needs") if needs is None else needs
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
        """Return a task function with these options, see `ApplicationNode.options`. This function keeps its own.

        >>> @concurrent_nb.task
        ... def square(x):
        ...     return x * x
        >>> square.options(timeout_s=10, retries=2).submit(3).result()
        9

        Args:
            timeout_s: run time in seconds allowed per attempt of a task; None: no limit.
            retries: how often a task may run again after an error or a timeout.
            needs: cores or kind of worker that each task needs; None: as the function has it.
            name: shown in the cluster's status.
            strategy: how the tasks are spread over slaves, see `ApplicationNode.start_job`.

        Raises ConfigurationError for values that are not allowed.
        """
        function = TaskFunction(self.function, self.task_needs if needs is None else needs)
        function._options = options_of(timeout_s, retries, function.task_needs, name, strategy)
        return function

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function in this process."""
        __tracebackhide__ = True  # IPython leaves this frame out
        return self.function(*args, **kwargs)

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[R]:
        """Run the function on the cluster; return its future. Raises as `ApplicationNode.submit`."""
        return _application_for_functions()._submits.submit(self.function, args, kwargs, self._options)

    def map(
        self,
        *iterables: Iterable[Any],
        timeout_s: float | None = None,
        retries: int | None = None,
        strategy: str | None = None,
        needs: Needs | None = None,
    ) -> Job[R]:
        """Run the function on the cluster for the items of the iterables, which are read now; return the job.

        >>> @concurrent_nb.task
        ... def power(base, exponent):
        ...     return base ** exponent
        >>> power.map([2, 3], [10, 2]).results()
        [1024, 9]

        Args:
            iterables: read until the shortest ends.
            timeout_s, retries, strategy, needs: as for `options`, for this call; None: those of this function.

        Raises ConfigurationError, NotPicklable, RuntimeError and MasterLost as `ApplicationNode.start_job`.
        """
        calls = list(zip(*iterables, strict=False))
        options = self._options
        job = _application_for_functions().start_job(
            self.function,
            calls,
            name=options.name or (text_attribute_of(self.function, "__name__") or "map"),
            timeout_s=options.limits.timeout_s if timeout_s is None else timeout_s,
            retries=options.limits.retries if retries is None else retries,
            prints=True,
            watched=_CURRENT.watched,
            strategy=options.strategy if strategy is None else strategy,
            needs=self.task_needs if needs is None else needs,
        )
        job.label = _labels(self.function, calls)
        _CURRENT.started(job)
        return job

    def __reduce__(self) -> tuple[Any, ...]:
        return functions_in_tasks.restored, (self.function,)

    def __repr__(self) -> str:
        return f"<task function {getattr(self, '__qualname__', self.function)!s}>"


def task(function: Callable[P, R]) -> TaskFunction[P, R]:
    """Make a task function: `f(x)` runs here, `f.submit(x)` returns a future and `f.map(xs)` a job of the cluster.

    >>> @concurrent_nb.task
    ... def square(x):
    ...     return x * x
    >>> square(3), square.submit(3).result(), square.map(range(4)).results()
    (9, 9, [0, 1, 4, 9])

    The cluster is the notebook's, which `%concurrent` starts or connects to. Elsewhere it is an embedded one with a
    worker for each core, which starts at the first use and ends with the program.

    Args:
        function: what to run. It is sent to the cluster, so what it uses must be picklable.

    Returns a `TaskFunction`. Raises ConfigurationError if `function` is not a function.
    """
    return TaskFunction(function)


def _labels(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Callable[[int], str]:
    """Return a function that describes the arguments of a task, by its index."""

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
    """Ignore a job."""


class _Current:
    """The application node that task functions use."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.provider: Callable[[], ApplicationNode] | None = None
        self.started: Callable[[Job], None] = _nothing
        self.watched = False
        self.cluster: Cluster | None = None

    def embedded(self) -> ApplicationNode:
        """Return the node of an embedded cluster, which the first call starts."""
        with self.lock:
            if self.cluster is None:
                self.cluster = Cluster().start()
            return self.cluster.application()


_CURRENT: Final = _Current()


def application() -> ApplicationNode:
    """Return the application of this code: in a task the one that it belongs to, in a notebook that of its cluster.

    >>> def total(numbers):
    ...     app = concurrent_nb.application()
    ...     return sum(app.map(abs, numbers))
    >>> app.submit(total, [-1, 2, -3]).result()
    6

    So a library that submits tasks needs no code for clusters, and may be called in a task. A task that waits for its
    subtasks occupies no worker: subtasks that have not started run in the waiting process itself. Subtasks end with
    the task that has submitted them: one that the task has not waited for is cancelled.

    In a notebook, the first call starts or connects to its cluster, as the first cell does. In another program it is
    that of the embedded cluster that task functions have started.

    Raises:
        ConfigurationError: a program that is no notebook has no such cluster, or the task runs on an engine.
        MasterUnreachable, MasterLost: the cluster of the task is gone.
    """
    if nested.THREAD.engine:
        raise ConfigurationError(nested.no_application(nested.THREAD.engine))
    if nested.application_of_task is not None:
        app: ApplicationNode = nested.application_of_task()
        return app
    if _CURRENT.provider is not None:
        return _CURRENT.provider()
    if _CURRENT.cluster is None:
        raise ConfigurationError(
            "this program has no cluster whose application could be returned: use that of one,"
            " concurrent_nb.Cluster().start().application() or concurrent_nb.connect(NAME)"
        )
    return _CURRENT.cluster.application()


def _application_for_functions() -> ApplicationNode:
    """Return what `application` does; start an embedded cluster if there is none."""
    if nested.application_of_task is None and _CURRENT.provider is None and not nested.THREAD.engine:
        return _CURRENT.embedded()
    return application()


def use(
    provider: Callable[[], ApplicationNode] | None,
    started: Callable[[Job], None] = _nothing,
    watched: bool = False,
) -> None:
    """Have task functions use the application node that `provider` returns; None: that of an embedded cluster.

    Args:
        started: called with each job that they start.
        watched: whether those jobs are watched.
    """
    _CURRENT.watched = watched
    _CURRENT.provider = provider
    _CURRENT.started = started
