"""The engine "inline": workers that are threads of this process, one by default. For tests, and to debug tasks.

    Pool (slave's thread) -- channels --> InlineWorker, a thread: TaskLoop + InlineRunner

The pool is a slave's; only its launcher differs. Tasks see this process's modules, variables and folder, so nothing of
the environment is restored after them. A task that does not heed an interrupt cannot be killed: its thread is given up,
goes on until it returns, and another one takes its place.
"""

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TextIO, cast

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.nodes.common import nested
from concurrent_nb.nodes.common.wakeup import Wakeup
from concurrent_nb.nodes.worker.process import TaskRunner
from concurrent_nb.shipping.environment.entering import Environments, LoadedEnvironment
from concurrent_nb.shipping.environment.envelope import Environment
from concurrent_nb.shipping.environment.loader import ModuleSet
from concurrent_nb.shipping.runtime import notes
from concurrent_nb.shipping.runtime.setup_runner import FunctionWithSetups
from concurrent_nb.shipping.serialization import pickles, random_streams, restoring
from concurrent_nb.wire.codec import ItemBuffers
from concurrent_nb.wire.messages import Assign
from concurrent_nb.workers.protocol.channels import WorkerChannels
from concurrent_nb.workers.protocol.records import Buffer
from concurrent_nb.workers.slave_side.launchers import Event, ProcessEnded, ProcessStarted
from concurrent_nb.workers.slave_side.pool import Pool
from concurrent_nb.workers.worker_side.process_setup import open_for_writing
from concurrent_nb.workers.worker_side.task_loop import Call, TaskResult
from concurrent_nb.workers.worker_side.thread_workers import ThreadStream, ThreadWorker

log = logging.getLogger(__name__)


class InlineWorkers(Pool):
    """A pool whose workers are threads of this process."""

    def __init__(self, slots: int = 1) -> None:
        super().__init__(slots, InlineLauncher(), stopped_s=0, hung_disk_s=0)  # a stopped process cannot see itself

    def assign(self, run: Assign, buffers: ItemBuffers, now: float) -> None:
        """Run these attempts, those for threads as all others. Libraries keep the number of threads that they have."""
        if run.needs is not None and run.needs.kind != "system_host":
            run = msgspec.structs.replace(run, needs=None)
        super().assign(run, buffers, now)


class OwnEnvironment(Environments):
    """The environment of this process, which every task finds as it is."""

    def __init__(self) -> None:  # nothing of the base class's: it would change how this process imports modules
        self._present = LoadedEnvironment(None, ModuleSet())

    def load(self, environment: Environment | None) -> LoadedEnvironment:
        """Return the environment of this process, and ignore the one that was sent."""
        return self._present

    def begin(self, loaded: LoadedEnvironment) -> bool:
        """Return True: it is entered already."""
        return True

    def end(self) -> None:
        """Do nothing."""

    def restore_for(self, job: bytes, function: bytes, always: bool = False) -> None:
        """Do nothing."""

    def task_variables(self) -> dict[str, str]:
        """Return none."""
        return {}

    def keep_changes(self, task_variables: Mapping[str, str] = MappingProxyType({})) -> None:
        """Do nothing: changes stay."""


class InlineRunner(TaskRunner):
    """Runs tasks in the user's process, whose `__main__` and figures stay as they are."""

    def __init__(self) -> None:
        super().__init__(OwnEnvironment())
        self.show_figures = lambda: None  # they may be the user's

    def _load(self, loaded: Any, body: Buffer, buffers: Sequence[Buffer]) -> Callable[..., object]:
        function: Callable[..., object]
        function, generators = random_streams.load_with_generators(lambda: pickles.loads(body, buffers))
        if type(function) is not FunctionWithSetups:  # changes of setups stay
            function = restoring.with_restore(function, loaded.restore, has_read_only=loaded.has_read_only)
        if not callable(function):
            raise TypeError(f"a task's function must be callable, this is a {type(function).__name__}")
        loaded.function, loaded.generators = function, generators
        return function

    def close(self) -> None:
        """Close the shared memory of others and our own."""
        self._segments.close()
        if self._store is not None:
            self._store.close()


