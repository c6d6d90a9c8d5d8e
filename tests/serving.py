"""A control server to test against: a few methods of every kind, served by a loop in a thread of its own."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from concurrent_nb.errors import AccessRefused, TooLarge, VersionMismatch
from concurrent_nb.rpc import Caller, Dispatcher, Registry, remote
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.transport.control_server import ControlServer, Limits
from concurrent_nb.transport.tls import TlsMaterial

#: role to token
TOKENS = {"admin": "a" * 43, "client": "c" * 43, "slave": "s" * 43}
EVERYBODY = ["admin", "client", "slave"]
#: short ones, so that a test of slowness is quick
LIMITS = Limits(idle_s=1.0, body_s=1.0, answer_s=1.0, connections=20)


class Sample:
    """Methods of every kind that there is."""

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
        """Tell who calls."""
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
        """Give a client that is good in every way."""
        return ControlClient(self.endpoints, TOKENS[role], certificate_pem, timeout_s)

    def answers(self) -> bool:
        """Tell whether a good client gets its answer."""
        with self.client() as client:
            return bool(client.call("add", a=1, b=2) == 3)


@contextlib.contextmanager
def serving(
    addresses: Sequence[str] = ("127.0.0.1",),
    tls: TlsMaterial | None = None,
    names: Sequence[str] = (),
    limits: Limits = LIMITS,
) -> Iterator[Serving]:
    """Serve a sample for the time of a `with`."""
    sample = Sample()
    tokens = {token: role for role, token in TOKENS.items()}
    server = ControlServer(Dispatcher(Registry(sample)), tokens, addresses, tls=tls, names=names, limits=limits)
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
    """Run a TCP server that does `behave` to each connection, and give its URL."""
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
