"""The engine "executor": who may connect, and who is cut. Whole engines are in `tests/contract/test_engines.py`."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Client

import pytest

from concurrent_nb.engines import executor_engine
from concurrent_nb.engines.executor_engine import ReportListener
from concurrent_nb.engines.group_messages import Parcel


@pytest.fixture
def heard() -> list[Parcel]:
    return []


@pytest.fixture
def listener(heard: list[Parcel]) -> Iterator[ReportListener]:
    listener = ReportListener("127.0.0.1", heard.append)
    yield listener
    listener.close()


def place_of(listener: ReportListener) -> tuple[str, int]:
    host, _, port = listener.addresses[0].rpartition(":")
    return host, int(port)


def read_to_end(peer: socket.socket) -> bytes:
    found = b""
    while piece := peer.recv(1000):
        found += piece
    return found


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x04junk"])
def test_a_stranger_is_cut(listener: ReportListener, monkeypatch: pytest.MonkeyPatch, words: bytes) -> None:
    """Also one that says nothing, or too little."""
    monkeypatch.setattr(executor_engine, "CHALLENGE_S", 0.05)
    with socket.create_connection(place_of(listener)) as stranger:
        stranger.settimeout(30)
        stranger.sendall(words)
        with suppress(ConnectionResetError):
            assert b"#CHALLENGE#" in read_to_end(stranger)
    assert listener._admitted == set()


def test_a_host_that_has_shown_the_key_may_be_silent(
    listener: ReportListener, heard: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(place_of(listener), authkey=listener.secret.encode()) as host:
        host.send_bytes(b"\x91\xc4\x02hi")  # a list of one text of two bytes
        listener.send(b"order")
        while not heard:
            host.poll(0.01)
        (thread,) = listener._connections.values()
        with socket.socket(fileno=next(iter(listener._connections)).fileno()) as ours:
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16) == bytes(16)
            ours.detach()
        assert thread.is_alive()
    assert heard == [[b"hi"]]
