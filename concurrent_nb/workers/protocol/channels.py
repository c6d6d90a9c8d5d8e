"""The descriptors between a slave and one worker: made by the slave, which passes one half of them to the worker.

Every descriptor is closed on exec, and the slave's half does not block. The fork server receives a worker's half
through a socket, a spawned worker inherits it.
"""

import os
import socket
from typing import NamedTuple

from concurrent_nb.workers.protocol.stacks import make_stack_file
from concurrent_nb.workers.protocol.status_page import make_page_file


class WorkerChannels(NamedTuple):
    """The worker's half, in the order in which it is passed."""

    tasks: int  #: stream socket: records in both directions
    tokens: int  #: pipe: a byte for each task that may start
    page: int  #: status page
    parent_death_pipe: int  #: pipe without content: at its end of file the kernel kills the worker's process group
    out: int  #: pipe: what is written to descriptor 1
    err: int  #: pipe: what is written to descriptor 2
    stacks: int  #: file: the stack of its task, on demand

    def close(self) -> None:
        """Close all of them."""
        for fd in self:
            os.close(fd)


class SlaveChannels(NamedTuple):
    """The slave's half."""

    tasks: int
    tokens: int  #: writes tokens
    tokens_back: int  #: the worker's end of that pipe: reads back the tokens that it has not used
    page: int
    parent_death_pipe: int
    out: int
    err: int
    stacks: int

    def close(self) -> None:
        """Close all of them."""
        for fd in self:
            os.close(fd)


def make_channels() -> tuple[SlaveChannels, WorkerChannels]:
    """Make both halves for one worker. Raises OSError if there are too many open files."""
    made: list[int] = []
    try:
        ours, theirs = socket.socketpair()
        tasks, worker_tasks = ours.detach(), theirs.detach()
        made += tasks, worker_tasks
        made += os.pipe()
        made += os.pipe()
        made += os.pipe()
        made += os.pipe()
        _, _, tokens_back, tokens, worker_death_pipe, parent_death_pipe, out, worker_out, err, worker_err = made
        made.append(worker_tokens := _open_again(tokens_back))
        made.append(page := make_page_file())
        made.append(worker_page := os.dup(page))
        made.append(stacks := make_stack_file())
        made.append(worker_stacks := os.dup(stacks))
        for fd in (tasks, tokens, tokens_back, worker_tokens, out, err):
            os.set_blocking(fd, False)
    except OSError:
        for fd in made:
            os.close(fd)
        raise
    return (
        SlaveChannels(tasks, tokens, tokens_back, page, parent_death_pipe, out, err, stacks),
        WorkerChannels(
            worker_tasks, worker_tokens, worker_page, worker_death_pipe, worker_out, worker_err, worker_stacks
        ),
    )


def _open_again(pipe: int) -> int:
    """Open the reading end of a pipe once more, if the system can do that; else duplicate it.

    With a duplicate, a task could change the flags of both: the slave would block on a pipe without tokens.
    """
    try:
        return os.open(f"/proc/self/fd/{pipe}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:  # there is no /proc
        return os.dup(pipe)
