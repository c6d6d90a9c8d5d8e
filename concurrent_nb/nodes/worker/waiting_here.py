"""A thread that waits for subtasks of its task runs the unstarted ones itself, so they need no other worker.

    result(), wait, as_completed, a job --> WaitingHere --> KeptTasks: claim, or have the master give back
                                                        --> HereRunner --> the future ends

It waits for subtasks that have started elsewhere, and the slave lends its slot meanwhile. Each subtask runs on top of
the waiting task, at most `nesting_max` of them; deeper ones are left to other workers.
"""

import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, Final

from msgspec.structs import replace

from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.client_tasks import TaskEnded, TaskEntry, TaskWrote
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.kept_tasks import KeptTasks, Wait, Wanted
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.worker.run_here import HereRunner, RanHere
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.wire.codec import pack_body
from concurrent_nb.wire.messages import NOTES, OutcomeFrame

#: most tasks that run on top of one another in the main thread, and bytes of its stack for each of them
NESTING_MAX: Final = 256
STACK_BYTES: Final = 32 * 1024
#: ... and in other threads of systems where their stack is small
NESTING_MAX_IN_THREADS: Final = 16
#: how long a thread waits at a time before it looks again, in seconds
PAUSE_S: Final = 0.5
#: tasks are asked for so that they take about this many seconds
ASKED_S: Final = 0.005


