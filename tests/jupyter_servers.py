"""A Jupyter server of one's own to test the server extension against, and a master that only has a feed."""

import asyncio
import contextlib
import http.client
import http.cookies
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketClientConnection, WebSocketHandler, websocket_connect

from concurrent_nb.transport import connection_file, keys
from concurrent_nb.transport.connection_file import ConnectionFile
from tests.serving import looping
from tests.work import PATIENCE_S

ROOT = Path(__file__).parents[1]
TOKEN = "t" * 32
#: as JupyterHub gives it to the server of a user with a space in the name
BASE_URL = "/hub/user/x%20y/"


@dataclass
class HttpReply:
    """An answer of a server."""

    status: int
    body: bytes
    cookies: dict[str, str]

    @property
    def value(self) -> Any:
        return json.loads(self.body)


@dataclass
class JupyterServer:
    """A running server."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)  #: of a browser that has logged in

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self, method: str, path: str, body: Any = None, token: str | None = TOKEN, headers: dict[str, str] | None = None
    ) -> HttpReply:
        """Send a request to a path below the base URL, by default with the server's token."""
        given = {} if token is None else {"Authorization": f"token {token}"}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, BASE_URL + path, data, {**given, **(headers or {})})
            response = connection.getresponse()
            found = http.cookies.SimpleCookie("\n".join(response.headers.get_all("Set-Cookie", [])))
            return HttpReply(response.status, response.read(), {name: one.value for name, one in found.items()})
        finally:
            connection.close()

    def log_in(self) -> None:
        """Log in as a browser does, with cookies."""
        reply = self.request("GET", "login", token=None)
        form = urllib.parse.urlencode({"password": TOKEN, "_xsrf": reply.cookies["_xsrf"]}).encode()
        headers = {
            "Cookie": f"_xsrf={reply.cookies['_xsrf']}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": self.origin,
        }
        done = self.request("POST", "login", form, token=None, headers=headers)
        assert done.status == 302, done
        self.cookies = {**reply.cookies, **done.cookies}

    def as_browser(self, **headers: str | None) -> dict[str, str]:
        """Return the headers of a page that has logged in."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        all_of_them = {"Cookie": cookie, "Origin": self.origin, "X-XSRFToken": self.cookies["_xsrf"], **named}
        return {name: value for name, value in all_of_them.items() if value is not None}

    async def feed(self, name: str, headers: dict[str, str] | None = None) -> WebSocketClientConnection:
        """Open the feed of a cluster, by default with the server's token."""
        given = {"Authorization": f"token {TOKEN}"} if headers is None else headers
        url = f"ws://127.0.0.1:{self.port}{BASE_URL}concurrent-nb/clusters/{name}/feed"
        try:
            return await websocket_connect(HTTPRequest(url, headers=given), max_message_size=64 * 1024 * 1024)
        except HTTPClientError:
            await asyncio.sleep(0.05)  # the connection of a refusal is closed after its future has ended
            raise


async def close_feed(feed: WebSocketClientConnection) -> None:
    """Close a feed, and wait until its connection is closed."""
    feed.close()
    while await feed.read_message() is not None:
        continue


def end_server(process: "subprocess.Popen[bytes]") -> None:
    """Have a server end, and kill it if it does not."""
    process.terminate()
    try:
        process.wait(20)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def jupyter_server(home: Path, *options: str) -> Iterator[JupyterServer]:
    """Run a server with the extension for the time of a `with`; it sees the clusters of this test run."""
    extensions = home / "config" / "jupyter_server_config.d"
    extensions.mkdir(parents=True)
    source = ROOT / "jupyter_server_config.d" / "concurrent_nb.json"
    (extensions / source.name).write_bytes(source.read_bytes())
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(home)]),
    }
    arguments = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        "--port=0",
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.base_url={BASE_URL}",
        f"--ServerApp.root_dir={home}",
        "--ServerApp.terminals_enabled=False",
        *options,
    ]
    runtime = Path(os.environ["JUPYTER_RUNTIME_DIR"])
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_server", *arguments], env=environment, cwd=home, stdout=log, stderr=log
        )
    try:
        file = runtime / f"jpserver-{process.pid}.json"
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline and not _port(file):
            time.sleep(0.05)
        if not (port := _port(file)):
            pytest.fail(f"the Jupyter server does not start:\n{(home / 'log').read_text()[-3000:]}")
        yield JupyterServer(port)
    finally:
        end_server(process)


def _port(file: Path) -> int:
    """Return the port of a server that accepts connections; 0 if there is none yet."""
    try:
        port = int(json.loads(file.read_text(encoding="utf-8"))["port"])
        socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
    except (OSError, ValueError):  # the file is not there, or half written, or written before the server listens
        return 0
    return port


#: what a master does with a reader of its feed
Behaviour = Callable[["FeedOfMaster"], Awaitable[object]]


@dataclass
class FeedMaster:
    """A master that answers pings and has a feed."""

    name: str
    token: str
    behave: Behaviour
    received: list[str | bytes] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    readers: "set[FeedOfMaster]" = field(default_factory=set)


class FeedOfMaster(WebSocketHandler):
    """GET /feed."""

    def initialize(self, master: FeedMaster) -> None:
        self.master = master

    def open(self) -> None:
        self.master.readers.add(self)
        self.master.authorizations.append(self.request.headers.get("Authorization"))
        self.behaving = asyncio.ensure_future(self.master.behave(self))

    def on_message(self, message: str | bytes) -> None:
        self.master.received.append(message)

    def on_close(self) -> None:
        self.master.readers.discard(self)


class _Ping(RequestHandler):
    def get(self) -> None:
        self.finish(b"pong")


class _Api(RequestHandler):
    def post(self) -> None:
        self.finish({"jsonrpc": "2.0", "id": json.loads(self.request.body)["id"], "result": "pong"})


@contextlib.contextmanager
def feed_master(name: str, behave: Behaviour) -> Iterator[FeedMaster]:
    """Run a master of that name, with a connection file, for the time of a `with`."""
    master = FeedMaster(name, keys.fresh_token(), behave)
    rules: Sequence[Any] = [("/ping", _Ping), ("/api/1", _Api), ("/feed", FeedOfMaster, {"master": master})]
    (sock,) = bind_sockets(0, "127.0.0.1")
    info = ConnectionFile(
        name=name,
        endpoints=[f"http://127.0.0.1:{sock.getsockname()[1]}"],
        master_key=keys.fresh().public.decode(),
        tokens={"admin": master.token},
        pid=os.getpid(),
        host="elsewhere",
        epoch=1,
    )

    async def start() -> HTTPServer:
        server = HTTPServer(Application(list(rules)))
        server.add_socket(sock)
        return server

    async def stop(server: HTTPServer) -> None:
        server.stop()
        await server.close_all_connections()
        for reader in list(master.readers):
            reader.behaving.cancel()

    with looping() as loop:
        server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        connection_file.write(info)
        try:
            yield master
        finally:
            connection_file.remove(name)
            asyncio.run_coroutine_threadsafe(stop(server), loop).result(10)
