"""What one client may make the master hold: who keeps to the limits is never ended, who does not is."""

import logging
import os
from collections.abc import Iterator

import pytest

from concurrent_nb.errors import LimitExceeded
from concurrent_nb.ids import SessionId, digest_of
from concurrent_nb.nodes.master import function_table
from concurrent_nb.nodes.master.client_limits import Limits
from concurrent_nb.nodes.master.client_output import OUTPUT_KEPT_BYTES
from concurrent_nb.nodes.master.core import JOIN_WITHIN_S
from concurrent_nb.object_store import segments
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.outcome import Status
from concurrent_nb.rate_limited_log import LINES, LINES_IN_ALL, WINDOW_S, RateLimitedLog
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import decode_error
from concurrent_nb.wire.session import Session
from tests.fuzzer.held import held_for
from tests.unit.nodes.master.bench import ALICE, BOB, EAST, JOB, KEYS, Bench, function

KIB, MIB = 1024, 1024 * 1024
SMALL = Limits(clients=3, not_joined=4, tasks=100, size_bytes=MIB, segments=3)


class Place(Bench):
    """A master that allows little, and a good client."""

    def __init__(self, limits: Limits = SMALL) -> None:
        self.reader, self.store = SegmentReader(), ObjectStore()
        super().__init__(self.store, self.reader, limits)
        self.client(ALICE)

    def close(self) -> None:
        self.reader.close()
        self.store.close()

    def is_over(self, session: SessionId, setting: str) -> bool:
        """Return whether a session was ended because of a limit; check that nothing of it is held."""
        if session in self.core.peers:
            return False
        self.sent_to(session)
        reason = self.ends[session].closed_by_peer or ""
        assert reason.startswith(m.OVER_LIMIT) and setting in reason, reason
        self.now += 20.0
        self.core.step(self.now)
        assert held_for(self.core, session, KEYS[session]) == []
        assert ALICE in self.core.peers
        return True


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.close()


def opened(job: bytes = JOB) -> m.OpenJob:
    return m.OpenJob(job, "job", False, False)


def submit(*index: int, job: bytes = JOB, digest: bytes = function().digest, body: bytes = b"") -> m.Submit:
    return m.Submit(job, digest, None, 0, [m.TaskFrame(each, 0, body) for each in index])


def job_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def in_buffer(body: bytes) -> m.Function:
    return m.Function(digest_of(body), b"", (len(body),))


# ----------------------------------------------------------------------------------------------------- tasks and bytes


def test_a_client_that_goes_beyond_its_tasks_is_ended(place: Place) -> None:
    place.client(BOB)
    place.send(BOB, opened(), function())
    for n in range(200):
        place.send(BOB, submit(n))
        place.all_sent()
        if BOB not in place.core.peers:
            break
    assert 100 < n < 140
    assert place.is_over(BOB, "MasterNode.tasks_per_client")


def test_a_client_that_keeps_to_its_tasks_may_have_any_number_one_after_another(place: Place) -> None:
    place.slave(EAST, slots=50)
    place.send(ALICE, opened(), function(), submit(*range(100)))
    for first in range(0, 2000, 50):
        place.sent_to(EAST)
        ended = range(first, first + 50)
        place.send(EAST, m.Outcomes(JOB, "", [m.OutcomeFrame(n, 1, Status.OK, 0.1, 42, b"") for n in ended]))
        place.sent_to(ALICE)
        place.send(ALICE, submit(*range(first + 100, first + 150)))
    assert ALICE in place.core.peers


@pytest.mark.parametrize("how", ["bodies", "buffers", "empty buffers", "jobs", "functions"])
def test_a_client_that_goes_beyond_its_bytes_is_ended(place: Place, how: str) -> None:
    place.client(BOB)
    place.send(BOB, opened(), function())
    for n in range(3000):
        if how == "bodies":
            place.send(BOB, submit(n % 90, job=JOB, body=bytes(20 * KIB)))
        elif how == "buffers":
            place.send(
                BOB,
                m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(n, 0, b"", (50 * KIB,))]),
                buffers=[[bytes(50 * KIB)]],
            )
        elif how == "empty buffers":
            many = m.TaskFrame(n, 0, b"body", (0,) * 500)
            place.send(BOB, m.Submit(JOB, function().digest, None, 0, [many]), buffers=[[b""] * 500])
        elif how == "jobs":
            place.send(BOB, opened(job_of(n)))
        else:
            big = function(n.to_bytes(2, "big") + bytes(20 * KIB))
            place.send(BOB, opened(job_of(n)), big, submit(0, job=job_of(n), digest=big.digest))
        place.sent_to(BOB)
        if BOB not in place.core.peers:
            break
    assert place.is_over(BOB, "MasterNode.bytes_per_client")


