"""Launchers: they bring worker processes to life, signal them, and say how each ended. Used by the pool alone.

`ForkServerLauncher` has a template process fork them (fast, and safe because that process has one thread);
`SpawnLauncher` starts an interpreter for each (slower, and the only way where there is no fork). Both are small on
purpose: what a worker is for is not known here.
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
from concurrent_nb.workers.protocol.channels import WorkerChannels
from concurrent_nb.workers.protocol.fork_records import (
    ENDED,
    FORK,
    INTERRUPT,
    KILL,
    PREPARE,
    RECORD,
    STARTED,
    peak_bytes,
)
from concurrent_nb.workers.protocol.thread_variables import FOLLOWERS, THREADS
from concurrent_nb.workers.slave_side.output_capture import PIPE_BYTES_MAX
from concurrent_nb.workers.slave_side.worker_limits import LogLimit

log = logging.getLogger(__name__)

#: composition root of worker processes; a name, because this layer does not import it
COMMAND: Final = (sys.executable, "-P", "-m", "concurrent_nb.nodes.worker.process")
#: lines of a dying process that are kept for the message
LAST_LINES: Final = 10
#: of which so many characters are kept
LINE_CHARS_MAX: Final = 1000
#: lines of starting processes that go to the log within a minute
LOGGED_LINES_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class ProcessStarted:
    """A worker has its process."""

    worker: int
    pid: int


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """A worker's process is no more."""

    worker: int
    how: str  #: as in "died of SIGSEGV"


Event = ProcessStarted | ProcessEnded


class Launcher(Protocol):
    """Starts and signals worker processes."""

    def launch(self, worker: int, ends: WorkerChannels) -> list[Event]:
        """Start a worker that gets these ends. They stay open here."""

    def expect_host(self) -> None:
        """Have ready what a host needs, because one is about to be launched."""

    def interrupt(self, worker: int) -> None:
        """Send SIGINT to the worker, not to its group: by now the next task's children may be in there."""

    def kill(self, worker: int) -> None:
        """Send SIGKILL to the worker's process group."""

    def fds(self) -> list[int]:
        """List the descriptors that become readable when there is news."""

    def news(self) -> list[Event]:
        """Say what has happened, without waiting."""

    def last_words(self) -> str:
        """Return the last lines that processes wrote before they had their output pipes."""

    def close(self, wait_s: float) -> None:
        """Kill every worker that is left, and wait for it, `wait_s` seconds at most."""


