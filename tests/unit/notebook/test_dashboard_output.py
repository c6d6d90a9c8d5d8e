"""The output of `%concurrent dashboard`: the same as text and as HTML, and no text becomes markup."""

from concurrent_nb.nodes.common.dashboard_link import DashboardLink
from concurrent_nb.notebook.dashboard_output import link_as_html, link_as_text

LOCAL = DashboardLink("http://127.0.0.1:8000/login?code=x", "")
REMOTE = DashboardLink("https://192.0.2.1:8000/login?code=x", "AA:BB")


def test_the_link_is_shown_as_text_and_as_html() -> None:
    assert link_as_text(LOCAL).splitlines()[0] == LOCAL.url
    assert f'href="{LOCAL.url}"' in link_as_html(LOCAL)
    for text in (link_as_text(LOCAL), link_as_html(LOCAL)):
        assert "once" in text


def test_a_link_that_works_on_one_machine_only_has_a_note() -> None:
    assert "on the machine of this kernel" in link_as_text(LOCAL)
    assert "on the machine of this kernel" not in link_as_text(REMOTE)


def test_the_certificate_is_named() -> None:
    assert "AA:BB" in link_as_text(REMOTE) and "AA:BB" in link_as_html(REMOTE)
    assert "certificate" not in link_as_text(LOCAL)


def test_nothing_becomes_markup() -> None:
    shown = link_as_html(DashboardLink('http://x/"><script>alert(1)</script>', "<b>"))
    assert "<script" not in shown and "<b>" not in shown and '"><' not in shown.partition("</a>")[0]
