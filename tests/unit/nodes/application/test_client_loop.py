"""Turns of an application: what it does with its sessions. The core is the real one, link and time are the test's."""

from collections.abc import Iterable

import pytest

from concurrent_nb.errors import LimitExceeded, MasterLost, ProtocolError
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.client_loop import (
    MASTER_LOST_AFTER_S,
    PATIENCE_S,
    SESSIONS_IN_VAIN,
    ClientLoop,
    GiveUpReason,
)
from concurrent_nb.nodes.application.client_tasks import ClientJob, FunctionPayload, News, Payload, TaskEntry
from concurrent_nb.nodes.application.core import ClientCore
from concurrent_nb.nodes.common.session_loop import Verdict
from concurrent_nb.outcome import Status
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Received, decode
from concurrent_nb.wire.session import Session
from tests.unit.nodes.held_link import Link

EPOCH = 7
SILENCE_S = 3.0
FUNCTION = FunctionPayload(b"f" * 32, Payload(b"function"))


class Bench:
    """An application in a session, and the master's end of it."""

    def __init__(self) -> None:
        self.news: list[News[str]] = []
        self.core = ClientCore[str](interval_s=1.0)
        self.loop = ClientLoop(self.core, self.take_news, "test")
        self.record = ClientJob[str](JobId(b"the job's id...."))
        self.rejoin(0.0)

    def take_news(self, envelope: Iterable[News[str]]) -> None:
        self.news += envelope

    def rejoin(self, now: float) -> list[TaskEntry[str]]:
        self.link = Link()
        self.master = Session(EPOCH, "from_client")
        return self.loop.attach(self.link, EPOCH, SILENCE_S, now)

    def turn(self, now: float, *, cut: bool = False) -> Verdict:
        self.loop.receive(now)
        return self.loop.send(cut, now)

    def submit(self, *indexes: int) -> None:
        for index in indexes:
            self.core.add([TaskEntry(self.record, index, FUNCTION, Payload(b"arguments"), f"task {index}")])

    def master_says(self, *messages: m.ToClient) -> None:
        for message in messages:
            self.master.send(message)
        self.link.arrived += self.master.flush(0.0) or [self.master.heartbeat()]

    def sent(self) -> list[Received]:
        sent, self.link.sent = self.link.sent, []
        return [item for frames in sent for item in decode(frames, "from_client")[1]]

    def answer(self, index: int) -> None:
        frame = m.OutcomeFrame(index, 1, Status.OK, 0.01, 1, b"value", ())
        self.master_says(m.Outcomes(self.record.id, "east", [frame]))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def submitted(bench: Bench) -> list[int]:
    return [task.index for item in bench.sent() if type(item.message) is m.Submit for task in item.message.tasks]


def test_a_turn_sends_tasks_and_hands_on_news(bench: Bench) -> None:
    bench.submit(0, 1)
    assert bench.turn(0.0) is Verdict.STAY
    assert submitted(bench) == [0, 1]
    bench.answer(1)
    assert bench.turn(0.1) is Verdict.STAY
    assert [type(news).__name__ for news in bench.news] == ["TaskEnded"]
    assert [entry.index for entry in bench.core.entries()] == [0]


def test_a_silent_master_is_asked_and_confirms(bench: Bench) -> None:
    assert bench.turn(SILENCE_S) is Verdict.STAY
    assert bench.turn(SILENCE_S + 0.1) is Verdict.ASK
    assert bench.loop.next_attempt(3.2) is Verdict.ASK
    bench.loop.confirmed(3.3)
    assert bench.turn(3.3 + SILENCE_S) is Verdict.STAY
    bench.master_says()
    assert bench.turn(6.4) is Verdict.STAY
    assert bench.turn(6.4 + SILENCE_S) is Verdict.STAY
    assert bench.turn(6.5 + SILENCE_S) is Verdict.ASK


def test_the_master_is_asked_when_the_connection_was_cut(bench: Bench) -> None:
    assert bench.turn(0.1, cut=True) is Verdict.ASK


def test_what_has_no_answer_goes_to_the_next_session(bench: Bench) -> None:
    bench.submit(0, 1, 2)
    bench.turn(0.0)
    bench.answer(1)
    bench.core.cancel(bench.record.id, [2])
    bench.link.arrived.append(bench.master.bye("the network was cut"))
    assert bench.turn(0.1) is Verdict.REJOIN
    assert bench.loop.next_attempt(0.2) is Verdict.REJOIN
    bench.loop.attempt_failed("nobody listens")
    assert bench.loop.next_attempt(0.4) is Verdict.REJOIN
    assert [entry.index for entry in bench.rejoin(0.5)] == [2]
    assert bench.turn(0.5) is Verdict.STAY
    assert submitted(bench) == [0]


