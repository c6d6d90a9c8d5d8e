"""The user's side of a cluster: an Executor whose tasks run on slaves.

    user's threads: submit, map, start_job --pickle--> ClientThread, the client thread --> master

Arguments are pickled and futures made in the caller's thread, so a slow argument delays only the thread that sends it.
"""

import concurrent.futures
import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, TypedDict, TypeVar, Unpack, cast, overload

from msgspec.structs import replace

from concurrent_nb import foreign
from concurrent_nb.errors import AttachRefused, ClusterError, ConfigurationError
from concurrent_nb.ids import ID_BYTES, JobId
from concurrent_nb.nodes.application.call_stream import CallStream
from concurrent_nb.nodes.application.callback_thread import CallbackThread
from concurrent_nb.nodes.application.client_tasks import NO_LIMITS, TaskEntry
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.cluster_slots import ClusterSlots
from concurrent_nb.nodes.application.exit_hook import finish_at_exit
from concurrent_nb.nodes.application.futures import Presenter, TaskFuture
from concurrent_nb.nodes.application.inside_task import InsideTask
from concurrent_nb.nodes.application.job import Job
from concurrent_nb.nodes.application.job_origin import ORIGIN, new_record
from concurrent_nb.nodes.application.job_starter import JobStarter
from concurrent_nb.nodes.application.map_call import MapCall
from concurrent_nb.nodes.application.master_calls import MasterCalls
from concurrent_nb.nodes.application.pushed_systems import SystemPusher
from concurrent_nb.nodes.application.pushed_tasks import READ_AHEAD, PushedTasks
from concurrent_nb.nodes.application.submits import Submits
from concurrent_nb.nodes.application.system_job import CellRun, SystemRun
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.application.task_options import (
    BoundOptions,
    CellKeywords,
    TaskOptions,
    check_function,
    check_sizes,
    job_options,
    label_of,
    options_of,
)
from concurrent_nb.nodes.application.task_packer import TaskPacker
from concurrent_nb.nodes.application.worker_setups import EverywhereCall, WorkerSetups
from concurrent_nb.nodes.common.registration import Membership, register
from concurrent_nb.nodes.common.trace_file import TraceSummary
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.shipping.environment.tracker import TRACKER
from concurrent_nb.shipping.functions.pickled_functions import PickledFunction
from concurrent_nb.shipping.functions.setups import Setup
from concurrent_nb.shipping.runtime.folding import folding
from concurrent_nb.shipping.runtime.notes import Display
from concurrent_nb.shipping.serialization.references import text_attribute_of
from concurrent_nb.tasks.chunk_size import AdaptiveSize
from concurrent_nb.tasks.system import ITaskSystem, Task, TaskOf
from concurrent_nb.telemetry.job_stats import ClusterStats
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.keys import KeyPair
from concurrent_nb.wire.messages import Needs

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
J = TypeVar("J", bound=Job[Any])

log = foreign.Log(__name__)

_NO_OPTIONS: Final = TaskOptions()
#: by name, because worlds are built on applications
_WORLD_MODULE: Final = "concurrent_nb.worlds.world"


class _MapSizes(TypedDict, total=False):
    timeout: float | None
    chunksize: int | None
    buffersize: int | None


class _MapOptions(_MapSizes, total=False):
    """The keyword arguments of `ApplicationNode.map`."""

    return_exceptions: bool


