"""The web page with a cluster that is large and hostile, and with one in which much happens for long."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser.conftest import free_port
from tests.browser.extreme_clusters import JOBS, SLAVES
from tests.browser.page_heap import growth
from tests.browser.test_web_page import master

#: what a page may hold more after a while, in bytes: the messages of two seconds
NOISE_BYTES = 500_000
#: the page may stand still for this long at most: while it loads, and on a machine that is busy with other tests
STILL_MS = 3000


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    """A page that must leave no error in the console, refusals by its policy included."""
    page, errors = browser.new_page(), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.set_viewport_size({"width": 1280, "height": 900})
    yield page
    page.close()
    assert not errors


def test_a_large_and_hostile_cluster_freezes_and_runs_nothing(page: Page, leaves_nothing_behind: None) -> None:
    with master(free_port(), "hostile", module="extreme_clusters") as url:
        page.goto(url)
        page.locator(".cnb-job").first.wait_for()
        page.evaluate(
            """() => {
                let last = performance.now();
                window.stillest_ms = 0;
                setInterval(() => {
                    const now = performance.now();
                    window.stillest_ms = Math.max(window.stillest_ms, now - last);
                    last = now;
                }, 20);
            }"""
        )
        assert page.locator("#link").inner_text() == "live"
        for kind, count in (("job", JOBS), ("slave", SLAVES)):
            row = page.locator(f".cnb-{kind}").first
            assert int(row.get_attribute("aria-setsize") or 0) == count
            assert page.locator(f".cnb-{kind}").count() < 40
            row.locator("xpath=..").evaluate("place => { place.parentElement.scrollTop = 1e9; }")
            page.locator(f".cnb-{kind}[aria-posinset='{count}']").wait_for()
            row.locator("xpath=..").evaluate("place => { place.parentElement.scrollTop = 0; }")
        million = page.locator(".cnb-job").filter(has_text="a million").first
        assert "of 1.00M" in million.inner_text()
        million.locator(".cnb-job-name").click()
        page.locator(".cnb-detail").get_by_text("Where the time of its tasks went").wait_for()
        page.locator(".cnb-stream-canvas").scroll_into_view_if_needed()
        page.wait_for_function("() => document.querySelector('.cnb-stream-canvas').stream.rows.length > 100")
        page.get_by_text("Rows as a table").click()
        page.wait_for_function("() => document.querySelectorAll('.cnb-details tbody tr').length > 100")
        page.wait_for_timeout(1000)
        texts = page.locator("main").inner_text()
        assert "<script>" in texts and "<U+202E>" in texts and "\u202e" not in texts and "\x1b" not in texts
        assert page.title().startswith("<img src=x")
        assert max(map(len, texts.splitlines())) < 1000
        assert page.evaluate("window.caught") is None
        assert page.locator("main img[src]:not([src^='data:image/']), main script, main iframe, main a").count() == 0
        assert page.evaluate("window.stillest_ms") < STILL_MS
        page.close()  # before its master ends, which would be an error


def test_the_heap_of_a_busy_page_does_not_grow(page: Page, leaves_nothing_behind: None) -> None:
    """`python -m tests.browser.page_heap` looks for longer."""
    with master(free_port(), "busy", "--interval", "0.1", module="extreme_clusters") as url:
        page.goto(url)
        page.locator(".cnb-job-name").first.click()
        measured = growth(page, seconds=10.0, warm_up_s=6.0, samples=9)
        page.close()
    print(f"{measured.step_bytes / 1000:+.1f} kB")  # noqa: T201 - read with -s
    assert measured.messages > 50 and measured.marks > 10_000
    assert measured.step_bytes < NOISE_BYTES, measured
