"""The worker's end: take a token, run a task, answer. One thread, so that tasks run in the main one and may fork.
(Where tasks share a process, each of its threads has such an end: `seats.py` has what is different then.)

What a task is, is not known here: `nodes.worker.process` hands in a `Runner` that loads functions and runs them. This
decides in which order, what is interrupted, whose output is whose, and when results are sent: when there is nothing
more to run, when some time has passed, when a task has printed, failed or found something, or when a result is large.
Results that are not sent yet stand in the status page, where the slave finds them if the next task is slow or kills the
worker.
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
from concurrent_nb.wire.messages import Sizes, Slice
from concurrent_nb.workers.protocol.channels import WorkerChannels
from concurrent_nb.workers.protocol.output_markers import marker
from concurrent_nb.workers.protocol.records import (
    LARGE_BYTES,
    SLAVE_HEADER_BYTES_MAX,
    AddSegment,
    Buffer,
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
from concurrent_nb.workers.worker_side.process_setup import remake_stream

#: results are kept back at most so long while more tasks can run, in seconds
FLUSH_S: Final = 0.04
#: larger results are sent at once
KEPT_BYTES_MAX: Final = 16 * 1024
#: a note is cut into records of this size
NOTE_BYTES_MAX: Final = 64 * 1024
#: most results that are kept back
KEPT_MAX: Final = 256

# A name in a module is found faster than a member of an enumeration.
_HIT: Final = int(Status.HIT)
_NOTHING_HELD: Final = (False, False)
_CANCELLED: Final = int(Status.CANCELLED)

#: a worker with nothing to do for so long gives back memory that it keeps for the next results
IDLE_S: Final = 5.0

#: which task: its job, and its index there
TaskId = tuple[bytes, int]
#: ticket, threads (see `RunTasks`), task, function, body, sizes, buffers
Work = tuple[int, int, TaskId, bytes, Buffer, Sizes, Sequence[Buffer]]
#: Status, pickled value or encoded ErrorReport, and its buffers: what is to be sent, and where what is shared lies
Answer = tuple[int, Buffer, Sequence[Buffer | Slice]]


class Runner(Protocol):
    """What opens functions and arguments and runs them. Nothing that a task does may escape from `run`."""

    def load(self, digest: bytes, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]) -> None:
        """Keep a function."""

    def drop(self, digests: Sequence[bytes]) -> None:
        """Forget functions."""

    def expect(self, task: TaskId, digest: bytes) -> None:
        """Undo what tasks of another job or function have changed, before something is changed for this one."""

    def run(self, task: TaskId, digest: bytes, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]) -> Answer:
        """Run a task. KeyboardInterrupt that comes from outside may be treated as the task's own."""

    def keeps(self) -> bool:
        """Say whether anything refers to shared memory of the arguments of the task that has just run."""

    def heard(self, order: AddSegment | RemoveSegments | ReleaseSlices) -> None:
        """Learn what there is of shared memory."""

    def news(self) -> Sequence[AddSegment | RemoveSegments]:
        """Tell what has changed in our own shared memory since the last call."""

    def rest(self) -> None:
        """Give back memory that is kept for the next results."""

    def shares_memory(self) -> bool:
        """Say whether others may look at memory of ours, which comes back."""

    def cannot_run(self, error: Exception) -> Answer:
        """Give the answer of a task that cannot be run in this worker."""


def has_half_a_package() -> bool:
    """Say whether an import was cut short: a package is gone from sys.modules, a part of it is there."""
    modules = sys.modules.copy()
    return any(parent and parent not in modules for parent in (name.rpartition(".")[0] for name in modules))


