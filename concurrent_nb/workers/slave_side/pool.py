"""The pool: executes the commands of the pool scheduler. Owns the launcher and the connections to the workers.

It has no thread and runs in the slave's poll loop: the slave polls `fds`, calls `ready` for each descriptor with events
and `tick` at `next_deadline`, then takes the reports. No method waits, except `close`, for less than 3 s.

Around each worker there is a bulkhead: an exception while its records, page, output or death are handled kills that
worker, as if it had died by itself, and affects no other.
"""

import logging
import math
import os
import select
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial
from typing import Final

from concurrent_nb.errors import ProtocolError
from concurrent_nb.ids import task_name
from concurrent_nb.rate_limited_log import LineLimit
from concurrent_nb.wire.codec import ItemBuffers
from concurrent_nb.wire.messages import NOTES, Assign, Slice, TaskRef
from concurrent_nb.workers.protocol.channels import WorkerChannels, make_channels
from concurrent_nb.workers.protocol.records import (
    AddSegment,
    ClusterAt,
    NoteRecord,
    NotInitialized,
    RemoveSegments,
    Result,
    Results,
    WorkerRecord,
)
from concurrent_nb.workers.protocol.stacks import STACK_SIGNAL, can_choose_thread
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
from concurrent_nb.workers.slave_side.freeze_watch import (
    HUNG_DISK_S,
    STOPPED_S,
    FreezeWatch,
    FrozenProcess,
    StandstillState,
)
from concurrent_nb.workers.slave_side.launchers import (
    Event,
    ForkServerLauncher,
    Launcher,
    ProcessEnded,
    ProcessStarted,
    SpawnLauncher,
    environment,
)
from concurrent_nb.workers.slave_side.note_framing import NoteFraming
from concurrent_nb.workers.slave_side.output_capture import LIMIT_BYTES, Piece
from concurrent_nb.workers.slave_side.pool_scheduler.pool_scheduler import PoolScheduler
from concurrent_nb.workers.slave_side.pool_scheduler.pool_state import PAGE_POLL_S
from concurrent_nb.workers.slave_side.pool_scheduler.worker_lifecycle import RESULT_S, SLOW_S
from concurrent_nb.workers.slave_side.process_reading import ProcessReader
from concurrent_nb.workers.slave_side.stack_samples import StackSamples
from concurrent_nb.workers.slave_side.worker_connection import LOG_LINES_MAX, SEGMENTS_MAX, WorkerConnection

log = logging.getLogger(__name__)

#: most bytes read from one worker before the others have their turn
TURN_BYTES: Final = 4 * 1024 * 1024
#: `close` waits this long for interrupted tasks, and this long for killed processes; a dismissed worker has as long as
#: the former to end by itself
END_S: Final = 1.0
GONE_S: Final = 1.5
#: a worker that has closed its connection has this long to end by itself
CLOSED_S: Final = 1.0
#: the end of a worker that SIGTERM has ended is handled so much later: batch systems send SIGTERM to all processes of a
#: job, one by one, and a task is not to blame if the slave gets it, too, and leaves
TERMINATED_S: Final = 0.3
#: a worker that was killed so long ago, and still waits for a disk, is replaced: it runs nothing any more
UNKILLABLE_S: Final = 10.0
#: most bytes read from the socket of a dead worker: more than it can hold
DRAIN_BYTES_MAX: Final = 64 * 1024 * 1024
#: most characters of a line that a worker causes in the log
LOG_CHARS_MAX: Final = 1000
#: length of a segment's id
SEGMENT_ID_BYTES: Final = 16


def make_launcher(kind: str, slots: int, cores: int | None = None) -> Launcher:
    """Make the launcher called "fork_server" (the default of nodes) or "spawn", for workers that share `cores`."""
    env = environment(slots, cores or machine.cores(), os.environ)
    return ForkServerLauncher(env) if kind == "fork_server" else SpawnLauncher(env)


