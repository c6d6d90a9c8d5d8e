"""Serves the control channel: POST /api/1 for calls, GET /feed for those who watch, GET /metrics for Prometheus, and
GET /ping, without a token, to check that a master is here.

The master starts it on its asyncio loop with a dispatcher. Before it reads a body, the server checks address, Host,
Origin and token, and it limits sizes and times; the dispatcher checks what a role may call. The server never serves
plain HTTP beyond this machine, and refuses pages of other sites. With `WebPages` it also serves the cluster's web page
(`page_handlers`), whose calls have the cookie of a web session instead of a token. It sets no other cookie.
"""

import asyncio
import contextlib
import errno
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler

from concurrent_nb.clock import monotonic
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.rate_limited_log import RateLimitedLog
from concurrent_nb.transport.addresses import advertised, bind, is_loopback, resolve
from concurrent_nb.transport.control_handlers import (
    CallHandler,
    Dispatches,
    MetricsHandler,
    PingHandler,
    ServerContext,
    UnknownHandler,
)
from concurrent_nb.transport.feed_handler import FEED_PATH, GOING_AWAY, FeedHandler, Watches
from concurrent_nb.transport.keys import TOKEN
from concurrent_nb.transport.page_handlers import page_rules
from concurrent_nb.transport.tls import TlsMaterial, server_context
from concurrent_nb.transport.web_files import WebFile
from concurrent_nb.transport.web_sessions import WebSessions
from concurrent_nb.wire import jsonrpc

log = logging.getLogger(__name__)


class ConnectionLimits(NamedTuple):
    """Limits of connections and requests."""

    body_bytes: int = jsonrpc.MAX_BODY_BYTES
    header_bytes: int = 16 * 1024
    #: seconds between two requests, and for a whole header; clients keep a connection for 5 s
    idle_s: float = 6.0
    #: seconds for a whole body
    body_s: float = 5.0
    #: seconds until the peer has received an answer
    answer_s: float = 10.0
    #: most open connections; a new one replaces the oldest that has sent no token
    connections: int = 512
    #: share of the connections that a role may have; beyond it the least recently used one is closed, preferably one
    #: without a running call. An eighth remains for new connections, so connections of a token cannot keep others out.
    shares: Mapping[str, float] = MappingProxyType({"client": 3 / 8, "slave": 1 / 4, "admin": 1 / 4})
    #: most connections of one role to the feed. They are counted apart: each has shown its token, lasts for long, and
    #: must not take the place of calls. Those of one role leave descriptors for the others
    readers_of_role: int = 750
    #: seconds without accepting when the system has no descriptor for a new connection
    pause_s: float = 1.0


class WebPages(NamedTuple):
    """What the web page of a cluster needs."""

    name: str  #: of the cluster
    sessions: WebSessions
    files: dict[str, WebFile]  #: by their names below /static/


_LIMITS: Final = ConnectionLimits()
METRICS_PATH: Final = "/metrics"
#: errno values if there is no descriptor or no memory for a connection
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: connections that are accepted in one turn of the loop
_ACCEPTS: Final = 128


class ControlServer:
    """An HTTP server on some addresses, for one dispatcher."""

    def __init__(
        self,
        dispatcher: Dispatches,
        tokens: Mapping[str, str],
        addresses: Sequence[str],
        port: int = 0,
        tls: TlsMaterial | None = None,
        *,
        names: Iterable[str] = (),
        limits: ConnectionLimits = _LIMITS,
        watches: Watches | None = None,
        metrics: Callable[[], Awaitable[tuple[str, bytes]]] | None = None,
        pages: WebPages | None = None,
    ) -> None:
        """Create a server; `start` binds it.

        Args:
            tokens: token to role.
            addresses: to bind, "0.0.0.0" and "::" for all; beyond this machine with `tls` only.
            port: 0 for a free one.
            names: further host names that clients may use in the Host header.
            watches: the live feed, at GET /feed; None if there is none.
            metrics: returns content type and text of `GET /metrics`; None to have none.
            pages: the web page; None: there is none, and cookies give no access.

        Raises ConfigurationError for invalid tokens.
        """
        if not tokens or not all(TOKEN.fullmatch(token) for token in tokens):
            raise ConfigurationError("tokens are a mapping of token to role, each of 16 to 256 printable characters")
        self._addresses = addresses
        self._port = port
        self._tls = tls
        self._limits = limits
        served = frozenset(name.lower() for name in [*addresses, *names])
        self._context = ServerContext(
            dispatcher,
            dict(tokens),
            served,
            limits.answer_s,
            role_of_cookie=None if pages is None else pages.sessions.role_of,
            watches=watches,
            metrics=metrics,
            readers_of_role_max=limits.readers_of_role,
        )
        self._pages = pages
        self._server: _Server | None = None
        self._endpoints: list[str] = []

    @property
    def endpoints(self) -> list[str]:
        """The URLs of the server, the best first. Empty until it is started."""
        return list(self._endpoints)

    async def start(self) -> None:
        """Bind and serve. Raises ConfigurationError if an address or the port is not available, or needs TLS."""
        resolved = resolve(self._addresses)
        if self._tls is None:
            _refuse_plain(resolved)
        self._server = _Server(
            self._application(),
            limits=self._limits,
            is_busy=self._context.running,
            ssl_options=server_context(self._tls) if self._tls is not None else None,
            max_header_size=self._limits.header_bytes,
            max_body_size=self._limits.body_bytes,
            max_buffer_size=2 * self._limits.body_bytes,
            body_timeout=self._limits.body_s,
            idle_connection_timeout=self._limits.idle_s,
        )
        self._context.on_authenticated = self._server.keep
        sockets = bind(resolved, self._port)
        self._server.add_sockets(sockets)
        scheme = "http" if self._tls is None else "https"
        self._endpoints = [f"{scheme}://{host}" for sock in sockets for host in advertised(sock)]
        log.info("control channel at %s", ", ".join(self._endpoints))

    async def stop(self, grace_s: float = 1.0) -> None:
        """Refuse new calls, give running ones `grace_s` seconds to answer, and close everything."""
        if self._server is None:
            return
        server, self._server, self._endpoints = self._server, None, []
        server.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._context.idle.wait(), grace_s)
        for connection in list(self._context.readers):
            connection.close(GOING_AWAY, "the master stops")
        await server.close_all_connections()

    def _application(self) -> Application:
        context = {"context": self._context}
        rules: list[Any] = [
            (jsonrpc.API_PATH, CallHandler, context),
            (jsonrpc.PING_PATH, PingHandler, context),
            (FEED_PATH, FeedHandler, context),
            (METRICS_PATH, MetricsHandler, context),
        ]
        if self._pages is not None:
            rules += page_rules(self._context, *self._pages)
        return Application(
            rules, default_handler_class=UnknownHandler, default_handler_args=context, log_function=_log_request
        )