class TaskLoop:
    """Serve one slave until it closes the tokens' pipe."""

    def __init__(self, ends: WorkerChannels, runner: Runner) -> None:
        self._runner = runner
        self._socket = socket.socket(fileno=ends.tasks)
        self._tokens = ends.tokens
        self._page = StatusPage(ends.page)
        self._pipes = (ends.out, ends.err)
        self._reader = RecordReader(decode_slave_record, header_bytes_max=SLAVE_HEADER_BYTES_MAX)
        self._queue: deque[tuple[int, Work]] = deque()  # with their epochs
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._last_flush = 0.0
        self._seen_reads = (0, 0)
        self._held_bytes = bytearray(4)
        self._armed = 0  # ticket of the task that a signal may interrupt
        self._sending = threading.Lock()  # a task's threads may send notes
        self._holds_back = False  # a signal may not cut a record short: it is noted, and obeyed after it
        self._held_back = False
        self._strangers: frozenset[threading.Thread] = frozenset()  # threads that former tasks have left
        self._is_fork = False
        self._interrupted = 0  # ticket of the task that a signal has interrupted
        self._streams: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)
        self._poll = select.poll()
        self._poll.register(self._tokens, select.POLLIN)
        self._rested = True
        self._watches = False  # whether it waits for what comes through the socket, too

    def serve(self) -> None:
        """Run tasks until the slave wants no more. Raises OSError or ProtocolError if it is gone or talks nonsense."""
        self._prepare()
        os.register_at_fork(after_in_child=self._on_fork)
        self._socket.sendall(pack_results([]))  # says: ready
        while (epoch := self._take_token()) is not None:
            self._run(*self._next(epoch))
            if self._interrupted and has_half_a_package():
                # Nothing repairs that, as compiled modules cannot be imported twice. The slave starts another worker.
                self._flush()
                return
            self._interrupted = 0

    def _prepare(self) -> None:
        """Be ready for the first task."""
        signal.signal(signal.SIGINT, self._on_interrupt)

    # ---------------------------------------------------------------------------------------------- what comes in

    def _take_token(self) -> int | None:
        """Take the right to start a task: its epoch. None if there will be no more."""
        while True:
            try:
                token = os.read(self._tokens, 1)
            except BlockingIOError:
                self._flush()
                self._wait()
                continue
            return token[0] if token else None

    def _wait(self) -> None:
        """Wait for a token. Memory that comes back meanwhile is taken, and given back when all has been idle."""
        ready = self._poll.poll(None if self._rested else IDLE_S * 1000)
        if not ready:
            self._rest()
        if self._watches:
            self._watches = False
            self._poll.unregister(self._socket)
        if not ready and self._runner.shares_memory():
            self._watches = True
            self._poll.register(self._socket, select.POLLIN)
        elif any(fd == self._socket.fileno() for fd, _ in ready):
            self._receive()

    def _rest(self) -> None:
        while select.select([self._socket], [], [], 0)[0]:  # releases may have come that no task has followed
            self._receive()
        self._rested = True
        self._runner.rest()
        self._send([pack(encode(news)) for news in self._runner.news()])

    def _next(self, epoch: int) -> Work:
        """Give the first task of this epoch. Those of older epochs were taken back."""
        while True:
            while self._queue:
                of_epoch, work = self._queue.popleft()
                if of_epoch == epoch:
                    return work
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
            else:
                self._runner.heard(order)
                if isinstance(order, ReleaseSlices):
                    self._rested = False  # there is something to give back

    def _enqueue(self, order: RunTasks, buffers: Sequence[Buffer]) -> None:
        function, epoch, threads, job = order.function, order.epoch, order.threads, order.job
        if not buffers:
            self._queue.extend(
                [
                    (epoch, (ticket, threads, (job, index), function, body, sizes, ()))
                    for ticket, body, sizes, index in order.tasks
                ]
            )
            return
        at = 0
        for ticket, body, sizes, index in order.tasks:
            count = len(lengths(sizes))
            self._queue.append(
                (epoch, (ticket, threads, (job, index), function, body, sizes, buffers[at : at + count]))
            )
            at += count

    # ------------------------------------------------------------------------------------------------- one task

    def _run(
        self,
        ticket: int,
        threads: int,
        task: TaskId,
        function: bytes,
        body: Buffer,
        sizes: Sizes,
        buffers: Sequence[Buffer],
    ) -> None:
        page = self._page
        self._note_strangers()
        started_at = time.monotonic()
        page.begin(ticket, started_at)
        if threads:
            status, answer, shown = self._attempt_with(threads, ticket, task, function, body, sizes, buffers)
        else:
            status, answer, shown = self._attempt(ticket, task, function, body, sizes, buffers)
        keeps = bool(sizes) and self._runner.keeps()
        wrote = self._mark(ticket)
        now = time.monotonic()
        if len(answer) >= LARGE_BYTES:
            answer, shown = b"", [answer, *shown]
        out = tuple([it if isinstance(it, Slice) else memoryview(it).nbytes for it in shown]) if shown else ()
        result = encode((ticket, status, now - started_at, answer, out, wrote, keeps))
        self._unsent.append(result)
        if out:
            self._rested = False  # there may be news of our shared memory
        travels = [it for it in shown if not isinstance(it, Slice)]
        if travels or len(result) > KEPT_BYTES_MAX:
            page.sending(ticket)
            page.end()
            self._flush(travels)
            return
        self._unsent_bytes = page.keep_unsent(len(self._unsent), self._unsent_bytes, result)
        page.end()
        if (
            wrote
            or status  # whoever waits for a hit or an error has reason to hurry
            or now - self._last_flush >= FLUSH_S
            or len(self._unsent) >= KEPT_MAX
            or self._unsent_bytes > UNSENT_BYTES_MAX - KEPT_BYTES_MAX
        ):
            self._flush()

    def _note_strangers(self) -> None:
        if threading.active_count() > 1 or self._strangers:
            self._strangers = frozenset(threading.enumerate()) - {threading.main_thread()}

    def _attempt_with(
        self,
        threads: int,
        ticket: int,
        task: TaskId,
        function: bytes,
        body: Buffer,
        sizes: Sizes,
        buffers: Sequence[Buffer],
    ) -> Answer:
        """Run a task with so many threads for its libraries. No signal that is for the task gets in between."""
        self._runner.expect(task, function)  # first, because it would put the threads back, too
        try:
            given = LibraryThreads(threads)
        except Exception as error:  # noqa: BLE001  (the libraries are the user's; the answer has the error)
            return self._runner.cannot_run(error)
        try:
            return self._attempt(ticket, task, function, body, sizes, buffers)
        finally:
            given.undo()

    def _attempt(
        self, ticket: int, task: TaskId, function: bytes, body: Buffer, sizes: Sizes, buffers: Sequence[Buffer]
    ) -> Answer:
        """Run the task, unless it was stopped already. A signal may end it; then it is cancelled."""
        try:
            self._armed = ticket
            if self._page.to_stop == ticket:
                self._disarm()
                return _CANCELLED, b"", ()
            status, answer, answer_buffers = self._runner.run(task, function, body, sizes, buffers)
            self._disarm()
            if self._is_fork:
                self._end_fork(status)
        except KeyboardInterrupt:  # it came just before or after the task itself
            self._disarm()
            return _CANCELLED, b"", ()
        if self._interrupted == ticket and status > _HIT:
            return _CANCELLED, b"", ()
        return status, answer, answer_buffers

    def _disarm(self) -> None:
        """Let nothing interrupt us from now on."""
        self._armed = 0

    def _on_fork(self) -> None:
        self._is_fork = True

    def _end_fork(self, status: int) -> None:
        """End a process that a task has forked and that came back from the task as if it were the worker."""
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(status > _HIT)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._is_hit():
            raise KeyboardInterrupt

    def _is_hit(self) -> bool:
        """Say, once, whether the task that runs is to be interrupted now. Else this is a stray signal, or too early."""
        armed = self._armed
        if not armed or self._page.to_stop != armed:
            return False
        self._armed = 0
        self._interrupted = armed
        self._held_back = self._holds_back
        return not self._holds_back

    def note_blocked(self, is_blocked: bool) -> None:
        """Note whether the task that runs waits for tasks of its own. For any thread of the worker."""
        self._page.block(is_blocked)

    # -------------------------------------------------------------------------------------------------- its notes

    def send_note(self, data: bytes) -> None:
        """Send the next bytes of stream 3 of the task that runs. For the task, any thread of it.

        What comes when no task runs, from a thread that a former task has left, or from a process that the task has
        forked, is dropped.
        """
        ticket = self._page.ticket
        if not ticket or self._is_fork or threading.current_thread() in self._strangers:
            return
        records = [
            pack(encode(NoteRecord(ticket, data[at : at + NOTE_BYTES_MAX])))
            for at in range(0, len(data), NOTE_BYTES_MAX)
        ]
        if not self._is_own_thread():
            self._send(records)
            return
        self._hold_back()
        try:
            self._send(records)
        finally:
            self._hold_back_no_more()

    def _is_own_thread(self) -> bool:
        """Say whether this is the thread in which we run tasks, which may be interrupted."""
        return threading.current_thread() is threading.main_thread()

    def _hold_back(self) -> None:
        self._holds_back = True

    def _hold_back_no_more(self) -> None:
        """Raise KeyboardInterrupt if it was due meanwhile."""
        self._holds_back = False
        if self._held_back:
            self._held_back = False
            raise KeyboardInterrupt

    # ------------------------------------------------------------------------------------------------- its output

    def _mark(self, ticket: int) -> int:
        """Write the task's marker into each pipe that it has written to; return which, as bits."""
        try:
            if (sys.stdout, sys.stderr) != self._streams:
                self._take_streams_back()
            self._streams[0].flush()
            self._streams[1].flush()
        except (OSError, ValueError, AttributeError):  # the task has closed, redirected or deleted them
            self._remake_streams()
        # In this order: what is not in the pipe any more was taken by a read that has been counted by now.
        held = self._holds(0), self._holds(1)
        reads = self._page.reads()
        if held == _NOTHING_HELD and reads == self._seen_reads:
            return 0
        wrote = 0
        for place in (0, 1):
            if held[place] or reads[place] != self._seen_reads[place]:
                self._write_marker(self._pipes[place], ticket)
                wrote |= place + 1
        # An odd number: the slave is reading right now, and may take what the next task writes. So that counts as new.
        self._seen_reads = (reads[0] & ~1, reads[1] & ~1)
        return wrote

    def _holds(self, place: int) -> bool:
        """Say whether a pipe holds bytes that the slave has not read."""
        fcntl.ioctl(self._pipes[place], termios.FIONREAD, self._held_bytes)
        return self._held_bytes != b"\0\0\0\0"

    def _write_marker(self, pipe: int, ticket: int) -> None:
        while True:
            try:
                os.write(pipe, marker(self._page.nonce, ticket))
            except BlockingIOError:  # the task has made the pipe one that does not block
                os.set_blocking(pipe, True)
            else:
                return

    def _take_streams_back(self) -> None:
        """Put our streams back where a task has put its own, once its own have written what they hold."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        sys.stdout, sys.stderr = self._streams

    def _remake_streams(self) -> None:
        self._take_descriptors_back()
        self._streams = remake_stream(1), remake_stream(2)

    def _take_descriptors_back(self) -> None:
        for fd, pipe in enumerate(self._pipes, 1):
            os.dup2(pipe, fd)

    # ------------------------------------------------------------------------------------------------ what goes out

    def _flush(self, buffers: Sequence[Buffer] = ()) -> None:
        """Send all results. `buffers` are those of the last one."""
        if not self._unsent:
            return
        news = [] if self._rested else [pack(encode(news)) for news in self._runner.news()]
        self._send([*news, pack_results(self._unsent), *buffers])
        self._unsent.clear()
        self._unsent_bytes = 0
        self._page.forget_unsent()
        self._page.sending(0)
        self._tidy()  # after sending: nobody waits for it
        self._last_flush = time.monotonic()

    def _send(self, chunks: Sequence[Buffer]) -> None:
        with self._sending:
            for chunk in chunks:
                self._socket.sendall(chunk)

    def _tidy(self) -> None:
        """Undo what tasks commonly leave behind, where looking for it is too slow to be done after each."""
        if signal.getsignal(signal.SIGINT) != self._on_interrupt:
            signal.signal(signal.SIGINT, self._on_interrupt)
        self._take_descriptors_back()
