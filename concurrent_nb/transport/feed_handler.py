"""The live feed on the control channel: `GET /feed`, a WebSocket to which the master sends the state of the cluster.

Host, Origin and token are checked as for calls, before the upgrade; a browser may show the cookie of its session
instead of a token. A reader sends `watch` and `ping` only, as JSON-RPC: no method of the registry can be called here.
What is sent is decided by a `Watches` (the master's live feed), which sends nothing to a connection that has not taken
what it was sent before. So a slow reader costs one message.
"""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Final, Protocol

import msgspec
from tornado.iostream import IOStream, StreamClosedError
from tornado.websocket import WebSocketHandler

from concurrent_nb.clock import monotonic
from concurrent_nb.errors import AccessRefused, ConcurrentError, LimitExceeded, ProtocolError
from concurrent_nb.transport.control_handlers import Guarded, ServerContext
from concurrent_nb.wire import jsonrpc
from concurrent_nb.wire.jsonrpc import Answer, Call, Fault, RpcError

FEED_PATH: Final = "/feed"
#: roles that may watch
ROLES: Final = frozenset({"admin", "client"})
#: longest message of a reader
MESSAGE_BYTES: Final = 4096
#: errors with which a connection is closed
ERRORS_MAX: Final = 3
#: answers that a reader may leave unread
UNREAD_MAX: Final = 8
#: most bytes for one connection in the system's buffer, which would grow to several MiB for a reader that does not read
SEND_BUFFER_BYTES: Final = 256 * 1024
#: seconds between two looks whether the web session of a reader is over; a logout is noticed at once
SESSION_CHECK_S: Final = 60.0
#: reasons for closing, as in RFC 6455
GOING_AWAY, POLICY_VIOLATION, INTERNAL_ERROR = 1001, 1008, 1011
#: an unfragmented text frame
_TEXT: Final = 0x81


