"""The options of tasks and jobs, checked where they are given, before anything is sent.

The master ends the session of an application that sends values which are not allowed, so none may get there.
"""

import math
import numbers
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypedDict, TypeVar

import msgspec
from msgspec.structs import replace

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.application.client_tasks import NO_LIMITS, ClientJob, FunctionPayload, TaskLimits
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.job_origin import new_record
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.wire.messages import CORES_MAX, STRATEGIES, Needs, StrategyName

if TYPE_CHECKING:
    from concurrent_nb.nodes.application.node import ApplicationNode

P = ParamSpec("P")
R = TypeVar("R")

#: characters of a job's name; the rest is cut off
NAME_MAX: Final = 100
RETRIES_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Options of a task, as they travel. Made by `options_of`."""

    limits: TaskLimits = NO_LIMITS
    needs: Needs | None = None  #: as given; None: those of the function
    name: str = ""
    strategy: StrategyName | None = None

    def needs_with(self, function: FunctionPayload) -> Needs | None:
        """Return the needs of a task of a function, as they travel."""
        return function.needs if self.needs is None else checked_needs(self.needs)


def options_of(
    timeout_s: Any, retries: Any, needs: Needs | None, name: object, strategy: str | None, keep: bool = False
) -> TaskOptions:
    """Check options. Raises ConfigurationError that names the one that cannot be."""
    checked_needs(needs)
    limits = limits_of(timeout_s, retries)
    if keep:
        limits = replace(limits, keep=True)
    return TaskOptions(limits, needs, label_of(name), strategy_of(strategy))


@dataclass(frozen=True, slots=True)
class JobOptions:
    """Options of a job, as they travel. Made by `job_options`; documented at `ApplicationNode.start_job`."""

    name: str = ""
    limits: TaskLimits = NO_LIMITS
    until: bool = False
    stop_on_error: bool = False
    strategy: StrategyName | None = None
    needs: Needs | None = None  #: as given; None: those of the function
    watched: bool = False
    prints: bool = False
    detach: bool = False

    def new_record(self) -> ClientJob[TaskHandle]:
        """Return a job of these options that has no tasks yet."""
        return new_record(
            self.name,
            until=self.until,
            stop_on_error=self.stop_on_error,
            strategy=self.strategy,
            detached=self.detach,
        )


class CellKeywords(TypedDict, total=False):
    """The keyword arguments of `ApplicationNode.start_cell`."""

    name: str
    timeout_s: float | None
    retries: int
    watched: bool
    prints: bool
    strategy: str | None
    needs: Needs | None


def job_options(
    *,
    name: object = "",
    timeout_s: Any = None,
    retries: Any = 0,
    until: bool = False,
    stop_on_error: bool = False,
    strategy: str | None = None,
    needs: Needs | None = None,
    watched: bool = False,
    prints: bool = False,
    detach: bool = False,
) -> JobOptions:
    """Check the options of a job. Raises ConfigurationError that names the one that cannot be."""
    checked_needs(needs)
    limits = limits_of(timeout_s, retries)
    return JobOptions(
        label_of(name), limits, bool(until), bool(stop_on_error), strategy_of(strategy), needs, watched, prints, detach
    )


class BoundOptions:
    """An application with options for its tasks. Made by `ApplicationNode.options`."""

    def __init__(self, application: "ApplicationNode", options: TaskOptions) -> None:
        self._application = application
        self._options = options

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[R]:
        """Run `fn(*args, **kwargs)` on the cluster with these options; else as `ApplicationNode.submit`."""
        return self._application._submits.submit(fn, args, kwargs, self._options)

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[R]:
        """Return an iterator over `fn(*items)` with these options for each item; else as `ApplicationNode.map`.

        With `timeout_s` or `retries` each item is a task by itself, so chunksize must not be above 1.
        """
        return self._application._map_with(
            self._options, fn, iterables, timeout, chunksize, buffersize, return_exceptions
        )

    def __repr__(self) -> str:
        limits, options = self._options.limits, self._options
        given: dict[str, Any] = {"timeout_s": limits.timeout_s, "retries": limits.retries}
        given |= {"keep": limits.keep, "needs": options.needs, "name": options.name, "strategy": options.strategy}
        shown = ", ".join(f"{name}={value!r}" for name, value in given.items() if value)
        return f"<{self._application!r} with {shown or 'no options'}>"


def limits_of(timeout_s: Any, retries: Any) -> TaskLimits:
    """Return the limits of a job's tasks as they travel. Raises ConfigurationError."""
    is_number = isinstance(timeout_s, numbers.Real) and not isinstance(timeout_s, bool)
    if timeout_s is not None and not (is_number and timeout_s > 0):
        raise ConfigurationError(f"timeout_s is {timeout_s!r}, it must be a number of seconds above 0, or None")
    is_whole = isinstance(retries, numbers.Integral) and not isinstance(retries, bool)
    if not (is_whole and 0 <= retries <= RETRIES_MAX):
        raise ConfigurationError(f"retries is {retries!r}, it must be a whole number from 0 to {RETRIES_MAX}")
    if timeout_s is None and not retries:
        return NO_LIMITS
    return TaskLimits(None if timeout_s is None or math.isinf(timeout_s) else float(timeout_s), int(retries))