class Pool:
    """Runs tasks in `slots` worker processes. Times are seconds of `time.monotonic`, which is the workers' clock, too.

    `fds_version` changes whenever `fds` does.

    Args:
        grace_s: seconds between the interrupt of a task and the kill of its worker.
        output_limit_bytes: most bytes that a task may write to each pipe of its output; the rest is dropped.
        tasks_max: tasks that a worker runs before another takes its place; 0: no limit.
        initializes: workers run the user's initializer before they are ready.
        result_s: seconds that the result of an ended task may take to come, while nothing moves.
        result_bytes_max: most bytes of a result that travel through a worker's socket; 0: no limit.
        stopped_s: seconds for which a worker with a task, or what starts workers, may be stopped, as by SIGSTOP, before
            it is killed and replaced; 0: for ever.
        hung_disk_s: the same for one that waits for a disk.
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
        stopped_s: float = STOPPED_S,
        hung_disk_s: float = HUNG_DISK_S,
    ) -> None:
        self.fds_version = 0
        self.cluster: ClusterAt | None = None  #: for applications in tasks; None: there is none
        self._scheduler = PoolScheduler(
            slots, grace_s=grace_s, tasks_max=tasks_max, initializes=initializes, result_s=result_s
        )
        self._initializes = initializes
        self._result_bytes_max = result_bytes_max or 1 << 62
        self._log = LineLimit(LOG_LINES_MAX)  # for workers that are killed
        self._cores = machine.cores()
        self._launcher = launcher
        self._samples = StackSamples(launcher)
        self._output_limit_bytes = output_limit_bytes
        self._connections: dict[int, WorkerConnection] = {}  # by worker
        self._main_threads: dict[int, WorkerConnection] = {}  # of processes of threads, by process
        self._functions: dict[bytes, tuple[Buffer, Sequence[Buffer | Slice]]] = {}
        self._segments: dict[bytes, AddSegment] = {}  # shared memory that contains arguments and functions
        self._added_segments: list[AddSegment] = []  # of workers, not reported yet
        self._removed_segments: list[bytes] = []
        self._orphaned_segments: list[bytes] = []
        self._fds: dict[int, int] = {}
        # by descriptor: its connection, and its stream: 1 or 2 for output, 0 for the socket
        self._readers: dict[int, tuple[WorkerConnection, int]] = {}
        self._launcher_fds: list[int] = []
        self._commands: deque[Command] = deque()
        self._is_executing = False
        # of workers that receive nothing more: when to kill them, and why
        self._kill_deadlines: dict[int, tuple[float, str]] = {}
        self._terminated: deque[tuple[float, ProcessEnded]] = deque()  # and when each is handled
        self._output: list[tuple[TaskRef, int, bytes]] = []
        self._next_launcher_check = 0.0
        self._freezes = FreezeWatch(stopped_s, hung_disk_s)
        self._process_reader = ProcessReader()
        self._next_look = time.monotonic() + self._freezes.interval_s  # for frozen processes
        self._holds_notes = False
        self._closing = False

    # --------------------------------------------------------------------------------------- called by the slave

    def start(self, now: float) -> None:
        """Start the workers. Tasks may be assigned immediately."""
        self._execute(self._scheduler.start(now), now)

    def assign(self, run: Assign, buffers: ItemBuffers, now: float) -> None:
        """Run these attempts. `buffers` has an entry for each task, or is empty if no task has buffers."""
        if run.needs is not None and run.needs.kind == "system_host":
            self._launcher.prepare_system_host()
        self._execute(self._scheduler.assigned(run, buffers, now), now)

    def add_segment(self, segment: bytes, pid: int, fd: int, size: int) -> None:
        """Remember how workers open a segment of shared memory. Must come before the first slice of it."""
        self._segments[segment] = AddSegment(segment, pid, fd, size)

    def drop_segments(self, segments: Sequence[bytes]) -> None:
        """Forget segments to which nothing refers any more."""
        for segment in segments:
            self._segments.pop(segment, None)
        for connection in list(self._connections.values()):
            self._send_to(connection, partial(connection.remove_segments, segments))

    def release(self, slices: Sequence[Slice], *, clean: bool) -> None:
        """Return slices to the workers that made them; `clean` if nothing refers to them any more."""
        for connection in list(self._connections.values()):
            if own := [slice_ for slice_ in slices if slice_.segment in connection.own_segments]:
                self._send_to(connection, partial(connection.release, own, clean=clean))

    def add_function(self, digest: bytes, body: Buffer, buffers: Sequence[Buffer | Slice] = ()) -> None:
        """Keep a function, which is sent to each worker before its first task of it."""
        self._functions[digest] = (body, buffers)

    def drop_functions(self, digests: Sequence[bytes]) -> None:
        """Forget functions that no task needs any more."""
        for digest in digests:
            self._functions.pop(digest, None)
        self._scheduler.functions_dropped(digests)
        for connection in list(self._connections.values()):
            self._send_to(connection, partial(connection.forget_functions, digests))

    def _send_to(self, connection: WorkerConnection, send: Callable[[], None]) -> None:
        """Call `send`, which sends a record to this worker, inside the bulkhead."""
        try:
            send()
            self._watch_tasks(connection)
        except Exception as error:  # noqa: BLE001  (the bulkhead)
            self._break(connection, error, time.monotonic())

    def hold_notes(self, hold: bool) -> None:
        """Stop reading from workers that send notes, which slows down their tasks; or read again."""
        self._holds_notes = hold
        if not hold:
            for connection in self._connections.values():
                if connection.is_held:
                    connection.is_held = False
                    self._watch_tasks(connection)

    def withdraw(self, refs: Iterable[TaskRef], stop: bool, now: float) -> None:
        """Return these attempts if they have not started; with `stop`, also stop those that have."""
        self._execute(self._scheduler.withdrawn(refs, stop, now), now)

    def has(self, ref: TaskRef) -> bool:
        """Return whether this attempt is here, and its end is in no report yet."""
        return self._scheduler.place_of(ref) is not None

    def attempts(self) -> list[TaskRef]:
        """Return all attempts that are here, and whose end is in no report yet."""
        return self._scheduler.attempts()

    def follow(self, run: Assign, now: float) -> int:
        """Have the worker that has `run.behind` take these tasks, each with the result of the one before.

        Return how many it takes, of the first ones. One that is returned may be assigned again, in the same attempt.
        """
        count, commands = self._scheduler.followed(run, now)
        self._execute(commands, now)
        return count

    def sample_stack(self, request: int, ref: TaskRef, now: float) -> None:
        """Have a running task's worker write its stack; reported with this number, as is why there is none."""
        try:
            if why := self._sample_stack(request, ref, now):
                self._samples.refuse(request, why)
        except OSError as error:
            self._samples.refuse(request, f"its file cannot be used: {error}")

    def _sample_stack(self, request: int, ref: TaskRef, now: float) -> str:
        """Begin to sample the stack of a task. Return why that is not possible, else ""."""
        if not STACK_SIGNAL:
            return "stacks are written at SIGUSR2, which this system does not have, as Windows does not"
        place = self._scheduler.place_of(ref)
        if place is None:
            return "it has ended"
        ticket, worker = place
        connection = self._connections.get(worker)
        if connection is None:
            return "it has not begun: it waits for a worker"
        if connection.is_broken:
            return f"its worker {connection.pid} is being replaced"
        running, started_at = connection.page.running_task()
        if running != ticket:
            if ticket in (connection.page.ended, connection.page.result_in_transit):
                return "it has ended"
            return f"it has not begun: it is next in worker {connection.pid}, behind others"
        is_thread = connection.process != connection.worker
        if is_thread and not can_choose_thread():
            return "it runs in a thread, and this system cannot ask a single thread"
        file = self._main_threads[connection.process].stacks if is_thread else connection.stacks
        run_s = self._scheduler.run_time_s(worker, ticket, started_at, now)
        self._samples.begin(request, connection.process, file, connection.page, ticket, connection.pid, run_s, now)
        return ""

    def drain(self, now: float) -> None:
        """Return what has not started, now and from now on. Running tasks may end."""
        self._execute(self._scheduler.drained(), now)

    def restart_workers(self, now: float, *, stop: bool) -> None:
        """Replace all workers: each one when its running task has ended, or with `stop` immediately."""
        self._execute(self._scheduler.restart_requested(now, stop=stop), now)

    @property
    def outdated(self) -> int:
        """Return how many workers are still to be replaced, or have successors that are not ready."""
        return self._scheduler.outdated

    def reset(self, now: float) -> None:
        """Forget all tasks, reports, functions and shared memory; kill and replace the workers that have tasks."""
        self._execute(self._scheduler.reset(), now)
        self._output.clear()
        self._samples.clear()
        self.drop_functions(list(self._functions))
        self.drop_segments(list(self._segments))

    def take_reports(self) -> PoolReports:
        """Return what has happened since the last call."""
        reports = self._scheduler.take_reports()
        reports.output, self._output = self._output, []
        reports.stacks = self._samples.take()
        if self._added_segments or self._removed_segments or self._orphaned_segments:
            reports.segments, self._added_segments = self._added_segments, []
            reports.forgotten, self._removed_segments = self._removed_segments, []
            reports.orphaned, self._orphaned_segments = self._orphaned_segments, []
        if reports.degraded and (tail := self._launcher.stderr_tail()):
            reports.degraded += f". Their last output:\n{tail}"
        return reports

    @property
    def unfinished(self) -> int:
        """Return how many attempts have no outcome yet."""
        return self._scheduler.unfinished

    @property
    def usable_slots(self) -> int:
        """Return how many tasks can run at the same time, not counting those that wait for tasks of their own."""
        return self._scheduler.usable_slots

    @property
    def initializer_failed(self) -> bool:
        """Return whether no worker is started any more because of the user's initializer."""
        return self._scheduler.has_initializer_failed

    @property
    def is_saturated(self) -> bool:
        """Return whether every worker has a task to run next."""
        return self._scheduler.is_saturated

    # ------------------------------------------------------------------------------------------- the slave's poll loop

    def fds(self) -> dict[int, int]:
        """Return the descriptors to poll, each with its events."""
        return dict(self._fds)

    def next_deadline(self) -> float | None:
        """Return when to call `tick` next at the latest; None if nothing is to be done before a descriptor is ready."""
        due = self._next_deadline()
        if self._next_look == math.inf:
            return due
        return self._next_look if due is None else min(self._next_look, due)

    def _next_deadline(self) -> float | None:
        due = self._scheduler.next_deadline()
        # Not every launcher has a descriptor that reports the end of a process, so it is checked again soon.
        check_at = self._next_launcher_check
        is_watching = self._kill_deadlines or self._samples or self._terminated
        return check_at if is_watching and (due is None or check_at < due) else due

    def ready(self, fd: int, events: int, now: float) -> None:
        """Handle the events of a descriptor. One that was closed meanwhile is ignored."""
        if fd in self._launcher_fds:
            self._check_launcher(now)
            return
        connection, stream = self._readers.get(fd, (None, 0))
        if connection is None or fd not in self._fds:
            return
        try:
            if stream:
                self._read_output(connection, stream, fd)
                return
            if events & select.POLLOUT:
                connection.send()
                self._watch_tasks(connection)
            if events & ~select.POLLOUT:
                self._receive(connection, TURN_BYTES, now)
        except Exception as error:  # noqa: BLE001  (the bulkhead)
            self._break(connection, error, now)

    def _read_output(self, connection: WorkerConnection, stream: int, fd: int) -> None:
        pieces = connection.capture.read(stream)
        self._forward_output(connection, pieces or ())
        # Not because of the events: they may be those of a dead worker's pipe that had the same number.
        if stream in connection.capture.ended:
            self._unwatch(fd)

    def tick(self, now: float) -> None:
        """Read the pages of busy workers, if it is time for that. Cheap if it is not."""
        if now >= self._next_look:
            self._look_for_frozen(now)
        due = self._next_deadline()
        if due is None or now < due:
            return
        self._next_launcher_check = now + PAGE_POLL_S
        self._check_launcher(now)
        for worker, (kill_at, _) in self._kill_deadlines.items():
            connection = self._connections.get(worker) or self._main_threads[worker]
            # A worker whose process is not known yet is killed when it is: until then, only its fork server could be.
            if now >= kill_at and connection.pid and not connection.was_killed:
                connection.was_killed = True
                self._launcher.kill(connection.process)
        for worker in self._scheduler.busy_workers():
            busy = self._connections.get(worker)
            if busy is None or busy.is_broken:
                continue
            try:
                self._read_page(busy, now)
            except Exception as error:  # noqa: BLE001  (the bulkhead)
                self._break(busy, error, now)
        if self._samples:
            self._samples.tick(now)
        self._execute(self._scheduler.tick(now), now)

    def _look_for_frozen(self, now: float) -> None:
        """Tell the user about processes that are frozen, and kill them when that has lasted for too long."""
        self._next_look = now + self._freezes.interval_s
        watched = self._watched_pids()
        for frozen in self._freezes.look(now, self._process_reader.read(watched)):
            connection = watched[frozen.pid]
            if connection is None:
                self._tell_frozen(frozen, "the fork server of the workers", list(self._connections.values()), now)
                if frozen.is_over:
                    self._launcher.end_server(str(frozen))
                continue
            is_process = connection.worker in self._main_threads
            self._tell_frozen(frozen, "worker", self._threads_of(connection) if is_process else [connection], now)
            if frozen.is_over:
                self._kill_deadlines.setdefault(connection.worker, (now, str(frozen)))
                self._next_launcher_check = min(self._next_launcher_check, now)

        self._replace_unkillable(now)

    def _replace_unkillable(self, now: float) -> None:
        """Replace workers that were killed and do not end, because the system call in which they are does not."""
        for worker, (kill_at, _) in list(self._kill_deadlines.items()):
            connection = self._connections.get(worker) or self._main_threads.get(worker)
            if connection is None or not connection.was_killed or now < kill_at + UNKILLABLE_S:
                continue
            reading = self._process_reader.read([connection.pid]).get(connection.pid)
            if reading is not None and reading.state is StandstillState.DISK:
                text = "worker %d was killed and does not end, because it waits for a disk: another one takes its place"
                log.error(text, connection.pid, extra={"worker": connection.pid})
                self._take_event(ProcessEnded(connection.process, "was killed and does not end"), now)

    def _watched_pids(self) -> dict[int, WorkerConnection | None]:
        """Return the processes that must not be frozen: those with tasks, and what starts workers (None)."""
        watched: dict[int, WorkerConnection | None] = {}
        for worker in self._scheduler.busy_workers():
            connection = self._connections.get(worker)
            if connection is not None and connection.pid and not connection.was_killed:
                watched[connection.pid] = self._main_threads.get(connection.process, connection)
        if pid := self._launcher.server_pid:
            watched[pid] = None
        return watched

    def _tell_frozen(
        self, frozen: FrozenProcess, what: str, connections: Sequence[WorkerConnection], now: float
    ) -> None:
        """Log that a process is frozen, and tell those whose tasks run there, on the standard error of the tasks."""
        then = "it is killed, and the task runs again" if frozen.is_over else "nothing comes from it until it goes on"
        text = f"{what} {frozen.pid} {frozen}: {then}"
        if self._log.admits(now):
            log.warning("%s", text, extra={"worker": frozen.pid})
        for connection in connections:
            try:
                if (ticket := connection.page.ticket) and (ref := self._scheduler.ref(connection.worker, ticket)):
                    self._output.append((ref, 2, f"concurrent_nb: {text}\n".encode()))
            except Exception as error:  # noqa: BLE001  (the bulkhead)
                self._break(connection, error, now)

    def _read_page(self, connection: WorkerConnection, now: float) -> None:
        page = connection.page
        ticket, started_at = page.running_task()
        if ticket and now - started_at >= SLOW_S:
            # The results before this task are not sent until it ends, but are in the page.
            results = self._unsent(connection, ticket)
            if results and page.ticket == ticket:
                self._take_results(connection, results, [], now)
        progress = connection.progress
        moving, connection.progress_before = connection.is_held or progress != connection.progress_before, progress
        self._execute(self._scheduler.page_read(connection.worker, ticket, started_at, moving, now, page.ended), now)
        self._execute(self._scheduler.blocked(connection.worker, ticket if page.blocked == ticket else 0, now), now)

    def _unsent(self, connection: WorkerConnection, ticket: int) -> Results:
        """Return the results in a page. Invalid ones are no error if the task has ended meanwhile."""
        try:
            return connection.unsent()
        except ProtocolError:
            if connection.page.ticket == ticket:
                raise
            return Results()

    # ------------------------------------------------------------------------------------------- execute commands

    def _execute(self, commands: Iterable[Command], now: float) -> None:
        """Execute commands in their order. Those that events during the execution cause come after them."""
        self._commands += commands
        if self._is_executing:
            return
        self._is_executing = True
        try:
            while self._commands:
                command = self._commands.popleft()
                try:
                    self._execute_one(command, now)
                except Exception as error:
                    connection = self._connections.get(command.worker)
                    if connection is None:
                        raise
                    self._break(connection, error, now)
        finally:
            self._is_executing = False

    def _execute_one(self, command: Command, now: float) -> None:
        connection = self._connections.get(command.worker)  # None if it has died meanwhile, as the scheduler knows
        if isinstance(command, GiveTasks) and connection:
            self._send_tasks(connection, command)
        elif isinstance(command, Recall) and connection:
            self._commands += self._scheduler.recall_finished(connection.worker, connection.recall(), now)
        elif isinstance(command, Interrupt) and connection:
            connection.page.stop(command.ticket)
            self._launcher.interrupt(connection.process)
        elif isinstance(command, Kill) and connection and connection.is_broken:
            self._kill_deadlines.setdefault(connection.worker, (now, ""))  # as soon as its process is known
        elif isinstance(command, Kill):
            self._launcher.kill(connection.process if connection else command.worker)
        elif isinstance(command, Dismiss) and connection:
            connection.close_tokens()
            if connection.process in self._main_threads:
                self._main_threads[connection.process].close_tokens()
            self._kill_deadlines.setdefault(connection.worker, (now + END_S, "was dismissed"))
        elif isinstance(command, Start) and command.process and not self._closing:
            self._start_thread(command.worker, command.process, now)
        elif isinstance(command, Start) and not self._closing:
            self._start_worker(command.worker, now)

    def _send_tasks(self, connection: WorkerConnection, command: GiveTasks) -> None:
        if self.cluster is not None:
            connection.show_cluster(self.cluster)
        if not connection.has_function(command.function) and command.function in self._functions:
            body, buffers = self._functions[command.function]
            self._send_segments(connection, buffers)
            connection.load_function(command.function, body, buffers)
        for attempt in command.attempts:
            if attempt.sizes:
                self._send_segments(connection, attempt.sizes)
        needs = command.attempts[0].needs
        threads = 0 if needs is None or needs.cores == 1 else needs.cores or self._cores
        connection.run_tasks(command.function, command.attempts, threads)
        self._watch_tasks(connection)

    def _send_segments(self, connection: WorkerConnection, buffers: Iterable[object]) -> None:
        """Send a worker the segments to which its next record refers."""
        for buffer in buffers:
            if (
                isinstance(buffer, Slice)
                and not connection.has_segment(buffer.segment)
                and buffer.segment in self._segments
            ):
                connection.add_segment(self._segments[buffer.segment])

    def _start_worker(self, worker: int, now: float) -> None:
        try:
            connection, worker_channels = self._open_connection(worker)
        except OSError as error:
            self._execute(self._scheduler.worker_died(worker, f"could not be started: {error}", 0, 0.0, now), now)
            return
        self._connections[worker] = connection
        events = self._launcher.launch(worker, worker_channels)
        worker_channels.close()
        self._take_events(events, now)

    def _start_thread(self, worker: int, process: int, now: float) -> None:
        events: list[Event] = []
        try:
            if process not in self._main_threads:
                main, worker_channels = self._open_connection(process)
                main.page.use_threads()
                self._main_threads[process] = main
                events = self._launcher.launch(process, worker_channels)
                worker_channels.close()
            connection, worker_channels = self._open_connection(worker, process)
        except OSError as error:
            log.warning("a thread for tasks could not be started, the present ones must do: %s", error)
            self._execute(self._scheduler.thread_refused(worker, f"could not be started: {error}", now), now)
        else:
            self._connections[worker] = connection
            connection.pid = self._main_threads[process].pid
            self._main_threads[process].open_thread(worker_channels)
            worker_channels.close()
        self._take_events(events, now)

    def _open_connection(self, worker: int, process: int = 0) -> tuple[WorkerConnection, WorkerChannels]:
        """Make a connection and watch it; return it and the worker's channels. Raises OSError."""
        slave_channels, worker_channels = make_channels()
        connection = WorkerConnection(worker, slave_channels, self._output_limit_bytes, self._result_bytes_max, process)
        self._readers[connection.socket.fileno()] = (connection, 0)
        self._watch_tasks(connection)
        for stream, fd in enumerate(connection.outputs, 1):
            self._readers[fd] = (connection, stream)
            self._watch(fd, select.POLLIN)
        return connection, worker_channels

    # --------------------------------------------------------------------------------------------- what workers send

    def _receive(self, connection: WorkerConnection, most_bytes: int, now: float) -> None:
        """Handle the records of a worker. Raises ProtocolError for invalid ones."""
        try:
            for record, buffers in connection.receive(most_bytes):
                if connection.worker in self._main_threads:
                    raise ProtocolError("sent a record, which the main thread of a process of threads must not do")
                if isinstance(record, Results) and record:
                    self._take_results(connection, record, buffers, now)
                else:
                    self._take_record(connection, record, now)
        except ConnectionError as error:
            self._unwatch(connection.socket.fileno())
            if connection.worker in self._connections:  # it is dead, as the launcher will report, or closed its socket
                self._kill_deadlines.setdefault(connection.worker, (now + CLOSED_S, str(error)))

    def _take_record(self, connection: WorkerConnection, record: Results | WorkerRecord, now: float) -> None:
        """Handle a record that contains no result."""
        if isinstance(record, NoteRecord):
            self._take_note(connection, record, now)
        elif isinstance(record, AddSegment):
            self._add_own_segment(connection, record)
        elif isinstance(record, RemoveSegments):
            self._remove_segments(connection, record.segments)
        elif isinstance(record, NotInitialized):
            if connection.is_ready or not self._initializes:
                raise ProtocolError("reported a failed initializer, but has none or is ready already")
            self._scheduler.initializer_failed(record.report)
        else:
            connection.is_ready = True
            self._check_ready(connection, now)

    def _take_results(
        self, connection: WorkerConnection, results: Results, buffers: Sequence[Buffer], now: float
    ) -> None:
        valid = 0
        try:
            for result in results:
                if result.wrote:
                    self._forward_output(connection, connection.capture.read_until_marked(result.ticket, result.wrote))
                if result.sizes:
                    self._check_slices(connection, result)
                valid += 1
        finally:  # those before an invalid one count
            taken = results if valid == len(results) else results[:valid]
            self._execute(self._scheduler.outcomes(connection.worker, taken, buffers, now), now)

    def _check_slices(self, connection: WorkerConnection, result: Result) -> None:
        """Raise ProtocolError if a result refers to memory that is not its worker's."""
        own = connection.own_segments
        for slice_ in result.sizes:
            if isinstance(slice_, Slice) and slice_.offset + slice_.size > own.get(slice_.segment, -1):
                raise ProtocolError(f"sent a slice that is not in its own shared memory, of {slice_.segment.hex()[:8]}")

    def _add_own_segment(self, connection: WorkerConnection, made: AddSegment) -> None:
        known = made.segment in self._segments or any(
            made.segment in other.own_segments for other in self._connections.values()
        )
        if known or made.pid != connection.pid or made.fd < 0 or made.size < 1 or len(made.segment) != SEGMENT_ID_BYTES:
            raise ProtocolError(f"named shared memory that is not its own, {made.segment.hex()[:8]}")
        if len(connection.own_segments) >= SEGMENTS_MAX:
            raise ProtocolError(f"made more than {SEGMENTS_MAX} segments of shared memory")
        connection.own_segments[made.segment] = made.size
        self._added_segments.append(made)

    def _remove_segments(self, connection: WorkerConnection, segments: Sequence[bytes]) -> None:
        """Forget segments of a worker's own; unknown ones are ignored."""
        own = connection.own_segments
        # The master announces a worker's segment to its own slave, too, when tasks there need a result that lies in it.
        others: list[Container[bytes]] = [self._segments, *(other.own_segments for other in self._connections.values())]
        if any(segment in known for segment in segments if segment not in own for known in others):
            raise ProtocolError("removed shared memory that is not its own")
        self._removed_segments += [segment for segment in segments if own.pop(segment, None) is not None]

    def _take_note(self, connection: WorkerConnection, note: NoteRecord, now: float) -> None:
        ref = self._scheduler.ref(connection.worker, note.ticket)
        if ref is None:  # a thread of a task that has ended
            return
        if note.ticket != connection.notes_ticket:
            connection.notes, connection.notes_ticket = NoteFraming(), note.ticket
        if not connection.notes.admits(note.data):
            return
        self._output.append((ref, NOTES, note.data))
        if self._holds_notes and not connection.is_held:
            connection.is_held = True
            self._watch_tasks(connection)
        if connection.notes.is_broken and connection.log.admits(now):
            name = task_name(ref.job, ref.index)
            text = "task %s has sent invalid notes; no more of its notes are forwarded"
            log.warning(text, name, extra={"task": name})

    def _check_ready(self, connection: WorkerConnection, now: float) -> None:
        """Let a worker work when both its record and its launcher's event have come."""
        if connection.is_ready and connection.pid:
            self._execute(self._scheduler.worker_ready(connection.worker, connection.pid, now), now)

    def _forward_output(self, connection: WorkerConnection, pieces: Iterable[Piece]) -> None:
        for ticket, stream, data in pieces:
            if ticket == 0 and stream != NOTES:
                self._log_output(connection, data)
            elif ref := self._scheduler.ref(connection.worker, ticket):
                self._output.append((ref, stream, data))

    def _log_output(self, connection: WorkerConnection, data: bytes) -> None:
        """Log output that belongs to no task: of a thread or child process that a task has left behind."""
        if not connection.log.admits(time.monotonic()):
            return
        text = data[:LOG_CHARS_MAX].decode(errors="replace").rstrip()
        more = f" (and {len(data) - LOG_CHARS_MAX} bytes more)" if len(data) > LOG_CHARS_MAX else ""
        if left_out := connection.log.take_left_out():
            more += f" ({left_out} lines were left out before this)"
        ids = {"worker": connection.pid}
        log.info("worker %d wrote, outside of any task: %s%s", connection.pid, text, more, extra=ids)

    def _break(self, connection: WorkerConnection, error: Exception, now: float) -> None:
        """Kill a worker after an error in its bulkhead, and with it all threads of its process."""
        if connection.is_broken:
            return
        connection.is_broken = True
        self._unwatch(connection.socket.fileno())
        is_nonsense = isinstance(error, ProtocolError)
        what = str(error) if is_nonsense else f"could not be handled ({type(error).__name__}: {error})"
        if self._log.admits(now):
            shown = None if is_nonsense else error
            ids = {"worker": connection.pid}
            log.error("worker %d is killed: it %s", connection.pid, what, exc_info=shown, extra=ids)
        if connection.worker in self._main_threads:
            self._kill_deadlines.setdefault(connection.worker, (now, f"was killed because its process {what}"))
        elif connection.worker in self._connections:
            reason = f"was killed because it {what}"
            self._kill_deadlines.setdefault(connection.worker, (now, reason))
            ticket, ended = connection.page.ticket, connection.page.ended
            kept = self._take_unsent(connection, ticket, now)
            self._execute(self._scheduler.broken(connection.worker, reason, ticket, ended, may_be_former=kept), now)
        self._next_launcher_check = min(self._next_launcher_check, now)

    def _take_unsent(self, connection: WorkerConnection, ticket: int, now: float) -> bool:
        """Take the results before the running task of a broken worker from its page; return whether there were any."""
        if not ticket:
            return False
        try:
            results = connection.unsent()
            if not results or connection.page.ticket != ticket:
                return False
            self._take_results(connection, results, [], now)
        except ProtocolError:
            return False
        return True

    def _check_launcher(self, now: float) -> None:
        self._take_events(self._launcher.take_events(), now)
        while self._terminated and (self._closing or now >= self._terminated[0][0]):
            self._take_event(self._terminated.popleft()[1], now)

    def _take_events(self, events: Iterable[Event], now: float) -> None:
        for event in events:
            if isinstance(event, ProcessEnded) and event.is_terminated:
                self._terminated.append((now + TERMINATED_S, event))
                self._next_launcher_check = min(self._next_launcher_check, now + TERMINATED_S)
            else:
                self._take_event(event, now)
        self._watch_launcher()

    def _take_event(self, event: Event, now: float) -> None:
        main = self._main_threads.get(event.worker)
        connection = self._connections.get(event.worker)
        if isinstance(event, ProcessStarted):
            for started in [connection] if connection else self._threads_of(main):
                started.pid = event.pid
                self._check_ready(started, now)
        elif main:
            self._reap_process(main, event.reason, now)
        elif connection:
            self._reap(connection, event.reason, now, is_collateral=event.is_collateral)

    def _reap(self, connection: WorkerConnection, reason: str, now: float, *, is_collateral: bool) -> None:
        """Take what a dead worker has left, then report its death to the scheduler."""
        self._samples.died(connection.process, reason)
        del self._connections[connection.worker]
        ticket, started_at = self._drain_connection(connection, now)
        reason = self._death_reason(connection, reason)
        died = partial(self._scheduler.worker_died, is_collateral=is_collateral)
        self._execute(died(connection.worker, reason, ticket, started_at, now), now)

    def _reap_process(self, main: WorkerConnection, reason: str, now: float) -> None:
        """Take what the threads of a dead process have left, then report all deaths to the scheduler together."""
        self._samples.died(main.worker, reason)
        self._scheduler.process_ends(main.worker)
        reason = self._death_reason(main, reason)
        threads = [connection for connection in self._threads_of(main) if connection is not main]
        for connection in threads:
            del self._connections[connection.worker]
        del self._main_threads[main.worker]
        self._drain_connection(main, now)
        pages = {connection.worker: self._drain_connection(connection, now) for connection in threads}
        for connection in threads:
            reason = self._death_reason(connection, reason)
        culprits = [connection.worker for connection in threads if connection.was_killed] or list(pages)
        self._execute(self._scheduler.process_died(reason, pages, culprits, now), now)

    def _threads_of(self, main: WorkerConnection | None) -> list[WorkerConnection]:
        """Return the connections to all threads of a process, its main thread first."""
        if main is None:
            return []
        return [main, *(connection for connection in self._connections.values() if connection.process == main.worker)]

    def _death_reason(self, connection: WorkerConnection, exit_status: str) -> str:
        """Return how a worker has died: as the launcher reports, unless the pool has killed it."""
        _, reason = self._kill_deadlines.pop(connection.worker, (0.0, ""))
        if connection.is_broken:
            return reason or exit_status
        return f"{reason} and was killed" if connection.was_killed else exit_status

    def _drain_connection(self, connection: WorkerConnection, now: float) -> tuple[int, float]:
        """Take what a dead worker has left, and close its connection; return the ticket that ran, and since when."""
        ticket, started_at = connection.page.running_task()
        ticket = ticket or connection.page.result_in_transit
        for take in (self._drain_records, self._drain_results, self._drain_output):
            try:
                take(connection, ticket, now)
            except Exception as error:  # it is dead, which is about to be reported
                if self._log.admits(now):
                    is_nonsense = isinstance(error, ProtocolError)
                    log.warning(
                        "worker %d, which is dead, %s", connection.pid, error, exc_info=None if is_nonsense else error
                    )
        for fd in (connection.socket.fileno(), *connection.outputs):
            self._unwatch(fd)
            del self._readers[fd]
        connection.close()
        self._orphaned_segments += connection.own_segments
        return ticket, started_at

    def _drain_records(self, connection: WorkerConnection, ticket: int, now: float) -> None:
        if not connection.is_broken:
            self._receive(connection, DRAIN_BYTES_MAX, now)

    def _drain_results(self, connection: WorkerConnection, ticket: int, now: float) -> None:
        if results := connection.unsent():
            self._take_results(connection, results, [], now)

    def _drain_output(self, connection: WorkerConnection, ticket: int, now: float) -> None:
        self._forward_output(connection, connection.capture.finish(ticket))

    # ------------------------------------------------------------------------------------------- descriptors

    def _watch(self, fd: int, events: int) -> None:
        if self._fds.get(fd) != events:
            self._fds[fd] = events
            self.fds_version += 1

    def _unwatch(self, fd: int) -> None:
        if self._fds.pop(fd, None) is not None:
            self.fds_version += 1

    def _watch_tasks(self, connection: WorkerConnection) -> None:
        if not connection.is_broken:
            reads = 0 if connection.is_held else select.POLLIN
            self._watch(connection.socket.fileno(), reads | (select.POLLOUT if connection.wants_to_send else 0))

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
        """Interrupt what runs, then kill what is left. Takes less than 3 s and leaves no process."""
        self._closing = True
        self._scheduler.reset()  # without its commands to kill: first the workers may end by themselves
        for connection in self._connections.values():
            if ticket := connection.page.ticket:
                connection.page.stop(ticket)
                self._launcher.interrupt(connection.process)
            connection.close_tokens()
        for connection in self._main_threads.values():
            connection.close_tokens()
        self._wait_for_workers(time.monotonic() + END_S)
        self._launcher.close(GONE_S)
        for connection in (*self._connections.values(), *self._main_threads.values()):
            connection.close()
        self._connections.clear()
        self._main_threads.clear()
        self._fds.clear()
        self._readers.clear()

    def _wait_for_workers(self, until: float) -> None:
        """Wait until the workers have ended, and read their output meanwhile, so that none hangs on a full pipe."""
        while (self._connections or self._main_threads) and (left_s := until - time.monotonic()) > 0:
            poll = select.poll()
            for fd, events in self._fds.items():
                poll.register(fd, events)
            for fd, events in poll.poll(min(left_s, SLOW_S) * 1000):
                self.ready(fd, events, time.monotonic())
            self._check_launcher(time.monotonic())
        self.take_reports()
