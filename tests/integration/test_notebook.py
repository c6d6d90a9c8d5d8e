"""Cells in a real kernel on a real cluster: the search, prints, errors, and the stop button."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.notebooks import Notebook
from tests.work import wait_for

ROOT = Path(__file__).parents[2]
#: the stop button gives the prompt back within a second; the rest is for a machine that is busy with other things
BACK_WITHIN_S = 2.0


def new_notebook(folder: Path) -> Iterator[Notebook]:
    notebook = Notebook(folder)
    try:
        answer = notebook.run("%concurrent start --workers 2")
        assert answer.text == "started an embedded cluster: 2 workers (%concurrent stop stops it)\n"
        assert notebook.run("%%concurrent_task\n1").value == "1"  # the slave has come by then
        yield notebook
    finally:
        notebook.close()


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """One for all tests that leave the workers as they are."""
    yield from new_notebook(tmp_path_factory.mktemp("notebook"))


@pytest.fixture
def fragile_notebook(tmp_path: Path) -> Iterator[Notebook]:
    """One for a test whose workers die: new ones would be a leak."""
    yield from new_notebook(tmp_path)


def test_the_search_of_the_thesis(notebook: Notebook) -> None:
    notebook.run("target = '28238d467c88ae233a214d38c02dbccd'\nstep = 2_000_000 // 128")
    answer = notebook.run(
        '%%concurrent_task --for "n in range(128)" --until "result is not None" --out found\n'
        "import hashlib\n"
        "lo, hi = 1 + n * step, min(1 + (n + 1) * step, 2_000_001)\n"
        "next((i for i in range(lo, hi) if hashlib.md5(str(i).encode()).hexdigest() == target), None)"
    )
    assert answer.error is None, answer.traceback
    assert answer.value is None
    line = answer.displays[-1]
    counts = re.fullmatch(r"128 tasks: (\d+) done, (\d+) cancelled in \d+\.\d+ s", line)
    assert counts is not None, line
    assert int(counts[1]) + int(counts[2]) == 128
    assert int(counts[2]) > 0
    assert notebook.run("found").value == "1763965"


def test_prints_come_while_the_cell_runs(notebook: Notebook) -> None:
    cell = notebook.start(
        '%%concurrent_task --for "n in range(2)"\n'
        "import sys, time\n"
        "print('begin', n, flush=True)\n"
        "time.sleep(1.5)\n"
        "print('\\x1b[2Jend', n, file=sys.stderr)"
    )
    began = time.monotonic()
    notebook.wait_for(cell, "begin 0")
    assert time.monotonic() - began < 1.4
    answer = notebook.finish(cell)
    assert "[1] end 1\n" in answer.text
    assert "\x1b[2J" not in answer.text
    assert answer.displays == [] or answer.displays[0].startswith("2 tasks in ")


def test_pictures_of_tasks_come_to_the_cell(notebook: Notebook) -> None:
    notebook.run("def bold(n):\n    class Bold:\n        _repr_html_ = lambda self: f'<b>{n}</b>'\n    display(Bold())")
    answer = notebook.run(
        '%%concurrent_task --for "n in range(2)"\n'
        "import matplotlib.pyplot as plt\n"
        "bold(n)\n"
        "plt.plot([n, 1])\n"
        "if n: plt.show()\n"
        "n"
    )
    assert answer.error is None, answer.traceback
    html = [data["text/html"] for data in answer.shown if "text/html" in data]
    assert [page for page in html if page.startswith("<b>")] == ["<b>0</b>", "<b>1</b>"]
    assert sum(data.get("image/png", "").startswith("iVBORw0KGgo") for data in answer.shown) == 2
    labels = [data["text/plain"] for data in answer.shown if data["text/plain"].startswith("task ")]
    assert labels == ["task 0 \N{MIDDLE DOT} n = 0"] * 2 + ["task 1 \N{MIDDLE DOT} n = 1"] * 2
    assert answer.value == "[0, 1]"


def test_what_a_cell_displays_with_local_is_the_same(notebook: Notebook) -> None:
    answer = notebook.run("%%concurrent_task --local\nfrom IPython.display import HTML\ndisplay(HTML('<i>x</i>'))")
    assert answer.error is None, answer.traceback
    assert [data["text/html"] for data in answer.shown if "text/html" in data] == ["<i>x</i>"]


def test_a_cell_of_functions_makes_task_functions(notebook: Notebook) -> None:
    answer = notebook.run(
        "%%concurrent_task\nimport math\ndef area(r):\n    return ring(0, r)\ndef ring(a, b):\n    return b // (b > a)"
    )
    assert answer.error is None, answer.traceback
    assert answer.text == "area, ring: area(...) runs here, area.submit(...) and area.map(...) on the cluster\n"
    assert (
        notebook.run("area(3), area.submit(4).result(), area.map(range(1, 4)).results()").value == "(3, 4, [1, 2, 3])"
    )
    assert notebook.run('%%concurrent_task --for "n in (1, 2)"\narea(n)').value == "[1, 2]"
    for source in ("area.submit(0).result()", "%%concurrent_task\narea(0)"):
        answer = notebook.run(source)
        assert answer.error == "ZeroDivisionError"
        assert "return b // (b > a)" in answer.traceback
        assert "Cell In[" in answer.traceback


def test_task_functions_show_what_their_tasks_write(notebook: Notebook) -> None:
    notebook.run(
        "%%concurrent_task\n"
        "def loud(n):\n"
        "    from IPython.display import HTML, display\n"
        "    print('loud', n, flush=True)\n"
        "    display(HTML(f'<u>{n}</u>'))\n"
        "    return n"
    )
    answer = notebook.run("import time\nloud.submit(1).result(), loud.map([2, 3]).results()")
    assert answer.value == "(1, [2, 3])"
    assert sorted(answer.text.split("\n")) == ["", "loud 1", "loud 2", "loud 3"]
    assert sorted(data["text/html"] for data in answer.shown) == ["<u>1</u>", "<u>2</u>", "<u>3</u>"]


def test_jobs_of_task_functions_can_be_stopped(notebook: Notebook) -> None:
    notebook.run("%%concurrent_task\ndef slow(n):\n    import time\n    time.sleep(1000)")
    cell = notebook.start(
        "future = slow.submit(0)\njob = slow.map(range(3))\nprint('begun', flush=True)\njob.results()"
    )
    notebook.wait_for(cell, "begun")
    notebook.interrupt()
    answer = notebook.finish(cell)
    assert answer.error == "KeyboardInterrupt"
    assert "4 tasks of this cell still run on the cluster: %concurrent cancel stops them\n" in answer.text
    jobs = notebook.run("%concurrent jobs").shown[0]["text/plain"]
    assert re.search(r"running +slow +\d of 3 done", jobs)
    assert re.search(r"running +\(submits\) +1 task not done", jobs)
    assert notebook.run("%concurrent cancel").text == "cancelled slow, 1 submitted task\n"
    ended = "import concurrent.futures as cf\njob.wait(30), len(cf.wait([future], 30).done), future.cancelled()"
    assert notebook.run(ended).value == "(True, 1, True)"
    assert notebook.run("slow.__name__").value == "'slow'"


def test_without_waiting_output_comes_too(notebook: Notebook) -> None:
    answer = notebook.run(
        '%%concurrent_task --no-block --for "n in range(2)"\nprint("silent?", n)\nimport time; time.sleep(0.5)'
    )
    assert answer.error is None
    notebook.wait_for_text({"[0] silent? 0", "[1] silent? 1"}, answer.text)
    assert notebook.run("_job.wait(30)").value == "True"


def test_a_loop_over_nothing_has_a_value(notebook: Notebook) -> None:
    for view in ("", "--view image", "--view search", "--view table", "--view image --size 3x3"):
        answer = notebook.run(f'%%concurrent_task --for "n in []" {view} --out nothing\nn')
        assert answer.error is None, answer.traceback
        assert notebook.run("nothing").value == "[]"


def test_what_the_loop_raises_ends_in_the_loop(notebook: Notebook) -> None:
    answer = notebook.run('%%concurrent_task --for "n in 1 // 0"\nn')
    assert answer.error == "ZeroDivisionError"
    assert "concurrent_nb" not in answer.traceback
    assert 'raised by --for "n in 1 // 0"' in answer.traceback


def test_a_task_function_in_a_task_uses_the_notebooks_cluster(notebook: Notebook) -> None:
    answer = notebook.run("%%concurrent_task\nimport concurrent_nb\nconcurrent_nb.task(abs).submit(-1).result()")
    assert (answer.error, answer.value) == (None, "1")


def test_a_long_message_hides_no_line(notebook: Notebook) -> None:
    answer = notebook.run("%%concurrent_task\nraise ValueError('start' + 'A' * 200_000 + 'end')")
    assert "raise ValueError('start'" in answer.traceback
    assert "characters are left out" in answer.traceback


def test_a_thread_that_is_left_cannot_speak_for_another_task(notebook: Notebook) -> None:
    notebook.run(
        '%%concurrent_task --for "n in range(4)"\n'
        "import threading, time\n"
        "def late():\n"
        "    time.sleep(0.5)\n"
        "    display('late')\n"
        "threading.Thread(target=late).start()"
    )
    answer = notebook.run('%%concurrent_task --for "n in range(4)"\nimport time; time.sleep(0.6); display("mine")')
    assert [data["text/plain"] for data in answer.shown if "late" in data["text/plain"]] == []
    assert sum("mine" in data["text/plain"] for data in answer.shown) == 4


def test_what_is_sent_along_is_shown(notebook: Notebook) -> None:
    notebook.run("import math\nwords = ['some', 'words']\ndef helper(): return math.pi")
    answer = notebook.run("%%concurrent_task --show-capture\nhelper(); len(words)")
    first, *rest = answer.text.splitlines()
    assert first.startswith("sent with the cell, once to each worker: ")
    assert sorted(line.split()[:2] for line in rest) == [["helper", "function"], ["words", "value"]]


def test_a_running_cell_is_seen_at_its_line(notebook: Notebook) -> None:
    notebook.run("%%concurrent_task --no-block --name stuck\nimport time\ndef wait():\n    time.sleep(1000)\nwait()")
    asked = (
        "from concurrent_nb.errors import StackUnavailable\n"
        "while True:\n"
        "    try:\n"
        "        text = _job.stack(0)\n"
        "        if 'wait' in text: break\n"
        "    except StackUnavailable: pass\n"
        "print(text)\n"
    )
    first, *lines = notebook.run(asked).text.splitlines()
    assert re.fullmatch(r"task 0 has run for \d+\.\d s in worker \d+ of slave \S+", first)
    cell, wait = lines
    assert re.fullmatch(r'  File "<cell In\[\d+\]>", line 5, in .*', cell)
    assert re.fullmatch(r'  File "<cell In\[\d+\]>", line 4, in wait', wait)
    assert notebook.run("%concurrent cancel stuck").error is None
    assert notebook.run("_job.wait(30)").value == "True"


def test_jobs_are_listed_and_cancelled(notebook: Notebook) -> None:
    assert notebook.run("%%concurrent_task --no-block --name long\nimport time\ntime.sleep(1000)").error is None
    assert re.search(r"running +long +0 of 1 done", notebook.run("%concurrent jobs").shown[0]["text/plain"])
    assert notebook.run("%concurrent cancel nonsense").error == "ConfigurationError"
    assert notebook.run("%concurrent cancel long").text == "cancelled long\n"
    assert notebook.run("_job.wait(30), _job.futures[0].cancelled()").value == "(True, True)"
    assert re.search(r"ended +long +0 of 1 done, 1 cancelled", notebook.run("%concurrent jobs").shown[0]["text/plain"])
    assert notebook.run("%concurrent cancel").text == "no job is running\n"
    assert re.fullmatch(
        r"  slave \S+: 2 workers, active, .*", notebook.run("%concurrent slaves").shown[0]["text/plain"]
    )


def test_an_error_ends_in_the_cell_s_own_lines(notebook: Notebook) -> None:
    notebook.run("def helper(x):\n    y = 1\n    return y / x")
    answer = notebook.run('%%concurrent_task --for "n in range(3)"\nx = n\nhelper(x - 1)')
    assert (answer.error, answer.message) == ("ZeroDivisionError", "division by zero")
    first, *rest = answer.traceback.splitlines()
    assert re.fullmatch(r"task 1 \(n = \S+\) failed on slave \S+, worker \d+, attempt 1 \[[0-9a-f]{8}/1\]", first)
    assert rest.pop() == "(the debugger cannot enter the worker: run the cell with --local, then %debug)"
    assert re.match(r"  Cell In\[\d+\], line 3$", rest[1])
    assert rest[2] == "    helper(x - 1)"
    assert re.match(r"  Cell In\[\d+\], line 3, in helper$", rest[-4])
    assert rest[-3] == "    return y / x"
    assert rest[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    "source",
    ["while True: pass", "import time\ntime.sleep(1000)", "import threading\nthreading.Event().wait()"],
    ids=["loop", "sleep", "wait"],
)
@pytest.mark.parametrize("tasks", [1, 6])
def test_the_stop_button_gives_the_prompt_back_and_stops_what_runs(notebook: Notebook, source: str, tasks: int) -> None:
    stop_and_go_on(notebook, source, tasks)


def test_the_stop_button_stops_what_catches_the_interrupt(fragile_notebook: Notebook) -> None:
    # Its worker is killed and another one takes its place.
    source = "while True:\n    try:\n        while True: pass\n    except KeyboardInterrupt: pass"
    for tasks in (1, 6):
        stop_and_go_on(fragile_notebook, source, tasks)


def stop_and_go_on(notebook: Notebook, source: str, tasks: int) -> None:
    loop = f'--for "n in range({tasks})"' if tasks > 1 else ""
    cell = notebook.start(f"%%concurrent_task {loop}\nimport os\nprint('pid', os.getpid(), flush=True)\n{source}")
    notebook.wait_for(cell, "pid ")
    pressed = notebook.interrupt()
    answer = notebook.finish(cell)
    assert answer.ended_at - pressed < BACK_WITHIN_S
    assert answer.error == "KeyboardInterrupt"
    assert "Traceback" not in answer.traceback
    [line] = answer.displays or ["(shown before)"]
    assert line.startswith(("stopped: 0 done, ", "(shown before)"))
    # The next cell needs all workers, so the tasks have really gone.
    answer = notebook.run('%%concurrent_task --for "n in range(4)"\nn * n')
    assert answer.value == "[0, 1, 4, 9]"
    assert notebook.run("_job.counts().done").value == "4"


def test_what_dies_or_takes_too_long_is_a_typed_error(fragile_notebook: Notebook) -> None:
    notebook = fragile_notebook
    answer = notebook.run("%%concurrent_task --timeout 0.5\nwhile True: pass")
    assert answer.error == "TaskTimeout"
    answer = notebook.run("%%concurrent_task\nimport os\nos._exit(3)")
    assert answer.error in ("WorkerDied", "PoisonTask")
    answer = notebook.run("%%concurrent_task\n(i for i in range(3))")
    assert answer.error == "ResultNotPicklable"
    assert "generator" in answer.message
    answer = notebook.run(
        "%%concurrent_task\nclass E(Exception):\n    def __reduce__(self): raise TypeError\nraise E('odd')"
    )
    assert answer.error == "RemoteError"
    assert "odd" in answer.message
    assert notebook.run("%%concurrent_task\n2 + 2").value == "4"


def test_arrays_and_classes_travel(notebook: Notebook) -> None:
    notebook.run(
        "import numpy as np\na = np.arange(200_000)\nclass P:\n    def __init__(self, x): self.x = x\np = P(3)"
    )
    answer = notebook.run('%%concurrent_task --for "n in range(3)" --out made\np.x += n\nP(int(a.sum()) + p.x)')
    assert answer.error is None, answer.traceback
    assert notebook.run("[type(m) is P for m in made], [m.x - int(a.sum()) for m in made], p.x").value == (
        "([True, True, True], [3, 4, 5], 3)"
    )


def test_no_block_goes_on_in_the_background(notebook: Notebook) -> None:
    answer = notebook.run('%%concurrent_task --no-block --out job --for "n in range(4)"\nn + 1')
    assert answer.error is None
    assert answer.value is None
    assert notebook.run("job.wait(30), [f.result() for f in job.futures]").value == "(True, [1, 2, 3, 4])"


def test_without_a_cluster_the_first_task_starts_one_and_the_kernel_takes_it_along(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    try:
        answer = notebook.run("%%concurrent_task\n6 * 7")
        assert answer.value == "42"
        assert answer.text.startswith("started an embedded cluster: ")
        assert answer.text.count("\n") == 1
        children = psutil.Process(notebook.pid()).children(recursive=True)
        assert len(children) > 2
        assert notebook.run("%concurrent status").text.startswith("an embedded cluster: ")
        # The kernel does not wait for what still runs.
        notebook.run("%%concurrent_task --no-block\nwhile True: pass")
    finally:
        notebook.close()
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_the_demo_runs_and_prints_its_result(tmp_path: Path) -> None:
    demo = [sys.executable, str(ROOT / "notebooks/run_demo.py"), "--build", str(tmp_path)]
    result = subprocess.run(demo, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    found = re.search(
        r"\.ipynb: found 1763965: (\d+) tasks run, (\d+) cancelled, \d+\.\d s with the start", result.stdout
    )
    assert found is not None, result.stdout
    assert int(found[1]) + int(found[2]) == 128
    assert f"the executed notebook is {tmp_path}/01_md5_reverse.ipynb" in result.stdout
    assert "1763965" in (tmp_path / "01_md5_reverse.ipynb").read_text()
    assert "found 3 of 3 pictures of the cluster equal to numpy's" in result.stdout
    for way in ("Python", "Cython", "Cython, OpenMP"):
        assert re.search(rf"^ *{way} +\d+\.\d+ s here +\d+\.\d+ s on the cluster$", result.stdout, re.MULTILINE)
    assert f"the picture is {tmp_path}/02_mandelbrot.png" in result.stdout
    assert (tmp_path / "02_mandelbrot.png").read_bytes().startswith(b"\x89PNG")


def test_a_demo_that_fails_shows_the_cell_s_error(tmp_path: Path) -> None:
    import nbformat
    from nbformat import v4

    path = tmp_path / "broken.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell("1 / 0")]), path)  # type: ignore[no-untyped-call]
    demo = [sys.executable, str(ROOT / "notebooks/run_demo.py"), str(path), "--build", str(tmp_path / "build")]
    result = subprocess.run(demo, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert "ZeroDivisionError: division by zero" in result.stderr
    assert "broken.ipynb failed" in result.stderr


# --------------------------------------------------------------------------------------------------------- batches


def test_items_of_a_batch_are_shown_as_tasks(notebook: Notebook) -> None:
    notebook.run("def reciprocal(x):\n    return 1 / x")
    answer = notebook.run(
        '%%concurrent_task --for "n in range(40)" --batch 8 --on-error keep --out found\n'
        "if n % 9 == 4: print('here is', n)\n"
        "if n == 3: display('a picture')\n"
        "reciprocal(n - 20)"
    )
    assert answer.error is None, answer.traceback
    assert sorted(line for line in answer.text.splitlines() if "here is" in line) == sorted(
        f"[{n}] here is {n}" for n in range(4, 40, 9)
    )
    assert "task 3 \N{MIDDLE DOT} n = 3" in [data["text/plain"] for data in answer.shown]
    summaries = [*answer.displays, *(data["text/plain"] for data in answer.shown)]
    assert any(text.startswith("40 tasks: 39 done, 1 failed in ") for text in summaries)
    assert notebook.run("[one.value for one in found if one.ok] == [1 / (n - 20) for n in range(40) if n != 20]").value
    assert notebook.run("len(_job.futures), _job.counts().done, found[20].ok").value == "(40, 39, False)"
    answer = notebook.run('%%concurrent_task --for "n in range(40)" --batch auto\nx = 20 - n\nreciprocal(x)')
    assert answer.error == "ZeroDivisionError"
    assert re.match(
        r"task 20 \(n = 20\) failed on slave \S+, worker \d+, attempt 1 \[[0-9a-f]{8}/20\]", answer.traceback
    )
    assert answer.traceback.splitlines()[-4] == "    return 1 / x"


def test_a_search_in_batches_ends_at_the_first_hit(notebook: Notebook) -> None:
    for options in ("--batch 50", "--batch auto --view search", "--batch 50 --no-block"):
        cell = f'%%concurrent_task --for "n in range(100_000)" --until "result == 777" {options}\nn'
        answer = notebook.run(cell)
        assert answer.error is None, answer.traceback
        if "--no-block" not in options:
            assert answer.value == "777"
        assert notebook.run("_job.wait(30), _job.hit.index, _job.counts().failed").value == "(True, 777, 0)"
        assert notebook.run("_job.counts().cancelled > 1000").value == "True"


def test_the_stop_button_stops_batches_and_keeps_what_has_finished(notebook: Notebook, tmp_path: Path) -> None:
    cell = notebook.start(
        '%%concurrent_task --for "n in range(2000)" --batch 100\n'
        "import time\n"
        "if n % 100 == 7:\n    print('stays', flush=True)\n    time.sleep(1000)\n"
        "n"
    )
    notebook.wait_for(cell, "[7] stays")
    pressed_at = notebook.interrupt()
    answer = notebook.finish(cell)
    assert answer.error == "KeyboardInterrupt"
    assert answer.ended_at - pressed_at < BACK_WITHIN_S
    assert notebook.run("_job.wait(30), [f.result() for f in _job.futures[:7]], _job.futures[8].cancelled()").value == (
        "(True, [0, 1, 2, 3, 4, 5, 6], True)"
    )
    assert notebook.run('%%concurrent_task --for "n in range(4)" --batch 2\nn').value == "[0, 1, 2, 3]"


def test_a_worker_that_is_killed_in_the_middle_of_a_batch_loses_nothing(
    fragile_notebook: Notebook, tmp_path: Path
) -> None:
    notebook = fragile_notebook
    sign = tmp_path / "pid"
    cell = notebook.start(
        '%%concurrent_task --for "n in range(3000)" --batch 500 --out found\n'
        "import os, pathlib, time\n"
        f"if n == 700:\n    pathlib.Path({str(sign)!r}).write_text(f'{{os.getpid()}}.')\n    time.sleep(0.5)\n"
        "n * n"
    )
    wait_for(sign)
    while not sign.read_text().endswith("."):
        time.sleep(0.01)
    os.kill(int(sign.read_text()[:-1]), signal.SIGKILL)
    answer = notebook.finish(cell)
    assert answer.error is None, answer.traceback
    assert answer.displays[-1].startswith("3,000 tasks in ")
    assert notebook.run("found == [n * n for n in range(3000)]").value == "True"
    assert notebook.run("len(_job.ended), len({f.index for f in _job.ended})").value == "(3000, 3000)"


# ---------------------------------------------------------------------------------------------------- task systems

SYSTEM = """%%concurrent_task
import time
from concurrent_nb import ITaskSystem, Task

