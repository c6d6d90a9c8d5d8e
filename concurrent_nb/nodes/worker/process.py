"""The worker process: the composition root that joins `workers` with `shipping`; user code runs nowhere else.

    python -m concurrent_nb.nodes.worker.process --fork-server FD     forks workers for the slave at the socket FD
    python -m concurrent_nb.nodes.worker.process --channels FD,...    one worker

Started by a slave's launcher (`workers.slave_side.launchers`). Whatever a task raises is caught here and becomes its
result.
"""

import builtins
import contextlib
import importlib
import importlib.machinery
import json
import os
import pickle
import socket
import sys
import threading
import time
import traceback
import types
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from concurrent_nb.errors import ConfigurationError, ProtocolError, TooLarge
from concurrent_nb.ids import INITIALIZER_VARIABLE, SYS_PATH_VARIABLE, JobId
from concurrent_nb.import_hook import ImportHook
from concurrent_nb.nodes.common import nested
from concurrent_nb.object_store import segments
from concurrent_nb.object_store.mapping import Restorer
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.store import ObjectStore, address_of
from concurrent_nb.outcome import Hit, Status
from concurrent_nb.shipping.environment.entering import (
    TASK_ENVIRONMENT,
    Environments,
    LoadedEnvironment,
    ThreadEnvironments,
    pass_on_environment,
)
from concurrent_nb.shipping.environment.envelope import is_envelope
from concurrent_nb.shipping.runtime import call_chunks, job_batches, notes
from concurrent_nb.shipping.runtime.setup_runner import FunctionWithSetups, NotLoaded
from concurrent_nb.shipping.serialization import manager_proxies, pickles, random_streams, restoring, task_main
from concurrent_nb.shipping.serialization.error_reports import (
    EXPLANATION,
    failed,
    not_loadable,
    not_picklable,
    traceback_of,
)
from concurrent_nb.shipping.serialization.restoring import RestorableCopy
from concurrent_nb.shipping.serialization.source_lines import unwrapped
from concurrent_nb.shipping.serialization.task_inputs import NO_INPUTS, Inputs
from concurrent_nb.wire.bound_tasks import Results, unbind
from concurrent_nb.wire.codec import joined
from concurrent_nb.wire.messages import BUFFERS_MAX, Sizes, Slice, TaskKind
from concurrent_nb.workers.protocol.channels import WorkerChannels
from concurrent_nb.workers.protocol.records import (
    AddSegment,
    Buffer,
    NotInitialized,
    ReleaseSlices,
    RemoveSegments,
    encode,
    pack,
)
from concurrent_nb.workers.protocol.status_page import StatusPage
from concurrent_nb.workers.worker_side import process_setup
from concurrent_nb.workers.worker_side.forkserver import ForkServer
from concurrent_nb.workers.worker_side.task_loop import TaskId, TaskLoop, TaskResult
from concurrent_nb.workers.worker_side.thread_workers import ThreadStream, ThreadWorker, ThreadWorkerProcess

if TYPE_CHECKING:
    from concurrent_nb.nodes.application.node import ApplicationNode
    from concurrent_nb.nodes.worker.task_application import TaskApplications

#: free shared memory that is kept resident for the next results
RESIDENT_BYTES: Final = 256 * 1024 * 1024
#: ... until no result has needed it for this long, in seconds
RELEASE_AFTER_S: Final = 5.0
#: a buffer of a function in this process's own memory is compared with a copy before each call, up to this size (100
#: us). Larger ones are read-only
COMPARED_BYTES_MAX: Final = 1024 * 1024
# A name in a module is found faster than a member of an enumeration.
_OK: Final = int(Status.OK)
_HIT: Final = int(Status.HIT)
_CALL: Final = int(TaskKind.CALL)
_KEYWORD_CALL: Final = int(TaskKind.KEYWORD_CALL)
_ITEM: Final = int(TaskKind.ITEM)
_CHUNK: Final = int(TaskKind.CHUNK)
_BOUND: Final = int(TaskKind.BOUND)


