"""Messages between an engine pool and its hosts: groups, orders and reports, as a header and buffers.

    EnginePool --- pack(Group, ...), objects, orders ---> EngineHost
    EnginePool <-- reports, then the last one ----------- EngineHost

A parcel is a list of bytes, the header first. Only its bytes are handed to an engine, so no engine has to import or
unpickle anything of ours to carry it. The records in it are those of the compute channel (`wire.messages`).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer

#: a header, then buffers
Parcel = list[bytes]


class EngineSession(msgspec.Struct, array_like=True, frozen=True):
    """What a host must know of the application whose tasks it runs."""

    token: bytes  #: names the session
    host_name: str  #: of the machine of the application
    sys_path: list[str]  #: of its process; used on the same machine
    authkey: (
        str  #: of its process, for managers of multiprocessing, as hexadecimal digits; "" where workers are elsewhere
    )
    grace_s: float  #: seconds between the interrupt of a task and the kill of its worker
    addresses: list[str] = []  #: HOST:PORT where hosts may connect for reports and orders; none: another way is used
    secret: str = ""  #: the key of that connection


class Group(msgspec.Struct, array_like=True, frozen=True):
    """Tasks that run as one task of an engine. The buffers of their arguments follow, in order."""

    number: int
    session: EngineSession
    restarts: int  #: how often the workers have been restarted by the user
    runs: list[m.Assign]
    needed: list[bytes]  #: names of the objects that the tasks refer to


class SharedObject(msgspec.Struct, array_like=True, frozen=True):
    """A function, or the content of a slice; its buffers follow."""

    name: bytes
    function: m.Function | None = None
    slice: m.Slice | None = None


class Orders(msgspec.Struct, array_like=True, frozen=True):
    """What a host is to do with a group that it runs."""

    number: int
    withdraw: list[m.Withdraw] = []
    sample_stacks: list[m.SampleStack] = []
    restart: bool = False  #: replace the worker now; what runs is returned


class HostReport(msgspec.Struct, array_like=True, frozen=True):
    """What has happened in a group. The buffers of its results follow, in order."""

    number: int  #: of the group
    run: bytes  #: random name of this run of the group: an engine may run it again
    serial: int  #: of this report, from 0; of the last one: how many came before it
    host: bytes  #: random name of the host
    is_last: bool = False
    outcomes: list[m.Outcomes] = []
    started: list[m.StartedTask] = []
    returned: list[m.TaskRef] = []
    output: list[m.Output] = []
    stacks: list[m.StackSampled] = []
    missing: list[bytes] = []  #: objects that the host lacks; then nothing of the group has run
    failure: str = ""  #: why the host can run nothing


_ENCODER: Final = msgspec.msgpack.Encoder()
_GROUPS: Final = msgspec.msgpack.Decoder(Group)
_OBJECTS: Final = msgspec.msgpack.Decoder(SharedObject)
_ORDERS: Final = msgspec.msgpack.Decoder(Orders)
_REPORTS: Final = msgspec.msgpack.Decoder(HostReport)


def pack(record: Group | SharedObject | Orders | HostReport, buffers: Iterable[Buffer] = ()) -> Parcel:
    """Return the parcel of a record. Buffers are copied where they are no bytes, because they will change."""
    return [_ENCODER.encode(record), *(bytes(buffer) for buffer in buffers)]


def read_group(parcel: Sequence[Buffer]) -> tuple[Group, list[list[Sequence[Buffer]]]]:
    """Return a group, and for each of its runs the buffers of each task. Raises ProtocolError."""
    group: Group = _decoded(_GROUPS, parcel)
    rest = iter(parcel[1:])
    return group, [[_taken(rest, task.sizes) for task in run.tasks] for run in group.runs]


def read_object(parcel: Sequence[Buffer]) -> tuple[SharedObject, list[Buffer]]:
    """Return an object and its buffers. Raises ProtocolError."""
    return _decoded(_OBJECTS, parcel), list(parcel[1:])


def read_orders(parcel: Sequence[Buffer]) -> Orders:
    """Return orders. Raises ProtocolError."""
    orders: Orders = _decoded(_ORDERS, parcel)
    return orders


def read_report(parcel: Sequence[Buffer]) -> tuple[HostReport, list[list[Sequence[Buffer]]]]:
    """Return a report, and for each of its messages of outcomes the buffers of each outcome. Raises ProtocolError."""
    report: HostReport = _decoded(_REPORTS, parcel)
    rest = iter(parcel[1:])
    return report, [[_taken(rest, frame.sizes) for frame in outcomes.items] for outcomes in report.outcomes]


def _decoded(decoder: "msgspec.msgpack.Decoder[Any]", parcel: Sequence[Buffer]) -> Any:
    if not isinstance(parcel, list | tuple) or not all(isinstance(each, Buffer) for each in parcel):
        raise ProtocolError(f"an engine has brought something else than a parcel: {type(parcel).__name__}")
    try:
        return decoder.decode(parcel[0])
    except (IndexError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a parcel of an engine cannot be read: {error}") from error


def _taken(rest: Iterable[Buffer], sizes: m.Sizes) -> Sequence[Buffer]:
    """Take the buffers that these sizes announce."""
    taken = []
    buffers = iter(rest)
    for size in sizes:
        if type(size) is int:
            buffer = next(buffers, None)
            if buffer is None or memoryview(buffer).nbytes != size:
                raise ProtocolError("a parcel of an engine has other buffers than its header announces")
            taken.append(buffer)
    return taken
