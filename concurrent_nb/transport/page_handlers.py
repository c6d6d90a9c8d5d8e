"""The handlers of a master's web page: GET /login, / and /static/..., POST /logout.

    concurrent-nb dashboard  --one_time_link-->  master        (token, as for every call)
    browser  --GET /login?code=...-->  a cookie, and a redirect to /
    browser  --GET /, /static/...-->  the page and its files
    page     --POST /api/1-->  calls, with the cookie instead of a token

No URL that stays in a history or log is worth anything: a code works once and for a minute. The files are the same for
everyone and need no session; what they show does.
"""

import html
from typing import Any, Final

from concurrent_nb.errors import AccessRefused, ConcurrentError, ProtocolError
from concurrent_nb.transport.control_handlers import Guarded, ServerContext
from concurrent_nb.transport.web_files import PAGE, WebFile
from concurrent_nb.transport.web_sessions import SESSION_S, WebSessions, cookie_name

LOGIN_PATH: Final = "/login"
LOGOUT_PATH: Final = "/logout"
STATIC_PATH: Final = "/static/"

#: the page runs and shows only what this master serves, connects to no other server, and is shown in no other page
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
#: without a style of its own, which the policy would refuse: the browser's, light or dark
_PLAIN_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
{head}<title>{title}</title>
</head>
<body>
<main>
<h1>{title}</h1>
{text}
</main>
</body>
</html>
"""


class _WebHandler(Guarded):
    """What all paths of the web page have in common."""

    verb = "GET"

    # Tornado calls it with what the server was given for this path.
    def initialize(self, context: ServerContext, name: str, sessions: WebSessions, files: dict[str, WebFile]) -> None:  # type: ignore[override]
        super().initialize(context)
        self._name = name
        self._sessions = sessions
        self._files = files

    def set_default_headers(self) -> None:
        super().set_default_headers()
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    @property
    def _cookie_name(self) -> str:
        """The name of this master's cookie, by the port that the browser sees (a tunnel may have another)."""
        port = self.request.headers.get("Host", "").rpartition(":")[2]
        return cookie_name(int(port) if port.isascii() and port.isdigit() else 0)

    async def _show(self, title: str, text: str, head: str = "") -> None:
        """Answer with a page of plain text (HTML)."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        await self._send(_PLAIN_PAGE.format(head=head, title=html.escape(title), text=text).encode())

    def _how_to_open(self) -> str:
        command = f"concurrent-nb dashboard {self._name}"
        return (
            f"<p>To open this page, run <code>{html.escape(command)}</code> on a machine that has the cluster's"
            " connection file, or <code>%concurrent dashboard</code> in a notebook that uses it. Both show a link that"
            " opens this page once; after that this browser has access for 12 hours.</p>"
        )


class LoginHandler(_WebHandler):
    """GET /login?code=...: uses a one-time code up, sets the cookie of a new session, and redirects to the page."""

    async def get(self) -> None:
        codes = self.get_query_arguments("code")
        cookie = self._sessions.log_in(codes[0]) if len(codes) == 1 else None
        if cookie is None:
            self.set_status(403)
            text = (
                "<p>A link works once, and for one minute. This one was used, is older, or is of another cluster.</p>"
            )
            return await self._show("This link no longer works", text + self._how_to_open())
        self.set_cookie(
            self._cookie_name,
            cookie,
            path="/",
            max_age=int(SESSION_S),
            httponly=True,
            samesite="Strict",
            secure=self.request.protocol == "https",
        )
        self.set_status(303)
        self.set_header("Location", "/")
        self.clear_header("Content-Type")
        await self._send(None)


class PageHandler(_WebHandler):
    """GET /: the page for a browser with a session; for others a page that explains how to get one."""

    async def get(self) -> None:
        role = self._role_of_session()
        if role is None:
            # A browser that followed a link of another site, or was sent here by /login after such a link, has kept the
            # cookie (SameSite=Strict). It sends it if this site's own page leads here.
            if self.request.headers.get("Sec-Fetch-Site") == "cross-site":
                refresh = '<meta http-equiv="refresh" content="0; url=/">\n'
                return await self._show("Opening the dashboard", '<p><a href="/">Continue</a></p>', refresh)
            self.set_status(401)
            title = f"Cluster {self._name}: you are not logged in"
            return await self._show(title, self._how_to_open())
        self._context.on_authenticated(self._stream, role)
        page = self._files.get(PAGE)
        if page is None:
            self.set_status(404)
            text = "<p>The installation of concurrent_nb where the master runs lacks the files of this page.</p>"
            return await self._show("There is no dashboard", text)
        self.set_header("Content-Type", page.mime_type)
        await self._send(page.data)


class StaticHandler(_WebHandler):
    """GET /static/NAME: a file of the page. A browser asks each time, and gets a changed file only."""

    _file: WebFile | None = None

    def compute_etag(self) -> str | None:
        return None if self._file is None else self._file.etag

    async def get(self, name: str) -> None:
        self._file = self._files.get(name)
        if self._file is None:
            return self._refuse(404, ProtocolError("the web page has no file of that name"))
        self.set_header("Content-Type", self._file.mime_type)
        self.set_header("Cache-Control", "no-cache")
        await self._send(self._file.data)


class LogoutHandler(_WebHandler):
    """POST /logout: ends the session of the browser, with its feeds."""

    verb = "POST"

    async def post(self) -> None:
        if self._sessions.log_out(self._cookies):
            for reader in list(self._context.readers):
                reader.close_unless_allowed()
        self.clear_cookie(self._cookie_name, path="/")
        self.set_status(204)
        self.clear_header("Content-Type")
        await self._send(None)

    def _not_allowed(self) -> tuple[int, ConcurrentError] | None:
        if "Origin" not in self.request.headers:
            return 403, AccessRefused("only the page itself logs out: the request has no Origin header")
        return None


def page_rules(
    context: ServerContext, name: str, sessions: WebSessions, files: dict[str, WebFile]
) -> list[tuple[str, Any, dict[str, Any]]]:
    """Return Tornado's rules for the paths of the web page of the cluster `name`."""
    shared = {"context": context, "name": name, "sessions": sessions, "files": files}
    return [
        ("/", PageHandler, shared),
        (LOGIN_PATH, LoginHandler, shared),
        (LOGOUT_PATH, LogoutHandler, shared),
        (f"{STATIC_PATH}(.+)", StaticHandler, shared),
    ]