def environment(slots: int, cores: int, given: Mapping[str, str]) -> dict[str, str]:
    """Make the workers' environment: libraries share the cores out among the slots, unless the user has said how."""
    threads = str(max(1, cores // max(1, slots)))
    general = THREADS[0] in given  # then the user has said it for those that follow, too
    return {**{name: threads for name in THREADS if not (general and name in FOLLOWERS)}, **given}


def inherited(env: Mapping[str, str]) -> list[int]:
    """List the descriptors of ours that workers read by the numbers that their environment names."""
    return [int(env[INITIALIZER_VARIABLE])] if INITIALIZER_VARIABLE in env else []


#: a process with less memory than that is seldom killed for lack of it
LARGE_BYTES: Final = 256 << 20


def in_words(status: int, peak_bytes: int = 0) -> str:
    """Say how a process ended: of a signal, or with an exit code, and how much memory it had.

    Args:
        status: as subprocess gives it.
        peak_bytes: most memory that it has had; 0 if that is not known.
    """
    memory = f" (peak memory {peak_bytes / (1 << 20):.0f} MiB)" if peak_bytes else ""
    if status >= 0:
        return f"ended with exit code {status}{memory}"
    if status == -signal.SIGKILL and peak_bytes >= LARGE_BYTES:
        memory = f"{memory[:-1]}; where nobody killed it, the machine was out of memory)"
    try:
        return f"died of {signal.Signals(-status).name}{memory}"
    except ValueError:
        return f"died of signal {-status}{memory}"


class StderrTail:
    """Reads what a process writes to its standard error before it is a worker, for the log and for messages.

    Not all at once, and not all for the log: whoever writes may write for ever.
    """

    def __init__(self) -> None:
        self.fd, self.writing = os.pipe()
        os.set_blocking(self.fd, False)
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._limit = LogLimit(LOGGED_LINES_MAX)

    def read(self) -> None:
        """Read what is there, as much as a pipe holds."""
        with contextlib.suppress(BlockingIOError):
            for line in os.read(self.fd, PIPE_BYTES_MAX).decode(errors="replace").splitlines():
                self._lines.append(line[:LINE_CHARS_MAX])
                if self._limit.admits(time.monotonic()):
                    if left_out := self._limit.take_left_out():
                        log.warning("%d lines that workers said before they were ready were left out here", left_out)
                    log.warning("a worker says before it is ready: %s", line[:LINE_CHARS_MAX])

    def text(self) -> str:
        """Return the last lines."""
        self.read()
        return "\n".join(self._lines)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.fd)
        os.close(self.writing)


class ForkServerLauncher:
    """Have a template process fork the workers. A template that died is replaced when the next worker is asked for."""

    def __init__(self, env: Mapping[str, str], command: Sequence[str] = COMMAND) -> None:
        self._env = env
        self._command = command
        self._words = StderrTail()
        self._link: socket.socket | None = None
        self._template: subprocess.Popen[bytes] | None = None
        self._workers: dict[int, int] = {}  # worker to pid, 0 until it is forked

    def _start(self) -> None:
        """Start the template. It takes orders at once, and obeys as soon as it is up."""
        link, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(link.close)
            self._template = subprocess.Popen(
                [*self._command, "--fork-server", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._words.writing,
                stderr=self._words.writing,
                pass_fds=[theirs.fileno(), *inherited(self._env)],
                start_new_session=True,
                env=dict(self._env),
            )
            undo.pop_all()
        link.setblocking(False)
        self._link = link

    def launch(self, worker: int, ends: WorkerChannels) -> list[Event]:
        """Ask the template for a worker."""
        try:
            if self._link is None:
                self._start()
        except OSError as error:
            return [ProcessEnded(worker, f"could not be started: {error}")]
        assert self._link is not None
        self._workers[worker] = 0
        try:
            socket.send_fds(self._link, [RECORD.pack(FORK, worker, 0, 0, 0)], list(ends))
        except (BlockingIOError, ConnectionError):
            return self._template_died()
        return []

    def expect_host(self) -> None:
        """Have the template import what a host needs, if it has not yet: the first one is slow, the others are not."""
        self._signal(PREPARE, 0)

    def interrupt(self, worker: int) -> None:
        """Have the template signal the worker: it alone knows for sure that the process is still that one."""
        self._signal(INTERRUPT, worker)

    def kill(self, worker: int) -> None:
        """Have the template kill the worker; a worker that was never forked is stopped with its template."""
        if self._workers.get(worker) == 0 and self._template is not None:
            self._template.kill()
        else:
            self._signal(KILL, worker)

    def _signal(self, kind: int, worker: int) -> None:
        if self._link is not None:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                self._link.send(RECORD.pack(kind, worker, 0, 0, 0))

    def fds(self) -> list[int]:
        """List the descriptors that become readable when there is news."""
        return [self._words.fd] if self._link is None else [self._words.fd, self._link.fileno()]

    def news(self) -> list[Event]:
        """Read what the template tells."""
        self._words.read()
        events: list[Event] = []
        while self._link is not None:
            try:
                record = self._link.recv(RECORD.size)
            except BlockingIOError:
                break
            except ConnectionError:
                record = b""
            if len(record) < RECORD.size:
                return events + self._template_died()
            if (event := self._event(record)) is None:  # what it says next would begin anywhere
                log.error("the template process of the workers said what is no record: %s", record.hex())
                return events + self._template_died()
            events.append(event)
        return events

    def _event(self, record: bytes) -> Event | None:
        """Read a record of the template; None if it is none."""
        kind, worker, pid, status, peak = RECORD.unpack(record)
        if kind == STARTED and self._workers.get(worker) == 0 and pid > 0:
            self._workers[worker] = pid
            return ProcessStarted(worker, pid)
        if kind != ENDED or worker not in self._workers:
            return None
        try:
            how = in_words(os.waitstatus_to_exitcode(status), peak) if pid > 0 else "could not be forked"
        except ValueError:
            return None
        del self._workers[worker]
        return ProcessEnded(worker, how)

    def _template_died(self) -> list[Event]:
        """Count all workers as dead, and see to it that they are."""
        assert self._link is not None
        assert self._template is not None
        self._link.close()
        self._link = None
        self._template.kill()
        how = in_words(self._template.wait())
        self._words.read()
        log.error("the template process %d of the workers %s", self._template.pid, how)
        lost, self._workers = self._workers, {}
        for pid in lost.values():
            if pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
        return [ProcessEnded(worker, f"was killed because its template {how}") for worker in lost]

    def last_words(self) -> str:
        """Return the last lines that the template and unready workers wrote."""
        return self._words.text()

    def close(self, wait_s: float) -> None:
        """Close the link, which tells the template to kill its workers and go; kill it if it does not."""
        if self._link is not None and self._template is not None:
            self._link.close()
            self._link = None
            try:
                self._template.wait(wait_s)
            except subprocess.TimeoutExpired:
                self._template.kill()
                self._template.wait()
        self._words.close()


class SpawnLauncher:
    """Start a fresh interpreter for each worker."""

    def __init__(
        self, env: Mapping[str, str], command: Sequence[str] = COMMAND, pidfds: bool = hasattr(os, "pidfd_open")
    ) -> None:
        self._env = env
        self._command = command
        self._with_pidfds = pidfds  # without them, deaths are noticed when `news` is asked for
        self._words = StderrTail()
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._pidfds: dict[int, int] = {}

    def launch(self, worker: int, ends: WorkerChannels) -> list[Event]:
        """Start an interpreter."""
        try:
            process = subprocess.Popen(
                [*self._command, "--channels", ",".join(map(str, ends))],
                stdin=subprocess.DEVNULL,
                stdout=self._words.writing,
                stderr=self._words.writing,
                pass_fds=[*ends, *inherited(self._env)],
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

    def expect_host(self) -> None:
        """Do nothing: each interpreter imports what it needs."""

    def interrupt(self, worker: int) -> None:
        """Send SIGINT to the worker."""
        process = self._workers.get(worker)
        if process is not None and process.returncode is None:
            # Not by Popen.send_signal, which reaps it if it has just ended; that is for `news` to do.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)

    def kill(self, worker: int) -> None:
        """Send SIGKILL to the group."""
        process = self._workers.get(worker)
        if process is not None and process.returncode is None:  # not reaped, so the number is still that of this group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def fds(self) -> list[int]:
        """List the descriptors that become readable when there is news."""
        return [self._words.fd, *self._pidfds.values()]

    def news(self) -> list[Event]:
        """Reap what has ended. Its group is killed first, while its number cannot be another's."""
        self._words.read()
        events: list[Event] = []
        for worker, process in list(self._workers.items()):
            if (how := _ended(process)) is not None:
                events.append(ProcessEnded(worker, how))
                del self._workers[worker]
                if worker in self._pidfds:
                    os.close(self._pidfds.pop(worker))
        return events

    def last_words(self) -> str:
        """Return the last lines that workers wrote before they were ready."""
        return self._words.text()

    def close(self, wait_s: float) -> None:
        """Kill every worker and wait for it."""
        for worker in self._workers:
            self.kill(worker)
        give_up_at = time.monotonic() + wait_s
        while self._workers and time.monotonic() < give_up_at:
            if not self.news():
                select.select(list(self._pidfds.values()), [], [], 0.005 if not self._pidfds else wait_s)
        self._words.close()


def _ended(process: subprocess.Popen[bytes]) -> str | None:
    """Say how a child has ended, and reap it; None if it has not."""
    try:
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # while its number cannot be another's
        _, status, usage = os.wait4(process.pid, 0)
    except ChildProcessError:  # code in a cell of the slave's kernel, which waits for any child
        process.returncode = 0
        return "ended, and something else has waited for it"
    process.returncode = os.waitstatus_to_exitcode(status)
    return in_words(process.returncode, peak_bytes(usage))
