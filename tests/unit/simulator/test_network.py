"""The hostile network: what it does to envelopes, and what it does not do to calls."""

import random
from collections.abc import Callable

import pytest

from concurrent_nb.errors import MasterUnreachable
from tests.simulator.network import Frames, Network, NetworkConditions, SimulatedCall, SimulatedGate, SimulatedLink
from tests.simulator.virtual_clock import VirtualClock

SESSION, KEY = b"a session id....", b"a key"


class Cluster:
    """A master that answers calls at once, and one node."""

    def __init__(self, conditions: NetworkConditions | None = None) -> None:
        self.clock = VirtualClock()
        self.network = Network(self.clock, random.Random(1), conditions or NetworkConditions(latency_s=0.1), self)
        self.sent_frames: list[bytes] = []
        self.gate: SimulatedGate = self.network.listen(
            self._nothing, lambda call: call.ask(self.clock.now), same_port=True
        )
        self.host = self.network.host()
        self.link: SimulatedLink = self.network.connect(self.host, SESSION, KEY, self._nothing)

    def sent(self, session: bytes, upwards: bool, frames: Frames) -> None:
        self.sent_frames.append(bytes(frames[0]))

    def after(self, wait_s: float) -> None:
        over: list[bool] = []
        self.clock.after(wait_s, lambda: over.append(True))
        self.clock.run(lambda: bool(over))

    def up(self) -> list[bytes]:
        return [bytes(frames[0]) for _, _, frames in self.gate.receive()]

    def down(self) -> list[bytes]:
        return [bytes(frames[0]) for frames in self.link.receive()]

    def call(self, question: Callable[[float], str]) -> SimulatedCall:
        return self.network.call(self.host, question, self._nothing)

    def _nothing(self) -> None:
        """Do nothing: no actor sleeps here."""


def test_an_envelope_takes_its_time() -> None:
    cluster = Cluster()
    cluster.link.send([b"up"])
    assert cluster.gate.send(SESSION, [b"down"])
    cluster.after(0.09)
    assert (cluster.up(), cluster.down()) == ([], [])
    cluster.after(0.02)
    assert (cluster.up(), cluster.down()) == ([b"up"], [b"down"])
    assert cluster.sent_frames == [b"up", b"down"]


def test_envelopes_are_lost_doubled_and_overtaken() -> None:
    cluster = Cluster(NetworkConditions(jitter_s=0.1, loss=0.2, duplicated=0.2, ordered=False))
    sent = [b"%d" % number for number in range(200)]
    for envelope in sent:
        cluster.link.send([envelope])
    cluster.after(10.0)
    arrived = cluster.up()
    assert 20 < 200 - len(set(arrived)) < 60
    assert 15 < len(arrived) - len(set(arrived)) < 60
    assert arrived != sorted(arrived, key=int)


def test_in_order_means_in_order() -> None:
    cluster = Cluster(NetworkConditions(jitter_s=0.1))
    sent = [b"%d" % number for number in range(50)]
    for envelope in sent:
        cluster.link.send([envelope])
    cluster.after(10.0)
    assert cluster.up() == sent


@pytest.mark.parametrize(("how", "arrives"), [("lose", []), ("stall", [b"one", b"two"])])
def test_a_blocked_path_loses_or_holds(how: str, arrives: list[bytes]) -> None:
    cluster = Cluster()
    cluster.host.up.block(how)
    cluster.link.send([b"one"])
    cluster.link.send([b"two"])
    assert cluster.gate.send(SESSION, [b"the other way"])
    cluster.after(1.0)
    assert (cluster.up(), cluster.down()) == ([], [b"the other way"])
    cluster.host.up.open()
    cluster.after(1.0)
    assert cluster.up() == arrives


def test_a_cut_loses_what_is_underway_and_both_ends_notice() -> None:
    cluster = Cluster()
    cluster.link.send([b"lost"])
    cluster.link.cut()
    # What is sent without a connection leaves with the next one; the master cannot even send.
    cluster.link.send([b"kept"])
    assert not cluster.gate.send(SESSION, [b"refused"])
    assert cluster.gate.take_left() == [SESSION] and cluster.gate.take_left() == []
    assert cluster.link.disturbed() and not cluster.link.disturbed()
    cluster.after(1.0)
    assert cluster.up() == [b"kept"]
    assert cluster.gate.send(SESSION, [b"again"])


def test_what_was_sent_before_a_link_is_closed_arrives_and_the_master_notices() -> None:
    cluster = Cluster()
    cluster.link.send([b"the last"])
    cluster.link.close()
    cluster.after(1.0)
    assert cluster.up() == [b"the last"]
    assert cluster.gate.take_left() == [SESSION]


def test_a_host_that_vanishes_is_not_missed_by_its_transport() -> None:
    cluster = Cluster()
    cluster.link.vanish()
    assert cluster.gate.send(SESSION, [b"into the void"])
    cluster.after(1.0)
    assert cluster.gate.take_left() == []
    assert cluster.down() == []


@pytest.mark.parametrize("same_port", [True, False])
def test_a_link_finds_a_new_master_only_at_its_old_address(same_port: bool) -> None:
    cluster = Cluster()
    cluster.network.hang_up(noticed=True)
    cluster.link.send([b"hello"])
    cluster.gate = cluster.network.listen(cluster._nothing, lambda call: None, same_port=same_port)
    cluster.after(1.0)
    assert cluster.up() == ([b"hello"] if same_port else [])


def test_a_call_arrives_once_however_bad_the_network_is() -> None:
    cluster = Cluster(NetworkConditions(loss=1.0, duplicated=1.0))
    asked: list[float] = []

    def question(now: float) -> str:
        asked.append(now)
        return "answer"

    call = cluster.call(question)
    cluster.after(1.0)
    assert (call.done, call.result(), len(asked)) == (True, "answer", 1)


def test_a_call_waits_on_a_blocked_path() -> None:
    cluster = Cluster()
    cluster.host.down.block("lose")
    call = cluster.call(lambda now: "answer")
    cluster.after(3.0)
    with pytest.raises(MasterUnreachable):
        call.result()
    cluster.host.down.open()
    cluster.after(1.0)
    assert call.result() == "answer"


def test_a_call_is_refused_without_a_listener() -> None:
    cluster = Cluster()
    cluster.network.refuses_calls_until_s = 1.0
    call = cluster.call(lambda now: "answer")
    cluster.after(0.5)
    assert call.done
    with pytest.raises(MasterUnreachable):
        call.result()
