"""The worker's loop: take a token, run a task, send its result. Tasks run in the main thread, so they may fork.
(Where tasks share a process, each of its threads runs such a loop: see `thread_workers`.)

`nodes.worker.process` passes a `Runner` that loads functions and runs tasks. The loop decides the order, what is
interrupted, which task output belongs to, and when results are sent: when no task is left to run, after some time, when
a task has printed, failed or returned a Hit, or when a result is large. Results that are not sent yet are in the status
page, where the slave finds them if the next task is slow or kills the worker.
"""

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import FrameType
from typing import Final, Protocol, TextIO

from concurrent_nb.outcome import Status
from concurrent_nb.wire.bound_tasks import ResultParts, bind
from concurrent_nb.wire.messages import Sizes, Slice, TaskKind
from concurrent_nb.workers.protocol.channels import WorkerChannels
from concurrent_nb.workers.protocol.output_markers import marker
from concurrent_nb.workers.protocol.records import (
    LARGE_BYTES,
    SLAVE_HEADER_BYTES_MAX,
    AddSegment,
    Buffer,
    ClusterAt,
    ForgetFunctions,
    LoadFunction,
    NoteRecord,
    RecordReader,
    ReleaseSlices,
    RemoveSegments,
    RunTasks,
    decode_slave_record,
    encode,
    lengths,
    pack,
    pack_results,
)
from concurrent_nb.workers.protocol.status_page import UNSENT_BYTES_MAX, StatusPage
from concurrent_nb.workers.worker_side.library_threads import LibraryThreads
from concurrent_nb.workers.worker_side.process_setup import put_null_on_standard_input, reopen_stream
from concurrent_nb.workers.worker_side.usage_meter import CpuClock, UsageMeter

#: how long results may be held while more tasks can run, in seconds
FLUSH_S: Final = 0.04
#: ... but not that of a task that ran for so long if at most one other can run: the application may send no more before
#: it has it, and that may take as long as the other one runs
PROMPT_S: Final = 0.001
#: larger results are sent immediately
UNSENT_RESULT_BYTES_MAX: Final = 16 * 1024
#: a note is cut into records of this size
NOTE_BYTES_MAX: Final = 64 * 1024
#: how many results may be held
UNSENT_RESULTS_MAX: Final = 256

# A name in a module is found faster than a member of an enumeration, or than a name in another module.
_ioctl: Final = fcntl.ioctl
_monotonic: Final = time.monotonic
_UNREAD: Final = termios.FIONREAD  #: asks how many bytes a pipe holds that nobody has read
_HIT: Final = int(Status.HIT)
_NOTHING_UNREAD: Final = bytes(8)
_CANCELLED: Final = int(Status.CANCELLED)
_OK: Final = int(Status.OK)
_INPUT_GONE: Final = int(Status.INPUT_GONE)
_BOUND: Final = int(TaskKind.BOUND)

#: an idle worker releases the memory for the next results after this many seconds
IDLE_S: Final = 5.0

#: which task: its job, and its index there
TaskId = tuple[bytes, int]
#: ticket, threads (see `RunTasks`), task, function, kind, body, sizes, buffers
QueuedTask = tuple[int, int, TaskId, bytes, int, Buffer, Sizes, Sequence[Buffer]]
#: Status, pickled value or encoded ErrorReport, and its buffers: those to be sent, and slices of shared memory
TaskResult = tuple[int, Buffer, Sequence[Buffer | Slice]]
#: a task's kind, its body, and the sizes and contents of its buffers: the last arguments of `Runner.run`
Call = tuple[int, Buffer, Sizes, Sequence[Buffer]]


