"""A page that is closed while a cell runs loses nothing: the next page shows the job, and its notebook gets the outputs."""

import dataclasses
import json
import re
from typing import Any

import pytest
from playwright.sync_api import Locator

from tests.browser.conftest import ROOT, Lab
from tests.browser.made_up_views import EVIL

CELLS = {
    "start": "%load_ext concurrent_nb\n%concurrent start --workers 2",
    "evil": f"EVIL = {EVIL!r}",
    "hostile": (
        '%%concurrent_task --for "n in range(40)" --view table --on-error keep --out kept\n'
        "import time\n"
        "from IPython.display import HTML, display\n"
        "time.sleep(0.5)\n"
        "print(EVIL)\n"
        "if n == 5: display(HTML(f'<b>bold</b>{EVIL}'))\n"
        "if n == 3: raise ValueError(EVIL)\n"
        "EVIL"
    ),
}
#: what the notebook's cell gets, so that it runs for longer than a page takes to open, and prints
SLOW = "print(f'column at {cx:.3f}')\ntime.sleep(0.025)\n"
OPENED = "() => window.jupyterapp?.shell?.currentWidget?.content?.widgets?.length"


def reopened(lab: Lab) -> Lab:
    """Close the page of a notebook while a cell of it runs, and open it in another one."""
    page = lab.page.context.new_page()
    lab.page.close(run_before_unload=False)
    page.goto(f"{lab.url}lab/tree/{lab.name}?reset")
    page.wait_for_function(OPENED)
    return dataclasses.replace(lab, page=page)


def outputs(lab: Lab, name: str) -> list[dict[str, Any]]:
    """Return the outputs of a cell in the saved notebook."""
    found: list[dict[str, Any]] = lab.save()["cells"][lab.cells[name]]["outputs"]
    return found


@pytest.fixture(scope="module")
def mandelbrot(lab: Lab) -> Lab:
    """The demonstration notebook with its picture under way, in a page that was opened later."""
    notebook = json.loads((ROOT / "notebooks" / "02_mandelbrot.ipynb").read_text(encoding="utf-8"))
    cells = notebook["cells"]
    sources = ["".join(cell["source"]) if cell["cell_type"] == "code" else "" for cell in cells]
    parts = {
        "load": "%load_ext",
        "grid": "from concurrent_nb import Tile",
        "task": "def column",
        "picture": "--view image",
    }
    places = {
        name: next(index for index, source in enumerate(sources) if part in source) for name, part in parts.items()
    }
    cells[places["picture"]]["source"] = sources[places["picture"]].replace("column(cx", f"{SLOW}column(cx")
    (lab.folder / "mandelbrot.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    first = dataclasses.replace(lab, page=lab.page.context.new_page(), cells=places, name="mandelbrot.ipynb")
    first.open()
    for name in ("load", "grid", "task"):
        first.run(name)
    first.save()
    first.start("picture")
    first.page.locator(".concurrent-nb canvas.cnb-picture").wait_for()
    return reopened(first)


def cell_of(lab: Lab, name: str) -> Locator:
    lab.page.evaluate(
        "(at) => window.jupyterapp.shell.currentWidget.content.scrollToItem(at, 'start')", lab.cells[name]
    )
    return lab.page.locator(".jp-Notebook .jp-Cell").nth(lab.cells[name])


def test_a_page_that_is_opened_later_shows_the_job_in_its_cell(mandelbrot: Lab) -> None:
    cell = cell_of(mandelbrot, "picture")
    shown = cell.locator(".cnb-cell")
    shown.locator("img.cnb-picture").wait_for()
    assert re.search(r"[\d,.k]+ of 1,536", shown.inner_text())
    shown.locator(".cnb-outputs").get_by_text("column at").first.wait_for()
    assert not cell.locator(".jp-OutputArea-output").first.is_visible()


def test_the_panel_shows_the_same(mandelbrot: Lab) -> None:
    page = mandelbrot.page
    page.evaluate("() => window.jupyterapp.commands.execute('concurrent-nb:open')")
    sidebar = page.locator(".cnb-lab-sidebar")
    sidebar.locator(".cnb-cluster .cnb-link").filter(has_text="embedded").last.click()
    sidebar.locator(".cnb-job").filter(has_text="running").locator(".cnb-job-name").click()
    panel = page.locator(".cnb-lab-main .cnb-detail")
    panel.locator("img.cnb-picture").wait_for()
    panel.locator(".cnb-outputs").get_by_text("column at").first.wait_for()
    panel.locator(".cnb-task").first.wait_for()


def test_at_its_end_the_notebook_has_the_outputs(mandelbrot: Lab) -> None:
    cell = cell_of(mandelbrot, "picture")
    cell.locator(".cnb-cell").wait_for(state="detached")
    cell.locator(".jp-OutputArea-output img").wait_for()
    saved = outputs(mandelbrot, "picture")
    assert saved[0]["data"]["image/png"] and "1536 tasks" in "".join(saved[0]["data"]["text/plain"]).replace(",", "")
    (prints,) = (one for one in saved if one["output_type"] == "stream")
    assert "".join(prints["text"]).count("column at") == 1536
    assert not any("text/html" in one.get("data", {}) for one in saved)


def test_a_third_page_writes_nothing_again(mandelbrot: Lab) -> None:
    before = outputs(mandelbrot, "picture")
    third = reopened(mandelbrot)
    cell_of(third, "picture").locator(".jp-OutputArea-output img").wait_for()
    third.page.wait_for_timeout(3000)
    assert third.page.locator(".cnb-cell").count() == 0
    assert outputs(third, "picture") == before
