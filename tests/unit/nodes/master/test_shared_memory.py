"""The shared memory that the master tracks: whose it is, who holds it, and when it is released or closed."""

from collections.abc import Sequence

import pytest

from concurrent_nb.errors import ProtocolError
from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.nodes.master.shared_memory import (
    TRANSITIONS,
    PeerMemory,
    ResultSlice,
    ResultState,
    SharedMemoryTracker,
)
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle
from concurrent_nb.outcome import Status
from concurrent_nb.scheduling import events as e
from concurrent_nb.tasks.shared_objects import object_id
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, decode
from concurrent_nb.wire.session import Session

ALICE, EAST, WEST = SessionId(b"alice"), SessionId(b"east"), SessionId(b"west")
JOB = JobId(b"job")
SIZE = 100_000
RELEASED = ResultState.RELEASED
SEGMENT, OTHER = b"s" * 16, b"t" * 16


class FakeReader:
    """A segment reader that opens every segment, unless its descriptor is negative."""

    def __init__(self) -> None:
        self.opened: dict[bytes, SegmentHandle] = {}

    def add(self, handle: SegmentHandle) -> None:
        if handle.fd < 0:
            raise CannotOpen("it is not there")
        self.opened[handle.segment] = handle

    def drop(self, segments: Sequence[bytes]) -> None:
        for segment in segments:
            self.opened.pop(segment, None)

    def handle(self, segment: bytes) -> SegmentHandle | None:
        return self.opened.get(segment)

    def read(self, slice_: m.Slice) -> Buffer:
        return bytes(slice_.size)


class Bench:
    """A tracker, and what it calls back."""

    def __init__(self) -> None:
        self.reader = FakeReader()
        self.touched: list[SessionId] = []
        self.events: list[e.Event] = []
        self.closed: list[set[bytes]] = []
        self.tracker = SharedMemoryTracker(
            self.reader, None, touched=self.touched.append, on_event=self.events.append, closed=self.closed.append
        )

    def client(self, session_id: SessionId = ALICE, key: bytes = b"her key", *, shares: bool = True) -> PeerMemory:
        account = self.tracker.client(session_id, key, "alice", Session(1, "from_client"))
        account.announced.share(shares)
        return account

    def slave(self, session_id: SessionId, *, shares: bool = True) -> PeerMemory:
        account = self.tracker.slave(session_id, session_id, session_id.decode(), Session(1, "from_slave"))
        account.announced.share(shares)
        return account

    def outcome(self, slave: PeerMemory, slice_: m.Slice, *, counts: bool = True) -> None:
        if slice_.segment not in slave.segments:
            self.tracker.handle(slave, segment(slice_.segment), ())
        frame = m.OutcomeFrame(slice_.serial, 1, Status.OK, 0.1, 42, b"", (slice_,))
        self.tracker.outcomes(slave, JOB, [frame], ())
        self.tracker.decide(lambda job, outcome: counts)


def segment(name: bytes = SEGMENT, fd: int = 7) -> m.Segment:
    return m.Segment(name, 1, fd, 10 * SIZE)


def piece(serial: int, name: bytes = SEGMENT) -> m.Slice:
    return m.Slice(name, serial * SIZE, SIZE, serial)


def acknowledged(*indexes: int) -> list[e.OutcomesAcknowledged]:
    return [e.OutcomesAcknowledged(ALICE, JOB, indexes)]


def sent_messages(account: PeerMemory) -> list[m.AnyMessage]:
    """The messages to a slave since the last call."""
    return [item.message for frames in account.session.flush(0.0) for item in decode(frames, "to_slave")[1]]


# --------------------------------------------------------------------------------------------------- whose memory it is


def test_what_lies_in_a_peers_own_memory_is_here_and_nothing_else() -> None:
    bench = Bench()
    alice, bob = bench.client(), bench.client(WEST, b"his key")
    bench.tracker.handle(alice, segment(), ())
    assert bench.tracker.translated(alice, (3, piece(1)), [b"abc"]) == ((3, piece(1)), [b"abc"])
    assert bench.tracker.translated(bob, (piece(1),), ()) is None
    assert bench.tracker.translated(alice, (piece(1, OTHER),), ()) is None
    assert bench.tracker.translated(alice, (), ()) == ((), ())


