"""The user's side of a cluster: an Executor whose tasks run on slaves.

    your threads: submit, map, start_job --pickle--> Courier, the application's own thread --> master

Arguments are pickled and futures made in the caller's thread, so a slow argument holds up only the one who sends it.
"""

import atexit
import concurrent.futures
import itertools
import math
import numbers
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypedDict, TypeVar, Unpack, cast, overload

from concurrent_nb import foreign
from concurrent_nb.errors import AccessRefused, ClusterError, ConfigurationError, NotPicklable, ProtocolError
from concurrent_nb.ids import new_job_id
from concurrent_nb.nodes.application.batched_job import BatchedJob
from concurrent_nb.nodes.application.callback_thread import CallbackThread
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.core import ClientJob, FunctionPayload, TaskEntry
from concurrent_nb.nodes.application.futures import Presenter, TaskFuture
from concurrent_nb.nodes.application.job import Job
from concurrent_nb.nodes.application.map_call import MapCall
from concurrent_nb.nodes.application.payload import Arguments, TaskLoader, lay_down, lay_down_call
from concurrent_nb.nodes.application.pushed_tasks import AHEAD, PushedTasks, introduce, tell
from concurrent_nb.nodes.application.task_options import (
    BoundOptions,
    TaskOptions,
    checked_needs,
    label_of,
    limits_of,
    options_of,
    strategy_of,
)
from concurrent_nb.nodes.application.worker_setups import EverywhereCall, WorkerSetups
from concurrent_nb.nodes.common.registration import Membership, register
from concurrent_nb.nodes.common.system_access import restricted_access, run_system
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.shipping.environment.envelope import ModulesOnly
from concurrent_nb.shipping.environment.tracker import TRACKER
from concurrent_nb.shipping.functions.pickled_functions import Functions, PickledFunction, pickled_with_arguments
from concurrent_nb.shipping.functions.setups import Setup
from concurrent_nb.shipping.runtime.notes import Display
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.pickles import Shared
from concurrent_nb.shipping.serialization.pickling_failures import describe_arguments, describe_failure
from concurrent_nb.shipping.serialization.references import is_importable
from concurrent_nb.tasks.chunk_size import AdaptiveSize
from concurrent_nb.tasks.system import ITaskSystem, Task, TaskOf
from concurrent_nb.transport import connection_file, keys
from concurrent_nb.transport.keys import KeyPair
from concurrent_nb.wire.codec import Buffer, length, pack_body, size_of
from concurrent_nb.wire.messages import Needs, Slice, TaskKind

if TYPE_CHECKING:
    from concurrent_nb.nodes.application.system_job import CellRun, SystemRun

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

log = foreign.Log(__name__)

#: single submits share a job; a new one is begun after this many, so that what the old one used can be forgotten
SUBMITS_PER_JOB: Final = 4096
#: ... or when the functions that were made for it have so many bytes
FUNCTION_BYTES_PER_JOB: Final = 16 * 1024 * 1024
#: what the master said of its slaves is believed so long, in seconds
SLOTS_KNOWN_S: Final = 10.0
_NO_OPTIONS: Final = TaskOptions()
# A name in a module is found faster than a member of an enumeration.
_CALL: Final = int(TaskKind.CALL)
_KEYWORD_CALL: Final = int(TaskKind.KEYWORD_CALL)
#: somebody does not want to wait for the tasks of one application at the end of the interpreter: so for those of none
_INTERRUPTED_AT_EXIT: Final = threading.Event()


class _MapOptions(TypedDict, total=False):
    """The keywords of `ApplicationNode.map`."""

    timeout: float | None
    chunksize: int | None
    buffersize: int | None
    return_exceptions: bool


