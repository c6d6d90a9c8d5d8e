"""The compute channel over real sockets: which peers are admitted, which not, and that refused ones do no harm."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import zmq

from concurrent_nb.transport import keys, tcp
from concurrent_nb.transport.compute import MAX_FRAME_BYTES, ComputeClient, ComputeServer
from concurrent_nb.transport.connections import KEY_MAX
from concurrent_nb.transport.keys import KeyPair
from concurrent_nb.wire.codec import FRAME_BYTES
from tests.clusters import eventually

SESSION = b"s" + b"0" * 15
PATIENCE_S = 10.0


@dataclass
class Door:
    """A server that a thread polls; it echoes what registered peers send."""

    pair: KeyPair
    admitted: set[bytes]
    gate: ComputeServer
    received: list[tuple[bytes, bytes, list[bytes]]] = field(default_factory=list)
    owners: dict[bytes, bytes] = field(default_factory=dict)  #: by session, the key that named it first
    left: list[bytes] = field(default_factory=list)
    closing: bool = False

    @property
    def port(self) -> int:
        return self.gate.ports["127.0.0.1"]

    def poll(self) -> None:
        poller = zmq.Poller()
        poller.register(self.gate.socket, zmq.POLLIN)
        poller.register(self.gate.zap_socket, zmq.POLLIN)
        while not self.closing:
            poller.poll(20)
            self.gate.answer_zap()
            for connection, session, frames in self.gate.receive():
                if self.owners.setdefault(session, connection.key) != connection.key:
                    continue
                self.received.append((session, connection.key, [bytes(frame) for frame in frames]))
                self.gate.bind(session, connection)
                self.gate.send(session, frames)
            self.left += self.gate.take_left()
            self.gate.look(time.monotonic())
        self.gate.close()

    def link(self, pair: KeyPair, session: bytes = SESSION, server_key: bytes | None = None) -> ComputeClient:
        server_key = server_key or self.pair.public
        return ComputeClient(f"tcp://127.0.0.1:{self.port}", session, server_key, pair.public, pair.secret)


@pytest.fixture
def door() -> Iterator[Door]:
    pair, admitted = keys.fresh(), set[bytes]()
    door = Door(pair, admitted, ComputeServer(["127.0.0.1"], pair.public, pair.secret, admitted.__contains__))
    thread = threading.Thread(target=door.poll)
    thread.start()
    yield door
    door.closing = True
    thread.join()


def answers(link: ComputeClient, wait_s: float) -> list[list[bytes]]:
    """Return what a link receives within `wait_s`; returns with the first messages."""
    link.socket.poll(int(wait_s * 1000))
    return [[bytes(frame) for frame in frames] for frames in link.receive()]


def connected(door: Door) -> tuple[KeyPair, ComputeClient]:
    """Return an admitted peer that has got its first answer, and its keys."""
    pair = keys.fresh()
    door.admitted.add(pair.public)
    link = door.link(pair)
    link.send([b"hello"])
    assert answers(link, PATIENCE_S)
    return pair, link


def assert_good_peer_is_heard(door: Door) -> None:
    pair = keys.fresh()
    door.admitted.add(pair.public)
    link = door.link(pair, b"s" + pair.public[:15])
    link.send([b"hello"])
    assert answers(link, PATIENCE_S) == [[b"hello"]]
    assert door.received[-1][:2] == (b"s" + pair.public[:15], pair.public)
    link.close()


def test_a_registered_key_is_admitted_and_identified(door: Door) -> None:
    assert_good_peer_is_heard(door)


def test_an_unknown_key_is_refused_and_notices_it(door: Door) -> None:
    link = door.link(keys.fresh())
    link.send([b"let me in"])
    assert link.monitor.poll(int(PATIENCE_S * 1000))
    assert link.disturbed()
    assert answers(link, 0.3) == []
    link.close()
    assert door.received == []
    assert_good_peer_is_heard(door)


def test_a_withdrawn_key_cannot_return(door: Door) -> None:
    pair = keys.fresh()
    door.admitted.add(pair.public)
    link = door.link(pair)
    link.send([b"first"])
    assert answers(link, PATIENCE_S) == [[b"first"]]
    link.close()
    door.admitted.discard(pair.public)
    again = door.link(pair)
    again.send([b"second"])
    assert answers(again, 0.5) == []
    again.close()
    assert [frames for _, _, frames in door.received] == [[b"first"]]


def test_a_client_of_another_master_does_not_connect_to_this_one(door: Door) -> None:
    pair = keys.fresh()
    door.admitted.add(pair.public)
    link = door.link(pair, server_key=keys.fresh().public)
    link.send([b"a secret for another master"])
    assert answers(link, 0.5) == []
    link.close()
    assert door.received == []


@pytest.mark.parametrize("mechanism", ["null", "plain"])
def test_other_mechanisms_are_refused(door: Door, mechanism: str) -> None:
    with zmq.Context() as context:
        stranger = context.socket(zmq.DEALER)
        stranger.linger = 0
        if mechanism == "plain":
            stranger.plain_username, stranger.plain_password = b"user", b"password"
        stranger.connect(f"tcp://127.0.0.1:{door.port}")
        stranger.send(b"hello")
        assert not stranger.poll(500)
        stranger.close()
    assert door.received == []
    assert_good_peer_is_heard(door)


def test_without_the_zap_handler_no_connection_is_admitted() -> None:
    """Without a ZAP handler ZeroMQ admits every peer, unless an option forbids it."""
    pair, mine = keys.fresh(), keys.fresh()
    gate = ComputeServer(["127.0.0.1"], pair.public, pair.secret, lambda key: True)
    gate.zap_socket.close(linger=0)
    link = ComputeClient(f"tcp://127.0.0.1:{gate.ports['127.0.0.1']}", SESSION, pair.public, mine.public, mine.secret)
    link.send([b"hello"])
    assert not gate.socket.poll(700)
    link.close()
    gate.close()


GREETING = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00CURVE".ljust(64, b"\x00")


@pytest.mark.parametrize(
    "bytes_sent",
    [
        pytest.param(b"\x00" * 100, id="zeros"),
        pytest.param(bytes(range(256)) * 8, id="garbage"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="http"),
        pytest.param(GREETING + b"\x06" + struct.pack(">Q", 2**62), id="frame of 2^62 bytes"),
        pytest.param(GREETING + b"\x06" + struct.pack(">Q", 16 * 1024 * 1024) + b"x" * 4096, id="frame of 16 MiB"),
    ],
)
def test_an_invalid_peer_is_cut_and_others_are_not_disturbed(door: Door, bytes_sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", door.port)) as stranger:
        stranger.settimeout(PATIENCE_S)
        stranger.sendall(bytes_sent)
        assert_cut(stranger)
    assert door.received == []
    assert_good_peer_is_heard(door)


def assert_cut(stranger: socket.socket) -> None:
    """Read until the other side closes; times out if it never does."""
    try:
        while stranger.recv(4096):
            continue
    except ConnectionResetError:
        return


def test_a_handshake_that_stalls_is_cut(door: Door) -> None:
    with socket.create_connection(("127.0.0.1", door.port)) as stranger:
        stranger.settimeout(PATIENCE_S)
        stranger.sendall(GREETING)
        assert_cut(stranger)
    assert_good_peer_is_heard(door)


def test_a_frame_over_the_limit_does_not_arrive(door: Door) -> None:
    pair = keys.fresh()
    door.admitted.add(pair.public)
    link = door.link(pair)
    link.send([b"x" * (2 * MAX_FRAME_BYTES)])
    assert answers(link, 0.5) == []
    link.close()
    assert door.received == []
    assert_good_peer_is_heard(door)


def test_sending_to_a_missing_peer_is_an_error_and_not_a_loss(door: Door) -> None:
    assert door.gate.send(b"s" + b"nobody" * 2, [b"hello"]) is False


def test_the_server_reports_sessions_whose_connection_has_ended(door: Door) -> None:
    _, link = connected(door)
    link.close()
    eventually(lambda: door.left, "the server reports whose connection has ended")
    assert door.left == [SESSION]
    assert door.gate.send(SESSION, [b"are you there?"]) is False


# ------------------------------------------------------------------------------------------------------- identity


def socket_of(
    door: Door, context: "zmq.Context[zmq.Socket[bytes]]", pair: KeyPair, routing_id: bytes
) -> "zmq.Socket[bytes]":
    """Create a peer with its own routing id, which no node of ours has."""
    peer = context.socket(zmq.DEALER)
    peer.linger = 0
    peer.curve_serverkey, peer.curve_publickey, peer.curve_secretkey = door.pair.public, pair.public, pair.secret
    peer.setsockopt(zmq.ROUTING_ID, routing_id)
    peer.connect(f"tcp://127.0.0.1:{door.port}")
    return peer


def test_messages_of_a_session_go_to_the_last_connection_of_its_key(door: Door) -> None:
    pair = keys.fresh()
    door.admitted.add(pair.public)
    old, new = door.link(pair), door.link(pair)
    for link in (old, new, old, new):
        link.send([b"hello"])
        assert answers(link, PATIENCE_S) == [[b"hello"]]
    new.close()
    eventually(lambda: door.left == [SESSION], "the gate notices that the last one has gone")
    old.send([b"and again"])
    assert answers(old, PATIENCE_S) == [[b"and again"]]
    old.close()


@pytest.mark.parametrize("name", [SESSION, b"x", b"y" * 255, "in use", "to come"], ids=str)
def test_a_peer_with_its_own_routing_id_gets_nothing_and_disturbs_no_other(door: Door, name: bytes | str) -> None:
    victim, thief = keys.fresh(), keys.fresh()
    door.admitted |= {victim.public, thief.public}
    link = door.link(victim)
    link.send([b"hello"])
    assert answers(link, PATIENCE_S) == [[b"hello"]]
    if isinstance(name, str):  # as the ROUTER's own names look
        number = int.from_bytes(door.gate._bound[SESSION].routing_id[1:], "big") + (name == "to come")
        name = b"\0" + (number % 2**32).to_bytes(4, "big")
    with zmq.Context() as context:
        peer = socket_of(door, context, thief, name)
        try:
            for _ in range(3):
                peer.send(SESSION + b"what is theirs?")
            assert not peer.poll(300)
            link.send([b"still here"])
            assert answers(link, PATIENCE_S) == [[b"still here"]]
        finally:
            peer.close()
    assert [frames for _, key, frames in door.received if key == thief.public] == []
    link.close()


ONLY_LINUX = pytest.mark.skipif(not tcp.IS_AVAILABLE, reason="connections can be looked at on Linux alone")


@ONLY_LINUX
def test_a_message_that_does_not_end_is_cut_before_it_fills_the_memory(door: Door) -> None:
    _, link = connected(door)
    link.send([bytes(FRAME_BYTES)] * 1000)
    eventually(link.disturbed, "the connection is cut")
    link.close()
    assert [len(frames) for _, _, frames in door.received] == [1]
    assert_good_peer_is_heard(door)


@ONLY_LINUX
def test_large_messages_one_after_another_are_not_cut(door: Door) -> None:
    pair = keys.fresh()
    door.admitted.add(pair.public)
    link = door.link(pair)
    for _ in range(30):
        link.send([bytes(FRAME_BYTES)] * 8)
        assert link.socket.poll(int(PATIENCE_S * 1000))
        assert [len(frames) for frames in link.receive()] == [8]
    assert not link.disturbed()
    link.close()


@ONLY_LINUX
def test_connections_of_one_key_are_limited_and_the_oldest_is_cut(door: Door) -> None:
    one, other = keys.fresh(), keys.fresh()
    door.admitted |= {one.public, other.public}
    good = door.link(other, b"o" * 16)
    good.send([b"hello"])
    assert answers(good, PATIENCE_S)
    links = []
    for number in range(2 * KEY_MAX + 3):
        links.append(door.link(one, bytes([number]) * 16))
        links[-1].send([b"hello"])
        assert answers(links[-1], PATIENCE_S)
    for link in links[:3]:
        eventually(link.disturbed, "the oldest are cut")
        link.close()
    for link in [*links[3:], good]:
        assert not link.disturbed()
        link.close()


@ONLY_LINUX
def test_a_connection_whose_key_was_withdrawn_is_cut_a_while_later(door: Door) -> None:
    pair, link = connected(door)
    door.admitted.discard(pair.public)
    eventually(link.disturbed, "the connection is cut")
    link.close()


@ONLY_LINUX
def test_silent_connections_are_limited_in_number_and_time() -> None:
    pair = keys.fresh()
    gate = ComputeServer(["127.0.0.1"], pair.public, pair.secret, lambda key: True, silent_s=0.5, silent_max=5)
    door = Door(pair, set(), gate)
    thread = threading.Thread(target=door.poll)
    thread.start()
    try:
        strangers = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(20)]
        for stranger in strangers:
            stranger.settimeout(PATIENCE_S)
        for stranger in strangers[:10]:
            assert_cut(stranger)
        assert_good_peer_is_heard(door)
        for stranger in strangers:
            assert_cut(stranger)
            stranger.close()
    finally:
        door.closing = True
        thread.join()
