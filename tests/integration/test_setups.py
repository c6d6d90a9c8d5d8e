"""What workers do once, before the first task of an application: `app.run_everywhere` and `%%concurrent_setup`."""

import functools
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import concurrent_nb
from concurrent_nb import Cluster, Needs
from concurrent_nb.errors import FunctionNotLoadable, NotPicklable, SetupFailed
from tests import clusters
from tests.notebooks import Notebook
from tests.work import PATIENCE_S


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Run a cluster for one test: its workers are restarted, and keep what setups have done."""
    with Cluster(workers=2, name="setups") as cluster:
        clusters.settle(cluster)
        yield cluster


@pytest.fixture
def app(cluster: Cluster) -> Iterator[concurrent_nb.ApplicationNode]:
    app = concurrent_nb.connect("setups")
    yield app
    app.close()


def note(what: str) -> str:
    """Note that this has run in this worker; give all that has."""
    sys.modules.setdefault("noted", [])  # type: ignore[arg-type]
    sys.modules["noted"].append(what)
    return what


def noted(_: Any = None) -> list[str]:
    return list(sys.modules.get("noted", []))


def pid_and_noted(_: Any) -> tuple[int, list[str]]:
    return os.getpid(), noted()


def test_each_worker_runs_it_once_and_later_ones_before_their_first_task(tmp_path: Path) -> None:
    def count(path: str) -> int:
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")
        return os.getpid()

    ran = tmp_path / "ran"
    with Cluster(workers=2) as cluster:  # whose workers are not there yet
        app = cluster.application()
        setup = app.run_everywhere(count, str(ran))
        early = [app.submit(pid_and_noted, 1) for _ in range(20)]
        told = setup.result(PATIENCE_S)
        assert sorted(told.values()) == sorted(map(int, ran.read_text().split()))
        assert len(told) == 2
        assert {future.result(PATIENCE_S)[0] for future in early} <= set(told.values())
        assert all(worker.endswith(f":{pid}") for worker, pid in told.items())
        # Workers that come later, because one dies, there are more, or all are restarted.
        victim = next(iter(told.values()))
        os.kill(victim, 9)
        cluster.scale(3)
        clusters.eventually(lambda: sum(it["slots"] for it in cluster.status()["slaves"]) == 3, "three workers")
        clusters.settle(cluster)
        assert cluster.restart_workers() == 3
        used = {pid for pid, _ in app.map(pid_and_noted, range(300), chunksize=1)}
        pids = list(map(int, ran.read_text().split()))
        assert len(pids) == len(set(pids))  # never twice in one
        assert used <= set(pids)
        clusters.eventually(lambda: set(setup.results.values()) == set(pids), "the handle has heard of all of them")
        assert not setup.errors


def test_setups_are_ordered_replaced_by_name_and_each_applications_own(
    cluster: Cluster, app: concurrent_nb.ApplicationNode, capsys: pytest.CaptureFixture[str]
) -> None:
    other = concurrent_nb.connect("setups")
    cluster.restart_workers()
    first = app.run_everywhere(note, "a", name="first")
    app.run_everywhere(note, "b", name="second")
    first.result(PATIENCE_S)
    assert all(found[:2] == ["a", "b"] for found in app.map(noted, range(20), chunksize=1))
    again = app.run_everywhere(note, "a2", name="first")
    assert set(again.result(PATIENCE_S).values()) == {"a2"}
    assert all(found == ["a", "b", "a2"] for found in app.map(noted, range(20), chunksize=1))
    # Another application neither runs nor replaces them; whose process it is, is another matter.
    set_by_other = other.run_everywhere(note, "theirs", name="first")
    set_by_other.result(PATIENCE_S)
    cluster.restart_workers()
    assert all("theirs" not in found for found in app.map(noted, range(20), chunksize=1))
    cluster.restart_workers()
    assert all(found == ["theirs"] for found in other.map(noted, range(20), chunksize=1))
    other.close()
    again.remove()
    cluster.restart_workers()
    assert {tuple(found) for found in app.map(noted, range(20), chunksize=1)} == {("b",)}

    app.run_everywhere(print, "hello from a worker").result(PATIENCE_S)
    clusters.eventually(lambda: "hello from a worker" in capsys.readouterr().out, "it is shown")


def test_every_way_to_send_a_task_runs_them_first(cluster: Cluster, app: concurrent_nb.ApplicationNode) -> None:
    class Look(concurrent_nb.Task):
        def __call__(self) -> Any:
            return noted()

    cluster.restart_workers()
    array = numpy.arange(100_000)
    setup = app.run_everywhere(lambda given: (note("x"), int(given.sum()))[1], array)
    assert set(setup.result(PATIENCE_S).values()) == {int(array.sum())}
    assert app.submit(noted).result(PATIENCE_S) == ["x"]
    assert app.submit(functools.partial(noted, array)).result(PATIENCE_S) == ["x"]
    assert all(found == ["x"] for found in app.map(noted, range(1000)))
    assert app.start_job(noted, [(1,)] * 20, batch=5).wait(PATIENCE_S)
    assert app.push_task(Look()).result(PATIENCE_S) == ["x"]
    needs = Needs(kind="thread")
    futures = [app.options(needs=needs).submit(pid_and_noted, 0) for _ in range(20)]
    assert {tuple(future.result(PATIENCE_S)[1]) for future in futures} == {("x",)}
    assert app.options(needs=Needs(0)).submit(noted).result(PATIENCE_S) == ["x"]


def test_a_failure_fails_the_tasks_that_need_it_and_nobody_elses(
    cluster: Cluster, app: concurrent_nb.ApplicationNode, tmp_path: Path
) -> None:
    tries = tmp_path / "tries"

    def fail() -> None:
        with tries.open("a") as file:
            file.write("x")
        raise LookupError("no model here")

    setup = app.run_everywhere(fail)
    with pytest.raises(SetupFailed, match=r"(?s)'.*fail'.*no model here"):
        setup.result(PATIENCE_S)
    futures = [app.submit(abs, -1) for _ in range(50)]
    for future in futures:
        with pytest.raises(SetupFailed, match=r"(?s)'.*fail'.*LookupError: no model here"):
            future.result(PATIENCE_S)
    assert tries.stat().st_size <= 2  # once in each worker, and not once for each task
    other = concurrent_nb.connect("setups")
    assert other.submit(abs, -1).result(PATIENCE_S) == 1
    other.close()
    setup.remove()
    assert app.submit(abs, -1).result(PATIENCE_S) == 1

    # One that kills its workers is tried three times, by nobody for ever.
    setup = app.run_everywhere(os._exit, 7, name="deadly")
    with pytest.raises(SetupFailed, match=r"(?s)'deadly' kills its workers.*exit code 7"):
        setup.result(PATIENCE_S)
    for future in [app.submit(abs, -1) for _ in range(20)]:
        with pytest.raises(SetupFailed, match=r"(?s)'deadly' is not run any more.*exit code 7"):
            future.result(PATIENCE_S)
    app.run_everywhere(abs, -1, name="deadly").result(PATIENCE_S)
    assert app.submit(abs, -1).result(PATIENCE_S) == 1
    clusters.settle(cluster)

    with pytest.raises(NotPicklable):
        app.run_everywhere(abs, threading.Lock())
    # What does not travel is good in the worker all the same; a function that cannot be loaded is told as ever.
    lock = app.run_everywhere(threading.Lock)
    assert all("cannot be pickled" in text for text in lock.result(PATIENCE_S).values())
    with pytest.raises(FunctionNotLoadable):
        app.submit(_Unloadable()).result(PATIENCE_S)


class _Unloadable:
    def __call__(self) -> None:
        """Do nothing."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise RuntimeError("not here")


