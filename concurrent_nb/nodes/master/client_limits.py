"""What one client may make the master hold, and how much it does. Pure, a part of `nodes.master.core`.

A client gets the limits when it registers and must keep to them: what exceeds them waits in its own process. The
session of a client that exceeds them, with some slack, ends. Usage is counted by key and for each envelope, as an upper
estimate that costs nothing for each task; only when the estimate is too high, usage is counted exactly.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from concurrent_nb.errors import LimitExceeded
from concurrent_nb.tasks.task_record import JobRecord
from concurrent_nb.wire.codec import Buffer, length

#: a session ends when its client exceeds a limit by this factor, as messages in flight are counted on one side only
SLACK: Final = 1.25
#: usage is counted exactly again when the estimate has grown by this part of a limit
_GROWN: Final = 1 / 16
#: what a record costs besides its bytes: of a job, and of a buffer or slice
JOB_BYTES: Final = 1000
BUFFER_BYTES: Final = 150
#: most bytes in memory for one byte of a header frame, if it consists of slices
_HEADER: Final = 8


@dataclass(slots=True)
class Limits:
    """The limits of a master, which are items of MasterNode. Those of a running master may change."""

    clients: int = 1000
    not_joined: int = 64  #: sessions of one role that have registered and not joined yet
    tasks: int = 32_000
    size_bytes: int = 160 * 1024 * 1024
    segments: int = 512
    object_bytes: int = (
        2 * 1024 * 1024 * 1024
    )  #: of one result, or argument in shared memory, for a node on another host

    def announced(self) -> dict[str, int]:
        """Return the limits that a client must keep to."""
        return {"tasks": self.tasks, "bytes": self.size_bytes, "segments": self.segments}


#: the limits of a master that is not configured otherwise
DEFAULT: Final = Limits()


class Usage:
    """What the clients of one key make the master hold: an upper estimate."""

    __slots__ = ("joined", "recount_bytes", "recount_tasks", "sessions", "size_bytes", "tasks")

    def __init__(self) -> None:
        self.sessions = 0  #: sessions that are registered with this key
        self.joined = 0  #: sessions that have joined
        self.tasks = 0
        self.size_bytes = 0
        self.recount_tasks = 0  #: estimates above which usage is counted exactly
        self.recount_bytes = 0

    def received(self, frames: Sequence[Buffer]) -> None:
        """Add one envelope: its header frame, and what follows."""
        self.size_bytes += length(frames[0]) * _HEADER
        if len(frames) > 1:
            self.size_bytes += sum(map(length, frames)) + BUFFER_BYTES * len(frames)

    @property
    def needs_recount(self) -> bool:
        """Return whether usage must be counted exactly."""
        return self.size_bytes > self.recount_bytes or self.tasks > self.recount_tasks

    def counted(self, tasks: int, size_bytes: int, limits: Limits) -> None:
        """Set the exact usage. Raises LimitExceeded if it is above the limits.

        The limits are for each session; a key may have several, one for each notebook.
        """
        share = SLACK * max(1, self.joined)
        self.tasks, self.size_bytes = tasks, size_bytes
        self.recount_tasks = int(max(limits.tasks * share, tasks + limits.tasks * _GROWN))
        self.recount_bytes = int(max(limits.size_bytes * share, size_bytes + limits.size_bytes * _GROWN))
        if tasks > limits.tasks * share:
            raise LimitExceeded(
                f"the client has {tasks:,} open tasks, and a client may have {limits.tasks:,}: submit fewer at once, "
                "or raise MasterNode.tasks_per_client"
            )
        if size_bytes > limits.size_bytes * share:
            raise LimitExceeded(
                f"the master holds {size_bytes:,} bytes of arguments and functions for the client, and a client may "
                f"have {limits.size_bytes:,}: submit fewer at once, or raise MasterNode.bytes_per_client"
            )


def count_tasks(jobs: Iterable[JobRecord], owner: str) -> tuple[int, int]:
    """Return the number of an owner's tasks that are not forgotten, and the bytes held for them."""
    tasks = size_bytes = 0
    shared: dict[int, int] = {}  # a buffer that many tasks refer to counts once
    for job in jobs:
        if job.owner != owner:
            continue
        tasks += len(job.tasks)
        size_bytes += JOB_BYTES + len(job.name)
        for task in job.tasks.values():
            size_bytes += len(task.body)
            if task.sizes:
                size_bytes += BUFFER_BYTES * len(task.sizes)
                for buffer in task.buffers:
                    shared[id(buffer)] = length(buffer)
    return tasks, size_bytes + sum(shared.values())
