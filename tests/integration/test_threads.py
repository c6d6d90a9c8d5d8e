"""Tasks in threads on a whole cluster: what they say, how they end, and what their neighbours notice of it."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster, Needs, TaskFunction
from concurrent_nb.errors import FunctionNotLoadable, PoisonTask, TaskTimeout
from concurrent_nb.nodes.application.job import OutputPiece
from concurrent_nb.shipping.compiled.build import cython_version, make
from concurrent_nb.shipping.compiled.cache import Cache
from concurrent_nb.shipping.compiled.function import CythonFunction
from concurrent_nb.shipping.compiled.recipe import Recipe
from concurrent_nb.shipping.runtime.notes import ProgressReport, Publication
from concurrent_nb.task_functions import use
from tests import work
from tests.clusters import eventually, shared_cluster
from tests.work import PATIENCE_S

THREAD = Needs(kind="thread")
#: returns when `count` calls are in it at once, in this process; waits without the GIL, and without Python
MEET = """
cdef extern from "unistd.h" nogil:
    int usleep(unsigned int)
cdef volatile int arrived = 0
def meet(int count):
    global arrived
    arrived += 1
    with nogil:
        while arrived < count:
            usleep(100)
    return arrived
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with shared_cluster(workers=2) as cluster:
        run(cluster.application(), work.pid_of_worker)  # there is a process for them from then on
        yield cluster


@pytest.fixture
def app(cluster: Cluster) -> ApplicationNode:
    return cluster.application()


@pytest.fixture
def own() -> Iterator[ApplicationNode]:
    """Give a cluster for a test after which it is not as it was."""
    with Cluster(workers=2) as cluster:
        yield cluster.application()


def run(app: ApplicationNode, function: Any, *args: Any) -> Any:
    (result,) = app.start_job(function, [args], needs=THREAD).results(PATIENCE_S)
    return result


def test_compiled_tasks_that_release_the_gil_run_at_the_same_time_in_one_process(
    app: ApplicationNode, tmp_path: Path
) -> None:
    build, _ = make(Recipe(MEET, ("-O1",), False, cython_version()), "%%cython_task", Cache(tmp_path))
    meet = CythonFunction(build, "meet", needs=THREAD)
    assert app.start_job(meet, [(2,), (2,)]).results(PATIENCE_S) == [2, 2]


def test_a_task_function_says_that_its_tasks_run_in_threads(app: ApplicationNode) -> None:
    use(lambda: app)
    try:
        pid = TaskFunction(work.pid_of_worker, THREAD)
        assert len({pid.submit().result(PATIENCE_S), *pid.map(range(50)).results(PATIENCE_S)}) == 1
        assert list(app.map(TaskFunction(work.square, THREAD), range(500))) == [n * n for n in range(500)]
    finally:
        use(None)


# ------------------------------------------------------------------------------------------------------ what they say


def tell(n: int, mine: Path, theirs: Path) -> int:
    for step in range(5):
        concurrent_nb.report(step / 4, f"{n} at {step}")
    mine.touch()
    work.wait_for(theirs)
    concurrent_nb.publish({"n": n})
    print("this is", n)  # noqa: T201  (that is what is tested)
    return n


