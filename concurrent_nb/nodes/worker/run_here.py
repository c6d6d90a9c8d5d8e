"""Runs a subtask in the process of its parent task, on top of it, as a worker would.

The two tasks share the environment (variables, settings; the folder is restored), and standard output. The result is
pickled and unpickled like one that travels, unless it is immutable. Some tasks do not run here, see `HereRunner.run`.
"""

import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import Struct

from concurrent_nb.nodes.application.client_tasks import FunctionPayload, Payload, TaskEntry
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.outcome import RETRIABLE, Hit, Status
from concurrent_nb.shipping.environment.entering import Environments, LoadedEnvironment
from concurrent_nb.shipping.environment.envelope import is_envelope
from concurrent_nb.shipping.runtime import call_chunks, job_batches, notes
from concurrent_nb.shipping.runtime.setup_runner import FunctionWithSetups
from concurrent_nb.shipping.serialization import pickles, random_streams, task_main
from concurrent_nb.shipping.serialization.error_reports import failed, not_loadable, not_picklable
from concurrent_nb.shipping.serialization.restoring import Restoring
from concurrent_nb.wire.codec import Buffer, joined, unpack_body
from concurrent_nb.wire.messages import Slice, TaskKind
from concurrent_nb.workers.worker_side.usage_meter import UsageMeter

if TYPE_CHECKING:
    import types

Entry = TaskEntry[TaskHandle]

#: functions that are kept, the last ones
FUNCTIONS_KEPT: Final = 64
#: results of these classes cannot be changed, so they need not be copied
_IMMUTABLE: Final = frozenset({bool, int, float, complex, str, bytes, type(None)})
_OK: Final = int(Status.OK)
_HIT: Final = int(Status.HIT)
_RETRIABLE: Final = frozenset(map(int, RETRIABLE))
_CALL: Final = int(TaskKind.CALL)
_KEYWORD_CALL: Final = int(TaskKind.KEYWORD_CALL)
_ITEM: Final = int(TaskKind.ITEM)
_CHUNK: Final = int(TaskKind.CHUNK)


class RanHere(Struct):
    """How a task has ended here."""

    status: int
    value: Any = None  #: if `is_value`
    is_value: bool = False  #: there is a value instead of a pickle
    body: bytes = b""  #: pickle, or encoded ErrorReport
    buffers: Sequence[bytearray] = ()  #: of the pickle
    attempt: int = 1
    elapsed_s: float = 0.0
    usage: tuple[int, int] = (0, 0)  #: CPU time in microseconds, peak memory in KiB
    written: tuple[str, str] = ("", "")  #: to standard output and error, if that was captured
    notes: bytes = b""  #: its stream 3


class OpenFunction(Protocol):
    """What is needed to open a function: as `TaskRunner.open_function`."""

    def __call__(
        self, environment: LoadedEnvironment, body: Buffer, buffers: Sequence[Buffer]
    ) -> "tuple[Callable[..., Any], types.ModuleType, bool]":
        """Return the function, its `__main__`, and whether there are random number generators in it."""


class _FunctionHere:
    """A function that was opened here; None if its tasks cannot run here."""

    __slots__ = ("environment", "function", "main")

    def __init__(
        self, environment: LoadedEnvironment, function: Callable[..., Any] | None, main: "types.ModuleType | None"
    ) -> None:
        self.environment = environment
        self.function = function
        self.main = main


