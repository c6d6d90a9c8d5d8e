"""What one peer sends ends that peer's session at most: the master lives, the others are served, nothing is kept."""

import math
import mmap
import os
from collections.abc import Iterator, Sequence

import pytest

from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.master import dispatch
from concurrent_nb.nodes.master.client_limits import DEFAULT, Limits
from concurrent_nb.object_store import segments
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Envelope, decode_error, encode, function_digest
from tests.fuzzer.held import held_for
from tests.unit.nodes.master.bench import ALICE, BOB, EAST, KEYS, WEST, Bench, function

HERS, HIS = b"h" * 16, b"g" * 16
SEGMENT = b"s" * 16
MIB = 1024 * 1024


class Memory:
    """A segment of this process, in the role of another's."""

    def __init__(self, size: int) -> None:
        self.handle = segments.create(size)

    def introduced(self, size: int | None = None) -> m.Segment:
        handle = self.handle
        return m.Segment(handle.segment, handle.pid, handle.fd, handle.size if size is None else size)

    def slice(self, offset: int = 0, size: int = 100, serial: int = 1) -> m.Slice:
        return m.Slice(self.handle.segment, offset, size, serial)


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory(MIB)
    yield memory
    os.close(memory.handle.fd)


@pytest.fixture
def sparse() -> Iterator[Memory]:
    memory = Memory(1 << 40)
    yield memory
    os.close(memory.handle.fd)


class Place(Bench):
    """A master with a good client and a good slave, who work on after whatever the others did."""

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.reader, self.store = SegmentReader(), ObjectStore()
        super().__init__(self.store, self.reader, limits)
        self.client(ALICE)
        self.slave(EAST, slots=4)
        self.send(ALICE, opened(HERS), function(b"hers"))
        self._next = 0

    def close(self) -> None:
        self.reader.close()
        self.store.close()

    def works(self) -> None:
        """See that a task of the good client is run by the good slave and answered."""
        index, self._next = self._next, self._next + 1
        self.send(ALICE, submit(HERS, index, digest=function(b"hers").digest))
        while not any(index in indexes(message) for message in self.sent_to(EAST)):
            self.now += 0.1
        self.send(EAST, m.Outcomes(HERS, "", [m.OutcomeFrame(index, 1, Status.OK, 0.1, 42, b"value")]))
        (answer,) = (each for each in self.sent_to(ALICE) if isinstance(each, m.Outcomes))
        assert [(item.index, item.body) for item in answer.items] == [(index, b"value")]
        self.send(ALICE)

    def has_ended_session_of(self, session: SessionId) -> None:
        """See that a peer is cut off, that nothing of it is kept, and that the others go on."""
        assert session not in self.core.peers
        self.works()
        self.holds_nothing_of(session)

    def holds_nothing_of(self, session: SessionId) -> None:
        self.now += 20.0  # what is kept for a return that does not come is over
        self.send(ALICE)
        self.send(EAST)
        self.core.step(self.now)
        assert held_for(self.core, session, KEYS[session]) == []


def indexes(message: m.AnyMessage) -> list[int]:
    return [task.index for task in message.tasks] if isinstance(message, m.Assign) else []


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.close()


def opened(job: bytes = HIS, stop_on_error: bool = False) -> m.OpenJob:
    return m.OpenJob(job, "job", False, stop_on_error)


def submit(job: bytes, *index: int, digest: bytes = function().digest, sizes: m.Sizes = ()) -> m.Submit:
    return m.Submit(
        job, digest, None, 0, [m.TaskFrame(each, 0, b"" if sizes else b"arguments", sizes) for each in index]
    )


def in_memory(*parts: m.Slice) -> m.Function:
    return m.Function(function_digest([b"body", *parts]), b"body", parts)


def raw(place: Place, session: SessionId, body: list[m.AnyMessage], buffers: Sequence[Buffer] = ()) -> None:
    """Send what no session would; the master's answer is ignored."""
    del place.ends[session]
    place.core.received(session, KEYS[session], encode(Envelope(m.PROTOCOL_VERSION, 7, 1, 0, body), buffers), place.now)


def refusals(sent_now: list[m.AnyMessage]) -> list[str]:
    items = [item for message in sent_now if isinstance(message, m.Outcomes) for item in message.items]
    assert all(item.status == Status.REFUSED for item in items)
    return [decode_error(item.body).message for item in items]


