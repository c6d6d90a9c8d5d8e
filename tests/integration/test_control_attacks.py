"""The control channel under attack: bad bodies, ambiguous lengths, slowness, numbers.

After each attack the fixture checks that a valid client still gets its answer.
"""

import contextlib
import json
import logging
import os
import resource
import socket
import threading
import time

import pytest

from tests import serving as server
from tests.serving import LIMITS, TOKENS, Serving, ask, call, head, raw, serving

shared, running = server.shared, server.unharmed


# -------------------------------------------------------------------------------------------------------- bad bodies


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"nonsense", -32700),
        (call(params=[1, 2]).replace(b"1, 2", b"NaN, 2"), -32700),
        (call(params=[1, 2]).replace(b"1, 2", b"1e999, 2"), -32700),
        (call(params=[1, 2]).replace(b"1, 2", b"1" * 5000), -32700),
        (b"\xef\xbb\xbf" + call(), -32700),
        (json.dumps({"a": 1}).encode("utf-16"), -32700),
        (call()[:-1] + b', "id": 2}', -32600),
        (b"[" * 100_000, -32600),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, -32600),
        (b"[]", -32600),
        (json.dumps([json.loads(call())] * 101).encode(), -32600),
        (call(jsonrpc="1.0"), -32600),
        (call(id=1.5), -32600),
        (call(params=1), -32600),
        (call("__class__", []), -32601),
        (call("unmarked", []), -32601),
        (call("x" * 1_000_000, []), -32601),
        (call("add", ["1"]), -32602),
    ],
    ids=range(19),
)
def test_a_bad_body_is_answered_with_its_code(running: Serving, body: bytes, code: int) -> None:
    reply = ask(running, body)
    assert (reply.status, reply.error["code"]) == (200, code)
    assert len(reply.body) < 5000


def test_an_internal_error_reveals_nothing(running: Serving) -> None:
    reply = ask(running, call("fail", ["bug"]))
    assert reply.error["code"] == -32603
    assert b"secret" not in reply.body


@pytest.mark.parametrize("announced", ["1048577", "99999999999999999999"])
def test_a_body_over_the_limit_is_refused_before_it_is_sent(running: Serving, announced: str) -> None:
    assert raw(running, head(running, f"Content-Length: {announced}")).startswith(b"HTTP/1.1 400 ")


def test_a_chunked_body_over_the_limit_is_refused(running: Serving) -> None:
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    assert b"result" not in raw(running, head(running, "Transfer-Encoding: chunked"), *[chunk] * 17)


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: -1",),
        ("Content-Length: 1_0",),
        ("Content-Length: +10",),
        ("Content-Length: x",),
        ("Content-Length: 10", "Content-Length: 11"),
        ("Content-Length: 10", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: chunked", "X: y\x00z"),
    ],
    ids=range(8),
)
def test_an_ambiguous_length_is_refused(running: Serving, lines: tuple[str, ...]) -> None:
    received = raw(running, head(running, *lines) + b"0\r\n\r\n" + call())
    assert b" 200 " not in received


@pytest.mark.parametrize("chunk", [b"FFFFFFFF\r\n", b"FFFFFFFFFFFFFFFFF\r\n", b"-1\r\n", b"0x10\r\n", b"x\r\n"])
def test_an_odd_chunk_is_refused(running: Serving, chunk: bytes) -> None:
    assert b" 200 " not in raw(running, head(running, "Transfer-Encoding: chunked") + chunk + b"x" * 20)


def test_headers_over_the_limit_are_refused(running: Serving) -> None:
    assert raw(running, head(running, "X-Large: " + "x" * 100_000)) == b""


@pytest.mark.parametrize(
    "garbage", [b"\0" * 100 + b"\r\n\r\n", b"\x16\x03\x01\x02\x00" * 50 + b"\r\n\r\n", b"\r\n" * 5]
)
def test_a_request_that_is_no_http_is_refused(running: Serving, garbage: bytes) -> None:
    assert b" 200 " not in raw(running, garbage)


# ------------------------------------------------------------------------------------------------ slowness and numbers


def test_a_silent_connection_is_closed(running: Serving) -> None:
    start = time.monotonic()
    assert raw(running) == b""
    assert LIMITS.idle_s - 0.1 < time.monotonic() - start < LIMITS.idle_s + 2


