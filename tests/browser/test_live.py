"""Jobs in a real browser: shown while the cell blocks, stopped, failing, hostile, and still there after a reload."""

import dataclasses
import json
import os
import re
import signal
import time
from typing import Any

import pytest

from tests.browser.conftest import PATIENCE_S, ROOT, Lab, mandelbrot_cells, notebook_of

# Tasks of cells that are watched go on until the test has seen enough and writes a file.

#: what would run if a text of a task were inserted as markup
EVIL = "<script>window.caught=1</script><img src=x onerror='window.caught=2'>"
#: the stop button gives the prompt back within a second; the rest is for a machine that is busy with other things
BACK_WITHIN_S = 2.5

CELLS = {
    "start": "%load_ext concurrent_nb\n%concurrent start --workers 2",
    "image": (
        '%%concurrent_task --for "x in range(60)" --view image --out columns\n'
        "import time\n"
        "time.sleep(0.05)\n"
        "[x * y for y in range(40)]"
    ),
    "search": (
        '%%concurrent_task --for "n in range(40)" --until "result is not None" --view search\n'
        "import time\n"
        "time.sleep(0.1)\n"
        "f'found {n}' if n == 24 else None"
    ),
    "stop": "%%concurrent_task --for \"n in range(8)\"\nimport time\nprint('begin', n, flush=True)\ntime.sleep(600)",
    "after": "%%concurrent_task\n6 * 7",
    "error": '%%concurrent_task --for "n in range(3)"\nscale = n - 1\nresult = 10 / scale\nresult',
    "hostile": (
        '%%concurrent_task --for "text in EVIL" --view table --name "<b>{name}</b>" --on-error keep --out kept\n'
        "import os, time\n"
        "import concurrent_nb\n"
        "concurrent_nb.report(0.5, text)\n"
        "print(text)\n"
        "time.sleep(0.3)\n"
        "while text.startswith('x') and not os.path.exists('seen.hostile'): time.sleep(0.02)\n"
        "if 'second' in text: raise ValueError(text)\n"
        "text"
    ),
    "system": (
        "%%concurrent_task\n"
        "import time\n"
        "from concurrent_nb import ITaskSystem, Task\n"
        "class Nap(Task):\n"
        "    def __call__(self):\n"
        "        time.sleep(0.25)\n"
        "class Naps(ITaskSystem):\n"
        "    def generate_tasks(self, master):\n"
        "        return [Nap() for _ in range(40)]\n"
        "    def task_finished(self, master, task, result, error):\n"
        "        stats = master.stats()\n"
        "        return [Nap() for _ in range(30)] if stats['done'] == 40 else None\n"
        "    def gather_result(self, master):\n"
        "        return 'slept well'\n"
        "Naps()"
    ),
    "again": (
        '%%concurrent_task --for "n in range(48)" --out ns\n'
        "import os, time\n"
        "time.sleep(0.05)\n"
        "while n > 40 and not os.path.exists('seen.again'): time.sleep(0.02)\n"
        "n"
    ),
    "evil": f'EVIL = ["""first {EVIL}""", """second {EVIL} \\x1b[2J \\u202e""", "x" * 10**6]',
}


def painted(lab: Lab) -> Any:
    """Count the pixels of the live picture that have been painted, and those that have not."""
    return lab.page.evaluate(
        """() => {
            const canvas = document.querySelector('.concurrent-nb canvas.cnb-picture');
            if (!canvas || !canvas.width) return [0, 0];
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            let full = 0;
            for (let at = 3; at < data.length; at += 4) full += data[at] > 0;
            return [full, data.length / 4 - full];
        }"""
    )


def test_a_picture_fills_up_while_the_cell_blocks(lab: Lab) -> None:
    lab.start("image")
    seen: list[int] = []
    while lab.is_running("image"):
        full, empty = painted(lab)
        if full and empty and lab.is_running("image"):
            seen.append(full)
        lab.page.wait_for_timeout(30)
    assert len(set(seen)) >= 3, "the picture did not fill up while the cell was running"
    assert seen == sorted(seen)
    output = lab.output("image")
    picture = output.locator(".concurrent-nb-snapshot img[alt^=picture]")
    picture.wait_for()
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [60, 40]
    assert "60 of 60 done" in output.inner_text()
    assert output.locator(".concurrent-nb, canvas").count() == 0
    assert "array" not in output.inner_text()