# ---------------------------------------------------------------------------------------- what is checked when it comes


@pytest.mark.parametrize(
    ("content", "buffers"),
    [
        (m.Content(SEGMENT, 0, 1, b"", ()), []),
        (m.Content(SEGMENT, 0, 1, b"", (m.Slice(SEGMENT, 0, 8, 1),)), []),
        (m.Content(SEGMENT, 0, 1, b"", (m.Slice(SEGMENT, 0, 8, 1), 4)), [b"four"]),
        (m.Content(SEGMENT, 0, 1, b"both", (4,)), [b"four"]),
        (m.Content(SEGMENT, 0, 1, b"", (4, 4)), [b"four", b"four"]),
        (m.Content(SEGMENT, 0, 1, b"", (0,)), [b""]),
        (m.Content(SEGMENT, -8, 1, b"body", ()), []),
        (m.Content(b"short", 0, 1, b"body", ()), []),
    ],
)
def test_a_content_that_is_none_ends_its_session(place: Place, content: m.Content, buffers: list[bytes]) -> None:
    place.client(BOB)
    raw(place, BOB, [content], buffers)
    place.has_ended_session_of(BOB)


@pytest.mark.parametrize(
    "message",
    [m.Function(function(b"").digest, b""), m.OpenJob(b"short", "", False, False), m.Submit(HIS, b"", None, 0, [])],
)
def test_what_makes_no_sense_by_itself_ends_its_session(place: Place, message: m.AnyMessage) -> None:
    place.client(BOB)
    place.send(BOB, message)
    place.has_ended_session_of(BOB)


@pytest.mark.parametrize(
    "message",
    [
        m.Capacity(1, 2**60),
        m.Capacity(2**63, 2**63),
        m.HostLoad(math.nan, 1, 1),
        m.HostLoad(-math.inf, 1, 1),
        m.WorkersOutdated(0, -1),
        m.WorkersOutdated(0, 2**62),
    ],
)
def test_a_slave_that_reports_what_cannot_be_ends_its_session(place: Place, message: m.AnyMessage) -> None:
    place.slave(WEST)
    place.send(WEST, message)
    place.has_ended_session_of(WEST)


@pytest.mark.parametrize(("offset", "size"), [(MIB, 1), (0, MIB + 1), (2**62, 2**62), (MIB - 10, 11)])
@pytest.mark.parametrize("what", ["arguments", "function"])
def test_a_slice_that_ends_behind_its_segment_ends_the_session(
    place: Place, memory: Memory, what: str, offset: int, size: int
) -> None:
    place.client(BOB)
    slice_ = memory.slice(offset, size)
    sent = [in_memory(slice_)] if what == "function" else [function(), submit(HIS, 0, sizes=(slice_,))]
    place.send(BOB, m.ShareMemory(), memory.introduced(), opened(), *sent)
    place.has_ended_session_of(BOB)


def test_a_result_that_ends_behind_its_segment_ends_the_slaves_session_and_the_task_runs_elsewhere(
    place: Place, memory: Memory
) -> None:
    place.slave(WEST)
    place.send(EAST, m.Capacity(0, 0))
    place.send(ALICE, submit(HERS, 50, digest=function(b"hers").digest))
    place.all_sent()
    result = m.OutcomeFrame(50, 1, Status.OK, 0.1, 42, b"", (memory.slice(MIB, 1),))
    place.send(WEST, m.ShareMemory(), memory.introduced(), m.Outcomes(HERS, "", [result]))
    assert WEST not in place.core.peers
    place.send(EAST, m.Capacity(4, 100))
    assert [50 in indexes(message) for message in place.sent_to(EAST)] == [False, True]  # its function, and it
    place.works()
    place.holds_nothing_of(WEST)


def test_a_slice_of_another_clients_segment_is_refused(place: Place, memory: Memory) -> None:
    place.client(BOB)
    place.send(ALICE, m.ShareMemory(), memory.introduced())
    place.send(BOB, m.ShareMemory(), opened(), function(), submit(HIS, 0, sizes=(memory.slice(),)))
    (why,) = refusals(place.sent_to(BOB))
    assert "shared memory that the master cannot open" in why
    place.works()