def test_a_client_that_keeps_to_its_bytes_is_not_ended_whatever_it_has_sent(place: Place) -> None:
    place.slave(EAST, slots=1)
    place.send(ALICE, opened(), function())
    for n in range(200):
        place.send(ALICE, submit(n, body=bytes(30 * KIB)))
        place.sent_to(EAST)
        place.send(EAST, m.Outcomes(JOB, "", [m.OutcomeFrame(n, 1, Status.OK, 0.1, 42, b"")]))
        place.sent_to(ALICE)
    assert ALICE in place.core.peers


def test_what_is_larger_than_the_limit_is_refused_with_advice(place: Place) -> None:
    big = bytes(MIB + 1)
    place.send(ALICE, opened(), function())
    place.send(
        ALICE,
        m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(0, 0, b"", (len(big),)), m.TaskFrame(1, 0, b"small")]),
        buffers=[[big], []],
    )
    sent = in_buffer(big)
    place.send(ALICE, sent, buffers=[[big]])
    place.send(ALICE, submit(2, digest=sent.digest))
    items = [item for message in place.sent_to(ALICE) for item in message.items]  # type: ignore[union-attr]
    assert [(item.index, item.status) for item in items] == [(0, Status.REFUSED), (2, Status.REFUSED)]
    assert all("raise MasterNode.bytes_per_client" in decode_error(item.body).message for item in items)
    assert ALICE in place.core.peers


def test_what_lies_in_shared_memory_does_not_count() -> None:
    place = Place()
    handle = segments.create(64 * MIB)
    introduced = m.Segment(handle.segment, handle.pid, handle.fd, handle.size)
    place.send(ALICE, m.ShareMemory(), introduced, opened(), function())
    for n in range(40):
        sizes = (m.Slice(handle.segment, n * MIB, MIB, n),)
        place.send(ALICE, m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(n, 0, b"", sizes)]))
    assert ALICE in place.core.peers and place.core.status(0.0)["tasks"]["waiting"] == 40
    os.close(handle.fd)
    place.close()


# ----------------------------------------------------------------------------------------------------------- functions


@pytest.mark.parametrize("how", ["not opened", "another's", "no tasks", "ended by another message"])
def test_a_function_of_a_submit_that_was_not_accepted_is_not_held(place: Place, how: str) -> None:
    if how == "another's":
        place.send(ALICE, opened())
    for _ in range(3):
        place.client(BOB)
        big = in_buffer(bytes(40 * KIB))
        place.send(BOB, big, buffers=[[bytes(40 * KIB)]])
        if how == "no tasks":
            place.send(BOB, opened(job_of(1)), submit(job=job_of(1), digest=big.digest))
            place.core.remove(BOB, "it has gone", place.now)
        elif how == "ended by another message":
            place.send(BOB, opened(job_of(1)), submit(0, job=job_of(1), digest=big.digest), m.Capacity(1, 1))
        else:
            place.send(BOB, submit(0, digest=big.digest))
        assert BOB not in place.core.peers
        assert place.core.status(place.now)["functions"] == 0
    place.now += 20
    place.core.step(place.now)
    assert held_for(place.core, BOB, KEYS[BOB]) == []


def test_functions_for_the_next_job_are_each_keys_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function_table, "IDLE_FUNCTIONS", 2)
    place.client(BOB)
    place.send(ALICE, function(b"hers"), function(b"of both"))
    for n in range(20):
        place.send(BOB, function(f"his {n}".encode()))
    place.send(BOB, function(b"of both"))
    assert place.core.status(0.0)["functions"] == 3
    place.core.remove(BOB, "it has gone", 0.0)
    assert place.core.status(0.0)["functions"] == 2
    place.send(
        ALICE, opened(), submit(0, digest=function(b"hers").digest), submit(1, digest=function(b"of both").digest)
    )
    assert place.sent_to(ALICE) == []
    place.core.remove(ALICE, "it has gone", 0.0)
    assert place.core.status(0.0)["functions"] == 0


# ------------------------------------------------------------------------------------------ contents that are sent once


def a_content(number: int, size: int, serial: int = 1) -> tuple[m.Content, m.Slice]:
    segment = number.to_bytes(16, "big")
    return m.Content(segment, 0, serial, b"", (size,)), m.Slice(segment, 0, size, serial)


