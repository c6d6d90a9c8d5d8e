"""A reverse proxy, as administrators put one before a Jupyter server: HTTP and WebSockets, below one prefix.

The browser sees another host and port than the server has. As Jupyter's documentation asks of a proxy, the Host header
is that of the browser.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from tornado.httpclient import HTTPClientError, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders
from tornado.netutil import bind_sockets
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, WebSocketHandler, websocket_connect

from tests.serving import looping

#: a name of this machine that a browser knows without asking anybody
HOST: Final = "lab.localhost"
_OF_A_CONNECTION: Final = frozenset(
    {"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_LARGEST_BYTES: Final = 64 * 1024 * 1024
_SECONDS: Final = 60.0


def _passed_on(headers: HTTPHeaders, remote_host: str | None = None) -> HTTPHeaders:
    """Return the headers that are not about one connection, with those that proxies add to a request."""
    kept = HTTPHeaders()
    for name, value in headers.get_all():
        if name.lower() not in _OF_A_CONNECTION and not name.lower().startswith("sec-websocket-"):
            kept.add(name, value)
    if remote_host is not None:
        kept["X-Forwarded-For"] = kept["X-Real-IP"] = remote_host
        kept["X-Forwarded-Proto"] = "http"
    return kept


class _Pages(RequestHandler):
    """Passes requests on."""

    def initialize(self, target: str, client: SimpleAsyncHTTPClient) -> None:
        self.target, self.client = target, client

    def compute_etag(self) -> str | None:
        return None

    async def _pass_on(self, *_: str) -> None:
        request = self.request
        response: HTTPResponse = await self.client.fetch(
            HTTPRequest(
                f"http://{self.target}{request.uri}",
                method=str(request.method),
                headers=_passed_on(request.headers, request.remote_ip),
                body=request.body or None,
                allow_nonstandard_methods=True,
                follow_redirects=False,
                decompress_response=False,
                connect_timeout=_SECONDS,
                request_timeout=_SECONDS,
            ),
            raise_error=False,
        )
        self.set_status(response.code, response.reason)
        self._headers = _passed_on(response.headers)
        if response.body:
            self.write(response.body)

    get = head = post = put = patch = delete = options = _pass_on


class _Sockets(WebSocketHandler):
    """Passes messages of both sides on."""

    connecting: ClassVar[set[object]] = set()  #: handlers whose connections to the server are being opened

    def initialize(self, target: str, connections: set[WebSocketClientConnection]) -> None:
        self.target, self.connections = target, connections
        self.server: WebSocketClientConnection | None = None

    def check_origin(self, origin: str) -> bool:
        return True  # the server checks it

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return None if self.server is None else self.server.selected_subprotocol

    async def get(self, *args: Any, **kwargs: Any) -> None:
        offered = self.request.headers.get("Sec-WebSocket-Protocol", "")
        self.connecting.add(self)
        try:
            self.server = await websocket_connect(
                HTTPRequest(
                    f"ws://{self.target}{self.request.uri}",
                    headers=_passed_on(self.request.headers, self.request.remote_ip),
                    connect_timeout=_SECONDS,
                    request_timeout=_SECONDS,
                ),
                max_message_size=_LARGEST_BYTES,
                subprotocols=[each.strip() for each in offered.split(",") if each.strip()] or None,
            )
        except HTTPClientError as error:
            raise HTTPError(error.code) from None
        finally:
            self.connecting.discard(self)
        self.connections.add(self.server)
        await super().get(*args, **kwargs)

    def open(self, *args: str, **kwargs: str) -> None:
        self.relaying = asyncio.ensure_future(self._relay())

    async def _relay(self) -> None:
        assert self.server is not None
        with contextlib.suppress(WebSocketClosedError):
            while (message := await self.server.read_message()) is not None:
                await self.write_message(message, binary=isinstance(message, bytes))
        self.close(self.server.close_code, self.server.close_reason)

    async def on_message(self, message: str | bytes) -> None:
        assert self.server is not None
        with contextlib.suppress(WebSocketClosedError):
            await self.server.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        if self.server is not None:
            self.server.close()


class _Router(Application):
    """Tells WebSockets from requests by their headers, as all paths may have both."""

    def find_handler(self, request: Any, **kwargs: Any) -> Any:
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        handler, needs = (_Sockets, "connections") if is_socket else (_Pages, "client")
        return self.get_handler_delegate(request, handler, {name: self.settings[name] for name in ("target", needs)})


@contextlib.contextmanager
def reverse_proxy(port: int) -> Iterator[str]:
    """Run a proxy before a server on a port of this machine; give the address that browsers use, without a path."""
    (sock,) = bind_sockets(0, "127.0.0.1")
    connections = set[WebSocketClientConnection]()

    async def start() -> tuple[HTTPServer, SimpleAsyncHTTPClient]:
        client = SimpleAsyncHTTPClient(force_instance=True, max_clients=100, max_body_size=_LARGEST_BYTES)
        router = _Router(
            target=f"127.0.0.1:{port}", client=client, connections=connections, log_function=lambda handler: None
        )
        server = HTTPServer(router, max_body_size=_LARGEST_BYTES)
        server.add_socket(sock)
        return server, client

    async def stop(server: HTTPServer, client: SimpleAsyncHTTPClient) -> None:
        server.stop()
        await server.close_all_connections()
        for _ in range(100):  # requests whose answers come only now
            if not client.active and not _Sockets.connecting:
                break
            await asyncio.sleep(0.05)
        client.close()
        for connection in connections:  # also those whose browsers left while they were opened
            protocol = connection.protocol
            connection.close()
            if protocol is not None and protocol.stream is not None:
                protocol.stream.close()
        await asyncio.sleep(0.1)  # the relays see that their connections have ended

    with looping() as loop:
        server, client = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        try:
            yield f"http://{HOST}:{sock.getsockname()[1]}"
        finally:
            asyncio.run_coroutine_threadsafe(stop(server, client), loop).result(10)
