"""The Jupyter Server extension: the way from a browser to this user's clusters, under Jupyter's login and base URL.

    GET    concurrent-nb/clusters              the clusters whose connection files the server's user can read
    POST   concurrent-nb/clusters              {"name": ..., "workers": N or null}: starts one
    DELETE concurrent-nb/clusters/NAME         stops one
    POST   concurrent-nb/clusters/NAME/call    {"method": ..., "params": {...}}: calls its master
    WebSocket concurrent-nb/clusters/NAME/feed relays the feed of its master

It has no port of its own. Every path needs Jupyter's login, its check of origins and XSRF, and its authorizer; tokens
stay here. Errors are `{"message": ..., "error": ...}`, with a JSON-RPC error object that names the class.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.serverapp import ServerApp
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, WebSocketHandler, websocket_connect

from concurrent_nb.errors import ClusterNotFound, ConcurrentError, ConfigurationError, MasterUnreachable
from concurrent_nb.transport import tls
from concurrent_nb.transport.connection_file import check_name
from concurrent_nb.web.local_clusters import LocalClusters, status_code
from concurrent_nb.wire import jsonrpc

log = logging.getLogger(__name__)
T = TypeVar("T")

#: the resource about which Jupyter's authorizer is asked
AUTH_RESOURCE: Final = "concurrent_nb"
#: the path of the feed at a master
FEED_PATH: Final = "/feed"
#: longest message of a browser, and of a master
WATCH_BYTES: Final = 4 * 1024
FEED_BYTES: Final = 16 * 1024 * 1024
#: seconds to connect to a master
CONNECT_S: Final = 5.0
#: codes with which the feed is closed: there is no such cluster; its master is lost or refuses
NO_CLUSTER: Final = 4404
NO_MASTER: Final = 4502
#: codes of RFC 6455 that may be sent, unlike those for an end without a close frame
_SENDABLE: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011})
#: most bytes of the reason in a close frame
_REASON_BYTES: Final = 120


class StartRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request to start a cluster."""

    name: str
    workers: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None


class CallRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request to call a master."""

    method: str
    params: dict[str, Any] = {}


class _ClusterHandler(APIHandler):
    """Answers in JSON, errors of this package too."""

    auth_resource = AUTH_RESOURCE

    def initialize(self, clusters: LocalClusters) -> None:
        self.clusters = clusters

    async def answer(self, work: Awaitable[T], status: int = 200) -> None:
        """Send the result of some work, or the error that it raises."""
        try:
            result = await work
        except ConcurrentError as error:
            self.refuse(error)
        else:
            self.set_status(status)
            self.finish(json.dumps(result) if status != 204 else None)

    def refuse(self, error: ConcurrentError) -> None:
        """Send an error."""
        fault = jsonrpc.fault_of(error)
        self.set_status(status_code(error))
        self.finish(json.dumps({"message": fault.message, "error": msgspec.to_builtins(fault)}))

    def body_as(self, kind: type[T]) -> T:
        """Return the body of the request. Raises ConfigurationError if it is not of this kind."""
        try:
            return msgspec.json.decode(self.request.body, type=kind)
        except (ValueError, RecursionError) as error:
            text = f"the request of {self.request.path.rpartition('/')[2]} does not fit: {error}"
            raise ConfigurationError(jsonrpc.printable(text)) from None


class ClustersHandler(_ClusterHandler):
    """concurrent-nb/clusters."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        await self.answer(self.clusters.all())

    @web.authenticated
    @authorized
    async def post(self) -> None:
        try:
            request = self.body_as(StartRequest)
        except ConfigurationError as error:
            return self.refuse(error)
        await self.answer(self.clusters.start(request.name, request.workers), 201)


class OneClusterHandler(_ClusterHandler):
    """concurrent-nb/clusters/NAME."""

    @web.authenticated
    @authorized
    async def delete(self, name: str) -> None:
        await self.answer(self.clusters.stop(name), 204)


class ClusterCallHandler(_ClusterHandler):
    """concurrent-nb/clusters/NAME/call: the answer is that of JSON-RPC."""

    @web.authenticated
    @authorized(action="execute")
    async def post(self, name: str) -> None:
        try:
            request = self.body_as(CallRequest)
        except ConfigurationError as error:
            return self.refuse(error)
        await self.answer(self._call(name, request))

    async def _call(self, name: str, request: CallRequest) -> dict[str, Any]:
        result = await self.clusters.call(name, request.method, request.params)
        return {"jsonrpc": "2.0", "id": None, "result": result}


