"""What one client may make the master hold, and how much it does. Pure, a part of `master_core`.

A client learns the limits when it registers and keeps to them: what is over waits in its own process. One that goes
beyond them, with some slack, is ended. Counted is per key and per envelope: an estimate from above, which costs
nothing for each task; only when it is too much everything is counted exactly.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from concurrent_nb.errors import LimitExceeded
from concurrent_nb.tasks.task_record import JobRecord
from concurrent_nb.wire.codec import Buffer, length

#: a client is ended when it goes beyond a limit by this factor: what is on its way is counted on one side only
SLACK: Final = 1.25
#: counting exactly is worth it again when the estimate has grown by this part of a limit
_GROWN: Final = 1 / 16
#: what a record costs besides its bytes: a job, a buffer or slice
JOB_BYTES: Final = 1000
BUFFER_BYTES: Final = 150
#: what comes out of a byte of a header frame at most, where it is all slices
_HEADER: Final = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a master, which are items of MasterNode."""

    clients: int = 1000
    not_joined: int = 64  #: sessions of one role that have registered and are not heard yet
    tasks: int = 32_000
    size_bytes: int = 192 * 1024 * 1024
    segments: int = 512
    object_bytes: int = 2 * 1024 * 1024 * 1024  #: of one result, or argument in shared memory, for a node elsewhere

    def announced(self) -> dict[str, int]:
        """Give what a client is to keep to."""
        return {"tasks": self.tasks, "bytes": self.size_bytes, "segments": self.segments}


#: of a master that is told nothing else
DEFAULT: Final = Limits()


class Usage:
    """What the clients of one key make the master hold: an estimate from above."""

    __slots__ = ("joined", "recount_bytes", "recount_tasks", "sessions", "size_bytes", "tasks")

    def __init__(self) -> None:
        self.sessions = 0  #: that are registered with this key
        self.joined = 0  #: those that were heard
        self.tasks = 0
        self.size_bytes = 0
        self.recount_tasks = 0  #: beyond these everything is counted
        self.recount_bytes = 0

    def received(self, frames: Sequence[Buffer]) -> None:
        """Add one envelope: its header frame, and what follows."""
        self.size_bytes += length(frames[0]) * _HEADER
        if len(frames) > 1:
            self.size_bytes += sum(map(length, frames)) + BUFFER_BYTES * len(frames)

    @property
    def needs_recount(self) -> bool:
        """Say whether everything has to be counted."""
        return self.size_bytes > self.recount_bytes or self.tasks > self.recount_tasks

    def counted(self, tasks: int, size_bytes: int, limits: Limits) -> None:
        """Take what was counted exactly. Raises LimitExceeded.

        The limits are a client's, and he may have several sessions, one for each notebook.
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
    """Count the tasks of an owner that are not forgotten, and the bytes of what is held for them."""
    tasks = size_bytes = 0
    shared: dict[int, int] = {}  # a buffer that many tasks refer to is there once
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
