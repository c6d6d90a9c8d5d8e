"""A control server to test against, requests of every kind to send to it, and servers that are no control server.

The server offers a few methods of every kind and runs on a loop in a thread of its own.
"""

import asyncio
import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from concurrent_nb.errors import AccessRefused, TooLarge, VersionMismatch
from concurrent_nb.rpc import Caller, Dispatcher, Registry, remote
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.transport.control_server import ConnectionLimits, ControlServer, WebPages
from concurrent_nb.transport.tls import TlsMaterial

#: role to token
TOKENS = {"admin": "a" * 43, "client": "c" * 43, "slave": "s" * 43}
#: of a request by an admin
HEADERS = {"Authorization": f"Bearer {TOKENS['admin']}", "Content-Type": "application/json"}
EVERYBODY = ["admin", "client", "slave"]
#: short ones, so that a test of slowness is quick
LIMITS = ConnectionLimits(idle_s=1.0, body_s=1.0, answer_s=1.0, connections=40)


class Sample:
    """Methods of every kind."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.gate = threading.Event()

    @remote(roles=EVERYBODY)
    def add(self, a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    @remote(roles=EVERYBODY)
    def echo(self, value: Any) -> Any:
        return value

    @remote(roles=EVERYBODY)
    async def whoami(self, caller: Caller) -> dict[str, str]:
        """Return the caller."""
        await asyncio.sleep(0)
        return {"role": caller.role, "local": caller.local_host, "remote": caller.remote_host}

    @remote(roles=["admin"])
    def note(self, text: str) -> int:
        """Remember a text."""
        self.notes.append(text)
        return len(self.notes)

    @remote(roles=EVERYBODY)
    def fail(self, kind: str) -> None:
        """Raise."""
        raise {
            "refused": AccessRefused("that is not yours"),
            "version": VersionMismatch("we speak 2, you speak 1"),
            "large": TooLarge("too large: \x1b[31mred", 10, 5),
            "bug": KeyError("something secret"),
        }[kind]

    @remote(roles=EVERYBODY)
    async def wait(self) -> str:
        """Answer when the gate is open."""
        await asyncio.to_thread(self.gate.wait)
        return "done"

    @remote(roles=EVERYBODY)
    def large(self, size_bytes: int) -> str:
        """Answer at length."""
        return "x" * size_bytes

    def unmarked(self) -> str:
        return "nobody may call this"


class Serving:
    """A running server, the object that it serves, and the loop that it runs on."""

    def __init__(self, server: ControlServer, sample: Sample, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.sample = sample
        self.loop = loop
        self.endpoints = server.endpoints
        self.port = int(self.endpoints[0].rpartition(":")[2])

    def client(self, role: str = "admin", certificate_pem: str | None = None, timeout_s: float = 5.0) -> ControlClient:
        """Return a valid client."""
        return ControlClient(self.endpoints, TOKENS[role], certificate_pem, timeout_s)

    def answers(self) -> bool:
        """Return whether a valid client gets its answer."""
        with self.client() as client:
            return bool(client.call("add", a=1, b=2) == 3)


@contextlib.contextmanager
def serving(
    addresses: Sequence[str] = ("127.0.0.1",),
    tls: TlsMaterial | None = None,
    names: Sequence[str] = (),
    limits: ConnectionLimits = LIMITS,
    pages: WebPages | None = None,
) -> Iterator[Serving]:
    """Serve a sample for the time of a `with`."""
    sample = Sample()
    tokens = {token: role for role, token in TOKENS.items()}
    server = ControlServer(
        Dispatcher(Registry(sample)), tokens, addresses, tls=tls, names=names, limits=limits, pages=pages
    )
    with looping() as loop:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        try:
            yield Serving(server, sample, loop)
        finally:
            sample.gate.set()
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)


@contextlib.contextmanager
def looping() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an asyncio loop in a thread for the time of a `with`."""
    started: list[asyncio.AbstractEventLoop] = []
    ready, over = threading.Event(), asyncio.Event()

    async def run() -> None:
        started.append(asyncio.get_running_loop())
        ready.set()
        await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="control loop")
    thread.start()
    ready.wait(10)
    try:
        yield started[0]
    finally:
        started[0].call_soon_threadsafe(over.set)
        thread.join(10)


@contextlib.contextmanager
def peer(behave: Callable[[socket.socket], object]) -> Iterator[str]:
    """Run a TCP server that does `behave` to each connection, and yield its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def handle(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            behave(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                open_sockets.append(sock)
                threads.append(threading.Thread(target=handle, args=(sock,)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for sock in [listener, *open_sockets]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(10)
        for thread in threads:
            thread.join(10)


# ----------------------------------------------------------------------------------------- requests, byte by byte


def call(method: str = "add", params: Any = (1, 2), **changes: Any) -> bytes:
    """Write a call, with `changes` to its members."""
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 1} | changes).encode()


class Reply:
    """An HTTP reply, read to its end."""

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
    """Send bytes unchanged, and return everything that arrives until the server closes."""
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
    """Return the head of a POST by a valid client, with more lines."""
    good = [f"Host: 127.0.0.1:{running.port}", *(f"{name}: {value}" for name, value in HEADERS.items())]
    return "\r\n".join(["POST /api/1 HTTP/1.1", *good, *lines, "", ""]).encode()


# ----------------------------------------------------------------------------------------- replies of other servers


def reply(body: bytes, status: str = "200 OK", *lines: str) -> bytes:
    """Write an HTTP reply."""
    length = f"Content-Length: {len(body)}"
    return "\r\n".join([f"HTTP/1.1 {status}", *(lines or (length,)), "", ""]).encode() + body


PONG = reply(b"pong")


def answers(*replies: bytes, requests: list[bytes] | None = None) -> Callable[[socket.socket], None]:
    """Return a peer that sends these replies, one for each request, and then closes."""

    def behave(sock: socket.socket) -> None:
        for text in replies:
            request = sock.recv(65536)
            if requests is not None:
                requests.append(request)
            sock.sendall(text)

    return behave


def silence(sock: socket.socket) -> None:
    """Read everything, and send nothing."""
    while sock.recv(65536):
        pass


def trickle(text: bytes) -> Callable[[socket.socket], None]:
    """Return a peer that sends single bytes, for longer than any client may wait."""

    def behave(sock: socket.socket) -> None:
        sock.recv(65536)
        for byte in text:
            sock.sendall(bytes([byte]))
            time.sleep(0.1)
        silence(sock)

    return behave


# ------------------------------------------------------------------------- fixtures: a test module gives them its names


@pytest.fixture(scope="module")
def alone() -> Iterator[Serving]:
    """Give a server for the client's tests."""
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def shared() -> Iterator[Serving]:
    """Give a server that has a name."""
    with serving(names=["master.example"]) as running:
        yield running


@pytest.fixture
def unharmed(shared: Serving, caplog: pytest.LogCaptureFixture) -> Iterator[Serving]:
    """Give a running server, which still answers after the test, without an unexpected error."""
    yield shared
    assert shared.answers()
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert [text for text in errors if not text.startswith("internal error")] == []