def test_a_content_counts_until_its_segment_is_dropped(place: Place) -> None:
    place.slave(EAST, slots=1)
    place.send(ALICE, opened(), function())
    for n in range(30):
        content, slice_ = a_content(n, 300 * KIB)
        place.send(ALICE, content, buffers=[[bytes([n]) * 300 * KIB]])
        place.send(ALICE, m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(n, 0, b"", (slice_,))]))
        sent = place.all_sent()[ALICE]
        place.send(EAST, m.Outcomes(JOB, "", [m.OutcomeFrame(n, 1, Status.OK, 0.1, 42, b"")]))
        sent += place.sent_to(ALICE)
        assert [item.status for message in sent if isinstance(message, m.Outcomes) for item in message.items] == [0]
        if n >= 2:
            place.send(ALICE, m.DropSegments([a_content(n - 2, 1)[0].segment]))
    place.core.remove(ALICE, "it has gone", place.now)
    place.core.step(place.now + 1)
    assert held_for(place.core, ALICE, KEYS[ALICE]) == []


@pytest.mark.parametrize("size", [100, 300 * KIB])
def test_a_client_that_sends_more_contents_than_it_may_is_ended(place: Place, size: int) -> None:
    place.client(BOB)
    for n in range(10_000):
        place.send(BOB, a_content(n, size)[0], buffers=[[bytes(size)]])
        place.all_sent()
        if BOB not in place.core.peers:
            break
    assert n * (size + 300) < 1.5 * MIB
    assert place.is_over(BOB, "MasterNode.bytes_per_client")


def test_segments_are_bounded_and_what_lies_in_others_is_refused(place: Place) -> None:
    handles = [segments.create(4096) for _ in range(10)]
    place.client(BOB)
    introduced = [m.Segment(each.segment, each.pid, each.fd, each.size) for each in handles]
    place.send(BOB, m.ShareMemory(), *introduced, opened(), function())
    for n, each in enumerate(handles):
        sizes = (m.Slice(each.segment, 0, 10, 1),)
        place.send(BOB, m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(n, 0, b"", sizes)]))
    (first, *_) = refused = [item for message in place.sent_to(BOB) for item in message.items]  # type: ignore[union-attr]
    assert [item.index for item in refused] == [3, 4, 5, 6, 7, 8, 9]
    assert "raise MasterNode.segments_per_client" in decode_error(first.body).message
    place.send(BOB, m.DropSegments([handles[0].segment]), introduced[9])  # there is room for another now
    sizes = (m.Slice(handles[9].segment, 0, 10, 1),)
    place.send(BOB, m.Submit(JOB, function().digest, None, 0, [m.TaskFrame(20, 0, b"", sizes)]))
    assert place.core.status(0.0)["tasks"]["waiting"] == 4
    place.core.remove(BOB, "it has gone", 0.0)
    place.core.step(1.0)
    assert held_for(place.core, BOB, KEYS[BOB]) == [] and not place.reader._opened
    for each in handles:
        os.close(each.fd)


# ------------------------------------------------------------------------------------------------------ who is counted


def test_nodes_that_have_not_joined_give_way_to_new_ones_and_are_gone_after_a_while(place: Place) -> None:
    for n in range(100):
        place.core.add_client(SessionId(job_of(n)), b"key %d" % n, "x", place.now)
        place.core.add_slave(SessionId(job_of(1000 + n)), b"key of %d" % n, "x", 1, 1, place.now)
    assert len(place.core.peers) == 1 + 2 * SMALL.not_joined
    assert len(place.core.status(place.now)["slaves"]) == 0
    for _ in range(20):
        for session in list(place.core.peers):
            if session != ALICE:
                place.core.heartbeat(session, place.now)
        place.send(ALICE)
        place.now += JOIN_WITHIN_S / 20 + 0.01
        place.core.step(place.now)
    assert list(place.core.peers) == [ALICE]
    assert all(held_for(place.core, SessionId(job_of(n)), b"key %d" % n) == [] for n in range(100))
    assert not place.core.admits(b"key 99")


def test_there_are_so_many_clients_and_one_that_comes_back_has_its_place(place: Place) -> None:
    for n in range(2):
        KEYS[SessionId(job_of(n))] = b"key"
        place.client(SessionId(job_of(n)))
    with pytest.raises(LimitExceeded, match=r"3 clients are registered, and there .* raise MasterNode\.clients"):
        place.core.add_client(BOB, KEYS[BOB], "bob", place.now)
    place.core.add_client(BOB, KEYS[ALICE], "alice", place.now, replaces=ALICE)
    place.ends[BOB] = Session(7, "to_client")
    place.send(BOB, key=KEYS[ALICE])
    assert BOB in place.core.peers and ALICE not in place.core.peers