class HereRunner:
    """Runs tasks in this thread, while another one is running in it.

    Args:
        environments: of this process.
        open_function: unpickles functions.
        store: the shared memory with the application's large buffers.
        is_thread: tasks of other threads run in this process, too.
    """

    def __init__(
        self, environments: Environments, open_function: OpenFunction, store: ObjectStore, is_thread: bool
    ) -> None:
        self._environments = environments
        self._open_function = open_function
        self._store = store
        self._is_thread = is_thread
        self._clock = time.thread_time if is_thread else time.process_time
        self._functions: OrderedDict[bytes, _FunctionHere] = OrderedDict()

    def run(self, entry: Entry, begins: Callable[[], object]) -> RanHere | None:
        """Run a task, and again after errors as often as it may; None if it cannot run here.

        That is so if it has a time limit or needs that this process does not meet, or if its function has come with
        arrays, generators of random numbers, setups or another environment: calls of it that run at the same time would
        change these for one another.

        `begins` is called before it begins. Raises KeyboardInterrupt, which ends the task around it, too.
        """
        kind = "process" if entry.needs is None else entry.needs.kind
        cores = 1 if entry.needs is None else entry.needs.cores
        if entry.limits.timeout_s is not None or cores != 1 or kind != ("thread" if self._is_thread else "process"):
            return None
        is_captured = entry.handle.job is not None and not entry.handle.job.prints
        if self._is_thread and is_captured:  # threads share their streams
            return None
        main, names = task_main.CURRENT.module, task_main.CURRENT.argument_names
        task_main.CURRENT.argument_names = ()
        try:
            try:
                loaded = self._loaded(entry.function)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  (user code runs while it is unpickled; the result has the error)
                status, body, _ = not_loadable(error)
                return RanHere(status, body=bytes(body))
            if loaded.function is None or loaded.environment is not self._environments.current:
                return None
            begins()
            for attempt in range(1, entry.limits.retries + 2):
                if loaded.main is not None:
                    task_main.enter(loaded.main)
                ran = self._attempt(loaded.function, entry, is_captured)
                ran.attempt = attempt
                if ran.status not in _RETRIABLE:
                    break
                if loaded.main is not None:
                    task_main.leave(loaded.main)
            return ran
        finally:
            if loaded_main := task_main.CURRENT.module:
                task_main.leave(loaded_main)
            if main is not None:
                task_main.enter(main)
            task_main.CURRENT.argument_names = names

    def _loaded(self, function: FunctionPayload) -> _FunctionHere:
        found = self._functions.get(function.digest)
        if found is not None:
            self._functions.move_to_end(function.digest)
            return found
        body, buffers = self._parts_of(function.payload)
        environment = None
        if is_envelope(body):
            envelope = pickles.loads(body, buffers)
            environment, body, buffers = envelope.environment, envelope.body, envelope.buffers
        entered = self._environments.load(environment)
        if buffers or entered is not self._environments.current:
            found = _FunctionHere(entered, None, None)
        else:
            opened, main, has_generators = self._open_function(entered, body, buffers)
            is_shared = has_generators or type(opened) in (FunctionWithSetups, Restoring)
            found = _FunctionHere(entered, None if is_shared else opened, main)
        self._functions[function.digest] = found
        if len(self._functions) > FUNCTIONS_KEPT:
            self._functions.popitem(last=False)
        return found

    def _parts_of(self, payload: Payload) -> tuple[Buffer, Sequence[Buffer]]:
        """Return a pickle and its buffers; unpickled objects may be changed."""
        if not payload.sizes:
            return payload.body, ()
        parts = joined(payload.sizes, [bytearray(buffer) for buffer in payload.buffers], self._copy)
        return unpack_body(payload.body, parts)

    def _copy(self, slice_: Slice) -> bytearray:
        return bytearray(self._store.view(slice_))

    def _attempt(self, function: Callable[..., Any], entry: Entry, is_captured: bool) -> RanHere:
        streams, sink = random_streams.current_streams(), notes.sink()
        suspended = streams.suspend()
        noted = bytearray()
        before = sink.suspend(noted.extend)
        written = (StringIO(), StringIO()) if is_captured else None
        stdout, stderr = sys.stdout, sys.stderr
        folder, pid = _folder(), os.getpid()
        meter = UsageMeter(self._clock)
        started_s = time.monotonic()
        meter.begin()
        streams.job, streams.generators = entry.job.id, []
        try:
            if written is not None:
                sys.stdout, sys.stderr = written
            ran = _call(function, entry.index, entry.payload.kind, *self._parts_of(entry.payload), streams.begin)
        finally:
            if written is not None:
                sys.stdout, sys.stderr = stdout, stderr
            if os.getpid() != pid:  # the task has forked, and its child returns from the task
                os._exit(1)
            streams.resume(suspended)
            sink.resume(before)
            if _folder() != folder and folder:
                os.chdir(folder)
        ran.elapsed_s = time.monotonic() - started_s
        ran.usage = meter.end(ran.elapsed_s)
        ran.notes = bytes(noted)
        if written is not None:
            ran.written = written[0].getvalue(), written[1].getvalue()
        return ran


def _call(
    function: Callable[..., Any],
    index: int,
    kind: int,
    body: Buffer,
    buffers: Sequence[Buffer],
    begin: Callable[[int], None],
) -> RanHere:
    """Unpickle the arguments, call the function and pickle the result; all but a KeyboardInterrupt becomes a result."""
    try:
        args = pickles.loads(body, buffers)
        if kind != _CALL:
            args, rest = args
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  (user code runs while it is unpickled; the result has the error)
        status, report, _ = not_loadable(error)
        return RanHere(status, body=bytes(report))
    dumps: Callable[[Any], tuple[bytes, list[memoryview]]] = pickles.dumps
    try:
        if kind == _CALL:
            begin(index)
            value = function(*args)
        elif kind == _KEYWORD_CALL:
            begin(index)
            value = function(*args, **rest)
        elif kind == _ITEM:
            begin(rest)
            value = function(*args)
        elif kind == _CHUNK:
            dumps = call_chunks.dumps_results
            value = tuple(call_chunks.run(function, args, rest, begin))
        else:
            dumps = job_batches.dumps_results
            numbers, *terms = rest
            value = job_batches.run(function, args, numbers, call_chunks.BatchTerms(*terms), begin)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  (SystemExit of a task ends only that task)
        status, report, _ = failed(error)
        return RanHere(status, body=bytes(report))
    status = _OK
    if type(value) is Hit:
        status, value = _HIT, value.value
    if type(value) in _IMMUTABLE:
        return RanHere(status, value, is_value=True)
    try:
        pickled, out_of_band = dumps(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  (user code runs while it is pickled; the result has the error)
        status, report, _ = not_picklable(value, error)
        return RanHere(status, body=bytes(report))
    return RanHere(status, body=pickled, buffers=[bytearray(buffer) for buffer in out_of_band])


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""
