"""`%%cython_task` in a real kernel, on a real cluster: compiled, called, sent, wrong, stopped."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.test_notebook import BACK_WITHIN_S
from tests.kernels import Answer
from tests.notebooks import Notebook

CELL = """%%cython_task --flags -O0
cdef class Pair:
    cdef double a, b
    def __cinit__(self, double a, double b):
        self.a, self.b = a, b
    cdef double ratio(self):
        return self.a // self.b
def ratio(double a, double b):
    "Divide."
    return Pair(a, b).ratio()
cpdef double total(const double[:] values):
    cdef double sum = 0
    cdef Py_ssize_t i
    for i in range(values.shape[0]):
        sum += values[i]
    return sum
def change(double[:] values):
    values[0] = 1
def spin():
    cdef int x = 1
    while x:
        pass
"""
#: a cell for OpenMP that tells how many threads it had
PARALLEL = """%%cython_task --openmp --flags "-O0"
cimport openmp
from cython.parallel cimport parallel
def threads():
    cdef int[1] n
    with nogil, parallel():
        n[0] = openmp.omp_get_num_threads()
    return n[0]
"""


class CompilingNotebook(Notebook):
    """Also understands updates of a line whose beginning a test has read already."""

    def _note(self, answer: Answer, places: dict[str, int], kind: str, content: dict[str, Any]) -> None:
        place = content.get("transient", {}).get("display_id")
        if kind == "update_display_data" and place not in places:
            kind = "display_data"
        super()._note(answer, places, kind, content)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompilingNotebook]:
    """One with the cell's functions, for all tests that leave the workers as they are."""
    notebook = CompilingNotebook(tmp_path_factory.mktemp("notebook"))
    try:
        notebook.run("%concurrent start --workers 2")
        answer = notebook.run(CELL)
        assert answer.error is None, answer.traceback
        [line] = answer.displays
        assert re.fullmatch(r"ratio, total, change, spin: compiled with Cython \S+ in \d+\.\d s", line)
        assert answer.updates > 0  # shown while it is compiled
        notebook.run("import numpy as np\nvalues = np.arange(5.0)")
        notebook.run("%%concurrent_task --needs threads\n1")  # there is a process for them from then on
        yield notebook
    finally:
        notebook.close()


def test_functions_run_here_and_on_the_cluster(notebook: CompilingNotebook) -> None:
    answer = notebook.run("ratio(6, 2), ratio.submit(7, 2).result(), ratio.map([8, 9], [2, 3]).results()")
    assert answer.value == "(3.0, 3.0, [4.0, 3.0])", answer.traceback
    assert notebook.run("total(values), total.submit(values).result()").value == "(10.0, 10.0)"
    assert notebook.run("ratio.__doc__, ratio.__name__").value == "('Divide.', 'ratio')"


def test_functions_are_names_that_a_cell_can_use(notebook: CompilingNotebook) -> None:
    answer = notebook.run('%%concurrent_task --for "n in range(1, 4)"\nratio(6, n) + total(values)')
    assert answer.value == "[16.0, 13.0, 12.0]", answer.traceback


def test_the_same_text_is_compiled_once(notebook: CompilingNotebook) -> None:
    answer = notebook.run(CELL)
    assert re.fullmatch(r"ratio, .*: compiled with Cython \S+ before", answer.displays[0])


@pytest.mark.parametrize("source", ["ratio(1, 0)", "%%concurrent_task\nratio(1, 0)", "ratio.submit(1, 0).result()"])
def test_errors_end_in_the_cell_s_own_lines(notebook: CompilingNotebook, source: str) -> None:
    answer = notebook.run(source)
    assert answer.error == "ZeroDivisionError"
    plain = re.sub(r"\x1b\[[0-9;]*m", "", answer.traceback)
    assert re.search(r"Cell In\[\d+\], line 7, in \S*ratio", plain), plain
    assert "return self.a // self.b" in plain
    assert "function.py" not in plain


def test_compiled_code_may_change_arrays_that_have_travelled(notebook: CompilingNotebook) -> None:
    assert notebook.run("change(values), values[0]").value == "(None, np.float64(1.0))"
    answer = notebook.run("values[0] = 7\n%%concurrent_task\nchange(values)\nvalues[0]".partition("\n")[2])
    assert answer.value == "np.float64(1.0)"
    assert notebook.run("change.submit(values).result()").error is None


def test_a_cell_that_is_not_cython_shows_its_lines(notebook: CompilingNotebook) -> None:
    answer = notebook.run("%%cython_task\ndef f(int x):\n    return x + values[0]\ndef g(): return nowhere")
    assert answer.error == "CompileError"
    assert re.fullmatch(
        r"  Cell In\[\d+\], line 3\n"
        r"    return x \+ values\[0\]\n"
        r"               \^\n"
        r"CompileError: undeclared name not builtin: values: a compiled cell does not see the notebook's variables, so"
        r" pass it as an argument\n"
        r"  Cell In\[\d+\], line 4\n"
        r"    def g\(\): return nowhere\n"
        r"                    \^\n"
        r"CompileError: undeclared name not builtin: nowhere",
        answer.traceback,
    ), answer.traceback
    assert re.fullmatch(r"not compiled, after \d+\.\d s", answer.displays[0])


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("%%cython_task --flgs -O2\ndef f(): pass", "ConfigurationError", "did you mean --flags?"),
        ("%%cython_task --flags\ndef f(): pass", "ConfigurationError", "--flags: expected one argument"),
        (
            "%%cython_task --flags -fplugin=x\ndef f(): pass",
            "ConfigurationError",
            "-fplugin=x is not allowed: it makes",
        ),
        ("%%cython_task\n# distutils: sources=x.c\ndef f(): pass", "CellError", "line 2: "),
        ("%%cython_task\n# cython: control_flow.dot_output=x\ndef f(): pass", "CellError", "line 2: "),
    ],
)
def test_what_may_not_be_built_is_said_in_a_line(
    notebook: CompilingNotebook, source: str, error: str, message: str
) -> None:
    answer = notebook.run(source)
    assert (answer.error, answer.displays) == (error, [])
    assert message in answer.traceback
    assert answer.traceback.startswith(f"{error}: ")
    assert "\n" not in answer.traceback


def test_without_cython_the_extra_is_named(notebook: CompilingNotebook) -> None:
    patch = "import concurrent_nb.shipping.compiled.build as b; real = b.version_of; b.version_of = lambda name: None"
    notebook.run(patch)
    answer = notebook.run("%%cython_task\ndef f(): pass")
    notebook.run("b.version_of = real")
    assert answer.traceback == "BuildFailed: Cython is not installed here: pip install 'concurrent-nb[cython]'"


def test_annotate_shows_cython_s_page_and_name_names_the_jobs(notebook: CompilingNotebook) -> None:
    answer = notebook.run("%%cython_task --annotate --flags -O0 --name named\ndef f(x):\n    return x + 1\n1 / 0.")
    assert answer.error == "ZeroDivisionError"  # in the lines that are in no function
    assert re.search(r"  Cell In\[\d+\], line 4\n    1 / 0\.\nZeroDivisionError: float division$", answer.traceback)
    answer = notebook.run("%%cython_task --annotate --flags -O0 --name named\ndef f(x):\n    return x + 1")
    assert answer.error is None, answer.traceback
    [page] = [shown["text/html"] for shown in answer.shown if "text/html" in shown]
    assert "cnb-cython" in page
    assert "__Pyx_XDECREF" in page
    assert "Raw output" not in page
    assert notebook.run("j = f.map([1, 2]); j.results(), j.name").value == "([2, 3], 'named')"


def test_with_openmp_a_task_has_all_cores_and_the_worker_keeps_its_share(notebook: CompilingNotebook) -> None:
    answer = notebook.run(PARALLEL)
    assert answer.error is None, answer.traceback
    assert notebook.run("import os; threads.submit().result() == len(os.sched_getaffinity(0))").value == "True"
    answer = notebook.run(
        "%%concurrent_task\nimport os\nshare = os.environ['OMP_NUM_THREADS']\n"
        "library = __import__('ctypes').CDLL(__import__('sys').modules[threads.__wrapped__.__module__].__file__)\n"
        "threads(), str(library.omp_get_max_threads()) == share"
    )
    assert answer.error is None, answer.traceback
    assert answer.value is not None
    assert answer.value.endswith(", True)")


def test_tasks_in_threads_are_in_one_process(notebook: CompilingNotebook) -> None:
    answer = notebook.run(
        '%%cython_task --needs threads --flags "-O0"\n'
        'cdef extern from "unistd.h" nogil:\n    int getpid()\n    int usleep(unsigned int)\n'
        "def who():\n    cdef int pid\n    with nogil:\n        usleep(1000)\n        pid = getpid()\n    return pid\n"
    )
    assert answer.error is None, answer.traceback
    assert notebook.run("pids = {who.submit().result() for _ in range(3)}; len(pids)").value == "1"
    cell = "%%concurrent_task --needs threads --for n in range(4)\nimport os\nprint('number', n)\nos.getpid()"
    answer = notebook.run(cell.replace("--for n in range(4)", "--for 'n in range(4)' --out again"))
    assert answer.error is None, answer.traceback
    assert notebook.run("set(again) == pids").value == "True"


def test_the_stop_button_stops_the_compiler(notebook: CompilingNotebook, tmp_path: Path) -> None:
    notebook.run(f"import os; os.environ['CONCURRENT_NB_CYTHON_CACHE'] = {str(tmp_path / 'c')!r}")
    cell = notebook.start("%%cython_task\ndef f(double[:] a): return a[0]")
    notebook.wait_for(cell, "compiling with Cython")
    kernel = psutil.Process(notebook.pid())
    pressed = notebook.interrupt()
    answer = notebook.finish(cell)
    notebook.run("del os.environ['CONCURRENT_NB_CYTHON_CACHE']")
    assert answer.ended_at - pressed < BACK_WITHIN_S
    assert answer.traceback == "KeyboardInterrupt: the compiler was stopped"
    assert re.fullmatch(r"stopped, after \d+\.\d s", answer.displays[-1])
    assert [path.name for path in (tmp_path / "c").iterdir() if path.suffix != ".lock"] == []
    assert not [child for child in kernel.children(recursive=True) if "compiler.py" in " ".join(child.cmdline())]


def test_the_stop_button_stops_compiled_loops_that_hold_the_interpreter(tmp_path: Path) -> None:
    notebook = CompilingNotebook(tmp_path)  # one of its own, because its workers die
    try:
        notebook.run("%concurrent start --workers 1")
        notebook.run(CELL)
        cell = notebook.start("%%concurrent_task\nprint('begin', flush=True)\nspin()")
        notebook.wait_for(cell, "begin")
        pressed = notebook.interrupt()
        answer = notebook.finish(cell)
        assert answer.ended_at - pressed < BACK_WITHIN_S
        assert answer.error == "KeyboardInterrupt"
        # The only worker is free again, or there is a new one.
        assert notebook.run("ratio.submit(6, 2).result(timeout=10)").value == "3.0"
    finally:
        notebook.close()
