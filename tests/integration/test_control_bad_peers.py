"""The control client with a server that is no master, or a slow one: a typed error, in time, and never two calls."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concurrent_nb.errors import (
    AccessRefused,
    ConcurrentError,
    MasterUnreachable,
    ProtocolError,
    TooLarge,
)
from concurrent_nb.transport import http_link, tls
from concurrent_nb.transport.control_client import ControlClient
from tests import serving as server
from tests.serving import PONG, TOKENS, Serving, answers, peer, reply, silence, trickle

TOKEN = TOKENS["admin"]


running = server.alone


def error_of(endpoint: str, timeout_s: float = 5.0) -> ConcurrentError:
    with ControlClient([endpoint], TOKEN, timeout_s=timeout_s) as client, pytest.raises(ConcurrentError) as caught:
        client.call("add", a=1, b=2)
    return caught.value


# --------------------------------------------------------------------------------------------------------- bad masters


@pytest.mark.parametrize(
    "text",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01" + b"\0" * 100,
        b"\xff\0\0\0\0\0\0\0\x01\x7f" + b"\0" * 54,
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"x" * 200_000,
    ],
    ids=range(11),
)
def test_a_server_that_is_no_master_is_a_protocol_error(text: bytes) -> None:
    with peer(answers(text, text)) as endpoint:
        error = error_of(endpoint)
        assert type(error) is ProtocolError
        assert endpoint in str(error)
        assert len(str(error)) < 1000


@pytest.mark.parametrize(
    ("text", "cls"),
    [
        (reply(b""), ProtocolError),
        (reply(b"<html>hello</html>"), ProtocolError),
        (reply(b"[1, 2]"), ProtocolError),
        (reply(b'{"jsonrpc": "2.0", "id": 99, "result": 3}'), ProtocolError),
        (reply(b"[" * 100_000), ProtocolError),
        (reply(b"nothing here", "404 Not Found"), ProtocolError),
        (reply(b"broken", "500 Internal Server Error"), ProtocolError),
        (reply(b"later", "503 Service Unavailable"), ProtocolError),
        (reply(b"", "204 No Content"), ProtocolError),
        (reply(b"who?", "401 Unauthorized"), AccessRefused),
        (reply(b"no", "403 Forbidden"), AccessRefused),
        (reply(b"", "302 Found", "Location: http://127.0.0.1:1/", "Content-Length: 0"), ProtocolError),
        (b"garbage\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", MasterUnreachable),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", ProtocolError),
        (b"", MasterUnreachable),
    ],
    ids=range(16),
)
def test_an_odd_answer_to_a_call_is_a_typed_error(text: bytes, cls: type[ConcurrentError]) -> None:
    with peer(answers(PONG, text)) as endpoint:
        assert type(error_of(endpoint)) is cls


@pytest.mark.parametrize("greeting", [reply(b"OK"), reply(b"pong", "404 No"), b"SSH-2.0-OpenSSH_9\r\n"])
def test_a_token_is_sent_to_masters_only(greeting: bytes) -> None:
    requests: list[bytes] = []
    with peer(answers(greeting, greeting, requests=requests)) as endpoint:
        assert isinstance(error_of(endpoint), ProtocolError)
    assert requests
    assert not any(TOKEN.encode() in request for request in requests)


def test_a_call_is_never_sent_twice() -> None:
    requests: list[bytes] = []
    with contextlib.ExitStack() as stack:
        behave = answers(PONG, b"", requests=requests)
        endpoints = [stack.enter_context(peer(behave)) for _ in range(2)]
        client = stack.enter_context(ControlClient(endpoints, TOKEN))
        with pytest.raises(MasterUnreachable, match="carried out or not"):
            client.call("note", text="x")
    assert sum(request.startswith(b"POST") for request in requests) == 1


def test_the_answer_of_an_interrupted_call_is_not_read_by_the_next(running: Serving) -> None:
    class Interrupted(http_link.HttpLink):
        def exchange(self, method: str, *args: Any) -> http_link.Reply:
            if method == "POST":
                raise KeyboardInterrupt
            return super().exchange(method, *args)

    with running.client() as client:
        client.call("add", a=1)
        link = client._link
        assert link is not None
        link.__class__ = Interrupted
        with pytest.raises(KeyboardInterrupt):
            client.call("add", a=5)
        assert client._link is None
        assert client.call("add", a=1) == 2


def test_a_reply_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_link, "MAX_ANSWER_BYTES", 1000)
    with peer(answers(PONG, reply(b" " * 2000))) as endpoint:
        assert type(error_of(endpoint)) is TooLarge


@pytest.mark.parametrize("pause_s", [0.0, 0.1])
def test_bytes_after_a_reply_are_not_read_as_the_next(pause_s: float) -> None:
    def behave(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(PONG)
        sock.recv(65536)
        sock.sendall(reply(b'{"jsonrpc": "2.0", "id": 1, "result": 1}'))
        time.sleep(pause_s)
        sock.sendall(reply(b'{"jsonrpc": "2.0", "id": 2, "result": "stale"}'))

    good = answers(PONG, reply(b'{"jsonrpc": "2.0", "id": 2, "result": "good"}'))
    behaviours = iter([behave, good])
    with peer(lambda sock: next(behaviours)(sock)) as endpoint, ControlClient([endpoint], TOKEN) as client:
        assert client.call("x") == 1
        time.sleep(0.3)
        assert client.call("x") == "good"


# ---------------------------------------------------------------------------------------------------------- in time


def after_pong(behave: Callable[[socket.socket], object]) -> Callable[[socket.socket], object]:
    def behaviour(sock: socket.socket) -> object:
        sock.recv(65536)
        sock.sendall(PONG)
        return behave(sock)

    return behaviour


@pytest.mark.parametrize(
    "behave",
    [
        silence,
        after_pong(silence),
        trickle(b"HTTP/1.1 200 OK" + b"x" * 100),
        trickle(b"H"),
        after_pong(trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + b" " * 99)),
        after_pong(trickle(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50)),
        after_pong(trickle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50)),
        after_pong(trickle(b"HTTP/1.1 100 Continue\r\n\r\n" * 10)),
    ],
    ids=range(8),
)
def test_no_peer_holds_a_call_longer_than_its_time(behave: Callable[[socket.socket], object]) -> None:
    with peer(behave) as endpoint:
        start = time.monotonic()
        error = error_of(endpoint, timeout_s=0.6)
        elapsed_s = time.monotonic() - start
    assert isinstance(error, MasterUnreachable)
    assert "no answer in time" in str(error)
    assert 0.5 < elapsed_s < 1.5


def test_no_peer_holds_a_call_by_not_reading_it() -> None:
    def behave(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        sock.recv(4096)
        sock.sendall(PONG)
        time.sleep(3)

    with peer(behave) as endpoint, ControlClient([endpoint], TOKEN, timeout_s=0.6) as client:
        # What the system buffers may be sent at once, so the call ends while it waits for its answer or before.
        start = time.monotonic()
        with pytest.raises(MasterUnreachable):
            client.call("echo", value="x" * 1_000_000)
        assert time.monotonic() - start < 1.5


def test_no_peer_holds_a_call_in_the_tls_handshake() -> None:
    pem = tls.make_tls(["127.0.0.1"]).certificate_pem
    for behave in (silence, trickle(b"\x16\x03\x03\x00\xff" + b"\0" * 100)):
        with peer(behave) as endpoint:
            client = ControlClient([endpoint.replace("http", "https")], TOKEN, pem, timeout_s=0.6)
            start = time.monotonic()
            with pytest.raises(MasterUnreachable, match="no answer in time"):
                client.call("add", a=1)
            assert time.monotonic() - start < 1.5


def test_a_server_without_tls_at_an_https_endpoint(running: Serving) -> None:
    pem = tls.make_tls(["127.0.0.1"]).certificate_pem
    with peer(answers(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as endpoint:
        client = ControlClient([endpoint.replace("http", "https")], TOKEN, pem)
        with pytest.raises(ProtocolError, match="does not use TLS"):
            client.call("add", a=1)


def test_a_name_that_is_not_found(running: Serving) -> None:
    endpoint = http_link.Endpoint("https://no.such.host.invalid:80", "no.such.host.invalid", 80, None, None)
    with pytest.raises(OSError, match=r"(?i)name"):
        http_link.HttpLink(endpoint, http_link.Deadline(5))


def test_a_name_look_up_that_hangs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        over.wait(10)
        raise OSError("too late")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    start = time.monotonic()
    try:
        error = error_of("http://localhost:80", timeout_s=0.5)
        assert isinstance(error, MasterUnreachable)
        assert time.monotonic() - start < 1.5
    finally:
        over.set()


# ------------------------------------------------------------------------------------------------------------- fuzzing


@settings(max_examples=50)
@given(st.binary(max_size=200), st.booleans(), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n"]))
def test_no_answer_makes_the_client_raise_anything_else(text: bytes, greeted: bool, prefix: bytes) -> None:
    replies = [PONG] * greeted + [prefix + text]
    with peer(answers(*replies)) as endpoint:
        error_of(endpoint)