def nesting_max(*, is_thread: bool) -> int:
    """Return how many tasks may run on top of one another in this thread."""
    if is_thread and sys.platform != "linux":
        return NESTING_MAX_IN_THREADS
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return NESTING_MAX if stack == resource.RLIM_INFINITY else max(1, min(NESTING_MAX, stack // STACK_BYTES))


class WaitingHere:
    """Waits in one thread for tasks of one application.

    Args:
        kept: the tasks of the application that may not have begun.
        client_thread: of the application.
        runner: runs them.
        slave: name of the slave.
        nesting: how many tasks may run on top of one another.
    """

    def __init__(
        self, kept: KeptTasks, client_thread: ClientThread, runner: HereRunner, slave: str, nesting: int
    ) -> None:
        self._kept = kept
        self._client_thread = client_thread
        self._runner = runner
        self._slave = slave
        self._nesting = nesting
        self._depth = 0
        self._frame: FrameType | None = None  # of the last task that was begun here
        self._last_s = 1.0  # what the last task here has taken

    def wait(self, wanted: Sequence[Wanted], is_over: Callable[[], bool], timeout_s: float | None) -> None:
        """Run tasks and wait, until `is_over` or `timeout_s` seconds have passed. For its own thread."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        kept, may_run = self._kept, self._depth < self._nesting
        wait = Wait(wanted if may_run else ())
        try:
            while not is_over():
                if may_run and (entry := kept.claim(wait)) is not None:
                    self._run(entry)
                    continue
                left_s = PAUSE_S if deadline_s is None else min(PAUSE_S, deadline_s - time.monotonic())
                if left_s <= 0:
                    return
                for job, indexes in kept.ask(wait, max(1, int(ASKED_S / self._last_s))):
                    self._client_thread.call_soon(partial(self._client_thread.take_back, job, indexes))
                with self._lending():
                    kept.pause(wait, is_over, left_s)
        finally:
            self._client_thread.send_again(kept.leave(wait))

    def wake(self) -> None:
        """Have the thread look whether its wait is over."""
        self._kept.wake()

    def run_one(self, job: JobId, index: int) -> None:
        """Run a task if it has not been sent yet."""
        if self._depth < self._nesting:
            entry = self._kept.claim_one(job, index)
            if entry is not None:
                self._run(entry)

    @contextmanager
    def _lending(self) -> Iterator[None]:
        """Lend the slot: this thread waits."""
        since_s, self._client_thread.runs_here_since_s = self._client_thread.runs_here_since_s, None
        if since_s is not None:
            self._client_thread.report_blocked(True)
        try:
            yield
        finally:
            if since_s is not None:
                self._client_thread.runs_here_since_s = time.monotonic()
                self._client_thread.report_blocked(False)

    def _run(self, entry: TaskEntry[TaskHandle]) -> None:
        handle, client_thread = entry.handle, self._client_thread
        if handle.cancelled():
            return
        if entry.job.is_over:
            client_thread.call_soon(handle.end_cancelled)
            return
        begins = partial(handle.note_running, self._slave)
        if type(handle) is not TaskFuture:
            begins = partial(client_thread.call_soon, begins)
        limit, frame, since_s = sys.getrecursionlimit(), self._frame, client_thread.runs_here_since_s
        here = sys._getframe()
        self._depth += 1
        ran: RanHere | None = None
        try:
            self._frame = here
            client_thread.runs_here_since_s = time.monotonic()
            # The task gets as many frames as if it ran alone.
            sys.setrecursionlimit(limit + _frames_between(here, frame))
            ran = self._runner.run(entry, begins)
            if ran is None:
                self._kept.runs_elsewhere(entry)
                client_thread.send_again([entry])
        except BaseException:
            client_thread.call_soon(handle.end_cancelled)  # an interrupt, which is for the task around it
            raise
        finally:
            self._depth -= 1
            self._frame = frame
            client_thread.runs_here_since_s = since_s
            sys.setrecursionlimit(limit)
        if ran is not None:
            self._last_s = ran.elapsed_s + 1e-6
            self._end(entry, ran)

    def _end(self, entry: TaskEntry[TaskHandle], ran: RanHere) -> None:
        handle, client_thread = entry.handle, self._client_thread
        show = client_thread.streams.show
        for stream, text in enumerate(ran.written, 1):
            if text:
                wrote = TaskWrote(entry, ran.attempt, stream, text.encode("utf-8", "surrogatepass"))
                client_thread.call_soon(partial(show, wrote))
        if ran.notes:
            client_thread.call_soon(partial(show, TaskWrote(entry, ran.attempt, NOTES, ran.notes)))
        cpu_us, peak_kib = ran.usage
        frame = OutcomeFrame(
            entry.index,
            ran.attempt,
            ran.status,
            ran.elapsed_s,
            os.getpid(),
            b"",
            cpu_us=cpu_us,
            peak_kib=peak_kib,
        )
        client_thread.ran(entry, frame)
        has_callbacks = type(handle) is not TaskFuture or (handle._has_waiter_state and handle._done_callbacks)
        is_plain = not (has_callbacks or ran.notes or any(ran.written))  # those are shown before the end
        if ran.is_value and is_plain:
            lease = entry.payload.lease
            if lease is not None:
                lease.end(clean=True)
            handle.slave, handle.worker, handle.attempt = self._slave, os.getpid(), ran.attempt
            handle.elapsed_s, handle.usage, handle.status = ran.elapsed_s, ran.usage, Status(ran.status)
            handle.end(ran.value, None)
        else:
            body, sizes, buffers = pack_body(*_pickled(ran))
            ended = TaskEnded(entry, replace(frame, body=body, sizes=sizes), buffers, self._slave)
            if is_plain:
                client_thread.end(ended)
            else:
                client_thread.call_soon(partial(client_thread.end, ended))
        if entry.job.until or entry.job.stop_on_error:
            client_thread.call_soon(partial(client_thread.end_job_after, entry.job, ran.status))


class WaitingThreads:
    """Lets the threads of this process that run tasks wait for tasks of these. Other threads wait as elsewhere."""

    def __init__(self) -> None:
        self._here: dict[int, WaitingHere] = {}  # by thread

    def use(self, thread: int, here: WaitingHere | None) -> None:
        """Set what a thread waits with."""
        if here is None:
            self._here.pop(thread, None)
        else:
            self._here[thread] = here

    def for_future(self, future: TaskFuture[Any], timeout_s: float | None) -> float | None:
        """Wait for the end of a task; return how much of `timeout_s` is left."""
        here = self._here.get(threading.get_ident())
        if here is None:
            return timeout_s
        here.run_one(future.job_id, future.index)
        if future.done():
            return timeout_s
        started_s = time.monotonic()
        here.wait([_wanted(future)], future.done, timeout_s)
        return None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - started_s))

    def for_job(self, job: JobId, is_over: Callable[[], bool], timeout_s: float | None) -> None:
        """Wait until something `is_over` that tasks of a job end, at most `timeout_s` seconds."""
        here = self._here.get(threading.get_ident())
        if here is not None:
            here.wait([Wanted(job, None)], is_over, timeout_s)

    def for_event(self, futures: Iterable[TaskFuture[Any]], event: "_TasksEvent", timeout_s: float | None) -> None:
        """Wait until an event is set, which the ends of these tasks set, at most `timeout_s` seconds."""
        here = self._here.get(threading.get_ident())
        if here is not None:
            event.was_set = here.wake  # futures of other executors may set it
            # The cluster begins with the first of them.
            here.wait([_wanted(future) for future in reversed([*futures])], event.is_set, timeout_s)

    def waiters_of(self, future: TaskFuture[Any]) -> list[Any]:
        """Return a list for those who wait for a future with functions of `concurrent.futures`."""
        return _Waiters(self, future)


class _TasksEvent(threading.Event):
    """An event that tasks set when they end. A thread that waits for it runs those that have not started."""

    def __init__(self, threads: WaitingThreads) -> None:
        super().__init__()
        self._threads = threads
        self.futures: list[TaskFuture[Any]] = []
        self.was_set: Callable[[], None] = _nothing  #: called when it is set

    def set(self) -> None:
        super().set()
        self.was_set()

    def wait(self, timeout: float | None = None) -> bool:
        started_s = time.monotonic()
        if not self.is_set():
            self._threads.for_event([it for it in self.futures if not it.done()], self, timeout)
        left_s = None if timeout is None else max(0.0, timeout - (time.monotonic() - started_s))
        return super().wait(left_s)


class _Waiters(list[Any]):
    """The waiters of a future: each is given an event by which it can run the task while it waits."""

    def __init__(self, threads: WaitingThreads, future: TaskFuture[Any]) -> None:
        super().__init__()
        self._threads = threads
        self._future = future

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        if type(waiter.event) is not _TasksEvent:
            waiter.event = _TasksEvent(self._threads)
        waiter.event.futures.append(self._future)


def _nothing() -> None:
    """Do nothing."""


def _pickled(ran: RanHere) -> tuple[bytes, Sequence[Any]]:
    return (pickles.dumps(ran.value)[0], ()) if ran.is_value else (ran.body, ran.buffers)


def _wanted(future: TaskFuture[Any]) -> Wanted:
    # An item of a batch travels in a task with another index.
    is_batched = future.job is not None and future.job._is_batched
    return Wanted(future.job_id, None if is_batched else future.index)


def _frames_between(frame: FrameType, outer: FrameType | None) -> int:
    """Return how many frames a thread has entered since `outer`, or since its start (None)."""
    count = 0
    at: FrameType | None = frame
    while at is not None and at is not outer:
        count += 1
        at = at.f_back
    return count
