"""The Lab extension under a base URL and behind a reverse proxy; two Labs and Notebook 7 on one cluster; what dies.

What a user does with Lab is done by the tests of `test_lab_extension.py`, here under a prefix with a space, as
JupyterHub gives it, and with another host than the server's own.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import BrowserContext, Locator, Page

from concurrent_nb.transport import connection_file
from concurrent_nb.transport.control_client import ControlClient
from tests.browser import test_lab_extension as direct
from tests.browser.conftest import Lab, free_port, lab_server
from tests.clusters import running
from tests.reverse_proxy import HOST, reverse_proxy

CELLS = direct.CELLS
BASE_URL = "/hub/user/x%20y/"
#: what users may wait until a view says that something is lost
ADMITS_WITHIN_MS = 5000
PHOENIX = "phoenix"
#: of the cluster that the task stream shows
EPOCH = "document.querySelector('.cnb-stream-canvas').stream.model.epoch"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jupyter")


@pytest.fixture(scope="module")
def server(leaves_nothing_behind: None, home: Path, pytestconfig: pytest.Config) -> Iterator[tuple[str, Path]]:
    """A server that only the proxy knows."""
    options = (f"--ServerApp.base_url={BASE_URL}", "--ServerApp.allow_remote_access=True")
    with lab_server(home, *options, theme=pytestconfig.getoption("--theme")) as (address, folder):
        port = urlsplit(address).port
        assert port is not None and address.endswith(BASE_URL)
        with reverse_proxy(port) as public:
            yield f"{public}{BASE_URL}", folder


sidebar = direct.sidebar
# ----------------------------------------------------------------------------------------------- as without a proxy
test_progress_moves_while_the_cell_blocks = direct.test_progress_moves_while_the_cell_blocks
test_a_job_is_cancelled_while_the_kernel_is_busy = direct.test_a_job_is_cancelled_while_the_kernel_is_busy
test_panels_show_the_tasks = direct.test_panels_show_the_tasks
test_the_cell_of_a_job_is_shown = direct.test_the_cell_of_a_job_is_shown
test_a_cluster_is_started_and_stopped = direct.test_a_cluster_is_started_and_stopped


def test_the_button_of_a_job_shows_its_cell(lab: Lab, sidebar: Locator) -> None:
    job = sidebar.locator(".cnb-job").filter(has_text="cancelled").first
    job.get_by_role("button", name="Cell", exact=True).click()
    lab.page.wait_for_function("() => window.jupyterapp.shell.currentWidget.content?.activeCell?.model.id === 'work'")


def test_the_page_knows_the_proxy_only(lab: Lab) -> None:
    assert urlsplit(lab.page.url).hostname == HOST
    fetched: list[str] = lab.page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    hosts = {urlsplit(each).netloc for each in fetched if each.startswith(("http", "ws"))}
    assert hosts == {urlsplit(lab.page.url).netloc}
    assert any(f"{BASE_URL}lab/extensions/concurrent-nb/static/lab.js" in each for each in fetched)


# -------------------------------------------------------------------------------------- other faces of one cluster


def test_another_lab_sees_and_steers_the_same_cluster(
    lab: Lab, sidebar: Locator, browser: BrowserContext, home: Path, tmp_path: Path
) -> None:
    """A server of its own, without a proxy, of the same user."""
    with lab_server(tmp_path, runtime=home / "runtime") as (address, _), ExitStack() as stack:
        page = browser.new_page()
        stack.callback(page.close)
        page.goto(f"{address}lab?reset")
        page.wait_for_function("() => window.jupyterapp?.commands.hasCommand('concurrent-nb:open')")
        page.evaluate("window.jupyterapp.restored.then(() => true)")  # or the layout hides it again
        direct.execute(page, "concurrent-nb:open")
        other = page.locator(".cnb-lab-sidebar")
        other.locator(".cnb-lab-link[data-state=live]").wait_for()
        lab.page.bring_to_front()
        lab.start("more")
        for place in (sidebar, other):
            place.locator(".cnb-job").filter(has_text="running").wait_for()
        other.locator(".cnb-job").filter(has_text="running").get_by_role("button", name="Cancel").click()
        lab.finish("more")
        for place in (sidebar, other):
            place.locator(".cnb-job").filter(has_text="running").wait_for(state="detached")
        assert sidebar.locator(".cnb-lab-link").get_attribute("data-state") == "live"


def test_notebook_7_shows_the_panels(lab: Lab, browser: BrowserContext) -> None:
    page, errors = browser.new_page(), list[str]()
    try:
        page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))
        page.goto(f"{lab.url}notebooks/{lab.name}")
        page.wait_for_function("() => window.jupyterapp?.commands.hasCommand('concurrent-nb:open-panel')")
        direct.execute(page, "concurrent-nb:open-panel", panel="stream")
        page.locator(".cnb-lab-main .cnb-lab-link[data-state=live]").wait_for()
        page.wait_for_function("() => document.querySelector('.cnb-stream-canvas')?.stream.frames > 2")
        assert page.evaluate("document.querySelector('.cnb-stream-canvas').stream.model.marks.size") > 0
        assert not [error for error in errors if "concurrent-nb" in error]
    finally:
        page.close()


# ---------------------------------------------------------------------------------------------------- what dies


@pytest.fixture
def phoenix(home: Path) -> Iterator["Phoenix"]:
    with ExitStack() as stack:
        phoenix = Phoenix(home / "runtime", stack)
        phoenix.start()
        yield phoenix


class Phoenix:
    """A cluster that is killed and started again under its name, at the same port."""

    def __init__(self, runtime: Path, stack: ExitStack) -> None:
        self.file = runtime / connection_file.file_name(PHOENIX)
        self.environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(runtime)}
        self.port = free_port()
        self.stack = stack

    def start(self) -> None:
        """Start master and slave."""
        options = ["--name", PHOENIX, f"--MasterNode.control_port={self.port}"]
        self.master = self.stack.enter_context(running("master", *options, says="is running", env=self.environment))
        self.slave = self.stack.enter_context(
            running("slave", "--connect", PHOENIX, "--workers", "1", says="has joined", env=self.environment)
        )

    def call(self, method: str) -> Any:
        info = connection_file.read(self.file)
        with ControlClient(info.endpoints, info.tokens["admin"]) as control:
            return control.call(method)

    def link(self) -> str:
        """Return a link to its web page, which opens it once."""
        return f"http://127.0.0.1:{self.port}{self.call('one_time_link')['path']}"


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def wait_at(page: Page, text: str) -> Locator:
    """Bring a page to the front, where it draws, and return the place of its events with a text."""
    page.bring_to_front()
    return page.locator(".cnb-event").filter(has_text=text).first


def test_views_show_what_was_killed_and_find_the_new_master(
    lab: Lab, sidebar: Locator, browser: BrowserContext, phoenix: Phoenix
) -> None:
    web, again, link = browser.new_page(), browser.new_page(), sidebar.locator(".cnb-lab-link")
    try:
        web.goto(phoenix.link())
        web.locator(".cnb-slave").wait_for()
        lab.page.bring_to_front()
        direct.execute(lab.page, "concurrent-nb:open")
        sidebar.get_by_role("button", name="Look for clusters again").click()
        sidebar.get_by_role("button", name=PHOENIX).click()
        sidebar.locator(".cnb-slave").wait_for()
        direct.execute(lab.page, "concurrent-nb:open-panel", panel="stream")
        epoch = lab.page.evaluate(EPOCH)

        kill(phoenix.slave.pid)
        wait_at(lab.page, "slave lost").wait_for(timeout=ADMITS_WITHIN_MS)
        assert sidebar.locator(".cnb-slave").count() == 0
        wait_at(web, "slave lost").wait_for(timeout=ADMITS_WITHIN_MS)
        assert web.locator(".cnb-slave").count() == 0

        kill(phoenix.master.pid)
        web.locator("#link[data-state=lost]").wait_for(timeout=ADMITS_WITHIN_MS)
        lab.page.bring_to_front()
        sidebar.locator(".cnb-lab-link[data-state=lost]").wait_for(timeout=ADMITS_WITHIN_MS)
        assert link.inner_text() == "connection lost, trying again"

        phoenix.start()
        sidebar.locator(".cnb-lab-link[data-state=live]").wait_for()
        sidebar.locator(".cnb-slave").wait_for()
        assert lab.page.evaluate(EPOCH) > epoch
        # The sessions of a master end with it, so its page has to be opened again, and says so.
        web.bring_to_front()
        web.locator("#link[data-state=refused]").wait_for()
        assert "concurrent-nb dashboard" in web.locator(".notice").first.inner_text()
        again.goto(phoenix.link())
        for page in (again, web):
            # What a browser sends to a page that is looked at again.
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            page.locator("#link[data-state=live]").wait_for()
            page.locator(".cnb-slave").wait_for()
    finally:
        web.close()
        again.close()


def test_a_kernel_that_is_killed_is_shown_and_another_cluster_is_watched(
    lab: Lab, sidebar: Locator, phoenix: Phoenix
) -> None:
    lab.page.bring_to_front()
    sidebar.get_by_role("button", name="Look for clusters again").click()
    own = sidebar.locator(".cnb-cluster").filter(has_text="embedded-")
    own.locator(".cnb-link").click()
    sidebar.locator(".cnb-lab-link[data-state=live]").wait_for()
    assert "embedded-" in sidebar.locator(".cnb-cluster.is-chosen").inner_text()
    kernel = int(own.locator(".cnb-link").inner_text().rpartition("-")[2])
    assert psutil.Process(kernel).is_running()
    kill(kernel)
    # Its cluster ends with it: the sidebar leaves it for the one that there is.
    own.wait_for(state="detached", timeout=ADMITS_WITHIN_MS)
    sidebar.locator(".cnb-cluster.is-chosen").filter(has_text=PHOENIX).wait_for(timeout=ADMITS_WITHIN_MS)
    sidebar.locator(".cnb-lab-link[data-state=live]").wait_for()
    sidebar.locator(".cnb-slave").wait_for()
    assert not lab.errors