class Runner(Protocol):
    """Unpickles functions and arguments and runs tasks. `run` may raise nothing that a task has raised."""

    def load(self, digest: bytes, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]) -> None:
        """Keep a function."""

    def drop(self, digests: Sequence[bytes]) -> None:
        """Forget functions."""

    def prepare(self, task: TaskId, digest: bytes) -> None:
        """Undo the changes of tasks of another job or function, before anything is changed for this task."""

    def run(
        self, task: TaskId, digest: bytes, kind: int, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]
    ) -> TaskResult:
        """Run a task of this `TaskKind`. A KeyboardInterrupt from outside may be treated as the task's own."""

    def keeps_arguments(self) -> bool:
        """Return whether anything still refers to shared memory of the last task's arguments."""

    def update_memory(self, order: AddSegment | RemoveSegments | ReleaseSlices) -> None:
        """Update the segments of others, or release slices of our own."""

    def memory_changes(self) -> Sequence[AddSegment | RemoveSegments]:
        """Return the changes of our own shared memory since the last call."""

    def has_new_segments(self) -> bool:
        """Return whether results may refer to shared memory that `memory_changes` has not returned yet."""

    def release_memory(self) -> None:
        """Release the memory that is kept for the next results."""

    def has_shared_memory(self) -> bool:
        """Return whether others may use memory of ours, which they will release."""

    def cannot_run(self, error: Exception) -> TaskResult:
        """Return the result of a task that cannot be run in this worker."""

    def use_cluster(self, where: str, slave: str) -> None:
        """Note where the cluster is (see `ClusterAt`), and the slave's name, for applications in tasks."""

    def own_threads(self) -> frozenset[threading.Thread]:
        """Return the threads that belong to the runner, and to no task."""


def has_partial_import() -> bool:
    """Return whether an import was interrupted: sys.modules lacks a package, but has a module of it."""
    modules = sys.modules.copy()
    return any(parent and parent not in modules for parent in (name.rpartition(".")[0] for name in modules))


