"""JupyterLab with a notebook open in a real browser: one server, browser and kernel for all tests of a module."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Error, Page, sync_playwright

from tests import leaks
from tests.jupyter_servers import end_server

ROOT = Path(__file__).parents[2]
#: what does not come within this time never will
PATIENCE_S = 45.0
#: the Python of Lab's environment: this one, or that of `make test-oldest-lab`
LAB_PYTHON = os.environ.get("CONCURRENT_NB_LAB_PYTHON", sys.executable)
#: a browser without what it would fetch, report and draw by itself
BROWSER_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
]
SERVER_OPTIONS = [
    "--no-browser",
    "--allow-root",
    "--ip=127.0.0.1",
    "--ServerApp.port_retries=20",  # another process may take the port that was free
    "--IdentityProvider.token=",
    "--ServerApp.password=",
    "--LabApp.extension_manager=readonly",
    "--LabApp.expose_app_in_browser=True",
    "--JupyterNotebookApp.expose_app_in_browser=True",
]
#: the notebook that the page shows, and one of its cells
_PANEL = "window.jupyterapp.shell.currentWidget"
_CELL = f"{_PANEL}.content.widgets[index]"


@pytest.fixture(scope="module", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Check the module instead of each test: a browser starts and ends processes of its own while it is open."""
    folders = [Path(os.environ["JUPYTER_RUNTIME_DIR"]), Path(os.environ["TMPDIR"])]
    before = leaks.held(folders)
    yield
    if left := leaks.left_since(before, folders, 2 * leaks.PATIENCE_S):
        pytest.fail("the tests left behind:\n  " + "\n  ".join(left), pytrace=False)


def browser_path() -> str:
    """Find a browser. In CI there must be one; elsewhere the tests explain how to install one."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    missing = "there is no Chromium here: apt-get install chromium fonts-dejavu-core (as root; Debian, Ubuntu)"
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@dataclass
class Lab:
    """A Jupyter server and a page of its notebook."""

    url: str
    folder: Path
    cells: dict[str, int]  #: name of a cell -> its place
    page: Page
    errors: list[str]  #: errors of widgets in the page
    name: str = "test.ipynb"

    def open(self, path: str = "lab/tree") -> None:
        """Open the notebook, and wait until it can run cells."""
        self.page.goto(f"{self.url}{path}/{self.name}{'?reset' if path.startswith('lab') else ''}")
        session = f"{_PANEL}?.sessionContext?.session"
        self.page.wait_for_function(
            f"() => window.jupyterapp && {session}?.kernel?.status === 'idle' && {_PANEL}.content?.widgets.length"
        )

    def start(self, name: str) -> None:
        """Press run. A page that is not ready may lose it, so press until the cell has taken it."""
        index = self.cells[name]
        before = self._count(index)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self.page.evaluate(
                f"""(index) => {{
                    {_PANEL}.content.activeCellIndex = index;
                    window.jupyterapp.commands.execute('notebook:run-cell');
                }}""",
                index,
            )
            for _ in range(20):
                if self.is_running(name) or self._count(index) != before:
                    return
                self.page.wait_for_timeout(50)
        pytest.fail(f"the page does not run cell {name!r}")

    def is_running(self, name: str) -> bool:
        """Return whether the cell's prompt is a star."""
        return bool(self.page.evaluate(f"(index) => {_CELL}.promptNode?.innerText.includes('*')", self.cells[name]))

    def finish(self, name: str) -> None:
        """Wait for the prompt."""
        self.page.wait_for_function(
            f"(index) => {{ const prompt = {_CELL}.promptNode?.innerText; return /\\d/.test(prompt); }}",
            arg=self.cells[name],
        )

    def run(self, name: str) -> None:
        """Press run and wait for the prompt."""
        self.start(name)
        self.finish(name)

    def output(self, name: str) -> Any:
        """Give the place of a cell's output, scrolled to where it can be seen."""
        self.page.evaluate(f"(index) => {_PANEL}.content.scrollToItem(index, 'start')", self.cells[name])
        return self.page.locator(".jp-Notebook .jp-Cell").nth(self.cells[name]).locator(".jp-Cell-outputWrapper")

    def stop(self) -> None:
        """Press the stop button."""
        self.page.locator('.jp-NotebookPanel-toolbar [data-jp-item-name="interrupt"] jp-button').click()

    def shut_down(self) -> None:
        """End the notebook's kernel, and with it its cluster."""
        self.page.evaluate(f"() => {_PANEL}.sessionContext.shutdown()")

    def save(self) -> dict[str, Any]:
        """Save the notebook; give what was written."""
        self.page.evaluate(f"() => {_PANEL}.context.save()")
        saved: dict[str, Any] = json.loads((self.folder / self.name).read_text(encoding="utf-8"))
        return saved

    def _count(self, index: int) -> Any:
        return self.page.evaluate(f"(index) => {_CELL}.model.executionCount", index)


def mandelbrot_cells(notebook: dict[str, Any]) -> dict[str, int]:
    """Return the positions of the cells of the Mandelbrot notebook that tests run, by name."""
    parts = {
        "load": "%load_ext",
        "grid": "from concurrent_nb import Tile",
        "task": "def column",
        "picture": "--view image",
    }
    sources = ["".join(cell["source"]) if cell["cell_type"] == "code" else "" for cell in notebook["cells"]]
    return {name: next(index for index, source in enumerate(sources) if part in source) for name, part in parts.items()}