def test_a_slow_header_is_cut_off(running: Serving) -> None:
    start = time.monotonic()
    raw(running, b"POST /api/1 HTTP/1.1\r\n", *[b"X: y\r\n"] * 15, pause_s=0.2)
    assert time.monotonic() - start < 5, "each line came in time, the header did not"


def test_a_slow_body_is_cut_off(running: Serving) -> None:
    start = time.monotonic()
    assert raw(running, head(running, "Content-Length: 100"), *[b" "] * 15, pause_s=0.2) == b""
    assert time.monotonic() - start < 5


def test_a_body_that_ends_early_is_not_carried_out(running: Serving) -> None:
    body = call("note", ["early"])
    raw(running, head(running, f"Content-Length: {len(body) + 1}") + body)
    assert "early" not in running.sample.notes


def test_a_peer_that_does_not_take_its_answer_is_cut_off(running: Serving) -> None:
    size_bytes = 30_000_000
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", running.port))
        sock.settimeout(10)
        body = call("large", [size_bytes])
        sock.sendall(head(running, f"Content-Length: {len(body)}") + body)
        time.sleep(LIMITS.answer_s + 1)
        received = 0
        with contextlib.suppress(ConnectionError):
            while piece := sock.recv(1 << 20):
                received += len(piece)
        assert received < size_bytes


def test_peers_without_a_token_cannot_use_up_the_connections(running: Serving) -> None:
    known = running.client()
    assert known.call("add", a=1, b=2) == 3
    link = known._link
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITS.connections * 3):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
        assert known.call("add", a=1, b=2) == 3
        assert known._link is link, "a connection that has shown a token is not closed for strangers"
        assert running.answers()
    known.close()


def test_the_oldest_connection_without_a_token_is_closed(running: Serving) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=5))
        for _ in range(LIMITS.connections):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
        start = time.monotonic()
        assert first.recv(1) == b""
        assert time.monotonic() - start < LIMITS.idle_s / 2


def authorized(running: Serving, role: str, stack: contextlib.ExitStack) -> socket.socket:
    """Make a connection that has shown a token, and keep it."""
    sock = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=5))
    body = call("add", [1, 2])
    head = f"POST /api/1 HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKENS[role]}\r\n"
    sock.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = b""
    while b"result" not in answer:
        answer += sock.recv(4096)
    return sock


@pytest.mark.parametrize("role", ["client", "slave", "admin"])
def test_connections_of_one_token_keep_no_other_role_out(running: Serving, role: str) -> None:
    share = int(LIMITS.connections * LIMITS.shares[role])
    with contextlib.ExitStack() as stack:
        others = {
            other: stack.enter_context(running.client(other)) for other in ("client", "slave", "admin") if other != role
        }
        links = {}
        for other, client in others.items():
            assert client.call("add", a=1) == 2
            links[other] = client._link
        flood = [authorized(running, role, stack) for _ in range(3 * LIMITS.connections)]
        for sock in flood[:-share]:
            assert sock.recv(1) == b"", "the oldest of the same role give way"
        assert flood[-1].fileno() >= 0
        for other, client in others.items():
            assert client.call("add", a=1) == 2
            assert client._link is links[other], "connections of other roles stay"
        for each in ("client", "slave", "admin"):
            with running.client(each) as newcomer:
                assert newcomer.call("add", a=1) == 2


def test_without_descriptors_accept_pauses_and_logs_it_once(caplog: pytest.LogCaptureFixture) -> None:
    limits = LIMITS._replace(pause_s=0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(limits=limits) as running:
        with contextlib.ExitStack() as stack:
            waiting = [socket.socket() for _ in range(3)]
            for sock in waiting:
                stack.enter_context(sock)
                sock.settimeout(5)
            lowest = os.dup(0)
            os.close(lowest)
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            for sock in waiting:
                sock.connect(("127.0.0.1", running.port))
            time.sleep(0.5)  # ten pauses
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            waiting[0].sendall(b"GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b"pong" in waiting[0].recv(4096)
        assert running.answers()
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert lines == [
        "no connection can be accepted for the moment: Too many open files (raise `ulimit -n`, or close what is open)"
    ]


def test_many_callers_at_once(running: Serving) -> None:
    results: list[int] = []

    def work(number: int) -> None:
        with running.client() as client:
            results.extend(client.call("add", a=number, b=step) for step in range(20))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(number + step for number in range(10) for step in range(20))
