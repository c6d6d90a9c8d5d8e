"""The worker process: the composition root that joins `workers` with `shipping`; user code runs nowhere else.

    python -m concurrent_nb.nodes.worker.process --fork-server FD    forks workers for the slave at the socket FD
    python -m concurrent_nb.nodes.worker.process --channels FD,...     one worker

Started by a slave's launcher (`workers.slave_side.launchers`). Everything that a task
can raise ends here, as an outcome.
"""

import builtins
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import json
import os
import socket
import sys
import time
import types
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from concurrent_nb.errors import ProtocolError, TooLarge
from concurrent_nb.ids import INITIALIZER_VARIABLE, SYS_PATH_VARIABLE
from concurrent_nb.nodes.common import nested
from concurrent_nb.object_store import segments
from concurrent_nb.object_store.mapping import Restorer
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.store import ObjectStore, address_of
from concurrent_nb.outcome import Hit, Status
from concurrent_nb.shipping.environment.entering import Entered, Environments, ThreadEnvironments, hand_on
from concurrent_nb.shipping.environment.envelope import is_envelope
from concurrent_nb.shipping.runtime import call_chunks, job_batches, notes
from concurrent_nb.shipping.runtime.setup_runner import NotLoaded, Prepared
from concurrent_nb.shipping.serialization import manager_proxies, pickles, random_streams, restoring, task_main
from concurrent_nb.shipping.serialization.error_reports import (
    EXPLANATION,
    failed,
    not_loadable,
    not_picklable,
    traceback_of,
)
from concurrent_nb.shipping.serialization.restoring import Copy
from concurrent_nb.shipping.serialization.source_lines import unwrapped
from concurrent_nb.wire.codec import joined
from concurrent_nb.wire.messages import BUFFERS_MAX, Sizes, Slice
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
from concurrent_nb.workers.worker_side.task_loop import Answer, TaskId, TaskLoop
from concurrent_nb.workers.worker_side.thread_workers import ThreadStream, ThreadWorker, ThreadWorkerProcess

#: free shared memory that is kept warm for the next results
RESIDENT_BYTES: Final = 256 * 1024 * 1024
#: ... until none has needed it for so long, in seconds
REST_AFTER_S: Final = 5.0
#: a buffer of a function that lies in this process's own memory is compared with a copy before each call, up to this
#: size: 100 us. Larger ones are read-only
COMPARED_BYTES_MAX: Final = 1024 * 1024
# A name in a module is found faster than a member of an enumeration.
_OK: Final = int(Status.OK)
_HIT: Final = int(Status.HIT)


class _LoadedFunction:
    """A function that has come, in the environment that it is to run in; opened by the first task."""

    __slots__ = ("body", "buffers", "entered", "function", "has_read_only", "made", "main", "restore")

    def __init__(
        self,
        entered: Entered,
        body: Buffer,
        buffers: Sequence[Buffer],
        restore: Sequence[Callable[[], None]],
        has_read_only: bool,
    ) -> None:
        self.entered = entered
        self.body = body
        self.buffers = buffers
        self.restore = restore  #: make the buffers what they were
        self.has_read_only = has_read_only  #: some cannot be made what they were
        self.function: Callable[..., object] | None = None
        self.main: types.ModuleType | None = None  #: what is `__main__` for it
        self.made: list[random_streams.Made] = []  #: the generators of random numbers in it


