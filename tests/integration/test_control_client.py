"""The control client against masters that are gone, slow, or no masters: a typed error, in time, and one call only."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concurrent_nb.errors import (
    AccessRefused,
    ClusterError,
    ConcurrentError,
    ConfigurationError,
    MasterUnreachable,
    ProtocolError,
    TooLarge,
    VersionMismatch,
)
from concurrent_nb.transport import http_link, tls
from concurrent_nb.transport.control_client import ControlClient
from tests.serving import TOKENS, Serving, peer, serving

TOKEN = TOKENS["admin"]


@pytest.fixture(scope="module")
def running() -> Iterator[Serving]:
    with serving() as server:
        yield server


@pytest.fixture
def closed_endpoint() -> str:
    """Give an endpoint at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


def reply(body: bytes, status: str = "200 OK", *lines: str) -> bytes:
    """Write an HTTP reply."""
    length = f"Content-Length: {len(body)}"
    return "\r\n".join([f"HTTP/1.1 {status}", *(lines or (length,)), "", ""]).encode() + body


PONG = reply(b"pong")


def answers(*replies: bytes, requests: list[bytes] | None = None) -> Callable[[socket.socket], None]:
    """Make a peer that gives these replies, one for each request, and then closes."""

    def behave(sock: socket.socket) -> None:
        for text in replies:
            request = sock.recv(65536)
            if requests is not None:
                requests.append(request)
            sock.sendall(text)

    return behave


def error_of(endpoint: str, timeout_s: float = 5.0) -> ConcurrentError:
    with ControlClient([endpoint], TOKEN, timeout_s=timeout_s) as client, pytest.raises(ConcurrentError) as caught:
        client.call("add", a=1, b=2)
    return caught.value


# ------------------------------------------------------------------------------------------------------- a good master


def test_results_of_every_kind_come_back(running: Serving) -> None:
    with running.client() as client:
        for value in (None, True, 0, -(2**63), 1.5, "", "ü😀\x00", [], [[1], {"a": None}], {}, {"": {"b": [1]}}):
            assert client.call("echo", value=value) == value


def test_a_parameter_may_have_any_name(running: Serving) -> None:
    with running.client() as client, pytest.raises(ProtocolError, match="'method' of add is not one of its parameters"):
        client.call("add", a=1, method=2)


@pytest.mark.parametrize(
    ("kind", "cls", "text"),
    [
        ("refused", AccessRefused, "that is not yours"),
        ("version", VersionMismatch, "we speak 2, you speak 1"),
        ("large", TooLarge, "too large: \ufffd[31mred"),
        ("bug", ClusterError, "internal error"),
    ],
)
def test_an_error_of_the_master_is_raised_as_what_it_was(
    running: Serving, kind: str, cls: type[ConcurrentError], text: str
) -> None:
    with running.client() as client:
        with pytest.raises(cls, match=text.replace("[", r"\[")) as caught:
            client.call("fail", kind=kind)
        assert type(caught.value) is cls
        assert client.call("add", a=1) == 2, "the connection is as good as before"


def test_a_wrong_token_is_refused(running: Serving) -> None:
    with ControlClient(running.endpoints, "x" * 43) as client, pytest.raises(AccessRefused, match="connection file"):
        client.call("add", a=1)


def test_a_role_that_may_not(running: Serving) -> None:
    with running.client("slave") as client, pytest.raises(AccessRefused, match="needs a token of role admin"):
        client.call("note", text="x")


def test_a_call_that_no_master_would_read_is_not_sent(running: Serving) -> None:
    with running.client() as client:
        with pytest.raises(TooLarge) as caught:
            client.call("echo", value="x" * 2_000_000)
        assert caught.value.limit_bytes == 1 << 20
        largest = "x" * ((1 << 20) - 200)
        assert client.call("echo", value=largest) == largest


def test_a_parameter_that_json_cannot_hold_is_the_callers_error(running: Serving) -> None:
    with running.client() as client, pytest.raises(TypeError):
        client.call("echo", value=object())


