"""What `%concurrent dashboard` shows: a link, as HTML and as text."""

import html
from urllib.parse import urlsplit

from IPython.display import display

from concurrent_nb.nodes.common.dashboard_link import LINK_S, DashboardLink
from concurrent_nb.transport.addresses import is_loopback


def show_dashboard_link(link: DashboardLink) -> None:
    """Show a link to a cluster's web page as the output of the cell."""
    display({"text/plain": link_as_text(link), "text/html": link_as_html(link)}, raw=True)  # type: ignore[no-untyped-call]


def link_as_text(link: DashboardLink) -> str:
    """Return the link and what the user must know about it."""
    return "\n".join([link.url, *_notes(link)])


def link_as_html(link: DashboardLink) -> str:
    """Return the same as HTML."""
    url = html.escape(link.url)
    notes = "<br>".join(html.escape(note) for note in _notes(link))
    return f'<a href="{url}" target="_blank" rel="noopener noreferrer">Open the dashboard</a><br><small>{notes}</small>'


def _notes(link: DashboardLink) -> list[str]:
    """Return what the user must know about a link."""
    notes = [f"The link works once, within {LINK_S} s; the browser then has access for 12 hours."]
    if is_loopback(urlsplit(link.url).hostname or ""):
        notes.append("It is for a browser on the machine of this kernel.")
    if link.fingerprint:
        notes.append(f"The certificate is the cluster's own, so the browser warns; its SHA-256 is {link.fingerprint}")
    return notes
