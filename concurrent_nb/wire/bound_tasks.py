"""Bound tasks: a task together with the results that it needs, as one body (`TaskKind.BOUND`).

    application, master: bind(kind, body, sizes, results) --> body, sizes      worker: unbind(body, parts) --> the same

Pickles and results are opaque here. A bound task may be bound again: the application gives results that it has, and the
master adds those that it has.
"""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire.codec import Buffer
from concurrent_nb.wire.messages import BUFFERS_MAX, Count, JobId, Kind, Sizes

_Parts = Annotated[int, msgspec.Meta(ge=0, le=BUFFERS_MAX)]


class BoundResult(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The result of an input. Its buffers follow those of the task and of the results before it."""

    job: JobId
    index: Count
    body: bytes  #: pickle; empty if it is the first buffer
    parts: _Parts  #: number of its buffers


class BoundTask(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A task and results that it needs."""

    kind: Kind
    body: bytes  #: see `TaskKind`; empty if it is the first buffer
    parts: _Parts  #: number of its buffers
    results: list[BoundResult]


class ResultParts(msgspec.Struct, frozen=True, gc=False):
    """A result, ready to be bound."""

    job: JobId
    index: int
    body: bytes
    sizes: Sizes
    buffers: Sequence[Buffer]


#: the pickle of a result and its buffers, by job and index of the task that has returned it
Results = dict[tuple[bytes, int], tuple[Buffer, Sequence[Buffer]]]

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(BoundTask)


def bind(
    kind: int, body: bytes, sizes: Sizes, buffers: Sequence[Buffer], results: Sequence[ResultParts]
) -> tuple[bytes, Sizes, Sequence[Buffer]]:
    """Return body, sizes and buffers of a task together with results. The body may be long."""
    all_sizes, all_buffers = list(sizes), list(buffers)
    bound = []
    for result in results:
        bound.append(BoundResult(result.job, result.index, result.body, len(result.sizes)))
        all_sizes += result.sizes
        all_buffers += result.buffers
    return _ENCODER.encode(BoundTask(kind, body, len(sizes), bound)), tuple(all_sizes), all_buffers


def unbind(body: Buffer, parts: Sequence[Buffer], results: Results) -> tuple[int, Buffer, Sequence[Buffer]]:
    """Return kind, pickle and buffers of a task, and add its results to `results`.

    Args:
        body: of the bound task.
        parts: all its buffers, in order, those in shared memory too.
        results: gets the results.

    Raises ProtocolError.
    """
    try:
        task = _DECODER.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"a bound task cannot be decoded: {error}") from error
    if len(parts) != task.parts + sum([result.parts for result in task.results]):
        raise ProtocolError(f"a bound task with {len(parts)} buffers, which announces others")
    at = task.parts
    for result in task.results:
        own = parts[at : at + result.parts]
        at += result.parts
        results[result.job, result.index] = (result.body, own) if result.body or not own else (own[0], own[1:])
    own = parts[: task.parts]
    return (task.kind, task.body, own) if task.body or not own else (task.kind, own[0], own[1:])
