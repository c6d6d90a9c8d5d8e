"""Whether a process of this machine is alive: by its pid and its start time, because pids are used again."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

LINUX: Final = sys.platform == "linux"
#: most characters of a machine's name that are sent
HOST_MAX: Final = 100


def host_name() -> str:
    """Return the name of this machine."""
    return socket.gethostname()[:HOST_MAX]


def own_start_time() -> float | None:
    """Return when this process started; None if the system does not report it."""
    try:
        return start_time(os.getpid())
    except OSError:
        return None


def start_time(pid: int) -> float | None:
    """Return when a process started, by a clock of its machine; None if there is none, or it has ended.

    Raises OSError if the system does not report it now.
    """
    if LINUX:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, *fields = stat.rpartition(b")")[2].split()
        return None if state in b"ZX" else float(fields[18])
    import psutil  # here, because it takes 20 ms

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.Error as error:
        raise OSError(str(error)) from error


def liveness_check(host: str, pid: int, since: float | None) -> Callable[[], bool]:
    """Return a function that returns whether a node's process is alive; always True if it is on another machine.

    Args:
        host: name of the process's machine, as the process has reported it.
        pid: of the process.
        since: its start time, as `start_time` has returned it there.
    """

    def is_alive() -> bool:
        try:
            return start_time(pid) == since
        except OSError:  # unknown now
            return True

    is_here = since is not None and pid > 0 and host == host_name() and is_alive()
    return is_alive if is_here else lambda: True