def test_what_two_tasks_say_at_the_same_time_is_told_apart(app: ApplicationNode, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    job = app.start_job(tell, [(0, one, other), (1, other, one)], watched=True, needs=THREAD)
    assert job.wait(PATIENCE_S)
    notes: dict[int, list[Any]] = {0: [], 1: []}
    for note in job.take_notes():
        notes[note.index].append(note.content)
    for n, (first, published, last) in notes.items():
        assert (first, last) == (ProgressReport(0.0, f"{n} at 0"), ProgressReport(1.0, f"{n} at 4"))
        assert isinstance(published, Publication)
        assert published.value == {"n": n}
    pieces = [piece for piece in job.take_output() if isinstance(piece, OutputPiece)]
    assert sorted(pieces, key=lambda piece: piece.index) == [OutputPiece(n, 1, f"this is {n}\n") for n in (0, 1)]


def test_a_task_that_talks_can_be_stopped_at_any_moment(app: ApplicationNode) -> None:
    pid = run(app, work.pid_of_worker)
    for _ in range(5):
        job = app.start_job(work.publish_for_ever, [(), ()], needs=THREAD)
        eventually(lambda job=job: job.counts().running > 0, "it talks")  # type: ignore[misc]
        job.cancel()
        assert job.wait(PATIENCE_S)
        assert all(future.cancelled() for future in job.futures)
    assert run(app, work.pid_of_worker) == pid


def submit_from_inside() -> Any:
    return TaskFunction(work.square).submit(3).result()


def draw() -> None:
    from matplotlib import pyplot

    pyplot.plot([1, 2])


def draw_alone() -> str:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2])
    concurrent_nb.display(figure)
    return threading.current_thread().name


def test_what_belongs_to_the_whole_process_is_refused(app: ApplicationNode) -> None:
    assert run(app, submit_from_inside) == 9
    with pytest.raises(RuntimeError, match=r"pyplot has one current figure .* leave out --needs threads"):
        run(app, draw)
    job = app.start_job(draw_alone, [()], watched=True, needs=THREAD)
    assert job.results(PATIENCE_S)
    (shown,) = job.take_output()
    assert "image/png" in shown.display.data  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------------- how they end


def test_errors_timeouts_and_retries_are_those_of_processes(app: ApplicationNode, tmp_path: Path) -> None:
    with pytest.raises(work.Trouble) as caught:
        run(app, work.raise_trouble)
    assert caught.value.details == {"code": 7}
    calls = tmp_path / "calls"
    assert app.start_job(work.fail_until, [(calls, 3)], retries=2, needs=THREAD).results(PATIENCE_S) == [3]
    with pytest.raises(TaskTimeout):
        app.start_job(work.publish_for_ever, [()], timeout_s=0.1, needs=THREAD).results(PATIENCE_S)


def test_a_task_that_has_to_be_killed_costs_its_neighbour_an_attempt_and_no_more(
    own: ApplicationNode, tmp_path: Path
) -> None:
    app, calls = own, tmp_path / "calls"
    job = app.start_job(run_twice, [(calls, tmp_path / "end")], needs=THREAD)
    for _ in range(4):  # more often than a worker may die under a task
        before = lines(calls)
        eventually(lambda: job.counts().running == 1 and lines(calls) > 0, "it runs")
        with pytest.raises(TaskTimeout):
            app.start_job(work.hold_the_gil, [()], timeout_s=0.1, needs=THREAD).results(PATIENCE_S)
        eventually(lambda before=before: lines(calls) > before, "it runs again")  # type: ignore[misc]
    (tmp_path / "end").touch()
    (pid,) = job.results(PATIENCE_S)
    assert pid == run(app, work.pid_of_worker)


def run_twice(calls: Path, until: Path) -> int:
    work.note(calls, "called")
    return work.pid_after(until)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_killers_are_found_and_their_neighbours_have_their_results(own: ApplicationNode, tmp_path: Path) -> None:
    neighbours = own.start_job(work.interval, [(0.05,)] * 20, needs=THREAD)
    killers = [own.start_job(os.abort, [()], needs=THREAD) for _ in range(2)]
    once = own.start_job(work.die_once, [(tmp_path / str(n),) for n in range(4)], needs=THREAD)
    for killer in killers:
        with pytest.raises(PoisonTask, match="3 times the worker or the slave of task"):
            killer.results(PATIENCE_S)
    assert len(neighbours.results(PATIENCE_S)) == 20
    assert len(once.results(PATIENCE_S)) == 4
    assert run(own, work.square, 3) == 9


def test_a_task_that_cannot_be_opened_says_so(app: ApplicationNode) -> None:
    with pytest.raises(FunctionNotLoadable, match="opened"):
        app.start_job(work.echo, [(work.make_grenade(),)], needs=THREAD).results(PATIENCE_S)
