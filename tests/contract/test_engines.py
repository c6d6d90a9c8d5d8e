"""One contract for all engines: what a user of an application has, wherever its tasks run.

Each test is a feature, and runs on each engine. What an engine cannot do is in LIMITS, with the words in which it is
refused or done instead, and the test holds it to them. The table in docs/engines.md is made of FEATURES and LIMITS.
"""

import asyncio
import concurrent.futures
import importlib.util
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import psutil
import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster, Needs, task_functions
from concurrent_nb.engines.engine_application import EngineApplication
from concurrent_nb.engines.executor_engine import ExecutorEngine
from concurrent_nb.engines.group_messages import EngineSession, Orders, pack
from concurrent_nb.errors import (
    ConfigurationError,
    EngineLost,
    EngineUnavailable,
    NotPicklable,
    PoisonTask,
    StackUnavailable,
    TaskError,
    TaskTimeout,
)
from concurrent_nb.nodes.application.job import OutputPiece
from concurrent_nb.shipping.compiled.build import cython_version, make
from concurrent_nb.shipping.compiled.cache import VARIABLE, Cache
from concurrent_nb.shipping.compiled.function import CythonFunction
from concurrent_nb.shipping.compiled.recipe import Recipe
from tests import leaks, systems, work
from tests.cells import task_of_cell
from tests.clusters import BRISK, eventually
from tests.contract import test_executor as executor_tests
from tests.engine_events import Heard
from tests.work import PATIENCE_S

ROOT = Path(__file__).parents[2]
ENGINES: Final = ("native", "inline", "executor", "dask", "ray")
WORKERS: Final = 2

#: what a test shows: its name without `test_`, and the feature in words
FEATURES: Final = {
    "executor": "`submit`, `map`, futures, `concurrent.futures` as CPython documents it",
    "chunks": "adaptive chunks of `map`, 10,000 short tasks",
    "cells": "cells: `--for`, `--until`",
    "cython": "`%%cython_task`",
    "prints": "prints, notes and progress while the task runs",
    "errors": "errors with the cell's own lines",
    "retries": "`retries`",
    "timeouts": "`timeout_s`, also of compiled code",
    "cancel": "cancel what runs",
    "deaf": "stop a task that catches its interrupt",
    "crash": "survive a task that kills its process",
    "put": "large arguments and `app.put` do not travel with each task",
    "results": "large results",
    "systems": "task systems",
    "setups": "`%%concurrent_setup`",
    "nested": "tasks that start tasks",
    "cores": "tasks of several cores",
    "stacks": "show where a running task is",
    "parallel": "tasks run at the same time",
}
#: what an engine does not do as our own cluster does: the words of the table
LIMITS: Final[dict[tuple[str, str], str]] = {
    ("inline", "deaf"): "its thread goes on",
    ("inline", "crash"): "no: it is this process",
    ("inline", "timeouts"): "at the next line of Python",
    ("inline", "stacks"): "no: use a debugger",
    ("inline", "parallel"): "in threads, one by default",
    ("inline", "cores"): "runs with the threads of this process",
    ("inline", "nested"): "refused",
    ("executor", "nested"): "refused",
    ("dask", "nested"): "refused",
    ("ray", "nested"): "refused",
    ("executor", "cores"): "refused",
    ("dask", "cores"): "refused",
    ("ray", "cores"): "refused",
}
#: an address that no other machine reaches, and that Ray takes: 127.0.0.1 it replaces by one of the network
LOOPBACK: Final = "127.0.0.2" if sys.platform == "linux" else None
#: set where these tests are run by `mpiexec`: the executor is MPI's then
BY_MPI: Final = "CONCURRENT_NB_TESTS_BY_MPI"
#: packages without which an engine's tests are skipped
PACKAGES: Final = {"dask": "distributed", "ray": "ray"}


# ------------------------------------------------------------------------------------------------------- the engines


@contextmanager
def native() -> Iterator[ApplicationNode]:
    with Cluster(workers=WORKERS, config=BRISK) as cluster:
        yield cluster.application()


@contextmanager
def inline() -> Iterator[ApplicationNode]:
    with concurrent_nb.connect("inline", workers=WORKERS) as app:
        yield app