class _LoadedFunction:
    """A function that was sent, with the environment that it runs in; unpickled by the first task."""

    __slots__ = (
        "body",
        "buffers",
        "environment",
        "function",
        "generators",
        "has_inputs",
        "has_read_only",
        "main",
        "restore",
    )

    def __init__(
        self,
        environment: LoadedEnvironment,
        body: Buffer,
        buffers: Sequence[Buffer],
        restore: Sequence[Callable[[], None]],
        has_read_only: bool,
    ) -> None:
        self.environment = environment
        self.body = body
        self.buffers = buffers
        self.restore = restore  #: undo changes of the buffers
        self.has_read_only = has_read_only  #: changes of some buffers cannot be undone
        self.has_inputs = False  #: results of other tasks are in it, so it is loaded anew for each task
        self.function: Callable[..., object] | None = None
        self.main: types.ModuleType | None = None  #: its `__main__`
        self.generators: list[random_streams.SeededGenerator] = []  #: generators of random numbers in it


def _exit_from_fork(error: BaseException) -> NoReturn:
    """End a process that a task has forked, in which this error left the task: as a program ends that raises it."""
    code = error.code if isinstance(error, SystemExit) else 1
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
    elif code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit((code or 0) & 0xFF if isinstance(code, int | None) else 1)


