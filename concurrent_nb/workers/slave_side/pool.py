"""The pool: obeys the books. Owns the launcher and the lines to the workers; lives in a slave's poll loop.

The slave polls `fds`, calls `ready` for each that is, `tick` at `next_deadline`, and takes reports after that. Every
method returns soon; none waits, except `close`, and that not for long. Has no thread.

Around each worker there is a bulkhead: whatever is raised while its records, its page, its output or its end are dealt
with kills that worker, as if it had died by itself, and touches no other.
"""

import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial
from typing import Final

from concurrent_nb.errors import ProtocolError
from concurrent_nb.ids import task_name
from concurrent_nb.wire.messages import NOTES, Needs, Slice, TaskFrame, TaskRef
from concurrent_nb.workers.protocol.channels import WorkerChannels, make_channels
from concurrent_nb.workers.protocol.records import (
    AddSegment,
    NoteRecord,
    NotInitialized,
    RemoveSegments,
    Result,
    Results,
    Said,
)
from concurrent_nb.workers.slave_side import machine
from concurrent_nb.workers.slave_side.attempts import (
    Buffer,
    Command,
    Dismiss,
    GiveTasks,
    Interrupt,
    Kill,
    PoolReports,
    Recall,
    Start,
)
from concurrent_nb.workers.slave_side.launchers import (
    Event,
    ForkServerLauncher,
    Launcher,
    ProcessStarted,
    SpawnLauncher,
    environment,
)
from concurrent_nb.workers.slave_side.output_capture import LIMIT_BYTES, Piece
from concurrent_nb.workers.slave_side.pool_scheduler import LOOK_S, RESULT_S, SLOW_S, PoolScheduler
from concurrent_nb.workers.slave_side.worker_connection import LOG_LINES_MAX, SEGMENTS_MAX, WorkerConnection
from concurrent_nb.workers.slave_side.worker_limits import Framing, LogLimit

log = logging.getLogger(__name__)

#: most bytes taken from one worker before the others have their turn
TURN_BYTES: Final = 4 * 1024 * 1024
#: `close` gives running tasks so long to end after their interrupt, and processes so long to go after their kill; a
#: worker that is dismissed has as long as the former to end by itself
END_S: Final = 1.0
GONE_S: Final = 1.5
#: a worker that has closed its connection has so long to end by itself
LEAVE_S: Final = 1.0
#: most bytes read from a worker that is dead: more than its socket can hold
LEGACY_BYTES_MAX: Final = 64 * 1024 * 1024
#: most characters of a line that a worker causes in the log
LOG_CHARS_MAX: Final = 1000
#: length of a segment's id
SEGMENT_ID_BYTES: Final = 16


def make_launcher(kind: str, slots: int, cores: int | None = None) -> Launcher:
    """Make the launcher called "template" (the default of nodes) or "spawn", for workers that share `cores`."""
    env = environment(slots, cores or machine.cores(), os.environ)
    return ForkServerLauncher(env) if kind == "template" else SpawnLauncher(env)