def batch_of(batch: Any) -> int | Literal["auto"] | None:
    """Return how many tasks travel together; None: each by itself. Raises ConfigurationError."""
    if batch is None:
        return None
    if batch == "auto":
        return "auto"
    is_whole = isinstance(batch, numbers.Integral) and not isinstance(batch, bool)
    if not (is_whole and batch >= 1):
        raise ConfigurationError(f'batch is {batch!r}, it must be a whole number of at least 1, "auto", or None')
    return int(batch) if batch > 1 else None


def check_sizes(limits: TaskLimits, chunksize: int | None, buffersize: int | None) -> None:
    """Check what a map is given. Raises ValueError and TypeError as the standard library, and ConfigurationError."""
    if chunksize is not None and chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if limits != NO_LIMITS and chunksize is not None and chunksize > 1:
        # Within a task of several items neither limit is an item's own.
        raise ConfigurationError(
            f"chunksize is {chunksize}: leave it out, with timeout_s or retries each item is a task by itself"
        )
    if buffersize is not None and type(buffersize) is not int:
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def strategy_of(name: str | None) -> StrategyName | None:
    """Return the name of a strategy as it travels. Raises ConfigurationError."""
    if name is not None and name not in STRATEGIES:
        raise ConfigurationError(f"strategy is {name!r}, it must be one of {', '.join(STRATEGIES)}, or None")
    return name


def checked_needs(needs: Needs | None) -> Needs | None:
    """Return needs as they travel: None for those of nearly all tasks. Raises ConfigurationError."""
    if needs is None:
        return None
    if not isinstance(needs, Needs):
        raise ConfigurationError(f"needs is {needs!r}, it must be a concurrent_nb.Needs, as Needs(cores=2), or None")
    try:
        needs = msgspec.msgpack.decode(msgspec.msgpack.encode(needs), type=Needs)  # the constructor checks nothing
    except (msgspec.ValidationError, TypeError) as error:
        raise ConfigurationError(
            f"needs is {needs!r}: cores must be a whole number from 0 (all of one slave) to {CORES_MAX}, and kind"
            " 'process', 'thread' or 'system_host'"
        ) from error
    if needs.kind != "process" and needs.cores != 1:
        raise ConfigurationError(f"needs is {needs!r}: a {needs.kind} takes no more than one core")
    return None if needs == Needs() else needs


def check_function(function: object) -> None:
    """Raise TypeError if what a task is to call cannot be called."""
    if not callable(function):
        raise TypeError(
            f"{reprlib.repr(function)} is not a function: give a function and its arguments, as submit(pow, 2, 10)"
        )


def checked_calls(calls: Any) -> Sequence[tuple[Any, ...]]:
    """Return the arguments of a job's tasks as a sequence. Raises TypeError if that is not what they are."""
    shown = "a list with a tuple of arguments for each task, as [(2, 10), (3, 10)]"
    if isinstance(calls, (str, bytes)) or not isinstance(calls, Iterable):
        raise TypeError(f"calls is {reprlib.repr(calls)}, it must be {shown}")
    listed = calls if isinstance(calls, Sequence) else list(calls)
    for call in listed:
        if not isinstance(call, (tuple, list)):
            raise TypeError(f"calls has {reprlib.repr(call)}, it must be {shown}")
    return listed


def not_an_object_of(kind: type, given: object) -> str:
    """Return the end of an error message: what was given instead of an object of a class."""
    if isinstance(given, type):
        hint = f": did you mean {given.__name__}()?" if issubclass(given, kind) else ""
        return f"not the class {given.__name__}{hint}"
    return f"not {reprlib.repr(given)}"


def label_of(name: object) -> str:
    """Return a name as it travels: short, and text that can be encoded."""
    return str(name)[:NAME_MAX].encode("utf-8", "replace").decode()
