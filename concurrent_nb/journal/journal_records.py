"""The records of the journal: facts that a restarted master has to know. Payloads are opaque.

A record of a run of tasks has no buffers: they follow it, flat, in the order of its items and of their `sizes`.
"""

from collections.abc import Container, Iterable, Sequence
from itertools import islice
from typing import TypeVar

import msgspec

from concurrent_nb.wire.messages import Digest, JobId, Needs, OutcomeFrame, TaskFrame

#: what stands for a buffer
BufferT = TypeVar("BufferT")


class _Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all records."""


class FunctionKept(_Record, tag=1, frozen=True):
    """A function, before the first run of tasks that uses it."""

    digest: Digest
    body: bytes
    sizes: tuple[int, ...]
    name: str


class JobKept(_Record, tag=2, frozen=True):
    """A job was opened; or opened again after `JobEnded`."""

    job: JobId
    owner: str  #: public key
    name: str = ""
    until: bool = False
    stop_on_error: bool = False
    strategy: str = ""
    notebook: str = ""
    cell: str = ""
    comes_back: bool = True  #: whether the job waits for its application for long


class TasksKept(_Record, tag=3, frozen=True):
    """A run of tasks was accepted."""

    job: JobId
    function: Digest
    tasks: list[TaskFrame]
    timeout_s: float | None = None
    retries: int = 0
    needs: Needs | None = None
    keep: bool = False  #: their results stay until they are freed
    inputs: list[tuple[int, list[tuple[JobId, int]]]] = []  #: index of each task that needs results, and which


class OutcomesKept(_Record, tag=4, frozen=True):
    """Tasks have ended."""

    job: JobId
    slave: str  #: name of the slave where they ran, "" if they ran nowhere
    items: list[OutcomeFrame]


class TasksAcknowledged(_Record, tag=5, frozen=True):
    """The owner has the outcomes of these tasks."""

    job: JobId
    indexes: list[int]


class ResultsReleased(_Record, tag=6, frozen=True):
    """The owner does not need these kept results any more."""

    job: JobId
    indexes: list[int]


class TasksCancelled(_Record, tag=7, frozen=True):
    """Tasks were cancelled, or the whole job (None)."""

    job: JobId
    indexes: list[int] | None


class JobEnded(_Record, tag=8, frozen=True):
    """No more tasks will come for a job."""

    job: JobId


class JobForgotten(_Record, tag=9, frozen=True):
    """A job is over, and nothing of it is needed any more."""

    job: JobId


class SlaveKept(_Record, tag=10, frozen=True):
    """A slave has joined."""

    key: bytes  #: its public key
    name: str


class SlaveGone(_Record, tag=11, frozen=True):
    """A slave has left, or is lost."""

    key: bytes


Record = (
    FunctionKept
    | JobKept
    | TasksKept
    | OutcomesKept
    | TasksAcknowledged
    | ResultsReleased
    | TasksCancelled
    | JobEnded
    | JobForgotten
    | SlaveKept
    | SlaveGone
)


def buffer_count(record: Record) -> int:
    """Return how many buffers follow a record."""
    if isinstance(record, TasksKept):
        return sum(len(task.sizes) for task in record.tasks)
    if isinstance(record, OutcomesKept):
        return sum(len(item.sizes) for item in record.items)
    return len(record.sizes) if isinstance(record, FunctionKept) else 0


def only(record: Record, buffers: Sequence[BufferT], indexes: Container[int]) -> tuple[Record, Sequence[BufferT]]:
    """Return a run of tasks or outcomes with the items of these indexes only; any other record as it is."""
    if isinstance(record, TasksKept):
        items: Sequence[TaskFrame | OutcomeFrame] = record.tasks
    elif isinstance(record, OutcomesKept):
        items = record.items
    else:
        return record, buffers
    at = [place for place, item in enumerate(items) if item.index in indexes]
    if len(at) == len(items):
        return record, buffers
    own = buffers_of_items(items, buffers)
    flat = [each for place in at for each in own[place]]
    if isinstance(record, OutcomesKept):
        return msgspec.structs.replace(record, items=[record.items[place] for place in at]), flat
    inputs = [each for each in record.inputs if each[0] in indexes]
    return msgspec.structs.replace(record, tasks=[record.tasks[place] for place in at], inputs=inputs), flat


def buffers_of_items(items: Sequence[TaskFrame | OutcomeFrame], flat: Iterable[BufferT]) -> list[tuple[BufferT, ...]]:
    """Return the buffers of each item, of those that follow a record."""
    rest = iter(flat)
    return [tuple(islice(rest, len(item.sizes))) for item in items]