class ApplicationNode(concurrent.futures.Executor):
    """Runs functions on a cluster. A `concurrent.futures.Executor`: use it wherever you use a ThreadPoolExecutor.

    `Cluster.application()` and `concurrent_nb.connect()` return one. The methods, by what they run:

        submit           one call of a function               -> TaskFuture
        map              a function, for each item            -> iterator over the results
        start_job        a function, for each of many calls   -> Job: all futures as one thing
        push_task(s)     objects of type `Task`               -> TaskFuture (Job)
        push_tasksystem  an `ITaskSystem`, in the cluster     -> SystemRun
        reduce           a function that combines two values  -> TaskFuture
        world            members that advance in steps        -> World
        run_everywhere   a setup, in every worker             -> EverywhereCall

    `options` sets time limits, retries, cores and more for `submit` and `map`. `put` sends a large value once for many
    tasks. `joblib` runs the tasks of libraries that use joblib. `status`, `stats` and `trace` report about the cluster.

    >>> with concurrent_nb.Cluster(workers=2) as cluster:
    ...     app = cluster.application()
    ...     future = app.submit(pow, 2, 10)
    ...     print(future.result(), list(app.map(abs, [-1, -2])))
    1024 [1, 2]

    Functions and arguments are pickled when they are submitted, so later changes to them do not reach the tasks. What
    tasks print comes out of this process's standard output and error, unless they belong to a job that was started with
    `prints=False` (the default of `start_job`). All methods may be called from many threads. Leaving a `with` block
    waits for all tasks; an exception that leaves it stops them.

    Args:
        where: path of the cluster's connection file, which is read again when the master has to be found again; or its
            content.
        keys: CURVE key pair of the user. Jobs belong to its public half.
        name: name of this application in the cluster's status.
        inside: the task that it is in; None: the user's process.

    Raises:
        MasterUnreachable: the master does not answer.
        AccessRefused: the master does not accept the key or the token.
        VersionMismatch: the master has another version of the protocol, of Python or of cloudpickle.
    """

    def __init__(
        self, where: Path | ConnectionFile, keys: KeyPair, name: str = "", *, inside: InsideTask | None = None
    ) -> None:
        self.name = name or f"application-{os.getpid()}"
        self.default_chunksize: int | None = None  #: of maps that are given none; None: measured times decide
        self._application_id = os.urandom(8)

        def join(former: Membership | None) -> Membership:
            facts = {} if inside is None else inside.facts()
            return register(connection_file.read(where), "client", keys, former, name=self.name, **facts)

        def master_gone(gracefully: bool) -> None:
            callbacks.call(callbacks.call_receiver, "master_disconnected", gracefully)

        store = ObjectStore()
        callbacks = self._callbacks = CallbackThread(self.name)
        self._cluster_name = where.stem.removeprefix("concurrent_nb-") if isinstance(where, Path) else where.name
        self._client_thread = ClientThread(join, self._cluster_name, self.name, store, master_gone, callbacks.close)
        self._ask = MasterCalls(self._client_thread)
        self._slots = ClusterSlots(self._client_thread)
        self._setups = WorkerSetups(self._send_setups, self._slots.count_now, callbacks.call)
        self._client_thread.streams.setup_ran = self._setups.ran
        self._packer = TaskPacker(
            store, self._setups, TRACKER if inside is None else inside.environment, self._client_thread
        )
        self._submits = Submits(self.name, self._packer, self._client_thread)
        self._client_thread.cancelled_elsewhere = self._submits.renew_cancelled
        self._client_thread.submit = self.submit
        self._client_thread.pack_results = partial(callbacks.call, self._pack_results)
        self._systems = SystemPusher(where, self.name, self._packer, self._client_thread, callbacks)
        self._jobs = JobStarter(self._packer, self._client_thread, self._ask, self._slots)
        # A worker ends without waiting for anything.
        self._at_exit = finish_at_exit(self) if inside is None else lambda: None
        ORIGIN.watch(self)

    # --------------------------------------------------------------------------------------------------- the Executor

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[R]:
        """Run `fn(*args, **kwargs)` on the cluster; return its future immediately.

        >>> app.submit(pow, 2, 10).result()
        1024

        The future ends with what the function returns or raises. It ends with NotPicklable if the function or an
        argument cannot be sent, and with a TaskError if the task ended without a result of its own (WorkerDied,
        PoisonTask, TaskTimeout, ...). For a time limit, retries or several cores see `options`.

        Raises:
            TypeError: `fn` cannot be called.
            RuntimeError: after `shutdown`.
            MasterLost: the cluster is gone.
        """
        return self._submits.submit(fn, args, kwargs)

    def reduce(
        self, fn: Callable[[R, R], R], items: "Iterable[TaskFuture[R] | R]", *, fan_in: int = 8
    ) -> TaskFuture[R]:
        """Combine values two by two in the cluster, as `functools.reduce` does, in a tree of tasks; return its future.

        >>> futures = [app.submit(pow, n, 2) for n in range(100)]
        >>> app.reduce(lambda a, b: a + b, futures).result()
        328350

        `fn` must be associative; the order of the values is kept. Nothing is gathered in this process: each task
        combines up to `fan_in` values.

        Args:
            fn: called with two values.
            items: futures of this application, or values.
            fan_in: values that one task combines, at least 2.

        Raises:
            ConfigurationError: there are no items, or `fan_in` is less than 2.
            TypeError, RuntimeError, MasterLost: as `submit`.
        """
        check_function(fn)
        level: list[Any] = list(items)
        if not level or fan_in < 2:
            raise ConfigurationError(f"reduce combines at least one value, and at least 2 in a task, not {fan_in}")
        fold = folding(fn)
        while True:
            level = [self.submit(fold, *level[at : at + fan_in]) for at in range(0, len(level), fan_in)]
            if len(level) == 1:
                root: TaskFuture[R] = level[0]
                return root

    def options(
        self,
        *,
        timeout_s: float | None = None,
        retries: int = 0,
        needs: Needs | None = None,
        name: str = "",
        strategy: str | None = None,
        keep: bool = False,
    ) -> BoundOptions:
        """Return an object whose `submit` and `map` run tasks with these options. This application does not change.

        >>> app.options(timeout_s=10, retries=2).submit(pow, 2, 10).result()
        1024

        Args:
            timeout_s: run time in seconds allowed per attempt; in a map, of each item. A task that takes longer is
                stopped and ends with TaskTimeout. None: no limit.
            retries: how often a task may run again after an error or a timeout; in a map, each item.
            needs: cores or kind of worker that each task needs, see `Needs`. None: what the function asks for, else one
                slot, in a worker process.
            name: shown in the cluster's status. With a name or a strategy each submit is a job of its own.
            strategy: how the tasks are spread over slaves, see `start_job`.
            keep: the result of each submit stays in the cluster; `result()` of its future fetches it, see `KeptFuture`.
                For maps it has no effect.

        Raises ConfigurationError for values that are not allowed.
        """
        return BoundOptions(self, options_of(timeout_s, retries, needs, name, strategy, keep))

    def push_task(self, task: TaskOf[R]) -> TaskFuture[R]:
        """Run a task object on the cluster; return its future.

        >>> class Square(concurrent_nb.Task):
        ...     def __init__(self, n):
        ...         super().__init__()
        ...         self.n = n
        ...     def __call__(self):
        ...         return self.n ** 2
        >>> app.push_task(Square(7)).result()
        49

        A copy of the object travels to a worker. There it is called, and its `clean_up` is called before the result
        travels back. Then `finished` of the original is called here, in the callback thread (see `call_back`), soon
        after the future has ended.

        Raises:
            ConfigurationError: `task` is not a Task.
            RuntimeError, MasterLost: as `submit`.
        """
        return self._submits.push(task, self._callbacks)

    def push_tasks(
        self,
        tasks: Iterable[TaskOf[R]],
        *,
        name: str = "",
        stop_on_error: bool = False,
        timeout_s: float | None = None,
        retries: int = 0,
    ) -> Job[R]:
        """Run task objects as one job, many in one message; return the job immediately. Each ends as with `push_task`.

        >>> class Power(concurrent_nb.Task):
        ...     def __init__(self, n, exponent):
        ...         super().__init__()
        ...         self.n, self.exponent = n, exponent
        ...     def __call__(self):
        ...         return self.n ** self.exponent
        >>> app.push_tasks(Power(2, n) for n in range(5)).results()
        [1, 2, 4, 8, 16]

        Tasks of a list or a tuple are pickled now. Other iterables are read up to 4,096 tasks ahead of those that have
        ended: the first tasks now, the others in the callback thread. What the iterable raises now is raised here; what
        it raises later is raised by `Job.results`. After `shutdown` nothing more is read.

        Args:
            tasks: the tasks.
            name: of the job, in the cluster's status.
            stop_on_error, timeout_s, retries: as for `start_job`.

        Raises:
            ConfigurationError: an object is not a Task, or an option has a value that is not allowed.
            RuntimeError, MasterLost: as `submit`.
        """
        self._client_thread.check_open()
        options = job_options(
            name=name or "tasks", stop_on_error=stop_on_error, timeout_s=timeout_s, retries=retries, prints=True
        )
        record = options.new_record()
        job: Job[R] = self._jobs.add(Job(record.id, record.name, self._client_thread.cancel, prints=True, is_open=True))
        PushedTasks(
            self.name,
            self._packer.new_loader(),
            self._client_thread,
            self._callbacks,
            cast("Iterator[Task]", iter(tasks)),
            record,
            job,
            options.limits,
            None if isinstance(tasks, Sequence) else READ_AHEAD,
        ).start()
        return job

    def call_back(self, receiver: object | None) -> None:
        """Call methods of `receiver` when tasks and systems end. None: call nothing any more.

            task_finished(task, result, error)      a pushed task has ended; after its own `finished`
            work_finished(result, task_system)      a pushed task system has returned its result
            task_system_finished(result, error, stats)
                                                    a pushed task system has ended; `stats` is its `SystemRun.progress`
            master_disconnected(gracefully)         the master is gone; True if the cluster was stopped

        The receiver needs to have only the methods that interest it. All of them, and `Task.finished`, are called in
        one thread, the callback thread, one at a time: slow ones do not delay results, and they need no locks among
        themselves. In a notebook it is not the thread of the cells. What they raise is logged.
        """
        self._callbacks.receiver = receiver

    @overload  # type: ignore[override]  # checks arguments more closely than the standard library's types
    def map(
        self,
        fn: Callable[..., R],
        /,
        *iterables: Iterable[Any],
        return_exceptions: Literal[True],
        **sizes: Unpack[_MapSizes],
    ) -> Iterator[R | BaseException]: ...

    @overload
    def map(self, fn: Callable[[A], R], iterable: Iterable[A], /, **options: Unpack[_MapOptions]) -> Iterator[R]: ...

    @overload
    def map(
        self, fn: Callable[[A, B], R], one: Iterable[A], two: Iterable[B], /, **options: Unpack[_MapOptions]
    ) -> Iterator[R]: ...

    @overload
    def map(
        self,
        fn: Callable[[A, B, C], R],
        one: Iterable[A],
        two: Iterable[B],
        three: Iterable[C],
        /,
        **options: Unpack[_MapOptions],
    ) -> Iterator[R]: ...

    @overload
    def map(
        self,
        fn: Callable[..., R],
        one: Iterable[Any],
        two: Iterable[Any],
        three: Iterable[Any],
        four: Iterable[Any],
        /,
        *more: Iterable[Any],
        **options: Unpack[_MapOptions],
    ) -> Iterator[R]: ...

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[Any]:
        """Return an iterator over `fn(*items)` for the items of the iterables, in order.

        >>> list(app.map(pow, [2, 3, 4], [10, 10, 10]))
        [1024, 59049, 1048576]

        Many items travel as one task, and yet each ends by itself. If the worker of such a task dies, its items run
        again, a few at a time, until the item that is to blame is alone. An item whose arguments take more than 32 KiB
        is always a task by itself. Leaving the iteration early cancels the rest.

        Args:
            fn: called with one item of each iterable.
            iterables: read until the shortest ends.
            timeout: seconds from now after which `next` raises TimeoutError.
            chunksize: items per task. None: measured times decide, so that a task takes about 5 ms, less towards the
                end.
            buffersize: how many items more than were returned are read from the iterables; with a chunksize, how many
                tasks. None: all are read now.
            return_exceptions: return the exception of an item that failed as its result, and continue. Else it is
                raised, which ends the iteration.

        Raises:
            NotPicklable: `fn` cannot be sent. (An item that cannot be sent raises it when it is its turn.)
            RuntimeError, MasterLost: as `submit`.
            ValueError, TypeError: a chunksize or buffersize that is not allowed.
        """
        return self._map_with(_NO_OPTIONS, fn, iterables, timeout, chunksize, buffersize, return_exceptions)

    def _map_with(
        self,
        options: TaskOptions,
        fn: Callable[..., R],
        iterables: Sequence[Iterable[Any]],
        timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
        return_exceptions: bool,
    ) -> Iterator[R]:
        """Map as `map` does, with options for each item."""
        if options.limits.keep:
            options = dataclasses.replace(options, limits=replace(options.limits, keep=False))
        check_sizes(options.limits, chunksize, buffersize)
        if options.limits != NO_LIMITS:
            chunksize = 1
        chunksize = chunksize or self.default_chunksize
        deadline = None if timeout is None else time.monotonic() + timeout
        self._client_thread.check_open()
        size = AdaptiveSize(self._slots.count()) if chunksize is None else chunksize
        ahead = None if buffersize is None else buffersize * (chunksize or 1)
        name = options.name or label_of(text_attribute_of(fn, "__name__") or "map")
        mapped = MapCall(self._packer, self._client_thread, fn, iterables, name, size, ahead, options)
        try:
            mapped.fill()
        except BaseException:
            mapped.close()
            raise
        return mapped.results(deadline, return_exceptions)

    def run_everywhere(self, fn: Callable[..., Any], /, *args: Any, name: str = "") -> EverywhereCall:
        """Run `fn(*args)` once in every worker: soon in those that exist, in later ones before their first task.

        Use it to import, to seed or to load a model. It concerns the tasks of this application that are sent from now
        on.

        >>> setup = app.run_everywhere(int, "7")
        >>> set(setup.result().values())
        {7}
        >>> setup.remove()

        Several setups run in the order in which they were added. If one fails in a worker, tasks that come to that
        worker end with SetupFailed. Tasks in threads wait until their process has run it; task systems do not run it.

        Args:
            fn: the function.
            args: its arguments.
            name: a setup replaces the one of the same name. "": the function's own name, if it has one.

        Returns immediately; the `EverywhereCall` has the results by worker.

        Raises:
            NotPicklable: the function or an argument cannot be sent.
            RuntimeError, MasterLost: as `submit`.
        """
        self._client_thread.check_open()
        own = text_attribute_of(fn, "__qualname__")
        call = self._packer.setup_call(fn, args)
        name = name or ("" if "<lambda>" in own else own)
        place = name.encode() or os.urandom(16)
        return self._setups.add(Setup(os.urandom(16), place + self._application_id, label_of(name or call.name), call))

    def set_up(self, fn: Callable[[], Any], names: Iterable[str], *, place: str, name: str) -> EverywhereCall:
        """Run a setup cell in every worker, as `run_everywhere` does; it binds names for tasks. For front ends.

        Args:
            fn: what the cell has been turned into.
            names: the names that it binds.
            place: a setup replaces the one of the same place.
            name: shown in messages and in the cluster's status.
        """
        self._client_thread.check_open()
        call = self._packer.setup_call(fn, ())
        setup = Setup(os.urandom(16), place.encode() + self._application_id, label_of(name), call)
        return self._setups.add(setup, frozenset(names))

    @property
    def names_of_setups(self) -> frozenset[str]:
        """The names that setup cells bind in workers."""
        return frozenset().union(*list(self._setups.names.values()))

    def _send_setups(self, function: PickledFunction, name: str, count: int, hold_s: float) -> list[TaskFuture]:
        record = new_record(label_of(f"setup {name}"))
        job = Job(record.id, record.name, self._client_thread.cancel, prints=True)
        self._client_thread.post(self._packer.setup_entries(job, record, function, count, hold_s))
        self._client_thread.close_job(record)
        return job.futures

    def put(self, value: Any) -> Any:
        """Pickle a value once for many tasks; return a handle. Tasks receive the value in place of the handle.

        >>> table = app.put(list(range(1000)))
        >>> app.submit(sum, table).result()
        499500

        It is optional: a large array that is sent again is recognised and not sent twice. But recognising reads the
        whole array each time and works for arrays only. What was put is pickled once and stays as it was then.

        The value is kept as long as the handle exists. `table.release()` ends that earlier, and lets the next values
        use the same memory, when the tasks that have got it have ended.

        Raises NotPicklable if the value cannot be sent.
        """
        return self._packer.put(value)

    def world(self, members: Sequence[Any] | Mapping[str, Any], **options: Any) -> Any:
        """Return a `World` of members that advance in steps, and live in the workers between steps.

        >>> class Clock:
        ...     def __init__(self):
        ...         self.ticks = 0
        ...     def step(self, ctx):
        ...         self.ticks += 1
        >>> world = app.world([Clock(), Clock()])
        >>> world.run(3).number
        3
        >>> world.members[1].ticks
        3

        docs/worlds.md is the guide; `help(concurrent_nb.World)` lists the options and errors.
        """
        return import_module(_WORLD_MODULE).World(self, members, **options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks, and leave the cluster when those that were accepted have ended.

        Args:
            wait: return only then.
            cancel_futures: cancel the tasks that do not run yet.
        """
        self._client_thread.leave(wait, cancel_futures)
        if wait:
            self._callbacks.join()
            self._at_exit()

    def close(self) -> None:
        """Leave the cluster now: tasks that have not ended are cancelled, running ones are stopped."""
        self._client_thread.leave(wait=True, cancel_futures=False, stop=True)
        self._callbacks.join()
        self._at_exit()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the cluster when all tasks have ended; immediately after an exception or an interrupt."""
        # Exit code 0 is not a failure.
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            self._finish()
        else:
            self.close()

    def _finish(self) -> None:
        """Wait for all tasks, as `shutdown` does; an interrupt cancels them."""
        try:
            self.shutdown(wait=True)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        state = " (shut down)" if self.is_closed else ""
        return f"<ApplicationNode {self.name} of cluster {self._cluster_name}{state}>"

    @property
    def is_closed(self) -> bool:
        """Whether `shutdown` or `close` was called: no more tasks are accepted, and `Cluster.application()`
        returns a new one."""
        return self._client_thread.is_closed

    @property
    def _has_left(self) -> bool:
        """Whether nothing of it is in the cluster any more."""
        return self._client_thread.has_left

    def _is_like_new(self) -> bool:
        """Return whether the next task in a worker can use it: nothing is unfinished, and nothing was set."""
        has_set = self.default_chunksize is not None or self._callbacks.receiver is not None or self._setups.are_there
        return not has_set and self._client_thread.present is None and self._client_thread.is_idle()

    def _quit(self, *, unattended: bool = False) -> None:
        """Leave the cluster now, and wait for nothing: unfinished tasks are cancelled, and their futures do not end.

        With `unattended`, as if the process had been killed: the master may be configured to keep its jobs.
        """
        self._client_thread.quit(unattended=unattended)
        self._callbacks.join()
        self._at_exit()

    def _owns_job(self, job: JobId) -> bool:
        """Return whether a job, which has not ended, belongs to the same owner. Raises as `status`."""
        return self._client_thread.owns_job(job)

    def present_errors(self, presenter: Presenter | None) -> None:
        """Call `presenter(future, error)` with each exception of a task before its future has it. For front ends.

        It is called in the client thread, and for items of a map in the thread that reads them. What it raises is
        logged. None: call nothing any more.
        """
        what = "the presenter of errors has raised"
        self._client_thread.present = None if presenter is None else foreign.guarded(log, what, presenter)

    def present_displays(self, presenter: Callable[[Display], None] | None) -> None:
        """Call `presenter` with each object that a task displays (tasks of `submit`, and of jobs with `prints`).

        For front ends. Without a presenter, objects are printed as text. It is called in the thread that writes what
        tasks print, in the same order. What it raises is logged.
        """
        self._client_thread.streams.present_display = presenter

    def open_submits(self) -> list[tuple[bytes, int]]:
        """Return job and index of each task of `submit` and `push_task` that has not ended. For front ends."""
        return self._submits.open_tasks()

    def open_jobs(self) -> list[Job[Any]]:
        """Return the jobs that were started here and have not ended. For front ends."""
        return self._jobs.open_jobs()

    def cancel_submits(self) -> int:
        """Cancel all tasks of `submit`, stop running ones; return how many there were."""
        return self._submits.cancel()

    def renew_submits(self) -> None:
        """Begin a new job for single submits. For front ends: those of a cell are a job of their own."""
        if not self.is_closed:
            self._submits.renew()

    def _fail(self, error: ClusterError) -> None:
        """End all open tasks with `error`, and refuse new ones. For the cluster that can run no more tasks."""
        self._client_thread.fail(error)

    # ---------------------------------------------------------------------------------------------------------- jobs

    def start_job(
        self,
        function: Callable[..., R],
        calls: Sequence[tuple[Any, ...]],
        *,
        name: str = "",
        until: bool = False,
        stop_on_error: bool = False,
        timeout_s: float | None = None,
        retries: int = 0,
        watched: bool = False,
        prints: bool = False,
        strategy: str | None = None,
        needs: Needs | None = None,
        batch: int | Literal["auto"] | None = None,
        keep: bool = False,
        detach: bool = False,
    ) -> Job[R]:
        """Run `function(*call)` for each call as one job; return the job immediately.

        >>> job = app.start_job(pow, [(2, n) for n in range(5)], name="powers of two")
        >>> job.results()
        [1, 2, 4, 8, 16]

        Args:
            function: what to run.
            calls: the positional arguments of each task.
            name: shown in the cluster's status.
            until: the first task that returns a `Hit` ends the job; the rest is cancelled.
            stop_on_error: the first task that fails ends the job.
            timeout_s: run time in seconds allowed per attempt of a task, also if it travels together with others.
            retries: how often a task may run again after an error or a timeout.
            watched: keep events and notes until `Job.take_events` and `Job.take_notes` are called.
            prints: write what tasks print to this process's streams immediately, as `submit` does. Else
                `Job.take_output` returns it.
            strategy: how the tasks are spread over slaves: "pull_round_robin", "push_best", "stealing" or "locality"
                (`scheduling.strategies` compares them). None: as the cluster is configured.
            needs: cores or kind of worker that each task needs, see `Needs`. None: what the function asks for, else one
                slot, in a worker process.
            batch: how many tasks travel together and run one after another in the same worker; "auto": measured times
                decide, as for `map`; None: each travels by itself. Futures, counts and errors are the same, with two
                exceptions: a task cannot be cancelled by itself once its batch runs, and the tasks around one that
                overran its time or killed its worker run again.
            keep: the results stay in the cluster, for tasks that have these futures, or the job, as arguments.
                `result()` of a future fetches its value, see `KeptFuture`. Not with `batch` or `until`.
            detach: the job goes on when this application ends, however it ends: see `attach`. The call returns when
                the master has all tasks. Not with `batch` or `keep`, nor with futures among the arguments.

        Raises:
            ConfigurationError: an option has a value that is not allowed. Nothing has been sent then.
            AttachRefused: the master does not keep the detached job.
            TypeError: `function` cannot be called, or `calls` has no tuples. Nothing has been sent then.
            NotPicklable: the function or an argument cannot be sent. Nothing has been sent then.
            RuntimeError, MasterLost: as `submit`.
        """
        options = job_options(
            name=name,
            until=until,
            stop_on_error=stop_on_error,
            timeout_s=timeout_s,
            retries=retries,
            watched=watched,
            prints=prints,
            strategy=strategy,
            needs=needs,
            detach=detach,
        )
        return self._jobs.start(function, calls, options, batch=batch, keep=keep, default_size=self.default_chunksize)

    def attach(self, job: str | bytes, *, watched: bool = False, prints: bool = False) -> Job[Any]:
        """Return a job that the cluster keeps: a detached one, or one that another application of this user runs.

        >>> started = app.start_job(pow, [(2, n) for n in range(4)], detach=True)
        >>> app.attach(started.id).results()
        [1, 2, 4, 8]

        The job has all tasks, in order, with what they have returned and printed so far; the rest comes. It may be
        attached to from several applications at once; it ends when its tasks have ended, or when one of them cancels
        it. docs/attach.md says which jobs are kept, and for how long.

        Args:
            job: its id; of its hexadecimal digits the first ones are enough if no other job begins with them.
            watched, prints: as for `start_job`.

        Raises:
            AttachRefused: the cluster does not have the job for this user, or does not keep it; the message says why.
            ConfigurationError: `job` is no id of a job, or several jobs begin with it.
            RuntimeError, MasterLost: as `submit`.
        """
        return self._jobs.attach(self._job_id_of(job), watched=watched, prints=prints)

    def _job_id_of(self, job: str | bytes) -> JobId:
        """Return the id of a job, of which only the beginning may be given. Raises as `attach`."""
        if isinstance(job, bytes) and len(job) == ID_BYTES:
            return JobId(job)
        text = job.hex() if isinstance(job, bytes) else job.strip().lower()
        if not text or text.strip("0123456789abcdef") or len(text) > 2 * ID_BYTES:
            raise ConfigurationError(f"{job!r} is not the id of a job, which has {2 * ID_BYTES} hexadecimal digits")
        if len(text) == 2 * ID_BYTES:
            return JobId(bytes.fromhex(text))
        found = [each["id"] for each in self.status()["jobs"] if each["id"].startswith(text)]
        if len(found) > 1:
            raise ConfigurationError(f"{len(found)} jobs begin with {text}: give more digits of the id")
        if not found:
            raise AttachRefused(
                f"there is no job {text} of this user: %concurrent jobs and `concurrent-nb jobs` list them"
            )
        return JobId(bytes.fromhex(found[0]))

    def start_cell(self, function: Callable[[], Any], **options: Unpack[CellKeywords]) -> CellRun:
        """Run `function()` as a job; if it returns a task system, run that as part of the job. For front ends.

        Args:
            function: what to run, without arguments.
            options: `name`, `retries`, `watched`, `prints`, `strategy` and `needs` as for `start_job`; they concern the
                function. `timeout_s`: seconds allowed for the function, and as many for the system.

        The job's result is what the function returns, or the result of its system. A system that is returned after
        `shutdown` does not run: its job ends with RuntimeError. Raises as `start_job`.
        """
        return self._jobs.add(self._systems.start_cell(function, job_options(**options)))

    def push_tasksystem(
        self,
        system: ITaskSystem,
        *,
        name: str = "",
        timeout_s: float | None = None,
        watched: bool = False,
        prints: bool = True,
    ) -> SystemRun:
        """Run a task system in the cluster, in a process of a slave; return its job immediately.

        >>> class Powers(concurrent_nb.ITaskSystem):
        ...     def init_system(self, master):
        ...         self.total = 0
        ...     def generate_tasks(self, master):
        ...         return [Power(n) for n in range(5)]
        ...     def task_finished(self, master, task, result, error):
        ...         self.total += result
        ...     def gather_result(self, master):
        ...         return self.total
        >>> class Power(concurrent_nb.Task):
        ...     def __init__(self, n):
        ...         super().__init__()
        ...         self.n = n
        ...     def __call__(self):
        ...         return 2 ** self.n
        >>> app.push_tasksystem(Powers()).result()
        31

        The system is sent as it is now. What becomes of it in the cluster does not change the object here.

        Args:
            system: the task system.
            name: shown in the cluster's status; the name of its class by default.
            timeout_s: seconds allowed for the whole system, each time that it is run.
            watched: as for `start_job`.
            prints: write what the system logs and its tasks print to this process's streams. Else `Job.take_output`
                returns it.

        Raises:
            ConfigurationError: `system` is not an ITaskSystem.
            NotPicklable: it cannot be sent.
            AccessRefused: the cluster's connection file does not allow clients.
            RuntimeError, MasterLost: as `submit`.
        """
        name = name or type(system).__name__
        options = job_options(name=name, timeout_s=timeout_s, watched=watched, prints=prints)
        return self._jobs.add(self._systems.push(system, options))

    def status(self) -> dict[str, Any]:
        """Return the cluster's slaves, applications (`clients`) and task counts, and the jobs of this owner.

        The owner is the user's key: jobs of all applications with the same key are included.

        >>> [slave["slots"] for slave in app.status()["slaves"]]
        [2]

        Raises MasterUnreachable if the master does not answer.
        """
        return self._client_thread.member.status()

    def stats(self) -> ClusterStats:
        """Return the statistics of the cluster: of each slave, of this owner's last jobs, and of what the tasks of this
        application added to `concurrent_nb.stats`. A notebook shows them as tables.

        >>> [slave["slots"] for slave in app.stats().slaves.values()]
        [2]

        Raises MasterUnreachable if the master does not answer.
        """
        return ClusterStats.from_answer(
            self._client_thread.ask_statistics(None), self._client_thread.streams.statistics.read()
        )

    def trace(self, path: Path | str) -> TraceSummary:
        """Write when and where the last tasks of this owner ran to a file that Perfetto opens; see `Job.trace`.

        It has the tasks of all jobs of the same key, those of `submit` and `map` included.
        """
        return self._ask.write_trace(path)

    def joblib(
        self,
        *,
        n_jobs: int | None = -1,
        timeout_s: float | None = None,
        retries: int = 0,
        needs: Needs | None = None,
        name: str = "",
        strategy: str | None = None,
    ) -> AbstractContextManager[Any]:
        """Return a `with` block in which each `joblib.Parallel`, those of scikit-learn too, runs on the cluster.

        >>> from joblib import Parallel, delayed
        >>> with app.joblib():
        ...     Parallel()(delayed(pow)(2, n) for n in range(4))
        [1, 2, 4, 8]

        `joblib.parallel_config(backend="concurrent_nb")` does the same with the default application, after
        `%load_ext concurrent_nb` or `import concurrent_nb.joblib`. See docs/libraries.md.

        Args:
            n_jobs: calls that run at the same time, for each `Parallel` without an own `n_jobs`. -1: as many as the
                cluster has room for.
            timeout_s: run time in seconds allowed per attempt of a batch of calls, which then ends with TaskTimeout.
            retries: how often a batch may run again after an error or a timeout.
            needs: cores or kind of worker that each batch needs, see `Needs`.
            name: of the jobs, in the cluster's status.
            strategy: how the batches are spread over slaves, see `start_job`.

        Raises ConfigurationError for values that are not allowed, or if joblib is not installed or too old.
        """
        try:
            # Here, because joblib takes 0.2 s and most programs do not use it.
            from concurrent_nb.nodes.application import joblib_backend
        except ModuleNotFoundError as error:
            if error.name != "joblib":
                raise
            raise ConfigurationError("joblib is not installed: pip install joblib") from error
        backend = joblib_backend.ClusterBackend(
            lambda: self, timeout_s=timeout_s, retries=retries, needs=needs, name=name, strategy=strategy
        )
        return joblib_backend.in_use(backend, n_jobs)

    # --------------------------------------------------------------------------------------------------------- inside

    def _open_stream(self, options: TaskOptions, unanswered_max: int | None) -> CallStream:
        """Begin a job whose calls come one by one."""
        return self._submits.open_stream(options, unanswered_max)

    def _count_places(self, cores: int) -> int:
        """Return how many tasks of so many cores (0: all of a slave) the cluster can run at the same time.

        Raises as `submit` does after shutdown.
        """
        self._client_thread.check_open()
        return self._slots.count_places(cores)

    def _pack_results(self, entry: TaskEntry[TaskHandle]) -> None:
        """Pack the results that a held task needs, and have it sent. In the callback thread: it runs code of users."""
        client_thread = self._client_thread
        try:
            payload = self._packer.with_results(entry.payload)
        except Exception as error:  # noqa: BLE001  (the task ends with it)
            failure = error
            client_thread.call_soon(lambda: client_thread.end_held(entry, failure))
        else:
            client_thread.call_soon(lambda: client_thread.give(entry, payload))
