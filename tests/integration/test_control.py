"""The control channel on real sockets: what a good client gets, and what everybody else does not.

After each attack a good client still gets its answer; the fixture sees to that.
"""

import asyncio
import contextlib
import http.client
import json
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from concurrent_nb.errors import AccessRefused, ConfigurationError
from concurrent_nb.rpc import Dispatcher, Registry
from concurrent_nb.transport import tls
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.transport.control_server import ControlServer, Limits
from tests.serving import LIMITS, TOKENS, Sample, Serving, serving

HEADERS = {"Authorization": f"Bearer {TOKENS['admin']}", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Serving]:
    with serving(names=["master.example"]) as running:
        yield running


@pytest.fixture
def running(shared: Serving, caplog: pytest.LogCaptureFixture) -> Iterator[Serving]:
    """A running server, which still answers after the test, and has not met an error that it did not foresee."""
    yield shared
    assert shared.answers()
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert [text for text in errors if not text.startswith("internal error")] == []


def call(method: str = "add", params: Any = (1, 2), **changes: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 1} | changes).encode()


class Reply:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def value(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.value["error"]


def ask(
    running: Serving,
    body: bytes = b"",
    method: str = "POST",
    path: str = "/api/1",
    headers: dict[str, str | None] | None = None,
    port: int | None = None,
) -> Reply:
    """Send one request, with the headers of a good client but for `headers` (None takes one away)."""
    connection = http.client.HTTPConnection("127.0.0.1", port or running.port, timeout=10)
    merged: dict[str, str | None] = {"Host": f"127.0.0.1:{running.port}", **HEADERS, **(headers or {})}
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in merged.items():
            if value is not None:
                connection.putheader(name, value)
        if body or method == "POST":
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        return Reply(connection.getresponse())
    finally:
        connection.close()


def raw(running: Serving, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Send bytes as they are, and give all that comes until the server closes."""
    received = b""
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as sock:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                sock.sendall(piece)
                time.sleep(pause_s)
        with contextlib.suppress(ConnectionError):
            while piece := sock.recv(65536):
                received += piece
    return received


def head(running: Serving, *lines: str) -> bytes:
    """Give the head of a POST by a good client, with more lines."""
    good = [f"Host: 127.0.0.1:{running.port}", *(f"{name}: {value}" for name, value in HEADERS.items())]
    return "\r\n".join(["POST /api/1 HTTP/1.1", *good, *lines, "", ""]).encode()


# ------------------------------------------------------------------------------------------------------- a good client


def test_a_call_is_answered(running: Serving) -> None:
    reply = ask(running, call())
    assert (reply.status, reply.value) == (200, {"jsonrpc": "2.0", "id": 1, "result": 3})
    assert reply.headers["Content-Type"] == "application/json"


def test_a_batch_and_notifications(running: Serving) -> None:
    note = {"jsonrpc": "2.0", "method": "note", "params": ["x"]}
    before = len(running.sample.notes)
    assert (ask(running, json.dumps(note).encode()).status, len(running.sample.notes)) == (204, before + 1)
    reply = ask(running, json.dumps([note, json.loads(call()), note]).encode())
    assert reply.value == [{"jsonrpc": "2.0", "id": 1, "result": 3}]
    assert len(running.sample.notes) == before + 3


def test_a_method_knows_its_caller(running: Serving) -> None:
    with running.client("slave") as client:
        assert client.call("whoami") == {"role": "slave", "local": "127.0.0.1", "remote": "127.0.0.1"}


def test_a_ping_needs_no_token(running: Serving) -> None:
    reply = ask(running, method="GET", path="/ping", headers={"Authorization": None, "Content-Type": None})
    assert (reply.status, reply.body) == (200, b"pong")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST:99", "localhost.", "[::1]:1", "master.example:80", "Master.Example"]
)
def test_the_names_that_it_goes_by(running: Serving, host: str) -> None:
    assert ask(running, call(), headers={"Host": host}).status == 200


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_content_types_of_json(running: Serving, kind: str) -> None:
    assert ask(running, call(), headers={"Content-Type": kind}).status == 200


def test_many_requests_on_one_connection(running: Serving) -> None:
    request = head(running, f"Content-Length: {len(call())}") + call()
    last = head(running, f"Content-Length: {len(call())}", "Connection: close") + call()
    received = raw(running, request * 999 + last)
    assert received.count(b'"result":3') == 1000


def test_a_chunked_body(running: Serving) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (call()[:9], call()[9:]))
    received = raw(running, head(running, "Transfer-Encoding: chunked", "Connection: close") + chunks + b"0\r\n\r\n")
    assert b'"result":3' in received


def test_a_page_of_its_own_has_access(running: Serving) -> None:
    assert ask(running, call(), headers={"Origin": f"http://127.0.0.1:{running.port}"}).status == 200


# -------------------------------------------------------------------------------------------------------- who may not


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKENS['admin'][:-1]}",
        f"Bearer {TOKENS['admin']}x",
        f"Bearer {TOKENS['admin']} x",
        f"Bearer {TOKENS['admin']}, Bearer {TOKENS['client']}",
        TOKENS["admin"],
        f"Basic {TOKENS['admin']}",
        "Bearer " + "a" * 8000,
        "Bearer \xff\xfe",
    ],
    ids=range(13),
)
def test_without_a_right_token_there_is_no_answer(running: Serving, authorization: str | None) -> None:
    reply = ask(running, call(), headers={"Authorization": authorization})
    assert reply.status == 401
    assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert reply.error["data"] == {"type": "AccessRefused"}


def test_two_tokens_are_no_token(running: Serving) -> None:
    received = raw(
        running, head(running, f"Authorization: Bearer {TOKENS['client']}", "Content-Length: 0", "Connection: close")
    )
    assert received.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("path", [f"/api/1?token={TOKENS['admin']}", f"/api/1?access_token={TOKENS['admin']}"])
def test_a_token_in_the_url_is_no_token(running: Serving, path: str) -> None:
    assert ask(running, call(), path=path, headers={"Authorization": None}).status == 401


def test_a_role_is_held_to_its_methods(running: Serving) -> None:
    reply = ask(running, call("note", ["x"]), headers={"Authorization": f"Bearer {TOKENS['slave']}"})
    assert reply.error["data"] == {"type": "AccessRefused"}


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "0.0.0.0",
        "[::]",
        "127.0.0.1@evil.example",
        "127.0.0.1/evil",
        "127.0.0.1,evil.example",
        "127.1",
        "2130706433",
        "127.0.0.1:80:80",
        "\xff",
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/api/1", "/ping", "/"])
def test_another_host_name_is_refused(running: Serving, host: str | None, path: str) -> None:
    method = "GET" if path == "/ping" else "POST"
    # A missing Host, or two, is malformed HTTP, and is refused as that.
    assert ask(running, b"", method=method, path=path, headers={"Host": host}).status in (400, 403)


def test_two_host_headers_are_refused(running: Serving) -> None:
    received = raw(running, head(running, "Host: 127.0.0.1", "Content-Length: 0", "Connection: close"))
    assert received.split()[1] in (b"400", b"403")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "https://127.0.0.1:{port}", "http://127.0.0.1"])
@pytest.mark.parametrize("method", ["POST", "OPTIONS", "GET", "DELETE"])
def test_a_page_of_another_site_is_refused(running: Serving, origin: str, method: str) -> None:
    reply = ask(running, call(), method=method, headers={"Origin": origin.format(port=running.port)})
    assert reply.status == 403
    assert not [name for name in reply.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "FOO"])
def test_only_post_calls(running: Serving, method: str) -> None:
    reply = ask(running, call("note", ["no"]), method=method)
    assert reply.status == 405
    assert "no" not in running.sample.notes


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_only_get_pings(running: Serving, method: str) -> None:
    reply = ask(running, method=method, path="/ping")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json2"]
)
def test_what_a_form_can_send_is_refused(running: Serving, kind: str | None) -> None:
    reply = ask(running, call("note", ["no"]), headers={"Content-Type": kind})
    assert reply.status == 415
    assert "no" not in running.sample.notes


def test_a_compressed_body_is_refused(running: Serving) -> None:
    assert ask(running, call(), headers={"Content-Encoding": "gzip"}).status == 415


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/1/", "//api/1", "/API/1", "/api/1/../1", "/api/%31%00", "/../etc/passwd", "/x" * 5000]
)
def test_other_paths_are_not_there(running: Serving, path: str) -> None:
    assert ask(running, call(), path=path).status == 404


def test_another_version_of_the_api_is_named(running: Serving) -> None:
    reply = ask(running, call(), path="/api/7")
    assert (reply.status, reply.error["data"]) == (404, {"type": "VersionMismatch"})
    assert "/api/1" in reply.error["message"]
    assert "/api/7" in reply.error["message"]


@pytest.mark.parametrize("path", ["/api/1", "/ping", "/nowhere"])
def test_nothing_tells_what_the_server_is_made_of(running: Serving, path: str) -> None:
    for method in ("GET", "POST", "FOO"):
        reply = ask(running, b"{", method=method, path=path)
        assert "Server" not in reply.headers
        assert "Set-Cookie" not in reply.headers
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert not re.search(b"tornado|python|traceback", reply.body, re.IGNORECASE)


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


def test_an_internal_error_tells_nothing(running: Serving) -> None:
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
def test_what_is_no_http_is_refused(running: Serving, garbage: bytes) -> None:
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


def test_strangers_cannot_use_up_the_connections(running: Serving) -> None:
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


def test_the_oldest_stranger_makes_room(running: Serving) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=5))
        for _ in range(LIMITS.connections):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
        start = time.monotonic()
        assert first.recv(1) == b""
        assert time.monotonic() - start < LIMITS.idle_s / 2


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


# -------------------------------------------------------------------------------------------------- starting, stopping


def server_on(*addresses: str, port: int = 0, material: tls.TlsMaterial | None = None) -> ControlServer:
    tokens = {token: role for role, token in TOKENS.items()}
    return ControlServer(Dispatcher(Registry(Sample())), tokens, addresses, port, material)


@pytest.mark.parametrize("addresses", [["0.0.0.0"], ["::"], ["127.0.0.1", "0.0.0.0"], ["192.0.2.1"]])
def test_plain_http_beyond_this_machine_is_refused_at_the_start(addresses: list[str]) -> None:
    server = server_on(*addresses)
    with pytest.raises(ConfigurationError, match=r"pip install 'concurrent-nb\[tls\]'"):
        asyncio.run(server.start())
    assert server.endpoints == []


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ConfigurationError, match=f"port {port}"):
        asyncio.run(server_on("127.0.0.1", port=port).start())


def test_a_port_in_use_is_refused(running: Serving) -> None:
    with pytest.raises(ConfigurationError, match=f"port {running.port} of 127.0.0.1: Address already in use"):
        asyncio.run(server_on("127.0.0.1", port=running.port).start())


@pytest.mark.parametrize("tokens", [{}, {"": "admin"}, {"short": "admin"}, {"with a space in it": "admin"}])
def test_a_server_without_good_tokens_is_refused(tokens: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="tokens"):
        ControlServer(Dispatcher(Registry(Sample())), tokens, ["127.0.0.1"])


def test_several_addresses_have_an_endpoint_each() -> None:
    with serving(["127.0.0.1", "::1"]) as running:
        assert running.endpoints == [f"http://127.0.0.1:{running.port}", f"http://[::1]:{running.port}"]
        for endpoint, address in zip(running.endpoints, ["127.0.0.1", "::1"], strict=True):
            with ControlClient([endpoint], TOKENS["client"]) as client:
                assert client.call("whoami")["local"] == address


def test_stopping_lets_a_running_call_answer() -> None:
    with serving() as running, running.client() as client:
        answers: list[str] = []
        caller = threading.Thread(target=lambda: answers.append(client.call("wait")))
        caller.start()
        while not running.server._desk.running:
            time.sleep(0.01)
        stopping = asyncio.run_coroutine_threadsafe(running.server.stop(grace_s=5), running.loop)
        running.sample.gate.set()
        stopping.result(10)
        caller.join(10)
        assert answers == ["done"]
        assert running.server.endpoints == []


def test_stopping_does_not_wait_for_a_call_that_does_not_end() -> None:
    with serving() as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as sock:
            body = call("wait", [])
            sock.sendall(head(running, f"Content-Length: {len(body)}") + body)
            while not running.server._desk.running:
                time.sleep(0.01)
            start = time.monotonic()
            asyncio.run_coroutine_threadsafe(running.server.stop(grace_s=0.2), running.loop).result(10)
            assert time.monotonic() - start < 2
            assert sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", running.port), timeout=10)


def test_a_stopped_server_may_be_started_again() -> None:
    async def run() -> None:
        server = server_on("127.0.0.1")
        await server.stop()
        for _ in range(2):
            await server.start()
            (endpoint,) = server.endpoints
            with ControlClient([endpoint], TOKENS["client"]) as client:
                assert await asyncio.to_thread(client.call, "add", a=1) == 2
            await server.stop()

    asyncio.run(run())


# ----------------------------------------------------------------------------------------------------------------- TLS


def test_beyond_this_machine_there_is_tls() -> None:
    material = tls.make_tls(["127.0.0.1"])
    with serving(["0.0.0.0"], material) as running:
        assert all(endpoint.startswith("https://") and "0.0.0.0" not in endpoint for endpoint in running.endpoints)
        with running.client(certificate_pem=material.certificate_pem) as client:
            assert client.call("add", a=1, b=2) == 3
            local = client.call("whoami")["local"]
        assert running.endpoints[0] == f"https://{local}:{running.port}"


def test_another_certificate_is_refused() -> None:
    material, other = tls.make_tls(["127.0.0.1"]), tls.make_tls(["127.0.0.1"])
    with serving(tls=material) as running:
        with running.client(certificate_pem=other.certificate_pem) as client, pytest.raises(AccessRefused) as caught:
            client.call("add", a=1)
        assert "its TLS certificate is not accepted: it is not the one in the connection file" in str(caught.value)
        with running.client(certificate_pem=material.certificate_pem) as client:
            assert client.call("add", a=1) == 2


def test_without_the_certificate_the_system_does_not_trust_it() -> None:
    material = tls.make_tls(["127.0.0.1"])
    with serving(tls=material) as running, running.client() as client, pytest.raises(AccessRefused) as caught:
        client.call("add", a=1)
    assert "self-signed certificate" in str(caught.value)


def test_plain_http_and_silence_at_a_tls_port() -> None:
    material = tls.make_tls(["127.0.0.1"])
    with serving(tls=material) as running:
        assert b" 200 " not in raw(running, head(running, f"Content-Length: {len(call())}") + call())
        start = time.monotonic()
        assert raw(running) == b""
        assert raw(running, b"\x16\x03\x01\x02\x00") == b""
        assert time.monotonic() - start < 2 * LIMITS.idle_s + 3
        with running.client(certificate_pem=material.certificate_pem) as client:
            assert client.call("add", a=1) == 2


def test_old_tls_is_refused() -> None:
    with serving(tls=tls.make_tls(["127.0.0.1"])) as running:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection(("127.0.0.1", running.port)) as sock, pytest.raises(ssl.SSLError):
            context.wrap_socket(sock)


def test_the_defaults_are_those_that_the_design_names() -> None:
    limits = Limits()
    assert limits.body_bytes == 1 << 20
    assert limits.body_s == 5
    assert 5 <= limits.idle_s <= 60
