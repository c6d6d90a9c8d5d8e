"""A page that is closed while a cell runs loses nothing: the next page shows the job, and its notebook its outputs."""

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, WebSocketRoute

from tests.browser.conftest import ROOT, Lab, mandelbrot_cells
from tests.browser.made_up_views import EVIL
from tests.clusters import eventually

# The last task of a job that is watched goes on until the test has seen enough.
CELLS = {
    "start": "%load_ext concurrent_nb\n%concurrent start --workers 2",
    "evil": f"EVIL = {EVIL!r}",
    "hostile": (
        '%%concurrent_task --for "n in range(24)" --view table --on-error keep --out kept\n'
        "import os, time\n"
        "from IPython.display import HTML, display\n"
        "while n == 23 and not os.path.exists('seen.hostile'): time.sleep(0.02)\n"
        "print(EVIL)\n"
        "if n == 5: display(HTML(f'<b>bold</b>{EVIL}'))\n"
        "if n == 3: raise ValueError(EVIL)\n"
        "EVIL"
    ),
    "beside": (
        '%%concurrent_task --for "n in range(24)" --out ns\n'
        "import os, time\n"
        "while n == 23 and not os.path.exists('seen.beside'): time.sleep(0.02)\n"
        "print('beside', n)\n"
        "n"
    ),
    "absent": '%%concurrent_task --for "n in range(12)" --out ms\nimport time\ntime.sleep(0.5)\nprint("absent", n)\nn',
    "cleared": '%%concurrent_task --for "n in range(4)" --out ks\nprint("cleared", n)\nn',
}
#: what the notebook's cell gets, so that it prints, and runs until the test has seen it
SLOW = (
    "import os\n"
    "print(f'column at {cx:.3f}')\n"
    "time.sleep(0.005)\n"
    "while cx > 0.999 and not os.path.exists('seen.picture'): time.sleep(0.02)\n"
)
OPENED = "() => window.jupyterapp?.shell?.currentWidget?.content?.widgets?.length"


def reopen(lab: Lab) -> None:
    """Close the page of a notebook, while a cell of it may run, and open the notebook in another one."""
    page = lab.page.context.new_page()
    lab.page.close()
    lab.page = page
    page.goto(f"{lab.url}lab/tree/{lab.name}?reset")
    page.wait_for_function(OPENED)


def end_job(lab: Lab, name: str) -> None:
    """Let the last task of a cell's job end."""
    (lab.folder / f"seen.{name}").touch()


def beside(lab: Lab) -> Lab:
    """Open the notebook in a second page."""
    second = dataclasses.replace(lab, page=lab.page.context.new_page())
    second.page.goto(f"{lab.url}lab/tree/{lab.name}?reset")
    second.page.wait_for_function(OPENED)
    return second


def outputs(lab: Lab, name: str) -> list[dict[str, Any]]:
    """Return the outputs of a cell in the saved notebook."""
    found: list[dict[str, Any]] = lab.save()["cells"][lab.cells[name]]["outputs"]
    return found