@contextmanager
def executor_engine() -> Iterator[ApplicationNode]:
    if BY_MPI in os.environ:
        from mpi4py.futures import MPIPoolExecutor

        with MPIPoolExecutor() as mpi, concurrent_nb.connect(mpi) as app:
            assert isinstance(app, EngineApplication)
            assert app.engine_description == f"MPIPoolExecutor with {WORKERS} workers"
            yield app
        return
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool, concurrent_nb.connect(pool) as app:
        yield app


@contextmanager
def dask() -> Iterator[ApplicationNode]:
    with dask_cluster() as address, concurrent_nb.connect(address) as app:
        yield app


@contextmanager
def dask_cluster() -> Iterator[str]:
    """Run a real scheduler with two workers, which are processes, over TCP."""
    import distributed

    with distributed.LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, processes=True, protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield "dask://" + cluster.scheduler_address.removeprefix("tcp://")


@contextmanager
def ray() -> Iterator[ApplicationNode]:
    with ray_cluster(LOOPBACK), concurrent_nb.connect("ray") as app:
        yield app


@contextmanager
def ray_cluster(address: str | None = None) -> Iterator[None]:
    """Run a real Ray on this machine, at this address of it or the one that Ray finds."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    before = leaks.held()
    ray.init(
        num_cpus=WORKERS,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        configure_logging=False,
        _node_ip_address=address,
    )
    try:
        yield
    finally:
        ray.shutdown()
        leaks.keep_descriptors(before)


MAKERS: Final[dict[str, Callable[[], Any]]] = {
    "native": native,
    "inline": inline,
    "executor": executor_engine,
    "dask": dask,
    "ray": ray,
}


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Name the engine of this run of the tests."""
    name = str(request.param)
    package = PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: it has no wheel for this Python")
    return name


@pytest.fixture(scope="module")
def app(engine: str) -> Iterator[ApplicationNode]:
    """Give an application whose tasks run on the engine; nothing of it is left at the end."""
    before = leaks.held()
    with MAKERS[engine]() as app:
        assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
        yield app
    assert leaks.left_since(before, patience_s=10.0) == []


@pytest.fixture
def executor(app: ApplicationNode) -> Executor:
    """Give it to the tests of executors."""
    return app


@pytest.fixture
def cluster(app: ApplicationNode) -> ApplicationNode:
    """Give who answers `status` to the tests of executors."""
    return app


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Do nothing after each test: workers of engines come and go. What is left at the end of an engine fails it."""


@pytest.fixture
def limit(request: pytest.FixtureRequest, engine: str) -> str:
    """Give the words for what this engine does not do of the test's feature; "" if it does it."""
    return LIMITS.get((engine, request.node.originalname.removeprefix("test_")), "")


# CPython's documented behaviour: the tests of executors that need nothing but one, here on each engine.
_NEEDS_ONE_EXECUTOR: Final = frozenset({"executor", "tmp_path", "request"})
#: those of applications that are of interest here, too
_OF_APPLICATIONS: Final = frozenset(
    {
        "test_a_result_whose_pickle_cannot_be_opened_ends_its_future",
        "test_an_argument_whose_pickle_cannot_be_opened_ends_its_future",
        "test_an_application_cannot_be_used_after_a_fork",
        "test_futures_can_be_awaited",
    }
)
_SLOW: Final = frozenset({"test_bytes_of_any_size_go_and_come", "test_arrays_go_and_come"})
for _name, _test in vars(executor_tests).items():
    if _name.startswith("test_") and _name not in _SLOW:
        _arguments = _test.__code__.co_varnames[: _test.__code__.co_argcount]
        if _name in _OF_APPLICATIONS or ("executor" in _arguments and _NEEDS_ONE_EXECUTOR.issuperset(_arguments)):
            globals()[_name] = _test


# ------------------------------------------------------------------------------------------------------- the features


def test_executor(app: ApplicationNode) -> None:
    """More of this is in the tests of executors."""
    futures = [app.submit(work.square, n) for n in range(20)]
    done, left = concurrent.futures.wait(futures, PATIENCE_S)
    assert not left
    assert sorted(future.result() for future in done) == [n * n for n in range(20)]


def test_chunks(app: ApplicationNode) -> None:
    assert list(app.map(work.square, range(10_000))) == [n * n for n in range(10_000)]
    futures = [app.submit(work.square, n) for n in range(1000)]
    assert [future.result(PATIENCE_S) for future in futures] == [n * n for n in range(1000)]