def test_no_peer_may_name_a_slice_of_the_masters_own_memory(place: Place) -> None:
    ours = place.store.put(memoryview(b"the content of another client"))
    assert ours is not None
    place.client(BOB)
    place.send(BOB, opened(), function(), submit(HIS, 0, sizes=(ours,)))
    assert len(refusals(place.sent_to(BOB))) == 1


def test_only_those_tasks_are_refused_whose_arguments_cannot_be_had(place: Place, memory: Memory) -> None:
    place.client(BOB)
    lost = m.Slice(SEGMENT, 0, 100, 1)
    tasks = [m.TaskFrame(0, 0, b"fine"), m.TaskFrame(1, 0, b"", (lost,)), m.TaskFrame(2, 0, b"", (memory.slice(),))]
    place.send(BOB, m.ShareMemory(), memory.introduced(), opened(), function())
    place.send(BOB, m.Submit(HIS, function().digest, None, 0, tasks))
    sent_now = place.all_sent()
    assert [index for message in sent_now[EAST] for index in indexes(message)] == [0, 2]
    assert len(refusals(sent_now[BOB])) == 1


def test_a_segment_that_lies_about_its_size_is_not_open(place: Place, memory: Memory) -> None:
    place.client(BOB)
    place.send(BOB, m.ShareMemory(), memory.introduced(size=10 * MIB), opened(), function())
    place.send(BOB, submit(HIS, 0, sizes=(memory.slice(2 * MIB),)))
    (why,) = refusals(place.sent_to(BOB))
    assert "is not sealed at its size" in why
    place.works()


@pytest.mark.parametrize("handle", [(2**62, 2**62, 8), (1, 1, 2**62), (0, 0, 1), (1, 1, 0)])
def test_a_segment_that_is_none_is_not_open(place: Place, handle: tuple[int, int, int]) -> None:
    place.client(BOB)
    place.send(BOB, m.ShareMemory(), m.Segment(SEGMENT, *handle), opened(), function())
    place.send(BOB, submit(HIS, 0, sizes=(m.Slice(SEGMENT, 0, 1, 1),)))
    assert len(refusals(place.sent_to(BOB))) == 1
    place.works()


# -------------------------------------------------------------------------------------- what goes wrong when it is used


def test_a_function_that_is_dropped_with_its_segment_ends_the_tasks_that_wait_for_it(
    place: Place, memory: Memory
) -> None:
    place.send(EAST, m.Capacity(0, 0))  # so that they wait
    place.client(BOB)
    sent = in_memory(memory.slice())
    place.send(BOB, m.ShareMemory(), memory.introduced(), opened(), sent, submit(HIS, 0, 1, digest=sent.digest))
    place.send(BOB, m.DropSegments([memory.handle.segment]))
    whys = refusals(place.sent_to(BOB))
    assert len(whys) == 2 and "its function lies in shared memory that its owner has dropped" in whys[0]
    place.send(EAST, m.Capacity(4, 100))
    place.works()


def test_a_function_that_is_dropped_in_the_same_envelope_ends_the_tasks_too(place: Place, memory: Memory) -> None:
    place.client(BOB)
    sent = in_memory(memory.slice())
    drop = m.DropSegments([memory.handle.segment])
    place.send(BOB, m.ShareMemory(), memory.introduced(), opened(), sent, submit(HIS, 0, digest=sent.digest), drop)
    sent_now = place.all_sent()
    assert [index for message in sent_now[EAST] for index in indexes(message)] == []
    (why,) = refusals(sent_now[BOB])
    assert "its owner has dropped" in why
    place.works()
    assert BOB in place.core.peers


def test_arguments_that_were_dropped_end_their_tasks_and_a_job_that_stops_on_an_error(
    place: Place, memory: Memory
) -> None:
    place.send(EAST, m.Capacity(0, 0))
    place.client(BOB)
    place.send(BOB, m.ShareMemory(), memory.introduced(), opened(stop_on_error=True), function())
    place.send(BOB, submit(HIS, 0, sizes=(memory.slice(),)), submit(HIS, 1, 2))
    place.send(BOB, m.DropSegments([memory.handle.segment]))
    assert place.sent_to(BOB) == []
    place.send(EAST, m.Capacity(1, 1))
    ends = {item.index: item.status for message in place.sent_to(BOB) for item in message.items}  # type: ignore[union-attr]
    assert ends == {0: Status.REFUSED, 1: Status.CANCELLED, 2: Status.CANCELLED}
    place.send(EAST, m.Capacity(4, 100))
    place.works()


