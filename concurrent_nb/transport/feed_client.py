"""Reads the live feed of a master, for Jupyter's server and for scripts: it reconnects, resumes, and keeps the state.

    reader = FeedReader("east")
    async for message in reader:
        if message.kind == "lost": ...          # reader.lost has the reason; the reader tries again
        print(reader.state["totals"])

`apply` is what any reader must do with a message; the web pages do the same.
"""

import asyncio
import base64
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

import msgspec
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from concurrent_nb.errors import AccessRefused, ConcurrentError, MasterUnreachable, ProtocolError
from concurrent_nb.transport import connection_file, tls
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.wire import jsonrpc

#: path of the feed
_PATH: Final = "/feed"
#: longest message of a master: a snapshot of 5,000 jobs and 256 slaves has 5 MB
MESSAGE_BYTES: Final = 64 * 1024 * 1024
#: seconds without a message after which the connection is given up; a master sends one every 2 s at least
SILENCE_S: Final = 10.0
#: shortest and longest pause before a connection is made again, in seconds
PAUSE_S, LONGEST_PAUSE_S = 0.1, 3.0
#: bytes of a mark of the task stream, and most marks that are kept
MARK_BYTES: Final = 28
MARKS_KEPT: Final = 10_000
#: most events that are kept
EVENTS_KEPT: Final = 100


class FeedMessage(NamedTuple):
    """What a reader yields."""

    kind: str  #: "snapshot", "delta", or "lost": the connection has ended, and is made again
    params: dict[str, Any]  #: as the master has sent them; of "lost": the reason as `reason`


