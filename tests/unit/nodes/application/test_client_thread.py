"""The application's thread under a master that talks nonsense: it ends one future or the session, and nothing else.

The client thread and its core are the real ones, on a real socket; the master is played by the test.
"""

import concurrent.futures
import contextlib
import logging
import pickle
import queue
import random
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
import zmq

from concurrent_nb.errors import (
    ClusterStartFailed,
    ConcurrentError,
    LimitExceeded,
    MasterLost,
    ProtocolError,
    ResultNotLoadable,
    TaskError,
    TooLarge,
)
from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.application.client_loop import SESSIONS_IN_VAIN
from concurrent_nb.nodes.application.client_tasks import ClientJob, FunctionPayload, Payload, TaskEntry
from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.common.quota import UNLIMITED, Quota
from concurrent_nb.nodes.common.registration import Membership
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.shipping.runtime.notes import LIMIT_BYTES
from concurrent_nb.transport.poller import has_message
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, encode_error
from concurrent_nb.wire.session import Session
from tests.work import PATIENCE_S

FUNCTION = FunctionPayload(b"f" * 32, Payload(b"function"))
NOWHERE = m.Slice(b"n" * 16, 0, 100, 1)


class PairLink:
    """An application's end, as transport.compute.Link, inside this process."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", name: str) -> None:
        self.socket = context.socket(zmq.PAIR)
        self.monitor = context.socket(zmq.PAIR)
        self.socket.connect(name)

    def disturbed(self) -> bool:
        return False

    def receive(self, limit: int = 256) -> Iterator[list[bytes]]:
        while limit > 0 and has_message(self.socket):
            limit -= 1
            yield self.socket.recv_multipart()

    def send(self, frames: Sequence[Buffer]) -> bool:
        self.socket.send_multipart([bytes(frame) for frame in frames])
        return True

    def close(self) -> None:
        self.socket.close(linger=0)
        self.monitor.close(linger=0)


class Control:
    """The control channel of a master that knows every session."""

    def call(self, method: str, **_: object) -> bool:
        return True

    def close(self) -> None:
        pass


class PlayedMaster:
    """Says what it is told to say, and answers tasks."""

    def __init__(self, quota: Quota = UNLIMITED) -> None:
        self.quota = quota
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sessions: queue.SimpleQueue[tuple[zmq.Socket[bytes], Session]] = queue.SimpleQueue()
        self._count = 0
        self._jobs: dict[bytes, ClientJob[TaskHandle]] = {}
        self._all: list[zmq.Socket[bytes]] = []
        self.thread = ClientThread(self._join, "played", "app", ObjectStore(), lambda gracefully: None, lambda: None)
        self.follow()

    def _join(self, former: Membership | None) -> Membership:
        """Register; in the client thread."""
        self._count += 1
        name = f"inproc://{self._count}"
        socket = self._context.socket(zmq.PAIR)
        socket.bind(name)
        link: Any = PairLink(self._context, name)
        control: Any = Control()
        self._all.append(socket)
        self._sessions.put((socket, Session(7, "from_client")))
        return Membership(
            SessionId(b"%016d" % self._count),
            "secret",
            7,
            "app",
            1.0,
            PATIENCE_S,
            link,
            control,
            "client",
            "",
            False,
            self.quota,
        )

    @property
    def sessions(self) -> int:
        return self._count

    def follow(self) -> None:
        """Go on in the session that the application has registered last."""
        self._socket, self._session = self._sessions.get(timeout=PATIENCE_S)

    def say(self, *messages: m.AnyMessage, buffers: Any = ()) -> None:
        for message in messages:
            self._session.send(message, buffers)
        for frames in self._session.flush(0.0):
            self.say_raw([bytes(frame) for frame in frames])

    def say_raw(self, frames: list[bytes]) -> None:
        self._socket.send_multipart(frames)

    def bye(self, reason: str) -> None:
        self.say_raw([bytes(frame) for frame in self._session.bye(reason)])

    def hear(self) -> list[m.AnyMessage]:
        """Wait for one envelope."""
        assert self._socket.poll(int(PATIENCE_S * 1000)), "the application says nothing"
        return [item.message for item in self._session.receive(self._socket.recv_multipart(), 0.0)]

    def submit(self, *indexes: int, job: bytes = b"j" * 16, body: bytes = b"x", sent: int = 10) -> list[TaskFuture]:
        """Have tasks submitted, and wait until so many of them have come."""
        record = self._jobs.setdefault(job, ClientJob(JobId(job), "job"))
        futures = [TaskFuture(record.id, index, self.thread.cancel) for index in indexes]
        self.thread.post([TaskEntry(record, f.index, FUNCTION, Payload(body), f) for f in futures])
        self.await_tasks(job, indexes[:sent])
        return futures

    def await_tasks(self, job: bytes, indexes: Sequence[int]) -> None:
        """Wait until tasks have been sent."""
        left = set(indexes)
        while left:
            for message in self.hear():
                if isinstance(message, m.Submit) and message.job == job:
                    left -= {task.index for task in message.tasks}

    def close(self) -> None:
        if not self.thread.has_left:
            self.thread.quit()
        for socket in self._all:
            socket.close(linger=0)
        self._context.term()


@pytest.fixture
def master() -> Iterator[PlayedMaster]:
    with contextlib.closing(PlayedMaster()) as master:
        yield master


def answer(
    index: int, status: int = 0, body: bytes = pickle.dumps("good"), job: bytes = b"j" * 16, **of: Any
) -> m.Outcomes:
    return m.Outcomes(job, "east", [m.OutcomeFrame(index, 1, status, 0.1, 42, body, **of)])


def is_breach(envelope: list[bytes]) -> bool:
    """Say whether no session takes an envelope."""
    try:
        Session(7, "to_client").receive(envelope, 0.0)
    except ProtocolError:
        return True
    return False


def is_well(master: PlayedMaster, index: int) -> None:
    """See that a good task still gets its answer."""
    (good,) = master.submit(index)
    master.say(answer(index))
    assert good.result(PATIENCE_S) == "good"


REF = m.TaskRef(b"j" * 16, 0, 1)
STRANGE = m.TaskRef(b"?" * 16, 2**63, 2**63)
REPORT = encode_error(m.ErrorReport("", "", ""))

#: what a master may say that means nothing, and what becomes of task 0
NONSENSE: dict[str, tuple[m.AnyMessage, type[BaseException] | None]] = {
    "outcome of an unknown job": (answer(0, job=b"?" * 16), None),
    "outcome of a job without a name": (answer(0, job=b""), None),
    "outcome of an unknown index": (answer(77), None),
    "outcome of a negative index": (answer(-1), None),
    "outcome of a huge index": (answer(2**64 - 1), None),
    "outcomes of nothing": (m.Outcomes(b"j" * 16, "", []), None),
    "unclaimed slices": (answer(77, body=b"", sizes=(NOWHERE,)), None),
    "unclaimed slices of an unknown job": (answer(0, job=b"?" * 16, body=b"", sizes=(NOWHERE, NOWHERE)), None),
    "slices of an unknown segment": (answer(0, body=b"", sizes=(NOWHERE,)), ResultNotLoadable),
    "a huge slice of an unknown segment": (
        answer(0, body=b"", sizes=(m.Slice(b"", 2**62, 2**62, -1),)),
        ResultNotLoadable,
    ),
    "an error in an unknown segment": (answer(0, 2, body=b"", sizes=(NOWHERE,)), ResultNotLoadable),
    "status -1": (answer(0, -1), ResultNotLoadable),
    "status 99": (answer(0, 99), ResultNotLoadable),
    "status 2**64 - 1": (answer(0, 2**64 - 1), ResultNotLoadable),
    "a result that is no pickle": (answer(0, body=b"\xff" * 100), ResultNotLoadable),
    "a result that is nothing": (answer(0, body=b""), ResultNotLoadable),
    "a result that ends early": (answer(0, body=pickle.dumps("x" * 100)[:-10]), ResultNotLoadable),
    "a result that wants buffers": (answer(0, body=b"\x80\x05\x97."), ResultNotLoadable),
    "an error that is no report": (answer(0, 2, body=b"\xff"), TaskError),
    "an error that is nothing": (answer(0, 2, body=b""), TaskError),
    "a timeout that is no report": (answer(0, 4, body=b"\x93\x01\x02\x03"), TaskError),
    "an exception that is none": (
        answer(0, 2, body=encode_error(m.ErrorReport("E", "why", "", pickle.dumps(5)))),
        TaskError,
    ),
    "start of an unknown task": (m.Started("east", [m.StartedTask(STRANGE.job, 2**63, 2**63, 42)]), None),
    "start of the same many times": (m.Started("east", [m.StartedTask(REF.job, 0, 1, 42)] * 1000), None),
    "output of an unknown task": (m.Output(STRANGE, 1, b"text"), None),
    "output of no stream": (m.Output(REF, 0, b"text"), None),
    "output of an unknown stream": (m.Output(REF, 2**63, b"text"), None),
    "output of a negative stream": (m.Output(REF, -3, b"text"), None),
    "notes that are none": (m.Output(REF, m.NOTES, b"\xff" * 100), None),
    "a segment of nothing": (m.Segment(b"", 0, 0, 0), None),
    "a segment of odd numbers": (m.Segment(b"s" * 16, -1, -1, -1), None),
    "a segment of huge numbers": (m.Segment(b"s" * 16, 2**63, 2**64 - 1, 2**63), None),
    "a segment with a long name": (m.Segment(b"s" * 5000, 1, 1, 1), None),
    "a segment that is no memory": (m.Segment(b"s" * 16, 1, 0, 10), None),
    "unknown segments are gone": (m.DropSegments([b"", b"s" * 16, b"n" * 16]), None),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_ends_one_future_at_most(master: PlayedMaster, name: str) -> None:
    message, error = NONSENSE[name]
    (victim,) = master.submit(0)
    master.say(message)
    if is_breach([msgspec.msgpack.encode([m.PROTOCOL_VERSION, 7, 1, 0, [message]])]):
        master.follow()
        master.await_tasks(b"j" * 16, [0])
        master.say(answer(0))
        assert victim.result(PATIENCE_S) == "good"
    elif error is None:
        is_well(master, 1)
        master.say(answer(0))
        assert victim.result(PATIENCE_S) == "good"
    else:
        with pytest.raises(error) as caught:
            victim.result(PATIENCE_S)
        assert victim.task in (str(caught.value), *vars(caught.value).values()) or victim.task in str(caught.value)
    is_well(master, 2)


class Hostile:
    """Raises something when it is unpickled."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return _throw, (self.kind,)