class InlineStreams:
    """Replaces the standard streams of this process while tasks run, so that each thread may have its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)
        self._ours: tuple[ThreadStream, ThreadStream] | None = None

    def enter(self) -> tuple[ThreadStream, ThreadStream]:
        """Return the streams, which this thread may set for itself."""
        with self._lock:
            self._users += 1
            if self._ours is None:
                self._before = sys.stdout, sys.stderr
                self._ours = ThreadStream(self._before[0]), ThreadStream(self._before[1])
                sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], self._ours)
            return self._ours

    def leave(self) -> None:
        """Put the streams back when no task runs any more, unless the user has replaced them meanwhile."""
        with self._lock:
            self._users -= 1
            if self._users or self._ours is None:
                return
            ours, self._ours = self._ours, None
            if sys.stdout is ours[0]:
                sys.stdout = self._before[0]
            if sys.stderr is ours[1]:
                sys.stderr = self._before[1]


_STREAMS: Final = InlineStreams()


class InlineWorker(ThreadWorker):
    """Serves the pool in a thread of the user's process; prints are captured in that thread, while a task runs."""

    def __init__(self, channels: WorkerChannels, runner: InlineRunner) -> None:
        self._page_fd = channels.page
        self._out, self._err = (open_for_writing(fd) for fd in (channels.out, channels.err))
        super().__init__(channels, runner, ThreadStream(sys.stdout), ThreadStream(sys.stderr))

    def _reopen_streams(self) -> None:
        for stream, own in zip(self._thread_streams, (self._out, self._err), strict=True):
            stream.use(own)

    def _restore_streams(self) -> None:
        """Do nothing: outside of tasks the streams are the user's."""

    def _run_attempt(self, ticket: int, task: tuple[bytes, int], function: bytes, *call: *Call) -> TaskResult:
        self._thread_streams = _STREAMS.enter()
        self._streams = cast(tuple[TextIO, TextIO], self._thread_streams)
        self._reopen_streams()
        try:
            return super()._run_attempt(ticket, task, function, *call)
        finally:
            _STREAMS.leave()

    def close(self) -> None:
        """Close all descriptors of this worker."""
        super().close()
        self._page.close()
        for fd in (self._tokens, self._page_fd, *self._pipes):
            os.close(fd)


class InlineLauncher:
    """Starts workers as threads. Implements `workers.slave_side.launchers.Launcher`."""

    def __init__(self) -> None:
        self._workers: dict[int, InlineWorker | None] = {}  # None until its thread has begun
        self._threads: dict[int, threading.Thread] = {}
        self._events: deque[Event] = deque()
        self._wake = Wakeup()

    def launch(self, worker: int, channels: WorkerChannels) -> list[Event]:
        """Start a thread, with duplicates of the channels."""
        own = WorkerChannels(*map(os.dup, channels))
        thread = threading.Thread(target=self._run, args=(worker, own), name="concurrent_nb inline", daemon=True)
        self._workers[worker], self._threads[worker] = None, thread
        thread.start()
        return [ProcessStarted(worker, os.getpid())]

    def _run(self, worker: int, channels: WorkerChannels) -> None:
        notes.use_thread_sink()
        # The application of this process would wait for a thread that waits for it, and its tasks would run in another
        # `__main__` than the user's, which cannot be exchanged while the user works in it.
        nested.THREAD.engine = "inline"
        runner = InlineRunner()
        loop = InlineWorker(channels, runner)
        runner.send_note = loop.send_note
        if worker in self._workers:
            self._workers[worker] = loop
        reason = "ended"
        try:
            loop.serve()
        except (OSError, ProtocolError) as error:  # the pool has given this thread up, or is gone
            reason = str(error)
        finally:
            loop.close()
            runner.close()
            if self._threads.pop(worker, None) is not None:
                self._events.append(ProcessEnded(worker, reason))
                self._wake.set()

    def prepare_system_host(self) -> None:
        """Do nothing: what it needs is imported when it is needed."""

    def interrupt(self, worker: int) -> None:
        """Raise KeyboardInterrupt in the thread, at its next bytecode."""
        if (loop := self._workers.get(worker)) is not None:
            loop.interrupt()

    def write_stack(self, worker: int, thread: int) -> None:
        """Do nothing: the user's process takes no signals for this, and a debugger shows the thread."""

    @property
    def server_pid(self) -> int:
        """Return 0: this process starts the threads."""
        return 0

    def end_server(self, how: str) -> None:
        """Do nothing: there is none."""

    def kill(self, worker: int) -> None:
        """Give the thread up: it cannot be ended, and goes on until its task returns."""
        if self._threads.pop(worker, None) is not None:
            log.warning("a task of the engine 'inline' does not heed its interrupt: its thread goes on until it ends")
            self._events.append(ProcessEnded(worker, "could not be stopped, as threads cannot"))
            self._wake.set()

    def fds(self) -> list[int]:
        """Return the descriptor that becomes readable when there are events."""
        return [self._wake.fileno()]

    def take_events(self) -> list[Event]:
        """Return which threads have ended."""
        self._wake.clear()
        events: list[Event] = []
        while self._events:
            events.append(self._events.popleft())
            self._workers.pop(events[-1].worker, None)
        return events

    def stderr_tail(self) -> str:
        """Return nothing: threads write where this process writes."""
        return ""

    def close(self, wait_s: float) -> None:
        """Wait for the threads, whose channels are closed by now."""
        for thread in list(self._threads.values()):
            thread.join(wait_s)
        self._wake.close()