def test_a_connection_is_kept(running: Serving) -> None:
    with running.client() as client:
        client.call("add", a=1)
        link = client._link
        client.call("add", a=1)
        assert client._link is link


def test_a_connection_that_was_closed_meanwhile_is_replaced(running: Serving) -> None:
    with running.client() as client:
        client.call("add", a=1)
        link = client._link
        time.sleep(1.5)  # the server's idle_s is 1
        assert client.call("add", a=1) == 2
        assert client._link is not link


def test_a_connection_is_left_before_the_master_may_close_it(running: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    with running.client() as client:
        client.call("add", a=1)
        link = client._link
        monkeypatch.setattr(http_link, "MAX_IDLE_S", -1.0)
        assert client.call("add", a=1) == 2
        assert client._link is not link


def test_a_closed_client_may_call_again(running: Serving) -> None:
    client = running.client()
    client.close()
    assert client.call("add", a=1) == 2
    client.close()
    client.close()


def test_threads_share_a_client(running: Serving) -> None:
    results: list[int] = []
    with running.client() as client:
        threads = [
            threading.Thread(target=lambda n=n: results.extend(client.call("add", a=n, b=m) for m in range(20)))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == sorted(n + m for n in range(8) for m in range(20))


def test_a_call_does_not_wait_longer_for_other_threads_than_for_the_master(running: Serving) -> None:
    client = running.client(timeout_s=0.5)
    client._lock.acquire()
    start = time.monotonic()
    with pytest.raises(MasterUnreachable, match="other threads"):
        client.call("add", a=1)
    assert time.monotonic() - start < 2
    client._lock.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_both_processes_have_a_connection_of_their_own(running: Serving) -> None:
    with running.client() as client:
        client.call("add", a=1)
        link = client._link
        client._lock.acquire()  # as another thread might at that moment
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                if client.call("add", a=20) == 21:
                    os._exit(7)
            os._exit(1)
        client._lock.release()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert client.call("add", a=1) == 2
        assert client._link is link


def test_no_proxy_is_used(running: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with running.client() as client:
        assert client.call("add", a=1) == 2


def test_a_name_for_an_endpoint(running: Serving) -> None:
    with ControlClient([f"http://localhost:{running.port}"], TOKEN) as client:
        assert client.call("add", a=1) == 2


# ---------------------------------------------------------------------------------------------------- several endpoints


def test_the_endpoint_that_works_is_found_and_remembered(running: Serving, closed_endpoint: str) -> None:
    with contextlib.ExitStack() as stack:
        closing = stack.enter_context(peer(lambda sock: sock.recv(100)))
        ssh = stack.enter_context(peer(answers(b"SSH-2.0-OpenSSH\r\n")))
        client = stack.enter_context(ControlClient([closed_endpoint, closing, ssh, *running.endpoints], TOKEN))
        assert client.call("add", a=1) == 2
        assert client.endpoint == running.endpoints[0]


def test_a_silent_endpoint_takes_its_share_of_the_time_only(running: Serving) -> None:
    with peer(silence) as silent, ControlClient([silent, *running.endpoints], TOKEN, timeout_s=2.0) as client:
        start = time.monotonic()
        assert client.call("add", a=1) == 2
        assert 0.8 < time.monotonic() - start < 2
        start = time.monotonic()
        assert client.call("add", a=1) == 2
        assert time.monotonic() - start < 0.8


def test_a_token_is_shown_to_masters_only() -> None:
    for greeting in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK",
        b"SSH-2.0-OpenSSH_9\r\n",
        reply(b"pong", "404 No"),
    ):
        requests: list[bytes] = []
        with peer(answers(greeting, greeting, requests=requests)) as endpoint:
            assert isinstance(error_of(endpoint), ProtocolError)
        assert requests
        assert not any(TOKEN.encode() in request for request in requests)


def test_the_error_names_every_endpoint(closed_endpoint: str) -> None:
    other = "http://127.0.0.2:9"
    with ControlClient([closed_endpoint, other], TOKEN) as client, pytest.raises(MasterUnreachable) as caught:
        client.call("add", a=1)
    lines = str(caught.value).splitlines()
    assert lines[:3] == [
        "no master answers:",
        f"  {closed_endpoint}: Connection refused",
        f"  {other}: Connection refused",
    ]
    assert "connection file" in lines[3]
    assert TOKEN not in str(caught.value)


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
def test_what_is_no_master_is_a_protocol_error(text: bytes) -> None:
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


def test_a_call_is_never_sent_twice() -> None:
    requests: list[bytes] = []
    with contextlib.ExitStack() as stack:
        behave = answers(PONG, b"", requests=requests)
        endpoints = [stack.enter_context(peer(behave)) for _ in range(2)]
        client = stack.enter_context(ControlClient(endpoints, TOKEN))
        with pytest.raises(MasterUnreachable, match="carried out or not"):
            client.call("note", text="x")
    assert sum(request.startswith(b"POST") for request in requests) == 1


def test_the_answer_of_an_interrupted_call_is_not_taken_for_the_next(running: Serving) -> None:
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
def test_what_comes_after_a_reply_is_not_taken_for_the_next(pause_s: float) -> None:
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


def trickle(text: bytes) -> Callable[[socket.socket], None]:
    """Make a peer that sends a byte now and then, for longer than anybody should wait."""

    def behave(sock: socket.socket) -> None:
        sock.recv(65536)
        for byte in text:
            sock.sendall(bytes([byte]))
            time.sleep(0.1)
        silence(sock)

    return behave


def after_pong(behave: Callable[[socket.socket], object]) -> Callable[[socket.socket], object]:
    def behaviour(sock: socket.socket) -> object:
        sock.recv(65536)
        sock.sendall(PONG)
        return behave(sock)

    return behaviour


def silence(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


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
        with pytest.raises(ProtocolError, match="does not speak TLS"):
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


# ------------------------------------------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "127.0.0.1:80",
        "http://",
        "http://127.0.0.1",
        "http://127.0.0.1:",
        "http://127.0.0.1:x",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:80/api/1",
        "ftp://127.0.0.1:80",
        "http://[::1:80",
        "http://10.0.0.1:80",
        "http://master.example:80",
    ],
)
def test_an_endpoint_that_is_none_or_would_show_the_token_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigurationError):
        ControlClient([endpoint], TOKEN)