def test_cells(app: ApplicationNode) -> None:
    namespace: dict[str, Any] = {"step": 10}
    task = task_of_cell("n * step", namespace, for_text="n in range(5)")
    job = app.start_job(task.function, task.calls)
    assert job.results() == [0, 10, 20, 30, 40]
    task = task_of_cell("n if n > 20 else None", namespace, for_text="n in range(100)", until_text="result is not None")
    job = app.start_job(task.function, task.calls, until=True)
    assert job.wait(PATIENCE_S)
    assert job.hit is not None
    assert job.hit.result() > 20


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CythonFunction]:
    """Give a compiled function, as a cell makes it."""
    folder = tmp_path_factory.mktemp("cache") / "c"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder))
        source = "def half(int x):\n    return x // (x - 1)\n"
        build, _ = make(Recipe(source, ("-O0",), False, cython_version()), "%%cython_task", Cache(folder))
        yield CythonFunction(build, "half")


def test_cython(app: ApplicationNode, half: CythonFunction) -> None:
    assert app.submit(half, 3).result(PATIENCE_S) == 1
    with pytest.raises(ZeroDivisionError):
        app.submit(half, 1).result(PATIENCE_S)


def say_and_wait(go: Path) -> str:
    work.say("hello")
    work.say("oops", to_stderr=True)
    concurrent_nb.report(0.5, "half way")
    concurrent_nb.publish({"n": 7})
    work.wait_for(go)
    return "over"


def test_prints(app: ApplicationNode, tmp_path: Path) -> None:
    check_prints(app, tmp_path / "go")


def check_prints(app: ApplicationNode, go: Path) -> None:
    job = app.start_job(say_and_wait, [(go,)], watched=True)
    output: list[str] = []
    notes: list[Any] = []

    def have_come() -> bool:
        output.extend(piece.text for piece in job.take_output() if isinstance(piece, OutputPiece))
        notes.extend(job.take_notes())
        return "".join(sorted(output)).count("hello") == 1 and any("oops" in it for it in output) and len(notes) >= 2

    eventually(have_come, "what the task prints and reports has come while it runs")
    assert not job.done()
    go.touch()
    assert job.results() == ["over"]


def test_errors(app: ApplicationNode) -> None:
    task = task_of_cell("d = 0\n1 / d", {}, filename="<cell 7>")
    error = app.start_job(task.function, task.calls).futures[0].exception(PATIENCE_S)
    assert isinstance(error, ZeroDivisionError)
    assert 'File "<cell 7>", line 2' in str(error.__cause__)
    assert isinstance(app.submit(work.make_cannot_go).exception(PATIENCE_S), TaskError)
    assert isinstance(app.submit(work.echo, work.CannotGo()).exception(PATIENCE_S), NotPicklable)


def test_retries(app: ApplicationNode, tmp_path: Path) -> None:
    assert app.options(retries=2).submit(work.fail_until, tmp_path / "calls", 3).result(PATIENCE_S) == 3


def test_timeouts(app: ApplicationNode, limit: str) -> None:
    begun = time.monotonic()
    task = work.sleep_in_steps if limit else time.sleep
    with pytest.raises(TaskTimeout):
        app.options(timeout_s=0.2).submit(task, 30).result(PATIENCE_S)
    assert time.monotonic() - begun < 20
    assert app.submit(work.square, 3).result(PATIENCE_S) == 9


def test_cancel(app: ApplicationNode, tmp_path: Path) -> None:
    marks = [tmp_path / f"started-{n}" for n in range(6)]
    job = app.start_job(work.start_and_wait, [(mark, tmp_path / "never") for mark in marks])
    work.wait_for(marks[0])
    job.cancel()
    assert job.wait(PATIENCE_S)
    counts = job.counts()
    assert (counts.done, counts.cancelled) == (0, 6)
    assert app.submit(work.square, 3).result(PATIENCE_S) == 9


def test_deaf(app: ApplicationNode, limit: str, tmp_path: Path) -> None:
    if limit:  # a thread of this process that never ends would slow down everything after it
        job = app.start_job(deaf_for, [(tmp_path / "started", 1.5)])
    else:
        job = app.start_job(deaf_for, [(tmp_path / "started", 60.0)])
    work.wait_for(tmp_path / "started")
    job.cancel()
    assert job.wait(PATIENCE_S)
    assert job.counts().cancelled == 1
    assert app.submit(work.square, 3).result(PATIENCE_S) == 9


