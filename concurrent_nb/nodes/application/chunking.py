"""Packs items one by one, and puts packed items together as the body of one task.

Used by `map_call` and `batched_job`. The user's code may run while an item is packed, but not while a body is made.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from concurrent_nb.errors import NotPicklable
from concurrent_nb.nodes.application.client_tasks import FunctionPayload, Payload
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.runtime import call_chunks
from concurrent_nb.shipping.serialization.pickles import dumps_item
from concurrent_nb.wire.codec import pack_body
from concurrent_nb.wire.messages import TaskKind

#: a chunk of adaptive size gets no more items once their pickles are this large
CHUNK_BYTES: Final = 256 * 1024
#: chunks that are made in one turn of the client thread, which receives from the master between two turns
CHUNKS_PER_TURN: Final = 512
#: no more chunks are made while this many wait because of the master's limits
BACKLOG: Final = 64
#: ends after which the run time is used as a measurement
TIMED_STATUSES: Final = frozenset({Status.OK, Status.HIT, Status.ERROR})
#: ends of a chunk that are not the end of most of its items
RERUN_STATUSES: Final = frozenset({Status.ERROR, Status.TIMEOUT, Status.DIED, Status.POISON, Status.NOT_PICKLABLE})
_ONLY_TUPLES: Final = {tuple}


class ChunkPacker(Protocol):
    """The part of `TaskPacker` that is used here."""

    def function_payload(self, fn: Callable[..., Any], *, spawns: bool = False) -> FunctionPayload:
        """Pickle a function, for a job if it `spawns`. Raises NotPicklable."""

    def item_payload(self, fn: Callable[..., Any], args: tuple[Any, ...], number: int) -> Payload:
        """Pickle the arguments of an item, and its number in the job. Raises NotPicklable."""


#: what waits to be sent. A Payload has buffers, which travel uncopied: it is always a task of its own. NotPicklable: it
#: cannot be sent
Item = call_chunks.Call | Payload | NotPicklable


def pack_item(packer: ChunkPacker, fn: Callable[..., Any], args: tuple[Any, ...], number: int) -> bytes | Payload:
    """Pickle the arguments of an item that are not all atoms, and its number in the job. Raises NotPicklable."""
    payload = packer.item_payload(fn, args, number)
    return payload if payload.sizes or payload.inputs else payload.body


def count_fitting(items: Sequence[Item], room_bytes: float = math.inf) -> int:
    """Return how many of the first items can travel together, at least one."""
    if set(map(type, items)) == _ONLY_TUPLES:
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


def chunk_payload(items: Sequence[Any], numbers: Sequence[int], terms: call_chunks.BatchTerms | None = None) -> Payload:
    """Return the arguments of the task that items travel as; it contains the kind of the task.

    Args:
        items: that can travel together, see `count_fitting`.
        numbers: of the items in the job.
        terms: of a batch.
    """
    first = items[0]
    if isinstance(first, Payload):
        return first
    if len(items) > 1:
        kind = TaskKind.CHUNK if terms is None else TaskKind.BATCH
        return Payload(*pack_body(call_chunks.dumps_calls(items, numbers, terms), ()), kind=kind)
    if isinstance(first, tuple):
        return Payload(*pack_body(*dumps_item(first, numbers[0])), kind=TaskKind.ITEM)
    assert isinstance(first, bytes)
    return Payload(first, kind=TaskKind.ITEM)