def test_a_segment_of_another_key_is_not_taken_over() -> None:
    bench = Bench()
    bench.tracker.handle(bench.client(), segment(), ())
    with pytest.raises(ProtocolError, match="is another's"):
        bench.tracker.handle(bench.client(WEST, b"his key"), segment(), ())


def test_what_cannot_be_opened_is_not_here() -> None:
    bench = Bench()
    alice = bench.client()
    bench.tracker.handle(alice, segment(fd=-1), ())
    assert bench.tracker.translated(alice, (piece(1),), ()) is None


def test_a_content_is_here_as_it_came_where_there_is_no_store() -> None:
    bench = Bench()
    alice = bench.client(shares=False)
    content = m.Content(SEGMENT, SIZE, 1, b"", (SIZE,))
    bench.tracker.handle(alice, content, [bytes(SIZE)])
    assert bench.tracker.translated(alice, (3, piece(1)), [b"abc"]) == ((3, SIZE), [b"abc", bytes(SIZE)])
    bench.tracker.handle(alice, m.DropSegments([SEGMENT]), ())
    assert bench.tracker.translated(alice, (piece(1),), ()) is None


def test_an_application_that_comes_back_has_its_segments_which_outlive_its_former_session() -> None:
    bench = Bench()
    former = bench.client()
    bench.tracker.handle(former, segment(), ())
    bench.tracker.left(former)
    bench.tracker.abandon(former, due=10.0)
    back = bench.client(SessionId(b"alice again"))
    assert bench.tracker.translated(back, (piece(1),), ()) is not None
    bench.tracker.handle(back, segment(), ())
    bench.tracker.close_departed(10.0)
    assert bench.tracker.translated(back, (piece(1),), ()) is not None


def test_what_a_lost_application_has_shared_is_closed_in_time_for_all_peers() -> None:
    bench = Bench()
    alice, east = bench.client(), bench.slave(EAST)
    bench.tracker.handle(alice, segment(), ())
    east.announced.outgoing((piece(1),), (), once=True)
    bench.tracker.left(alice)
    bench.tracker.abandon(alice, due=10.0)
    bench.tracker.close_departed(9.9)
    assert SEGMENT in bench.reader.opened and not bench.closed
    bench.tracker.close_departed(10.0)
    assert not bench.reader.opened and bench.closed == [{SEGMENT}]
    assert sent_messages(east)[1:] == [m.DropSegments([SEGMENT])]
    assert bench.touched == [EAST] and not bench.tracker.departed


# -------------------------------------------------------------------------------------------------- where results lie


@pytest.mark.parametrize("clean", [True, False])
def test_a_result_is_its_owners_until_it_is_released(clean: bool) -> None:
    bench = Bench()
    alice, east = bench.client(), bench.slave(EAST)
    bench.outcome(east, piece(1))
    bench.tracker.hand_over(alice, acknowledged(1, 2))
    assert sent_messages(east) == [] and not bench.tracker.kept[JOB]
    bench.tracker.handle(alice, m.Release([piece(1), piece(2)], clean), ())
    assert sent_messages(east) == [m.Release([piece(1)], clean)]
    bench.tracker.handle(alice, m.Release([piece(1)], clean), ())
    assert sent_messages(east) == []


def test_a_result_of_which_its_owner_has_a_copy_is_free() -> None:
    bench = Bench()
    alice, east = bench.client(shares=False), bench.slave(EAST)
    bench.outcome(east, piece(1))
    bench.tracker.hand_over(alice, acknowledged(1))
    assert sent_messages(east) == [m.Release([piece(1)], clean=True)]


def test_a_result_that_comes_too_late_is_free() -> None:
    bench = Bench()
    east = bench.slave(EAST)
    bench.outcome(east, piece(1), counts=False)
    assert sent_messages(east) == [m.Release([piece(1)], clean=True)] and not bench.tracker.kept


def test_results_of_a_job_that_is_over_are_not_used_again_if_they_may_have_come() -> None:
    bench = Bench()
    east = bench.slave(EAST)
    bench.outcome(east, piece(1))
    bench.tracker.forget_job(JOB)
    assert sent_messages(east) == [m.Release([piece(1)], clean=False)] and not bench.tracker.kept


def test_what_an_application_looked_at_when_it_was_lost_is_not_used_again() -> None:
    bench = Bench()
    alice, east = bench.client(), bench.slave(EAST)
    bench.outcome(east, piece(1))
    bench.tracker.hand_over(alice, acknowledged(1))
    bench.tracker.left(alice)
    bench.tracker.abandon(alice, due=10.0)
    assert sent_messages(east) == [m.Release([piece(1)], clean=False)]