def _throw(kind: type[BaseException]) -> None:
    raise kind("when it was unpickled")


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, RecursionError, StopIteration, BaseException]
)
def test_what_unpickling_raises_ends_the_one_future(master: PlayedMaster, kind: type[BaseException]) -> None:
    body = pickle.dumps(Hostile(kind))
    result, failure, notes = master.submit(0, 1, 2)
    master.say(answer(0, body=body), answer(1, 2, encode_error(m.ErrorReport("E", "why", "", body))))
    with pytest.raises(ResultNotLoadable, match=kind.__name__) as caught:
        result.result(PATIENCE_S)
    assert isinstance(caught.value.__cause__, kind)
    with pytest.raises(TaskError, match="E: why"):
        failure.result(PATIENCE_S)
    note = msgspec.msgpack.encode([5, body])
    master.say(m.Output(m.TaskRef(b"j" * 16, 2, 1), m.NOTES, len(note).to_bytes(4, "little") + note), answer(2))
    assert notes.result(PATIENCE_S) == "good"
    is_well(master, 3)


@pytest.mark.parametrize("elapsed_s", [float("nan"), float("inf"), -1e300])
def test_odd_times_are_just_that(master: PlayedMaster, elapsed_s: float) -> None:
    (victim,) = master.submit(0)
    master.say(m.Outcomes(b"j" * 16, "", [m.OutcomeFrame(0, -5, 0, elapsed_s, -1, pickle.dumps(1))]))
    assert victim.result(PATIENCE_S) == 1
    is_well(master, 1)