@pytest.mark.parametrize("endpoints", [[], "http://127.0.0.1:80"])
def test_endpoints_are_a_list(endpoints: Any) -> None:
    with pytest.raises(ConfigurationError, match="list"):
        ControlClient(endpoints, TOKEN)


@pytest.mark.parametrize("token", ["a\nb", "a\r\nX: y", "ü"])
def test_a_token_that_would_break_a_header_is_refused(token: str) -> None:
    with pytest.raises(ConfigurationError):
        ControlClient(["http://127.0.0.1:80"], token)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_no_time_is_refused(timeout_s: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout_s"):
        ControlClient(["http://127.0.0.1:80"], TOKEN, timeout_s=timeout_s)


def test_the_token_is_in_no_repr() -> None:
    assert repr(ControlClient(["http://127.0.0.1:80"], TOKEN)) == "ControlClient(['http://127.0.0.1:80'])"


# ------------------------------------------------------------------------------------------------------------- fuzzing


@settings(max_examples=50)
@given(st.binary(max_size=200), st.booleans(), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n"]))
def test_no_answer_makes_the_client_raise_anything_else(text: bytes, greeted: bool, prefix: bytes) -> None:
    replies = [PONG] * greeted + [prefix + text]
    with peer(answers(*replies)) as endpoint:
        error_of(endpoint)


# ------------------------------------------------------------------------------------------------------------ start-up


def test_a_client_starts_without_the_heavy_packages() -> None:
    code = """
import sys
import concurrent_nb.transport.control_client, concurrent_nb.transport.keys, concurrent_nb.transport.connection_file
print([name for name in sys.modules if name.partition(".")[0] in
    {"asyncio", "tornado", "zmq", "jupyter_core", "cryptography", "psutil", "traitlets", "numpy"}])
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert json.loads(output.replace("'", '"')) == []
