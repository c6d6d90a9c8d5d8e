"""The demonstrations on any cluster: the first two notebooks, unchanged but for the line that starts the cluster."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from concurrent_nb.shipping.compiled.cache import VARIABLE as CACHE_VARIABLE
from tests.notebooks import ROOT, Notebook

#: the stop button gives the prompt back within so many seconds
STOPS_WITHIN_S = 5.0
#: what makes the pictures of the Mandelbrot notebook small; they are computed four ways, and in pure Python, too
SMALL = {"1536": "192", "1024": "128", "width, 96": "width, 48", "first + 96": "first + 48"}


def cells_of(name: str, replaced: Mapping[str, str] | None = None) -> Iterator[str]:
    """Give the code of a notebook's cells, with texts replaced, but not the cells that load, start or stop."""
    notebook = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or re.match(r"%(load_ext|concurrent) ", source):
            continue
        for old, new in (replaced or {}).items():
            source = source.replace(old, new)
        yield source


def check_demonstrations(connect_line: str, folder: Path, *, mandelbrot: bool = True) -> None:
    """Run the MD5 and Mandelbrot notebooks in a kernel after `connect_line`; look at views, prints, errors and stop.

    Args:
        connect_line: the cell that starts or joins the cluster, such as "%concurrent start --on ssh:a,b".
        folder: the kernel's working folder.
        mandelbrot: run that notebook, too, which compiles cells and takes some seconds.
    """
    # Compiling takes most of the time, so all tests of a run share what is compiled.
    run = next((parent for parent in folder.parents if re.fullmatch(r"pytest-\d+", parent.name)), folder)
    notebook = Notebook(folder, {CACHE_VARIABLE: str(run / "compiled")})
    try:
        started = notebook.run(connect_line)
        assert started.error is None, started.traceback
        _check_search(notebook)
        _check_prints(notebook)
        _check_errors(notebook)
        _check_stop(notebook)
        if mandelbrot:
            _check_pictures(notebook)
        stopped = notebook.run("%concurrent stop")
        assert stopped.error is None, stopped.traceback
        assert re.match("stopped|left", stopped.text), stopped.text
    finally:
        notebook.close()


def _check_search(notebook: Notebook) -> None:
    """The search of the thesis: found, shown live, and what has not run by then is cancelled."""
    for source in cells_of("01_md5_reverse.ipynb"):
        answer = notebook.run(source)
        assert answer.error is None, answer.traceback
        if source.startswith("%%concurrent_task"):
            # A fast cluster may have run all of them before it is told that the search is over.
            assert re.search(r"128 tasks(: \d+ done, \d+ cancelled)? in", answer.summary()), answer.summary()
            assert answer.updates > 0  # shown while it ran
    assert re.match(r"found 1763965: \d+ tasks run", answer.text), answer.text


def _check_prints(notebook: Notebook) -> None:
    """Prints of tasks stand in the cell that ran them, while it runs."""
    cell = notebook.start(
        '%%concurrent_task --for "n in range(2)"\nimport time\nprint("begin", n, flush=True)\ntime.sleep(0.5)\nn'
    )
    notebook.wait_for(cell, "begin")  # while it runs
    answer = notebook.finish(cell)
    assert (answer.error, answer.value) == (None, "[0, 1]")


def _check_errors(notebook: Notebook) -> None:
    """An error of a task is raised in the cell, and its traceback ends in the cell's own line."""
    answer = notebook.run('%%concurrent_task --for "n in range(3)"\nnumbers = [1, 2]\nnumbers[n] / n')
    assert answer.error in ("ZeroDivisionError", "IndexError"), answer
    assert "numbers[n] / n" in answer.traceback
    assert re.search(r"failed on slave \S+", answer.message + answer.traceback)


def _check_stop(notebook: Notebook) -> None:
    """The stop button ends running tasks, and gives the prompt back."""
    cell = notebook.start('%%concurrent_task\nimport time\nprint("runs", flush=True)\ntime.sleep(600)')
    notebook.wait_for(cell, "runs")
    at = notebook.interrupt()
    answer = notebook.finish(cell)
    assert answer.error == "KeyboardInterrupt", answer
    assert answer.ended_at - at < STOPS_WITHIN_S
    assert notebook.run("%%concurrent_task --needs cores=all\n6 * 7").value == "42"  # so no worker is busy any more


def _check_pictures(notebook: Notebook) -> None:
    """The Mandelbrot notebook, with small pictures: its cells check that all are equal, and views show them."""
    pictures = 0
    for source in cells_of("02_mandelbrot.ipynb", SMALL):
        answer = notebook.run(source)
        assert answer.error is None, f"{source}\n{answer.traceback}"
        if "--view image" in source:
            pictures += 1
            assert answer.displays or answer.shown, source
    assert pictures == 3
    assert "found 3 of 3 pictures of the cluster equal to numpy's" in answer.text
