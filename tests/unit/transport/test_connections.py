"""Which connections of the compute channel may stay."""

from typing import Any

import pytest

from concurrent_nb.transport.connections import (
    KEY_MAX,
    LOOK_S,
    UNDELIVERED_BYTES,
    WITHDRAWN_S,
    Connection,
    Connections,
)

ENDS: Any = (("127.0.0.1", 1), ("127.0.0.1", 2))
KEY = b"k" * 40


class Bench:
    """Connections, the bytes received on each, and the registered keys."""

    def __init__(self, silent_max: int = 5) -> None:
        self.connections = Connections(silent_s=10.0, silent_max=silent_max)
        self.received: dict[int, int] = {}
        self.withdrawn: set[bytes] = set()
        self.now = 0.0
        self.sessions = 1

    def accept(self, fd: int) -> None:
        self.connections.accepted(fd, ENDS, self.now)

    def name(self, fd: int, key: bytes = KEY) -> Connection:
        return self.connections.named(b"\0" + fd.to_bytes(4, "big"), key, self.sessions, fd, self.now)

    def look(self, after_s: float = LOOK_S) -> list[tuple[int, str]]:
        self.now += after_s
        self.connections.look(
            self.now, lambda key: key not in self.withdrawn, lambda connection: self.received.get(connection.fd, 0)
        )
        return [(connection.fd, why) for connection, why in self.connections.take_cut()]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_bytes_without_a_whole_message_are_limited(bench: Bench) -> None:
    bench.accept(7)
    connection = bench.name(7)
    assert bench.look() == []
    bench.received[7] = UNDELIVERED_BYTES
    assert bench.look() == []
    bench.received[7] += 1
    assert bench.look() == [(7, f"{UNDELIVERED_BYTES + 1:,} bytes arrived without a whole message")]
    assert connection.is_cut
    assert bench.look() == []


def test_a_connection_that_delivers_messages_has_no_limit(bench: Bench) -> None:
    bench.accept(7)
    connection = bench.name(7)
    for _ in range(100):
        bench.received[7] = bench.received.get(7, 0) + UNDELIVERED_BYTES
        connection.delivered = True
        assert bench.look() == []


def test_a_silent_connection_is_checked_too(bench: Bench) -> None:
    bench.accept(7)
    bench.received[7] = 0
    assert bench.look() == []
    bench.received[7] = UNDELIVERED_BYTES + 1
    assert [fd for fd, _ in bench.look()] == [7]


def test_of_many_silent_connections_the_oldest_is_cut() -> None:
    bench = Bench(silent_max=3)
    for fd in range(3):
        bench.accept(fd)
    bench.name(0)
    bench.accept(3)
    assert bench.look() == []
    bench.accept(4)
    assert [fd for fd, _ in bench.look()] == [1]


def test_a_connection_that_is_silent_for_long_is_cut(bench: Bench) -> None:
    bench.accept(1)
    bench.accept(2)
    bench.name(2)
    assert bench.look(9.9) == []
    assert bench.look(0.2) == [(1, "it has delivered nothing for 10 s")]


@pytest.mark.parametrize("sessions", [0, 1, 100])
def test_of_one_key_the_oldest_connection_is_cut(bench: Bench, sessions: int) -> None:
    limit = KEY_MAX * (sessions + 1)
    bench.sessions = sessions
    bench.accept(1000)
    bench.name(1000, b"o" * 40)
    for fd in range(limit):
        bench.accept(fd)
        bench.name(fd)
    assert bench.look() == []
    bench.connections.closed(0)
    bench.accept(limit)
    bench.name(limit)
    assert bench.look() == []
    bench.accept(limit + 1)
    bench.name(limit + 1)
    assert bench.look() == [(1, f"its key has more than {limit} connections")]


def test_a_withdrawn_key_has_time_to_receive_the_reason_and_may_return(bench: Bench) -> None:
    bench.accept(7)
    bench.name(7)
    bench.withdrawn.add(KEY)
    assert bench.look() == []
    assert bench.look(WITHDRAWN_S / 2) == []
    bench.withdrawn.clear()
    assert bench.look(WITHDRAWN_S) == []
    bench.withdrawn.add(KEY)
    assert bench.look() == []
    assert bench.look(WITHDRAWN_S) == [(7, "its key is no longer registered")]


def test_a_reused_descriptor_is_another_connection(bench: Bench) -> None:
    bench.accept(7)
    old = bench.name(7)
    bench.accept(7)  # the end of the first was not reported
    assert old.fd == -1
    assert bench.connections.get(old.routing_id) is None
    new = bench.connections.named(b"new", b"n" * 40, 1, 7, bench.now)
    assert new is not old
    assert bench.connections.get(b"new") is new
    bench.connections.closed(7)
    assert len(bench.connections) == 0
    assert bench.connections.get(b"new") is None


def test_messages_of_an_ended_connection_count_for_no_other(bench: Bench) -> None:
    bench.accept(7)
    bench.connections.closed(7)
    for _ in range(2 * KEY_MAX):
        assert bench.name(7).fd == -1
    assert bench.look() == []
    assert len(bench.connections) == 0
