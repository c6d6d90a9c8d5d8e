"""Whether a process of this host is there: its pid, and when it began, because pids are used again."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

LINUX: Final = sys.platform == "linux"
#: of a host's name, so many characters are told
HOST_MAX: Final = 100


def host_name() -> str:
    """Give the name by which this host is known."""
    return socket.gethostname()[:HOST_MAX]


def own_start_time() -> float | None:
    """Give when this process began, None where that cannot be found out."""
    try:
        return start_time(os.getpid())
    except OSError:
        return None


def start_time(pid: int) -> float | None:
    """Give when a process began, by a clock of its host; None if there is none, or it has ended.

    Raises OSError if that cannot be found out now.
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
    """Give what says whether a node's process is there. Of one that cannot be seen from here it says so for ever.

    Args:
        host, pid, since: of the process, as it has told: its host's name, and what `start_time` gave there.
    """

    def is_alive() -> bool:
        try:
            return start_time(pid) == since
        except OSError:  # nobody can say now
            return True

    is_here = since is not None and pid > 0 and host == host_name() and is_alive()
    return is_alive if is_here else lambda: True