def test_busy_workers_run_it_when_they_can(
    cluster: Cluster, app: concurrent_nb.ApplicationNode, tmp_path: Path
) -> None:
    go = tmp_path / "go"

    def hold(path: str) -> int:
        while not os.path.exists(path):
            time.sleep(0.01)
        return os.getpid()

    busy = app.submit(hold, str(go))
    clusters.eventually(busy.running, "it runs")
    setup = app.run_everywhere(os.getpid)
    clusters.eventually(lambda: len(setup.results) == 1, "the other one has run it")
    assert not setup.wait(0)
    with pytest.raises(TimeoutError):
        setup.result(0)
    go.touch()
    assert busy.result(PATIENCE_S) in setup.result(PATIENCE_S).values()


# -------------------------------------------------------------------------------------------------------- in a notebook


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path)  # of its own, because workers are replaced
    assert notebook.run("%concurrent start --workers 2").error is None
    yield notebook
    notebook.close()


def test_what_a_setup_cell_binds_is_there_for_cells_and_functions(notebook: Notebook) -> None:
    notebook.run("rate = 3\nnumbers = [1, 2, 3]\ndef helper(x): return model(x) + rate")
    ended = notebook.run(
        "%%concurrent_setup --show-capture\nimport math, os\nclass Model:\n    def __init__(self): self.calls = 0\n"
        "    def __call__(self, x):\n        self.calls += 1\n        return rate * x\n"
        "model = Model()\ndef area(r): return math.pi * r**2\nprint('loading in', os.getpid())"
    )
    assert ended.error is None, ended.message
    assert ended.summary().startswith("setup In[")
    assert "run by 2 workers in" in ended.summary()
    assert ended.text.count("loading in") == 2
    assert "rate" in ended.text
    cell = "%%concurrent_task --for 'x in numbers' --show-capture --out got\n(model(x), round(area(x), 2), helper(x))"
    ended = notebook.run(cell)
    assert ended.error is None, ended.message
    assert re.search(r"model +setup +defined by a setup cell", ended.text)
    assert notebook.run("got").value == "[(3, 3.14, 6), (6, 12.57, 9), (9, 28.27, 12)]"
    # State stays in the worker between tasks and cells.
    assert notebook.run("%%concurrent_task\nmodel.calls > 0").error is None
    ended = notebook.run("%%concurrent_task --for 'x in range(40)'\nmodel(0); model.calls")
    assert max(eval(ended.value or "")) > 10
    # Task functions, and functions that are submitted, find it too.
    notebook.run("%%concurrent_task\ndef predict(x):\n    return model(x) + area(0)")
    assert notebook.run("predict.submit(5).result(), list(predict.map([1, 2]).results())").value == "(15.0, [3.0, 6.0])"
    # The notebook's own name comes first.
    notebook.run("area = lambda r: 'mine'")
    assert notebook.run("%%concurrent_task\narea(1)").value == "'mine'"
    notebook.run("del area")
    # One more sees the one before; --until sees them as well.
    assert notebook.run("%%concurrent_setup --name second\ndouble = lambda x: 2 * model(x)").error is None
    found = notebook.run("%%concurrent_task --for 'x in range(9)' --until 'result > area(2)'\ndouble(x)")
    # The first to be found, which need not be the one of the smallest x.
    assert found.value in {str(6 * x) for x in range(3, 9)}, found.message
    ended = notebook.run("%%concurrent_task\nmodell(1)")
    assert ended.error == "CaptureError"
    assert "modell is not defined in the notebook; did you mean model?" in ended.message
    # A slave's template knows nothing of it: fresh workers run it anew.
    assert notebook.run("%concurrent restart").text.startswith("2 workers replaced in ")
    assert notebook.run("%%concurrent_task --for 'x in range(4)'\ndouble(x)").value == "[0, 6, 12, 18]"