@pytest.mark.parametrize(
    "raw",
    [
        [b""],
        [b"\xff" * 50],
        [msgspec.msgpack.encode([99, 7, 1, 0, []])],
        [msgspec.msgpack.encode([m.PROTOCOL_VERSION, 7, 1, 0, [[99, 1]]])],
        [msgspec.msgpack.encode([m.PROTOCOL_VERSION, 7, 1, 10**9, []])],
        [msgspec.msgpack.encode([m.PROTOCOL_VERSION, 8, 1, 0, []])],
        [msgspec.msgpack.encode([m.PROTOCOL_VERSION, 7, 10**9, 0, []])],
        [msgspec.msgpack.encode([m.PROTOCOL_VERSION, 7, 1, 0, []]), b"a frame too many"],
    ],
)
def test_what_breaks_the_protocol_ends_the_session_and_everything_goes_to_the_next(
    master: PlayedMaster, raw: list[bytes]
) -> None:
    (victim,) = master.submit(0)
    master.say_raw(raw)
    master.follow()
    master.await_tasks(b"j" * 16, [0])
    master.say(answer(0))
    assert victim.result(PATIENCE_S) == "good"
    assert master.sessions == 2


def end_sessions_in_vain(master: PlayedMaster, end: Callable[[], object]) -> None:
    """End as many sessions, one after another, as the application puts up with."""
    for at in range(SESSIONS_IN_VAIN):
        if at:
            master.follow()
        end()