class TaskRunner:
    """Keep functions by digest; run tasks and turn whatever happens into a result."""

    def __init__(self, environments: Environments, is_thread: bool = False) -> None:
        self._environments = environments
        self._pickled: dict[bytes, tuple[Buffer, Sizes, Sequence[Buffer]]] = {}
        self._functions: dict[bytes, _LoadedFunction] = {}
        self._streams = random_streams.current_streams()  # of the thread in which tasks run
        self._segments = SegmentReader()  # shared memory of others: functions and arguments
        self._mapped: list[weakref.ref[Any]] = []  # what the running task has mapped of it
        self._store: ObjectStore | None = None  # our own: results
        self._stored_count, self._last_stored_s = 0, 0.0  # results stored there, and when the last one was seen
        self._snapshots: dict[int, Slice] = {}  # by address: results of the running chunk that are stored already
        self._expected: TaskId | None = None  # the last task that was prepared
        self._announced: set[bytes] = set()  # its segments that were announced to the slave
        self._new_segments: dict[bytes, AddSegment] = {}  # not announced yet
        self._memory_changes: list[RemoveSegments] = []
        self.send_note: Callable[[bytes], None] = lambda data: None  #: sends bytes of the running task's notes
        #: called with an application and whether it has unanswered tasks
        self.note_blocked: Callable[[object, bool], None] = lambda application, is_blocked: None
        self._running: TaskId | None = None
        self._inputs = NO_INPUTS  # results of other tasks that the running one has come with
        self._where = self._slave = ""  # path, of the cluster; name
        self._is_thread, self._thread, self._pid = is_thread, threading.get_ident(), os.getpid()
        self._applications: TaskApplications | None = None  # of tasks that have asked for theirs
        self.show_figures: Callable[[], None] = _show_figures  #: shows what a task has left open

    def load(self, digest: bytes, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]) -> None:
        """Keep a function. The first task that needs it unpickles it, and fails if that fails."""
        self._pickled[digest] = (body, sizes, buffers)

    def drop(self, digests: Sequence[bytes]) -> None:
        """Forget functions."""
        for digest in digests:
            self._pickled.pop(digest, None)
            self._functions.pop(digest, None)

    def prepare(self, task: TaskId, digest: bytes) -> None:
        """Undo the changes of tasks of another job or function, once for this task."""
        if task is not self._expected:
            self._expected = task
            loaded = self._functions.get(digest)
            # Changes of setups stay, and changes of another task must not become part of them.
            has_setups = loaded is not None and type(loaded.function) is FunctionWithSetups
            self._environments.restore_for(task[0], digest, has_setups)

    def run(
        self, task: TaskId, digest: bytes, kind: int, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]
    ) -> TaskResult:
        """Run one task."""
        if self._snapshots:  # of a chunk that was interrupted
            self._release_snapshots()
        environments = self._environments
        self._running = task
        if kind == _BOUND:
            return self._run_bound(task, digest, body, sizes, buffers)
        loaded = self._functions.get(digest)
        is_next = task[0] is environments.job and digest is environments.function  # in a pack
        if task is not self._expected and not (is_next and loaded and type(loaded.function) is not FunctionWithSetups):
            try:
                self.prepare(task, digest)
            except Exception as error:  # noqa: BLE001  (a setting of the user's; the result has the error)
                return not_loadable(error)
        try:
            loaded = loaded or self._unwrap(digest)
            if not environments.begin(loaded.environment):
                loaded = self._unwrap(digest)
                environments.begin(loaded.environment)
        except BaseException as error:  # noqa: BLE001  (a module of the user's that does not fit; the result has the error)
            return not_loadable(error)
        try:
            try:
                return self._run(task, loaded, kind, body, sizes, buffers)
            finally:
                if self._applications is not None:
                    self._applications.task_ended()
        finally:
            if (main := loaded.main) is not None:
                current_main = task_main.CURRENT
                if current_main.argument_names or current_main.module is not main:
                    task_main.leave(main)
            try:
                environments.end()
            except KeyboardInterrupt:
                environments.end()
                raise

    def _run_bound(
        self, task: TaskId, digest: bytes, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]
    ) -> TaskResult:
        """Run a task that has come with results of other tasks."""
        results: Results = {}
        kind = _BOUND
        try:
            body, buffers = self._arguments_of(body, sizes, buffers)
            while kind == _BOUND:
                kind, body, buffers = unbind(body, buffers, results)
        except Exception as error:  # noqa: BLE001  (memory of others, which may be gone; the result has the error)
            return not_loadable(error)
        inputs = self._inputs = Inputs(results)
        try:
            with inputs.use():
                return self.run(task, digest, kind, body, (), buffers)
        finally:
            self._inputs = NO_INPUTS
            if (loaded := self._functions.get(digest)) is not None and loaded.has_inputs:
                del self._functions[digest]  # it must not keep what this task has changed in them

    def _run(
        self, task: TaskId, loaded: _LoadedFunction, kind: int, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]
    ) -> TaskResult:
        try:
            function, main = loaded.function or self._open(loaded), loaded.main
            if main is not None and task_main.CURRENT.module is not main:
                task_main.enter(main)
            if sizes:
                body, buffers = self._arguments_of(body, sizes, buffers)
            args = pickles.loads(body, buffers) if buffers else pickle.loads(body)
            if kind != _CALL:
                args, rest = args
        except BaseException as error:  # noqa: BLE001  (user code runs while it is unpickled; the result has the error)
            return not_loadable(error)
        dumps: Callable[[Any], tuple[bytes, list[memoryview]]] = pickles.dumps
        sink = notes.sink()
        sink.open(self.send_note)
        try:
            if type(function) is FunctionWithSetups:
                task_variables = self._environments.task_variables()
                function = function.open(partial(self._load, loaded))
                self._environments.keep_changes(task_variables)  # changes of setups stay
            streams = self._streams
            streams.job, index = task
            streams.generators = loaded.generators
            if kind == _CALL:
                streams.begin(index)
                value = function(*args)
            elif kind == _KEYWORD_CALL:
                streams.begin(index)
                value = function(*args, **rest)
            elif kind == _ITEM:
                streams.begin(rest)
                value = function(*args)
            elif kind == _CHUNK:
                dumps = call_chunks.dumps_results
                results = call_chunks.ChunkResults([], {}, {})
                begin_item = streams.begin if streams.generators else None
                if begin_item is None:
                    streams.begin_items(rest, results.values)
                value = tuple(call_chunks.run(function, args, rest, begin_item, results, snapshot=self._snapshot))
            else:
                dumps = job_batches.dumps_results
                numbers, *terms = rest
                value = job_batches.run(
                    function,
                    args,
                    numbers,
                    call_chunks.BatchTerms(*terms),
                    streams.begin,
                    self.show_figures,
                    snapshot=self._snapshot,
                )
            self.show_figures()
        except BaseException as error:  # noqa: BLE001  (SystemExit and KeyboardInterrupt of a task end only that task)
            if os.getpid() != self._pid:
                _exit_from_fork(error)
            return not_loadable(error.__cause__ or error) if type(error) is NotLoaded else failed(error)
        finally:
            sink.close()
        status = _OK
        if type(value) is Hit:
            status, value = _HIT, value.value
        try:
            pickled, out_of_band = dumps(value)
        except BaseException as error:  # noqa: BLE001  (user code runs while it is pickled; the result has the error)
            return not_picklable(value, error)
        if len(out_of_band) >= BUFFERS_MAX:
            return failed(
                TooLarge(
                    f"the task returned {len(out_of_band)} large buffers, at most {BUFFERS_MAX - 1} can travel with a"
                    " result: return fewer and larger ones, or several results",
                    len(out_of_band),
                    BUFFERS_MAX - 1,
                )
            )
        if out_of_band or len(pickled) >= pickles.OUT_OF_BAND_BYTES:
            return status, *self._store_result(pickled, out_of_band)
        return status, pickled, ()

    def cannot_run(self, error: Exception) -> TaskResult:
        """Return the result of a task that this worker cannot run."""
        return not_loadable(error)

    def use_cluster(self, where: str, slave: str) -> None:
        """Note where the cluster is (see `ClusterAt`), and the slave's name, for applications in tasks."""
        self._where, self._slave = where, slave

    def application(self) -> "ApplicationNode":
        """Return the application that the running task belongs to. Raises as `TaskApplications.of`."""
        if self._running is None:
            raise ConfigurationError("no task runs here, so there is no application that it could belong to")
        if self._applications is None:
            # Here, because most tasks need no application, and all that it consists of takes a tenth of a second.
            applications = importlib.import_module("concurrent_nb.nodes.worker.task_application")
            self._applications = applications.TaskApplications(
                TASK_ENVIRONMENT,
                self._environments,
                self.open_function,
                self.note_blocked,
                self._is_thread,
                self._thread,
            )
        job, index = self._running
        return self._applications.of(self._where, self._slave, JobId(job), index)

    def open_function(
        self, environment: LoadedEnvironment, body: Buffer, buffers: Sequence[Buffer]
    ) -> tuple[Callable[..., Any], types.ModuleType, bool]:
        """Unpickle a function that runs on top of another task.

        Returns it, its `__main__`, and whether there are random number generators in it.
        """
        loaded = _LoadedFunction(environment, body, buffers, (), False)
        function = self._open(loaded)
        assert loaded.main is not None
        return function, loaded.main, bool(loaded.generators)

    def own_threads(self) -> frozenset[threading.Thread]:
        """Return the threads of the application that is kept for the next tasks."""
        return frozenset() if self._applications is None else self._applications.threads()

    def _unwrap(self, digest: bytes) -> _LoadedFunction:
        """Take a function out of its envelope, which contains the environment that it runs in."""
        if digest not in self._pickled:
            raise LookupError(f"the function {digest.hex()[:8]} was not sent to this worker")
        body, buffers, restore, has_read_only = self._restorable(*self._pickled[digest])
        environment = None
        if is_envelope(body):
            envelope = pickles.loads(body, buffers)
            environment, body, buffers = envelope.environment, envelope.body, envelope.buffers
        loaded = _LoadedFunction(self._environments.load(environment), body, buffers, restore, has_read_only)
        self._functions[digest] = loaded
        return loaded

    def _open(self, loaded: _LoadedFunction) -> Callable[..., object]:
        """Unpickle a function, or the setups that run before it, in its environment."""
        function = self._load(loaded, loaded.body, loaded.buffers)
        loaded.body, loaded.buffers = b"", ()
        return function

    def _load(self, loaded: _LoadedFunction, body: Buffer, buffers: Sequence[Buffer]) -> Callable[..., object]:
        main = task_main.new_module()
        task_main.enter(main, is_loading_function=True)
        function: Callable[..., object]
        used = self._inputs.used
        function, generators = random_streams.load_with_generators(lambda: pickles.loads(body, buffers))
        if type(function) is not FunctionWithSetups:  # changes of setups stay
            function = restoring.with_restore(function, loaded.restore, has_read_only=loaded.has_read_only)
        task_main.enter(main)
        if not callable(function):
            raise TypeError(f"a task's function must be callable, this is a {type(function).__name__}")
        loaded.function, loaded.main, loaded.generators = function, main, generators
        loaded.has_inputs = self._inputs.used > used
        return function

    # ------------------------------------------------------------------------------------------------ shared memory

    def _arguments_of(self, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]) -> tuple[Buffer, Sequence[Buffer]]:
        """Return the pickle of a task's arguments and its buffers, which the task may change."""
        parts = joined(sizes, buffers, lambda slice_: self._segments.map_watched(slice_, self._mapped.append))
        return (body, parts) if body else (parts[0], parts[1:])

    def _restorable(
        self, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]
    ) -> tuple[Buffer, Sequence[Buffer], Sequence[Callable[[], None]], bool]:
        """Return the pickle of a function, its buffers, and the callables that undo changes of the buffers.

        The last value returned is whether changes of some buffers cannot be undone, so that these are read-only.
        """
        travelled = iter(buffers)
        if sizes and not body:
            body = self._segments.read(sizes[0]) if isinstance(sizes[0], Slice) else next(travelled)
            sizes = sizes[1:]
        parts: list[Buffer] = []
        mapped: list[Any] = []
        restore: list[Callable[[], None]] = []
        has_read_only = False
        for size in sizes:
            if isinstance(size, Slice):
                mapped.append(self._segments.map(size))
                parts.append(memoryview(mapped[-1]).cast("B"))
            elif size <= COMPARED_BYTES_MAX:
                copy = RestorableCopy(next(travelled))
                parts.append(copy.own)
                restore.append(copy.restore)
            else:
                parts.append(memoryview(next(travelled)).toreadonly())
                has_read_only = True
        if mapped:
            restore.append(Restorer(mapped).restore)
        return body, parts, restore, has_read_only

    def _store_result(self, pickled: bytes, buffers: Sequence[memoryview]) -> tuple[Buffer, Sequence[Buffer | Slice]]:
        """Store a large result in shared memory, where the system has that."""
        if not segments.is_available():
            return pickled, buffers
        stored: list[Buffer | Slice] = []
        for buffer in (memoryview(pickled), *buffers) if len(pickled) >= pickles.OUT_OF_BAND_BYTES else buffers:
            slice_ = self._snapshots.pop(address_of(buffer), None) if self._snapshots else None
            slice_ = slice_ or self._store_buffer(buffer)
            stored.append(buffer if slice_ is None else slice_)
            if slice_ is not None and slice_.segment not in self._announced:
                self._announce(slice_.segment)
        return (pickled, stored) if len(pickled) < pickles.OUT_OF_BAND_BYTES else (b"", stored)

    def _store_buffer(self, buffer: memoryview) -> Slice | None:
        if self._store is None:
            self._store = ObjectStore(recognise=False, resident_bytes=RESIDENT_BYTES)
        return self._store.put(buffer)

    def _snapshot(self, buffer: memoryview) -> bytearray | memoryview:
        """Copy a buffer of an item's result, which the next item may change, into shared memory where possible."""
        slice_ = self._store_buffer(buffer) if segments.is_available() else None
        if slice_ is None or self._store is None:
            return bytearray(buffer)
        copy = self._store.view(slice_)
        self._snapshots[address_of(copy)] = slice_
        return copy

    def _release_snapshots(self) -> None:
        assert self._store is not None
        self._store.release(self._snapshots.values(), clean=False)
        self._snapshots.clear()

    def _announce(self, segment: bytes) -> None:
        assert self._store is not None
        handle = self._store.handle(segment)
        assert handle is not None
        # In one step, because the task may be interrupted before or after it, and others use the segment.
        self._new_segments[segment] = AddSegment(handle.segment, handle.pid, handle.fd, handle.size)

    def keeps_arguments(self) -> bool:
        """Return whether anything still refers to shared memory of the last task's arguments."""
        mapped, self._mapped = self._mapped, []
        return any(reference() is not None for reference in mapped)

    def update_memory(self, order: AddSegment | RemoveSegments | ReleaseSlices) -> None:
        """Update the segments of others, or release slices of our own."""
        if isinstance(order, AddSegment):
            try:
                self._segments.add(segments.SegmentHandle(order.segment, order.pid, order.fd, order.size))
            except segments.CannotOpen as error:  # a task that needs it will report it, too
                print(f"worker cannot share memory: {error}", file=sys.stderr)  # noqa: T201  (the slave's log)
        elif isinstance(order, RemoveSegments):
            self._segments.drop(order.segments)
        elif self._store is not None:
            self._store.release(order.slices, clean=order.clean)

    def memory_changes(self) -> Sequence[AddSegment | RemoveSegments]:
        """Return the changes of our own shared memory since the last call."""
        new, self._new_segments = self._new_segments, {}
        self._announced.update(new)
        if self._store is not None:
            now = time.monotonic()
            if self._store.stored_count != self._stored_count:
                self._stored_count, self._last_stored_s = self._store.stored_count, now
            # A worker whose results are small does not need it any more, either.
            if closed := self._store.tidy(0 if now - self._last_stored_s >= RELEASE_AFTER_S else None):
                self._announced.difference_update(closed)
                self._memory_changes.append(RemoveSegments(closed))
        memory_changes: list[AddSegment | RemoveSegments] = [*new.values(), *self._memory_changes]
        self._memory_changes.clear()
        return memory_changes

    def release_memory(self) -> None:
        """Release the memory that is kept for the next results."""
        if self._store is not None and (closed := self._store.tidy(0)):
            self._announced.difference_update(closed)
            self._memory_changes.append(RemoveSegments(closed))

    def has_new_segments(self) -> bool:
        """Return whether results may refer to shared memory that `memory_changes` has not returned yet."""
        return bool(self._new_segments)

    def has_shared_memory(self) -> bool:
        """Return whether others may use memory of ours, which they will release."""
        return bool(self._announced)


