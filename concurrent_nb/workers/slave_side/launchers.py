"""Launchers: they start worker processes, signal them, and report how each has ended. Used by the pool alone.

`ForkServerLauncher` lets a fork server start them (fast, and safe because that process has one thread);
`SpawnLauncher` starts an interpreter for each (slower, and the only way without fork). What a worker does is not known
here.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from concurrent_nb.ids import INITIALIZER_VARIABLE
from concurrent_nb.rate_limited_log import LineLimit
from concurrent_nb.workers.protocol.channels import WorkerChannels
from concurrent_nb.workers.protocol.fork_records import (
    ENDED,
    FORK,
    INTERRUPT,
    KILL,
    PREPARE,
    RECORD,
    STARTED,
    WRITE_STACK,
    peak_bytes,
)
from concurrent_nb.workers.protocol.stacks import send_stack_signal
from concurrent_nb.workers.protocol.thread_variables import FOLLOWERS, THREADS
from concurrent_nb.workers.slave_side.output_capture import PIPE_BYTES_MAX

log = logging.getLogger(__name__)

#: composition root of worker processes: a name, because this layer may not import it
COMMAND: Final = (sys.executable, "-P", "-m", "concurrent_nb.nodes.worker.process")
#: last lines of a dying process that are kept for messages
TAIL_LINES: Final = 10
#: most characters of each that are kept
LINE_CHARS_MAX: Final = 1000
#: most lines of starting processes in the log within a minute
LOGGED_LINES_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class ProcessStarted:
    """The process of a worker has started."""

    worker: int
    pid: int


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """The process of a worker has ended."""

    worker: int
    reason: str  #: as in "died of SIGSEGV"
    is_terminated: bool = False  #: it died of SIGTERM, or its fork server did
    is_collateral: bool = False  #: it died with others of one cause, which another event counts


Event = ProcessStarted | ProcessEnded


class Launcher(Protocol):
    """Starts and signals worker processes."""

    def launch(self, worker: int, channels: WorkerChannels) -> list[Event]:
        """Start a worker that gets these channels. They stay open here."""

    def prepare_system_host(self) -> None:
        """Prepare for a task system, for which a worker is about to be launched."""

    def interrupt(self, worker: int) -> None:
        """Send SIGINT to the worker, not to its group, which may contain children of the next task by now."""

    def write_stack(self, worker: int, thread: int) -> None:
        """Have the worker write the stack of a thread into its file, 0: of its main thread. Harmless if it cannot."""

    def kill(self, worker: int) -> None:
        """Send SIGKILL to the worker's process group."""

    @property
    def server_pid(self) -> int:
        """Return the pid of the process that starts the workers, 0 if there is none."""

    def end_server(self, how: str) -> None:
        """Kill the process that starts the workers, which `how` describes. Its workers end with it."""

    def fds(self) -> list[int]:
        """Return the descriptors that become readable when there are events."""

    def take_events(self) -> list[Event]:
        """Return what has happened, without waiting."""

    def stderr_tail(self) -> str:
        """Return the last lines that processes have written before they had their output pipes."""

    def close(self, wait_s: float) -> None:
        """Kill all workers that are left, and wait for them, for at most `wait_s` seconds."""