def deaf_for(started: Path, seconds: float) -> None:
    """Catch every interrupt for so long."""
    until = time.monotonic() + seconds
    started.touch()
    while time.monotonic() < until:
        try:
            while time.monotonic() < until:
                time.sleep(0.01)
        except BaseException:  # noqa: BLE001  (this is the point of it)
            continue


def test_crash(app: ApplicationNode, limit: str, tmp_path: Path) -> None:
    if limit:
        return
    beside = [app.submit(work.square, n) for n in range(10)]
    pid = app.submit(work.die_once, tmp_path / "died").result(PATIENCE_S)
    assert pid != os.getpid()
    with pytest.raises(PoisonTask):
        app.submit(work.exit_now, 3).result(PATIENCE_S)
    assert [future.result(PATIENCE_S) for future in beside] == [n * n for n in range(10)]


def test_put(app: ApplicationNode) -> None:
    array = np.arange(500_000)
    held = app.put(array)
    assert list(app.map(work.sum_with, itertools.repeat(held, 20), range(20))) == [array.sum() + n for n in range(20)]
    assert [app.submit(work.sum_with, array, n).result(PATIENCE_S) for n in range(3)] == [
        array.sum() + n for n in range(3)
    ]
    captured = array + 1
    assert app.submit(lambda: int(captured.sum())).result(PATIENCE_S) == array.sum() + 500_000


def test_results(app: ApplicationNode) -> None:
    for size in (1_000, 200_000):
        array = app.submit(np.arange, size).result(PATIENCE_S)
        assert np.array_equal(array, np.arange(size))
        array += 1
    assert [len(found) for found in app.map(work.make_bytes, [100_000] * 4)] == [100_000] * 4


def test_systems(app: ApplicationNode) -> None:
    assert app.push_tasksystem(systems.Squares(200)).result(PATIENCE_S) == sum(n * n for n in range(200))
    assert app.push_tasksystem(systems.TwoPhases(20)).result(PATIENCE_S) == sum(n**4 for n in range(20))


def test_setups(app: ApplicationNode, tmp_path: Path) -> None:
    calls = app.run_everywhere(work.note, tmp_path / "setups", "ran")
    assert calls.wait(PATIENCE_S)
    assert "ran" in (tmp_path / "setups").read_text()


def sum_of_squares(count: int) -> int:
    app = concurrent_nb.application()
    return sum(future.result() for future in [app.submit(work.square, n) for n in range(count)])


def sum_by_a_task_function(count: int) -> int:
    return sum(concurrent_nb.task(work.square).map(range(count)).results())


def abs_by_joblib(count: int) -> list[int]:
    return list(joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-n) for n in range(count)))


def test_nested(app: ApplicationNode, limit: str) -> None:
    task_functions.use(lambda: app)  # as in a notebook, whose process has the engine "inline"
    try:
        for function in (sum_of_squares, sum_by_a_task_function):
            future = app.submit(function, 4)
            if limit == "refused":
                with pytest.raises(ConfigurationError, match=r"can start no tasks: it runs on .*--on dask://"):
                    future.result(PATIENCE_S)
            else:
                assert future.result(PATIENCE_S) == 14
    finally:
        task_functions.use(None)
    with app.joblib():  # in a task joblib uses threads instead
        assert joblib.Parallel(n_jobs=2)([joblib.delayed(abs_by_joblib)(3)] * 2) == [[0, 1, 2]] * 2


def test_cores(app: ApplicationNode, engine: str, limit: str) -> None:
    future = app.options(needs=Needs(cores=2)).submit(work.square, 3)
    if limit == "refused":
        with pytest.raises(TaskError, match=f"needs 2 cores, and a worker of the engine '{engine}' has one"):
            future.result(PATIENCE_S)
    elif engine != "inline":
        assert future.result(PATIENCE_S) == 9
    assert app.options(needs=Needs(kind="thread")).submit(work.square, 3).result(PATIENCE_S) == 9


def test_stacks(app: ApplicationNode, limit: str, tmp_path: Path) -> None:
    job = app.start_job(work.start_and_wait, [(tmp_path / "started", tmp_path / "go")])
    work.wait_for(tmp_path / "started")
    try:
        if limit:
            with pytest.raises(StackUnavailable):
                job.stack(0)
        else:
            assert "start_and_wait" in job.stack(0)
    finally:
        (tmp_path / "go").touch()
    assert job.wait(PATIENCE_S)