def _show_figures() -> None:
    """Show the figures that a task has left open."""
    if "matplotlib.pyplot" in sys.modules:
        from concurrent_nb.shipping.runtime import figures  # here, because it needs matplotlib

        figures.show_open()


# ---------------------------------------------------------------------------------------------------- the process


def _replace_display(module: types.ModuleType) -> None:
    """Have `display` of IPython show things in the cell that waits for the task."""
    module.display = notes.display  # type: ignore[attr-defined]
    module.clear_output = notes.clear_output  # type: ignore[attr-defined]


def run_worker(channels: WorkerChannels, initializer: bytes = b"") -> None:
    """Run a worker until the slave closes its channels.

    Args:
        initializer: pickle of a function and its arguments, called before the first task.
    """
    process_setup.close_descriptors_except(frozenset(channels))
    process_setup.enter_own_group()
    process_setup.die_with_slave(channels.parent_death_pipe)
    process_setup.replace_standard_streams(channels)
    process_setup.replace_main()
    wants_threads = StatusPage(channels.page).uses_threads
    # Threads of one process run tasks of several users, and each is asked by itself.
    process_setup.write_stacks_on_signal(channels.stacks, all_threads=not wants_threads)
    environments = ThreadEnvironments() if wants_threads else Environments()
    EXPLANATION.explain = environments.explain
    pass_on_environment(environments)
    if initializer:
        initialize(initializer, channels, environments)
    try:
        if wants_threads:
            task_main.use_one_per_thread()
            nested.application_of_task = _application_of_thread
            ThreadWorkerProcess(channels, partial(make_thread_worker, environments)).serve()
        else:
            runner = TaskRunner(environments)
            loop = TaskLoop(channels, runner)
            runner.send_note = loop.send_note
            runner.note_blocked = nested.note_blocked = BlockedApplications(loop.note_blocked).note
            nested.application_of_task = runner.application
            loop.serve()
    except (OSError, ProtocolError) as error:
        print(f"worker ends: {error}", file=sys.stderr)  # noqa: T201  (goes to the slave's log)
        sys.exit(1)