def apply(state: dict[str, Any], kind: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return the state after a message, "snapshot" or "delta". The old state must not be used any more.

    In the state, the marks of the stream are bytes, and the last 10,000 are kept. Raises ProtocolError if a delta does
    not follow the state.
    """
    if kind == "snapshot":
        stream = params["stream"]
        return {**params, "stream": {**stream, "marks": base64.b64decode(stream["marks"])}}
    if (state.get("epoch"), state.get("seq")) != (params["epoch"], params["since"]):
        raise ProtocolError(f"a delta on state {params['since']} came to a reader of state {state.get('seq')}")
    for name in ("epoch", "seq", "time_s", "totals", "running"):
        if name in params:
            state[name] = params[name]
    for table in ("slaves", "jobs", "graphs"):
        entities: dict[str, Any] = state.setdefault(table, {})
        for key in params.get("gone", {}).get(table, ()):
            entities.pop(key, None)
        entities.update(params.get(table, {}))
    if "events" in params:
        state["events"] = [*state["events"], *params["events"]][-EVENTS_KEPT:]
    if "stream" in params:
        state["stream"] = _apply_stream(state["stream"], params["stream"])
    return state


def _apply_stream(stream: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    marks = stream["marks"] + base64.b64decode(changes["marks"])
    skipped = stream["skipped"] + changes["skipped"]
    first = stream["first"]
    if (cut_bytes := len(marks) - MARKS_KEPT * MARK_BYTES) > 0:
        marks = marks[cut_bytes:]
        first += cut_bytes // MARK_BYTES
    tables = {name: changes.get(name, stream[name]) for name in ("lanes", "functions")}
    return {**stream, **tables, "first": first, "skipped": skipped, "marks": marks}


class FeedReader:
    """A reader of a cluster's feed, to be iterated over once, in an asyncio loop.

    Args:
        cluster: name of the cluster, or path of its connection file, which is read again for each connection: a master
            that was started anew has another one.
        role: whose token is used, "admin" or "client".
        session, secret: of an application, whose jobs a client sees.
    """

    def __init__(self, cluster: str | Path, role: str = "admin", session: str = "", secret: str = "") -> None:
        self.state: dict[str, Any] = {}  #: after the last message; {} before the first
        self.lost = ""  #: why there is no connection; "" if there is one
        self._cluster = cluster
        self._role = role
        self._watch = {"session": session, "secret": secret}
        self._socket: WebSocketClientConnection | None = None
        self._closed = asyncio.Event()

    async def __aenter__(self) -> "FeedReader":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the iteration."""
        self._closed.set()
        if self._socket is not None:
            self._socket.close()

    async def __aiter__(self) -> AsyncIterator[FeedMessage]:
        """Yield each message after it was applied to `state`. Never ends by itself, whatever happens to the master."""
        pause_s = PAUSE_S
        while not self._closed.is_set():
            try:
                async for message in self._messages():
                    self.lost, pause_s = "", PAUSE_S
                    yield message
            except (ConcurrentError, OSError) as error:
                self.lost = str(error)
                yield FeedMessage("lost", {"reason": self.lost})
            finally:
                if self._socket is not None:
                    self._socket.close()
                    self._socket = None
            # At random, as all readers of a master lose it at the same time.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _messages(self) -> AsyncIterator[FeedMessage]:
        """Yield what one connection brings. Raises MasterUnreachable when it ends, and what the master refuses with."""
        info = await asyncio.to_thread(connection_file.read, self._cluster)
        self._socket = socket = await self._connect(info)
        since = [self.state["epoch"], self.state["seq"]] if self.state else None
        await socket.write_message(jsonrpc.encode_call("watch", {"since": since, **self._watch}, 1))
        while not self._closed.is_set():
            try:
                text = await asyncio.wait_for(socket.read_message(), SILENCE_S)
            except TimeoutError:
                raise MasterUnreachable(f"the master has sent nothing for {SILENCE_S:.0f} s") from None
            if text is None:
                if self._closed.is_set():
                    return
                reason = jsonrpc.printable(socket.close_reason or "it has closed the connection")
                raise MasterUnreachable(f"the master does not send any more: {reason}")
            message = _decode(text)
            if message is not None:
                self._apply(message)
                yield message

    def _apply(self, message: FeedMessage) -> None:
        """Apply a message. Raises ProtocolError, and begins with a snapshot again, if it cannot be applied."""
        before, self.state = self.state, {}
        try:
            self.state = apply(before, message.kind, message.params)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            text = f"{type(error).__name__}: {jsonrpc.clipped(str(error))}"
            raise ProtocolError(f"the master has sent a {message.kind} that is none ({text})") from None

    async def _connect(self, info: ConnectionFile) -> WebSocketClientConnection:
        """Connect to the first endpoint at which a master answers: no token is sent to anything else."""
        if self._role not in info.tokens:
            raise AccessRefused(f"the connection file of {info.name} has no token of role {self._role}")
        token = info.tokens[self._role]

        def find() -> str:
            with ControlClient(info.endpoints, token, info.certificate_pem) as control:
                control.call("ping")
                return control.endpoint

        url = await asyncio.to_thread(find)
        context = tls.client_context(info.certificate_pem) if info.certificate_pem else None
        headers = {"Authorization": f"Bearer {token}"}
        address = url.replace("http", "ws", 1).rstrip("/") + _PATH
        request = HTTPRequest(address, headers=headers, ssl_options=context, follow_redirects=False)
        try:
            return await websocket_connect(request, max_message_size=MESSAGE_BYTES)
        except HTTPClientError as error:
            body = error.response.body if error.response is not None else b""
            with contextlib.suppress(ProtocolError):
                jsonrpc.read_answer(body, 1)
            raise MasterUnreachable(f"the master at {url} refuses the feed: {error}") from None


def _decode(text: str | bytes) -> FeedMessage | None:
    """Return a message, None for the answer to `watch`. Raises the error of that answer."""
    try:
        value = msgspec.json.decode(text)
    except ValueError as error:
        raise ProtocolError(f"the master has sent no JSON: {jsonrpc.clipped(str(error))}") from None
    if isinstance(value, dict) and value.get("method") in ("snapshot", "delta") and isinstance(value["params"], dict):
        return FeedMessage(value["method"], value["params"])
    jsonrpc.read_answer(text.encode() if isinstance(text, str) else text, 1)
    return None