def test_a_lost_slaves_memory_is_closed_when_no_result_is_held() -> None:
    bench = Bench()
    alice, east = bench.client(), bench.slave(EAST)
    for name in (SEGMENT, OTHER):
        bench.tracker.handle(east, segment(name), ())
    bench.outcome(east, piece(1))
    bench.outcome(east, piece(2))
    bench.tracker.hand_over(alice, acknowledged(1))
    bench.tracker.left(east)
    bench.tracker.abandon(east, due=0.0)
    assert list(bench.reader.opened) == [SEGMENT]
    bench.tracker.handle(alice, m.Release([piece(1)], True), ())
    assert list(bench.reader.opened) == [SEGMENT]
    bench.tracker.forget_job(JOB)
    assert not bench.reader.opened and sent_messages(east) == []


@pytest.mark.parametrize("again", ["in one outcome", "in two outcomes", "in both"])
def test_what_a_slave_names_twice_is_given_back_once_and_closed_when_the_slave_has_gone(again: str) -> None:
    bench = Bench()
    alice, east = bench.client(), bench.slave(EAST)
    bench.tracker.handle(east, segment(), ())
    twice = (piece(1), piece(1))
    for index in (1, 2) if again != "in one outcome" else (1,):
        sizes = twice if again != "in two outcomes" else (piece(1),)
        frame = m.OutcomeFrame(index, 1, Status.OK, 0.1, 42, b"", sizes)
        bench.tracker.outcomes(east, JOB, [frame], ())
        bench.tracker.decide(lambda job, outcome: True)
    bench.tracker.hand_over(alice, acknowledged(1, 2))
    bench.tracker.handle(alice, m.Release([piece(1)], True), ())
    assert sent_messages(east) == [m.Release([piece(1)], clean=True)]
    bench.tracker.left(east)
    bench.tracker.abandon(east, due=0.0)
    assert not bench.reader.opened and not bench.tracker._references


# ---------------------------------------------------------------------------------------------- what travels to slaves


def test_what_travels_to_a_slave_is_counted_and_announced_until_it_is_gone() -> None:
    bench = Bench()
    alice, east, west = bench.client(), bench.slave(EAST, shares=False), bench.slave(WEST)
    bench.tracker.handle(alice, segment(), ())
    for account in (east, west, east):
        account.announced.outgoing((piece(1),), (), once=True)
    name = object_id(SEGMENT, SIZE, 1)
    assert bench.events == [e.ObjectsHeld(EAST, [name])]
    assert (east.fetched_bytes, west.fetched_bytes) == (SIZE, 0)
    bench.tracker.handle(alice, m.DropSegments([SEGMENT]), ())
    assert bench.events[1:] == [e.ObjectsDropped(EAST, [name])]
    assert bench.touched == [EAST, WEST]


# --------------------------------------------------------------------------------------------------- states of results


@pytest.mark.parametrize("state", ResultState)
@pytest.mark.parametrize("verb", sorted({verb for _, verb in TRANSITIONS}))
def test_a_result_changes_its_state_as_the_table_allows_and_in_no_other_way(state: ResultState, verb: str) -> None:
    result = ResultSlice(piece(1), EAST, state)
    target = TRANSITIONS.get((state, verb))
    if target is None:
        with pytest.raises(RuntimeError, match=f"cannot {verb} .* which is {state.name}"):
            result.move(verb)
        assert result.state == state
    else:
        result.move(verb)
        assert result.state == target


def test_every_result_is_released_in_the_end_and_never_left() -> None:
    assert {state for state in ResultState if (state, "release") in TRANSITIONS} == set(ResultState) - {RELEASED}
    assert not any(state == RELEASED for state, _ in TRANSITIONS)


# ---------------------------------------------------------------------------------------- results that other tasks need