def test_a_setup_cell_that_fails_is_shown_and_mended(notebook: Notebook) -> None:
    ended = notebook.run("%%concurrent_setup --name third\nimport os\nlimit = 10\nlimit / (limit - 10)")
    assert ended.error == "SetupFailed"
    assert "ZeroDivisionError" in ended.message
    assert "tasks fail until it is corrected" in ended.summary()
    end = (
        r"Traceback \(most recent call last\):\n  Cell In\[\d+\], line 4\n( .*\n)+ZeroDivisionError: division by zero$"
    )
    assert re.search(end, ended.traceback)
    ended = notebook.run("%%concurrent_task\n1 + 1")
    assert ended.error == "SetupFailed"
    assert ended.traceback.count("Traceback") == 1
    assert ended.traceback.count("setup 'third' has failed") == 1
    assert "cell_task.py" not in ended.traceback
    assert re.search(end, ended.traceback)
    assert "setup 'third' has failed in this worker" in ended.message
    assert notebook.run("%%concurrent_setup --name third\nlimit = 12").error is None
    assert notebook.run("%%concurrent_task\nlimit").value == "12"
    # The same names again: the same cell, as far as anybody can know.
    assert notebook.run("%%concurrent_setup\nbound = 1").error is None
    assert notebook.run("%%concurrent_setup\nbound = 2").error is None
    assert notebook.run("%%concurrent_task\nbound").value == "2"
    ended = notebook.run("%%concurrent_setup --no-block\nimport time\ntime.sleep(0.5)\nlate = 3")
    assert (ended.value or "").startswith("<setup In[")
    assert notebook.run("%%concurrent_task\nlate").value == "3"
    for wrong, error in (("# nothing", "CellError"), ("x = = 1", "CellError"), ("undefined_name + 1", "CaptureError")):
        assert notebook.run(f"%%concurrent_setup\n{wrong}").error == error
    assert notebook.run("%%concurrent_task --local\nlate").error == "CaptureError"