class TaskRunner:
    """Keep functions by digest; run tasks and turn whatever happens into an answer."""

    def __init__(self, environments: Environments) -> None:
        self._environments = environments
        self._pickled: dict[bytes, tuple[Buffer, Sizes, Sequence[Buffer]]] = {}
        self._functions: dict[bytes, _LoadedFunction] = {}
        self._drawing = random_streams.drawing()  # of the thread in which tasks run
        self._shelf = SegmentReader()  # shared memory of others: functions and arguments
        self._looks: list[weakref.ref[Any]] = []  # what the task that runs has mapped of it
        self._store: ObjectStore | None = None  # our own: results
        self._placings, self._placed_s = 0, 0.0  # how many were placed there, and when the last one was seen
        self._snapshots: dict[int, Slice] = {}  # by address: what of the running chunk's results lies there already
        self._expected: TaskId | None = None  # the last task for which room was made
        self._announced: set[bytes] = set()  # its segments that the slave knows
        self._news: list[AddSegment | RemoveSegments] = []
        self.send_note: Callable[[bytes], None] = lambda data: None  #: takes the bytes of the running task's notes

    def load(self, digest: bytes, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]) -> None:
        """Keep a function. It is opened by the first task that needs it, which answers for it if that fails."""
        self._pickled[digest] = (body, sizes, buffers)

    def drop(self, digests: Sequence[bytes]) -> None:
        """Forget functions."""
        for digest in digests:
            self._pickled.pop(digest, None)
            self._functions.pop(digest, None)

    def expect(self, task: TaskId, digest: bytes) -> None:
        """Undo what tasks of another job or function have changed, once for this task."""
        if task is not self._expected:
            self._expected = task
            known = self._functions.get(digest)
            # What setups change stays, and what another task has changed does not become part of it.
            has_setups = known is not None and type(known.function) is Prepared
            self._environments.put_back_for(task[0], digest, always=has_setups)

    def run(self, task: TaskId, digest: bytes, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]) -> Answer:
        """Run one task."""
        if self._snapshots:  # of a chunk that was interrupted
            self._forget_snapshots()
        environments = self._environments
        self.expect(task, digest)
        try:
            known = self._functions.get(digest) or self._unwrap(digest)
            if not environments.begin(known.entered):
                known = self._unwrap(digest)
                environments.begin(known.entered)
        except BaseException as error:  # noqa: BLE001  (a module of the user's that does not fit; the answer has the error)
            return not_loadable(error)
        try:
            return self._run(task, known, body, sizes, buffers)
        finally:
            if known.main is not None and (task_main.HERE.visitors or task_main.HERE.module is not known.main):
                task_main.leave(known.main)
            try:
                environments.end()
            except KeyboardInterrupt:
                environments.end()
                raise

    def _run(
        self, task: TaskId, known: _LoadedFunction, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]
    ) -> Answer:
        try:
            function = known.function or self._open(known)
            if task_main.HERE.module is not known.main and known.main is not None:
                task_main.enter(known.main)
            if sizes:
                body, buffers = self._whole(body, sizes, buffers)
            args, kwargs = pickles.loads(body, buffers)
        except BaseException as error:  # noqa: BLE001  (user code runs while it is unpickled; the answer has the error)
            return not_loadable(error)
        sink = notes.sink()
        sink.open(self.send_note)
        try:
            if type(function) is Prepared:
                given = self._environments.given()
                function = function.open(partial(self._load, known))
                self._environments.adopt(given)  # what setups have set stays
            drawing = self._drawing
            drawing.job, index = task
            drawing.made = known.made
            if type(kwargs) is dict:
                drawing.begin(index)
                value = function(*args, **kwargs)
            elif type(kwargs) is int:
                drawing.begin(kwargs)
                value = function(*args)
            elif len(kwargs) == 1:
                value = call_chunks.run(function, args, kwargs[0], drawing.begin, snapshot=self._snapshot)
            else:
                numbers, *terms = kwargs
                value = job_batches.run(
                    function,
                    args,
                    numbers,
                    call_chunks.Terms(*terms),
                    drawing.begin,
                    _show_figures,
                    snapshot=self._snapshot,
                )
            _show_figures()
        except BaseException as error:  # noqa: BLE001  (SystemExit and KeyboardInterrupt of a task end the task alone)
            return not_loadable(error.__cause__ or error) if type(error) is NotLoaded else failed(error)
        finally:
            sink.close()
        status = _OK
        if type(value) is Hit:
            status, value = _HIT, value.value
        try:
            pickled, out_of_band = pickles.dumps(value)
        except BaseException as error:  # noqa: BLE001  (user code runs while it is pickled; the answer has the error)
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
            return status, *self._laid_down(pickled, out_of_band)
        return status, pickled, ()

    def cannot_run(self, error: Exception) -> Answer:
        """Give the answer of a task that this worker cannot run."""
        return not_loadable(error)

    def _unwrap(self, digest: bytes) -> _LoadedFunction:
        """Take a function out of the envelope that says in which environment it runs."""
        if digest not in self._pickled:
            raise LookupError(f"the function {digest.hex()[:8]} was not sent to this worker")
        body, buffers, restore, has_read_only = self._restorable(*self._pickled[digest])
        environment = None
        if is_envelope(body):
            envelope = pickles.loads(body, buffers)
            environment, body, buffers = envelope.environment, envelope.body, envelope.buffers
        known = _LoadedFunction(self._environments.known(environment), body, buffers, restore, has_read_only)
        self._functions[digest] = known
        return known

    def _open(self, known: _LoadedFunction) -> Callable[..., object]:
        """Open a function, or the setups that come before it, in its environment."""
        function = self._load(known, known.body, known.buffers)
        known.body, known.buffers = b"", ()
        return function

    def _load(self, known: _LoadedFunction, body: Buffer, buffers: Sequence[Buffer]) -> Callable[..., object]:
        main = task_main.new()
        task_main.enter(main, loads_function=True)
        function: Callable[..., object]
        function, made = random_streams.loaded(lambda: pickles.loads(body, buffers))
        if type(function) is not Prepared:  # what setups change stays
            function = restoring.restored(function, known.restore, has_read_only=known.has_read_only)
        task_main.enter(main)
        if not callable(function):
            raise TypeError(f"a task's function has to be callable, this is a {type(function).__name__}")
        known.function, known.main, known.made = function, main, made
        return function

    # ------------------------------------------------------------------------------------------------ shared memory

    def _whole(self, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]) -> tuple[Buffer, Sequence[Buffer]]:
        """Give the pickle of a task's arguments, and its buffers, which are the task's own to change."""
        whole = joined(sizes, buffers, lambda slice_: self._shelf.map_watched(slice_, self._looks.append))
        return (body, whole) if body else (whole[0], whole[1:])

    def _restorable(
        self, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]
    ) -> tuple[Buffer, Sequence[Buffer], Sequence[Callable[[], None]], bool]:
        """Give the pickle of a function and its buffers, and what makes those again what they were.

        And whether some cannot be made what they were, and so are read-only.
        """
        travelled = iter(buffers)
        if sizes and not body:
            body = self._shelf.read(sizes[0]) if isinstance(sizes[0], Slice) else next(travelled)
            sizes = sizes[1:]
        parts: list[Buffer] = []
        mapped: list[Any] = []
        restore: list[Callable[[], None]] = []
        has_read_only = False
        for size in sizes:
            if isinstance(size, Slice):
                mapped.append(self._shelf.map(size))
                parts.append(memoryview(mapped[-1]).cast("B"))
            elif size <= COMPARED_BYTES_MAX:
                copy = Copy(next(travelled))
                parts.append(copy.own)
                restore.append(copy.restore)
            else:
                parts.append(memoryview(next(travelled)).toreadonly())
                has_read_only = True
        if mapped:
            restore.append(Restorer(mapped).restore)
        return body, parts, restore, has_read_only

    def _laid_down(self, pickled: bytes, buffers: Sequence[memoryview]) -> tuple[Buffer, Sequence[Buffer | Slice]]:
        """Put a large result into shared memory, if there is any."""
        if not segments.is_available():
            return pickled, buffers
        whole: list[Buffer | Slice] = []
        for buffer in (memoryview(pickled), *buffers) if len(pickled) >= pickles.OUT_OF_BAND_BYTES else buffers:
            slice_ = self._snapshots.pop(address_of(buffer), None) if self._snapshots else None
            slice_ = slice_ or self._place(buffer)
            whole.append(buffer if slice_ is None else slice_)
            if slice_ is not None and slice_.segment not in self._announced:
                self._announce(slice_.segment)
        return (pickled, whole) if len(pickled) < pickles.OUT_OF_BAND_BYTES else (b"", whole)

    def _place(self, buffer: memoryview) -> Slice | None:
        if self._store is None:
            self._store = ObjectStore(recognise=False, resident_bytes=RESIDENT_BYTES)
        return self._store.put(buffer)

    def _snapshot(self, buffer: memoryview) -> bytearray | memoryview:
        """Copy a buffer of an item's result, which the next item may change: to where it will lie anyway."""
        slice_ = self._place(buffer) if segments.is_available() else None
        if slice_ is None or self._store is None:
            return bytearray(buffer)
        copy = self._store.view(slice_)
        self._snapshots[address_of(copy)] = slice_
        return copy

    def _forget_snapshots(self) -> None:
        assert self._store is not None
        self._store.release(self._snapshots.values(), clean=False)
        self._snapshots.clear()

    def _announce(self, segment: bytes) -> None:
        assert self._store is not None
        handle = self._store.handle(segment)
        assert handle is not None
        self._announced.add(segment)
        self._news.append(AddSegment(handle.segment, handle.pid, handle.fd, handle.size))

    def keeps(self) -> bool:
        """Say whether something of the task that has run still refers to shared memory of its arguments."""
        looks, self._looks = self._looks, []
        return any(look() is not None for look in looks)

    def heard(self, order: AddSegment | RemoveSegments | ReleaseSlices) -> None:
        """Learn what there is of shared memory."""
        if isinstance(order, AddSegment):
            try:
                self._shelf.add(segments.SegmentHandle(order.segment, order.pid, order.fd, order.size))
            except segments.CannotOpen as error:  # a task that needs it will say so, too
                print(f"worker cannot share memory: {error}", file=sys.stderr)  # noqa: T201  (the slave's log)
        elif isinstance(order, RemoveSegments):
            self._shelf.drop(order.segments)
        elif self._store is not None:
            self._store.release(order.slices, clean=order.clean)

    def news(self) -> Sequence[AddSegment | RemoveSegments]:
        """Tell what has changed in our own shared memory since the last call."""
        if self._store is not None:
            now = time.monotonic()
            if self._store.stored_count != self._placings:
                self._placings, self._placed_s = self._store.stored_count, now
            # A worker that goes on with small results does not need it any more, either.
            if closed := self._store.tidy(0 if now - self._placed_s >= REST_AFTER_S else None):
                self._announced.difference_update(closed)
                self._news.append(RemoveSegments(closed))
        news, self._news = self._news, []
        return news

    def rest(self) -> None:
        """Give back the memory that is kept for the next results."""
        if self._store is not None and (closed := self._store.tidy(0)):
            self._announced.difference_update(closed)
            self._news.append(RemoveSegments(closed))

    def shares_memory(self) -> bool:
        """Say whether others may look at memory of ours, which comes back."""
        return bool(self._announced)


