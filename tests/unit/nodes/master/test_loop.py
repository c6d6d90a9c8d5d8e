"""Turns of a master: which envelopes are taken, refused and sent. Core: the real one; gate and time: the test's."""

from collections.abc import Sequence
from math import inf

import pytest

from concurrent_nb.ids import SessionId
from concurrent_nb.journal.journal_store import JournalStore
from concurrent_nb.nodes.master.core import MasterCore
from concurrent_nb.nodes.master.loop import SESSION_OVER, MasterLoop
from concurrent_nb.scheduling.liveness import Liveness
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, decode
from concurrent_nb.wire.session import Session
from tests.journal_in_memory import JournalInMemory

EPOCH = 7
ALICE = SessionId(b"alice's session.")
KEY = b"alice's key"


class Connection:
    """A node's connection."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.answered_at = -inf


class Gate:
    """The master's gate, whose connections the test has."""

    def __init__(self) -> None:
        self.arrived: list[tuple[Connection, bytes, Sequence[Buffer]]] = []
        self.bound: dict[bytes, Connection] = {}
        self.sent: list[tuple[Connection, Sequence[Buffer]]] = []
        self.left: list[bytes] = []

    def receive(self) -> list[tuple[Connection, bytes, Sequence[Buffer]]]:
        arrived, self.arrived = self.arrived, []
        return arrived

    def bind(self, session: bytes, connection: Connection) -> None:
        self.bound[session] = connection

    def answer(self, connection: Connection, frames: Sequence[Buffer]) -> bool:
        self.sent.append((connection, frames))
        return True

    def send(self, session: bytes, frames: Sequence[Buffer]) -> bool:
        connection = self.bound.get(session)
        return connection is not None and self.answer(connection, frames)

    def take_left(self, has_news: bool) -> list[bytes]:
        left = self.left if has_news else []
        self.left = []
        return left


class Bench:
    """A master with one client, Alice."""

    def __init__(self, journal: JournalStore | None = None) -> None:
        self.gate = Gate()
        self.core = MasterCore(EPOCH, Scheduler(PullRoundRobinStrategy()), Liveness(), journal=journal)
        self.core.recover(0.0, 0.0)
        self.loop: MasterLoop[Connection] = MasterLoop(self.core, self.gate, 1.0, journal)
        self.alice = Session(EPOCH, "to_client")
        self.connection = Connection(KEY)
        self.loop.questions.append(lambda now: self.core.add_client(ALICE, KEY, "alice", now))
        self.loop.answer(0.0)

    def hear(self, connection: Connection | None = None, session: bytes = ALICE) -> None:
        self.gate.arrived.append((connection or self.connection, session, self.alice.heartbeat()))

    def sent(self) -> list[tuple[Connection, list[m.AnyMessage]]]:
        sent, self.gate.sent = self.gate.sent, []
        return [(link, [item.message for item in decode(frames, "to_client")[1]]) for link, frames in sent]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_questions_are_answered_in_order_with_the_time(bench: Bench) -> None:
    answered: list[tuple[int, float]] = []
    bench.loop.questions.extend([lambda now: answered.append((1, now)), lambda now: answered.append((2, now))])
    bench.loop.answer(3.0)
    assert answered == [(1, 3.0), (2, 3.0)]
    assert not bench.loop.questions


def test_a_session_is_bound_to_the_connection_that_names_it_with_its_key(bench: Bench) -> None:
    bench.hear()
    bench.loop.turn(False, 0.0)
    assert bench.gate.bound == {ALICE: bench.connection}
    assert bench.core.peers[ALICE].joined


def test_an_envelope_with_another_key_is_dropped_without_an_answer(bench: Bench) -> None:
    bench.hear(Connection(b"mallory's key"))
    bench.loop.turn(False, 0.0)
    assert not bench.gate.bound
    assert not bench.core.peers[ALICE].joined
    assert not bench.sent()


def test_a_node_without_a_session_hears_so_once_an_interval(bench: Bench) -> None:
    stranger = Connection(b"bob's key")
    for now in (0.0, 0.5, 0.9):
        bench.hear(stranger, b"bob's session...")
        bench.loop.turn(False, now)
    assert bench.sent() == [(stranger, [m.Bye(SESSION_OVER)])]
    bench.hear(stranger, b"bob's session...")
    bench.loop.turn(False, 1.0)
    assert bench.sent() == [(stranger, [m.Bye(SESSION_OVER)])]


def test_a_session_whose_connection_has_ended_is_unreachable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable: list[SessionId] = []
    monkeypatch.setattr(bench.core, "unreachable", lambda session, now: unreachable.append(session))
    bench.gate.left = [ALICE]
    bench.loop.turn(True, 0.0)
    assert unreachable == [ALICE]


def test_a_session_to_which_nothing_can_be_sent_is_unreachable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable: list[SessionId] = []
    monkeypatch.setattr(bench.core, "unreachable", lambda session, now: unreachable.append(session))
    bench.hear()
    bench.loop.turn(False, 0.0)
    bench.gate.bound.clear()
    bench.loop.turn(False, 5.0)
    assert unreachable == [ALICE]


def test_all_sessions_hear_of_a_stop(bench: Bench) -> None:
    bench.hear()
    bench.loop.turn(False, 0.0)
    bench.gate.sent.clear()
    bench.loop.stop()
    assert bench.sent() == [(bench.connection, [m.Bye(m.CLUSTER_STOPPED)])]


def test_nothing_leaves_before_it_is_committed() -> None:
    journal = JournalInMemory(slow=True)
    bench = Bench(journal)
    bench.alice.send(m.OpenJob(b"j" * 16, "job", False, False))
    bench.gate.arrived += [(bench.connection, ALICE, frames) for frames in bench.alice.flush(0.0)]
    bench.loop.turn(False, 0.0)
    bench.loop.turn(False, 0.03)  # its acknowledgement is due
    assert journal.appended == 1 and not journal.committed
    assert not bench.sent()
    journal.commit()
    bench.loop.turn(False, 0.04)
    ((connection, messages),) = bench.sent()
    assert connection is bench.connection and messages == []
    bench.loop.turn(False, 1.1)  # a heartbeat, for which nothing has to be committed
    assert len(bench.sent()) == 1