@pytest.fixture(scope="module")
def mandelbrot(lab: Lab) -> Iterator[Lab]:
    """The demonstration notebook with its picture under way, in a page that was opened later."""
    notebook = json.loads((ROOT / "notebooks" / "02_mandelbrot.ipynb").read_text(encoding="utf-8"))
    places = mandelbrot_cells(notebook)
    picture = notebook["cells"][places["picture"]]
    picture["source"] = "".join(picture["source"]).replace("column(cx", f"{SLOW}column(cx")
    (lab.folder / "mandelbrot.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    first = dataclasses.replace(lab, page=lab.page.context.new_page(), cells=places, name="mandelbrot.ipynb")
    first.open()
    for name in ("load", "grid", "task"):
        first.run(name)
    first.save()
    first.start("picture")
    first.page.locator(".concurrent-nb canvas.cnb-picture").wait_for()
    reopen(first)
    yield first
    first.shut_down()


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
    end_job(mandelbrot, "picture")
    cell = cell_of(mandelbrot, "picture")
    cell.locator(".cnb-cell").wait_for(state="detached")
    cell.locator(".jp-OutputArea-output img").wait_for()
    saved = outputs(mandelbrot, "picture")
    assert "1,536 tasks" in "".join(saved[0]["data"]["text/plain"])
    assert saved[1]["data"]["image/png"]
    (prints,) = (one for one in saved if one["output_type"] == "stream")
    assert "".join(prints["text"]).count("column at") == 1536
    assert not any("text/html" in one.get("data", {}) for one in saved)


def test_a_third_page_writes_nothing_again(mandelbrot: Lab) -> None:
    before = outputs(mandelbrot, "picture")
    reopen(mandelbrot)
    cell_of(mandelbrot, "picture").locator(".jp-OutputArea-output img").wait_for()
    mandelbrot.page.wait_for_timeout(3000)
    assert mandelbrot.page.locator(".cnb-cell").count() == 0
    assert outputs(mandelbrot, "picture") == before


def test_a_page_that_has_run_the_cell_keeps_its_own_outputs(lab: Lab) -> None:
    lab.start("beside")
    lab.page.locator(".concurrent-nb").first.wait_for()
    second = beside(lab)
    shown = cell_of(second, "beside").locator(".cnb-cell")
    shown.get_by_text("beside 3").wait_for()
    end_job(lab, "beside")
    lab.finish("beside")
    shown.wait_for(state="detached")
    own = outputs(lab, "beside")
    assert lab.page.locator(".cnb-cell").count() == 0
    assert not any("concurrent_nb" in one.get("metadata", {}) for one in own)
    written = second.page.evaluate(
        "(at) => window.jupyterapp.shell.currentWidget.content.widgets[at].model.outputs.toJSON()",
        second.cells["beside"],
    )
    prints = ["".join(one["text"]) for one in written if one["output_type"] == "stream"]
    assert sorted(prints[0].splitlines()) == sorted(f"[{n}] beside {n}" for n in range(24))
    second.page.close()


def test_the_outputs_of_a_job_that_has_ended_in_between_are_written(lab: Lab) -> None:
    lab.save()
    lab.start("absent")
    page = lab.page.context.new_page()
    lab.page.close()
    lab.page = page
    page.goto(f"{lab.url}lab?reset")
    page.wait_for_function("() => window.jupyterapp?.commands.hasCommand('concurrent-nb:open')")
    page.evaluate("() => window.jupyterapp.restored")
    page.evaluate("() => window.jupyterapp.commands.execute('concurrent-nb:open')")
    job = page.locator(".cnb-lab-sidebar .cnb-job").filter(has_text="of 12")
    job.locator(".cnb-state").get_by_text("done").wait_for()
    page.evaluate("path => window.jupyterapp.commands.execute('docmanager:open', { path })", lab.name)
    page.wait_for_function(OPENED)
    cell_of(lab, "absent").get_by_text("[11] absent 11").wait_for()
    eventually(lambda: outputs(lab, "absent") != [], "the outputs are written")
    assert outputs(lab, "absent")[0]["metadata"].keys() == {"concurrent_nb"}


def test_what_was_cleared_stays_so(lab: Lab) -> None:
    lab.run("cleared")
    lab.page.wait_for_timeout(500)  # as a person, who has to see the outputs first
    lab.page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-cell-output')")
    assert outputs(lab, "cleared") == []
    lab.save()
    reopen(lab)
    lab.page.wait_for_timeout(4000)
    assert outputs(lab, "cleared") == []


def test_nothing_of_a_task_runs_in_the_page(lab: Lab) -> None:
    lab.run("evil")
    lab.save()
    lab.start("hostile")
    lab.page.locator(".concurrent-nb").first.wait_for()
    reopen(lab)
    cell = cell_of(lab, "hostile")
    shown = cell.locator(".cnb-cell")
    shown.locator(".cnb-error").first.wait_for()
    shown.locator(".cnb-outputs").get_by_text("<script>").first.wait_for()
    assert shown.locator("script, [onerror]").count() == 0
    end_job(lab, "hostile")
    shown.wait_for(state="detached")
    cell.locator(".jp-OutputArea-output b").get_by_text("bold").wait_for()
    saved = json.dumps([one for one in outputs(lab, "hostile") if "text/html" in one.get("data", {})])
    assert "<b>bold</b>" in saved and "onerror" not in saved and "<script>" not in saved
    assert lab.page.evaluate("() => window.caught") is None
    prints = ["".join(one["text"]) for one in outputs(lab, "hostile") if one["output_type"] == "stream"]
    assert not any("\x1b" in text or "\u202e" in text for text in prints)
    assert "ValueError: <img src=x" in prints[-1]


def test_a_cell_admits_that_its_cluster_is_lost_and_finds_it_again(lab: Lab) -> None:
    sockets, is_cut = list[WebSocketRoute](), False

    def relay(socket: WebSocketRoute) -> None:
        if is_cut:
            socket.close()
        else:
            socket.connect_to_server()
            sockets.append(socket)

    lab.page.context.route_web_socket(re.compile("concurrent-nb/clusters/[^/]+/feed"), relay)
    (lab.folder / "seen.beside").unlink(missing_ok=True)  # of a test before
    lab.start("beside")
    lab.page.locator(".concurrent-nb").first.wait_for()
    reopen(lab)
    shown = cell_of(lab, "beside").locator(".cnb-cell")
    shown.wait_for()
    is_cut = True
    for socket in sockets:
        socket.close()
    shown.get_by_text("connection lost").wait_for()
    is_cut = False
    end_job(lab, "beside")
    shown.wait_for(state="detached")
    assert "".join(outputs(lab, "beside")[0]["data"]["text/plain"]).startswith("24 tasks in ")