def notebook_of(cells: dict[str, str]) -> str:
    """Write a notebook."""
    return json.dumps(
        {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "cells": [
                {
                    "cell_type": "code",
                    "id": name,
                    "metadata": {},
                    "execution_count": None,
                    "outputs": [],
                    "source": source,
                }
                for name, source in cells.items()
            ],
        }
    )


@pytest.fixture(scope="module")
def server(
    leaves_nothing_behind: None, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[tuple[str, Path]]:
    """A Jupyter server with a home of its own; gives its address, and the folder that it shows."""
    with lab_server(tmp_path_factory.mktemp("jupyter"), theme=pytestconfig.getoption("--theme")) as running:
        yield running


@contextmanager
def lab_server(
    home: Path, *options: str, runtime: Path | None = None, theme: str = "light"
) -> Iterator[tuple[str, Path]]:
    """Run a Jupyter server with a home of its own for the time of a `with`; see `server`.

    Args:
        options: further ones of the server.
        runtime: folder of connection files, if it is not its own one.
        theme: of Lab, `light` or `dark`.
    """
    folders = {name: home / name.lower() for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    runtime = runtime or home / "runtime"
    settings = folders["JUPYTER_CONFIG_DIR"] / "lab/user-settings/@jupyterlab/apputils-extension"
    shown = home / "notebooks"
    for folder in (*folders.values(), runtime, settings, shown):
        folder.mkdir(parents=True, exist_ok=True)
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": f"JupyterLab {theme.title()}"}))
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    environment = {
        **os.environ,
        **{name: str(folder) for name, folder in folders.items()},
        "JUPYTER_RUNTIME_DIR": str(runtime),
        # What is installed beside another Lab is tested as it is there.
        "PYTHONPATH": str(ROOT) if sys.executable == LAB_PYTHON else "",
    }
    # Old servers write into their file the port that they were given, also when that is 0.
    place = [f"--port={free_port()}", f"--ServerApp.root_dir={shown}"]
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(
            [LAB_PYTHON, "-m", "jupyterlab", *SERVER_OPTIONS, *place, *options],
            env=environment,
            cwd=shown,
            stdout=log,
            stderr=log,
        )
    try:
        yield _address(process, runtime, home / "log"), shown
    finally:
        end_server(process)


def _address(process: "subprocess.Popen[bytes]", runtime: Path, log: Path) -> str:
    file = runtime / f"jpserver-{process.pid}.json"
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError, ValueError):  # not there, or half written
            return str(json.loads(file.read_text(encoding="utf-8"))["url"])
        time.sleep(0.05)
    pytest.fail(f"JupyterLab does not start:\n{log.read_text(encoding='utf-8')[-3000:]}")


#: pages and tests of which there is a picture
_PICTURED: set[tuple[int, str]] = set()


def _picture(page: Page, folder: Path, test: str, theme: str) -> None:
    """Take a picture of what a test has come to. It fails no test: a page may be closed, or its server gone."""
    name = re.sub(r"[^\w]+", "-", test).strip("-")
    number = 1 + len(list(folder.glob(f"{name}.*.{theme}.png")))
    if page.url != "about:blank" and (id(page), test) not in _PICTURED:
        _PICTURED.add((id(page), test))
        with suppress(Error):
            page.screenshot(path=folder / f"{name}.{number}.{theme}.png", timeout=5_000)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """With `--pictures`, take a picture of each page that the test has used, before its fixtures close them."""
    folder = item.config.getoption("--pictures")
    if folder is not None:
        found = [getattr(value, "page", value) for value in getattr(item, "funcargs", {}).values()]
        for page in {id(page): page for page in found if isinstance(page, Page) and not page.is_closed()}.values():
            _picture(page, folder, item.name, item.config.getoption("--theme"))


@pytest.fixture(scope="session", autouse=True)
def pictures(pytestconfig: pytest.Config) -> Iterator[None]:
    """With `--pictures`, take a picture of each page that a test closes itself."""
    folder: Path | None = pytestconfig.getoption("--pictures")
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    close = Page.close

    def picture_and_close(page: Page, **options: Any) -> None:
        if not page.is_closed():
            test = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[2].partition(" ")[0]
            _picture(page, folder, test, pytestconfig.getoption("--theme"))
        close(page, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Page, "close", picture_and_close)
        yield


@pytest.fixture(scope="module")
def browser(
    leaves_nothing_behind: None, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[BrowserContext]:
    """A browser with a profile of its own."""
    path = browser_path()
    theme = pytestconfig.getoption("--theme")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("browser"),
            executable_path=path,
            headless=True,
            viewport={"width": 1000, "height": 1000},
            color_scheme=theme,
            args=BROWSER_OPTIONS,
        )
        context.set_default_timeout(PATIENCE_S * 1000)
        try:
            yield context
        finally:
            context.close()


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, browser: BrowserContext, server: tuple[str, Path]) -> Iterator[Lab]:
    """The notebook of the module (`CELLS`: source by name), open, with the extension loaded and a cluster."""
    url, folder = server
    cells: dict[str, str] = request.module.CELLS
    (folder / "test.ipynb").write_text(notebook_of(cells), encoding="utf-8")
    page, errors = browser.new_page(), list[str]()
    # Pages have errors of their own; a widget's program comes from a blob, and its failures are logged by anywidget.
    page.on("pageerror", lambda error: errors.append(str(error)) if "blob:" in (error.stack or "") else None)
    page.on(
        "console", lambda line: errors.append(line.text) if line.type == "error" and "widget" in line.text else None
    )
    lab = Lab(url, folder, {name: index for index, name in enumerate(cells)}, page, errors)
    lab.open()
    lab.run("start")
    yield lab
    # The kernel ends with its cluster, before the server that would only kill it.
    lab.shut_down()
