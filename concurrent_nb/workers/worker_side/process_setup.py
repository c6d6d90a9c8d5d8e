"""The setup of a new worker process, before it takes a task.

Called by `nodes.worker.process` with the channels that the slave has created.
"""

import contextlib
import ctypes
import faulthandler
import fcntl
import io
import os
import select
import signal
import sys
import types
from typing import Final

from concurrent_nb.workers.protocol.channels import WorkerChannels
from concurrent_nb.workers.protocol.stacks import STACK_SIGNAL

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_UNBUFFERED: Final = 2 if sys.platform.startswith(("linux", "darwin")) else 4  # _IONBF

# Loaded by the fork server, so that its workers need not load it.
_libc: Final = ctypes.CDLL(None)


def enter_own_group() -> None:
    """Make this process the leader of a new session and process group, so that they can be killed together."""
    if os.getsid(0) != os.getpid():
        os.setsid()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, on Linux. Exits if the parent has died already."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def wake_when_parent_dies() -> None:
    """Have the kernel let this process go on, if it is stopped, when its parent dies, on Linux: it has to tidy up."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants, on Linux."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_slave(parent_death_pipe: int) -> None:
    """Have the kernel kill this process's group when the slave's end of the pipe is closed, for whatever reason.

    The kernel sends the signal itself, so it works whatever the worker is doing at that moment.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(parent_death_pipe, fcntl.F_SETSIG, signal.SIGKILL)
    else:
        signal.signal(signal.SIGIO, lambda number, frame: os.killpg(0, signal.SIGKILL))
    fcntl.fcntl(parent_death_pipe, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(parent_death_pipe, fcntl.F_SETFL, fcntl.fcntl(parent_death_pipe, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(parent_death_pipe, select.POLLIN)
    if poll.poll(0):  # it was closed before the kernel had the group to signal
        os._exit(1)


def put_null_on_standard_input() -> None:
    """Put /dev/null on descriptor 0."""
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)


def replace_standard_streams(channels: WorkerChannels) -> None:
    """Put /dev/null on descriptor 0 and the output pipes on 1 and 2, for Python's and C's standard streams."""
    put_null_on_standard_input()
    os.dup2(channels.out, 1)
    os.dup2(channels.err, 2)
    for fd in range(3):
        reopen_stream(fd)
    faulthandler.enable()
    for name in ("stdout", "__stdoutp"):
        with contextlib.suppress(ValueError, AttributeError):
            # Unbuffered: output of C code needs no flush after each task.
            _libc.setvbuf(ctypes.c_void_p.in_dll(_libc, name), None, _UNBUFFERED, 0)
            break


def write_stacks_on_signal(file: int, *, all_threads: bool) -> None:
    """Write the stack of the thread that handles STACK_SIGNAL into this file, or those of all threads.

    This happens in C, also while compiled code holds the GIL. Until a task handles the signal in another way.
    """
    if STACK_SIGNAL:
        faulthandler.register(STACK_SIGNAL, file, all_threads=all_threads, chain=False)


def reopen_stream(fd: int) -> io.TextIOWrapper:
    """Open a standard stream anew and replace it in `sys`. It is line-buffered and escapes what it cannot encode."""
    stream = open_for_writing(fd) if fd else _open_for_reading(fd)
    name = ("stdin", "stdout", "stderr")[fd]
    for attribute in (name, f"__{name}__"):
        setattr(sys, attribute, stream)
    return stream


def open_for_writing(fd: int) -> io.TextIOWrapper:
    """Open a descriptor for line-buffered text. It stays open when the stream is closed."""
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)


def _open_for_reading(fd: int) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "r", closefd=False)
    return io.TextIOWrapper(io.BufferedReader(raw), "utf-8", "strict", line_buffering=True)


def close_descriptors_except(kept: "set[int] | frozenset[int]") -> None:
    """Close every descriptor above 2 except those in `kept`."""
    low = 3
    for fd in sorted(kept):
        if fd >= low:
            os.closerange(low, fd)
            low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def replace_main() -> None:
    """Replace `__main__` by an empty module: names that a notebook defines there must not collide with ours."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    sys.argv = [""]