class Pool:
    """Run tasks in `slots` worker processes. Times are seconds of `time.monotonic`, which the workers read too.

    `fds_version` changes whenever `fds` does.

    Args:
        grace_s: seconds between the interrupt of a task and the kill of its worker.
        output_limit_bytes: what a task may write to each pipe of its output until the rest is dropped.
        tasks_max: tasks that a worker runs before another takes its place; 0: as many as there are.
        initializes: workers run the user's initializer before they are ready.
        result_s: seconds that the result of a task that has ended may take to come, while nothing moves.
        result_bytes_max: most bytes that travel with a result through a worker's socket; 0: as many as there are.
    """

    def __init__(
        self,
        slots: int,
        launcher: Launcher,
        *,
        grace_s: float = 1.0,
        output_limit_bytes: int = LIMIT_BYTES,
        tasks_max: int = 0,
        initializes: bool = False,
        result_s: float = RESULT_S,
        result_bytes_max: int = 0,
    ) -> None:
        self.fds_version = 0
        self._books = PoolScheduler(
            slots, grace_s=grace_s, tasks_max=tasks_max, initializes=initializes, result_s=result_s
        )
        self._initializes = initializes
        self._result_bytes_max = result_bytes_max or 1 << 62
        self._log = LogLimit(LOG_LINES_MAX)  # for workers that are killed
        self._cores = machine.cores()
        self._launcher = launcher
        self._output_limit_bytes = output_limit_bytes
        self._lines: dict[int, WorkerConnection] = {}  # by worker
        self._mains: dict[int, WorkerConnection] = {}  # to main threads of processes of threads, by process
        self._functions: dict[bytes, tuple[Buffer, Sequence[Buffer | Slice]]] = {}
        self._segments: dict[bytes, AddSegment] = {}  # shared memory in which arguments and functions lie
        self._made: list[AddSegment] = []  # shared memory of workers that is to be reported
        self._forgotten: list[bytes] = []
        self._orphaned: list[bytes] = []
        self._fds: dict[int, int] = {}
        self._readers: dict[
            int, tuple[WorkerConnection, int]
        ] = {}  # by descriptor: whose it is, and which: TASKS, or 1 or 2
        self._launcher_fds: list[int] = []
        self._commands: deque[Command] = deque()
        self._obeying = False
        self._leaving: dict[int, tuple[float, str]] = {}  # workers that hear us no more: when to kill them, and why
        self._output: list[tuple[TaskRef, int, bytes]] = []
        self._ask_at = 0.0
        self._holds_notes = False
        self._closing = False

    # --------------------------------------------------------------------------------------- what the slave tells it

    def start(self, now: float) -> None:
        """Start the workers. They come up on their own; tasks may be assigned at once."""
        self._obey(self._books.start(now), now)

    def assign(
        self,
        job: bytes,
        function: bytes,
        timeout_s: float | None,
        tasks: Iterable[TaskFrame],
        buffers: Sequence[Sequence[Buffer]],
        now: float,
        needs: Needs | None = None,
    ) -> None:
        """Take a run of attempts. `buffers` has an entry for each task, or none if no task has buffers."""
        if needs is not None and needs.kind == "host":
            self._launcher.expect_host()
        self._obey(self._books.assigned(job, function, timeout_s, tasks, buffers, now, needs), now)

    def add_segment(self, segment: bytes, pid: int, fd: int, size: int) -> None:
        """Know how workers open a segment of shared memory, before the first slice of it."""
        self._segments[segment] = AddSegment(segment, pid, fd, size)

    def drop_segments(self, segments: Sequence[bytes]) -> None:
        """Forget segments to which nothing refers any more."""
        for segment in segments:
            self._segments.pop(segment, None)
        for line in list(self._lines.values()):
            self._tell(line, partial(line.forget, segments))

    def release(self, slices: Sequence[Slice], *, clean: bool) -> None:
        """Give slices back to the workers that made them; `clean` if nobody refers to them any more."""
        for line in list(self._lines.values()):
            if own := [slice_ for slice_ in slices if slice_.segment in line.made]:
                self._tell(line, partial(line.release, own, clean=clean))

    def add_function(self, digest: bytes, body: Buffer, buffers: Sequence[Buffer | Slice] = ()) -> None:
        """Keep a function, to be sent to each worker before the first task that needs it."""
        self._functions[digest] = (body, buffers)

    def drop_functions(self, digests: Sequence[bytes]) -> None:
        """Forget functions that no task needs any more."""
        for digest in digests:
            self._functions.pop(digest, None)
        self._books.forgotten(digests)
        for line in list(self._lines.values()):
            self._tell(line, partial(line.drop, digests))

    def _tell(self, line: WorkerConnection, tell: Callable[[], None]) -> None:
        """Send a worker something that belongs to no task."""
        try:
            tell()
            self._watch_tasks(line)
        except Exception as error:  # noqa: BLE001  (the bulkhead)
            self._break(line, error, time.monotonic())

    def hold_notes(self, hold: bool) -> None:
        """Read nothing more of workers that send notes, which slows the tasks that do; or read again."""
        self._holds_notes = hold
        if not hold:
            for line in self._lines.values():
                if line.is_held:
                    line.is_held = False
                    self._watch_tasks(line)

    def withdraw(self, refs: Iterable[TaskRef], stop: bool, now: float) -> None:
        """Give these back if they have not started; with `stop`, end them wherever they are."""
        self._obey(self._books.withdrawn(refs, stop, now), now)

    def drain(self, now: float) -> None:
        """Give back what has not started, now and from now on; what runs may end."""
        self._obey(self._books.drained(), now)

    def renew(self, now: float, *, stop: bool) -> None:
        """Have fresh workers: as soon as what runs has ended, or with `stop` at once."""
        self._obey(self._books.renewed(now, stop=stop), now)

    @property
    def outdated(self) -> int:
        """Return how many workers are still to be replaced, or have successors that are not ready."""
        return self._books.outdated

    def reset(self, now: float) -> None:
        """Forget all tasks, reports, functions and shared memory; kill the workers that run any, and start others."""
        self._obey(self._books.reset(), now)
        self._output.clear()
        self.drop_functions(list(self._functions))
        self.drop_segments(list(self._segments))

    def take_reports(self) -> PoolReports:
        """Hand over what has happened since the last call."""
        reports = self._books.take_reports()
        reports.output, self._output = self._output, []
        if self._made or self._forgotten or self._orphaned:
            reports.segments, self._made = self._made, []
            reports.forgotten, self._forgotten = self._forgotten, []
            reports.orphaned, self._orphaned = self._orphaned, []
        if reports.degraded and (words := self._launcher.last_words()):
            reports.degraded += f". They said:\n{words}"
        return reports

    @property
    def unfinished(self) -> int:
        """Return how many attempts have no outcome yet."""
        return self._books.unfinished

    @property
    def usable_slots(self) -> int:
        """Return how many tasks can run at once, those not counted that wait for tasks of their own."""
        return self._books.usable_slots

    @property
    def initializer_failed(self) -> bool:
        """Say whether no worker is started any more because of the user's initializer."""
        return self._books.initializer_has_failed

    @property
    def provided(self) -> bool:
        """Say whether every worker has something to run next."""
        return self._books.provided

    # ------------------------------------------------------------------------------------------- the slave's poll loop

    def fds(self) -> dict[int, int]:
        """Give the descriptors to poll, and for which events."""
        return dict(self._fds)

    def next_deadline(self) -> float | None:
        """Say when to call `tick` next at the latest; None if only a descriptor can bring news."""
        due = self._books.next_deadline()
        # Not every launcher has a descriptor that tells of an end, so it is asked again soon.
        return self._ask_at if self._leaving and (due is None or self._ask_at < due) else due

    def ready(self, fd: int, events: int, now: float) -> None:
        """Deal with a descriptor that poll has found to be ready. One that is gone meanwhile is ignored."""
        if fd in self._launcher_fds:
            self._take_news(now)
            return
        line, stream = self._readers.get(fd, (None, 0))
        if line is None or fd not in self._fds:
            return
        try:
            if stream:
                self._read_output(line, stream, fd)
                return
            if events & select.POLLOUT:
                line.send()
                self._watch_tasks(line)
            if events & ~select.POLLOUT:
                self._receive(line, TURN_BYTES, now)
        except Exception as error:  # noqa: BLE001  (the bulkhead)
            self._break(line, error, now)

    def _read_output(self, line: WorkerConnection, stream: int, fd: int) -> None:
        pieces = line.capture.read(stream)
        self._hand_out(line, pieces or ())
        # Not for what the poll said: it may have said it of a dead worker's pipe whose number is this one's by now.
        if stream in line.capture.ended:
            self._unwatch(fd)

    def tick(self, now: float) -> None:
        """Look at the pages of busy workers, if it is time to. Cheap if it is not."""
        due = self.next_deadline()
        if due is None or now < due:
            return
        self._ask_at = now + LOOK_S
        self._take_news(now)
        for worker, (kill_at, _) in self._leaving.items():
            line = self._lines.get(worker) or self._mains[worker]
            # One whose process is not known yet is killed when it is: until then, only its template could be.
            if now >= kill_at and line.pid and not line.was_killed:
                line.was_killed = True
                self._launcher.kill(line.process)
        for worker in self._books.busy():
            busy = self._lines.get(worker)
            if busy is None or busy.is_broken:
                continue
            try:
                self._look(busy, now)
            except Exception as error:  # noqa: BLE001  (the bulkhead)
                self._break(busy, error, now)
        self._obey(self._books.tick(now), now)

    def _look(self, line: WorkerConnection, now: float) -> None:
        page = line.page
        ticket, started_at = page.look()
        if ticket and now - started_at >= SLOW_S:
            # What it finished before this task is not sent until the task ends, but stands in the page.
            results = self._unsent(line, ticket)
            if results and page.ticket == ticket:
                self._take_results(line, results, [], now)
        progress = line.progress
        moving, line.progress_before = line.is_held or progress != line.progress_before, progress
        self._obey(self._books.looked(line.worker, ticket, started_at, moving, now, page.ended), now)
        self._obey(self._books.blocked(line.worker, ticket if page.blocked == ticket else 0, now), now)

    def _unsent(self, line: WorkerConnection, ticket: int) -> Results:
        """Read the results in a page. What is none is no error if the task has ended meanwhile."""
        try:
            return line.unsent()
        except ProtocolError:
            if line.page.ticket == ticket:
                raise
            return Results()

    # ------------------------------------------------------------------------------------------- what the books want

    def _obey(self, commands: Iterable[Command], now: float) -> None:
        """Obey commands in the order in which the books gave them, whatever is found out while obeying."""
        self._commands += commands
        if self._obeying:
            return
        self._obeying = True
        try:
            while self._commands:
                command = self._commands.popleft()
                try:
                    self._obey_one(command, now)
                except Exception as error:
                    line = self._lines.get(command.worker)
                    if line is None:
                        raise
                    self._break(line, error, now)
        finally:
            self._obeying = False

    def _obey_one(self, command: Command, now: float) -> None:
        line = self._lines.get(command.worker)  # None if it has died meanwhile, which the books know by now
        if isinstance(command, GiveTasks) and line:
            self._give(line, command)
        elif isinstance(command, Recall) and line:
            self._commands += self._books.gave_back(line.worker, line.recall(), now)
        elif isinstance(command, Interrupt) and line:
            line.page.stop(command.ticket)
            self._launcher.interrupt(line.process)
        elif isinstance(command, Kill) and line and line.is_broken:
            self._leaving.setdefault(line.worker, (now, ""))  # as soon as its process is known
        elif isinstance(command, Kill):
            self._launcher.kill(line.process if line else command.worker)
        elif isinstance(command, Dismiss) and line:
            line.no_more()
            if line.process in self._mains:
                self._mains[line.process].no_more()
            self._leaving.setdefault(line.worker, (now + END_S, "was dismissed"))
        elif isinstance(command, Start) and command.process and not self._closing:
            self._start_thread(command.worker, command.process, now)
        elif isinstance(command, Start) and not self._closing:
            self._start_worker(command.worker, now)

    def _give(self, line: WorkerConnection, command: GiveTasks) -> None:
        if not line.has(command.function) and command.function in self._functions:
            body, buffers = self._functions[command.function]
            self._introduce(line, buffers)
            line.load(command.function, body, buffers)
        for attempt in command.attempts:
            if attempt.sizes:
                self._introduce(line, attempt.sizes)
        needs = command.attempts[0].needs
        threads = 0 if needs is None or needs.cores == 1 else needs.cores or self._cores
        line.give(command.function, command.attempts, threads)
        self._watch_tasks(line)

    def _introduce(self, line: WorkerConnection, buffers: Iterable[object]) -> None:
        """Tell a worker how to open what its next order refers to."""
        for buffer in buffers:
            if isinstance(buffer, Slice) and not line.knows(buffer.segment) and buffer.segment in self._segments:
                line.introduce(self._segments[buffer.segment])

    def _start_worker(self, worker: int, now: float) -> None:
        try:
            line, theirs = self._open_line(worker)
        except OSError as error:
            self._obey(self._books.worker_died(worker, f"could not be started: {error}", 0, 0.0, now), now)
            return
        self._lines[worker] = line
        events = self._launcher.launch(worker, theirs)
        theirs.close()
        self._take_events(events, now)

    def _start_thread(self, worker: int, process: int, now: float) -> None:
        events: list[Event] = []
        try:
            if process not in self._mains:
                main, theirs = self._open_line(process)
                main.page.want_threads()
                self._mains[process] = main
                events = self._launcher.launch(process, theirs)
                theirs.close()
            line, theirs = self._open_line(worker, process)
        except OSError as error:
            log.warning("a thread for tasks could not be started, others have to do: %s", error)
            self._obey(self._books.thread_refused(worker, f"could not be started: {error}", now), now)
        else:
            self._lines[worker] = line
            line.pid = self._mains[process].pid
            self._mains[process].open_thread(theirs)
            theirs.close()
        self._take_events(events, now)

    def _open_line(self, worker: int, process: int = 0) -> tuple[WorkerConnection, WorkerChannels]:
        """Make a line and watch it; give the worker's ends, too. Raises OSError if there are too many open files."""
        ours, theirs = make_channels()
        line = WorkerConnection(worker, ours, self._output_limit_bytes, self._result_bytes_max, process)
        self._readers[line.socket.fileno()] = (line, 0)
        self._watch_tasks(line)
        for stream, fd in enumerate(line.outputs, 1):
            self._readers[fd] = (line, stream)
            self._watch(fd, select.POLLIN)
        return line, theirs

    # --------------------------------------------------------------------------------------------- what workers say

    def _receive(self, line: WorkerConnection, most_bytes: int, now: float) -> None:
        """Take what a worker says. Raises ProtocolError for what none says."""
        try:
            for said, buffers in line.receive(most_bytes):
                if line.worker in self._mains:
                    raise ProtocolError("said something, which the main thread of a process of threads does not do")
                if isinstance(said, Results) and said:
                    self._take_results(line, said, buffers, now)
                else:
                    self._heard(line, said, now)
        except ConnectionError as error:
            self._unwatch(line.socket.fileno())
            if line.worker in self._lines:  # it is dead, which the launcher is about to say, or has closed its socket
                self._leaving.setdefault(line.worker, (now + LEAVE_S, str(error)))

    def _heard(self, line: WorkerConnection, said: Results | Said, now: float) -> None:
        """Take what is no result."""
        if isinstance(said, NoteRecord):
            self._take_note(line, said, now)
        elif isinstance(said, AddSegment):
            self._take_segment(line, said)
        elif isinstance(said, RemoveSegments):
            self._drop_made(line, said.segments)
        elif isinstance(said, NotInitialized):
            if line.is_ready or not self._initializes:
                raise ProtocolError("said that it could not be initialized, which it was not to be any more")
            self._books.initializer_failed(said.report)
        else:
            line.is_ready = True
            self._greet(line, now)

    def _take_results(self, line: WorkerConnection, results: Results, buffers: Sequence[Buffer], now: float) -> None:
        for result in results:
            if result.wrote:
                self._hand_out(line, line.capture.read_until_marked(result.ticket, result.wrote))
            if result.sizes:
                self._check_slices(line, result)
        self._obey(self._books.outcomes(line.worker, results, buffers, now), now)

    def _check_slices(self, line: WorkerConnection, result: Result) -> None:
        """Raise ProtocolError if a result refers to memory that is not its worker's."""
        for slice_ in result.sizes:
            if isinstance(slice_, Slice) and slice_.offset + slice_.size > line.made.get(slice_.segment, -1):
                raise ProtocolError(f"gave a slice that is not in its own shared memory, of {slice_.segment.hex()[:8]}")

    def _take_segment(self, line: WorkerConnection, made: AddSegment) -> None:
        known = made.segment in self._segments or any(made.segment in other.made for other in self._lines.values())
        if known or made.pid != line.pid or made.fd < 0 or made.size < 1 or len(made.segment) != SEGMENT_ID_BYTES:
            raise ProtocolError(f"named shared memory that is not its own, {made.segment.hex()[:8]}")
        if len(line.made) >= SEGMENTS_MAX:
            raise ProtocolError(f"made more than {SEGMENTS_MAX} segments of shared memory")
        line.made[made.segment] = made.size
        self._made.append(made)

    def _drop_made(self, line: WorkerConnection, segments: Sequence[bytes]) -> None:
        """Forget segments of a worker's own; it may name some that it has never told of."""
        others: list[Container[bytes]] = [
            self._segments,
            *(other.made for other in self._lines.values() if other is not line),
        ]
        if any(segment in known for segment in segments for known in others):
            raise ProtocolError("gave up shared memory that is not its own")
        self._forgotten += [segment for segment in segments if line.made.pop(segment, None) is not None]

    def _take_note(self, line: WorkerConnection, note: NoteRecord, now: float) -> None:
        ref = self._books.ref(line.worker, note.ticket)
        if ref is None:  # a thread of a task that has ended
            return
        if note.ticket != line.notes_ticket:
            line.notes, line.notes_ticket = Framing(), note.ticket
        if not line.notes.admits(note.data):
            return
        self._output.append((ref, NOTES, note.data))
        if self._holds_notes and not line.is_held:
            line.is_held = True
            self._watch_tasks(line)
        if line.notes.is_broken and line.log.admits(now):
            name = task_name(ref.job, ref.index)
            log.warning("task %s has sent notes that are none; no more of its notes travel", name)

    def _greet(self, line: WorkerConnection, now: float) -> None:
        """Let a worker work once both it and its launcher have spoken."""
        if line.is_ready and line.pid:
            self._obey(self._books.worker_ready(line.worker, line.pid, now), now)

    def _hand_out(self, line: WorkerConnection, pieces: Iterable[Piece]) -> None:
        for ticket, stream, data in pieces:
            if ticket == 0 and stream != NOTES:
                self._log_output(line, data)
            elif ref := self._books.ref(line.worker, ticket):
                self._output.append((ref, stream, data))

    def _log_output(self, line: WorkerConnection, data: bytes) -> None:
        """Log what no task has written: a thread or a child that one has left."""
        if not line.log.admits(time.monotonic()):
            return
        text = data[:LOG_CHARS_MAX].decode(errors="replace").rstrip()
        more = f" (and {len(data) - LOG_CHARS_MAX} bytes more)" if len(data) > LOG_CHARS_MAX else ""
        if left_out := line.log.take_left_out():
            more += f" ({left_out} lines of it were left out before this)"
        log.info("worker %d wrote what is no task's: %s%s", line.pid, text, more)

    def _break(self, line: WorkerConnection, error: Exception, now: float) -> None:
        """Kill a worker of which something cannot be dealt with, and with it all threads of its process."""
        if line.is_broken:
            return
        line.is_broken = True
        self._unwatch(line.socket.fileno())
        is_nonsense = isinstance(error, ProtocolError)
        what = str(error) if is_nonsense else f"could not be dealt with ({type(error).__name__}: {error})"
        if self._log.admits(now):
            log.error("worker %d is killed: it %s", line.pid, what, exc_info=None if is_nonsense else error)
        if line.worker in self._mains:
            self._leaving.setdefault(line.worker, (now, f"was killed because its process {what}"))
        elif line.worker in self._lines:
            how = f"was killed because it {what}"
            self._leaving.setdefault(line.worker, (now, how))
            ticket, ended = line.page.ticket, line.page.ended
            kept = self._take_kept_back(line, ticket, now)
            self._obey(self._books.broken(line.worker, how, ticket, ended, may_be_former=kept), now)
        self._ask_at = min(self._ask_at, now)

    def _take_kept_back(self, line: WorkerConnection, ticket: int, now: float) -> bool:
        """Take what a broken worker has finished before the task that it runs, from its page; False for nothing."""
        if not ticket:
            return False
        try:
            results = line.unsent()
            if not results or line.page.ticket != ticket:
                return False
            self._take_results(line, results, [], now)
        except ProtocolError:
            return False
        return True

    def _take_news(self, now: float) -> None:
        self._take_events(self._launcher.news(), now)

    def _take_events(self, events: Iterable[Event], now: float) -> None:
        for event in events:
            main = self._mains.get(event.worker)
            line = self._lines.get(event.worker)
            if isinstance(event, ProcessStarted):
                for started in [line] if line else self._threads_of(main):
                    started.pid = event.pid
                    self._greet(started, now)
            elif main:
                self._bury_process(main, event.how, now)
            elif line:
                self._bury(line, event.how, now)
        self._watch_launcher()

    def _bury(self, line: WorkerConnection, how: str, now: float) -> None:
        """Take what a dead worker has left, then tell the books."""
        del self._lines[line.worker]
        ticket, started_at = self._last_seen(line, now)
        how = self._reason(line, how)
        self._obey(self._books.worker_died(line.worker, how, ticket, started_at, now), now)

    def _bury_process(self, main: WorkerConnection, how: str, now: float) -> None:
        """Take what the threads of a dead process have left, then tell the books of all of them at once."""
        self._books.process_ends(main.worker)
        how = self._reason(main, how)
        threads = [line for line in self._threads_of(main) if line is not main]
        for line in threads:
            del self._lines[line.worker]
        del self._mains[main.worker]
        self._last_seen(main, now)
        pages = {line.worker: self._last_seen(line, now) for line in threads}
        for line in threads:
            how = self._reason(line, how)
        culprits = [line.worker for line in threads if line.was_killed] or list(pages)
        self._obey(self._books.process_died(how, pages, culprits, now), now)

    def _threads_of(self, main: WorkerConnection | None) -> list[WorkerConnection]:
        """List the lines to all threads of a process, its main one first."""
        if main is None:
            return []
        return [main, *(line for line in self._lines.values() if line.process == main.worker)]

    def _reason(self, line: WorkerConnection, how: str) -> str:
        """Say how a worker has died whose launcher says `how`: we may have killed it."""
        _, reason = self._leaving.pop(line.worker, (0.0, ""))
        if line.is_broken:
            return reason or how
        return f"{reason} and was killed" if line.was_killed else how

    def _last_seen(self, line: WorkerConnection, now: float) -> tuple[int, float]:
        """Take what a dead worker has left, and close its line; give what it ran, and since when."""
        ticket, started_at = line.page.look()
        ticket = ticket or line.page.on_its_way
        for take in (self._take_last_records, self._take_last_results, self._take_last_output):
            try:
                take(line, ticket, now)
            except Exception as error:  # it is dead, and the books are about to hear of it
                if self._log.admits(now):
                    is_nonsense = isinstance(error, ProtocolError)
                    log.warning(
                        "worker %d, which is dead, %s", line.pid, error, exc_info=None if is_nonsense else error
                    )
        for fd in (line.socket.fileno(), *line.outputs):
            self._unwatch(fd)
            del self._readers[fd]
        line.close()
        self._orphaned += line.made
        return ticket, started_at

    def _take_last_records(self, line: WorkerConnection, ticket: int, now: float) -> None:
        if not line.is_broken:
            self._receive(line, LEGACY_BYTES_MAX, now)

    def _take_last_results(self, line: WorkerConnection, ticket: int, now: float) -> None:
        if results := line.unsent():
            self._take_results(line, results, [], now)

    def _take_last_output(self, line: WorkerConnection, ticket: int, now: float) -> None:
        self._hand_out(line, line.capture.finish(ticket))

    # ------------------------------------------------------------------------------------------- what is to be polled

    def _watch(self, fd: int, events: int) -> None:
        if self._fds.get(fd) != events:
            self._fds[fd] = events
            self.fds_version += 1

    def _unwatch(self, fd: int) -> None:
        if self._fds.pop(fd, None) is not None:
            self.fds_version += 1

    def _watch_tasks(self, line: WorkerConnection) -> None:
        if not line.is_broken:
            reads = 0 if line.is_held else select.POLLIN
            self._watch(line.socket.fileno(), reads | (select.POLLOUT if line.wants_to_send else 0))

    def _watch_launcher(self) -> None:
        fds = self._launcher.fds()
        for fd in self._launcher_fds:
            if fd not in fds:
                self._unwatch(fd)
        for fd in fds:
            self._watch(fd, select.POLLIN)
        self._launcher_fds = fds

    # ------------------------------------------------------------------------------------------------------ the end

    def close(self) -> None:
        """Stop everything: interrupt what runs, then kill what is left. Takes less than 3 s and leaves no process."""
        self._closing = True
        self._books.reset()  # its kills are not obeyed: first the workers may end by themselves
        for line in self._lines.values():
            if ticket := line.page.ticket:
                line.page.stop(ticket)
                self._launcher.interrupt(line.process)
            line.no_more()
        for line in self._mains.values():
            line.no_more()
        self._wait_for_ends(time.monotonic() + END_S)
        self._launcher.close(GONE_S)
        for line in (*self._lines.values(), *self._mains.values()):
            line.close()
        self._lines.clear()
        self._mains.clear()
        self._fds.clear()
        self._readers.clear()

    def _wait_for_ends(self, until: float) -> None:
        """Read what workers still write, so that none hangs on a full pipe, until they have ended."""
        while (self._lines or self._mains) and (left_s := until - time.monotonic()) > 0:
            poll = select.poll()
            for fd, events in self._fds.items():
                poll.register(fd, events)
            for fd, events in poll.poll(min(left_s, SLOW_S) * 1000):
                self.ready(fd, events, time.monotonic())
            self._take_news(time.monotonic())
        self.take_reports()