def initialize(initializer: bytes, channels: WorkerChannels, environments: Environments) -> None:
    """Call the user's initializer. Its changes stay. If it fails, send the traceback to the slave and exit."""
    try:
        envelope = pickles.loads(initializer)
        environments.begin(environments.load(envelope.environment))
        function, args = pickles.loads(envelope.body, envelope.buffers)
        function(*args)
        task_main.record_initialized(unwrapped(function))
        environments.keep_changes()
    except BaseException as error:  # noqa: BLE001  (user code; the slave passes the traceback on to the user)
        report = traceback_of(error)
        with socket.socket(fileno=channels.tasks) as link, contextlib.suppress(OSError):  # the slave has gone
            link.sendall(pack(encode(NotInitialized(report))))
        sys.exit(1)


def read_initializer() -> bytes:
    """Read the file whose descriptor is in the environment.

    Removes the variable, so that no child process inherits it.
    """
    fd = os.environ.pop(INITIALIZER_VARIABLE, None)
    return b"" if fd is None else os.pread(int(fd), os.fstat(int(fd)).st_size, 0)


def import_system_host() -> None:
    """Import what a system host needs, which takes longer than all the rest of an empty system."""
    # If that fails, the system host fails in the same way, and reports it to its owner.
    with contextlib.suppress(Exception):
        importlib.import_module("concurrent_nb.nodes.worker.system_host")


