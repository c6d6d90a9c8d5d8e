"""Serves the control channel: POST /api/1 for calls, GET /ping for anybody who wants to know whether a master is here.

The master starts it on its asyncio loop and gives it a dispatcher. It decides who may speak at all (address, Host,
Origin, token) and how much and how slowly, before a body is read; what a role may do is the dispatcher's business. It
never serves plain HTTP beyond this machine, sets no cookie, and gives no page of another site access.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.transport.addresses import advertised, bind, is_loopback, resolve
from concurrent_nb.transport.control_handlers import CallHandler, Desk, Dispatches, PingHandler, UnknownHandler
from concurrent_nb.transport.keys import TOKEN
from concurrent_nb.transport.tls import TlsMaterial, server_context
from concurrent_nb.wire import jsonrpc

log = logging.getLogger(__name__)


class Limits(NamedTuple):
    """How much a peer may take, in all and before it has shown a token."""

    body_bytes: int = jsonrpc.MAX_BODY_BYTES
    header_bytes: int = 16 * 1024
    #: between two requests, and from the first to the last byte of a header; clients keep a connection for 5 s
    idle_s: float = 10.0
    #: from the first to the last byte of a body
    body_s: float = 5.0
    #: until the peer has taken an answer
    answer_s: float = 10.0
    #: open at once; a new one takes the place of the oldest that has not shown a token
    connections: int = 512


_LIMITS: Final = Limits()


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
        limits: Limits = _LIMITS,
    ) -> None:
        """Bind nothing yet.

        tokens: token to the role that it gives. addresses: to bind, "0.0.0.0" and "::" for all; beyond this machine
        with `tls` only. port: 0 for a free one. names: other names of this host that a client may call it by.
        """
        if not tokens or not all(TOKEN.fullmatch(token) for token in tokens):
            raise ConfigurationError("tokens are a mapping of token to role, each of 16 to 256 printable characters")
        self._addresses = addresses
        self._port = port
        self._tls = tls
        self._limits = limits
        served = frozenset(name.lower() for name in [*addresses, *names])
        self._desk = Desk(dispatcher, dict(tokens), served, limits.answer_s)
        self._server: _Server | None = None
        self._endpoints: list[str] = []

    @property
    def endpoints(self) -> list[str]:
        """The URLs to reach it at, the best first. Empty until it is started."""
        return list(self._endpoints)

    async def start(self) -> None:
        """Bind and serve. ConfigurationError: an address or the port cannot be had, or needs TLS."""
        resolved = resolve(self._addresses)
        if self._tls is None:
            _refuse_plain(resolved)
        self._server = _Server(
            self._application(),
            capacity=self._limits.connections,
            ssl_options=server_context(self._tls) if self._tls is not None else None,
            max_header_size=self._limits.header_bytes,
            max_body_size=self._limits.body_bytes,
            max_buffer_size=2 * self._limits.body_bytes,
            body_timeout=self._limits.body_s,
            idle_connection_timeout=self._limits.idle_s,
        )
        self._desk.on_known = self._server.keep
        sockets = bind(resolved, self._port)
        self._server.add_sockets(sockets)
        scheme = "http" if self._tls is None else "https"
        self._endpoints = [f"{scheme}://{host}" for sock in sockets for host in advertised(sock)]
        log.info("control channel at %s", ", ".join(self._endpoints))

    async def stop(self, grace_s: float = 1.0) -> None:
        """Serve no new call, give those that run `grace_s` seconds to answer, and close everything."""
        if self._server is None:
            return
        server, self._server, self._endpoints = self._server, None, []
        server.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._desk.idle.wait(), grace_s)
        await server.close_all_connections()

    def _application(self) -> Application:
        desk = {"desk": self._desk}
        rules: list[Any] = [(jsonrpc.API_PATH, CallHandler, desk), (jsonrpc.PING_PATH, PingHandler, desk)]
        return Application(
            rules, default_handler_class=UnknownHandler, default_handler_args=desk, log_function=_log_request
        )


class _Server(HTTPServer):
    """Tornado's server with a limit on open connections that strangers cannot use up."""

    # Tornado constructs in `initialize`, and checks nobody's calls of it.
    def initialize(self, *args: Any, capacity: int, **kwargs: Any) -> None:  # type: ignore[override]
        super().initialize(*args, **kwargs)
        self._capacity = capacity
        #: connections in the order in which they came, and whether they have shown a token
        self._open: dict[IOStream, bool] = {}

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if len(self._open) >= self._capacity:
            oldest = next((other for other, known in self._open.items() if not known), stream)
            self._open.pop(oldest, None)
            oldest.close()
            log.warning("%d connections are open: closed one that has shown no token", self._capacity)
            if oldest is stream:
                return
        self._open[stream] = False
        super().handle_stream(stream, address)

    def keep(self, stream: IOStream) -> None:
        """Make no room at this connection's cost."""
        if stream in self._open:
            self._open[stream] = True

    def on_close(self, server_conn: object) -> None:
        self._open.pop(cast(HTTP1ServerConnection, server_conn).stream, None)
        super().on_close(server_conn)


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
