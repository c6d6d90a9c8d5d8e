"""A slave whose master talks nonsense: each session ends with a ProtocolError at most, and the next one works."""

import math
import random
import select
import time
import typing
from collections.abc import Sequence
from typing import Any

import cloudpickle
import msgspec
import psutil
import pytest

from concurrent_nb.errors import ProtocolError
from concurrent_nb.nodes.slave.core import SlaveCore
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Envelope, decode, encode, function_digest
from concurrent_nb.workers.slave_side.pool import Pool
from tests.integration.pool_driver import launcher

EPOCH = 7
JOB = b"j" * 16
SESSIONS = 60
#: of those that a master may send
KINDS = [kind for kind in typing.get_args(m.ToSlave) if kind is not m.Bye]

BODY = cloudpickle.dumps(lambda n: n * n)
GOOD = function_digest([BODY])
ARGUMENTS = pickles.dumps(((12,), {}))[0]


class Odd:
    """Makes messages: every field may have every odd value that its type has."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def message(self) -> m.AnyMessage:
        """Make a message that decodes, more or less."""
        kind = self.chance.choice(KINDS)
        if kind is m.Assign and self.chance.random() < 0.5:  # one that runs, but for one field
            tasks = [m.TaskFrame(n, 1, ARGUMENTS) for n in range(3)]
            fields: dict[str, Any] = {"job": JOB, "function": GOOD, "timeout_s": None, "tasks": tasks}
            name = self.chance.choice(list(fields))
            fields[name] = self.value(m.Assign.__annotations__[name])
            return m.Assign(**fields)
        return typing.cast(m.AnyMessage, self.struct(kind))

    def struct(self, kind: type) -> Any:
        hints = typing.get_type_hints(kind, include_extras=True)
        return kind(**{field.name: self.value(hints[field.name]) for field in msgspec.structs.fields(kind)})

    def value(self, kind: Any) -> Any:
        """Give a value of a type: an odd one, most of the time."""
        chance = self.chance
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Annotated:
            return self.value(args[0])
        if origin is typing.Literal:
            return chance.choice(args)
        if kind is bytes:
            return chance.choice(
                [b"", b"x", JOB, GOOD, ARGUMENTS, BODY, chance.randbytes(chance.choice((16, 32, 1000)))]
            )
        if kind is int:
            return chance.choice(
                [0, 1, 2, 5, 17, -1, 1 << 31, 1 << 40, (1 << 62), (1 << 63) - 1, -(1 << 63), (1 << 64) - 1]
            )
        if kind is float:
            return chance.choice([0.0, 0.01, 1e300, -1.0, math.inf, -math.inf, math.nan])
        if kind is bool:
            return chance.random() < 0.5
        if kind is str:
            return chance.choice(["", "process", "x" * 1000, "\0", "\ud7ff"])
        if origin is list:
            return [self.value(args[0]) for _ in range(chance.choice((0, 1, 2, 20)))]
        if origin is tuple:
            return tuple(self.value(args[0]) for _ in range(chance.choice((0, 0, 1, 3))))
        if args:
            return self.value(chance.choice(args))
        return self.struct(kind) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


class Slave:
    """A slave's loop around a real pool, without a network."""

    def __init__(self) -> None:
        self.pool = Pool(2, launcher("fork_server"), grace_s=0.2, result_s=0.7)
        self.segment_reader = SegmentReader()
        self.pool.start(time.monotonic())

    def begin(self) -> None:
        """Begin a session."""
        self.store = ObjectStore()
        self.core = SlaveCore("east", EPOCH, self.pool, 1.0, self.segment_reader, self.store, shares=True)
        self.seq = 0

    def end(self) -> None:
        """End a session, as a slave does."""
        self.core.end()
        self.pool.reset(time.monotonic())
        self.store.close()

    def send(self, messages: Sequence[m.AnyMessage], buffers: Sequence[Buffer] = ()) -> None:
        """Let the master send messages in the next envelope. Raises ProtocolError."""
        self.seq += 1
        self.core.received(
            encode(Envelope(m.PROTOCOL_VERSION, EPOCH, self.seq, 0, list(messages)), buffers), time.monotonic()
        )

    def turn(self, wait_s: float = 0.02) -> list[m.AnyMessage]:
        """Turn the loop once; return what the slave sends."""
        poll = select.poll()
        for fd, events in self.pool.fds().items():
            poll.register(fd, events)
        for fd, events in poll.poll(wait_s * 1000):
            self.pool.ready(fd, events, time.monotonic())
        now = time.monotonic()
        self.pool.tick(now)
        return [item.message for frames in self.core.step(now) for item in decode(frames, "from_slave")[1]]

    def close(self) -> None:
        self.pool.close()
        self.segment_reader.close()