def test_a_master_with_which_no_session_lasts_is_given_up_with_the_reason() -> None:
    with contextlib.closing(PlayedMaster()) as master:
        (victim,) = master.submit(0)
        end_sessions_in_vain(master, lambda: master.bye("protocol error: a slice that ends behind its segment"))
        with pytest.raises(MasterLost, match=r"no session .* lasts .*a slice that ends behind its segment"):
            victim.result(PATIENCE_S)
        with pytest.raises(MasterLost, match="ends behind"):
            master.submit(1)
        assert master.sessions == SESSIONS_IN_VAIN


def test_a_master_that_never_makes_sense_is_given_up_with_the_reason() -> None:
    with contextlib.closing(PlayedMaster()) as master:
        (victim,) = master.submit(0)
        end_sessions_in_vain(master, lambda: master.say_raw([b"nonsense"]))
        with pytest.raises(MasterLost, match="the master broke the protocol"):
            victim.result(PATIENCE_S)


def test_sessions_in_which_something_is_heard_do_not_count(master: PlayedMaster) -> None:
    for at in range(2 * SESSIONS_IN_VAIN):
        is_well(master, at)
        master.bye("this session is over: register again")
        master.follow()
    is_well(master, 100)


def test_who_is_ended_for_a_limit_does_not_register_again() -> None:
    with contextlib.closing(PlayedMaster()) as master:
        futures = master.submit(0, 1)
        master.bye(f"{m.OVER_LIMIT}200,001 open tasks: raise MasterNode.tasks_per_client")
        for future in futures:
            with pytest.raises(LimitExceeded, match=r"raise MasterNode.tasks_per_client"):
                future.result(PATIENCE_S)
        with pytest.raises(LimitExceeded, match=r"raise MasterNode.tasks_per_client"):
            master.submit(2)
        assert master.sessions == 1


