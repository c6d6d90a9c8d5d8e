"""The fork server: a process that has imported what workers need, and forks a worker when its slave asks for one.

It has one thread and no ZeroMQ context, so forking it is safe, and takes a millisecond instead of an interpreter's
start. It reaps the workers and reports how each ended. When its slave has gone, it kills the remaining workers and
exits.

The records that it exchanges with the slave are in `fork_records`. The fork server runs no task and opens no pickle;
the workers do, in `nodes.worker.process`.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

from concurrent_nb.workers.protocol.channels import WorkerChannels
from concurrent_nb.workers.protocol.fork_records import (
    ENDED,
    FORK,
    KILL,
    NO_PROCESS,
    PREPARE,
    RECORD,
    STARTED,
    WRITE_STACK,
    peak_bytes,
)
from concurrent_nb.workers.protocol.stacks import send_stack_signal
from concurrent_nb.workers.worker_side import process_setup

#: how long the fork server waits for the processes that it has killed, in seconds
KILL_WAIT_S: Final = 2.0


class ForkServer:
    """Serve one slave over `link` until it has gone. Runs in the main thread, because it handles SIGCHLD.

    Args:
        prepare: imports what system hosts need; called once, before the first of them is forked.
    """

    def __init__(self, link: socket.socket, prepare: Callable[[], None]) -> None:
        self._link = link
        self._prepare: Callable[[], None] | None = prepare
        self._pid = os.getpid()
        self._workers: dict[int, int] = {}  # pid to worker
        self._wake, wake = os.pipe()
        self._wake_fds = (self._wake, wake)
        os.set_blocking(self._wake, False)
        os.set_blocking(wake, False)
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def serve(self) -> WorkerChannels | None:
        """Return in each worker, with its channels; return None in the fork server when its slave has gone."""
        process_setup.adopt_orphans()
        process_setup.wake_when_parent_dies()
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for tasks
        signal.set_wakeup_fd(self._wake_fds[1], warn_on_full_buffer=False)
        _freeze_heap()
        while True:
            ready = dict(self._poll.poll())
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._reap()
            if self._link.fileno() in ready:
                try:
                    record, fds, _, _ = socket.recv_fds(self._link, RECORD.size, len(WorkerChannels._fields))
                except ConnectionError:
                    record, fds = b"", []
                if len(record) < RECORD.size:
                    self._kill_all()
                    return None
                kind, worker, thread, *_ = RECORD.unpack(record)
                if channels := self._handle(kind, worker, thread, fds):
                    return channels

    def _handle(self, kind: int, worker: int, thread: int, fds: list[int]) -> WorkerChannels | None:
        if kind == FORK:
            return self._fork(worker, WorkerChannels(*fds))
        if kind == PREPARE:
            self._prepare_once()
            return None
        for pid, number in self._workers.items():
            if number == worker and kind == KILL:
                _kill_group(pid)
            elif number == worker and kind == WRITE_STACK:
                send_stack_signal(pid, thread)
            elif number == worker:
                os.kill(pid, signal.SIGINT)  # not its group, which may contain children of the next task by now
        return None

    def _prepare_once(self) -> None:
        prepare, self._prepare = self._prepare, None
        if prepare is not None:
            prepare()
            _freeze_heap()

    def _fork(self, worker: int, channels: WorkerChannels) -> WorkerChannels | None:
        try:
            pid = os.fork()
        except OSError:
            channels.close()
            self._send(ENDED, worker, NO_PROCESS, NO_PROCESS)
            return None
        if pid == 0:
            self._become_child()
            return channels
        self._workers[pid] = worker
        channels.close()
        self._send(STARTED, worker, pid, 0)
        return None

    def _become_child(self) -> None:
        """Close what belongs to the fork server."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._link.close()
        for fd in self._wake_fds:
            os.close(fd)
        process_setup.enter_own_group()
        process_setup.die_with_parent(self._pid)

    def _reap(self) -> bool:
        """Reap every child that has ended; return False if no child is left.

        A worker's process group is killed before the worker is reaped: until then no other group can get its number.
        """
        try:
            while pid := _ended_child():
                worker = self._workers.pop(pid, None)
                if worker is not None:
                    _kill_group(pid)
                _, status, usage = os.wait4(pid, 0)
                if worker is not None:
                    self._send(ENDED, worker, pid, status, peak_bytes(usage))
        except ChildProcessError:
            return False
        return True

    def _send(self, kind: int, worker: int, pid: int, status: int, peak_bytes: int = 0) -> None:
        # That the slave has gone is noticed where its socket is read.
        with contextlib.suppress(ConnectionError):
            self._link.sendall(RECORD.pack(kind, worker, pid, status, peak_bytes))

    def _kill_all(self) -> None:
        """Kill the workers' process groups, then the descendants that have left them and have been reparented to us."""
        for pid in self._workers:
            _kill_group(pid)
        give_up_at = time.monotonic() + KILL_WAIT_S
        while self._reap() and time.monotonic() < give_up_at:
            for pid in _children():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def _freeze_heap() -> None:
    """Exclude all present objects from garbage collection, so that workers share their pages."""
    gc.collect()
    gc.freeze()


def _ended_child() -> int:
    """Return the pid of a child that has ended and is not reaped, 0 if there is none. Raises ChildProcessError
    if there is no child at all.
    """
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return ended.si_pid if ended else 0


def _kill_group(pid: int) -> None:
    """Kill a worker and its process group. It is not reaped yet, so no other group can have its number."""
    with contextlib.suppress(PermissionError):
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(pid, signal.SIGKILL)  # it does not lead its group yet


def _children() -> list[int]:
    """List the children of this process; none where the system does not list them."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []
