"""The Jupyter Server extension in a real server under a base URL with a space: what its user can do, and others not."""

import asyncio
import base64
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tornado.httpclient import HTTPClientError
from tornado.websocket import WebSocketClosedError

from concurrent_nb import Cluster
from concurrent_nb.transport import connection_file
from tests.clusters import alive, descendants, eventually, shared_cluster
from tests.jupyter_servers import (
    BASE_URL,
    TOKEN,
    FeedOfMaster,
    JupyterServer,
    close_feed,
    feed_master,
    jupyter_server,
)
from tests.reverse_proxy import reverse_proxy
from tests.work import PATIENCE_S

CLUSTERS = "concurrent-nb/clusters"
#: names that are none: paths, URLs, markup, too long, empty; as they stand in a path
NO_NAMES = [
    "%2e%2e%2fx",
    "..%2fconcurrent_nb-lab",
    "%2fetc%2fpasswd",
    "http%3A%2F%2F127.0.0.1%3A1",
    "127.0.0.1:1",
    "%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    "x.json",
    ".x",
    "x" * 65,
    "a%00b",
    "%C3%A9",
    "a%20b",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    with jupyter_server(tmp_path_factory.mktemp("jupyter")) as running:
        running.log_in()
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with shared_cluster(workers=1) as running:
        yield running


def listed(server: JupyterServer) -> dict[str, Any]:
    reply = server.request("GET", CLUSTERS)
    assert reply.status == 200
    return {each["name"]: each for each in reply.value}


def call(server: JupyterServer, name: str, method: str, **params: Any) -> Any:
    return server.request("POST", f"{CLUSTERS}/{name}/call", {"method": method, "params": params}).value


# -------------------------------------------------------------------------------------------------------- a good user


def test_clusters_are_listed_without_their_tokens(server: JupyterServer, cluster: Cluster) -> None:
    info = connection_file.read(cluster.name)
    reply = server.request("GET", CLUSTERS)
    assert listed(server)[cluster.name] == {
        "name": cluster.name,
        "host": info.host,
        "pid": info.pid,
        "is_alive": True,
        "is_embedded": True,
    }
    assert not [token for token in info.tokens.values() if token.encode() in reply.body]


def test_a_cluster_whose_master_has_died_is_not_alive_and_can_be_removed(server: JupyterServer) -> None:
    info = connection_file.read(connection_file.write(dead_file("dead")))
    assert listed(server)["dead"]["is_alive"] is False
    reply = server.request("POST", f"{CLUSTERS}/dead/call", {"method": "ping"})
    assert (reply.status, reply.value["error"]["data"]["type"]) == (502, "MasterUnreachable")
    assert info.name == "dead"
    assert server.request("DELETE", f"{CLUSTERS}/dead").status == 204
    assert "dead" not in listed(server)


def dead_file(name: str) -> connection_file.ConnectionFile:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return connection_file.ConnectionFile(
        name=name,
        endpoints=[f"http://127.0.0.1:{port}"],
        master_key="x" * 40,
        tokens={"admin": "a" * 43},
        pid=2**22 + 1,
        host=socket.gethostname(),
        epoch=1,
    )


def test_a_file_that_others_can_read_is_left_out(server: JupyterServer) -> None:
    path = connection_file.write(dead_file("open-to-all"))
    try:
        path.chmod(0o644)
        assert "open-to-all" not in listed(server)
        assert server.request("POST", f"{CLUSTERS}/open-to-all/call", {"method": "ping"}).status == 403
    finally:
        path.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_cluster_of_another_user_is_out_of_reach(server: JupyterServer) -> None:
    path = connection_file.write(dead_file("of-another-user"))
    try:
        os.chown(path, 65534, -1)
        assert "of-another-user" not in listed(server)
        one = f"{CLUSTERS}/of-another-user"
        for method, name, body in (("POST", f"{one}/call", {"method": "ping"}), ("DELETE", one, None)):
            reply = server.request(method, name, body)
            assert (reply.status, reply.value["error"]["data"]["type"]) == (403, "AccessRefused")
            assert "belongs to user 65534" in reply.value["message"]
            assert b"a" * 43 not in reply.body
        code, reason = closed_with(server, "of-another-user")
        assert code == 4502 and "belongs to user 65534" in str(reason)
        assert path.exists()
    finally:
        path.unlink()


def test_a_cluster_is_started_called_and_stopped(server: JupyterServer) -> None:
    reply = server.request("POST", CLUSTERS, {"name": "lab-1", "workers": 1})
    log = connection_file.folder_to_write() / "concurrent_nb-lab-1.log"
    assert reply.status == 201, reply
    try:
        assert (reply.value["is_alive"], reply.value["is_embedded"]) == (True, False)
        again = server.request("POST", CLUSTERS, {"name": "lab-1", "workers": 1})
        assert (again.status, again.value["error"]["data"]["type"]) == (400, "ConfigurationError")
        assert "is running" in again.value["message"]
        eventually(lambda: call(server, "lab-1", "status")["result"]["slaves"], "its slave has joined")
    finally:
        start = psutil.Process(reply.value["pid"]).ppid()
        nodes = {start, *descendants(start)}
        assert server.request("DELETE", f"{CLUSTERS}/lab-1").status == 204
        eventually(lambda: "lab-1" not in listed(server), "it has stopped")
        eventually(lambda: not alive(nodes), "its processes have ended")
        log.unlink(missing_ok=True)


def test_a_call_has_its_answer(server: JupyterServer, cluster: Cluster) -> None:
    assert call(server, cluster.name, "ping") == {"jsonrpc": "2.0", "id": None, "result": "pong"}
    assert call(server, cluster.name, "status")["result"]["name"] == cluster.name


@pytest.mark.parametrize(
    ("method", "params", "status", "kind"),
    [
        ("nothing", {}, 502, "ProtocolError"),
        ("__class__", {}, 502, "ProtocolError"),
        ("ping", {"x": 1}, 502, "ProtocolError"),
        ("open_kernel", {"slave": "none"}, 400, "ConfigurationError"),
        ("register_client", {"key": "x", "versions": {}, "name": "n"}, 400, "ConfigurationError"),
        ("ping", {"x": "y" * 2_000_000}, 400, "TooLarge"),
    ],
    ids=range(6),
)
def test_an_error_of_the_master_has_its_class(
    server: JupyterServer, cluster: Cluster, method: str, params: dict[str, Any], status: int, kind: str
) -> None:
    reply = server.request("POST", f"{CLUSTERS}/{cluster.name}/call", {"method": method, "params": params})
    assert (reply.status, reply.value["error"]["data"]["type"]) == (status, kind)
    assert reply.value["message"] == reply.value["error"]["message"]


def test_a_wrong_call_of_any_method_is_refused_with_the_masters_words(server: JupyterServer, cluster: Cluster) -> None:
    methods = call(server, cluster.name, "api")["result"]["methods"]
    for name, method in methods.items():
        wrong: list[dict[str, Any]] = [{"unknown": 1}]
        if "str" in [parameter["type"] for parameter in method["params"].values()]:
            wrong.append({key: ["no text"] for key, each in method["params"].items() if each["type"] == "str"})
        if any(parameter["required"] for parameter in method["params"].values()):
            wrong.append({})
        for params in wrong:
            reply = server.request("POST", f"{CLUSTERS}/{cluster.name}/call", {"method": name, "params": params})
            assert (reply.status, reply.value["error"]["data"]["type"]) == (502, "ProtocolError"), (name, params)
            assert f"of {name} " in reply.value["message"]
        for body in ({"method": name, "params": [1]}, {"method": name, "params": {}, "token": "x"}, [name]):
            reply = server.request("POST", f"{CLUSTERS}/{cluster.name}/call", body)
            assert (reply.status, reply.value["error"]["data"]["type"]) == (400, "ConfigurationError"), (name, body)
    assert call(server, cluster.name, "ping")["result"] == "pong", "the cluster was stopped"


def test_a_browser_that_has_logged_in_needs_no_token(server: JupyterServer, cluster: Cluster) -> None:
    path = f"{CLUSTERS}/{cluster.name}/call"
    reply = server.request("POST", path, {"method": "ping"}, token=None, headers=server.as_browser())
    assert (reply.status, reply.value["result"]) == (200, "pong")


# -------------------------------------------------------------------------------------------------------- who may not


def requests_of(cluster: Cluster, methods: list[str]) -> list[tuple[str, str, Any]]:
    """Return a request of every kind, and a call of every method."""
    one = f"{CLUSTERS}/{cluster.name}"
    calls = [("POST", f"{one}/call", {"method": method, "params": {}}) for method in methods]
    return [("GET", CLUSTERS, None), ("POST", CLUSTERS, {"name": "evil"}), ("DELETE", one, None), *calls]


@pytest.mark.parametrize(
    ("what", "headers"),
    [
        ("nothing", lambda server: {}),
        ("a wrong token", lambda server: {"Authorization": "token wrong"}),
        ("a token of the cluster", lambda server: {"Authorization": f"Bearer {'a' * 43}"}),
        ("a wrong cookie", lambda server: {**server.as_browser(), "Cookie": "_xsrf=1; username-x=2|1:0|10:1|a"}),
        ("no XSRF token", lambda server: server.as_browser(X_XSRFToken=None)),
        ("a wrong XSRF token", lambda server: server.as_browser(X_XSRFToken="2|abcdef01|abcdef01|1")),
        ("an evil origin", lambda server: server.as_browser(Origin="http://evil.example", X_XSRFToken=None)),
        ("an evil host", lambda server: {**server.as_browser(), "Host": "evil.example"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_one_else_gets_in(
    server: JupyterServer, cluster: Cluster, what: str, headers: Callable[[JupyterServer], dict[str, str]]
) -> None:
    methods = sorted(call(server, cluster.name, "api")["result"]["methods"])
    assert "stop_cluster" in methods and "one_time_link" in methods
    for method, path, body in requests_of(cluster, methods):
        if "XSRF" in what and method == "GET":
            continue
        reply = server.request(method, path, body, token=None, headers=headers(server))
        assert reply.status in (403, 404), (what, method, path, reply)
        assert cluster.name.encode() not in reply.body
    assert call(server, cluster.name, "ping")["result"] == "pong", "the cluster was stopped"
    assert "evil" not in listed(server)


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_is_never_a_path_or_url(server: JupyterServer, name: str) -> None:
    for method, path, body in (("DELETE", "", None), ("POST", "/call", {"method": "ping"})):
        reply = server.request(method, f"{CLUSTERS}/{name}{path}", body)
        assert reply.status in (400, 404), reply
        assert b"<script" not in reply.body or reply.value["error"]["data"]["type"] == "ConfigurationError"
    with pytest.raises(HTTPClientError) as refused:
        asyncio.run(server.feed(name))
    assert refused.value.code in (400, 404)


def test_a_path_is_no_name_even_if_the_file_is_there(server: JupyterServer, tmp_path: Path) -> None:
    path = connection_file.write(dead_file("elsewhere"), tmp_path / "elsewhere.json")
    quoted = str(path).replace("/", "%2f")
    assert server.request("DELETE", f"{CLUSTERS}/{quoted}").status == 400
    assert path.exists()
    assert server.request("POST", CLUSTERS, {"name": str(path)}).status == 400


def test_a_cluster_that_is_not_there_is_named(server: JupyterServer) -> None:
    reply = server.request("POST", f"{CLUSTERS}/nobody/call", {"method": "ping"})
    assert (reply.status, reply.value["error"]["data"]["type"]) == (404, "ClusterNotFound")
    assert "'nobody'" in reply.value["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        {"name": 1},
        {"name": "x", "workers": 0},
        {"name": "x", "workers": 1001},
        {"name": "x", "workers": True},
        {"name": "x", "workers": "1"},
        {"name": "x", "command": "rm"},
        {"name": "<script>"},
        {"name": "--help"},
        {"name": "../x"},
        {"method": 1},
        {"method": "ping", "params": []},
        {"method": "ping", "endpoint": "http://127.0.0.1:1"},
    ],
    ids=range(17),
)
def test_a_bad_body_is_refused(server: JupyterServer, cluster: Cluster, body: Any) -> None:
    before = listed(server)
    paths = [f"{CLUSTERS}/{cluster.name}/call"]
    if not (isinstance(body, dict) and body.get("name") == "--help"):
        paths.append(CLUSTERS)
    for path in paths:
        reply = server.request("POST", path, body)
        assert (reply.status, reply.value["error"]["data"]["type"]) == (400, "ConfigurationError"), path
    assert listed(server) == before


def test_jupyters_authorizer_is_asked(tmp_path: Path, cluster: Cluster) -> None:
    (tmp_path / "strict.py").write_text(
        "from jupyter_server.auth import Authorizer\n"
        "class Strict(Authorizer):\n"
        "    def is_authorized(self, handler, user, action, resource):\n"
        "        return resource != 'concurrent_nb'\n"
    )
    with jupyter_server(tmp_path, "--ServerApp.authorizer_class=strict.Strict") as strict:
        for method, path, body in requests_of(cluster, ["ping", "stop_cluster"]):
            assert strict.request(method, path, body).status == 403
        with pytest.raises(HTTPClientError) as refused:
            asyncio.run(strict.feed(cluster.name))
        assert refused.value.code == 403
        assert strict.request("GET", "api/contents").status == 200


# ------------------------------------------------------------------------------------------------------------- the feed


def test_all_of_it_works_behind_a_reverse_proxy(server: JupyterServer, cluster: Cluster) -> None:
    """As a browser sees it, which knows the proxy's port only."""
    with reverse_proxy(server.port) as public, feed_master("feed-0", greet):
        proxied = JupyterServer(int(public.rpartition(":")[2]))
        proxied.log_in()
        path = f"{CLUSTERS}/{cluster.name}/call"
        body = {"method": "ping"}
        reply = proxied.request("POST", path, body, token=None, headers=proxied.as_browser())
        assert (reply.status, reply.value["result"]) == (200, "pong")
        for headers in (
            proxied.as_browser(X_XSRFToken=None),
            proxied.as_browser(Origin=server.origin, X_XSRFToken=None),
            {},
        ):
            assert proxied.request("POST", path, body, token=None, headers=headers).status in (403, 404)

        async def watch(headers: dict[str, str]) -> Any:
            feed = await proxied.feed("feed-0", headers)
            got = [await feed.read_message(), await feed.read_message()]
            await close_feed(feed)
            return got

        assert asyncio.run(watch(proxied.as_browser()))[1] == b"\x00\xff"
        for headers in (proxied.as_browser(Origin=server.origin), proxied.as_browser(Cookie=None), {}):
            with pytest.raises(HTTPClientError) as refused:
                asyncio.run(watch(headers))
            assert refused.value.code == 403


async def greet(reader: FeedOfMaster) -> None:
    """Send what a relay could change, and then be silent."""
    await reader.write_message('{"jsonrpc":"2.0","method":"snapshot","params":{"a":"<b>\u202e\U0001f600"}}')
    await reader.write_message(b"\x00\xff", binary=True)


def test_the_feed_is_relayed_unchanged(server: JupyterServer) -> None:
    async def watch() -> list[Any]:
        feed = await server.feed("feed-1")
        await feed.write_message('{"jsonrpc":"2.0","id":1,"method":"watch","params":{"since":null}}')
        got = [await feed.read_message(), await feed.read_message()]
        while not master.received:
            await asyncio.sleep(0.01)
        await close_feed(feed)
        return got

    with feed_master("feed-1", greet) as master:
        got = asyncio.run(watch())
        eventually(lambda: not master.readers, "the master's side is closed, too")
    assert got == ['{"jsonrpc":"2.0","method":"snapshot","params":{"a":"<b>\u202e\U0001f600"}}', b"\x00\xff"]
    assert master.received == ['{"jsonrpc":"2.0","id":1,"method":"watch","params":{"since":null}}']
    assert master.authorizations == [f"Bearer {master.token}"]


def closed_with(server: JupyterServer, name: str, sent: str | None = None) -> tuple[int | None, str | None]:
    """Open a feed, read it to its end, and return code and reason of that."""

    async def watch() -> tuple[int | None, str | None]:
        feed = await server.feed(name)
        if sent is not None:
            await feed.write_message(sent)
        while await feed.read_message() is not None:
            continue
        feed.close()
        return feed.close_code, feed.close_reason

    return asyncio.run(asyncio.wait_for(watch(), PATIENCE_S))


def test_a_feed_ends_with_a_code_that_names_the_reason(server: JupyterServer) -> None:
    code, reason = closed_with(server, "nobody")
    assert (code, "nobody" in (reason or "")) == (4404, True)
    connection_file.write(dead_file("dead-2"))
    code, reason = closed_with(server, "dead-2")
    connection_file.remove("dead-2")
    assert (code, "no master answers" in (reason or "")) == (4502, True)


def test_a_feed_that_the_master_closes_is_closed(server: JupyterServer) -> None:
    async def refuse(reader: FeedOfMaster) -> None:
        reader.close(4001, "three errors")

    async def break_off(reader: FeedOfMaster) -> None:
        await reader.write_message("{}")
        assert reader.ws_connection is not None
        reader.ws_connection._abort()

    with feed_master("feed-2", refuse):
        assert closed_with(server, "feed-2") == (4001, "three errors")
    with feed_master("feed-3", break_off):
        assert closed_with(server, "feed-3")[0] == 4502


def test_a_message_that_is_too_long_ends_the_feed(server: JupyterServer) -> None:
    with feed_master("feed-4", greet) as master:
        closed_with(server, "feed-4", "x" * 5000)
        assert master.received == []
        eventually(lambda: not master.readers, "the master's side is closed, too")


def test_no_one_else_gets_the_feed(server: JupyterServer) -> None:
    with feed_master("feed-5", greet) as master:
        for headers in (
            {},
            {"Authorization": "token wrong"},
            {"Authorization": f"Bearer {master.token}"},
            {"Cookie": "username-x=2|1:0|10:1|a"},
            server.as_browser(Origin="http://evil.example"),
            server.as_browser(Origin="null"),
            {**server.as_browser(), "Host": "evil.example"},
        ):
            with pytest.raises(HTTPClientError) as refused:
                asyncio.run(server.feed("feed-5", headers))
            assert refused.value.code in (403, 404), headers
        assert master.authorizations == []

        async def watch() -> Any:
            feed = await server.feed("feed-5", server.as_browser())
            got = await feed.read_message()
            await close_feed(feed)
            return got

        assert asyncio.run(watch()) is not None


def test_a_browser_that_never_reads_holds_the_master_up_and_fills_nothing(server: JupyterServer) -> None:
    """Sockets hold a few megabytes; what the relay would keep beyond that is what the master could send."""
    chunk, most = "x" * 1024 * 1024, 256
    sent: list[float] = []

    async def flood(reader: FeedOfMaster) -> None:
        with contextlib.suppress(WebSocketClosedError):
            for _ in range(most):
                await reader.write_message(chunk)
                sent.append(time.monotonic())

    with feed_master("feed-6", flood), socket.create_connection(("127.0.0.1", server.port)) as browser:
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lines = [
            f"GET {BASE_URL}{CLUSTERS}/feed-6/feed HTTP/1.1",
            f"Host: 127.0.0.1:{server.port}",
            f"Authorization: token {TOKEN}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
        ]
        browser.sendall("\r\n".join([*lines, "", ""]).encode())
        eventually(lambda: sent and time.monotonic() - sent[-1] > 1.0, "the master waits")
        assert 0 < len(sent) < most / 4
        assert json.loads(server.request("GET", CLUSTERS).body), "the server is held up, too"
