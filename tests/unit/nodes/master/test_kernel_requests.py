"""Requests for a slave's kernel: what the master asks, whom it believes, how each request ends; the slave's side."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from concurrent_nb.errors import ConfigurationError, KernelUnavailable, ProtocolError
from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.common.kernel_access import OPEN_WITHIN_S, access_of, connection_info
from concurrent_nb.nodes.master.core import MasterCore
from concurrent_nb.nodes.slave.core import SlaveCore
from concurrent_nb.nodes.slave.kernel_thread import kernel_ip
from concurrent_nb.scheduling.liveness import Liveness
from concurrent_nb.scheduling.scheduler import Scheduler
from concurrent_nb.scheduling.strategies.pull_round_robin import PullRoundRobinStrategy
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.session import Session
from tests.inline_pool import InlinePool

ALICE, EAST, WEST = SessionId(b"alice's session."), SessionId(b"east's session.."), SessionId(b"west's session..")
KEY = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
ACCESS = m.KernelAccess("10.0.0.6", 1001, 1002, 1003, 1004, 1005, "signs", KEY, KEY)


class Bench:
    """A master with two slaves and a client."""

    def __init__(self) -> None:
        self.core = MasterCore(7, Scheduler(PullRoundRobinStrategy()), Liveness())
        self.core.add_client(ALICE, b"alice", "alice", 0.0)
        for session, name in ((EAST, "east"), (WEST, "west")):
            self.core.add_slave(session, name.encode(), name, 1, 10, 0.0)
        self.ends = {ALICE: Session(7, "to_client"), EAST: Session(7, "to_slave"), WEST: Session(7, "to_slave")}
        self.keys = {ALICE: b"alice", EAST: b"east", WEST: b"west"}
        for session in self.ends:
            self.send(session)

    def send(self, who: SessionId, *sent_messages: m.AnyMessage, now: float = 0.0) -> None:
        end = self.ends[who]
        for message in sent_messages:
            end.send(message)
        for frames in end.flush(now) or [end.heartbeat()]:
            self.core.received(who, self.keys[who], frames, now)

    def sent_to(self, to: SessionId, now: float = 0.0) -> list[m.AnyMessage]:
        received: list[m.AnyMessage] = []
        for session, frames in self.core.step(now):
            messages = [item.message for item in self.ends[session].receive(frames, now)]
            received += messages if session == to else []
        return received

    def settled(self) -> list[tuple[int, Any]]:
        return list(self.core.kernels.take_settled())


# ---------------------------------------------------------------------------------------------------- the master's side


def test_a_slave_is_asked_and_its_answer_settles_the_request() -> None:
    bench = Bench()
    request = bench.core.requests.open_kernel("east", 0.0)
    assert bench.sent_to(WEST) == []
    assert bench.sent_to(EAST) == []  # taken by the first step, which was for both
    bench.send(EAST, m.KernelOpened(request, ACCESS, ""))
    assert bench.settled() == [(request, ACCESS)]


def test_the_question_goes_to_the_slave_of_that_name() -> None:
    bench = Bench()
    request = bench.core.requests.open_kernel("west", 0.0)
    assert bench.sent_to(WEST) == [m.OpenKernel(request)]


def test_what_the_slave_lacks_reaches_the_caller() -> None:
    bench = Bench()
    request = bench.core.requests.open_kernel("east", 0.0)
    bench.send(EAST, m.KernelOpened(request, None, "pip install ipykernel"))
    ((number, error),) = bench.settled()
    assert number == request
    assert isinstance(error, KernelUnavailable)
    assert "slave 'east' has opened no kernel: pip install ipykernel" in str(error)


def test_an_unknown_slave_is_refused_and_the_slaves_are_listed() -> None:
    bench = Bench()
    with pytest.raises(ConfigurationError, match=r"no slave 'north'; the slaves are: east, west"):
        bench.core.requests.open_kernel("north", 0.0)
    bench.core.remove(EAST, "gone", 0.0)
    bench.core.remove(WEST, "gone", 0.0)
    with pytest.raises(ConfigurationError, match="the slaves are: none"):
        bench.core.requests.open_kernel("north", 0.0)


def test_an_answer_that_was_not_asked_for_ends_the_session() -> None:
    bench = Bench()
    bench.send(EAST, m.KernelOpened(1, ACCESS, ""))
    assert EAST not in bench.core.peers
    assert bench.settled() == []


def test_a_slave_cannot_answer_for_another_one() -> None:
    bench = Bench()
    request = bench.core.requests.open_kernel("east", 0.0)
    bench.send(WEST, m.KernelOpened(request, ACCESS, ""))
    assert WEST not in bench.core.peers
    assert bench.settled() == []
    bench.send(EAST, m.KernelOpened(request, ACCESS, ""))
    assert bench.settled() == [(request, ACCESS)]


def test_a_second_answer_to_the_same_request_ends_the_session() -> None:
    bench = Bench()
    request = bench.core.requests.open_kernel("east", 0.0)
    bench.send(EAST, m.KernelOpened(request, ACCESS, ""))
    bench.send(EAST, m.KernelOpened(request, ACCESS, ""))
    assert EAST not in bench.core.peers
    assert len(bench.settled()) == 1


@pytest.mark.parametrize("message", [m.OpenKernel(1), m.KernelOpened(1, ACCESS, "")])
def test_an_application_may_send_neither(message: m.AnyMessage) -> None:
    bench = Bench()
    bench.send(ALICE, message)
    assert ALICE not in bench.core.peers


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ip": "evil.example"}, "no IP address"),
        ({"ip": "127.0.0.1\n"}, "no IP address"),
        ({"curve_publickey": "", "curve_secretkey": ""}, "needs a pair of CURVE keys"),
        ({"curve_secretkey": ""}, "needs a pair of CURVE keys"),
        ({"ip": "127.0.0.1", "curve_secretkey": ""}, "needs a pair of CURVE keys"),
        ({"key": ""}, "without a key"),
    ],
)
def test_a_way_in_that_is_not_safe_is_not_handed_on(change: dict[str, Any], why: str) -> None:
    bench = Bench()
    request = bench.core.requests.open_kernel("east", 0.0)
    bench.sent_to(EAST)
    bench.send(EAST, m.KernelOpened(request, msgspec.structs.replace(ACCESS, **change), ""))
    assert EAST not in bench.core.peers
    ((_, error),) = bench.settled()  # the asker need not wait
    assert isinstance(error, KernelUnavailable)
    assert why in str(error)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none_does_not_decode(port: int) -> None:
    bench = Bench()
    request = bench.core.requests.open_kernel("east", 0.0)
    bench.send(EAST, m.KernelOpened(request, msgspec.structs.replace(ACCESS, shell_port=port), ""))
    assert EAST not in bench.core.peers


def test_a_kernel_without_encryption_may_listen_on_loopback() -> None:
    bench = Bench()
    access = msgspec.structs.replace(ACCESS, ip="127.0.0.1", curve_publickey="", curve_secretkey="")
    request = bench.core.requests.open_kernel("east", 0.0)
    bench.send(EAST, m.KernelOpened(request, access, ""))
    assert bench.settled() == [(request, access)]


def test_a_slave_that_is_lost_settles_what_it_was_asked() -> None:
    bench = Bench()
    first, second = bench.core.requests.open_kernel("east", 0.0), bench.core.requests.open_kernel("west", 0.0)
    bench.core.remove(EAST, "it was silent for too long", 0.0)
    ((request, error),) = bench.settled()
    assert request == first
    assert "slave 'east' was lost before it opened its kernel" in str(error)
    bench.send(WEST, m.KernelOpened(second, ACCESS, ""))
    assert bench.settled() == [(second, ACCESS)]


def test_waiting_has_an_end_and_what_comes_later_is_dropped() -> None:
    bench = Bench()
    request = bench.core.requests.open_kernel("east", 0.0)
    bench.core.next_deadline(0.0)
    for now in range(1, int(OPEN_WITHIN_S) + 1):
        assert bench.settled() == []
        for session in bench.ends:
            bench.send(session, now=float(now))
        assert bench.core.next_deadline(float(now) - 0.5) <= OPEN_WITHIN_S
        bench.core.step(float(now))
    ((number, error),) = bench.settled()
    assert number == request
    assert "within 15 s" in str(error)
    bench.send(EAST, m.KernelOpened(request, ACCESS, ""), now=16.0)
    assert bench.settled() == []
    assert EAST in bench.core.peers
    bench.send(EAST, m.KernelOpened(request, ACCESS, ""), now=16.0)  # late once is late; twice is a lie
    assert EAST not in bench.core.peers


def test_a_long_error_of_a_slave_is_cut() -> None:
    bench = Bench()
    request = bench.core.requests.open_kernel("east", 0.0)
    bench.send(EAST, m.KernelOpened(request, None, "x" * 60_000))
    ((_, error),) = bench.settled()
    assert len(str(error)) < 2100


# ----------------------------------------------------------------------------------------------------- the slave's side


def asked_slave(*requests: int) -> tuple[SlaveCore, Session]:
    core = SlaveCore("east", 7, InlinePool(), 1.0)
    master = Session(7, "from_slave")
    for request in requests:
        master.send(m.OpenKernel(request))
    for frames in master.flush(0.0):
        core.received(frames, 0.0)
    return core, master


def sent_messages(core: SlaveCore, master: Session) -> Sequence[m.AnyMessage]:
    return [item.message for frames in core.step(0.0) for item in master.receive(frames, 0.0)]


def test_everybody_who_asked_gets_the_answer_and_gets_it_once() -> None:
    core, master = asked_slave(4, 5)
    assert sent_messages(core, master) == []
    core.kernel_opened(ACCESS)
    assert sent_messages(core, master) == [m.KernelOpened(4, ACCESS, ""), m.KernelOpened(5, ACCESS, "")]
    core.kernel_opened(ACCESS)
    assert sent_messages(core, master) == []


def test_a_slave_that_cannot_reports_why() -> None:
    core, master = asked_slave(1)
    core.kernel_opened(None, "no module named ipykernel")
    assert sent_messages(core, master) == [m.KernelOpened(1, None, "no module named ipykernel")]


# ----------------------------------------------------------------------------------------------------------- the way in


def test_a_way_in_survives_the_control_channel() -> None:
    assert access_of(connection_info(ACCESS)) == ACCESS
    plain = msgspec.structs.replace(ACCESS, ip="127.0.0.1", curve_publickey="", curve_secretkey="")
    assert "curve_publickey" not in connection_info(plain)
    assert access_of(connection_info(plain)) == plain


@pytest.mark.parametrize("answer", [None, [], {}, {**connection_info(ACCESS), "shell_port": "1"}])
def test_an_answer_that_is_no_way_in_is_a_protocol_error(answer: Any) -> None:
    with pytest.raises(ProtocolError, match="no access to a kernel"):
        access_of(answer)


def test_keys_are_in_no_repr() -> None:
    shown = f"{ACCESS!r} {m.KernelOpened(1, ACCESS, '')!r}"
    assert KEY not in shown
    assert "signs" not in shown


def test_the_kernel_listens_where_the_master_is_reached_from() -> None:
    assert kernel_ip("127.0.0.1") == kernel_ip("127.0.0.9") == kernel_ip("::1") == "127.0.0.1"
    with pytest.raises(KernelUnavailable, match="IPv4"):
        kernel_ip("fd00::1")