class TaskLoop:
    """Serve one slave until it closes the pipe of tokens."""

    def __init__(self, channels: WorkerChannels, runner: Runner, cpu_clock: CpuClock = time.process_time) -> None:
        self._runner = runner
        self._meter = UsageMeter(cpu_clock)
        self._socket = socket.socket(fileno=channels.tasks)
        self._tokens = channels.tokens
        self._page = StatusPage(channels.page)
        self._pipes = (channels.out, channels.err)
        self._reader = RecordReader(decode_slave_record, header_bytes_max=SLAVE_HEADER_BYTES_MAX)
        self._queue: deque[tuple[int, QueuedTask]] = deque()  # with their epochs
        self._leaders: dict[int, int] = {}  # by ticket of a queued task: that of the one whose result it needs
        # ticket, task, status and pickle of the last result; the pickle only if it is short and there are no buffers
        self._last: tuple[int, TaskId, int, Buffer] = (0, (b"", 0), _CANCELLED, b"")
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._last_flush = 0.0
        self._seen_reads = (0, 0)
        self._unread_counts = bytearray(8)  # of both pipes, as the system writes them
        self._unread_count = tuple(memoryview(self._unread_counts)[at : at + 4] for at in (0, 4))
        self._armed = 0  # ticket of the task that a signal may interrupt
        self._sending = threading.Lock()  # a task's threads may send notes
        self._defers_interrupts = False  # while a record is sent, an interrupt is deferred
        self._has_deferred_interrupt = False
        self._foreign_threads: frozenset[threading.Thread] = frozenset()  # threads that former tasks have left
        self._is_fork = False
        self._interrupted = 0  # ticket of the task that a signal has interrupted
        self._streams: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)
        self._poll = select.poll()
        self._poll.register(self._tokens, select.POLLIN)
        self._memory_released = True
        self._polls_socket = False  # whether the socket is polled, besides the tokens

    def serve(self) -> None:
        """Run tasks until the slave closes the pipe of tokens.

        Raises OSError if the slave has gone, ProtocolError if it sends what is no order."""
        self._prepare()
        os.register_at_fork(after_in_child=self._on_fork)
        self._socket.sendall(pack_results([]))  # ready
        while (epoch := self._take_token()) is not None:
            self._run(*self._next(epoch))
            if self._interrupted and has_partial_import():
                # Cannot be repaired: compiled modules cannot be imported twice. The slave starts another worker.
                self._flush()
                return
            self._interrupted = 0

    def _prepare(self) -> None:
        """Prepare for the first task."""
        signal.signal(signal.SIGINT, self._on_interrupt)

    # ---------------------------------------------------------------------------------------------------- receiving

    def _take_token(self) -> int | None:
        """Wait for a token, which permits one task; return its epoch. None if there will be no more."""
        while True:
            try:
                token = os.read(self._tokens, 1)
            except BlockingIOError:
                self._flush()
                self._wait()
                continue
            return token[0] if token else None

    def _count_tokens(self) -> int:
        """Return how many tasks may begin now, one after another."""
        count = bytearray(4)
        _ioctl(self._tokens, _UNREAD, count)
        return int.from_bytes(count, sys.byteorder)

    def _wait(self) -> None:
        """Wait for a token. Accept memory that is released meanwhile, and free it when the worker has been idle."""
        ready = self._poll.poll(None if self._memory_released else IDLE_S * 1000)
        if not ready:
            self._release_memory()
        if self._polls_socket:
            self._polls_socket = False
            self._poll.unregister(self._socket)
        if not ready and self._runner.has_shared_memory():
            self._polls_socket = True
            self._poll.register(self._socket, select.POLLIN)
        elif any(fd == self._socket.fileno() for fd, _ in ready):
            self._receive()

    def _release_memory(self) -> None:
        while select.select([self._socket], [], [], 0)[0]:  # releases may have arrived since the last task
            self._receive()
        self._memory_released = True
        self._runner.release_memory()
        self._send([pack(encode(change)) for change in self._runner.memory_changes()])

    def _next(self, epoch: int) -> QueuedTask:
        """Return the first task of this epoch. The slave has withdrawn those of older epochs."""
        while True:
            while self._queue:
                task_epoch, work = self._queue.popleft()
                if task_epoch == epoch:
                    return work
                self._leaders.pop(work[0], None)
            self._flush()
            self._receive()

    def _receive(self) -> None:
        received = self._socket.recv_into(self._reader.get_buffer())
        if not received:
            raise ConnectionError("the slave has closed its end")
        for order, buffers in self._reader.buffer_updated(received):
            if isinstance(order, RunTasks):
                self._enqueue(order, buffers)
            elif isinstance(order, LoadFunction):
                self._runner.load(order.digest, order.body, order.sizes, buffers)
            elif isinstance(order, ForgetFunctions):
                self._runner.drop(order.digests)
            elif isinstance(order, ClusterAt):
                self._runner.use_cluster(order.where, order.slave)
            else:
                self._runner.update_memory(order)
                if isinstance(order, ReleaseSlices):
                    self._memory_released = False  # there is memory to free

    def _enqueue(self, order: RunTasks, buffers: Sequence[Buffer]) -> None:
        function, epoch, threads, job = order.function, order.epoch, order.threads, order.job
        if order.behind:
            leader = order.behind
            for task in order.tasks:
                self._leaders[task[0]], leader = leader, task[0]
        if not buffers:
            self._queue.extend(
                [
                    (epoch, (ticket, threads, (job, index), function, kind, body, sizes, ()))
                    for ticket, body, sizes, index, kind in order.tasks
                ]
            )
            return
        at = 0
        for ticket, body, sizes, index, kind in order.tasks:
            count = len(lengths(sizes))
            self._queue.append(
                (epoch, (ticket, threads, (job, index), function, kind, body, sizes, buffers[at : at + count]))
            )
            at += count

    # ------------------------------------------------------------------------------------------------- one task

    def _run(self, ticket: int, threads: int, task: TaskId, function: bytes, *call: *Call) -> None:
        page = self._page
        self._note_foreign_threads()
        started_at = _monotonic()
        page.begin(ticket, started_at)
        if self._meter.reads:
            self._meter.begin()
        if self._leaders and (leader := self._leaders.pop(ticket, 0)):
            status, body_out, buffers_out = self._run_follower(leader, ticket, task, function, *call)
        elif threads:
            status, body_out, buffers_out = self._run_with_threads(threads, ticket, task, function, *call)
        else:
            status, body_out, buffers_out = self._run_attempt(ticket, task, function, *call)
        self._last = (ticket, task, status, b"" if buffers_out or len(body_out) >= LARGE_BYTES else body_out)
        keeps_arguments = bool(call[2]) and self._runner.keeps_arguments()
        wrote = self._write_markers(ticket)
        now = _monotonic()
        if len(body_out) >= LARGE_BYTES:
            body_out, buffers_out = b"", [body_out, *buffers_out]
        out: Sizes = ()
        travels: list[Buffer] = []
        if buffers_out:
            out = tuple([it if isinstance(it, Slice) else memoryview(it).nbytes for it in buffers_out])
            travels = [it for it in buffers_out if not isinstance(it, Slice)]
            self._memory_released = False  # our shared memory may have changed
        elapsed_s = now - started_at
        cpu_us, peak_kib = self._meter.end(elapsed_s)
        result = encode((ticket, status, elapsed_s, body_out, out, wrote, keeps_arguments, now, cpu_us, peak_kib))
        self._unsent.append(result)
        # The slave could not read results in the page that refer to a segment that it does not know.
        if travels or len(result) > UNSENT_RESULT_BYTES_MAX or (out and self._runner.has_new_segments()):
            page.sending(ticket)
            page.end()
            self._flush(travels)
            return
        self._unsent_bytes = page.keep_unsent(len(self._unsent), self._unsent_bytes, result)
        page.end()
        if (
            wrote
            or (status and status != _INPUT_GONE)  # the application may wait for a hit or an error
            or now - self._last_flush >= FLUSH_S
            or (elapsed_s >= PROMPT_S and self._count_tokens() < 2)
            or len(self._unsent) >= UNSENT_RESULTS_MAX
            or self._unsent_bytes > UNSENT_BYTES_MAX - UNSENT_RESULT_BYTES_MAX
        ):
            self._flush()

    def _note_foreign_threads(self) -> None:
        if threading.active_count() > 1 or self._foreign_threads:
            left = frozenset(threading.enumerate()) - {threading.main_thread()}
            self._foreign_threads = left - self._runner.own_threads()
            self._page.note_left_threads(bool(self._foreign_threads))

    def _run_follower(self, leader: int, ticket: int, task: TaskId, function: bytes, *call: *Call) -> TaskResult:
        """Run a task with the result of the one before, if that has just succeeded here."""
        last, (job, index), status, result = self._last
        if last != leader or status != _OK or not result:
            return _INPUT_GONE, b"", ()
        parts = ResultParts(job, index, bytes(result), (), ())
        kind, body, sizes, buffers = call
        bound, sizes, buffers = bind(kind, bytes(body), sizes, buffers, [parts])
        return self._run_attempt(ticket, task, function, _BOUND, bound, sizes, buffers)

    def _run_with_threads(self, threads: int, ticket: int, task: TaskId, function: bytes, *call: *Call) -> TaskResult:
        """Run a task whose libraries use this many threads. The task cannot be interrupted before it begins."""
        try:
            self._runner.prepare(task, function)  # first, because it would also restore the numbers of threads
            library_threads = LibraryThreads(threads)
        except Exception as error:  # noqa: BLE001  (libraries and settings are the user's; the result has the error)
            return self._runner.cannot_run(error)
        try:
            return self._run_attempt(ticket, task, function, *call)
        finally:
            library_threads.undo()

    def _run_attempt(self, ticket: int, task: TaskId, function: bytes, *call: *Call) -> TaskResult:
        """Run the task unless it has been stopped already. If a signal ends it, it is cancelled."""
        try:
            self._armed = ticket
            if self._page.to_stop == ticket:
                self._disarm()
                return _CANCELLED, b"", ()
            result = self._runner.run(task, function, *call)
            self._disarm()
            if self._is_fork:
                self._exit_fork(result[0])
        except KeyboardInterrupt:  # raised just before or after the task itself
            self._disarm()
            return _CANCELLED, b"", ()
        if self._interrupted == ticket and result[0] > _HIT:
            return _CANCELLED, b"", ()
        return result

    def _disarm(self) -> None:
        """Disable interrupts."""
        self._armed = 0

    def _on_fork(self) -> None:
        self._is_fork = True

    def _exit_fork(self, status: int) -> None:
        """Exit from a process that a task has forked and that has returned from the task as if it were the worker."""
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(status > _HIT)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._take_interrupt():
            raise KeyboardInterrupt

    def _take_interrupt(self) -> bool:
        """Return whether the running task is to be interrupted now, True only once.

        Else the signal is stray, or too early.
        """
        armed = self._armed
        if not armed or self._page.to_stop != armed:
            return False
        self._armed = 0
        self._interrupted = armed
        self._has_deferred_interrupt = self._defers_interrupts
        return not self._defers_interrupts

    def note_blocked(self, is_blocked: bool) -> None:
        """Record whether the running task waits for tasks of its own. Any thread of the worker may call it."""
        self._page.block(is_blocked)

    # -------------------------------------------------------------------------------------------------- notes

    def send_note(self, data: bytes) -> None:
        """Send the next bytes of stream 3 of the running task. Any thread of the task may call it.

        Bytes are dropped if no task runs, or if they come from a thread of a former task, from a process that the task
        has forked, or from a signal handler that has interrupted this function.
        """
        ticket = self._page.ticket
        if not ticket or self._is_fork or threading.current_thread() in self._foreign_threads:
            return
        records = [
            pack(encode(NoteRecord(ticket, data[at : at + NOTE_BYTES_MAX])))
            for at in range(0, len(data), NOTE_BYTES_MAX)
        ]
        if not self._is_own_thread():
            self._send(records)
            return
        if self._defers_interrupts:  # in a signal handler, while this thread holds the lock
            return
        self._defer_interrupts()
        try:
            self._send(records)
        finally:
            self._resume_interrupts()

    def _is_own_thread(self) -> bool:
        """Return whether this is the thread that runs tasks, which may be interrupted."""
        return threading.current_thread() is threading.main_thread()

    def _defer_interrupts(self) -> None:
        self._defers_interrupts = True

    def _resume_interrupts(self) -> None:
        """Raise the KeyboardInterrupt that was deferred, if any."""
        self._defers_interrupts = False
        if self._has_deferred_interrupt:
            self._has_deferred_interrupt = False
            raise KeyboardInterrupt

    # ------------------------------------------------------------------------------------------------- output

    def _write_markers(self, ticket: int) -> int:
        """Write the task's marker into each pipe that it has written to; return which, as bits."""
        out, err = self._streams
        try:
            if sys.stdout is not out or sys.stderr is not err:
                self._restore_streams()
            out.flush()
            err.flush()
        except (OSError, ValueError, AttributeError):  # the task has closed, redirected or deleted them
            self._reopen_streams()
        # In this order: bytes that are no longer in the pipe were taken by a read that is counted by now.
        (out_pipe, err_pipe), (out_count, err_count) = self._pipes, self._unread_count
        _ioctl(out_pipe, _UNREAD, out_count)
        _ioctl(err_pipe, _UNREAD, err_count)
        reads = self._page.reads()
        if self._unread_counts == _NOTHING_UNREAD and reads == self._seen_reads:
            return 0
        wrote = 0
        for index in (0, 1):
            if any(self._unread_count[index]) or reads[index] != self._seen_reads[index]:
                self._write_marker(self._pipes[index], ticket)
                wrote |= index + 1
        # An odd number: the slave is reading now, and may take what the next task writes. So this read counts as new.
        self._seen_reads = (reads[0] & ~1, reads[1] & ~1)
        return wrote

    def _write_marker(self, pipe: int, ticket: int) -> None:
        while True:
            try:
                os.write(pipe, marker(self._page.nonce, ticket))
            except BlockingIOError:  # the task has made the pipe non-blocking
                os.set_blocking(pipe, True)
            else:
                return

    def _restore_streams(self) -> None:
        """Restore our standard streams where a task has replaced them, after flushing the task's."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        sys.stdout, sys.stderr = self._streams

    def _reopen_streams(self) -> None:
        self._restore_descriptors()
        self._streams = reopen_stream(1), reopen_stream(2)

    def _restore_descriptors(self) -> None:
        try:
            os.fstat(0)
        except OSError:  # the next file that is opened would be the standard input
            put_null_on_standard_input()
        for fd, pipe in enumerate(self._pipes, 1):
            os.dup2(pipe, fd)

    # ------------------------------------------------------------------------------------------------------ sending

    def _flush(self, buffers: Sequence[Buffer] = ()) -> None:
        """Send all results. `buffers` belong to the last one."""
        if not self._unsent:
            return
        memory_changes = (
            [] if self._memory_released else [pack(encode(change)) for change in self._runner.memory_changes()]
        )
        self._send([*memory_changes, pack_results(self._unsent), *buffers])
        self._unsent.clear()
        self._unsent_bytes = 0
        self._page.forget_unsent()
        self._page.sending(0)
        self._clean_up()  # after sending, so that it delays no result
        self._last_flush = time.monotonic()

    def _send(self, chunks: Sequence[Buffer]) -> None:
        with self._sending:
            for chunk in chunks:
                self._socket.sendall(chunk)

    def _clean_up(self) -> None:
        """Undo common leftovers of tasks; checking for them after each task would be too slow."""
        if signal.getsignal(signal.SIGINT) != self._on_interrupt:
            signal.signal(signal.SIGINT, self._on_interrupt)
        self._restore_descriptors()