class Power(Task):
    def __init__(self, n):
        super().__init__()
        self.n = n

    def __call__(self):
        time.sleep(0.005)
        return helped(self.n) ** exponent

class Powers(ITaskSystem):
    def init_system(self, master):
        self.total = 0
        self.log.info("it begins")

    def generate_tasks(self, master):
        return (Power(n) for n in range(count))

    def task_finished(self, master, task, result, error):
        if error is not None:
            raise error
        self.total += result

    def gather_result(self, master):
        return self.total

Powers()"""


def test_a_cell_whose_value_is_a_task_system_runs_it(notebook: Notebook) -> None:
    notebook.run("exponent, count = 2, 200\ndef helped(n):\n    return n")
    answer = notebook.run(SYSTEM)
    assert answer.error is None, answer.traceback
    assert answer.value == str(sum(n * n for n in range(200)))
    assert "it begins" in answer.text
    (shown,) = answer.displays
    assert re.fullmatch(r"200 tasks in \d+\.\d+ s", shown)
    assert notebook.run("_job.progress()['phases'][0]['done'], _job.stats.done").value == "(200, 200)"
    assert notebook.run("type(_job).__name__").value == "'SystemRun'"


def test_its_errors_end_in_the_cells_own_lines(notebook: Notebook) -> None:
    notebook.run("exponent, count = 2, 200\ndef helped(n):\n    return n")
    answer = notebook.run(SYSTEM.replace("self.total += result", "self.total += result / (task.n - 7)"))
    assert answer.error == "ZeroDivisionError"
    assert re.search(
        r"Cell In\[\d+\], line \d+, in task_finished\n +self\.total \+= result / \(task\.n - 7\)", answer.traceback
    )
    assert re.fullmatch(r"\d+ tasks: \d+ done.* in .*, the system has failed", answer.summary())
    answer = notebook.run(SYSTEM.replace("** exponent", "/ (self.n - 7)"))
    assert answer.error == "ZeroDivisionError"
    assert re.search(
        r"Cell In\[\d+\], line \d+, in __call__\n +return helped\(self\.n\) / \(self\.n - 7\)", answer.traceback
    )


def test_in_the_background_it_is_run_too(notebook: Notebook) -> None:
    notebook.run("exponent, count = 2, 200\ndef helped(n):\n    return n")
    cell = SYSTEM.replace("%%concurrent_task", "%%concurrent_task --no-block --out job")
    begun = notebook.start(cell)
    assert notebook.finish(begun).error is None
    notebook.wait_for(begun, "200 tasks in ")
    assert notebook.run("job.result(60)").value == str(sum(n * n for n in range(200)))
    assert notebook.run("job is _job, job.counts().done").value == "(True, 200)"
    notebook.run(cell.replace("self.total += result", "self.total += result / (task.n - 7)"))
    answer = notebook.run("job.result(60)")
    assert answer.error == "ZeroDivisionError"
    assert re.search(
        r"Cell In\[\d+\], line \d+, in task_finished\n +self\.total \+= result / \(task\.n - 7\)", answer.traceback
    )


def test_a_task_system_can_be_tried_here(notebook: Notebook) -> None:
    notebook.run("exponent, count = 2, 20\ndef helped(n):\n    return n")
    answer = notebook.run(SYSTEM.replace("%%concurrent_task", "%%concurrent_task --local"))
    assert answer.error is None, answer.traceback
    assert answer.value == str(sum(n * n for n in range(20)))
    assert "it begins" in answer.text
    assert answer.displays[-1].startswith("20 tasks in ")
    answer = notebook.run(SYSTEM.replace("_task", "_task --local", 1).replace("** exponent", "/ 0"))
    assert answer.error == "ZeroDivisionError"
    assert re.search(r"Cell In\[\d+\], line \d+, in __call__\n +return helped\(self\.n\) / 0", answer.traceback)
    assert "concurrent_nb/" not in answer.traceback


def test_a_line_of_text_shows_a_task_system_too(notebook: Notebook) -> None:
    notebook.run("exponent, count = 2, 200\ndef helped(n):\n    return n\n%config ConcurrentMagics.live = False")
    answer = notebook.run(SYSTEM)
    notebook.run("%config ConcurrentMagics.live = True")
    assert answer.error is None, answer.traceback
    assert answer.updates > 0
    assert len(answer.displays) == 1
    assert answer.displays[0].startswith("200 tasks in ")


def test_the_stop_button_stops_a_task_system(notebook: Notebook, tmp_path: Path) -> None:
    sign = tmp_path / "a task has ended"
    notebook.run("exponent, count = 2, 10**9\ndef helped(n):\n    return n")
    cell = notebook.start(SYSTEM.replace("total += result", f"total += open({str(sign)!r}, 'w').close() or result"))
    wait_for(sign)
    pressed_at = notebook.interrupt()
    answer = notebook.finish(cell)
    assert answer.error == "KeyboardInterrupt"
    assert answer.ended_at - pressed_at < BACK_WITHIN_S
    assert answer.summary().startswith("stopped: ")
    assert notebook.run("%%concurrent_task\n6 * 7").value == "42"


def test_a_system_of_a_class_of_the_notebook_is_captured_as_anything_is(notebook: Notebook) -> None:
    notebook.run("exponent, count = 2, 20\ndef helped(n):\n    return n")
    notebook.run(SYSTEM.removeprefix("%%concurrent_task\n").removesuffix("\n\nPowers()"))
    answer = notebook.run("%%concurrent_task --out total\nPowers()")
    assert answer.error is None, answer.traceback
    assert notebook.run("total").value == str(sum(n * n for n in range(20)))


def test_a_job_in_a_cell_is_iterated_over_awaited_and_gathered(notebook: Notebook) -> None:
    assert notebook.run("%%concurrent_task\ndef squared(x):\n    return x * x").error is None
    values = {
        "[y for y in squared.map(range(3))]": "[0, 1, 4]",
        "list(squared.map(range(3)))": "[0, 1, 4]",
        "squared.map(range(3)).result()": "[0, 1, 4]",
        "await squared.map(range(3))": "[0, 1, 4]",
        "import asyncio\nawait asyncio.gather(*squared.map(range(3)))": "[0, 1, 4]",
        "[y async for y in squared.map(range(3))]": "[0, 1, 4]",
        # A cell that awaits is a coroutine; what it loops over are values all the same.
        "job = squared.map(range(3))\nawait job\n[sum(job), job[-1], *map(float, job)]": "[5, 4, 0.0, 1.0, 4.0]",
        "(len(job), job[1:], 4 in job, max(*job))": "(3, [1, 4], True, 4)",
    }
    for cell, value in values.items():
        answer = notebook.run(cell)
        assert (answer.value, answer.error) == (value, None), cell
    printed = notebook.run("for y in squared.map(range(3)): print(y)")
    assert printed.text == "0\n1\n4\n"


def test_the_dashboard_is_a_link(notebook: Notebook) -> None:
    answer = notebook.run("%concurrent dashboard")
    assert answer.error is None
    assert re.match(r"http://127\.0\.0\.1:\d+/login\?code=[\w-]{43}\n", answer.shown[-1]["text/plain"])
    assert "<a href=" in answer.shown[-1]["text/html"]