def works(slave: Slave) -> bool:
    """Return whether a fresh session runs a task correctly."""
    slave.begin()
    slave.send([m.Function(GOOD, BODY), m.Assign(JOB, GOOD, None, [m.TaskFrame(3, 1, ARGUMENTS)])])
    until = time.monotonic() + 20
    try:
        while time.monotonic() < until:
            for message in slave.turn():
                if isinstance(message, m.Outcomes):
                    (item,) = message.items
                    assert item.status == Status.OK, item
                    return bool(pickles.loads(item.body) == 144)
        return False
    finally:
        slave.end()


def test_whatever_a_master_says_the_next_session_works() -> None:
    slave, ended = Slave(), 0
    try:
        assert works(slave)
        before = psutil.Process().memory_info().rss
        for seed in range(SESSIONS):
            odd = Odd(seed)
            slave.begin()
            slave.send([m.Function(GOOD, BODY)])
            try:
                for _ in range(10):
                    message = odd.message()
                    buffers = [odd.chance.randbytes(5)] if odd.chance.random() < 0.2 else []
                    slave.send([message], buffers)
                    slave.turn(0.0)
            except (ProtocolError, msgspec.MsgspecError):
                ended += 1
            finally:
                slave.end()
            if seed % 10 == 9:
                assert works(slave), seed
        assert ended > 0
        assert psutil.Process().memory_info().rss - before < 32 << 20
    finally:
        slave.close()


@pytest.mark.parametrize(
    ("messages", "ends"),
    [
        ([m.Assign(JOB, b"f" * 32, None, [m.TaskFrame(3, 1, ARGUMENTS)])], True),
        ([m.Assign(JOB, GOOD, None, [m.TaskFrame(3, 1, b"", (m.Slice(b"s" * 16, 0, 8, 1),))])], True),
        ([m.Assign(JOB, GOOD, None, [m.TaskFrame(3, 1, b"no pickle")])], True),
        (
            [m.Release([m.Slice(b"s" * 16, 0, 8, 1)], True), m.DropSegments([b"s" * 16]), m.DropFunctions([b"f" * 32])],
            False,
        ),
    ],
    ids=["unknown function", "unknown segment", "no pickle", "what is not there"],
)
def test_what_concerns_one_task_ends_that_task(messages: list[m.AnyMessage], ends: bool) -> None:
    slave = Slave()
    try:
        slave.begin()
        slave.send([m.Function(GOOD, BODY), *messages, m.Assign(JOB, GOOD, None, [m.TaskFrame(4, 1, ARGUMENTS)])])
        statuses: dict[int, int] = {}
        until = time.monotonic() + 20
        while len(statuses) < 1 + ends and time.monotonic() < until:
            for message in slave.turn():
                if isinstance(message, m.Outcomes):
                    statuses |= {item.index: item.status for item in message.items}
        assert statuses == ({3: Status.NOT_LOADABLE, 4: Status.OK} if ends else {4: Status.OK})
        slave.end()
    finally:
        slave.close()