class ApplicationNode(concurrent.futures.Executor):
    """Run functions on a cluster: `submit`, `map` and `shutdown` as the standard library documents them.

    Made by `Cluster.application()` and `concurrent_nb.connect()`. Safe to use from many threads. What tasks print comes
    out of this process's standard output and error, unless they belong to a job of `start_job`.

    >>> with concurrent_nb.Cluster(workers=2) as cluster:               # doctest: +SKIP
    ...     app = cluster.application()
    ...     app.submit(pow, 2, 10).result()
    1024

    Args:
        where: path of the cluster's connection file. It is read again when the master has to be found again.
        keys: CURVE pair; its public half is the principal that owns the jobs.
        name: what people see in the cluster's status.

    Raises MasterUnreachable, AccessRefused or VersionMismatch if it cannot register.
    """

    def __init__(self, where: Path, keys: KeyPair, name: str = "") -> None:
        self.name = name or f"application-{os.getpid()}"
        self.default_chunksize: int | None = None  #: of a map that asks for none; None: measured times decide
        self._where = where
        self._lock = threading.Lock()  # guards what follows, for submits of many threads
        self._store = ObjectStore()
        self._functions = Functions(store_buffers=partial(lay_down, self._store), environment_source=TRACKER)
        self._shipped: tuple[PickledFunction | None, FunctionPayload] = (None, FunctionPayload(b"", b""))
        self._unwrapped = Functions(
            store_buffers=partial(lay_down, self._store), environment_source=ModulesOnly(TRACKER)
        )
        self._owner = os.urandom(8)
        self._loader: TaskLoader | None = None  # of single tasks whose class cannot change
        self._loads_for: object = None  # its environment, and whether there are setups
        self._indexes = itertools.count()
        self._slots = 1
        self._slots_asked_s = -math.inf
        self._loose = ClientJob[TaskFuture](new_job_id(), self.name)
        self._function_bytes = 0  # of those that were pickled since it was begun
        self._named: weakref.WeakSet[ClientJob[TaskFuture]] = weakref.WeakSet()  # submits that are jobs by themselves

        def join(former: Membership | None) -> Membership:
            return register(connection_file.read(where), "client", keys, former, name=self.name)

        def gone(gracefully: bool) -> None:
            desk.call(self._call_receiver, "master_disconnected", gracefully)

        desk = self._desk = CallbackThread(self.name)
        self._receiver: object | None = None
        self._cluster_name = where.stem.removeprefix("concurrent_nb-")
        self._courier = ClientThread(join, self._cluster_name, self.name, self._store, gone, desk.close)
        self._canceller = self._courier.cancel  # one for all futures
        self._setups = WorkerSetups(self._send_setups, self._ask_for_workers, desk.call)
        self._courier.setup_ran = self._setups.ran
        self._at_exit = _finish_at_exit(self)

    # --------------------------------------------------------------------------------------------------- the Executor

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskFuture[R]:
        """Run `fn(*args, **kwargs)` on the cluster; return its future.

        What cannot be pickled shows up as the future's exception, NotPicklable. Raises RuntimeError after `shutdown`
        and MasterLost once the cluster is gone.
        """
        job, index = self._next_of_loose_job()
        future: TaskFuture[R] = TaskFuture(job.id, index, self._canceller)
        self._send(job, future, fn, args, kwargs)
        return future

    def options(
        self,
        *,
        timeout_s: float | None = None,
        retries: int = 0,
        needs: Needs | None = None,
        name: str = "",
        strategy: str | None = None,
    ) -> BoundOptions:
        """Give this application with options for its next calls of `submit` and `map`.

        >>> app.options(timeout_s=10, retries=2).submit(pow, 2, 10).result()            # doctest: +SKIP
        1024

        Args:
            timeout_s: run time in seconds allowed per attempt; of a map, for each item.
            retries: how often a task may run again after an error or a timeout; of a map, each item.
            needs: what a task needs; None: what the function says, which mostly is a slot, in a worker process.
            name: what people see in the cluster's status. With a name or a strategy each submit is a job by itself.
            strategy: who gets the tasks, as of `start_job`.

        Raises ConfigurationError for options that cannot be.
        """
        return BoundOptions(self, options_of(timeout_s, retries, needs, name, strategy))

    def push_task(self, task: TaskOf[R]) -> TaskFuture[R]:
        """Run a task object on the cluster; return its future.

        A copy of it travels, is called, and tidies up (`clean_up`) before its result comes back. Then `task.finished`
        is called here, in the thread of callbacks (see `call_back`), soon after the future has ended.
        """
        job, index = self._next_of_loose_job()
        future: TaskFuture[R] = TaskFuture(job.id, index, self._canceller)
        pushed = introduce(task, future, self.name)
        future.add_done_callback(lambda ended: self._desk.call(tell, pushed, ended, self._heard))
        try:
            loader = self._loader_of(type(pushed))
            function, (body, sizes, buffers, lease) = loader.load(pushed)
        except NotPicklable as error:
            self._courier.check_open()
            future.end(None, error)
        else:
            self._courier.post((TaskEntry(job, index, function, body, sizes, buffers, None, 0, future, lease=lease),))
        return future

    def _loader_of(self, kind: type[Task]) -> TaskLoader:
        if not is_importable(kind):  # it may have changed since its last task was pushed
            return self._new_loader()
        loads_for = TRACKER.current(), self._setups.are_there
        if self._loader is None or loads_for != self._loads_for:
            self._loader, self._loads_for = self._new_loader(), loads_for
        return self._loader

    def push_tasks(
        self,
        tasks: Iterable[TaskOf[R]],
        *,
        name: str = "",
        stop_on_error: bool = False,
        timeout_s: float | None = None,
        retries: int = 0,
    ) -> Job[R]:
        """Run task objects as one job, many to a message; return it at once. Each ends as with `push_task`.

        Lists and tuples are pickled now. From other iterables some thousand tasks are taken ahead of their ends, the
        first ones now and the others in the thread of callbacks; what they raise there is raised by `Job.results`.
        After `shutdown` nothing more is taken.

        Args:
            stop_on_error, timeout_s, retries: as of `start_job`.

        Raises ConfigurationError for what is no Task, RuntimeError after `shutdown`, what an iterable raises at first.
        """
        self._courier.check_open()
        limits = limits_of(timeout_s, retries)
        record = ClientJob[TaskFuture](new_job_id(), label_of(name or "tasks"), False, bool(stop_on_error))
        job = Job(record.id, record.name, self._canceller, prints=True, is_open=True)
        ahead = None if isinstance(tasks, Sequence) else AHEAD
        loader = self._new_loader()
        PushedTasks(
            self.name,
            loader,
            self._courier,
            self._desk,
            cast("Iterator[Task]", iter(tasks)),
            record,
            job,
            limits,
            ahead,
            self._heard,
        ).start()
        return job

    def call_back(self, receiver: object | None) -> None:
        """Have methods of `receiver` called when something happens; None for nobody. It needs none of them.

            task_finished(task, result, error)      a pushed task has ended; after its own `finished`
            work_finished(result, task_system)      a pushed task system has given its result
            task_system_finished(result, error, stats)
                                                    ... or its error, with its `SystemRun.stats`
            master_disconnected(gracefully)         the master has gone; True if the cluster was stopped

        All of them, and `Task.finished`, are called in one thread of their own, one at a time: slow ones hold up no
        results, and need no locks among themselves. In a notebook that is not the thread of the cells. What they raise
        is logged.
        """
        self._receiver = receiver

    @overload  # type: ignore[override]  # arguments are looked at more closely than the standard library's types do
    def map(
        self,
        fn: Callable[..., R],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        return_exceptions: Literal[True],
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

        Many items travel as one task, and yet each has its own end. If the worker of such a task dies, its items run
        again, a few at a time, until the one that is to blame is alone. An item with more than 32 KiB of arguments is
        always a task by itself.

        Args:
            timeout: seconds from now after which `next` raises TimeoutError.
            chunksize: items per task; None lets measured times decide: tasks of about 5 ms, less towards the end.
            buffersize: take from the iterables only so many items more than were handed out; with a chunksize of your
                own, so many tasks. None takes all now.
            return_exceptions: hand out the exception of an item that failed in the place of its result, and go on; else
                it is raised there, which ends the iteration.

        Raises RuntimeError after `shutdown`, MasterLost once the cluster is gone, NotPicklable if `fn` cannot be sent.
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
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if options.timeout_s is not None or options.retries:
            # Within a task of several items neither is an item's own.
            if chunksize is not None and chunksize > 1:
                raise ConfigurationError(
                    f"chunksize is {chunksize}: leave it out, with timeout_s or retries each item is a task by itself"
                )
            chunksize = 1
        if buffersize is not None and type(buffersize) is not int:
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        chunksize = chunksize or self.default_chunksize
        deadline = None if timeout is None else time.monotonic() + timeout
        self._courier.check_open()
        size = AdaptiveSize(self._ask_for_slots()) if chunksize is None else chunksize
        ahead = None if buffersize is None else buffersize * (chunksize or 1)
        name = options.name or label_of(getattr(fn, "__name__", "map"))
        mapped = MapCall(self, self._courier, fn, iterables, name, size, ahead, options)
        try:
            mapped.fill()
        except BaseException:
            mapped.close()
            raise
        return mapped.results(deadline, return_exceptions)

    def run_everywhere(self, fn: Callable[..., Any], /, *args: Any, name: str = "") -> EverywhereCall:
        """Run `fn(*args)` once in every worker: soon in those that there are, in later ones before their first task.

        For this application's tasks only, and for those that are sent from now on: to import, to seed, to load a
        model. A failure there fails the tasks that come to that worker, with SetupFailed. Returns at once;
        `EverywhereCall` has the results. Several run in order. Tasks in threads wait until their process has run it;
        task systems do not.

        Args:
            name: one of the same name is replaced; the function's name, unless that is a lambda, if there is none.

        Raises NotPicklable, RuntimeError after `shutdown` and MasterLost once the cluster is gone.
        """
        self._courier.check_open()
        own = getattr(fn, "__qualname__", "")
        call = pickled_with_arguments(fn, args, partial(lay_down, self._store), TRACKER)
        name = name or ("" if "<lambda>" in own else own)
        place = name.encode() or os.urandom(16)
        return self._setups.add(Setup(os.urandom(16), place + self._owner, label_of(name or call.name), call))

    def set_up(self, fn: Callable[[], Any], names: Iterable[str], *, place: str, name: str) -> EverywhereCall:
        """Run a setup cell in every worker, as `run_everywhere` does; it binds names for tasks. For front ends.

        Args:
            names: that it binds.
            place: one of the same place is replaced.
        """
        self._courier.check_open()
        call = pickled_with_arguments(fn, (), partial(lay_down, self._store), TRACKER)
        setup = Setup(os.urandom(16), place.encode() + self._owner, label_of(name), call)
        return self._setups.add(setup, frozenset(names))

    @property
    def names_of_setups(self) -> frozenset[str]:
        """The names that setups bind in workers."""
        return frozenset().union(*list(self._setups.names.values()))

    def _send_setups(self, function: PickledFunction, name: str, count: int, hold_s: float) -> list[TaskFuture]:
        record = ClientJob[TaskFuture](new_job_id(), label_of(f"setup {name}"))
        job = Job(record.id, record.name, self._canceller, prints=True)
        shipment = FunctionPayload(function.digest, *pack_body(function.body, function.buffers), function.lease)
        entries = []
        for index in range(count):
            body, sizes, buffers, lease = lay_down_call(self._store, *pickles.dumps_call((hold_s,), {}))
            future = job._future_of(index)
            entries.append(TaskEntry(record, index, shipment, body, sizes, buffers, None, 0, future, lease=lease))
        self._courier.post(entries)
        self._courier.close_job(record)
        return job.futures

    def _ask_for_workers(self) -> int:
        try:
            return sum(slave["slots"] for slave in self.status()["slaves"])
        except (ClusterError, ProtocolError, AccessRefused, OSError):
            return 0  # the tasks that are sent wait for a master that is away, and it is asked again

    def put(self, value: Any) -> Any:
        """Put a value where tasks find it; give to tasks the handle that this returns, and they get the value.

        Nobody has to: a large array that is sent again and again is recognised. But recognising means looking at it
        each time, and works for arrays only; what was put is pickled once, and stays as it was then.

        Raises NotPicklable.
        """
        try:
            body, laid, lease = lay_down(self._store, *pickles.dumps(value))
        except Exception as error:  # whatever the value's own pickling raises is the caller's to see
            kind = type(value).__name__
            raise NotPicklable(f"this {kind} cannot be put: {describe_failure('it', value, error)}") from error
        whole: list[Buffer] = [self._store.view(part) if isinstance(part, Slice) else part for part in laid]
        if not body:
            body, whole = whole[0], whole[1:]  # type: ignore[assignment]
        return Shared(body, whole, lease, f"{type(value).__name__}, {sum(map(length, [body, *whole])):,} bytes")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and leave the cluster when those that were taken have ended.

        Args:
            wait: return only then.
            cancel_futures: cancel what does not run yet.
        """
        self._courier.leave(wait, cancel_futures)
        if wait:
            self._desk.join()
            self._at_exit()

    def close(self) -> None:
        """Leave the cluster now: what has not ended is cancelled, running tasks are stopped."""
        self._courier.leave(wait=True, cancel_futures=False, stop=True)
        self._desk.join()
        self._at_exit()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the cluster when all tasks have ended; at once if that is interrupted, or an exception has come."""
        # Whoever ends the program with exit code 0 means no failure.
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            self._finish()
        else:
            self.close()

    def _finish(self) -> None:
        """Wait for all tasks, as `shutdown` does; who is interrupted does not want them any more."""
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
        """Whether it takes no more tasks, because of `shutdown` or `close`; another one can be made then."""
        return self._courier.is_closed

    @property
    def _has_left(self) -> bool:
        """Whether nothing of it is in the cluster any more."""
        return self._courier.has_left

    def present_errors(self, presenter: Presenter | None) -> None:
        """Have `presenter(future, error)` called with each exception of a task before its future has it.

        It is called in the application's own thread, for items of a map in the thread that reads them; what it raises
        is logged. For front ends, which show errors their way.
        """
        what = "the presenter of errors has raised"
        self._courier.present = None if presenter is None else foreign.guarded(log, what, presenter)

    def present_displays(self, presenter: Callable[[Display], None] | None) -> None:
        """Have `presenter` called with what tasks of `submit` and of jobs that print display.

        Without one it is printed as text. It is called in the thread that writes what tasks print, in the same order;
        what it raises is logged.
        """
        self._courier.present_display = presenter

    def cancel_submits(self) -> int:
        """Stop all tasks of `submit`, running ones too; return how many there were."""
        jobs = [self._renew_loose_job(), *self._named]
        count = sum(len(job.entries) for job in jobs)
        for job in jobs:
            self._courier.cancel(job.id, None)
        return count

    def _fail(self, error: ClusterError) -> None:
        """End what is open and refuse what comes with `error`. For the owner of a cluster that cannot work any more."""
        self._courier.fail(error)

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
    ) -> Job[R]:
        """Run `function(*call)` for each call as one job; return it at once.

        Args:
            until: the first task that returns an `outcome.Hit` ends the job, the rest is cancelled.
            stop_on_error: the first task that fails ends the job.
            timeout_s: run time in seconds allowed per attempt, also of each of the tasks that travel together.
            retries: how often a task may run again after an error or a timeout.
            watched: keep events and notes until `Job.take_events` and `Job.take_notes` are called.
            prints: what tasks write comes out of this process at once, as of `submit`; else `Job.take_output` has it.
            strategy: who gets its tasks: "pull_round_robin", "push_best", "stealing" or "locality" (what each is good
                for is said in `scheduling.strategies`); None leaves it to the cluster.
            needs: what each task needs; None: what the function says, which mostly is a slot, in a worker process.
            batch: so many tasks travel together, and run one after another in the same worker; "auto" lets measured
                times decide, as of `map`; None is each by itself. Futures, counts and errors are the same, but for two
                things: a future that is not running yet cannot be cancelled any more once its batch runs, and tasks
                run again more often (those around one that overran its time or killed its worker).

        Raises ConfigurationError or NotPicklable before anything has been sent.
        """
        timeout_s, retries = limits_of(timeout_s, retries)
        name = label_of(name)
        if (size := self._batch_size(batch)) is not None:
            record = ClientJob[TaskFuture](new_job_id(), name, bool(until), False, strategy_of(strategy))
            return BatchedJob(
                self,
                self._courier,
                function,
                calls,
                record,
                size,
                limits=(timeout_s, retries),
                stop_on_error=bool(stop_on_error),
                needs=checked_needs(needs),
                watched=watched,
                prints=prints,
            ).start()
        record = ClientJob[TaskFuture](new_job_id(), name, bool(until), bool(stop_on_error), strategy_of(strategy))
        job: Job[R] = Job(record.id, name, self._canceller, watched, prints)
        self._begin(job, record, function, calls, needs, timeout_s, retries)
        return job

    def start_cell(
        self,
        function: Callable[[], Any],
        *,
        name: str = "",
        timeout_s: float | None = None,
        retries: int = 0,
        watched: bool = False,
        prints: bool = False,
        strategy: str | None = None,
        needs: Needs | None = None,
    ) -> "CellRun":
        """Run `function()` as a job; if it returns a task system, run that as part of the job, whose result it gives.

        Args:
            timeout_s: seconds that the function may take, and the system.
            retries, watched, prints, strategy, needs: as of `start_job`; for the function.

        A system that is returned after `shutdown` is not run, its job ends with RuntimeError. Raises as `start_job`.
        """
        from concurrent_nb.nodes.application.system_job import CellRun

        timeout_s, retries = limits_of(timeout_s, retries)
        name = label_of(name)
        record = ClientJob[TaskFuture](new_job_id(), name, strategy=strategy_of(strategy))

        def go_on(run: CellRun, system: ITaskSystem) -> None:
            self._desk.call(self._go_on, run, system, timeout_s)  # pickling a system runs its owner's code

        run = CellRun(record.id, name, self._canceller, watched, prints, go_on)
        self._begin(run, record, function, [()], needs, timeout_s, retries)
        return run

    def _go_on(self, run: "CellRun", system: ITaskSystem, timeout_s: float | None) -> None:
        """Push the system that the task of a job has returned."""
        (future,) = run.futures
        if run.was_cancelled():
            future.end_cancelled()
            return
        try:
            self._begin_system(run, ClientJob[TaskFuture](new_job_id(), run.name), system, timeout_s)
        except BaseException as error:  # noqa: BLE001  (pickling it runs its owner's code; whoever waits is told)
            future.end(None, error)
        if run.was_cancelled():  # meanwhile, when there was nothing that could be stopped
            self._courier.cancel(run.id, None)

    def push_tasksystem(
        self,
        system: ITaskSystem,
        *,
        name: str = "",
        timeout_s: float | None = None,
        watched: bool = False,
        prints: bool = True,
    ) -> "SystemRun":
        """Run a task system on the cluster, beside the master; return its job at once.

        >>> app.push_tasksystem(Squares()).result()                     # doctest: +SKIP
        328350

        The system is sent as it is now, and lives in the cluster from then on: what it becomes there is not seen here.

        Args:
            timeout_s: seconds that the whole system may take, each time that it is run.
            watched: as for `start_job`.
            prints: what the system logs and its tasks print comes out of this process, else `Job.take_output` has it.

        Raises ConfigurationError for what is no task system, NotPicklable if it cannot be sent, and AccessRefused if
        the cluster's connection file lets no client in.
        """
        from concurrent_nb.nodes.application.system_job import SystemRun

        if not isinstance(system, ITaskSystem):
            raise ConfigurationError(f"a task system is an ITaskSystem, not a {type(system).__name__}")
        timeout_s, _ = limits_of(timeout_s, 0)
        name = label_of(name or type(system).__name__)
        record = ClientJob[TaskFuture](new_job_id(), name)
        run = SystemRun(record.id, name, self._canceller, watched, prints)
        self._begin_system(run, record, system, timeout_s)
        return run

    def _begin_system(
        self, run: "SystemRun", record: ClientJob[TaskFuture], system: ITaskSystem, timeout_s: float | None
    ) -> None:
        """Submit a task system as the task of a job."""
        run.id = record.id
        system.system_id = record.id.hex()[:8]
        given = restricted_access(connection_file.read(self._where), keys.fresh(), system.system_id, self.name)
        try:
            self._begin(run, record, run_system, [(system, given)], Needs(kind="host"), timeout_s)
        except NotPicklable as error:
            raise NotPicklable(describe_failure(type(system).__qualname__, system, error)) from error.__cause__
        run.futures[0].add_done_callback(partial(self._work_ended, run, system))

    def _begin(
        self,
        job: Job,
        record: ClientJob[TaskFuture],
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        needs: Needs | None,
        timeout_s: float | None = None,
        retries: int = 0,
    ) -> None:
        """Submit all tasks of a job."""
        wanted = checked_needs(needs)
        shipment = self._ship(function, spawns=True, with_setups=wanted is None or wanted.kind != "host")
        needs = shipment.needs if needs is None else wanted
        entries = []
        for index, call in enumerate(calls):
            body, sizes, buffers, lease = self._pack(function, call, {})
            future = job._future_of(index)
            entries.append(
                TaskEntry(
                    record, index, shipment, body, sizes, buffers, timeout_s, retries, future, lease=lease, needs=needs
                )
            )
        self._courier.post(entries)
        self._courier.close_job(record)

    def status(self) -> dict[str, Any]:
        """Ask the master what there is: slaves, clients, tasks, and this user's jobs. Raises MasterUnreachable."""
        return self._courier.member.status()

    # ------------------------------------------------------------------------------------------- what streams need too

    def _ship(self, fn: Callable[..., Any], *, spawns: bool = False, with_setups: bool = True) -> FunctionPayload:
        """Pickle a function, or find it pickled, with the setups that its tasks need; for a job if it `spawns`.

        Raises NotPicklable.
        """
        if self._setups.are_there and with_setups:
            pickled = self._with_setups(self._unwrapped.pickle(fn, spawns=spawns))
        else:
            pickled = self._functions.pickle(fn, spawns=spawns)
        last, shipment = self._shipped
        if pickled is not last:  # most submits have the function of the one before
            needs = checked_needs(getattr(fn, "task_needs", None))
            shipment = FunctionPayload(pickled.digest, *pack_body(pickled.body, pickled.buffers), pickled.lease, needs)
            self._function_bytes += len(shipment.body) + sum(map(size_of, shipment.sizes))
            if pickled.lease is None:  # what is large is not kept for a call that may never come
                self._shipped = (pickled, shipment)
        return shipment

    def _with_setups(self, pickled: PickledFunction) -> PickledFunction:
        return self._setups.prepared(pickled, TRACKER.current())

    def _new_loader(self) -> TaskLoader:
        if self._setups.are_there:
            return TaskLoader(self._store, ModulesOnly(TRACKER), self._with_setups)
        return TaskLoader(self._store, TRACKER)

    def _pack(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Pickle the arguments of a call. Raises NotPicklable."""
        try:
            return lay_down_call(self._store, *pickles.dumps_call(args, kwargs))
        except Exception as error:  # whatever the argument's own pickling raises is the caller's to see
            raise _not_picklable(fn, args, kwargs, error) from error

    def _pack_item(self, fn: Callable[..., Any], args: tuple[Any, ...], number: int) -> Arguments:
        """Pickle the arguments of an item, and its number in the job. Raises NotPicklable."""
        try:
            return lay_down_call(self._store, *pickles.dumps_item(args, number))
        except Exception as error:  # as above
            raise _not_picklable(fn, args, {}, error) from error

    def _next_of_loose_job(self) -> tuple[ClientJob[TaskFuture], int]:
        index = next(self._indexes)
        if index % SUBMITS_PER_JOB == SUBMITS_PER_JOB - 1 or self._function_bytes > FUNCTION_BYTES_PER_JOB:
            self._renew_loose_job()
        return self._loose, index

    def _submit_with(
        self, options: TaskOptions, fn: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> TaskFuture[R]:
        """Submit as `submit` does, with options."""
        if not options.name and options.strategy is None:
            job, index = self._next_of_loose_job()
        else:  # those are a job's
            job, index = ClientJob[TaskFuture](new_job_id(), options.name or self.name, strategy=options.strategy), 0
            self._named.add(job)
        future: TaskFuture[R] = TaskFuture(job.id, index, self._canceller)
        self._send(job, future, fn, args, kwargs, options)
        if job is not self._loose:
            self._courier.close_job(job)
        return future

    def _send(
        self,
        job: ClientJob[TaskFuture],
        future: TaskFuture,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions | None = None,
    ) -> None:
        try:
            body, sizes, buffers, lease = self._pack(fn, args, kwargs)
            function = self._ship(fn)
        except NotPicklable as error:
            self._courier.check_open()
            future.end(None, error)
            return
        if options is None:
            timeout_s, retries, needs = None, 0, function.needs
        else:
            timeout_s, retries, needs = options.timeout_s, options.retries, options.needs_with(function)
        self._courier.post(
            (
                TaskEntry(
                    job,
                    future.index,
                    function,
                    body,
                    sizes,
                    buffers,
                    timeout_s,
                    retries,
                    future,
                    False,
                    lease,
                    needs,
                    _KEYWORD_CALL if kwargs else _CALL,
                ),
            )
        )

    def _heard(self, task: Task, result: Any, error: BaseException | None) -> None:
        self._call_receiver("task_finished", task, result, error)

    def _work_ended(self, run: "SystemRun", system: ITaskSystem, future: concurrent.futures.Future[Any]) -> None:
        """Tell the receiver how a system has ended. In whatever thread has ended it."""
        if self._receiver is None or future.cancelled():
            return
        error = future.exception()
        result = None if error is not None else future.result()
        if error is None:
            self._desk.call(self._call_receiver, "work_finished", result, system)
        self._desk.call(self._call_receiver, "task_system_finished", result, error, run.stats())

    def _call_receiver(self, what: str, *about: Any) -> None:
        method = getattr(self._receiver, what, None)
        if method is not None:
            method(*about)

    def _renew_loose_job(self) -> ClientJob[TaskFuture]:
        with self._lock:
            old, self._loose = self._loose, ClientJob[TaskFuture](new_job_id(), self.name)
            self._function_bytes = 0
        self._courier.close_job(old)
        return old

    def _batch_size(self, batch: Any) -> int | AdaptiveSize | None:
        """Give how many tasks travel together, or what decides on it; None: each by itself."""
        if batch is None:
            return None
        if batch == "auto" and self.default_chunksize is not None:
            batch = self.default_chunksize
        if batch == "auto":
            return AdaptiveSize(self._ask_for_slots())
        is_whole = isinstance(batch, numbers.Integral) and not isinstance(batch, bool)
        if not (is_whole and batch >= 1):
            raise ConfigurationError(f'batch is {batch!r}, it must be a whole number of at least 1, "auto", or None')
        return int(batch) if batch > 1 else None

    def _ask_for_slots(self) -> int:
        """Give the number of tasks that the cluster can run at once, as it was a moment ago."""
        now = time.monotonic()
        if now - self._slots_asked_s > SLOTS_KNOWN_S:
            try:
                self._slots = sum(slave["slots"] for slave in self.status()["slaves"])
                self._slots_asked_s = now
                self._courier.member.control.close()  # the next question is long off
            except (ClusterError, ProtocolError, AccessRefused, OSError) as error:
                # Tasks can wait for a master that is away; and no result depends on how they are cut.
                log.warning(
                    "the master does not say how many slots there are, going on with %d: %s", self._slots, error
                )
        return self._slots


def _not_picklable(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
) -> NotPicklable:
    name = getattr(fn, "__qualname__", repr(fn))
    return NotPicklable(f"an argument of {name} cannot be sent: {describe_arguments(fn, args, kwargs, error)}")


def _finish_at_exit(app: ApplicationNode) -> Callable[[], None]:
    """At the end of the interpreter let what was submitted finish, as the standard library's executors do.

    If an exception ends it, Ctrl-C for example, what runs is stopped. Returns a function that makes this undone.
    """
    reference = weakref.ref(app)
    before = _unhandled()

    def finish() -> None:
        alive = reference()
        if alive is None:
            return
        # An interactive interpreter goes on after exceptions, so there the last one is no reason for its end.
        if _INTERRUPTED_AT_EXIT.is_set() or (_unhandled() is not before and not hasattr(sys, "ps1")):
            alive.close()
            return
        try:
            alive._finish()
            alive._courier.output.join()
        except BaseException:
            _INTERRUPTED_AT_EXIT.set()
            raise

    atexit.register(finish)
    return lambda: atexit.unregister(finish)


def _unhandled() -> BaseException | None:
    """Give the last exception that nothing has caught in the main thread: it ends a script."""
    error: BaseException | None = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)  # new name, old
    return error
