"""The web page in a real browser, fed by a made-up cluster: what it shows, obeys and survives."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Locator, Page

from tests.browser.conftest import PATIENCE_S, ROOT, free_port

#: what users may wait until the page admits that it has lost the master
ADMITS_WITHIN_S = 5.0
THEMES = ("light", "dark")
SIZES = (1280, 400)


@contextmanager
def master(port: int, *options: str, module: str = "made_up_cluster") -> Iterator[str]:
    """Run a made-up master; give the address of its page."""
    command = [sys.executable, "-m", f"tests.browser.{module}", "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def address(leaves_nothing_behind: None) -> Iterator[str]:
    with master(free_port(), "--jobs", "1000", "--evil") as url:
        yield url


@pytest.fixture(scope="module")
def address_of_views(leaves_nothing_behind: None) -> Iterator[str]:
    """A cluster with fewer jobs, which nobody cancels."""
    with master(free_port(), "--jobs", "8", "--evil") as url:
        yield url


@contextmanager
def opened(url: str, browser: BrowserContext) -> Iterator[Page]:
    """Open the page, with all panels filled. It must leave no error in the console, refusals by its policy included."""
    page, errors = browser.new_page(), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(url)
    page.locator(".cnb-job").first.wait_for()
    yield page
    page.close()
    assert not errors


@pytest.fixture
def page(address: str, browser: BrowserContext) -> Iterator[Page]:
    with opened(address, browser) as page:
        yield page


@pytest.fixture
def views(address_of_views: str, browser: BrowserContext) -> Iterator[Page]:
    with opened(address_of_views, browser) as page:
        yield page


def open_job(page: Page, name: str) -> Locator:
    page.locator(".cnb-job-name").filter(has_text=name).first.click()
    return page.locator(".cnb-detail")


def test_it_shows_the_cluster(page: Page) -> None:
    assert page.title() == "demo"
    assert page.locator("#link").inner_text() == "live"
    page.wait_for_function("() => parseFloat(document.querySelector('.cnb-tile-value').textContent) > 0")
    assert page.locator(".cnb-slave").count() == 4
    assert page.locator(".cnb-chart canvas").count() == 6
    assert page.locator(".cnb-event").count() > 0
    page.get_by_text("Slurm job 1702 on node03").wait_for()
    values = page.get_by_role("group", name="Measured by the tasks of the last jobs")
    assert "<b>rows</b>" in values.inner_text() and "4,720" in values.inner_text()


def test_hostile_texts_are_texts(page: Page) -> None:
    name = page.locator(".cnb-job-name").filter(has_text="<img src=x").first
    name.wait_for()
    assert "<script>" in name.inner_text()
    assert "<U+202E>" in name.inner_text() and "\\x1b[2J" in name.inner_text()
    assert page.evaluate("window.caught") is None
    assert page.locator("main img[src], main script").count() == 0


def test_of_a_thousand_jobs_only_those_seen_have_rows(page: Page) -> None:
    assert page.locator(".cnb-job").count() < 40
    jobs = page.get_by_role("group", name="Jobs", exact=True)
    jobs.evaluate("list => { list.scrollTop = list.scrollHeight; }")
    last = page.locator(".cnb-job[aria-posinset='1000']")
    last.wait_for()
    assert last.get_attribute("aria-setsize") == "1000"
    assert page.locator(".cnb-job").count() < 40


def test_a_job_is_cancelled_and_its_detail_shown(page: Page) -> None:
    row = page.locator(".cnb-job").filter(has_text="of 900").first
    row.locator(".cnb-job-name").click()
    detail = page.locator(".cnb-detail")
    detail.get_by_text("Where the time of its tasks went").wait_for()
    assert "of 900" in detail.inner_text()
    assert "<b>rows</b>" in detail.locator(".cnb-values").inner_text()
    cancel = detail.locator(".cnb-job-head").get_by_role("button", name="Cancel")
    cancel.click()
    detail.get_by_text("cancelled · ").wait_for()
    assert not cancel.is_visible()
    page.get_by_role("region", name="Job", exact=True).get_by_role("button", name="Close").click()
    assert not detail.is_visible()


def test_a_job_without_a_view_has_its_errors_and_says_where_its_prints_are(views: Page) -> None:
    detail = open_job(views, "resample")
    detail.get_by_text("What its tasks print is in 02_mandelbrot.ipynb: below the cell that started it").wait_for()
    detail.locator(".cnb-error").first.wait_for()
    error = detail.locator(".cnb-error").first
    assert "12 times: tasks 1, 4, 9 and 9 more" in error.inner_text()
    error.locator("summary").click()
    assert "Traceback" in error.locator("pre").inner_text()
    assert views.evaluate("window.caught") is None


def test_the_cluster_is_scaled_and_a_slave_replaced(page: Page) -> None:
    form = page.get_by_role("form", name="Scale the cluster")
    field = form.get_by_label("Number of workers")
    page.wait_for_function("() => document.querySelector('.cnb-scale input').value === '16'")
    form.get_by_role("button", name="One worker more").click()
    assert field.input_value() == "17"
    with page.expect_request(lambda request: '"scale"' in (request.post_data or "")) as asked:
        form.get_by_role("button", name="Scale", exact=True).click()
    assert json.loads(asked.value.post_data or "")["params"] == {"workers": 17}
    form.get_by_text("1 more come").wait_for()
    slave = page.locator(".cnb-slave").first
    with page.expect_request(lambda request: '"restart_slave"' in (request.post_data or "")) as asked:
        slave.get_by_role("button", name="Restart").click()
    assert json.loads(asked.value.post_data or "")["params"] == {"slave": slave.locator(".cnb-slave-name").inner_text()}


PERFETTO = """<script>addEventListener("message", ({ data, source, origin }) => {
  if (data === "PING") source.postMessage("PONG", origin);
  else document.title = `${data.perfetto.title}: ${new TextDecoder().decode(data.perfetto.buffer)}`;
});</script>"""


def test_a_trace_is_saved_and_opened_in_perfetto_after_a_click(page: Page, browser: BrowserContext) -> None:
    fetched = list[str]()
    page.on("request", lambda request: fetched.append(request.url))
    page.locator(".cnb-job-name").first.click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save trace").click()
    assert download.value.suggested_filename.startswith("trace-")
    trace = json.loads(download.value.path().read_text())
    assert [event["ph"] for event in trace["traceEvents"]].count("X") > 1
    page.get_by_text("1 task", exact=True).wait_for()
    assert not [url for url in fetched if "perfetto" in url]
    browser.route("https://ui.perfetto.dev/**", lambda route: route.fulfill(body=PERFETTO, content_type="text/html"))
    with page.expect_popup() as popup:
        page.get_by_role("button", name="Open in Perfetto").click()
    popup.value.wait_for_function("() => document.title.includes('traceEvents')")
    assert popup.value.title().startswith("trace-")
    popup.value.close()
    browser.unroute("https://ui.perfetto.dev/**")


def test_the_stream_obeys_the_keyboard_and_has_a_text_twin(page: Page) -> None:
    canvas = page.locator(".cnb-stream-canvas")
    canvas.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('.cnb-stream-canvas').stream.rows.length === 16")
    canvas.focus()
    canvas.press("Space")
    assert page.locator(".cnb-stream-pause").inner_text() == "Follow"
    canvas.press("f")
    assert page.get_by_role("button", name="Failed only").get_attribute("aria-pressed") == "true"
    span_s = "() => document.querySelector('.cnb-stream-canvas').stream.span_s"
    canvas.press("+")
    assert page.evaluate(span_s) == 30
    canvas.press("End")
    assert page.locator(".cnb-stream-pause").inner_text() == "Pause"
    page.get_by_text("Rows as a table").click()
    rows = page.locator(".cnb-details").filter(has_text="Rows as a table").locator("tbody tr")
    rows.nth(15).wait_for()
    assert rows.count() == 16
    assert "node01" in rows.first.inner_text()
    assert "column" in page.locator(".cnb-functions").inner_text()


def test_the_graph_of_tasks_is_drawn_and_has_a_text_twin(views: Page) -> None:
    graph = views.get_by_role("region", name="Task graph", exact=True)
    names = graph.locator(".cnb-graph-name")
    names.first.wait_for()
    assert {"load", "clean", "train_fold", "score", "add"} < set(names.all_inner_texts())
    assert any("<img src=x" in name for name in names.all_inner_texts()) and views.evaluate("window.caught") is None
    left = {
        name: names.filter(has_text=name).bounding_box() for name in ("load", "clean", "train_fold", "score", "add")
    }
    places = [box["x"] for box in left.values() if box is not None]
    assert len(places) == 5 and places == sorted(set(places))
    assert graph.locator("svg path.cnb-graph-line").count() == 8
    assert re.match(
        r"Task graph: load \d+/240 → clean \d+/240 → ", graph.get_by_role("img").get_attribute("aria-label") or ""
    )
    graph.get_by_text("Graph as a table").click()
    row = graph.get_by_role("row").filter(has=views.get_by_role("rowheader", name="add"))
    assert row.locator("td").last.inner_text() == "score (60), itself (34)"
    # Its counts follow the feed, and the elements stay.
    body = graph.locator("tbody")
    before = body.inner_text()
    names.first.evaluate("name => { name.isSame = true; }")
    views.wait_for_function("([before, body]) => body.innerText !== before", arg=[before, body.element_handle()])
    assert names.first.evaluate("name => name.isSame")
    graph.get_by_label("Graph", exact=True).select_option("6")
    assert names.all_inner_texts() == ["read_page", "count_words", "merge"]


def test_ten_thousand_tasks_are_scrolled_fluently(page: Page) -> None:
    page.locator(".cnb-stream-canvas").scroll_into_view_if_needed()
    marks, frames_per_s, script_ms = page.evaluate(
        """async () => {
            const { stream } = document.querySelector('.cnb-stream-canvas');
            stream.setFollowing(false);
            stream.span_s = 600;
            const times = [], begun = performance.now(), end = stream.to_s, before = stream.frames;
            while (performance.now() - begun < 2000) {
                stream.to_s = end - (times.length % 60);
                stream.isDirty = true;
                await new Promise(requestAnimationFrame);
                times.push(stream.lastFrame_ms);
            }
            const seconds = (performance.now() - begun) / 1000;
            times.sort((a, b) => a - b);
            return [stream.model.marks.size, (stream.frames - before) / seconds, times[times.length >> 1]];
        }"""
    )
    print(f"{marks} marks: {frames_per_s:.0f} frames a second, {script_ms:.1f} ms each")  # noqa: T201 - read with -s
    assert marks >= 10_000
    # The machine may be busy with other tests: its frames may come late, but each takes little of its own.
    assert script_ms < 1000 / 30


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", SIZES)
def test_it_is_accessible(views: Page, theme: str, width: int) -> None:
    page = views
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
    open_job(page, "fit_model").locator("details.cnb-error summary").first.click()
    page.locator("img.cnb-display").wait_for()
    page.get_by_text("Rows as a table").click()
    page.get_by_text("Graph as a table").click()
    page.get_by_text("Settings that may change while it runs").click()
    page.locator(".cnb-setting").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    result = Axe().run(page)
    assert result.violations_count == 0, result.generate_report()


def test_a_setting_is_changed(page: Page) -> None:
    page.get_by_text("Settings that may change while it runs").click()
    value = page.get_by_label("MasterNode.strategy")
    assert value.input_value() == "stealing"
    value.fill("push-best")
    page.get_by_role("button", name="Set", exact=True).click()
    page.locator(".cnb-setting").get_by_text("set", exact=True).wait_for()
    page.reload()
    page.get_by_text("Settings that may change while it runs").click()
    page.wait_for_function("() => document.querySelector('.cnb-setting input')?.value === 'push-best'")


def test_the_theme_is_switched_and_remembered(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Use the dark theme").click()
    page.reload()
    page.locator(".cnb-job").first.wait_for()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.get_by_role("button", name="Use the light theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_a_lost_master_is_admitted_and_found_again(browser: BrowserContext, leaves_nothing_behind: None) -> None:
    port, page = free_port(), browser.new_page()
    try:
        with master(port) as url:
            page.goto(url)
            page.locator(".cnb-job").first.wait_for()
        page.locator("#link[data-state=lost]").wait_for(timeout=2 * ADMITS_WITHIN_S * 1000)
        assert page.locator("#link").inner_text() == "connection lost, trying again"
        with master(port, "--slaves", "2"):
            page.locator("#link[data-state=live]").wait_for()
            page.wait_for_function("() => document.querySelectorAll('.cnb-slave').length === 2")
    finally:
        page.close()


def test_the_picture_of_a_job_fills_up(views: Page) -> None:
    detail = open_job(views, "column")
    picture = detail.locator("img.cnb-picture")
    picture.wait_for()
    views.wait_for_function("() => document.querySelector('img.cnb-picture').naturalWidth === 384")
    before = picture.get_attribute("src")
    views.wait_for_function("before => document.querySelector('img.cnb-picture').src !== before", arg=before)
    assert "1,024 pixels" in detail.inner_text()
    assert "column 0" in detail.locator(".cnb-outputs").inner_text()
    assert detail.locator(".cnb-task").count() > 0


def test_prints_follow_their_end_unless_somebody_reads(views: Page) -> None:
    outputs = open_job(views, "column").locator(".cnb-outputs")
    outputs.wait_for()
    # So much that its beginning is not near its end.
    views.wait_for_function(
        "() => { const it = document.querySelector('.cnb-outputs'); return it.scrollHeight > it.clientHeight + 60; }"
    )
    assert outputs.evaluate(
        "place => place.scrollTop > 0 && place.scrollTop + place.clientHeight > place.scrollHeight - 4"
    )
    outputs.focus()
    outputs.press("Home")
    views.wait_for_function("() => document.querySelector('.cnb-outputs').scrollTop === 0")
    text = outputs.inner_text()
    views.wait_for_function("text => document.querySelector('.cnb-outputs').innerText !== text", arg=text)
    assert outputs.evaluate("place => place.scrollTop") == 0


def test_results_errors_and_displays_are_shown(views: Page) -> None:
    detail = open_job(views, "fit_model")
    detail.locator(".cnb-results tbody tr").nth(20).wait_for()
    assert detail.get_by_role("progressbar", name="task 41").count() == 1
    error = detail.locator("details.cnb-error").first
    assert "12 times: tasks 3, 10, 17, 24, 31 and 7 more" in error.inner_text()
    error.locator("summary").press("Enter")
    assert "fitted = solve" in error.locator("pre").inner_text()
    assert "text/html output is not shown here" in detail.locator(".cnb-outputs").inner_text()
    assert detail.locator("img.cnb-display").evaluate("image => image.complete && image.naturalWidth === 120")
    # What is open stays open when the view is another one.
    text = detail.locator(".cnb-outputs").inner_text()
    views.wait_for_function("text => document.querySelector('.cnb-outputs').innerText !== text", arg=text)
    assert error.evaluate("details => details.open")


def test_a_view_of_hostile_texts_runs_nothing_and_freezes_nothing(views: Page) -> None:
    detail = open_job(views, "<img src=x")
    detail.locator(".cnb-outputs").get_by_text("<U+202E>").first.wait_for()
    assert views.evaluate("window.caught") is None
    assert detail.locator("script, [onerror], [onload], img[src]:not([src^='data:image/'])").count() == 0
    assert detail.locator("*").count() < 1500
    shown = detail.locator(".cnb-outputs").inner_text()
    assert "\x1b" not in shown and "red" in shown and len(shown) < 300_000
    longest_ms = views.evaluate(
        """async () => {
            let longest = 0, last = performance.now();
            for (const end = last + 3000; last < end; ) {
                await new Promise((resolve) => setTimeout(resolve, 0));
                longest = Math.max(longest, performance.now() - last);
                last = performance.now();
            }
            return longest;
        }"""
    )
    print(f"the page was busy for at most {longest_ms:.0f} ms")  # noqa: T201 - read with -s
    # A page that freezes does so for many seconds; a machine that is busy with other tests is late by less.
    assert longest_ms < 2500


def test_what_is_asked_about_a_task_is_shown_below_it(page: Page) -> None:
    """The hook for actions of tasks, with actions of the test."""
    page.evaluate(
        """async () => {
            const { RunningTasks } = await import(new URL("static/running_tasks.js", document.baseURI));
            const model = { running: [], now_s: (now) => now };
            const actions = [
                { label: "Stack", title: "", run: async (job, index) => `${job.id}/${index}\\n<b>in f\\u202e` },
                { label: "Cancel", title: "", run: async () => { throw new Error("no such task"); } },
            ];
            const tasks = new RunningTasks(model, { actions, now: () => 100 });
            document.querySelector("main").prepend(tasks.element);
            window.tasks = tasks;
            window.run = (running) => {
                model.running = running.map(([index, started_s]) => ({ job: "j", index, slave: "node", started_s }));
                tasks.update({ id: "j" });
            };
            window.run([[3, 98.5], [1, 90]]);
        }"""
    )
    rows = page.locator(".cnb-running").first.locator("li")
    assert [row.split("\n")[0] for row in rows.all_inner_texts()] == ["task 1", "task 3"]
    assert "10.0 s" in rows.first.inner_text()
    page.get_by_role("button", name="Stack: task 3").click()
    answer = rows.nth(1).locator("pre")
    answer.wait_for()
    assert answer.inner_text() == "j/3\n<b>in f<U+202E>"
    page.get_by_role("button", name="Cancel: task 1").press("Enter")
    rows.first.get_by_text("no such task").wait_for()
    page.evaluate("window.run([[1, 90]])")
    assert "has ended" in rows.nth(1).inner_text()
    rows.nth(1).get_by_role("button", name="Close").click()
    page.evaluate("window.run([[1, 90]])")
    assert rows.count() == 1
    page.evaluate("window.tasks.element.remove()")