def environment(slots: int, cores: int, user_environment: Mapping[str, str]) -> dict[str, str]:
    """Return the workers' environment: libraries in the slots share the cores, unless the user has set it."""
    threads = str(max(1, cores // max(1, slots)))
    general = THREADS[0] in user_environment  # then the user has set it for those that follow, too
    return {**{name: threads for name in THREADS if not (general and name in FOLLOWERS)}, **user_environment}


def inherited_fds(env: Mapping[str, str]) -> list[int]:
    """Return the descriptors of this process that workers inherit, because their environment contains the numbers."""
    return [int(env[INITIALIZER_VARIABLE])] if INITIALIZER_VARIABLE in env else []


#: a process with less memory than that is seldom killed by the kernel for lack of memory
LARGE_BYTES: Final = 256 << 20


def describe_exit(status: int, peak_bytes: int = 0) -> str:
    """Return how a process has ended, for messages: the signal or the exit code, and its peak memory.

    Args:
        status: exit code, or negative number of the signal, as in `subprocess`.
        peak_bytes: most memory that it has had; 0 if that is not known.
    """
    memory = f" (peak memory {peak_bytes / (1 << 20):.0f} MiB)" if peak_bytes else ""
    if status >= 0:
        return f"ended with exit code {status}{memory}"
    if status == -signal.SIGKILL and peak_bytes >= LARGE_BYTES:
        memory = f"{memory[:-1]}; if no one has killed it, the machine was out of memory)"
    try:
        return f"died of {signal.Signals(-status).name}{memory}"
    except ValueError:
        return f"died of signal {-status}{memory}"


class StderrTail:
    """Reads what processes write to standard error before they are workers, for the log and for messages.

    Reads one pipe's content at a time and logs a limited number of lines, because a process may write for ever.
    """

    def __init__(self) -> None:
        self.fd, self.writing = os.pipe()
        os.set_blocking(self.fd, False)
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._limit = LineLimit(LOGGED_LINES_MAX)

    def read(self) -> None:
        """Read what the pipe contains."""
        with contextlib.suppress(BlockingIOError):
            for line in os.read(self.fd, PIPE_BYTES_MAX).decode(errors="replace").splitlines():
                self._lines.append(line[:LINE_CHARS_MAX])
                if self._limit.admits(time.monotonic()):
                    if left_out := self._limit.take_left_out():
                        log.warning("%d lines of workers that were not ready were left out here", left_out)
                    log.warning("output of a worker that is not ready: %s", line[:LINE_CHARS_MAX])

    def text(self) -> str:
        """Return the last lines."""
        self.read()
        return "\n".join(self._lines)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.fd)
        os.close(self.writing)


class ForkServerLauncher:
    """Lets a fork server start the workers. One that has died is replaced when the next worker is launched."""

    def __init__(self, env: Mapping[str, str], command: Sequence[str] = COMMAND) -> None:
        self._env = env
        self._command = command
        self._stderr = StderrTail()
        self._link: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._workers: dict[int, int] = {}  # worker to pid, 0 until it is forked
        self._frozen = ""  # why the fork server is killed

    def _start(self) -> None:
        """Start the fork server. Records may be sent immediately."""
        link, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(link.close)
            self._server = subprocess.Popen(
                [*self._command, "--fork-server", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr.writing,
                stderr=self._stderr.writing,
                pass_fds=[theirs.fileno(), *inherited_fds(self._env)],
                start_new_session=True,
                env=dict(self._env),
            )
            undo.pop_all()
        link.setblocking(False)
        self._link = link

    def launch(self, worker: int, channels: WorkerChannels) -> list[Event]:
        """Let the fork server start a worker."""
        try:
            if self._link is None:
                self._start()
        except OSError as error:
            return [ProcessEnded(worker, f"could not be started: {error}")]
        assert self._link is not None
        self._workers[worker] = 0
        try:
            socket.send_fds(self._link, [RECORD.pack(FORK, worker, 0, 0, 0)], list(channels))
        except (BlockingIOError, ConnectionError):
            return self._server_died()
        return []

    def prepare_system_host(self) -> None:
        """Let the fork server import what task systems need, once, so that only the first one starts slowly."""
        self._signal(PREPARE, 0)

    def interrupt(self, worker: int) -> None:
        """Let the fork server signal the worker: as its parent, it cannot signal a later process of the same pid."""
        self._signal(INTERRUPT, worker)

    def write_stack(self, worker: int, thread: int) -> None:
        """Let the fork server signal the worker, as with `interrupt`."""
        self._signal(WRITE_STACK, worker, thread)

    def kill(self, worker: int) -> None:
        """Let the fork server kill the worker; if the worker is not forked yet, kill the fork server."""
        if self._workers.get(worker) == 0 and self._server is not None:
            self._server.kill()
        else:
            self._signal(KILL, worker)

    @property
    def server_pid(self) -> int:
        """Return the pid of the fork server, 0 while there is none."""
        return 0 if self._link is None or self._server is None else self._server.pid

    def end_server(self, how: str) -> None:
        """Kill the fork server, which `how` describes. Another one starts the next worker."""
        if self._link is not None and self._server is not None:
            self._frozen = how
            self._server.kill()

    def _signal(self, kind: int, worker: int, thread: int = 0) -> None:
        if self._link is not None:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                self._link.send(RECORD.pack(kind, worker, thread, 0, 0))

    def fds(self) -> list[int]:
        """Return the descriptors that become readable when there are events."""
        return [self._stderr.fd] if self._link is None else [self._stderr.fd, self._link.fileno()]

    def take_events(self) -> list[Event]:
        """Read the records of the fork server."""
        self._stderr.read()
        events: list[Event] = []
        while self._link is not None:
            try:
                record = self._link.recv(RECORD.size)
            except BlockingIOError:
                break
            except ConnectionError:
                record = b""
            if len(record) < RECORD.size:
                return events + self._server_died()
            if (event := self._event(record)) is None:  # the next record would begin anywhere
                log.error("the fork server sent an invalid record: %s", record.hex())
                return events + self._server_died()
            events.append(event)
        return events

    def _event(self, record: bytes) -> Event | None:
        """Decode a record of the fork server; None if it is invalid."""
        kind, worker, pid, status, peak = RECORD.unpack(record)
        if kind == STARTED and self._workers.get(worker) == 0 and pid > 0:
            self._workers[worker] = pid
            return ProcessStarted(worker, pid)
        if kind != ENDED or worker not in self._workers:
            return None
        try:
            code = os.waitstatus_to_exitcode(status)
            reason = describe_exit(code, peak) if pid > 0 else "could not be forked"
        except ValueError:
            return None
        del self._workers[worker]
        return ProcessEnded(worker, reason, is_terminated=pid > 0 and code == -signal.SIGTERM)

    def _server_died(self) -> list[Event]:
        """Kill all workers, and report them as dead."""
        assert self._link is not None
        assert self._server is not None
        self._link.close()
        self._link = None
        self._server.kill()
        code = self._server.wait()
        reason, self._frozen = self._frozen or describe_exit(code), ""
        self._stderr.read()
        log.error("the fork server %d of the workers %s", self._server.pid, reason)
        lost, self._workers = self._workers, {}
        for pid in lost.values():
            if pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
        how = f"was killed because its fork server {reason}"
        is_terminated = code == -signal.SIGTERM
        return [
            ProcessEnded(worker, how, is_terminated=is_terminated, is_collateral=at > 0)
            for at, worker in enumerate(lost)
        ]

    def stderr_tail(self) -> str:
        """Return the last lines that the fork server and workers that were not ready have written."""
        return self._stderr.text()

    def close(self, wait_s: float) -> None:
        """Close the socket, upon which the fork server kills its workers and ends; kill it if it does not."""
        if self._link is not None and self._server is not None:
            self._link.close()
            self._link = None
            try:
                self._server.wait(wait_s)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        self._stderr.close()


class SpawnLauncher:
    """Starts an interpreter for each worker."""

    def __init__(
        self, env: Mapping[str, str], command: Sequence[str] = COMMAND, pidfds: bool = hasattr(os, "pidfd_open")
    ) -> None:
        self._env = env
        self._command = command
        self._with_pidfds = pidfds  # without them, deaths are noticed when `take_events` is asked for
        self._stderr = StderrTail()
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._pidfds: dict[int, int] = {}

    def launch(self, worker: int, channels: WorkerChannels) -> list[Event]:
        """Start an interpreter."""
        try:
            process = subprocess.Popen(
                [*self._command, "--channels", ",".join(map(str, channels))],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr.writing,
                stderr=self._stderr.writing,
                pass_fds=[*channels, *inherited_fds(self._env)],
                start_new_session=True,
                env=dict(self._env),
            )
        except OSError as error:
            return [ProcessEnded(worker, f"could not be started: {error}")]
        self._workers[worker] = process
        if self._with_pidfds:
            with contextlib.suppress(OSError):  # too many open files: its end is noticed a little later then
                self._pidfds[worker] = os.pidfd_open(process.pid)
        return [ProcessStarted(worker, process.pid)]

    def prepare_system_host(self) -> None:
        """Do nothing: each interpreter imports what its task needs."""

    @property
    def server_pid(self) -> int:
        """Return 0: nothing but this process starts workers."""
        return 0

    def end_server(self, how: str) -> None:
        """Do nothing: there is none."""

    def interrupt(self, worker: int) -> None:
        """Send SIGINT to the worker."""
        process = self._workers.get(worker)
        if process is not None and process.returncode is None:
            # Not by Popen.send_signal, which reaps it if it has just ended; only `take_events` may do that.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)

    def write_stack(self, worker: int, thread: int) -> None:
        """Signal the worker."""
        process = self._workers.get(worker)
        if process is not None and process.returncode is None:  # not reaped, so the number is still its own
            with contextlib.suppress(ProcessLookupError):
                send_stack_signal(process.pid, thread)

    def kill(self, worker: int) -> None:
        """Send SIGKILL to the worker's process group."""
        process = self._workers.get(worker)
        if process is not None and process.returncode is None:  # not reaped, so the number is still that of this group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def fds(self) -> list[int]:
        """Return the descriptors that become readable when there are events."""
        return [self._stderr.fd, *self._pidfds.values()]

    def take_events(self) -> list[Event]:
        """Reap the processes that have ended, and kill their groups."""
        self._stderr.read()
        events: list[Event] = []
        for worker, process in list(self._workers.items()):
            if (reason := _ended(process)) is not None:
                events.append(ProcessEnded(worker, reason, is_terminated=process.returncode == -signal.SIGTERM))
                del self._workers[worker]
                if worker in self._pidfds:
                    os.close(self._pidfds.pop(worker))
        return events

    def stderr_tail(self) -> str:
        """Return the last lines that workers have written before they were ready."""
        return self._stderr.text()

    def close(self, wait_s: float) -> None:
        """Kill all workers and wait for them."""
        for worker in self._workers:
            self.kill(worker)
        give_up_at = time.monotonic() + wait_s
        while self._workers and time.monotonic() < give_up_at:
            if not self.take_events():
                select.select(list(self._pidfds.values()), [], [], 0.005 if not self._pidfds else wait_s)
        self._stderr.close()


def _ended(process: subprocess.Popen[bytes]) -> str | None:
    """Reap a child process and return how it has ended; None if it has not."""
    try:
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # before it is reaped: then its number cannot be another's
        _, status, usage = os.wait4(process.pid, 0)
    except ChildProcessError:  # code in a cell of the slave's kernel has waited for any child
        process.returncode = 0
        return "ended, and something else has waited for it"
    process.returncode = os.waitstatus_to_exitcode(status)
    return describe_exit(process.returncode, peak_bytes(usage))