def _show_figures() -> None:
    """Show the figures that a task has left open."""
    if "matplotlib.pyplot" in sys.modules:
        from concurrent_nb.shipping.runtime import figures  # here, because it needs matplotlib, which the task has

        figures.show_open()


# ---------------------------------------------------------------------------------------------------- the process


class _Displays(importlib.abc.MetaPathFinder):
    """Give IPython's `display` to tasks that import it: theirs comes to the cell that waits for them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "IPython.core.display_functions":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_replace(module: types.ModuleType) -> None:
                execute(module)
                module.display = notes.display  # type: ignore[attr-defined]

            spec.loader.exec_module = execute_and_replace  # type: ignore[method-assign]
        return spec


def work(ends: WorkerChannels, initializer: bytes = b"") -> None:
    """Be a worker until the slave wants no more.

    Args:
        initializer: pickle of a function and its arguments, called before the first task.
    """
    process_setup.close_all_but(frozenset(ends))
    process_setup.enter_own_group()
    process_setup.hang_on(ends.parent_death_pipe)
    process_setup.take_standard_streams(ends)
    process_setup.forget_main()
    wants_threads = StatusPage(ends.page).uses_threads
    environments = ThreadEnvironments() if wants_threads else Environments()
    EXPLANATION.explain = environments.explain
    hand_on(environments)
    if initializer:
        initialize(initializer, ends, environments)
    try:
        if wants_threads:
            task_main.have_one_for_each_thread()
            ThreadWorkerProcess(ends, partial(seat_here, environments)).serve()
        else:
            runner = TaskRunner(environments)
            serving = TaskLoop(ends, runner)
            runner.send_note = serving.send_note
            nested.note_blocked = serving.note_blocked
            serving.serve()
    except (OSError, ProtocolError) as error:
        print(f"worker ends: {error}", file=sys.stderr)  # noqa: T201  (goes to the slave's log)
        sys.exit(1)


def initialize(initializer: bytes, ends: WorkerChannels, environments: Environments) -> None:
    """Call the user's initializer; where it fails, tell the slave why and exit. What it changes stays."""
    try:
        envelope = pickles.loads(initializer)
        environments.begin(environments.known(envelope.environment))
        function, args = pickles.loads(envelope.body, envelope.buffers)
        function(*args)
        task_main.initialized(unwrapped(function))
        environments.adopt()
    except BaseException as error:  # noqa: BLE001  (user code; the slave gets the traceback, and the user from it)
        report = traceback_of(error)
        with socket.socket(fileno=ends.tasks) as link, contextlib.suppress(OSError):  # a slave that is gone
            link.sendall(pack(encode(NotInitialized(report))))
        sys.exit(1)


