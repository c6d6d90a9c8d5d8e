"""Items on their way into chunks: packed one by one, put together as the body of one task.

Used by `maps` and `batches`. What is the user's runs while an item is packed; nothing of his while a body is made.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from concurrent_nb.errors import NotPicklable
from concurrent_nb.nodes.application.core import FunctionPayload
from concurrent_nb.object_store.store import Lease
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.runtime import call_chunks
from concurrent_nb.shipping.serialization.pickles import dumps_item
from concurrent_nb.wire.codec import Buffers, pack_body
from concurrent_nb.wire.messages import Sizes, TaskKind

#: a chunk of adaptive size is not made longer once the pickles of its items are so large
CHUNK_BYTES: Final = 256 * 1024
#: chunks that are made in one turn of the courier's thread; what comes from the master is heard between two turns
CUTS_PER_TURN: Final = 512
#: no more are made while so many wait because the master takes no more at present
BACKLOG: Final = 64
#: ends of which the time says how long items take
MEASURED: Final = frozenset({Status.OK, Status.HIT, Status.ERROR})
#: ends of a chunk that say nothing of most of its items
AGAIN: Final = frozenset({Status.ERROR, Status.TIMEOUT, Status.DIED, Status.POISON, Status.NOT_PICKLABLE})
_ATOMS_ONLY: Final = {tuple}


class ChunkPacker(Protocol):
    """What is needed of the application."""

    def _ship(self, fn: Callable[..., Any], *, spawns: bool = False) -> FunctionPayload:
        """Pickle a function, for a job if it `spawns`."""

    def _pack_item(
        self, fn: Callable[..., Any], args: tuple[Any, ...], number: int
    ) -> tuple[bytes, Sizes, Buffers, Lease | None]:
        """Pickle the arguments of an item, and its number in the job."""


@dataclass(eq=False, slots=True)
class LargeItem:
    """Arguments with buffers, which travel uncopied: always a task of their own."""

    body: bytes
    sizes: Sizes
    buffers: Buffers
    lease: Lease | None


#: what waits to be sent; NotPicklable: it cannot be
Item = call_chunks.Call | LargeItem | NotPicklable


def packed(packer: ChunkPacker, fn: Callable[..., Any], args: tuple[Any, ...], number: int) -> bytes | LargeItem:
    """Pickle the arguments of an item that are no atoms, and its number in the job. Raises NotPicklable."""
    body, sizes, buffers, lease = packer._pack_item(fn, args, number)
    return LargeItem(body, sizes, buffers, lease) if sizes else body


def fitting(items: Sequence[Item], room_bytes: float = math.inf) -> int:
    """Say how many of the first items can go together, at least one."""
    if set(map(type, items)) == _ATOMS_ONLY:
        return len(items)
    for count, item in enumerate(items):
        if isinstance(item, bytes):
            room_bytes -= len(item)
        alone = not isinstance(item, bytes | tuple)
        if count and (alone or room_bytes < 0):
            return count
        if alone:
            return 1
    return len(items)


def body_of(
    items: Sequence[Any], numbers: Sequence[int], terms: call_chunks.BatchTerms | None = None
) -> tuple[TaskKind, bytes, Sizes, Buffers, Lease | None]:
    """Make the task that items travel as: its kind and its arguments.

    Args:
        items: that can go together, as `fitting` says.
        numbers: of the items in the job.
        terms: of a batch.
    """
    first = items[0]
    if isinstance(first, LargeItem):
        return TaskKind.ITEM, first.body, first.sizes, first.buffers, first.lease
    if len(items) > 1:
        kind = TaskKind.CHUNK if terms is None else TaskKind.BATCH
        return kind, *pack_body(call_chunks.dumps_calls(items, numbers, terms), ()), None
    if isinstance(first, tuple):
        return TaskKind.ITEM, *pack_body(*dumps_item(first, numbers[0])), None
    assert isinstance(first, bytes)
    return TaskKind.ITEM, first, (), (), None