def test_an_enormous_slice_is_not_copied_for_a_slave_that_shares_no_memory(place: Place, sparse: Memory) -> None:
    place.client(BOB)
    place.send(BOB, m.ShareMemory(), sparse.introduced(), opened(), function())
    place.send(BOB, submit(HIS, 0, sizes=(sparse.slice(0, 1 << 39),)))
    (why,) = refusals(place.sent_to(BOB))
    assert "raise MasterNode.object_bytes" in why
    place.works()


def test_many_slices_that_are_enormous_together_are_not_copied_either(place: Place, sparse: Memory) -> None:
    place.client(BOB)
    place.send(BOB, m.ShareMemory(), sparse.introduced(), opened(), function())
    parts = tuple(sparse.slice(n * 100 * MIB, 100 * MIB, n) for n in range(100))
    place.send(BOB, submit(HIS, 0, sizes=parts))
    assert len(refusals(place.sent_to(BOB))) == 1
    place.works()


def test_an_enormous_function_ends_its_tasks(place: Place, sparse: Memory) -> None:
    place.client(BOB)
    sent = in_memory(sparse.slice(0, 1 << 39))
    place.send(BOB, m.ShareMemory(), sparse.introduced(), opened(), sent, submit(HIS, 0, 1, digest=sent.digest))
    assert len(refusals(place.sent_to(BOB))) == 2
    place.works()


