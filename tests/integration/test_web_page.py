"""The web page of a master on real sockets: who gets in, with what, and what no one else gets."""

import http.client
import http.cookies
import re
import ssl
from collections.abc import Iterator

import pytest

from concurrent_nb.clock import ManualClock
from concurrent_nb.transport.control_server import WebPages
from concurrent_nb.transport.page_handlers import CONTENT_SECURITY_POLICY
from concurrent_nb.transport.tls import make_tls
from concurrent_nb.transport.web_files import WebFile
from concurrent_nb.transport.web_sessions import CODE_S, SESSION_S, WebSessions
from tests.serving import TOKENS, Reply, Serving, ask, call, head, raw, serving

#: a page of our own in place of the real one
FILES = {
    "page.html": WebFile(b"<!DOCTYPE html><title>page</title>", "text/html; charset=utf-8", '"1"'),
    "main.js": WebFile(b"export {};", "text/javascript; charset=utf-8", '"2"'),
    "vendor/chart.css": WebFile(b"a {}", "text/css; charset=utf-8", '"3"'),
}
#: removes what `ask` sends by itself: a browser that opens a page has none of it
BROWSER: dict[str, str | None] = {"Authorization": None, "Content-Type": None}


class Site:
    """A server with a page, and a browser's part of the work."""

    def __init__(self, running: Serving, sessions: WebSessions, clock: ManualClock) -> None:
        self.running = running
        self.sessions = sessions
        self.clock = clock
        self.origin = f"http://127.0.0.1:{running.port}"

    def get(self, path: str, method: str = "GET", **headers: str | None) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.running, method=method, path=path, headers={**BROWSER, **named})

    def log_in(self, role: str = "admin") -> str:
        """Return the Cookie header of a new session."""
        reply = self.get(f"/login?code={self.sessions.new_code(role)}")
        assert reply.status == 303
        (morsel,) = cookies_of(reply).values()
        return f"{morsel.key}={morsel.value}"

    def call(self, cookie: str | None, body: bytes = call("whoami", []), **headers: str | None) -> Reply:
        """Call a method as the page does."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        merged = {"Authorization": None, "Cookie": cookie, "Origin": self.origin, **named}
        return ask(self.running, body, headers=merged)


def cookies_of(reply: Reply) -> http.cookies.SimpleCookie:
    return http.cookies.SimpleCookie("\n".join(reply.headers.get_all("Set-Cookie", [])))


@pytest.fixture(scope="module")
def only_site() -> Iterator[Site]:
    clock = ManualClock()
    sessions = WebSessions(clock)
    with serving(names=["master.example"], pages=WebPages("lab", sessions, FILES)) as running:
        yield Site(running, sessions, clock)


@pytest.fixture
def site(only_site: Site) -> Iterator[Site]:
    yield only_site
    assert only_site.running.answers()


# ------------------------------------------------------------------------------------------------------- a good browser


def test_a_link_opens_the_page_and_leaves_no_code_in_the_url(site: Site) -> None:
    reply = site.get(f"/login?code={site.sessions.new_code('admin')}")
    assert (reply.status, reply.headers["Location"], reply.body) == (303, "/", b"")
    ((name, morsel),) = cookies_of(reply).items()
    assert name == f"concurrent_nb-{site.running.port}"
    assert morsel["httponly"] and morsel["samesite"] == "Strict" and morsel["path"] == "/"
    assert (morsel["max-age"], morsel["domain"], morsel["secure"]) == (str(12 * 3600), "", "")
    page = site.get("/", Cookie=f"{name}={morsel.value}")
    assert (page.status, page.body) == (200, FILES["page.html"].data)


@pytest.mark.parametrize("role", ["admin", "client"])
def test_the_page_calls_methods_with_its_cookie(site: Site, role: str) -> None:
    reply = site.call(site.log_in(role))
    assert (reply.status, reply.value["result"]["role"]) == (200, role)


def test_a_session_of_a_client_is_held_to_its_methods(site: Site) -> None:
    assert site.call(site.log_in("client"), call("note", ["x"])).error["data"] == {"type": "AccessRefused"}
    assert "result" in site.call(site.log_in("admin"), call("note", ["x"])).value


def test_files_have_their_types_and_are_fetched_once(site: Site) -> None:
    for name, file in FILES.items():
        reply = site.get(f"/static/{name}")
        assert (reply.status, reply.body, reply.headers["Content-Type"]) == (200, file.data, file.mime_type)
        assert reply.headers["Cache-Control"] == "no-cache"
        again = site.get(f"/static/{name}", If_None_Match=reply.headers["ETag"])
        assert (again.status, again.body) == (304, b"")
        assert site.get(f"/static/{name}", If_None_Match='"other"').status == 200


def test_without_a_session_a_page_explains_how_to_open_one(site: Site) -> None:
    reply = site.get("/")
    assert (reply.status, reply.headers["Content-Type"]) == (401, "text/html; charset=utf-8")
    assert b"concurrent-nb dashboard lab" in reply.body
    assert FILES["page.html"].data not in reply.body


def test_a_link_on_another_site_gets_past_its_missing_cookie(site: Site) -> None:
    """A browser sends no SameSite=Strict cookie after a link of another site, and does after our own page."""
    reply = site.get("/", Sec_Fetch_Site="cross-site")
    assert (reply.status, b'content="0; url=/"' in reply.body) == (200, True)
    assert site.get("/", Sec_Fetch_Site="same-origin").status == 401


def test_a_browser_logs_out(site: Site) -> None:
    cookie, other = site.log_in(), site.log_in()
    reply = site.get("/logout", "POST", Cookie=cookie, Origin=site.origin)
    assert reply.status == 204
    (morsel,) = cookies_of(reply).values()
    assert (morsel.value, morsel["path"]) == ("", "/")
    assert [site.call(each).status for each in (cookie, other)] == [401, 200]


def test_with_tls_the_cookie_is_for_tls_only() -> None:
    sessions = WebSessions()
    tls = make_tls(["127.0.0.1"])
    with serving(tls=tls, pages=WebPages("lab", sessions, FILES)) as running:
        context = ssl.create_default_context(cadata=tls.certificate_pem)
        connection = http.client.HTTPSConnection("127.0.0.1", running.port, context=context, timeout=10)
        connection.request("GET", f"/login?code={sessions.new_code('admin')}")
        reply = Reply(connection.getresponse())
        connection.close()
    (morsel,) = cookies_of(reply).values()
    assert morsel["secure"] and morsel["httponly"]


# -------------------------------------------------------------------------------------------------------- who may not


@pytest.mark.parametrize(
    "path",
    [
        "/login",
        "/login?code=",
        "/login?code={guess}",
        "/login?code={code}&code={code}",
        "/login?code={token}",
    ],
)
def test_a_wrong_code_opens_nothing(site: Site, path: str) -> None:
    code = site.sessions.new_code("admin")
    reply = site.get(path.format(guess="x" * 43, code=code, token=TOKENS["admin"]))
    assert (reply.status, cookies_of(reply)) == (403, {})
    assert b"concurrent-nb dashboard lab" in reply.body


def test_a_code_works_once_and_for_its_time(site: Site) -> None:
    used, old = site.sessions.new_code("admin"), site.sessions.new_code("admin")
    assert [site.get(f"/login?code={used}").status for _ in range(2)] == [303, 403]
    site.clock.advance(CODE_S)
    assert site.get(f"/login?code={old}").status == 403


def test_a_code_of_another_master_opens_nothing(site: Site) -> None:
    assert site.get(f"/login?code={WebSessions().new_code('admin')}").status == 403


def foreign_cookies(site: Site) -> list[str]:
    """Return Cookie headers that give no access here."""
    other = WebSessions()
    foreign = other.log_in(other.new_code("admin"))
    good = site.log_in()
    ended = site.log_in()
    site.get("/logout", "POST", Cookie=ended, Origin=site.origin)
    name, _, value = good.partition("=")
    return [
        "",
        value,
        f"{name}=",
        f"{name}={foreign}",
        f"{name}={TOKENS['admin']}",
        f"{name}={site.sessions.new_code('admin')}",
        f"{name}={value[:-1]}",
        f"session={value}",
        ended,
        "; ".join([f"{name}={foreign}"] * 100),
        "\xff",
    ]


def test_a_foreign_cookie_gives_no_access(site: Site) -> None:
    for cookie in foreign_cookies(site):
        assert site.call(cookie).status == 401, cookie
        assert site.get("/", Cookie=cookie).status == 401, cookie


def test_a_cookie_gives_access_for_its_time(site: Site) -> None:
    cookie = site.log_in()
    site.clock.advance(SESSION_S)
    assert site.call(cookie).status == 401


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "",
        "null",
        "http://evil.example",
        "http://127.0.0.1",
        "https://127.0.0.1:{port}",
        "http://localhost:{port}",
    ],
)
def test_a_cookie_needs_the_origin_of_the_page(site: Site, origin: str | None) -> None:
    given = origin if origin is None else origin.format(port=site.running.port)
    before = len(site.running.sample.notes)
    assert site.call(site.log_in(), call("note", ["no"]), Origin=given).status == 403
    assert len(site.running.sample.notes) == before


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_form_with_the_cookie_calls_nothing(site: Site, kind: str | None) -> None:
    before = len(site.running.sample.notes)
    assert site.call(site.log_in(), call("note", ["no"]), Content_Type=kind).status == 415
    assert len(site.running.sample.notes) == before


def test_a_wrong_token_is_not_made_good_by_a_cookie(site: Site) -> None:
    assert site.call(site.log_in(), Authorization="Bearer wrong").status == 401


@pytest.mark.parametrize("path", ["/", "/login?code={code}", "/static/main.js", "/logout"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_another_host_or_site_gets_nothing(site: Site, path: str, headers: dict[str, str]) -> None:
    code, cookie = site.sessions.new_code("admin"), site.log_in()
    method = "POST" if path == "/logout" else "GET"
    reply = site.get(path.format(code=code), method, Cookie=cookie, **headers)
    assert (reply.status, cookies_of(reply)) == (403, {})
    assert site.sessions.log_in(code) is not None, "the code was used up"
    assert site.call(cookie).status == 200, "the session was ended"


def test_only_the_page_itself_logs_out(site: Site) -> None:
    cookie = site.log_in()
    assert site.get("/logout", "POST", Cookie=cookie).status == 403
    assert site.get("/logout", Cookie=cookie).status == 405
    assert site.call(cookie).status == 200


@pytest.mark.parametrize("path", ["/", "/login?code=x", "/static/main.js"])
@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_pages_are_only_got(site: Site, path: str, method: str) -> None:
    reply = site.get(path, method)
    assert (reply.status, reply.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "page",
        "../web_files.py",
        "vendor/../../../errors.py",
        "%2e%2e/errors.py",
        "vendor%2f..%2f..%2ferrors.py",
        "/etc/passwd",
        "main.js/",
        "main.js%00",
        "MAIN.JS",
        "vendor",
        "__init__.py",
    ],
)
def test_only_known_files_are_served(site: Site, name: str) -> None:
    assert site.get(f"/static/{name}").status in (400, 404)


@pytest.mark.parametrize(
    "path", ["/", "/login?code=x", "/static/main.js", "/static/none", "/logout", "/login?code=%ff"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_answer_has_strict_headers(site: Site, path: str, method: str) -> None:
    for cookie in (None, site.log_in()):
        reply = site.get(path, method, Cookie=cookie)
        assert reply.headers.get_all("Content-Security-Policy") == [CONTENT_SECURITY_POLICY]
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers["X-Frame-Options"] == "DENY"
        assert reply.headers["Cache-Control"] == ("no-cache" if reply.body == b"export {};" else "no-store")
        assert "Server" not in reply.headers
        assert not [name for name in reply.headers if name.lower().startswith("access-control")]
        assert not re.search(rb"tornado|python|traceback", reply.body, re.IGNORECASE)
        assert not re.search(rb"<script|<style|style=|\bon\w+=", reply.body), "the policy would refuse it"


def test_a_server_without_a_page_takes_no_cookie() -> None:
    with serving() as running:
        site = Site(running, WebSessions(), ManualClock())
        assert [site.get(path).status for path in ("/", "/login?code=x", "/static/main.js")] == [404] * 3
        assert site.call(f"concurrent_nb-1={'x' * 43}").status == 401


def test_a_browser_that_reads_no_answer_is_cut_off() -> None:
    large = {"page.html": FILES["page.html"], "large.js": WebFile(b"x" * 64 * 1024 * 1024, "text/javascript", '"4"')}
    with serving(pages=WebPages("lab", WebSessions(), large)) as running:
        request = f"GET /static/large.js HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n\r\n".encode()
        received = raw(running, request, pause_s=running.server._limits.answer_s + 1)
        assert len(received) < 64 * 1024 * 1024
        assert running.answers()


def test_a_master_without_the_files_explains_that(site: Site) -> None:
    sessions = WebSessions()
    with serving(pages=WebPages("lab", sessions, {})) as running:
        bare = Site(running, sessions, ManualClock())
        reply = bare.get("/", Cookie=bare.log_in())
        assert (reply.status, b"lacks the files" in reply.body) == (404, True)


def test_two_cookie_headers_are_one(site: Site) -> None:
    cookie = site.log_in()
    lines = [
        f"Origin: {site.origin}",
        "Cookie: a=b",
        f"Cookie: {cookie}",
        f"Content-Length: {len(call())}",
        "Connection: close",
    ]
    request = head(site.running, *lines).replace(f"Authorization: Bearer {TOKENS['admin']}\r\n".encode(), b"")
    assert b'"result":3' in raw(site.running, request + call())