def test_parallel(app: ApplicationNode, limit: str, tmp_path: Path) -> None:
    marks = [tmp_path / "a", tmp_path / "b"]
    # Each waits for the other.
    futures = [app.submit(work.start_and_wait, marks[n], marks[1 - n]) for n in range(2)]
    assert len({future.result(PATIENCE_S) for future in futures}) == (1 if limit else 2)


def test_every_feature_has_a_test() -> None:
    names = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert FEATURES.keys() <= names
    assert {feature for _, feature in LIMITS} <= FEATURES.keys()


def table() -> str:
    """Make the table of docs/engines.md."""
    lines = ["| | " + " | ".join(ENGINES) + " |", "|---" * (len(ENGINES) + 1) + "|"]
    for feature, words in FEATURES.items():
        cells = [LIMITS.get((engine, feature), "yes") for engine in ENGINES]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_documents_tell_what_these_tests_show() -> None:
    text = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    assert table() in text, f"put this into docs/engines.md:\n{table()}"


# ------------------------------------------------------------------------------------------------------------- MPI


@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed")
def test_the_executor_of_mpi_is_one_too(tmp_path: Path) -> None:
    """The first tests above on a real MPI of three processes, of which two are workers. The others pass, too."""
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if mpiexec is None:
        pytest.skip("there is no mpiexec")
    shown = ("executor", "chunks", "cells", "cython", "prints", "errors", "cancel", "put", "systems")
    tests = [f"{__file__}::test_{feature}[executor]" for feature in shown]
    options = ["-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "inner"), "--rootdir"]
    ended = subprocess.run(
        [
            mpiexec,
            "-n",
            str(WORKERS + 1),
            sys.executable,
            "-m",
            "mpi4py.futures",
            "-m",
            "pytest",
            *options,
            ROOT,
            *tests,
        ],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(ROOT), BY_MPI: "1"},
    )
    assert f"{len(shown)} passed" in ended.stdout, ended.stdout + ended.stderr
    assert ended.returncode == 0
    eventually(lambda: not processes_by_mpi(), "no process of it is left")


def processes_by_mpi() -> list[str]:
    found = []
    for (_, pid, *_), words in leaks.processes().items():
        assert isinstance(pid, int)
        with suppress(psutil.Error):  # it has ended meanwhile
            if BY_MPI in psutil.Process(pid).environ():
                found.append(words)
    return found


# --------------------------------------------------------------------------------------------------------- bad input


def test_what_does_not_fit_an_engine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="workers is for executors and 'inline'"):
        concurrent_nb.connect("ray", workers=3)
    with pytest.raises(ConfigurationError, match="workers is 0, it must be"):
        concurrent_nb.connect("inline", workers=0)
    with pytest.raises(ConfigurationError, match="key_file is for clusters"):
        concurrent_nb.connect("inline", "keys")


def append_square(to: Any, n: int) -> None:
    to.append(n * n)


def test_tasks_on_this_machine_may_use_managers(app: ApplicationNode, engine: str) -> None:
    if engine == "ray" and LOOPBACK is None:
        pytest.skip("this system's only loopback address is one that Ray replaces, so its nodes may be elsewhere")
    with multiprocessing.get_context("spawn").Manager() as manager:
        shared = manager.list()
        app.submit(append_square, shared, 3).result(PATIENCE_S)
        assert list(shared) == [9]


class Elsewhere(Executor):
    """An executor whose workers may be anywhere, for all that is known of it."""

    def __init__(self, threads: Executor) -> None:
        self.submit = threads.submit  # type: ignore[method-assign]


def test_the_key_of_managers_goes_to_no_other_machine() -> None:
    session = EngineSession(b"t" * 16, "another machine", [], "", 1.0)
    own_key = bytes(multiprocessing.current_process().authkey).hex()
    with ThreadPoolExecutor(1) as threads:
        for executor, expected in ((threads, own_key), (Elsewhere(threads), "")):
            engine = ExecutorEngine(executor, 1)
            assert engine.open(session, Heard()).authkey == expected
            engine.close()


def kill_the_worker_of_the_engine(once: Path) -> str:
    """Kill the process in which this task's own process was started, the first time."""
    try:
        once.touch(exist_ok=False)
    except FileExistsError:
        return "survived"
    fork_server = psutil.Process().parent()
    assert fork_server is not None
    worker = fork_server.parent()
    assert worker is not None
    worker.kill()
    time.sleep(PATIENCE_S)
    return "this worker was to die"


