"""Slaves as children of a worker of another engine. Runs inside that worker, in one of its threads.

The child's standard input is its lease: it ends when the worker dies in any way.
"""

import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

from concurrent_nb.nodes.launchers.launcher import LOG_TAIL_CHARACTERS, SlaveStart
from concurrent_nb.nodes.launchers.started_process import StartedProcess, end_processes
from concurrent_nb.nodes.launchers.worker_count import with_workers

#: seconds between two checks of the child
LOOK_S: Final = 0.1
#: between two looks whether the engine still wants what holds cores of it
WANTED_S: Final = 1.0

_lock = threading.Lock()
#: for each slave that is held in this process, what ends it, and how many threads wait for that
_ends: dict[str, threading.Event] = {}
_waiting: dict[str, int] = {}


class SealedStart:
    """What a slave needs, as an argument of a task of the engine, which may log how arguments look."""

    def __init__(self, start: SlaveStart) -> None:
        self.start = start

    def __repr__(self) -> str:
        return f"<start of slave {self.start.name}>"


def hold_slave(
    start: SlaveStart, cores: int, is_wanted: Callable[[], bool], begun: Callable[[], None]
) -> tuple[int, str]:
    """Run a slave until it ends, or `end_held` is called, or it is not wanted any more.

    Args:
        start: what the slave needs.
        cores: the number of its workers, unless it has a configured one.
        is_wanted: asked once a second.
        begun: called when its process runs.

    Returns the exit code and the end of its log.
    """
    end = _enter(start.name)
    try:
        child = _start(start, cores)
        try:
            begun()
            looks = 0
            while child.exit_code is None and not end.wait(LOOK_S):
                looks += 1
                if looks * LOOK_S >= WANTED_S:
                    looks = 0
                    if not is_wanted():
                        break
            ended_by_itself = child.exit_code
        finally:
            child.close_input()
            log = child.log_tail()
            end_processes([child])
        return (0 if ended_by_itself is None else ended_by_itself), log[-LOG_TAIL_CHARACTERS:]
    finally:
        _leave(start.name)


def hold_cores(name: str, is_wanted: Callable[[], bool]) -> None:
    """Keep the thread that calls this busy as long as a slave needs its core."""
    end = _enter(name)
    try:
        while not end.wait(WANTED_S) and is_wanted():
            continue
    finally:
        _leave(name)


def end_held(name: str) -> None:
    """End what this process holds for a slave."""
    with _lock:
        if name in _ends:
            _ends[name].set()


def _start(start: SlaveStart, cores: int) -> StartedProcess:
    words = [sys.executable, "-P", "-m", "concurrent_nb", "slave", "--connect", "-", "--name", start.name]
    # Ray's workers block this signal, with which a slave stops tasks, and a child inherits what its parent blocks.
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        child = StartedProcess([*words, "--log-format", start.log_format], f"slave {start.name}")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    child.write_lines([start.connection, with_workers(start.configuration, cores)])
    return child


def _enter(name: str) -> threading.Event:
    with _lock:
        _waiting[name] = _waiting.get(name, 0) + 1
        return _ends.setdefault(name, threading.Event())


def _leave(name: str) -> None:
    with _lock:
        _waiting[name] -= 1
        if not _waiting[name]:
            del _waiting[name], _ends[name]
