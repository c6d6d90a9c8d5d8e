"""Turns of a slave: what it does with its session. The core is the real one, link, workers and time are the test's."""

import logging
from collections.abc import Mapping

import pytest

from concurrent_nb.errors import ProtocolError
from concurrent_nb.nodes.common.session_loop import Verdict
from concurrent_nb.nodes.slave.core import SlaveCore
from concurrent_nb.nodes.slave.loop import CREDIT_MAX, SlaveLoop, credit_of
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import decode
from concurrent_nb.wire.session import Session
from concurrent_nb.workers.slave_side.attempts import PoolReports
from tests.inline_pool import InlinePool
from tests.unit.nodes.held_link import Link

EPOCH = 7
SILENCE_S = 3.0
START_S = 100.0


class Workers(InlinePool):
    """Workers whose state the test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.usable_slots = 2
        self.unfinished = 0
        self.deadline: float | None = None
        self.drained_at: list[float] = []
        self.turns: list[tuple[Mapping[int, int], float]] = []
        self.why_degraded = ""

    def drain(self, now: float) -> None:
        self.drained_at.append(now)

    def next_deadline(self) -> float | None:
        return self.deadline

    def turn(self, ready: Mapping[int, int], now: float) -> None:
        self.turns.append((ready, now))

    def take_reports(self) -> PoolReports:
        reports = super().take_reports()
        reports.degraded = self.why_degraded
        return reports


class Bench:
    """A slave in a session, and the master's end of it."""

    def __init__(self) -> None:
        self.link = Link()
        self.workers = Workers()
        self.core = SlaveCore("east", EPOCH, self.workers, interval_s=1.0)
        self.master = Session(EPOCH, "from_slave")
        self.loop = SlaveLoop(
            self.core, self.workers, self.workers.turn, self.link, SILENCE_S, credit_per_slot=8, slots=2, now=START_S
        )

    def turn(self, after_s: float, *, cut: bool = False) -> Verdict:
        return self.loop.turn({5: 1}, cut, START_S + after_s)

    def master_sends(self, *messages: m.ToSlave) -> None:
        for message in messages:
            self.master.send(message)
        self.link.arrived += self.master.flush(START_S) or [self.master.heartbeat()]

    def taken_by_master(self) -> list[object]:
        """Return the messages that the slave has sent since the last call; the master has them now."""
        sent, self.link.sent = self.link.sent, []
        for frames in sent:
            self.master.receive(frames, START_S)
        return [item.message for frames in sent for item in decode(frames, "from_slave")[1]]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_turn_hands_events_to_the_workers_and_sends_what_is_due(bench: Bench) -> None:
    assert bench.turn(0.0) is Verdict.STAY
    assert bench.workers.turns == [({5: 1}, START_S)]
    assert len(bench.link.sent) == 1  # a sign of life


def test_the_earlier_deadline_counts(bench: Bench) -> None:
    bench.turn(0.0)
    assert bench.loop.next_deadline() == START_S + 1.0
    bench.workers.deadline = START_S + 0.3
    assert bench.loop.next_deadline() == START_S + 0.3
    bench.workers.deadline = START_S + 3.0
    assert bench.loop.next_deadline() == START_S + 1.0


def test_a_silent_master_is_asked(bench: Bench) -> None:
    assert bench.turn(SILENCE_S) is Verdict.STAY
    assert bench.turn(SILENCE_S + 0.1) is Verdict.ASK
    bench.loop.confirmed(START_S + SILENCE_S + 0.2)
    assert bench.turn(2 * SILENCE_S) is Verdict.STAY
    bench.master_sends()
    assert bench.turn(2 * SILENCE_S + 0.1) is Verdict.STAY
    assert bench.turn(3 * SILENCE_S) is Verdict.STAY
    assert bench.turn(3 * SILENCE_S + 0.2) is Verdict.ASK


def test_the_master_is_asked_when_the_connection_was_cut(bench: Bench) -> None:
    assert bench.turn(0.1, cut=True) is Verdict.ASK
    assert bench.turn(0.2) is Verdict.STAY


@pytest.mark.parametrize(("reason", "verdict"), [(m.CLUSTER_STOPPED, Verdict.END), ("lost", Verdict.REJOIN)])
def test_the_end_of_a_session_depends_on_its_reason(bench: Bench, reason: str, verdict: Verdict) -> None:
    bench.link.arrived.append(bench.master.bye(reason))
    assert bench.turn(0.1) is verdict
    assert not bench.workers.turns
    assert not bench.link.sent


def test_what_breaks_the_protocol_is_raised(bench: Bench) -> None:
    bench.link.arrived.append([b"no envelope"])
    with pytest.raises(ProtocolError):
        bench.turn(0.1)


def test_the_master_learns_how_many_slots_there_are(bench: Bench) -> None:
    bench.turn(0.0)
    bench.taken_by_master()
    bench.workers.usable_slots = 3
    bench.turn(0.1)
    assert bench.taken_by_master() == [m.Capacity(3, 24)]
    bench.turn(0.2)
    assert not bench.taken_by_master()


def test_credit_has_a_limit() -> None:
    assert credit_of(4, 512) == 2048
    assert credit_of(1000, 5000) == CREDIT_MAX


def test_a_drained_slave_leaves_when_nothing_runs_and_the_master_has_all(bench: Bench) -> None:
    bench.workers.unfinished = 1
    bench.loop.drain(START_S)
    assert bench.workers.drained_at == [START_S]
    assert bench.turn(0.1) is Verdict.STAY
    assert bench.taken_by_master() == [m.Capacity(0, 0)]
    bench.workers.usable_slots = 3  # a task waits for others: that changes nothing any more
    assert bench.turn(0.2) is Verdict.STAY
    bench.workers.unfinished = 0
    assert bench.turn(0.3) is Verdict.STAY  # the master has not acknowledged anything
    bench.master_sends()
    assert bench.turn(0.4) is Verdict.LEAVE


def test_a_slave_drains_when_the_master_asks_for_it(bench: Bench) -> None:
    bench.workers.unfinished = 1
    bench.master_sends(m.Drain())
    assert bench.turn(0.1) is Verdict.STAY
    assert bench.loop.is_draining
    assert bench.workers.drained_at == [START_S + 0.1]
    bench.master_sends(m.Drain())  # it is asked once more
    assert bench.turn(0.2) is Verdict.STAY
    assert bench.workers.drained_at == [START_S + 0.1]
    assert bench.taken_by_master() == [m.Capacity(0, 0)]
    bench.workers.unfinished = 0
    bench.master_sends()
    assert bench.turn(0.3) is Verdict.LEAVE


def test_the_master_sets_the_level_of_logs(bench: Bench) -> None:
    logger = logging.getLogger("concurrent_nb")
    before = logger.level
    try:
        bench.master_sends(m.SetLogLevel("DEBUG"))
        bench.turn(0.1)
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(before)


def test_a_slave_that_cannot_keep_workers_alive_leaves(bench: Bench) -> None:
    bench.workers.why_degraded = "they die of SIGSEGV"
    assert bench.turn(0.1, cut=True) is Verdict.LEAVE
    assert bench.core.degraded == "they die of SIGSEGV"