class BlockedApplications:
    """Joins what the applications of a task report: it waits as soon as one of them has unanswered tasks."""

    def __init__(self, note_blocked: Callable[[bool], None]) -> None:
        self._note_blocked = note_blocked
        self._waiting: set[int] = set()

    def note(self, application: object, is_blocked: bool) -> None:
        """Take the report of an application, in its own thread."""
        if is_blocked:
            self._waiting.add(id(application))
        else:
            self._waiting.discard(id(application))
        self._note_blocked(bool(self._waiting))


class _ThreadRunner(threading.local):
    """The runner of a thread that runs tasks."""

    runner: TaskRunner | None = None


_THREAD: Final = _ThreadRunner()


def _application_of_thread() -> "ApplicationNode":
    if _THREAD.runner is None:
        raise ConfigurationError(
            "this thread runs no task, so there is no application that it could belong to: call"
            " concurrent_nb.application() in the task's own thread, and pass what it returns"
        )
    return _THREAD.runner.application()


def make_thread_worker(
    environments: Environments, channels: WorkerChannels, out: ThreadStream, err: ThreadStream
) -> ThreadWorker:
    """Create the worker of this thread, with functions, shared memory and notes of its own."""
    notes.use_thread_sink()
    runner = TaskRunner(environments, is_thread=True)
    worker = ThreadWorker(channels, runner, out, err)
    runner.send_note = worker.send_note
    runner.note_blocked = BlockedApplications(worker.note_blocked).note
    _THREAD.runner = runner
    return worker


def main(option: str, fds: str) -> None:
    """Run a fork server, and in its children a worker; or run one worker."""
    if paths := os.environ.get(SYS_PATH_VARIABLE):
        sys.path[:] = json.loads(paths)  # workers can import what the cluster's owner can
    manager_proxies.take_key()
    # Processes of a notebook inherit its backend, which tasks cannot use. By name, because it needs matplotlib.
    os.environ["MPLBACKEND"] = "module://concurrent_nb.shipping.runtime.figures"
    builtins.display = notes.display  # type: ignore[attr-defined]  # as in notebooks
    sys.meta_path.insert(0, ImportHook("IPython.core.display_functions", _replace_display))
    initializer = read_initializer()
    if option == "--fork-server":
        channels = ForkServer(socket.socket(fileno=int(fds)), import_system_host).serve()
    else:
        channels = WorkerChannels(*map(int, fds.split(",")))
    if channels is not None:
        run_worker(channels, initializer)


if __name__ == "__main__":
    if sys.argv[1:2] not in (["--fork-server"], ["--channels"]) or len(sys.argv) != 3:
        sys.exit(__doc__)  # no argparse: a cold start pays for each import
    main(*sys.argv[1:])
