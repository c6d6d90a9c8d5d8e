"""The login of a master's web page in a real browser: a link of another site, of a file, and what the policy stops."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page

from concurrent_nb.transport.control_server import WebPages
from concurrent_nb.transport.web_files import WebFile
from concurrent_nb.transport.web_sessions import WebSessions
from tests.serving import Serving, serving

#: calls a method with the cookie, and tries what the policy must stop
PAGE = b"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>page</title>
<script type="module" src="static/main.js"></script></head>
<body onclick="document.title = 'inline'"><script>document.title = 'inline'</script><p id="said"></p></body></html>
"""
SCRIPT = b"""
const call = { jsonrpc: '2.0', id: 1, method: 'whoami', params: {} };
const headers = { 'Content-Type': 'application/json' };
const answer = await fetch(new URL('api/1', document.baseURI), { method: 'POST', headers, body: JSON.stringify(call) });
document.getElementById('said').textContent = `${answer.status} ${(await answer.json()).result?.role}`;
"""
FILES = {
    "page.html": WebFile(PAGE, "text/html; charset=utf-8", '"1"'),
    "main.js": WebFile(SCRIPT, "text/javascript; charset=utf-8", '"2"'),
}


@pytest.fixture(scope="module")
def sessions() -> WebSessions:
    return WebSessions()


@pytest.fixture(scope="module")
def master(leaves_nothing_behind: None, sessions: WebSessions) -> Iterator[Serving]:
    with serving(pages=WebPages("lab", sessions, FILES)) as running:
        yield running


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    browser.clear_cookies()
    page = browser.new_page()
    yield page
    page.close()


def link(master: Serving, sessions: WebSessions) -> str:
    return f"http://127.0.0.1:{master.port}/login?code={sessions.new_code('admin')}"


def check_logged_in(page: Page, master: Serving) -> None:
    page.wait_for_function("() => document.getElementById('said')?.textContent")
    assert page.locator("#said").inner_text() == "200 admin"
    assert page.url == f"http://127.0.0.1:{master.port}/", "no code stays in the URL"
    page.locator("body").click()
    assert page.title() == "page", "an inline script has run"
    assert page.evaluate("document.cookie") == "", "a script can read the cookie"


def test_a_link_that_is_typed_opens_the_page(page: Page, master: Serving, sessions: WebSessions) -> None:
    page.goto(link(master, sessions))
    check_logged_in(page, master)


def test_a_link_in_a_file_opens_the_page(page: Page, master: Serving, sessions: WebSessions, tmp_path: Path) -> None:
    """As `concurrent-nb dashboard` opens it."""
    file = tmp_path / "open.html"
    file.write_text(f'<meta http-equiv="refresh" content="0; url={link(master, sessions)}">')
    page.goto(file.as_uri())
    check_logged_in(page, master)


def test_a_link_on_another_site_opens_the_page(page: Page, master: Serving, sessions: WebSessions) -> None:
    """As a notebook shows it: the browser sends no SameSite=Strict cookie with what such a link leads to."""
    html = f'<a href="{link(master, sessions)}">open</a>'.encode()

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(html)

        def log_message(self, format: str, *arguments: object) -> None:
            """Print nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Site) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            page.goto(f"http://localhost:{site.server_port}/")  # to a browser, another site than 127.0.0.1
            page.locator("a").click()
            check_logged_in(page, master)
        finally:
            site.shutdown()
            thread.join()


def test_without_a_session_the_page_explains_what_to_do(page: Page, master: Serving) -> None:
    page.goto(f"http://127.0.0.1:{master.port}/")
    assert "concurrent-nb dashboard lab" in page.locator("main").inner_text()