class GraphBench(Bench):
    """A tracker whose master has tasks that need results, or keeps results, by index."""

    def __init__(self) -> None:
        super().__init__()
        self.needed: set[int] = set()
        self.kept: set[int] = set()
        self.tracker = SharedMemoryTracker(
            self.reader,
            None,
            touched=self.touched.append,
            on_event=self.events.append,
            closed=self.closed.append,
            is_needed=lambda job, index: index in self.needed,
            is_kept=lambda job, index: index in self.kept,
        )
        self.alice, self.east = self.client(), self.slave(EAST)
        self.outcome(self.east, piece(1))
        sent_messages(self.east)

    def unpin_before_its_owner_releases(self, *, clean: bool) -> None:
        """Release the result of the first task as its owner, after no task needs it any more: only then it is free."""
        self.tracker.unpin(JOB, 1, clean=clean)
        assert self.releases() == []
        self.tracker.handle(self.alice, m.Release([piece(1)], True), ())
        assert self.releases() == [m.Release([piece(1)], clean)]

    def releases(self) -> list[m.AnyMessage]:
        return [message for message in sent_messages(self.east) if isinstance(message, m.Release)]


@pytest.mark.parametrize("clean", [True, False])
def test_a_result_that_tasks_need_is_released_when_they_and_its_owner_are_done_with_it(clean: bool) -> None:
    bench = GraphBench()
    bench.needed = {1}
    bench.tracker.hand_over(bench.alice, acknowledged(1))
    bench.tracker.handle(bench.alice, m.Release([piece(1)], True), ())
    assert bench.releases() == []
    bench.tracker.unpin(JOB, 1, clean=clean)
    assert bench.releases() == [m.Release([piece(1)], clean)]
    # And the other way round
    bench = GraphBench()
    bench.needed = {1}
    bench.tracker.hand_over(bench.alice, acknowledged(1))
    bench.unpin_before_its_owner_releases(clean=clean)


def test_a_result_that_its_owner_has_copied_stays_for_tasks_that_need_it() -> None:
    bench = GraphBench()
    bench.alice.announced.share(False)
    bench.needed = {1}
    bench.tracker.hand_over(bench.alice, acknowledged(1))
    assert bench.releases() == []
    bench.tracker.unpin(JOB, 1, clean=True)
    assert bench.releases() == [m.Release([piece(1)], True)]


def test_the_owner_of_a_kept_result_holds_it_only_once_it_has_fetched_it() -> None:
    bench = GraphBench()
    bench.needed = bench.kept = {1}
    bench.tracker.hand_over(bench.alice, acknowledged(1))  # of a receipt
    assert not bench.alice.held_results
    bench.tracker.shown(JOB, 1)
    bench.tracker.hand_over(bench.alice, acknowledged(1))
    assert piece(1) in bench.alice.held_results
    bench.unpin_before_its_owner_releases(clean=True)


@pytest.mark.parametrize("clean", [True, False])
def test_a_kept_result_that_was_fetched_again_is_its_owners_until_it_is_released_again(clean: bool) -> None:
    bench = GraphBench()
    bench.needed = bench.kept = {1}
    bench.tracker.hand_over(bench.alice, acknowledged(1))
    for _ in range(2):
        bench.tracker.handle(bench.alice, m.Release([piece(1)], clean), ())  # of the first one
        bench.tracker.shown(JOB, 1)
        bench.tracker.hand_over(bench.alice, acknowledged(1))
    bench.tracker.unpin(JOB, 1, clean=True)
    assert bench.releases() == []
    bench.tracker.handle(bench.alice, m.Release([piece(1)], True), ())
    assert bench.releases() == [m.Release([piece(1)], clean)]


def test_a_kept_result_that_is_freed_on_its_way_to_its_owner_is_not_used_again() -> None:
    bench = GraphBench()
    bench.needed = bench.kept = {1}
    bench.tracker.hand_over(bench.alice, acknowledged(1))
    bench.tracker.shown(JOB, 1)
    bench.tracker.unpin(JOB, 1, clean=True)
    assert bench.releases() == [m.Release([piece(1)], False)]


def test_a_kept_result_that_nobody_fetched_is_released_when_it_is_freed() -> None:
    bench = GraphBench()
    bench.needed = bench.kept = {1}
    bench.tracker.hand_over(bench.alice, acknowledged(1))
    bench.tracker.unpin(JOB, 1, clean=True)
    assert bench.releases() == [m.Release([piece(1)], True)]


def test_an_owner_that_is_gone_leaves_results_to_the_tasks_that_need_them() -> None:
    bench = GraphBench()
    bench.needed = {1}
    bench.tracker.hand_over(bench.alice, acknowledged(1))
    bench.tracker.left(bench.alice)
    bench.tracker.abandon(bench.alice, 0.0)
    assert bench.releases() == []
    bench.tracker.unpin(JOB, 1, clean=True)
    assert bench.releases() == [m.Release([piece(1)], False)]
