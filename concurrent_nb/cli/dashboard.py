"""`concurrent-nb dashboard`: print a one-time link to a cluster's web page, and open it in a browser."""

import contextlib
import html
import os
import time
import webbrowser
from pathlib import Path
from typing import Final

from concurrent_nb.nodes.common.dashboard_link import LINK_S, dashboard_link
from concurrent_nb.transport import connection_file, private_files
from concurrent_nb.transport.connection_file import ConnectionFile

_REDIRECT: Final = """\
<!DOCTYPE html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={url}">
<title>concurrent_nb</title>
<p><a href="{url}">Open the dashboard</a></p>
"""
_ENDING: Final = "-open.html"


def show_dashboard(info: ConnectionFile, *, opens: bool) -> None:
    """Print a link to the web page of a cluster and, with `opens`, open it in a browser if there is one."""
    link = dashboard_link(info)
    print(f"{link.url}\nThe link works once, within {LINK_S} s; the browser then has access for 12 hours.", flush=True)
    if link.fingerprint:
        print(
            "The certificate is the cluster's own, so the browser warns. Its SHA-256 fingerprint is"
            f"\n{link.fingerprint}",
            flush=True,
        )
    if opens and (browser := _browser()) is not None:
        browser.open(_redirect(info.name, link.url).as_uri())


def _browser() -> webbrowser.BaseBrowser | None:
    """Return the user's browser; None if there is none, or only one that would take over the terminal."""
    with contextlib.suppress(webbrowser.Error):
        browser = webbrowser.get()
        if type(browser) is not webbrowser.GenericBrowser or "BROWSER" in os.environ:
            return browser
    return None


def _redirect(name: str, url: str) -> Path:
    """Write a file that leads a browser to the link, and return its path.

    The link itself would be an argument of the browser's command, which other users of this machine can read, and use.
    """
    folder = connection_file.folder_to_write()
    for old in folder.glob(f"concurrent_nb-*{_ENDING}"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > LINK_S:
                old.unlink()
    path = folder / f"concurrent_nb-{name}{_ENDING}"
    private_files.replace_private(path, _REDIRECT.format(url=html.escape(url)).encode())
    return path