# Workers of "native" are ours, that of "inline" is this process, and an executor that loses one breaks: see below.
@pytest.mark.parametrize("engine", ["dask", "ray"], indirect=True, scope="module")
def test_a_worker_of_the_engine_that_dies_loses_nothing(app: ApplicationNode, tmp_path: Path) -> None:
    beside = [app.submit(work.slow_square, n) for n in range(300)]
    killer = app.submit(kill_the_worker_of_the_engine, tmp_path / "once")
    assert killer.result(PATIENCE_S) == "survived"
    assert [future.result(PATIENCE_S)[0] for future in beside] == [n * n for n in range(300)]


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_a_dask_without_workers_is_refused_and_one_that_ends_ends_the_futures(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    monkeypatch.setattr("concurrent_nb.engines.dask_engine.WORKERS_S", 0.2)
    with distributed.LocalCluster(
        n_workers=0, threads_per_worker=1, processes=True, protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as cluster:
        address = "dask://" + cluster.scheduler_address.removeprefix("tcp://")
        with pytest.raises(EngineUnavailable, match="has no workers: start one"):
            concurrent_nb.connect(address)
        cluster.scale(1)
        monkeypatch.setattr("concurrent_nb.engines.dask_engine.WORKERS_S", PATIENCE_S)
        monkeypatch.setattr("concurrent_nb.engines.dask_engine.SILENT_S", 0.5)
        app = concurrent_nb.connect(address)
        future = app.submit(time.sleep, PATIENCE_S)
        eventually(future.running, "the task runs")
    try:
        with pytest.raises(EngineLost, match="engine 'dask' runs no more tasks: the Dask scheduler at tcp://"):
            future.result(PATIENCE_S)
    finally:
        app.close()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.parametrize("has_client", [True, False])
def test_a_ray_elsewhere_that_does_not_answer_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, has_client: bool
) -> None:
    monkeypatch.setattr("concurrent_nb.engines.ray_engine.importlib.util.find_spec", lambda name: has_client or None)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # it may be, for other tests
    words = r"no Ray client server answers at ray://127\.0\.0\.1:1:" if has_client else r"pip install 'ray\[client\]'"
    with pytest.raises(EngineUnavailable, match=words):
        concurrent_nb.connect("ray://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="no address of Ray"):
        concurrent_nb.connect("ray://host:port")
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    with pytest.raises(EngineUnavailable, match=r"call ray\.shutdown\(\) before you connect to ray://127\.0\.0\.1:1"):
        concurrent_nb.connect("ray://127.0.0.1:1")


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("concurrent_nb.engines.dask_engine.CONNECT_S", 0.3)
    with pytest.raises(EngineUnavailable, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1:"):
        concurrent_nb.connect("dask://127.0.0.1:1")
    with pytest.raises(EngineUnavailable, match=r"no Dask scheduler answers at tls://127\.0\.0\.1:1:"):
        concurrent_nb.connect("dask://tls://127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts connections and says nothing, as if frozen
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EngineUnavailable, match=rf"no Dask scheduler answers at tcp://{place}: TimeoutError"):
            concurrent_nb.connect(f"dask://{place}")
    for wrong in ("dask://", "dask://host:port", "dask://http://host:1"):
        with pytest.raises(ConfigurationError, match=r"is no address of a Dask scheduler: give dask://HOST:8786"):
            concurrent_nb.connect(wrong)


def test_an_executor_that_is_shut_down_is_refused_and_one_that_breaks_ends_the_futures() -> None:
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with ExitStack() as stack:
        stack.callback(pool.shutdown)
        app = stack.enter_context(concurrent_nb.connect(pool))
        future = app.submit(time.sleep, 60)
        eventually(future.running, "the task runs")
        (child,) = pool._processes.values()
        child.kill()
        with pytest.raises(EngineLost, match="engine 'executor' runs no more tasks: ProcessPoolExecutor with 1 worker"):
            future.result(PATIENCE_S)
        with pytest.raises(EngineLost):
            app.submit(pow, 2, 3).result(PATIENCE_S)
        app.close()
    with pytest.raises(EngineUnavailable, match="does not run tasks"):
        concurrent_nb.connect(pool)


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_a_dask_worker_that_hangs_holds_up_no_order_and_is_told_to_who_connects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import distributed

    from concurrent_nb.engines.dask_engine import DaskEngine

    monkeypatch.setattr("concurrent_nb.engines.dask_engine.FACTS_S", 0.5)
    session = EngineSession(b"t" * 16, "another machine", [], "", 1.0)
    with dask_cluster() as address, distributed.Client(address.replace("dask", "tcp", 1)) as client:
        engine, later = DaskEngine(client), DaskEngine(client)
        engine.open(session, Heard())
        hanging = psutil.Process(next(iter(client.run(os.getpid).values())))
        hanging.suspend()
        try:
            engine.order(1, pack(Orders(1)))  # to all workers, as none is known to run the group
            with pytest.raises(EngineUnavailable, match=r"not all workers of the Dask scheduler at .* within 0\.5 s"):
                later.open(session, Heard())
        finally:
            hanging.resume()
            engine.close()
            later.close()


SCHEDULER_SCRIPT: Final = """
import sys
import distributed

if __name__ == "__main__":
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        print(cluster.scheduler_address.removeprefix("tcp://"), flush=True)
        sys.stdin.read()
"""


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_a_scheduler_that_hangs_is_told_and_ends_the_futures(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    import distributed

    for name, value in (("SILENT_S", 0.3), ("HANGS_S", 1.5), ("END_S", 0.5)):
        monkeypatch.setattr(f"concurrent_nb.engines.dask_engine.{name}", value)
    script = tmp_path / "scheduler.py"
    script.write_text(SCHEDULER_SCRIPT)
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, script], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
    with process:
        assert process.stdin is not None and process.stdout is not None
        address = "dask://" + process.stdout.readline().strip()
        app = concurrent_nb.connect(address)
        monkeypatch.setattr("concurrent_nb.engines.dask_engine.CONNECT_S", 1.0)
        try:
            future = app.submit(time.sleep, PATIENCE_S)
            eventually(future.running, "the task runs")
            client = distributed.Client(address.replace("dask", "tcp", 1), set_as_default=False)
            in_hand = concurrent_nb.connect(client)
            os.kill(process.pid, signal.SIGSTOP)
            begun = time.monotonic()
            in_hand.close()  # before it is known that the scheduler hangs
            assert time.monotonic() - begun < PATIENCE_S / 2
            with pytest.raises(EngineLost, match=r"the Dask scheduler at .* does not answer: it has hung for"):
                future.result(PATIENCE_S)
            assert "has not answered for" in caplog.text
            for where, words in ((client, "does not answer: TimeoutError"), (address, "no Dask scheduler answers at")):
                with pytest.raises(EngineUnavailable, match=words):
                    concurrent_nb.connect(where)
        finally:
            app.close()
            os.kill(process.pid, signal.SIGCONT)
            client.close()
            process.stdin.close()
            process.wait(PATIENCE_S)


@pytest.mark.parametrize("engine_name", ["executor", "dask"])
def test_what_an_engine_that_is_busy_with_others_has_not_begun_can_be_left(engine_name: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        if engine_name == "dask":
            distributed = pytest.importorskip("distributed")
            address = stack.enter_context(dask_cluster())
            other = stack.enter_context(distributed.Client(address.replace("dask", "tcp", 1)))
            where: Any = address
        else:
            where = other = stack.enter_context(ProcessPoolExecutor(2, multiprocessing.get_context("spawn")))
        with concurrent_nb.connect(where) as app:
            occupied = [other.submit(work.wait_for, tmp_path / f"free{n}") for n in range(4)]
            futures = [app.submit(pow, 2, n) for n in range(4)]
            begun = time.monotonic()
            app.close()
            assert all(future.cancelled() for future in futures)
            assert time.monotonic() - begun < PATIENCE_S / 2  # not when the others have ended
        for n in range(4):
            (tmp_path / f"free{n}").touch()
        for each in occupied:
            each.result(PATIENCE_S)


def cut_off(address: str) -> None:
    """Have this Dask worker's connections to another one wait for ever, as behind a firewall."""
    import asyncio
    from typing import Any

    from distributed.comm.tcp import TCPConnector

    reaching = TCPConnector.connect

    async def connect(self: Any, to: str, *args: Any, **options: Any) -> Any:
        if to == address.removeprefix("tcp://"):
            await asyncio.Event().wait()
        return await reaching(self, to, *args, **options)

    TCPConnector.connect = connect


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_large_arguments_reach_dask_workers_that_cannot_reach_each_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import distributed

    monkeypatch.setattr("concurrent_nb.engines.dask_engine.REACH_S", 0.3)
    data = os.urandom(1_000_000)

    def added(n: int) -> int:
        time.sleep(0.05)  # so that both workers get some
        return len(data) + n

    with dask_cluster() as address, distributed.Client(address.replace("dask", "tcp", 1)) as client:
        for worker, other in itertools.permutations(client.nthreads(), 2):
            client.run(cut_off, other, workers=[worker])
        with concurrent_nb.connect(client) as app:
            lengths = app.map(added, range(20), timeout=PATIENCE_S)
            assert list(lengths) == [len(data) + n for n in range(20)]
    assert re.search(r"Dask workers cannot reach each other \(tcp://\S+ does not reach tcp://", caplog.text)


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_a_dask_client_in_hand_serves_two_and_keeps_nothing_of_them(tmp_path: Path) -> None:
    """Its connection may be lost and come back, also to a scheduler that knows nothing of who listens."""
    import distributed

    from concurrent_nb.engines.dask_engine import ignore_event

    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=True, protocol="tcp", dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):

        def topics() -> list[str]:
            return [name for name in cluster.scheduler._broker._topics if name.startswith("concurrent_nb")]

        handlers = set(client._event_handlers)
        with concurrent_nb.connect(client) as app, concurrent_nb.connect(client) as other:
            assert list(app.map(work.square, range(100))) == list(other.map(work.square, range(100)))
            assert len(client._event_handlers) == 2 + len(handlers)
            assert len(topics()) == 2
            future = app.submit(work.start_and_wait, tmp_path / "started", tmp_path / "end")
            work.wait_for(tmp_path / "started")
            for topic in topics():
                del cluster.scheduler._broker._topics[topic]
            client.loop.add_callback(client.scheduler_comm.comm.abort)
            (tmp_path / "end").touch()
            assert future.result(PATIENCE_S)
            eventually(lambda: len(topics()) == 2, "both listen again")
            check_prints(app, tmp_path / "again")
        eventually(lambda: not topics(), "the scheduler keeps no reports")
        ours = [handler for topic, handler in client._event_handlers.items() if topic not in handlers]
        assert ours == [ignore_event] * 2
        assert client.submit(pow, 2, 3).result(PATIENCE_S) == 8
    with pytest.raises(EngineUnavailable, match=r"the client of .* is closed: give one that is connected"):
        concurrent_nb.connect(client)


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_an_asynchronous_client_of_dask_is_refused() -> None:
    import distributed

    async def main() -> None:
        async with (
            distributed.LocalCluster(
                n_workers=0, processes=False, dashboard_address=None, asynchronous=True
            ) as cluster,
            distributed.Client(cluster, asynchronous=True, set_as_default=False) as client,
        ):
            with pytest.raises(EngineUnavailable, match="is asynchronous, and an engine waits for answers"):
                concurrent_nb.connect(client)

    asyncio.run(main())


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_the_stop_button_ends_the_attempt_to_connect() -> None:
    """A scheduler that accepts connections and says nothing; the stop button is pressed while the client waits."""
    before = leaks.held()
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def press_at_the_second() -> None:
            with silent.accept()[0]:  # the first looks whether anything listens
                connection, _ = silent.accept()
            with connection:
                os.kill(os.getpid(), signal.SIGINT)
                ended.wait(PATIENCE_S)

        ended = threading.Event()
        button = threading.Thread(target=press_at_the_second)
        button.start()
        try:
            with pytest.raises(KeyboardInterrupt) as raised:
                concurrent_nb.connect(f"dask://127.0.0.1:{silent.getsockname()[1]}")
        finally:
            ended.set()
            button.join(PATIENCE_S)
    assert leaks.left_since(before) == [], raised  # with its traceback, as a shell keeps it


KILLED_SCRIPT: Final = """
import sys
import time
from pathlib import Path
import concurrent_nb

def stay(folder):
    (folder / "started").touch()
    try:
        time.sleep(600)
    finally:
        (folder / "ended").touch()

app = concurrent_nb.connect(sys.argv[1])
app.submit(stay, Path(sys.argv[2])).result()
"""


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="distributed is not installed")
def test_tasks_in_dask_end_when_the_process_that_has_started_them_was_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with dask_cluster() as address:
        user = subprocess.Popen([sys.executable, "-c", KILLED_SCRIPT, address, str(tmp_path)], env=environment)
        try:
            work.wait_for(tmp_path / "started")
        finally:
            user.kill()
            user.wait()
        work.wait_for(tmp_path / "ended")