def test_a_slave_that_takes_nothing_is_sent_no_more_copies_and_what_waits_goes_elsewhere(memory: Memory) -> None:
    place = Place(Limits(size_bytes=MIB))
    place.send(EAST, m.Capacity(0, 0))
    place.slave(WEST, slots=50)
    place.client(BOB)
    place.send(BOB, m.ShareMemory(), memory.introduced(), opened(), function())
    for n in range(40):
        place.send(BOB, submit(HIS, n, sizes=(memory.slice(n, MIB // 4, n),)))
    west = place.core.peers[WEST]
    assert west.session.backlog_bytes < 2.5 * MIB
    taken: list[int] = []
    for _ in range(3):
        taken += [index for message in place.sent_to(WEST) for index in indexes(message)]
    assert west.session.backlog_bytes < 2.5 * MIB
    assert 0 < len(taken) < 20
    place.send(EAST, m.Capacity(50, 100))
    for _ in range(60):  # both take what they get, and acknowledge it
        for slave in (WEST, EAST):
            place.send(slave)
        sent_now = place.all_sent()
        taken += [index for slave in (WEST, EAST) for message in sent_now[slave] for index in indexes(message)]
        place.now += 0.01
    assert sorted(set(taken)) == list(range(40))
    place.close()


def test_a_result_in_memory_that_was_never_shown_is_an_error_and_not_lost(place: Place) -> None:
    place.send(ALICE, submit(HERS, 60, digest=function(b"hers").digest))
    place.all_sent()
    result = m.OutcomeFrame(60, 1, Status.OK, 0.1, 42, b"", (m.Slice(SEGMENT, 0, 100, 1),))
    place.send(EAST, m.ShareMemory(), m.Outcomes(HERS, "", [result]))
    (answer,) = (each for each in place.sent_to(ALICE) if isinstance(each, m.Outcomes))
    report = decode_error(answer.items[0].body)
    assert (answer.items[0].status, report.type_name) == (Status.ERROR, m.RESULT_LOST)
    assert "it was never announced to the master" in report.message
    assert EAST in place.core.peers
    place.works()


def test_an_enormous_result_for_a_client_that_shares_no_memory_is_an_error(place: Place, sparse: Memory) -> None:
    place.send(ALICE, submit(HERS, 60, digest=function(b"hers").digest))
    place.all_sent()
    result = m.OutcomeFrame(60, 1, Status.OK, 0.1, 42, b"", (sparse.slice(0, 1 << 39),))
    place.send(EAST, m.ShareMemory(), sparse.introduced(), m.Outcomes(HERS, "", [result]))
    (answer,) = (each for each in place.sent_to(ALICE) if isinstance(each, m.Outcomes))
    assert "raise MasterNode.object_bytes" in decode_error(answer.items[0].body).message
    place.works()


def test_results_are_copied_as_a_client_on_another_host_takes_them(memory: Memory) -> None:
    place = Place(Limits(size_bytes=MIB))
    place.send(ALICE, submit(HERS, *range(100, 120), digest=function(b"hers").digest))
    place.all_sent()
    results = [m.OutcomeFrame(n, 1, Status.OK, 0.1, 42, b"", (memory.slice(n, MIB // 4, n),)) for n in range(100, 120)]
    place.send(EAST, m.ShareMemory(), memory.introduced())
    for result in results:
        place.send(EAST, m.Outcomes(HERS, "", [result]))
    alice = place.core.peers[ALICE]
    assert alice.session.backlog_bytes < 2 * MIB
    got = []
    for _ in range(40):
        sent_now = place.sent_to(ALICE)
        got += [item.index for message in sent_now if isinstance(message, m.Outcomes) for item in message.items]
        assert alice.session.backlog_bytes < 2 * MIB
        place.send(ALICE)
    assert got == list(range(100, 120))
    place.works()
    place.close()


def test_an_instruction_that_fails_keeps_no_other_from_being_obeyed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.client(BOB)
    place.send(BOB, opened(), function())

    def broken(self: dispatch.Dispatch, slave: object, digest: bytes) -> None:
        raise MemoryError("no room for it")

    monkeypatch.setattr(dispatch.Dispatch, "_send_function", broken)
    place.send(EAST, m.Capacity(0, 0))
    place.send(BOB, submit(HIS, 0))
    monkeypatch.setattr(dispatch.Dispatch, "_send_function", broken)
    place.send(EAST, m.Capacity(4, 100))
    (why,) = refusals(place.sent_to(BOB))
    assert "its function is not available: no room for it" in why
    monkeypatch.undo()
    place.works()


def test_whatever_is_raised_while_an_envelope_is_handled_ends_its_session_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.client(BOB)

    def broken(*args: object) -> None:
        raise ZeroDivisionError("in a book")

    monkeypatch.setitem(place.core._handlers, m.Cancel, broken)
    before = place.core.status(place.now, sees_all=True)["jobs"]
    place.send(BOB, opened(), function(), submit(HIS, 0), m.Cancel(HIS, None))
    assert BOB not in place.core.peers
    place.sent_to(BOB)
    assert "ZeroDivisionError: in a book" in (place.ends[BOB].closed_by_peer or "")
    assert place.core.status(place.now, sees_all=True)["jobs"] == before
    assert caplog.text.count("Traceback") == 1
    place.works()
    place.holds_nothing_of(BOB)


def test_what_cannot_be_encoded_for_one_peer_ends_its_session_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.client(BOB)

    def broken(now: float) -> list[list[Buffer]]:
        raise MemoryError

    monkeypatch.setattr(place.core.peers[BOB].session, "flush", broken)
    place.send(BOB, opened())
    place.core.step(place.now)
    place.has_ended_session_of(BOB)


def test_a_broken_envelope_takes_nothing_back_that_it_has_acknowledged(place: Place) -> None:
    place.client(BOB)
    place.send(BOB, opened(), function(), submit(HIS, 0))
    place.all_sent()
    place.send(EAST, m.Outcomes(HIS, "", [m.OutcomeFrame(0, 1, Status.OK, 0.1, 42, b"value")]))
    place.sent_to(BOB)
    place.send(BOB, m.Cancel(HERS, None))
    place.has_ended_session_of(BOB)


def test_memory_is_read_where_a_hole_was_punched(place: Place, memory: Memory) -> None:
    """Its owner cannot cut it off, but may take its pages away at any time."""
    with mmap.mmap(memory.handle.fd, MIB) as mapped:
        mapped[:4] = b"data"
        if hasattr(mmap, "MADV_REMOVE"):
            mapped.madvise(mmap.MADV_REMOVE)
    place.client(BOB)
    place.send(BOB, m.ShareMemory(), memory.introduced(), opened(), function(), submit(HIS, 0, sizes=(memory.slice(),)))
    sent_now = place.sent_to(EAST)
    assert [index for message in sent_now for index in indexes(message)] == [0]
    (content,) = (message for message in sent_now if isinstance(message, m.Content))
    assert content.sizes == (100,)
    place.works()