class WatchParams(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of `watch`."""

    since: tuple[int, int] | None = None  #: epoch and number of the state that the reader has
    session: str = ""  #: of an application, hexadecimal: the reader sees the jobs of its owner
    secret: str = ""  #: of that session


class FeedConnection:
    """The connection of one reader.

    Args:
        role: of its token.
        stream: below the WebSocket.
        close: closes the WebSocket, with a code and a reason.
        is_allowed: returns whether its web session, if that gave it access, is not over.
    """

    def __init__(
        self,
        role: str,
        stream: IOStream,
        close: Callable[[int, str], None],
        is_allowed: Callable[[], bool] = lambda: True,
    ) -> None:
        self.role = role
        self.is_allowed = is_allowed
        self.since: tuple[int, int] | None = None  #: the state that the reader has
        self.served_s = monotonic()  #: when the last part of the feed was sent
        self.frame = b""  #: that part
        self._stream = stream
        self._close = close
        self._unsent: deque[asyncio.Future[None]] = deque()

    @property
    def is_open(self) -> bool:
        """Whether something can be sent."""
        return not self._stream.closed()

    @property
    def unsent(self) -> int:
        """The number of messages that the system has not taken completely."""
        while self._unsent and self._unsent[0].done():
            self._unsent.popleft()
        return len(self._unsent)

    def send(self, frame: bytes) -> None:
        """Send a message that `frame_of` has made. It is dropped if the connection has ended."""
        with contextlib.suppress(StreamClosedError):
            self._unsent.append(self._stream.write(frame))

    def serve(self, frame: bytes, state: tuple[int, int]) -> None:
        """Send a part of the feed, with which the reader has a state: epoch and number."""
        self.send(frame)
        self.frame, self.since, self.served_s = frame, state, monotonic()

    def close_unless_allowed(self) -> None:
        """End the connection if its web session is over."""
        if not self.is_allowed():
            self.close(POLICY_VIOLATION, "the login has ended")

    def close(self, code: int, reason: str) -> None:
        """End the connection. The reader gets the reason if it reads."""
        self._close(code, reason)
        # What the system has not taken by now is dropped: the reader may never take it.
        self._stream.close()


class Watches(Protocol):
    """The interface of the master's live feed, which this layer may not import."""

    interval_s: float  #: the shortest time between two messages

    async def watch(self, connection: FeedConnection, session: str, secret: str) -> None:
        """Send to a connection from now on, beginning after the state `since`. Raises AccessRefused."""

    def leave(self, connection: FeedConnection) -> None:
        """Forget a connection, which has ended."""


def frame_of(message: bytes) -> bytes:
    """Return a message as a frame, which can be sent to any number of connections."""
    size = len(message)
    if size < 126:
        return bytes((_TEXT, size)) + message
    if size < 1 << 16:
        return bytes((_TEXT, 126)) + size.to_bytes(2, "big") + message
    return bytes((_TEXT, 127)) + size.to_bytes(8, "big") + message


class FeedHandler(Guarded, WebSocketHandler):
    """GET /feed: the live feed; needs a token, or the cookie of a session."""

    verb: ClassVar[str] = "GET"

    def initialize(self, context: ServerContext) -> None:
        super().initialize(context)
        self._connection: FeedConnection | None = None
        self._errors = 0
        self._first: asyncio.TimerHandle | None = None
        self._session_check: asyncio.TimerHandle | None = None
        self._cookies_used = ""

    @property
    def max_message_size(self) -> int:
        """The limit of Tornado, which closes the connection beyond it."""
        return MESSAGE_BYTES

    def get_compression_options(self) -> None:
        """Compress nothing: it would cost memory for each connection, and time for each message."""

    def _not_allowed(self) -> tuple[int, ConcurrentError] | None:
        context, headers = self._context, self.request.headers
        if context.watches is None:
            return 404, ProtocolError("this server has no feed")
        authorization = ",".join(headers.get_list("Authorization"))
        role = context.role_of(authorization) if authorization else None
        # A browser sends a cookie along with what pages of other sites ask for, and always their Origin.
        if not authorization and context.role_of_cookie is not None and "Origin" in headers:
            self._cookies_used = ",".join(headers.get_list("Cookie"))
            role = context.role_of_cookie(self._cookies_used)
        if role is None:
            self.set_header("WWW-Authenticate", "Bearer")
            text = "this master does not know the token: take it from the cluster's present connection file"
            return 401, AccessRefused(text)
        if role not in ROLES:
            return 403, AccessRefused(f"the feed needs a token of role admin or client; this one is of role {role}")
        if sum(each.role == role for each in context.readers) >= context.readers_of_role_max:
            text = f"{context.readers_of_role_max} readers of role {role} watch, and there may be no more: close some"
            return 503, LimitExceeded(text)
        # `on_authenticated` is not called: it counts connections for calls, of which this is none in a moment, and may
        # close others of the role that are just being upgraded.
        self._role = role
        return None

    def open(self, *args: str, **kwargs: str) -> None:
        self._connection = connection = FeedConnection(self._role, self._stream, self.close, self._is_allowed)
        self._stream.set_nodelay(True)
        self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._context.readers[connection] = None
        loop = asyncio.get_running_loop()
        self._first = loop.call_later(self._context.answer_s, self._cut, "no `watch` came in time")
        if self._cookies_used:
            self._session_check = loop.call_later(SESSION_CHECK_S, self._check_session)

    async def on_message(self, message: str | bytes) -> None:
        connection = self._connection
        if connection is None or not connection.is_open:
            return
        if connection.unsent >= UNREAD_MAX:
            self._cut(f"{UNREAD_MAX} messages were not read")
            return
        answer = await self._answer(message.encode() if isinstance(message, str) else message, connection)
        if answer is None:
            return
        connection.send(frame_of(jsonrpc.encode_answers([answer], batch=False) or b""))
        if answer.error is not msgspec.UNSET:
            self._errors += 1
            if self._errors >= ERRORS_MAX:
                self._cut(f"{ERRORS_MAX} errors: send `watch` or `ping`, see the protocol")

    def on_close(self) -> None:
        for timer in (self._first, self._session_check):
            if timer is not None:
                timer.cancel()
        if (connection := self._connection) is not None:
            self._connection = None
            self._context.readers.pop(connection, None)
            if self._context.watches is not None:
                self._context.watches.leave(connection)

    async def _answer(self, body: bytes, connection: FeedConnection) -> Answer | None:
        """Carry out a call; return its answer, None for a notification that has succeeded."""
        request = jsonrpc.parse(body)
        call = request.items[0]
        if request.batch:
            return Answer(id=None, error=Fault(jsonrpc.INVALID_REQUEST, "a feed takes one call at a time, no batch"))
        if isinstance(call, Answer):
            return call
        try:
            answer = Answer(id=call.id, result=await self._run(call, connection))
            return answer if call.wants_answer else None
        except ConcurrentError as error:
            return Answer(id=call.id, error=jsonrpc.fault_of(error))

    async def _run(self, call: Call, connection: FeedConnection) -> Any:
        if call.method == "ping":
            return "pong"
        if call.method != "watch":
            text = "a feed has the methods watch and ping only; others are called at " + jsonrpc.API_PATH
            raise RpcError(jsonrpc.METHOD_NOT_FOUND, text)
        try:
            params = msgspec.convert(call.params, WatchParams)
        except msgspec.ValidationError as error:
            raise RpcError(jsonrpc.INVALID_PARAMS, f"parameters of watch: {jsonrpc.clipped(str(error))}") from None
        watches = self._context.watches
        assert watches is not None  # or the request would have been refused
        connection.since = params.since
        await watches.watch(connection, params.session, params.secret)
        if self._connection is None:  # it has ended meanwhile
            watches.leave(connection)
        if self._first is not None:
            self._first.cancel()
        return {"interval_s": watches.interval_s}

    def _is_allowed(self) -> bool:
        role_of_cookie = self._context.role_of_cookie
        return not self._cookies_used or role_of_cookie is None or role_of_cookie(self._cookies_used) is not None

    def _check_session(self) -> None:
        if (connection := self._connection) is not None:
            connection.close_unless_allowed()
            self._session_check = asyncio.get_running_loop().call_later(SESSION_CHECK_S, self._check_session)

    def _cut(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.close(POLICY_VIOLATION, reason)
