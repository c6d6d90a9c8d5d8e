"""The handlers of the control server: checks before the body, and one handler per path; `page_handlers` has the page's.

A request under a foreign host name (DNS rebinding), from a page of another site, or without a token or the cookie of a
web session is refused before its body is read. Refusals are JSON-RPC errors, so that a client raises them with their
class.
"""

import asyncio
import contextlib
import hmac
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, cast

from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream, StreamClosedError
from tornado.web import RequestHandler, stream_request_body

from concurrent_nb.errors import AccessRefused, ConcurrentError, ProtocolError, VersionMismatch
from concurrent_nb.transport.addresses import is_loopback, plain_host
from concurrent_nb.wire import jsonrpc
from concurrent_nb.wire.jsonrpc import Answer, Caller, Fault

if TYPE_CHECKING:
    from concurrent_nb.transport.feed_handler import FeedConnection, Watches

_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+?)\.?)(?::\d{1,5})?", re.IGNORECASE)
_BEARER: Final = re.compile(r"Bearer +([!-~]{1,256})", re.IGNORECASE)
#: roles that may read the metrics
METRICS_ROLES: Final = ("admin", "client")
_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Dispatches(Protocol):
    """The interface of rpc.Dispatcher, which this layer may not import."""

    async def dispatch(self, body: bytes, caller: Caller) -> bytes | None:
        """Carry out a body of calls; return the body of answers, None if no call expects one."""


@dataclass
class ServerContext:
    """State that all handlers of one server share."""

    dispatcher: Dispatches
    tokens: dict[str, str]  #: token to role
    names: frozenset[str]  #: host names and addresses, lower case, allowed in the Host header
    answer_s: float  #: seconds in which a peer must receive its answer
    on_authenticated: Callable[[IOStream, str], object] = lambda stream, role: (
        None
    )  #: called with each connection that sends a valid token, and its role
    #: returns the role of the web session whose cookie is in a Cookie header, None if there is none; None: no sessions.
    #: Browsers send cookies by themselves, so a handler that accepts one also requires an Origin header.
    role_of_cookie: Callable[[str], str | None] | None = None
    watches: "Watches | None" = None  #: the live feed; None if there is none
    readers_of_role_max: int = 1  #: most connections of one role to the feed
    readers: "dict[FeedConnection, None]" = field(default_factory=dict)  #: open connections to the feed
    metrics: Callable[[], Awaitable[tuple[str, bytes]]] | None = None  #: returns content type and text of the metrics
    running: set[IOStream] = field(default_factory=set)  #: connections with a running call
    idle: asyncio.Event = field(default_factory=asyncio.Event)  #: set while there are no running calls

    def __post_init__(self) -> None:
        self.idle.set()

    @contextlib.contextmanager
    def working(self, stream: IOStream) -> Iterator[None]:
        """Count a call while it runs; a connection has one at a time."""
        self.running.add(stream)
        self.idle.clear()
        try:
            yield
        finally:
            self.running.discard(stream)
            if not self.running:
                self.idle.set()

    def serves(self, host_header: str, local_host: str) -> bool:
        """Return whether the Host header is allowed on a connection to our address `local_host`."""
        match = _HOST.fullmatch(host_header)
        if match is None:
            return False
        host = plain_host((match[1] or match[2]).lower())
        return host == local_host or host in self.names or (is_loopback(local_host) and host in _LOCAL_NAMES)

    def role_of(self, authorization: str) -> str | None:
        """Return the role of the token in a header, in constant time; None if the token is unknown."""
        match = _BEARER.fullmatch(authorization)
        given = match[1].encode() if match else b""
        roles = [role for token, role in self.tokens.items() if hmac.compare_digest(token.encode(), given)]
        return roles[0] if roles else None