def test_a_search_names_its_hit(lab: Lab) -> None:
    lab.start("search")
    lab.page.locator(".concurrent-nb .cnb-answer").filter(has_text=re.compile(r"no hit yet · [1-9]")).wait_for()
    assert lab.is_running("search")
    lab.finish("search")
    text = lab.output("search").locator(".concurrent-nb-snapshot").inner_text()
    assert "hit: 'found 24'" in text
    assert "n = 24" in text


def test_the_stop_button_stops_a_job(lab: Lab) -> None:
    lab.start("stop")
    lab.page.locator(".concurrent-nb .cnb-is-running").get_by_text("2 running").wait_for()
    pressed = time.monotonic()
    lab.stop()
    lab.finish("stop")
    assert time.monotonic() - pressed < BACK_WITHIN_S
    output = lab.output("stop")
    output.locator(".concurrent-nb-snapshot").wait_for()
    assert re.search(r"stopped · 2 stopped while running · 6 never ran", output.inner_text())
    assert "KeyboardInterrupt" in output.inner_text()
    assert "Traceback" not in output.inner_text()
    lab.run("after")
    assert "42" in lab.output("after").inner_text()


def test_a_task_system_shows_its_phases(lab: Lab) -> None:
    lab.start("system")
    bars = lab.page.locator(".concurrent-nb .cnb-bars")
    for phase, total in ((1, 40), (2, 30)):
        bar = bars.filter(has_text=re.compile(rf"phase {phase}.*\d+ of {total} tasks"))
        bar.wait_for()
        assert lab.is_running("system")
    lab.finish("system")
    text = lab.output("system").inner_text()
    assert re.search(r"70 of 70 done\s+in 2 phases", text)
    assert "slept well" in text


def test_an_error_has_the_cell_s_own_line_in_it(lab: Lab) -> None:
    lab.run("error")
    output = lab.output("error")
    shown = output.inner_text()
    assert re.search(r"Cell In\[\d+\], line 3\n\s+result = 10 / scale", shown)
    assert "ZeroDivisionError: division by zero" in shown
    assert "concurrent_nb/" not in shown
    fold = output.locator(".concurrent-nb-snapshot details").first
    assert "task 1" in fold.locator("summary").inner_text()
    fold.locator("summary").press("Enter")
    assert "result = 10 / scale" in fold.locator("pre").inner_text()


def test_texts_of_tasks_are_never_markup(lab: Lab) -> None:
    lab.run("evil")
    lab.start("hostile")
    live = lab.page.locator(".concurrent-nb")
    live.locator(".cnb-report").filter(has_text="<script>window.caught=1</script>").first.wait_for()
    live.locator(".cnb-table td").filter(has_text="first <script>").first.wait_for()
    (lab.folder / "seen.hostile").touch()
    lab.finish("hostile")
    snapshot = lab.output("hostile").locator(".concurrent-nb-snapshot")
    snapshot.wait_for()
    text = snapshot.inner_text()
    assert "first <script>" in text
    assert "\\u202e" in text
    assert "\x1b" not in text
    assert len(text) < 5000
    assert "<b>{name}</b>" in text
    assert snapshot.locator("script, [onerror], b b").count() == 0
    assert lab.page.evaluate("() => window.caught") is None


def test_a_page_that_is_loaded_again_shows_what_was_there(lab: Lab) -> None:
    saved = json.dumps(lab.save())
    assert "widget-view" not in saved
    assert "widget-state" not in saved
    lab.open()
    picture = lab.output("image").locator(".concurrent-nb-snapshot img[alt^=picture]")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") == 60
    assert "hit: 'found 24'" in lab.output("search").inner_text()
    assert lab.page.evaluate("() => window.caught") is None
    assert "Error displaying widget" not in lab.page.locator(".jp-Notebook").inner_text()
    # And the kernel that went on shows the next job in the page that came later.
    lab.start("search")
    lab.page.locator(".concurrent-nb .cnb-answer").filter(has_text=re.compile(r"no hit yet · [1-9]")).wait_for()
    lab.finish("search")


