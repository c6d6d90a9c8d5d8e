"""From `concurrent-nb dashboard` to calls of the page, with real masters; and every method refused to all others."""

import asyncio
import contextlib
import http.client
import http.cookies
import json
import os
import re
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from concurrent_nb.nodes.common.dashboard_link import dashboard_link
from concurrent_nb.rpc import Dispatcher, Registry, remote
from concurrent_nb.transport import connection_file, keys
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_server import ControlServer
from concurrent_nb.transport.tls import make_tls
from tests.clusters import eventually, run, running
from tests.serving import looping


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The name of a cluster, here without slaves."""
    with running("master", "--name", "lab", says="is running"):
        yield "lab"


@pytest.fixture(scope="module")
def other() -> Iterator[str]:
    with running("master", "--name", "other", says="is running"):
        yield "other"


class Reply(NamedTuple):
    status: int
    body: bytes
    cookie: str


def ask(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Reply:
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    try:
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        cookies = http.cookies.SimpleCookie(response.headers.get("Set-Cookie", ""))
        cookie = "; ".join(f"{name}={one.value}" for name, one in cookies.items())
        return Reply(response.status, response.read(), cookie)
    finally:
        connection.close()


def info_of(cluster: str) -> ConnectionFile:
    return connection_file.read(cluster)


def log_in(cluster: str, role: str = "admin") -> str:
    """Return the Cookie header of a new session."""
    info = info_of(cluster)
    only = ConnectionFile(
        name=info.name, endpoints=info.endpoints, master_key=info.master_key, tokens={role: info.tokens[role]}
    )
    reply = ask(dashboard_link(only).url)
    assert reply.status == 303
    return reply.cookie


def call(cluster: str, method: str, params: Any = None, **headers: str) -> Reply:
    endpoint = info_of(cluster).endpoints[0]
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}).encode()
    merged = {"Origin": endpoint, "Content_Type": "application/json", **headers}
    return ask(f"{endpoint}/api/1", "POST", body, **merged)


def methods_of(cluster: str) -> dict[str, list[str]]:
    """Return the roles of every method."""
    described = json.loads(call(cluster, "api", Cookie=log_in(cluster)).body)["result"]["methods"]
    return {name: method["roles"] for name, method in described.items()}


# -------------------------------------------------------------------------------------------------------- a good user


def test_the_command_prints_a_link_that_opens_the_page(cluster: str) -> None:
    ended = run("dashboard", cluster, "--no-open")
    assert (ended.returncode, ended.stderr) == (0, "")
    url, note = ended.stdout.splitlines()
    assert re.fullmatch(re.escape(info_of(cluster).endpoints[0]) + r"/login\?code=[\w-]{43}", url)
    assert "once" in note
    reply = ask(url)
    assert reply.status == 303
    assert json.loads(call(cluster, "status", Cookie=reply.cookie).body)["result"]["name"] == cluster
    page = ask(f"{info_of(cluster).endpoints[0]}/", Cookie=reply.cookie)
    assert page.status != 401 and b"not logged in" not in page.body
    assert ask(url).status == 403, "it works once"


def test_the_command_opens_the_browser_without_showing_the_link_to_others(cluster: str, tmp_path: Path) -> None:
    """The arguments of a process are for all users of the machine to read."""
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!{sys.executable}\nimport sys\nopen({str(seen)!r}, "w").write("\\n".join(sys.argv[1:]))\n')
    browser.chmod(0o700)
    ended = run("dashboard", cluster, env={**os.environ, "BROWSER": f"{browser} %s"})
    assert ended.returncode == 0
    link = ended.stdout.splitlines()[0]
    eventually(seen.exists, "the browser was started")
    opened = seen.read_text()
    assert "code=" not in opened
    path = Path(urllib.parse.urlsplit(opened).path)
    try:
        assert path.stat().st_mode & 0o077 == 0
        assert f"url={link}" in path.read_text()
    finally:
        path.unlink()


def test_a_link_has_the_role_of_the_connection_file(cluster: str) -> None:
    for role in ("admin", "client"):
        refused = json.loads(call(cluster, "restart_workers", Cookie=log_in(cluster, role)).body)
        assert ("error" in refused) == (role == "client")


class Linking:
    """A master that gives links, and does nothing else."""

    @remote(roles=["client"])
    def one_time_link(self, answer: str = f"/login?code={'x' * 43}") -> dict[str, str]:
        return {"path": answer}


@contextlib.contextmanager
def linking_with_tls() -> Iterator[ConnectionFile]:
    """Serve links under TLS for the time of a `with`."""
    tls, token = make_tls(["127.0.0.1"]), keys.fresh_token()
    server = ControlServer(Dispatcher(Registry(Linking())), {token: "client"}, ["127.0.0.1"], tls=tls)
    with looping() as loop:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        try:
            yield ConnectionFile(
                name="tls",
                endpoints=server.endpoints,
                master_key="",
                tokens={"client": token},
                certificate_pem=tls.certificate_pem,
            )
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)


def test_a_certificate_is_named_by_its_fingerprint() -> None:
    with linking_with_tls() as info:
        link = dashboard_link(info)
        assert link.url == f"{info.endpoints[0]}/login?code={'x' * 43}"
        assert link.url.startswith("https:")
        assert re.fullmatch("([0-9A-F]{2}:){31}[0-9A-F]{2}", link.fingerprint)


# -------------------------------------------------------------------------------------------------------- who may not


def test_every_method_is_refused_to_strangers(cluster: str, other: str) -> None:
    methods, foreign, good = methods_of(cluster), log_in(other), log_in(cluster)
    assert "one_time_link" in methods
    name, _, value = good.partition("=")
    strangers: dict[str, dict[str, str]] = {
        "nothing": {},
        "a wrong token": {"Authorization": "Bearer wrong"},
        "a token of another master": {"Authorization": f"Bearer {info_of(other).tokens['admin']}"},
        "a cookie of another master": {"Cookie": foreign},
        "a cookie of another master under our name": {"Cookie": f"{name}={foreign.partition('=')[2]}"},
        "a token as a cookie": {"Cookie": f"{name}={info_of(cluster).tokens['admin']}"},
        "a cookie as a token": {"Authorization": f"Bearer {value}"},
        "an evil origin": {"Cookie": good, "Origin": "http://evil.example"},
        "the origin of another master": {"Cookie": good, "Origin": info_of(other).endpoints[0]},
        "an evil host": {"Cookie": good, "Host": "evil.example"},
        "a form": {"Cookie": good, "Content_Type": "text/plain"},
    }
    for what, headers in strangers.items():
        for method in methods:
            reply = call(cluster, method, **headers)
            assert reply.status in (401, 403, 415), (what, method, reply)
    assert json.loads(call(cluster, "ping", Cookie=good).body)["result"] == "pong", "the cluster was stopped"


@pytest.mark.parametrize("role", ["client", "slave"])
def test_a_method_of_other_roles_is_refused(cluster: str, role: str) -> None:
    """A session has the role of the token that opened it; a slave's token opens none."""
    methods = methods_of(cluster)
    if role == "slave":
        headers = {"Authorization": f"Bearer {info_of(cluster).tokens['slave']}"}
        assert "slave" not in methods["one_time_link"]
    else:
        headers = {"Cookie": log_in(cluster, role)}
    for method, roles in methods.items():
        if role not in roles:
            answer = json.loads(call(cluster, method, **headers).body)
            assert answer["error"]["data"]["type"] == "AccessRefused", (method, answer)


def test_a_file_without_a_token_for_people_is_named(cluster: str, tmp_path: Path) -> None:
    info = info_of(cluster)
    only = ConnectionFile(
        name=info.name,
        endpoints=info.endpoints,
        master_key=info.master_key,
        tokens={"slave": info.tokens["slave"]},
    )
    path = connection_file.write(only, tmp_path / "slave.json")
    ended = run("dashboard", str(path), "--no-open")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "has no token of role admin or client" in ended.stderr


def test_a_cluster_that_is_not_there_is_named() -> None:
    ended = run("dashboard", "nobody", "--no-open")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "no cluster 'nobody'" in ended.stderr