def test_after_a_failed_attempt_the_session_is_not_asked_for_again(bench: Bench) -> None:
    assert bench.turn(0.1, cut=True) is Verdict.ASK
    assert bench.loop.next_attempt(0.1) is Verdict.ASK
    bench.loop.attempt_failed("MasterUnreachable: connection refused")
    assert bench.loop.next_attempt(0.4) is Verdict.REJOIN


def test_a_master_that_does_not_come_back_in_time_is_given_up(bench: Bench) -> None:
    bench.turn(0.1, cut=True)
    assert bench.loop.next_attempt(1.0) is Verdict.ASK  # a slow turn is no part of the search
    bench.loop.attempt_failed("MasterUnreachable: connection refused")
    assert bench.loop.next_attempt(0.9 + MASTER_LOST_AFTER_S) is Verdict.REJOIN
    assert bench.loop.next_attempt(1.0 + MASTER_LOST_AFTER_S) is Verdict.END
    why = "the master of cluster 'test' is gone, and none came back within 5 s (MasterUnreachable: connection refused)"
    assert bench.loop.gave_up == GiveUpReason(why, MasterLost, is_stopped=False)


def test_a_process_that_stood_still_has_more_patience_until_it_hears_the_master(bench: Bench) -> None:
    bench.loop.stood_still(0.0)
    bench.turn(0.1, cut=True)
    bench.loop.next_attempt(0.1)
    assert bench.loop.next_attempt(PATIENCE_S) is Verdict.ASK
    bench.loop.stood_still(PATIENCE_S)  # during the search, too
    assert bench.loop.next_attempt(2 * PATIENCE_S - 0.1) is Verdict.ASK
    bench.loop.confirmed(2 * PATIENCE_S)
    bench.master_says()
    assert bench.turn(2 * PATIENCE_S + 0.1, cut=True) is Verdict.ASK
    bench.loop.next_attempt(200.0)
    assert bench.loop.next_attempt(200.0 + MASTER_LOST_AFTER_S) is Verdict.END


def test_a_stopped_cluster_is_not_looked_for(bench: Bench) -> None:
    bench.link.arrived.append(bench.master.bye(m.CLUSTER_STOPPED))
    assert bench.turn(0.1) is Verdict.END
    assert bench.loop.gave_up == GiveUpReason("cluster 'test' has been stopped", MasterLost, is_stopped=True)


def test_an_application_over_a_limit_does_not_register_again(bench: Bench) -> None:
    bench.link.arrived.append(bench.master.bye(f"{m.OVER_LIMIT}too many tasks"))
    assert bench.turn(0.1) is Verdict.END
    assert bench.loop.gave_up is not None
    assert bench.loop.gave_up.error is LimitExceeded
    assert "too many tasks" in bench.loop.gave_up.why


def test_what_cannot_be_read_ends_the_session_with_its_error(bench: Bench) -> None:
    bench.link.arrived.append([b"no envelope"])
    assert bench.turn(0.1) is Verdict.REJOIN
    assert type(bench.loop.error) is ProtocolError
    bench.rejoin(0.2)
    assert bench.turn(0.2) is Verdict.STAY


def test_news_that_cannot_be_taken_end_the_session(bench: Bench) -> None:
    def fail(envelope: Iterable[News[str]]) -> None:
        raise ValueError("cannot be taken")

    bench.loop._take_news = fail
    bench.master_says()
    assert bench.turn(0.1) is Verdict.REJOIN
    assert isinstance(bench.loop.error, ValueError)


def test_sessions_that_end_in_vain_are_counted(bench: Bench) -> None:
    for number in range(1, SESSIONS_IN_VAIN):
        bench.link.arrived.append(bench.master.bye("protocol error"))
        assert bench.turn(number) is Verdict.REJOIN
        bench.rejoin(number)
    assert bench.loop.sessions_in_vain == SESSIONS_IN_VAIN - 1
    bench.link.arrived.append(bench.master.bye("protocol error"))
    assert bench.turn(10.0) is Verdict.END
    assert bench.loop.gave_up is not None
    assert bench.loop.gave_up.why == (
        "no session with the master of cluster 'test' lasts (the master has ended it: protocol error)"
    )


def test_the_last_envelope_acknowledges_what_has_come(bench: Bench) -> None:
    bench.submit(0)
    bench.turn(0.0)
    bench.answer(0)
    bench.loop.receive(0.1)
    bench.link.sent.clear()
    bench.loop.acknowledge()
    (frames,) = bench.link.sent
    assert bench.master.in_flight == 1
    bench.master.receive(frames, 0.1)
    assert bench.master.in_flight == 0