class _Server(HTTPServer):
    """Tornado's server with limits on open connections, so that neither unknown peers nor one role use them up."""

    # Tornado's constructor calls `initialize`, without type checks.
    def initialize(  # type: ignore[override]
        self, *args: Any, limits: ConnectionLimits, is_busy: Container[IOStream], **kwargs: Any
    ) -> None:
        super().initialize(*args, **kwargs)
        self._limits = limits
        self._is_busy = is_busy  # with a running call
        self._limited_log = RateLimitedLog(log, lines=1)
        #: addresses of connections without a token so far, the oldest first
        self._without_token: dict[IOStream, str] = {}
        #: by role, addresses of connections with a token, the least recently used first
        self._by_role: dict[str, dict[IOStream, str]] = {}

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        for sock in sockets:
            self._sockets[sock.fileno()] = sock
            self._handlers[sock.fileno()] = _Acceptor(sock, self._handle_connection, self._limits.pause_s).stop

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if len(self._without_token) + sum(map(len, self._by_role.values())) >= self._limits.connections:
            oldest = next(iter(self._without_token), stream)
            self._without_token.pop(oldest, None)
            oldest.close()
            self._limited_log.warning(
                "stranger",
                monotonic(),
                "%d connections are open: closed one that has sent no token",
                self._limits.connections,
            )
            if oldest is stream:
                return
        self._without_token[stream] = str(address[0])
        super().handle_stream(stream, address)

    def keep(self, stream: IOStream, role: str) -> None:
        """Record the role of a connection's token; if the role has too many connections, close one of them."""
        of_role = self._by_role.setdefault(role, {})
        address = self._without_token.pop(stream, None) or of_role.pop(stream, None)
        if address is None:
            return
        of_role[stream] = address
        limit = max(1, int(self._limits.connections * self._limits.shares.get(role, 1 / 8)))
        if len(of_role) > limit:
            most, _ = Counter(of_role.values()).most_common(1)[0]
            others = [other for other in of_role if other is not stream]
            candidates = [other for other in others if of_role[other] == most] or others
            idlest = next((other for other in candidates if other not in self._is_busy), candidates[0])
            del of_role[idlest]
            idlest.close()
            self._limited_log.warning(
                role, monotonic(), "more than %d connections of role %s are open: closed one of %s", limit, role, most
            )

    def on_close(self, server_conn: object) -> None:
        stream = cast(HTTP1ServerConnection, server_conn).stream
        for of_role in (self._without_token, *self._by_role.values()):
            of_role.pop(stream, None)
        super().on_close(server_conn)


class _Acceptor:
    """Accepts connections of a listening socket; pauses while the system has no descriptor for one.

    Tornado's own retries immediately, and logs a traceback each time, until the disk is full.
    """

    def __init__(self, sock: socket.socket, accepted: Callable[[socket.socket, Any], None], pause_s: float) -> None:
        self._sock = sock
        self._accepted = accepted
        self._pause_s = pause_s
        self._limited_log = RateLimitedLog(log, lines=1)
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.TimerHandle | None = None
        self._stopped = False
        self._resume()

    def stop(self) -> None:
        """Stop accepting."""
        self._stopped = True
        if self._again is not None:
            self._again.cancel()
        else:
            self._loop.remove_reader(self._sock)

    def _resume(self) -> None:
        self._again = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            if self._stopped:
                return
            try:
                connection, address = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # closed while it waited
                continue
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._loop.remove_reader(self._sock)
                self._again = self._loop.call_later(self._pause_s, self._resume)
                text = "no connection can be accepted for the moment: %s (raise `ulimit -n`, or close what is open)"
                self._limited_log.warning("accept", monotonic(), text, error.strerror)
                return
            self._accepted(connection, address)


def _refuse_plain(addresses: Sequence[str]) -> None:
    for address in addresses:
        if not is_loopback(address):
            text = (
                f"plain HTTP on {address} would show tokens to the network: give the server TLS (`make_tls`, which "
                "needs pip install 'concurrent-nb[tls]'), or listen on 127.0.0.1 only"
            )
            raise ConfigurationError(text)


def _log_request(handler: RequestHandler) -> None:
    status = handler.get_status()
    level = logging.DEBUG if status < 400 else logging.INFO
    log.log(level, "%s %s from %s", handler.request.method, status, handler.request.remote_ip)