def test_a_page_that_is_loaded_again_while_a_cell_runs_follows_its_job(lab: Lab) -> None:
    lab.start("again")
    done = re.compile(r"\d+ of 48 done")
    lab.page.locator(".concurrent-nb").filter(has_text=done).wait_for()
    saved = json.dumps(lab.save())
    assert "widget-view" not in saved
    assert "as of" in saved  # what a page shows that is loaded before the job is followed again
    # As in a front end without the server extension, where the job cannot be shown from its cluster: test_reload.py.
    lab.page.route("**/concurrent-nb/clusters*", lambda route: route.abort())
    lab.page.reload()
    lab.page.wait_for_function(
        "() => window.jupyterapp?.shell?.currentWidget?.content?.widgets?.length"
        " && document.querySelector('.concurrent-nb')"
    )
    live = lab.page.locator(".concurrent-nb").filter(has_text=done).filter(has_not_text="as of")
    live.wait_for()
    assert "Error displaying widget" not in lab.page.locator(".jp-Notebook").inner_text()
    (lab.folder / "seen.again").touch()
    lab.output("again").locator(".concurrent-nb-snapshot").filter(has_text="48 of 48").wait_for()
    lab.page.unroute("**/concurrent-nb/clusters*")


def test_the_mandelbrot_notebook_fills_its_picture_until_it_is_stopped(lab: Lab) -> None:
    text = (ROOT / "notebooks" / "02_mandelbrot.ipynb").read_text(encoding="utf-8")
    assert "= 1536, 1024, 20" in text
    text = text.replace("= 1536, 1024, 20", "= 1536, 1024, 80")  # so that it runs when it is stopped
    (lab.folder / "mandelbrot.ipynb").write_text(text, encoding="utf-8")
    places = mandelbrot_cells(json.loads(text))
    notebook = dataclasses.replace(lab, cells=places, name="mandelbrot.ipynb")
    notebook.open()
    try:
        for name in ("load", "grid", "task"):
            notebook.run(name)
        notebook.start("picture")
        deadline = time.monotonic() + PATIENCE_S
        while not all(painted(notebook)) and time.monotonic() < deadline:
            notebook.page.wait_for_timeout(30)
        assert notebook.is_running("picture")
        notebook.stop()
        notebook.finish("picture")
        output = notebook.output("picture")
        picture = output.locator(".concurrent-nb-snapshot img[alt^=picture]")
        picture.wait_for()
        assert picture.evaluate("image => image.naturalWidth") == 768
        assert re.search(r"stopped · ", output.inner_text())
    finally:
        notebook.shut_down()


def test_a_page_reports_that_its_kernel_is_silent_and_gone(lab: Lab) -> None:
    cells = {"start": CELLS["start"], "pid": "import os\nprint('pid', os.getpid())", "again": CELLS["again"]}
    (lab.folder / "gone.ipynb").write_text(notebook_of(cells), encoding="utf-8")
    (lab.folder / "seen.again").unlink(missing_ok=True)  # of a test before: the job must not end by itself
    notebook = dataclasses.replace(lab, cells={name: at for at, name in enumerate(cells)}, name="gone.ipynb")
    notebook.open()
    try:
        notebook.run("start")
        notebook.run("pid")
        notebook.start("again")
        live = notebook.page.locator(".concurrent-nb").filter(has_text=re.compile(r"[1-9]\d* of 48 done"))
        live.wait_for()
        pid = re.search(r"pid (\d+)", notebook.output("pid").inner_text())
        assert pid is not None
        os.kill(int(pid[1]), signal.SIGSTOP)
        notebook.page.locator(".concurrent-nb").filter(has_text="no message from the kernel for").wait_for()
        os.kill(int(pid[1]), signal.SIGKILL)  # the server restarts it, and tells that to the page
        notebook.page.locator(".concurrent-nb").filter(has_text="the kernel was restarted, or is gone").wait_for()
    finally:
        notebook.shut_down()


def test_it_works_in_notebook_7(lab: Lab) -> None:
    pytest.importorskip("notebook")
    lab.open("notebooks")
    lab.start("image")
    lab.page.wait_for_function("() => document.querySelector('.concurrent-nb canvas.cnb-picture')?.width === 60")
    assert lab.is_running("image")
    lab.finish("image")
    lab.output("image").locator(".concurrent-nb-snapshot img[alt^=picture]").wait_for()


def test_no_widget_had_an_error(lab: Lab) -> None:
    assert lab.errors == []
