"""The Lab extension in a real browser: it watches and steers clusters while the notebook's kernel is busy."""

import re

import pytest
from playwright.sync_api import Locator, Page

from tests.browser.conftest import Lab

CELLS = {
    "start": "%load_ext concurrent_nb\n%concurrent start --workers 2",
    "work": '%%concurrent_task --for "n in range(400)" --out ns\nimport time\ntime.sleep(0.05)\nn',
    "endless": (
        '%%concurrent_task --for "n in range(400)"\nimport time\ntime.sleep(0.05)\nwhile n > 40: time.sleep(0.02)\nn'
    ),
    "more": '%%concurrent_task --for "n in range(400)" --out more\nimport time\ntime.sleep(0.05)\nn',
    "graph": (
        "import time, concurrent_nb\napp = concurrent_nb.application()\n"
        "longest = app.reduce(max, [app.submit(time.sleep, 0.5).then(str) for _ in range(4)])"
    ),
    "last": '%%concurrent_task --for "n in range(2)"\nn',
}


def execute(page: Page, command: str, **arguments: object) -> None:
    page.evaluate("([command, args]) => window.jupyterapp.commands.execute(command, args)", [command, arguments])


@pytest.fixture(scope="module")
def sidebar(lab: Lab) -> Locator:
    """The sidebar, with the notebook's own cluster chosen and live."""
    execute(lab.page, "concurrent-nb:open")
    place = lab.page.locator(".cnb-lab-sidebar")
    place.get_by_role("button", name="Look for clusters again").click()
    place.locator(".cnb-lab-link[data-state=live]").wait_for()
    return place


def test_progress_moves_while_the_cell_blocks(lab: Lab, sidebar: Locator) -> None:
    lab.start("work")
    job = sidebar.locator(".cnb-job").filter(has_text="running")
    job.wait_for()
    bar = job.get_by_role("progressbar")
    seen = set[str | None]()
    while lab.is_running("work") and len(seen) < 5:
        seen.add(bar.get_attribute("aria-valuenow"))
        lab.page.wait_for_timeout(100)
    assert len(seen) == 5, "the progress did not move while the cell was running"
    assert "2 of 2 busy" in lab.page.locator(".cnb-status").inner_text()
    assert sidebar.locator(".cnb-slave").count() == 1


def test_a_job_is_cancelled_while_the_kernel_is_busy(lab: Lab, sidebar: Locator) -> None:
    if not lab.is_running("work"):
        lab.start("work")
    sidebar.locator(".cnb-job").filter(has_text="running").get_by_role("button", name="Cancel").click()
    lab.finish("work")
    sidebar.locator(".cnb-job .cnb-state").get_by_text("cancelled").wait_for()


def test_the_notebooks_own_cluster_grows_while_its_cell_blocks(lab: Lab, sidebar: Locator) -> None:
    lab.start("more")
    sidebar.locator(".cnb-job").filter(has_text="running").wait_for()
    form = sidebar.get_by_role("form", name="Scale the cluster")
    form.get_by_label("Number of workers").fill("3")
    form.get_by_role("button", name="Scale", exact=True).click()
    lab.page.wait_for_function("() => document.querySelectorAll('.cnb-slave').length === 2")
    assert lab.is_running("more")
    form.get_by_label("Number of workers").fill("2")
    form.get_by_label("Number of workers").press("Enter")
    lab.page.wait_for_function("() => document.querySelectorAll('.cnb-slave').length === 1")
    lab.finish("more")


def test_panels_show_the_tasks(lab: Lab, sidebar: Locator) -> None:
    sidebar.get_by_role("button", name="Task stream").click()
    lab.page.wait_for_function("() => document.querySelector('.cnb-stream-canvas')?.stream.frames > 2")
    assert lab.page.evaluate("document.querySelector('.cnb-stream-canvas').stream.model.marks.size") > 0
    sidebar.get_by_role("button", name="Charts").click()
    lab.page.locator(".cnb-lab-main .cnb-chart canvas").first.wait_for()
    sidebar.locator(".cnb-job-name").first.click()
    lab.page.locator(".cnb-lab-main .cnb-facts").get_by_text("run time", exact=True).wait_for()
    with lab.page.expect_download() as download:
        lab.page.locator(".cnb-lab-main").get_by_role("button", name="Save trace").click()
    assert '"traceEvents"' in download.value.path().read_text()


def test_a_graph_has_a_panel_of_its_own(lab: Lab, sidebar: Locator) -> None:
    choose = sidebar.get_by_role("button", name="Task graph")
    assert choose.count() == 0  # no task has needed another one
    execute(lab.page, "docmanager:open", path=lab.name)
    lab.run("graph")
    choose.click()
    panel = lab.page.locator(".cnb-lab-main .cnb-graphs")
    panel.get_by_text("of 9 tasks done").wait_for()
    assert panel.locator(".cnb-graph-name").all_inner_texts() == ["str", "sleep", "max"]
    assert sidebar.evaluate("place => place.scrollWidth <= place.clientWidth")


def test_the_cell_of_a_job_is_shown(lab: Lab) -> None:
    execute(lab.page, "concurrent-nb:go-to-cell", notebook=str(lab.folder / lab.name), cell="more")
    lab.page.wait_for_function("() => window.jupyterapp.shell.currentWidget.content?.activeCell?.model.id === 'more'")


def test_a_cluster_is_started_and_stopped(lab: Lab, sidebar: Locator) -> None:
    sidebar.get_by_label("Name of the new cluster").fill("of-the-sidebar")
    sidebar.get_by_label("Workers; empty for one for each core").fill("1")
    sidebar.get_by_role("button", name="Start", exact=True).click()
    row = sidebar.locator(".cnb-cluster").filter(has_text="of-the-sidebar")
    row.wait_for()
    sidebar.locator(".cnb-slave").get_by_text("0 of 1 busy").wait_for()
    row.get_by_role("button", name="Connect cell").click()
    source = "() => window.jupyterapp.shell.currentWidget.content?.activeCell?.model.sharedModel.source ?? ''"
    assert "%concurrent connect of-the-sidebar" in lab.page.evaluate(source)
    row.get_by_role("button", name="Stop").click()
    lab.page.locator(".jp-Dialog").get_by_role("button", name="Stop").click()
    row.wait_for(state="detached")
    sidebar.locator(".cnb-cluster.is-chosen").wait_for()


def test_a_restarted_kernel_is_told_below_the_cell(lab: Lab, sidebar: Locator) -> None:
    execute(lab.page, "docmanager:open", path=lab.name)
    lab.start("endless")
    output = lab.output("endless")
    output.locator(".cnb-pace").filter(has_text="left").wait_for()
    lab.page.evaluate("() => void window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
    # A kernel that takes seconds to end reports that it has stopped the job.
    ended = re.compile("^the kernel was restarted, or is gone$|^stopped · ")
    output.locator(".cnb-pace").filter(has_text=ended).wait_for()


def test_nothing_failed_in_the_page(lab: Lab) -> None:
    assert not lab.errors