def test_a_cluster_that_is_given_up_drops_what_is_still_queued(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(PlayedMaster()) as master:
        (future,) = master.submit(0)

        def fail_and_queue_more() -> None:
            master.thread.fail(ClusterStartFailed("no worker starts"))
            master.thread.call_soon(lambda: None)

        master.thread.call_soon(fail_and_queue_more)
        with pytest.raises(ClusterStartFailed, match="no worker starts"):
            future.result(PATIENCE_S)
        with pytest.raises(ClusterStartFailed, match="no worker starts"):
            master.submit(1)
    assert not caplog.records


def test_what_is_too_large_for_the_master_ends_with_size_limit_and_setting() -> None:
    with contextlib.closing(PlayedMaster(Quota(tasks=10, bytes=1000))) as master:
        (large,) = master.submit(0, body=b"x" * 5000, sent=0)
        with pytest.raises(TooLarge, match=r"5,008 bytes .* 1,000 .* MasterNode.bytes_per_client") as caught:
            large.result(PATIENCE_S)
        assert (caught.value.size_bytes, caught.value.limit_bytes) == (5008, 1000)
        is_well(master, 1)


def test_a_task_that_was_never_sent_is_cancelled_at_once() -> None:
    with contextlib.closing(PlayedMaster(Quota(tasks=1))) as master:
        first, second = master.submit(0, 1, sent=1)
        assert second.cancel()
        master.say(answer(0))
        assert first.result(PATIENCE_S) == "good"
        is_well(master, 2)
        assert second.cancelled()


def test_notes_that_cannot_be_read_are_complained_of_once(
    master: PlayedMaster, caplog: pytest.LogCaptureFixture
) -> None:
    (victim,) = master.submit(0)
    announces = (LIMIT_BYTES + 1).to_bytes(4, "little") * 1000
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            master.say(m.Output(REF, m.NOTES, announces))
        master.say(answer(0))
        assert victim.result(PATIENCE_S) == "good"
    assert len([record for record in caplog.records if "note" in record.message]) == 1


def odd_values(kind: Any, chance: random.Random) -> Any:
    """Make a value of a message's field: plausible, odd or absurd."""
    if kind in (int, float) or typing.get_origin(kind) is typing.Annotated:
        if kind is float:
            return chance.choice([0.0, -1.0, float("nan"), float("inf"), 1e308])
        if kind is not int and typing.get_args(kind)[0] is not int:
            return odd_values(typing.get_args(kind)[0], chance)
        least = 0 if kind is int else 1
        return chance.choice([0, 1, 2, 3, 4, 9, -1, -(2**63), 2**31, 2**63 - 1, 2**64 - 1][least:])
    if kind is bytes:
        return chance.choice([b"j" * 16, b"j" * 16, b"", b"?" * 16, chance.randbytes(40), pickle.dumps("good")])
    if kind is str:
        return chance.choice(["", "east", "\x00", "\u202e" * 10])
    if kind is bool:
        return chance.random() < 0.5
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind, include_extras=True)
        return kind(**{name: odd_values(hints[name], chance) for name in kind.__struct_fields__})
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is list or origin is tuple:
        return origin(odd_values(args[0], chance) for _ in range(chance.choice([0, 1, 1, 2, 5])))
    return odd_values(chance.choice(args), chance)  # a union


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_master_says_the_application_goes_on(seed: int) -> None:
    chance = random.Random(seed)
    kinds = [kind for kind in typing.get_args(m.ToClient) if kind is not m.Bye]
    with contextlib.closing(PlayedMaster()) as master:
        victims = master.submit(*range(5))
        raw = [odd_values(chance.choice(kinds), chance) for _ in range(chance.choice([1, 3]))]
        frames = [chance.randbytes(100) for _ in range(chance.choice([0, 0, 0, 1]))]
        envelope = [msgspec.msgpack.encode([m.PROTOCOL_VERSION, 7, 1, 0, raw]), *frames]
        master.say_raw(envelope)
        if is_breach(envelope):
            master.follow()
        else:
            master._session._last_seq = 1
        job = b"g" * 16
        (good,) = master.submit(0, job=job)
        master.say(answer(0, job=job))
        assert good.result(PATIENCE_S) == "good"
        master.say(m.Outcomes(b"j" * 16, "", [m.OutcomeFrame(index, 1, 3, 0.0, 0, b"") for index in range(5)]))
        for victim in victims:
            assert not concurrent.futures.wait([victim], PATIENCE_S).not_done
            error = None if victim.cancelled() else victim.exception()
            assert error is None or isinstance(error, ConcurrentError)


def test_a_task_that_needs_too_many_results_says_so(master: PlayedMaster) -> None:
    (needed,) = master.submit(0)
    record = ClientJob[TaskHandle](JobId(b"l" * 16), "later", is_linked=True)
    future: TaskFuture = TaskFuture(record.id, 0, master.thread.cancel)
    payload = Payload(b"x", inputs=(needed,) * (m.INPUTS_MAX + 1))
    master.thread.post([TaskEntry(record, 0, FUNCTION, payload, future)])
    with pytest.raises(
        TooLarge, match="needs the results of 100,001 tasks, and one task takes at most 100,000"
    ) as caught:
        future.result(PATIENCE_S)
    assert caught.value.limit_bytes == 0
    is_well(master, 1)
