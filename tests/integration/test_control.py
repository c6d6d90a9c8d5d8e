"""The control channel on real sockets: what a valid client gets, and what all others do not.

After each test the fixture checks that a valid client still gets its answer.
"""

import json
import re

import pytest

from tests import serving as server
from tests.serving import TOKENS, Serving, ask, call, head, raw

shared, running = server.shared, server.unharmed


# ------------------------------------------------------------------------------------------------------- a good client


def test_a_call_is_answered(running: Serving) -> None:
    reply = ask(running, call())
    assert (reply.status, reply.value) == (200, {"jsonrpc": "2.0", "id": 1, "result": 3})
    assert reply.headers["Content-Type"] == "application/json"


def test_a_batch_and_notifications(running: Serving) -> None:
    note = {"jsonrpc": "2.0", "method": "note", "params": ["x"]}
    before = len(running.sample.notes)
    assert (ask(running, json.dumps(note).encode()).status, len(running.sample.notes)) == (204, before + 1)
    reply = ask(running, json.dumps([note, json.loads(call()), note]).encode())
    assert reply.value == [{"jsonrpc": "2.0", "id": 1, "result": 3}]
    assert len(running.sample.notes) == before + 3


def test_a_method_knows_its_caller(running: Serving) -> None:
    with running.client("slave") as client:
        assert client.call("whoami") == {"role": "slave", "local": "127.0.0.1", "remote": "127.0.0.1"}


def test_a_ping_needs_no_token(running: Serving) -> None:
    reply = ask(running, method="GET", path="/ping", headers={"Authorization": None, "Content-Type": None})
    assert (reply.status, reply.body) == (200, b"pong")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST:99", "localhost.", "[::1]:1", "master.example:80", "Master.Example"]
)
def test_the_names_that_it_goes_by(running: Serving, host: str) -> None:
    assert ask(running, call(), headers={"Host": host}).status == 200


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_content_types_of_json(running: Serving, kind: str) -> None:
    assert ask(running, call(), headers={"Content-Type": kind}).status == 200


def test_many_requests_on_one_connection(running: Serving) -> None:
    request = head(running, f"Content-Length: {len(call())}") + call()
    last = head(running, f"Content-Length: {len(call())}", "Connection: close") + call()
    received = raw(running, request * 999 + last)
    assert received.count(b'"result":3') == 1000


def test_a_chunked_body(running: Serving) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (call()[:9], call()[9:]))
    received = raw(running, head(running, "Transfer-Encoding: chunked", "Connection: close") + chunks + b"0\r\n\r\n")
    assert b'"result":3' in received


def test_a_page_of_its_own_has_access(running: Serving) -> None:
    assert ask(running, call(), headers={"Origin": f"http://127.0.0.1:{running.port}"}).status == 200


# -------------------------------------------------------------------------------------------------------- who may not


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKENS['admin'][:-1]}",
        f"Bearer {TOKENS['admin']}x",
        f"Bearer {TOKENS['admin']} x",
        f"Bearer {TOKENS['admin']}, Bearer {TOKENS['client']}",
        TOKENS["admin"],
        f"Basic {TOKENS['admin']}",
        "Bearer " + "a" * 8000,
        "Bearer \xff\xfe",
    ],
    ids=range(13),
)
def test_without_a_right_token_there_is_no_answer(running: Serving, authorization: str | None) -> None:
    reply = ask(running, call(), headers={"Authorization": authorization})
    assert reply.status == 401
    assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert reply.error["data"] == {"type": "AccessRefused"}


def test_two_tokens_are_no_token(running: Serving) -> None:
    received = raw(
        running, head(running, f"Authorization: Bearer {TOKENS['client']}", "Content-Length: 0", "Connection: close")
    )
    assert received.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("path", [f"/api/1?token={TOKENS['admin']}", f"/api/1?access_token={TOKENS['admin']}"])
def test_a_token_in_the_url_is_no_token(running: Serving, path: str) -> None:
    assert ask(running, call(), path=path, headers={"Authorization": None}).status == 401


def test_a_role_is_held_to_its_methods(running: Serving) -> None:
    reply = ask(running, call("note", ["x"]), headers={"Authorization": f"Bearer {TOKENS['slave']}"})
    assert reply.error["data"] == {"type": "AccessRefused"}


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "0.0.0.0",
        "[::]",
        "127.0.0.1@evil.example",
        "127.0.0.1/evil",
        "127.0.0.1,evil.example",
        "127.1",
        "2130706433",
        "127.0.0.1:80:80",
        "\xff",
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/api/1", "/ping", "/"])
def test_another_host_name_is_refused(running: Serving, host: str | None, path: str) -> None:
    method = "GET" if path == "/ping" else "POST"
    # A missing Host, or two, is malformed HTTP, and is refused as that.
    assert ask(running, b"", method=method, path=path, headers={"Host": host}).status in (400, 403)


def test_two_host_headers_are_refused(running: Serving) -> None:
    received = raw(running, head(running, "Host: 127.0.0.1", "Content-Length: 0", "Connection: close"))
    assert received.split()[1] in (b"400", b"403")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "https://127.0.0.1:{port}", "http://127.0.0.1"])
@pytest.mark.parametrize("method", ["POST", "OPTIONS", "GET", "DELETE"])
def test_a_page_of_another_site_is_refused(running: Serving, origin: str, method: str) -> None:
    reply = ask(running, call(), method=method, headers={"Origin": origin.format(port=running.port)})
    assert reply.status == 403
    assert not [name for name in reply.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "FOO"])
def test_only_post_calls(running: Serving, method: str) -> None:
    reply = ask(running, call("note", ["no"]), method=method)
    assert reply.status == 405
    assert "no" not in running.sample.notes


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_only_get_pings(running: Serving, method: str) -> None:
    reply = ask(running, method=method, path="/ping")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json2"]
)
def test_what_a_form_can_send_is_refused(running: Serving, kind: str | None) -> None:
    reply = ask(running, call("note", ["no"]), headers={"Content-Type": kind})
    assert reply.status == 415
    assert "no" not in running.sample.notes


def test_a_compressed_body_is_refused(running: Serving) -> None:
    assert ask(running, call(), headers={"Content-Encoding": "gzip"}).status == 415


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/1/", "//api/1", "/API/1", "/api/1/../1", "/api/%31%00", "/../etc/passwd", "/x" * 5000]
)
def test_other_paths_are_not_there(running: Serving, path: str) -> None:
    assert ask(running, call(), path=path).status == 404


def test_another_version_of_the_api_is_named(running: Serving) -> None:
    reply = ask(running, call(), path="/api/7")
    assert (reply.status, reply.error["data"]) == (404, {"type": "VersionMismatch"})
    assert "/api/1" in reply.error["message"]
    assert "/api/7" in reply.error["message"]


@pytest.mark.parametrize("path", ["/api/1", "/ping", "/nowhere"])
def test_no_answer_reveals_the_servers_software(running: Serving, path: str) -> None:
    for method in ("GET", "POST", "FOO"):
        reply = ask(running, b"{", method=method, path=path)
        assert "Server" not in reply.headers
        assert "Set-Cookie" not in reply.headers
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert not re.search(b"tornado|python|traceback", reply.body, re.IGNORECASE)
