"""Calls of a `joblib.Parallel` as one task: how they are arranged, and how a worker makes them.

    application:  task_of(arranged([(function, args, kwargs), ...]))  --> function of the task, its arguments
    worker:       run_calls(function, calls, nesting_level)  --> the values, in order

Calls of the same function with as many arguments travel as one flat list, which takes half the time of tuples. The
function itself becomes part of the task's function, which each worker gets and loads once. In the task, a `Parallel`
uses the backend that `BackendInTask` chooses. An argument in a file that is mapped to be written is that file there.

Imports joblib, so it is imported only where joblib is used.
"""

import functools
import itertools
import types
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple, NoReturn

import joblib
from joblib.parallel import FallbackToBackend, ParallelBackendBase, SequentialBackend, ThreadingBackend

from concurrent_nb.shipping.serialization.mapped_files import by_file, may_have_files
from concurrent_nb.shipping.serialization.references import text_attribute_of

#: (function, args, kwargs) as `joblib.delayed` makes it
Item = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
#: how many arguments each call has, and all of them; or the arguments of each call with 0
Arguments = tuple[int, Sequence[Any]]

#: compared by identity, so that a wrapper can be kept for each
_FUNCTIONS: Final = (types.FunctionType, types.BuiltinFunctionType)
#: functions for which the function of their tasks is kept, the last ones
KEPT: Final = 64
#: the module that makes backends; a name, because it belongs to a higher layer
_PUBLIC_MODULE: Final = "concurrent_nb.joblib"


class Calls(NamedTuple):
    """Calls that travel together. It has no tuple for each: the garbage collector takes long to look at thousands."""

    number: int  #: how many they are
    function: Callable[..., Any] | None  #: of all of them, if that can be part of the task's function
    functions: list[Callable[..., Any]]  #: of each, if not
    width: int  #: how many arguments each has; 0: `args` has a sequence for each
    args: list[Any]
    keywords: list[dict[str, Any]] | None  #: of each; None if none has any

    def each_function(self) -> list[Callable[..., Any]]:
        """Return the function of each call."""
        return self.functions if self.function is None else [self.function] * self.number

    def each_args(self) -> list[Any]:
        """Return the arguments of each call."""
        return list(zip(*[iter(self.args)] * self.width, strict=True)) if self.width else self.args

    def each_keywords(self) -> list[dict[str, Any]]:
        """Return the keyword arguments of each call."""
        return [{}] * self.number if self.keywords is None else self.keywords


def arranged(items: Sequence[Item]) -> Calls:
    """Arrange calls, at least one. Raises TypeError and others if they are no calls."""
    # Without `zip(*items)`, which takes ten times as long for many items.
    functions = [item[0] for item in items]
    args = [item[1] for item in items]
    keywords = [item[2] for item in items]
    function: Callable[..., Any] | None = functions[0]
    if isinstance(function, _FUNCTIONS) and len(set(map(id, functions))) == 1:
        functions = []
    else:
        function = None
    kwargs = keywords if any(keywords) else None
    if may_have_files(set(map(type, itertools.chain.from_iterable(args)))):
        args = by_file(args)
    if kwargs is not None and may_have_files({type(value) for each in kwargs for value in each.values()}):
        kwargs = by_file(kwargs)
    lengths = set(map(len, args))
    width = lengths.pop() if len(lengths) == 1 else 0
    flat = list(itertools.chain.from_iterable(args)) if width else args
    return Calls(len(items), function, functions, width, flat, kwargs)


def joined(parts: Sequence[Calls]) -> Calls:
    """Return the calls of all parts, of which there is at least one, in order."""
    if len(parts) == 1:
        return parts[0]
    function, width = parts[0].function, parts[0].width
    functions: list[Callable[..., Any]] = []
    if function is None or any(part.function is not function for part in parts):
        function = None
        functions = [each for part in parts for each in part.each_function()]
    if any(part.width != width for part in parts):
        width = 0
    of_parts = [part.args if width else part.each_args() for part in parts]
    keywords = None
    if any(part.keywords is not None for part in parts):
        keywords = [each for part in parts for each in part.each_keywords()]
    number = sum(part.number for part in parts)
    return Calls(number, function, functions, width, list(itertools.chain.from_iterable(of_parts)), keywords)


def task_of(calls: Calls, nesting_level: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the function of the task that makes these calls, and its arguments.

    Args:
        nesting_level: how many `Parallel` enclose the calls, the one that makes them included.
    """
    arguments: Arguments = calls.width, calls.args
    if calls.function is not None:
        return task_function(calls.function), (arguments, calls.keywords, nesting_level)
    return run_calls, (calls.functions, arguments, calls.keywords, nesting_level)


@functools.lru_cache(KEPT)
def task_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function of the tasks that call `function`; it has the same name."""

    def run(*call: Any) -> list[Any]:
        return run_calls(function, *call)

    run.__name__ = text_attribute_of(function, "__name__") or "run"
    run.__qualname__ = text_attribute_of(function, "__qualname__") or run.__name__
    return run


def run_calls(
    function: Callable[..., Any] | Sequence[Callable[..., Any]],
    arguments: Arguments,
    keywords: Sequence[dict[str, Any]] | None,
    nesting_level: int,
) -> list[Any]:
    """Make calls, as `task_of` has them; return their values. Raises what the first of them raises."""
    width, given = arguments
    calls: Iterable[Sequence[Any]] = zip(*[iter(given)] * width, strict=True) if width else given
    with joblib.parallel_config(backend=BackendInTask(nesting_level=nesting_level), n_jobs=None):
        if keywords is None and callable(function):
            return [function(*args) for args in calls]
        functions = itertools.repeat(function) if callable(function) else function
        all_keywords = itertools.repeat({}) if keywords is None else keywords
        return [call(*args, **kwargs) for call, args, kwargs in zip(functions, calls, all_keywords, strict=False)]


class BackendInTask(ParallelBackendBase):  # type: ignore[misc]  # joblib ships no types
    """The backend of a `Parallel` in a task: that of the task's application, where the task has one.

    Else it is what joblib's own backends use in their workers: threads in the first level, one call after another in
    those below.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many calls can run at the same time. Raises ValueError for 0."""
        return int(self._chosen(n_jobs).effective_n_jobs(n_jobs))

    def configure(self, n_jobs: int | None = 1, parallel: Any = None, **options: Any) -> NoReturn:
        """Choose the backend of a `Parallel`, which then uses that instead of this one."""
        raise FallbackToBackend(self._chosen(n_jobs))

    def apply_async(self, func: Any, callback: Any = None) -> NoReturn:
        """Raise RuntimeError: a `Parallel` uses the backend that was chosen. joblib until 1.4 wants this method."""
        raise RuntimeError("BackendInTask runs nothing itself: Parallel uses the backend that configure has chosen")

    def _chosen(self, n_jobs: int | None) -> Any:
        if n_jobs is None or n_jobs in (0, 1):
            return SequentialBackend(nesting_level=self.nesting_level)
        # By name: it loads an application, which few tasks need.
        if (own := import_module(_PUBLIC_MODULE).backend_in_task(self.nesting_level)) is not None:
            own.inner_max_num_threads = self.inner_max_num_threads
            return own
        inner = ThreadingBackend if self.nesting_level == 1 else SequentialBackend
        return inner(nesting_level=self.nesting_level)