class ClusterFeedHandler(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """concurrent-nb/clusters/NAME/feed: passes messages on unchanged, each when the one before it has been sent.

    Of a browser that does not read, at most a few messages are here; the master sees that its own socket is full.
    """

    auth_resource = AUTH_RESOURCE

    def initialize(self, clusters: LocalClusters) -> None:
        self.clusters = clusters
        self._master: WebSocketClientConnection | None = None
        self._relaying: asyncio.Task[None] | None = None
        self._is_over = False

    @property
    def max_message_size(self) -> int:
        return WATCH_BYTES

    def set_default_headers(self) -> None:
        """Leave out the headers of an answer in JSON."""

    @ws_authenticated
    async def get(self, name: str) -> None:
        """Check the user, and open the WebSocket."""
        user = self.current_user
        if not await ensure_async(self.authorizer.is_authorized(self, user, "read", AUTH_RESOURCE)):
            raise web.HTTPError(403)
        try:
            check_name(name)
        except ConfigurationError:
            raise web.HTTPError(400, "not the name of a cluster") from None
        await super().get(name)

    async def open(self, name: str) -> None:
        """Connect to the master. Tornado reads messages of the browser when this has ended."""
        super().open()
        try:
            master = await self._connect(name)
        except ConcurrentError as error:
            code = NO_CLUSTER if isinstance(error, ClusterNotFound) else NO_MASTER
            return self._close_with(code, str(error))
        if self._is_over:
            return master.close()
        self._master = master
        self._relaying = asyncio.create_task(self._relay(master))

    async def on_message(self, message: str | bytes) -> None:
        """Pass a message of the browser on."""
        if self._master is not None:
            with contextlib.suppress(WebSocketClosedError):
                await self._master.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        """Close the connection to the master."""
        self._is_over = True
        if self._master is not None:
            self._master.close()
        if self._relaying is not None:
            self._relaying.cancel()

    async def _connect(self, name: str) -> WebSocketClientConnection:
        """Connect to the feed of a master. Raises ConcurrentError if that fails."""
        access = await self.clusters.access(name)
        is_tls = access.endpoint.startswith("https:")
        request = HTTPRequest(
            f"ws{access.endpoint.removeprefix('http')}{FEED_PATH}",
            headers={"Authorization": f"Bearer {access.token}"},
            connect_timeout=CONNECT_S,
            request_timeout=CONNECT_S,
            follow_redirects=False,
            ssl_options=tls.client_context(access.certificate_pem) if is_tls and access.certificate_pem else None,
        )
        try:
            return await websocket_connect(request, max_message_size=FEED_BYTES)
        except HTTPClientError as error:
            raise MasterUnreachable(f"the master of {name} does not give its feed: HTTP {error.code}") from None
        except OSError as error:
            raise MasterUnreachable(f"the master of {name} does not answer: {error}") from None

    async def _relay(self, master: WebSocketClientConnection) -> None:
        try:
            while (message := await master.read_message()) is not None:
                await self.write_message(message, binary=isinstance(message, bytes))
        except WebSocketClosedError:
            return
        finally:
            master.close()
        if master.close_code is not None and (master.close_code in _SENDABLE or 3000 <= master.close_code < 5000):
            return self._close_with(master.close_code, master.close_reason or "")
        self._close_with(NO_MASTER, master.close_reason or "the master has ended, or has closed the feed")

    def _close_with(self, code: int, reason: str) -> None:
        text = jsonrpc.printable(reason).encode()[:_REASON_BYTES].decode("utf-8", "ignore")
        self.close(code, text)


def _load_jupyter_server_extension(server: ServerApp) -> None:
    """Add the paths to a Jupyter server, which calls this."""
    clusters = {"clusters": LocalClusters()}
    base = url_path_join(server.web_app.settings["base_url"], "concurrent-nb", "clusters")
    one = f"{base}/([^/]+)"
    server.web_app.add_handlers(
        ".*$",
        [
            (base, ClustersHandler, clusters),
            (one, OneClusterHandler, clusters),
            (f"{one}/call", ClusterCallHandler, clusters),
            (f"{one}/feed", ClusterFeedHandler, clusters),
        ],
    )
    log.debug("concurrent_nb serves %s", base)
