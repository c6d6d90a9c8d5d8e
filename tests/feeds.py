"""Readers of a feed for tests: one that follows it in a thread, and one that writes its own frames."""

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from concurrent_nb.transport.feed_client import FeedReader
from tests.clusters import eventually


class Follower:
    """What a reader of the feed has seen so far."""

    def __init__(self) -> None:
        self.reader: FeedReader | None = None
        self.kinds: list[str] = []
        self.reasons: list[str] = []
        self.state: dict[str, Any] = {}
        self.loop: asyncio.AbstractEventLoop | None = None

    def eventually(self, holds: Callable[[dict[str, Any]], object], what: str, within_s: float = 60.0) -> None:
        """Wait until something is so in the state."""
        eventually(lambda: self.state and holds(self.state), what, within_s)

    def job(self, name: str) -> dict[str, Any] | None:
        """Return a job by its name."""
        jobs: list[dict[str, Any]] = list(self.state.get("jobs", {}).values())
        return next((job for job in jobs if job["name"] == name), None)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.state.get("events", ()) if event["kind"] == kind]

    def disturb(self) -> None:
        """Close the connection below the reader."""
        assert self.loop is not None and self.reader is not None
        if (socket := self.reader._socket) is not None:
            self.loop.call_soon_threadsafe(socket.close)


@contextlib.contextmanager
def following(cluster: str | Path, role: str = "admin", **credentials: str) -> Iterator[Follower]:
    """Follow the feed of a cluster for the time of a `with`."""
    follower = Follower()

    async def follow() -> None:
        follower.loop = asyncio.get_running_loop()
        follower.reader = FeedReader(cluster, role, **credentials)
        async for message in follower.reader:
            follower.kinds.append(message.kind)
            if message.kind == "lost":
                follower.reasons.append(message.params["reason"])
            # A new object, which the reader does not change while a test looks at it.
            state = follower.reader.state
            follower.state = {**state, **{name: dict(state[name]) for name in ("jobs", "slaves") if name in state}}

    thread = threading.Thread(target=lambda: asyncio.run(follow()), name="follower")
    thread.start()
    try:
        yield follower
    finally:
        eventually(lambda: follower.reader, "the follower has begun")
        if follower.loop is not None and follower.reader is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                follower.loop.call_soon_threadsafe(follower.reader.close)
        thread.join(20)
        assert not thread.is_alive()


class RawSocket:
    """A WebSocket, byte by byte.

    Args:
        port: of the master on this machine.
        headers: of the request; None takes one of the default ones away.
        buffer_bytes: size of the system's buffer for what arrives.
    """

    def __init__(
        self, port: int, headers: dict[str, str | None] | None = None, *, path: str = "/feed", buffer_bytes: int = 0
    ) -> None:
        self.socket = socket.socket()
        if buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", port))
        merged: dict[str, str | None] = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **(headers or {}),
        }
        lines = [f"{name}: {value}" for name, value in merged.items() if value is not None]
        self.socket.sendall("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode())
        self._file = self.socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        self.headers: dict[str, str] = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()
        self.body = b"" if self.status == 101 else self._file.read(int(self.headers.get("content-length", "0")))

    def __enter__(self) -> "RawSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, text: bytes, opcode: int = 1) -> None:
        """Send a frame."""
        size, mask = len(text), b"\1\2\3\4"
        if size < 126:
            head = bytes((0x80 | opcode, 0x80 | size))
        elif size < 65536:
            head = bytes((0x80 | opcode, 0x80 | 126)) + struct.pack(">H", size)
        else:
            head = bytes((0x80 | opcode, 0x80 | 127)) + struct.pack(">Q", size)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(text))
        self.socket.sendall(head + mask + masked)

    def call(self, method: str, **params: Any) -> None:
        self.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())

    def receive(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame; (0, b"") when the connection has ended."""
        try:
            head = self._file.read(2)
            if len(head) < 2:
                return 0, b""
            size = head[1] & 0x7F
            if size == 126:
                (size,) = struct.unpack(">H", self._file.read(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self._file.read(8))
            return head[0] & 0x0F, self._file.read(size)
        except ConnectionError:
            return 0, b""

    def message(self) -> Any:
        """Return the next text message."""
        opcode, payload = self.receive()
        assert opcode == 1, (opcode, payload)
        return json.loads(payload)

    def answer(self) -> Any:
        """Return the next answer, past what the feed sends."""
        while "method" in (message := self.message()):
            pass
        return message

    def close_code(self) -> int:
        """Read to the end; return the code with which the master has closed."""
        code = 0
        while (frame := self.receive()) != (0, b""):
            if frame[0] == 8:
                code = int.from_bytes(frame[1][:2], "big")
        return code
