"""Finds, measures and ends every process of one run, also those that change session or parent.

A process belongs to the run if its environment has the run's mark, if it is in the session of one that has, or if it
descends from one that does: frameworks start sessions of their own, lose their parents, or overwrite their environment
with a title.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

MARK = "CONCURRENT_NB_BENCHMARK"
#: resource trackers of the standard library and of loky, which remove what other processes have left
JANITOR = "resource_tracker"


def members(run: str) -> dict[int, psutil.Process]:
    """Return the live processes whose mark is `run`, and those that belong to them, by pid."""
    alive: dict[int, psutil.Process] = {}
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    found: set[int] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended, or belongs to another user
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            parents[process.pid], sessions[process.pid] = process.ppid(), os.getsid(process.pid)
            alive[process.pid] = process
            if process.environ().get(MARK) == run:
                found.add(process.pid)
    leaders = {sessions[pid] for pid in found} & found
    found |= {pid for pid, session in sessions.items() if session in leaders}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: alive[pid] for pid in found}


def cpu_s(run: str) -> dict[int, float]:
    """Return the processor seconds of each process so far."""
    return _each(run, lambda process: sum(process.cpu_times()[:2]))


def rss_bytes(run: str) -> dict[int, int]:
    """Return the resident memory of each process; shared memory counts for each."""
    return _each(run, lambda process: int(process.memory_info().rss))


def pss_bytes(run: str) -> dict[int, int]:
    """Return the proportional memory of each process: memory shared by n processes counts 1/n for each."""
    return _each(run, lambda process: int(process.memory_full_info().pss))


def commands(run: str) -> dict[int, str]:
    """Return the command line of each process."""
    return _each(run, lambda process: " ".join(process.cmdline()))


def holding(folder: Path) -> set[str]:
    """Return the entries of a folder that any process of any user has open or mapped."""
    paths: set[str] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            paths |= {entry.path for entry in process.memory_maps()} | {entry.path for entry in process.open_files()}
    return {Path(path).relative_to(folder).parts[0] for path in paths if path.startswith(f"{folder}/")}


def end(run: str, known: Iterable[psutil.Process] = (), patience_s: float = 5.0) -> list[str]:
    """Kill the remaining processes of a run, and the live ones of `known`; return their command lines.

    Resource trackers have half of the time to end by themselves. Raises RuntimeError if a process is still there after
    `patience_s` seconds.
    """
    ended: dict[int, str] = {}
    began = time.monotonic()
    while left := {**members(run), **{process.pid: process for process in known if _lives(process)}}:
        waited_s = time.monotonic() - began
        if waited_s > patience_s:
            raise RuntimeError(f"processes {sorted(left)} of a run do not end")
        for pid, process in left.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                command = " ".join(process.cmdline()) or process.name()
                ended.setdefault(pid, command)
                if JANITOR not in command or waited_s > patience_s / 2:
                    process.kill()
        time.sleep(0.02)
    return [ended[pid] for pid in sorted(ended)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _each(run: str, read: Callable[[psutil.Process], T]) -> dict[int, T]:
    values = {}
    for pid, process in members(run).items():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            values[pid] = read(process)
    return values