def read_initializer() -> bytes:
    """Read what the slave's environment names; what this process starts is not to find it there."""
    fd = os.environ.pop(INITIALIZER_VARIABLE, None)
    return b"" if fd is None else os.pread(int(fd), os.fstat(int(fd)).st_size, 0)


def import_host() -> None:
    """Import what a host of task systems needs, which takes longer than all the rest of an empty system."""
    # Where that fails, the host fails at the same, and says so to whoever waits for it.
    with contextlib.suppress(Exception):
        importlib.import_module("concurrent_nb.nodes.worker.system_host")


def seat_here(environments: Environments, ends: WorkerChannels, out: ThreadStream, err: ThreadStream) -> ThreadWorker:
    """Make the seat of this thread, with functions, shared memory and notes of its own."""
    notes.have_own_sink()
    runner = TaskRunner(environments)
    seat = ThreadWorker(ends, runner, out, err)
    runner.send_note = seat.send_note
    return seat


def main(option: str, fds: str) -> None:
    """Be a template, and in its children a worker; or be one worker."""
    if paths := os.environ.get(SYS_PATH_VARIABLE):
        sys.path[:] = json.loads(paths)  # what the owner can import, its workers can
    manager_proxies.take_key()
    # A notebook's processes have its backend, which tasks cannot use. By name, because it needs matplotlib.
    os.environ["MPLBACKEND"] = "module://concurrent_nb.shipping.runtime.figures"
    builtins.display = notes.display  # type: ignore[attr-defined]  # as notebooks have it
    sys.meta_path.insert(0, _Displays())
    initializer = read_initializer()
    if option == "--fork-server":
        ends = ForkServer(socket.socket(fileno=int(fds)), import_host).serve()
    else:
        ends = WorkerChannels(*map(int, fds.split(",")))
    if ends is not None:
        work(ends, initializer)


if __name__ == "__main__":
    if sys.argv[1:2] not in (["--fork-server"], ["--channels"]) or len(sys.argv) != 3:
        sys.exit(__doc__)  # no argparse: a cold start pays for each import
    main(*sys.argv[1:])