def test_who_registered_in_time_and_comes_when_all_places_are_taken_gets_the_reason(place: Place) -> None:
    place.core.add_client(BOB, KEYS[BOB], "bob", place.now)
    place.ends[BOB] = Session(7, "to_client")
    for n in range(2):
        KEYS[SessionId(job_of(n))] = b"key"
        place.client(SessionId(job_of(n)))
    place.send(BOB)
    assert place.is_over(BOB, "MasterNode.clients")


@pytest.mark.parametrize(
    ("session", "role", "secret", "is_it"),
    [
        (ALICE, "client", "hers", True),
        (ALICE, "client", "his", False),
        (ALICE, "client", "", False),
        (ALICE, "slave", "hers", False),
        (BOB, "client", "hers", False),
    ],
)
def test_a_session_is_whose_secret_one_knows(session: SessionId, role: str, secret: str, is_it: bool) -> None:
    bench = Bench()
    bench.core.add_client(ALICE, KEYS[ALICE], "alice", 0.0, secret="hers")
    bench.core.add_client(BOB, KEYS[BOB], "bob", 0.0, secret="his")
    assert bench.core.is_session(session, role, secret) == is_it


# ------------------------------------------------------------------------------------------------- what goes to clients


def test_output_for_a_client_that_takes_none_is_cut_although_it_is_not_silent(place: Place) -> None:
    place.slave(EAST)
    place.send(ALICE, opened(), function(), submit(0))
    place.all_sent()
    piece = b"x" * 65536
    alice = place.core.peers[ALICE]
    for _ in range(2 * OUTPUT_KEPT_BYTES // len(piece)):
        place.send(EAST, m.Output(m.TaskRef(JOB, 0, 1), 1, piece))
        place.core.heartbeat(ALICE, place.now)
        assert alice.session.backlog_bytes < 1.1 * OUTPUT_KEPT_BYTES
        place.ends[EAST].receive(alice_takes_nothing(place), place.now)
    sent_messages: list[bytes] = []
    for _ in range(1000):
        place.now += 1.0  # what was lost comes again
        place.send(ALICE)
        sent = [message.data for message in place.sent_to(ALICE) if isinstance(message, m.Output)]
        sent_messages += sent
        if b"bytes of output are left out here" in b"".join(sent):
            break
    written = b"".join(sent_messages)
    assert 0.9 * OUTPUT_KEPT_BYTES < written.count(b"x") <= OUTPUT_KEPT_BYTES
    assert written.endswith(b"the client did not receive it]\n")


def alice_takes_nothing(place: Place) -> list[bytes]:
    """Return what the master sends to the slave; what it sends to the client is lost."""
    (frames,) = [frames for session, frames in place.core.step(place.now) if session == EAST] or [[]]
    return frames or place.core.peers[EAST].session.heartbeat()  # type: ignore[return-value]


# ----------------------------------------------------------------------------------------------------------- log lines


def test_log_lines_about_one_peer_are_few_and_contain_their_count(caplog: pytest.LogCaptureFixture) -> None:
    log = RateLimitedLog(logging.getLogger("test of limits"))
    for n in range(1000):
        log.warning(b"a key", 0.001 * n, "line %d", n)
    assert len(caplog.records) == LINES
    log.warning(b"another", 1.0, "about another")
    assert caplog.messages[-1] == "about another"
    log.warning(b"a key", WINDOW_S + 1, "again")
    assert "995 more lines like the following were left out" in caplog.messages and caplog.messages[-1] == "again"
    caplog.clear()
    for n in range(10_000):
        log.warning(n, 100.0, "line %d", n)
    assert len(caplog.records) <= LINES_IN_ALL


def test_strangers_fill_no_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    for n in range(1000):
        place.core.received(job_of(n), b"key", [b"let me in"], place.now)
        place.core.received(ALICE, b"another's", [b"let me in"], place.now)
    assert len(caplog.records) <= LINES


def test_who_breaks_the_protocol_again_and_again_fills_no_log(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        place.client(BOB)
        place.core.received(BOB, KEYS[BOB], [b"nonsense"], place.now)
        place.sent_to(BOB)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= LINES