@stream_request_body
class Guarded(RequestHandler):
    """Refuses requests that are not allowed before their body is read."""

    verb: ClassVar[str] = ""

    def initialize(self, context: ServerContext) -> None:
        self._context = context
        self._stream = cast(HTTP1Connection, self.request.connection).stream

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        if self._stream.closed():
            return self._refuse(400, ProtocolError("the peer has disconnected"))
        self._local_host = plain_host(self._stream.socket.getsockname()[0])
        refusal = self._other_site() or self._other_verb() or self._not_allowed()
        if refusal is not None:
            self._refuse(*refusal)

    def data_received(self, chunk: bytes) -> None:
        """Drop the body of requests that need none."""

    def compute_etag(self) -> str | None:
        return None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        text = (
            "internal error" if status_code >= 500 else f"not a request of a concurrent_nb client (HTTP {status_code})"
        )
        code = jsonrpc.INTERNAL_ERROR if status_code >= 500 else jsonrpc.INVALID_REQUEST
        self.finish(jsonrpc.encode_answers([Answer(id=None, error=Fault(code, text))], batch=False) or b"")

    def _refuse(self, status: int, error: ConcurrentError) -> None:
        self.set_status(status)
        self.finish(jsonrpc.encode_answers([Answer(id=None, error=jsonrpc.fault_of(error))], batch=False) or b"")

    def _other_site(self) -> tuple[int, ConcurrentError] | None:
        hosts = self.request.headers.get_list("Host")
        if len(hosts) != 1 or not self._context.serves(hosts[0], self._local_host):
            return 403, AccessRefused("this master does not go by that host name: add it to the names that it serves")
        origin = self.request.headers.get("Origin")
        if origin is not None and origin.lower() != f"{self.request.protocol}://{hosts[0].lower()}":
            return 403, AccessRefused("pages of other sites have no access")
        return None

    @property
    def _cookies(self) -> str:
        """The cookies of the request, as in one Cookie header."""
        return ";".join(self.request.headers.get_list("Cookie"))

    def _role_of_session(self) -> str | None:
        """Return the role of the request's web session; None if it has none."""
        return None if self._context.role_of_cookie is None else self._context.role_of_cookie(self._cookies)

    async def _send(self, body: bytes | None) -> None:
        """Answer; cut off a peer that does not receive the answer, which would stay in memory."""
        sent = self.finish(body)
        done, _ = await asyncio.wait([sent], timeout=self._context.answer_s)
        if not done:
            self._stream.close()
        elif not sent.cancelled() and not isinstance(sent.exception(), StreamClosedError):
            sent.result()

    def _other_verb(self) -> tuple[int, ConcurrentError] | None:
        if self.request.method == self.verb:
            return None
        self.set_header("Allow", self.verb)
        return 405, ProtocolError(f"only {self.verb} is served here")

    def _not_allowed(self) -> tuple[int, ConcurrentError] | None:
        """Return the refusal by the checks of this path, None if it is allowed."""
        return None


class CallHandler(Guarded):
    """POST /api/1: calls; needs a token, or the cookie of a web session and an Origin header."""

    verb = "POST"

    def initialize(self, context: ServerContext) -> None:
        super().initialize(context)
        self._chunks: list[bytes] = []

    def data_received(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    async def post(self) -> None:
        with self._context.working(self._stream):
            answer = await self._context.dispatcher.dispatch(b"".join(self._chunks), self._caller)
            if answer is None:
                self.set_status(204)
                self.clear_header("Content-Type")
            await self._send(answer)

    def _not_allowed(self) -> tuple[int, ConcurrentError] | None:
        if authorizations := self.request.headers.get_list("Authorization"):
            role = self._context.role_of(",".join(authorizations))
        else:
            role = self._role_of_session()
            # Browsers send the cookie with requests of other sites too, and this header distinguishes them.
            if role is not None and "Origin" not in self.request.headers:
                return 403, AccessRefused("a call with the cookie of a web session needs an Origin header")
        if role is None:
            self.set_header("WWW-Authenticate", "Bearer")
            text = "this master does not know the token: take it from the cluster's present connection file"
            return 401, AccessRefused(text)
        self._context.on_authenticated(self._stream, role)
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            return 415, ProtocolError("calls are application/json")
        if "Content-Encoding" in self.request.headers:
            return 415, ProtocolError("calls are not compressed")
        remote_host = plain_host(str(self.request.remote_ip))
        self._caller = Caller(role=role, local_host=self._local_host, remote_host=remote_host)
        return None


class MetricsHandler(Guarded):
    """GET /metrics: the metrics for Prometheus; needs a token of role admin or client."""

    verb = "GET"

    async def get(self) -> None:
        assert self._context.metrics is not None
        with self._context.working(self._stream):
            content_type, text = await self._context.metrics()
            self.set_header("Content-Type", content_type)
            sent = self.finish(text)
            done, _ = await asyncio.wait([sent], timeout=self._context.answer_s)
            if not done:  # as in `CallHandler`
                self._stream.close()

    def _not_allowed(self) -> tuple[int, ConcurrentError] | None:
        if self._context.metrics is None:
            return 404, ProtocolError("this server has no metrics")
        role = self._context.role_of(",".join(self.request.headers.get_list("Authorization")))
        if role is None:
            self.set_header("WWW-Authenticate", "Bearer")
            return 401, AccessRefused("metrics need a token of the cluster's present connection file")
        self._context.on_authenticated(self._stream, role)
        if role not in METRICS_ROLES:
            return 403, AccessRefused(f"metrics need a token of role {' or '.join(METRICS_ROLES)}, not {role}")
        return None


class PingHandler(Guarded):
    """GET /ping: confirms that a master is here; needs no token."""

    verb = "GET"

    def get(self) -> None:
        self.set_header("Content-Type", "text/plain")
        self.finish(jsonrpc.PONG)


class UnknownHandler(Guarded):
    """All other paths: 404."""

    def _other_verb(self) -> tuple[int, ConcurrentError] | None:
        if re.fullmatch(r"/api/\d{1,9}", self.request.path):
            text = f"this master serves {jsonrpc.API_PATH}, not {self.request.path}: install the same version on both"
            return 404, VersionMismatch(text)
        return 404, ProtocolError(f"a master serves {jsonrpc.API_PATH}, {jsonrpc.PING_PATH} and /feed only")
