"""Tasks that submit tasks to their own cluster and wait for them."""

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joblib import Parallel, delayed

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster, Needs
from concurrent_nb.api import OutputPiece
from concurrent_nb.errors import RemoteTraceback, TaskTimeout
from concurrent_nb.nodes.worker.waiting_here import NESTING_MAX
from concurrent_nb.workers.slave_side.pool_scheduler.reserve import RESERVE_S
from tests.clusters import BRISK, eventually, shared_cluster
from tests.work import PATIENCE_S

NAME = "nested"
HOWS = ("result", "exception", "map", "chunks", "wait", "as_completed", "job", "batch", "first", "poll", "await")
SLEEP_S = 1000.0


on_few_and_many_workers = pytest.mark.parametrize("workers", [1, 2, 5], indirect=True, scope="module")


@pytest.fixture(scope="module")
def workers(request: pytest.FixtureRequest) -> int:
    return int(getattr(request, "param", 2))


@pytest.fixture(scope="module")
def cluster(workers: int) -> Iterator[Cluster]:
    with shared_cluster(workers, name=f"{NAME}-{workers}", config=BRISK) as cluster:
        yield cluster


@pytest.fixture
def app(cluster: Cluster) -> ApplicationNode:
    return cluster.application()


@pytest.fixture
def leak_patience_s() -> float:
    """Return the time in which the workers for blocked tasks' slots end when none is needed, on a busy machine, too."""
    return RESERVE_S + 10.0


# ------------------------------------------------------------------------------------------------------------ for tasks


def sum_of_squares(how: str, count: int, where: str = "") -> int:
    """Submit tasks from a task, and wait for them in one of the ways that there are."""
    app = concurrent_nb.connect(where) if where else concurrent_nb.application()
    if how == "map":
        return sum(app.map(pow, range(count), [2] * count))
    if how == "chunks":
        return sum(app.map(pow, range(count), [2] * count, chunksize=2))
    if how in ("job", "batch"):
        job = app.start_job(pow, [(number, 2) for number in range(count)], batch=2 if how == "batch" else None)
        return sum(job.results())
    futures = [app.submit(pow, number, 2) for number in range(count)]
    if how == "exception":
        assert [future.exception() for future in futures] == [None] * count
    elif how == "wait":
        concurrent.futures.wait(futures)
    elif how == "first":
        done, _ = concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_COMPLETED)
        assert done
    elif how == "as_completed":
        return sum(future.result() for future in concurrent.futures.as_completed(futures))
    elif how == "poll":
        while not all(future.done() for future in futures):
            time.sleep(0.01)
    elif how == "await":

        async def gather() -> list[int]:
            return await asyncio.gather(*futures)

        return sum(asyncio.run(gather()))
    return sum(future.result() for future in futures)


def fibonacci(number: int) -> int:
    """Compute a Fibonacci number with two tasks for each that is not known."""
    if number < 2:
        return number
    app = concurrent_nb.application()
    return sum(future.result() for future in [app.submit(fibonacci, number - less) for less in (1, 2)])


def depth_of(number: int) -> int:
    return 0 if not number else 1 + concurrent_nb.application().submit(depth_of, number - 1).result()


def recurse(depth: int) -> int:
    return 0 if not depth else 1 + recurse(depth - 1)


def recursions(levels: int) -> int:
    """Use most of the frames that a task has, in a task, in a task..."""
    below = concurrent_nb.application().submit(recursions, levels - 1).result() if levels else 0
    return below + recurse(500)


def raises(number: int) -> None:
    raise ValueError(f"number {number} is refused")


def error_of_subtask() -> tuple[str, str]:
    error = concurrent_nb.application().submit(raises, 7).exception()
    return repr(error), str(error.__cause__ if error is not None else "")


def raises_the_error_of_a_subtask() -> None:
    concurrent_nb.application().submit(raises, 8).result()


def sleep_in(folder: str) -> None:
    (Path(folder) / f"sleeps-{os.getpid()}").touch()
    time.sleep(SLEEP_S)


def wait_for_sleepers(folder: str, count: int) -> None:
    app = concurrent_nb.application()
    concurrent.futures.wait([app.submit(sleep_in, folder) for _ in range(count)])


def wait_for_another_worker(folder: str) -> None:
    # A task with a time limit does not run in the process that waits for it.
    concurrent_nb.application().options(timeout_s=SLEEP_S).submit(sleep_in, folder).result()


def leave_sleepers(folder: str, count: int) -> int:
    app = concurrent_nb.application()
    for _ in range(count):
        app.submit(time.sleep, SLEEP_S)
    return count


def die_once(path: str) -> int:
    """Kill the process that runs this, unless it has been killed before."""
    with contextlib.suppress(FileExistsError), open(path, "x"):
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def wait_for_dying(path: str) -> int:
    return concurrent_nb.application().submit(die_once, path).result()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def failures(count: int, path: str) -> int:
    """Fail so often, over all attempts."""
    with open(path, "a") as file:
        file.write("x")
    if Path(path).stat().st_size <= count:
        raise ValueError("not yet")
    return Path(path).stat().st_size


def retried(count: int, path: str) -> tuple[int, int]:
    future = concurrent_nb.application().options(retries=count).submit(failures, count, path)
    return future.result(), future.attempt


def shouts(word: str) -> str:
    print(word)  # noqa: T201
    return word


def outputs() -> list[Any]:
    app = concurrent_nb.application()
    app.submit(shouts, "loud").result()
    job = app.start_job(shouts, [("quiet",)])
    job.wait()
    return [piece.text for piece in job.take_output() if isinstance(piece, OutputPiece)]


def changes(items: list[int]) -> list[int]:
    items.append(len(items))
    return items


def copies() -> bool:
    """Tell whether what a task's task changes, and what it returns, is a copy, whoever runs it."""
    items = [0]
    results = concurrent_nb.application().start_job(changes, [(items,)] * 3).results()
    return items == [0] and results == [[0, 1]] * 3 and results[0] is not results[1]


def in_a_thread() -> int:
    """Wait for a task in a thread of the task."""
    app, found = concurrent_nb.application(), []
    thread = threading.Thread(target=lambda: found.append(app.submit(pow, 2, 3).result()))
    thread.start()
    thread.join()
    return int(found[0])


def overruns() -> str:
    return type(concurrent_nb.application().options(timeout_s=0.1).submit(time.sleep, SLEEP_S).exception()).__name__


def same_application() -> bool:
    return concurrent_nb.application() is concurrent_nb.application()


@concurrent_nb.task
def factorial(number: int, how: str = "call") -> int:
    """Compute a factorial; submit the recursive call in one of several ways."""
    if number < 2:
        return 1
    if how == "call":
        return number * factorial(number - 1)
    if how == "submit":
        return number * factorial.submit(number - 1, how).result()
    if how == "map":
        return number * factorial.map([number - 1], [how]).results()[0]
    if how == "options":
        return number * factorial.options(retries=1).submit(number - 1, how).result()
    return number * concurrent_nb.task(abs).submit(number - 1).result()


# ---------------------------------------------------------------------------------------------------------------- tests


@on_few_and_many_workers
def test_waiting_tasks_do_not_stand_still(app: ApplicationNode, cluster: Cluster, workers: int) -> None:
    for how in HOWS:
        futures = [app.submit(sum_of_squares, how, 6) for _ in range(2 * workers)]
        assert (how, [future.result(PATIENCE_S) for future in futures]) == (how, [55] * len(futures))
    eventually(
        lambda: [slave["slots"] for slave in cluster.status()["slaves"]] == [workers], "the slots are given back"
    )


def test_an_application_that_a_task_has_connected_itself(app: ApplicationNode, cluster: Cluster, workers: int) -> None:
    for how in ("result", "job", "poll"):
        futures = [app.submit(sum_of_squares, how, 4, cluster.name) for _ in range(workers + 1)]
        assert (how, [future.result(PATIENCE_S) for future in futures]) == (how, [14] * len(futures))


@on_few_and_many_workers
def test_recursion(app: ApplicationNode) -> None:
    assert app.submit(fibonacci, 20).result(PATIENCE_S) == 6765
    for depth in (200, 2 * NESTING_MAX):
        assert app.submit(depth_of, depth).result(PATIENCE_S) == depth
    assert app.submit(recursions, 20).result(PATIENCE_S) == 21 * 500
    assert app.start_job(fibonacci, [(number,) for number in range(8)], batch=3).results(PATIENCE_S)[-1] == 13


def sum_by_joblib(number: int) -> int:
    with concurrent_nb.application().joblib():
        return sum(Parallel()(delayed(sum_by_inner_joblib)(number, each) for each in range(4)))


def sum_by_inner_joblib(number: int, each: int) -> int:
    return sum(Parallel(n_jobs=2)(delayed(abs)(-each * number) for _ in range(5)))


@on_few_and_many_workers
def test_joblib_inside_joblib_inside_a_task(app: ApplicationNode) -> None:
    assert app.submit(sum_by_joblib, 3).result(PATIENCE_S) == 90


def test_task_functions_in_tasks(app: ApplicationNode) -> None:
    fact = factorial.function
    by_value = concurrent_nb.task(types.FunctionType(fact.__code__, {**fact.__globals__, "__name__": "__main__"}))
    assert isinstance(by_value.function, types.FunctionType)
    by_value.function.__defaults__ = fact.__defaults__
    by_value.function.__globals__["factorial"] = by_value
    by_value.function.__module__ = "__main__"
    for how in ("call", "submit", "map", "options"):
        assert (how, app.submit(by_value, 5, how).result(PATIENCE_S)) == (how, 120)
        assert (how, app.submit(factorial, 5, how).result(PATIENCE_S)) == (how, 120)
    assert app.submit(by_value, 5, "task").result(PATIENCE_S) == 20


def test_errors_and_output_of_subtasks(app: ApplicationNode, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text, cause = app.submit(error_of_subtask).result(PATIENCE_S)
    assert text == "ValueError('number 7 is refused')"
    assert 'raise ValueError(f"number {number} is refused")' in cause
    error = app.submit(raises_the_error_of_a_subtask).exception(PATIENCE_S)
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "raises_the_error_of_a_subtask" in str(error.__cause__)
    assert app.submit(retried, 2, str(tmp_path / "attempts")).result(PATIENCE_S) == (3, 3)
    assert "".join(app.submit(outputs).result(PATIENCE_S)) == "quiet\n"
    app.submit(pow, 1, 1).result(PATIENCE_S)
    eventually(lambda: "loud\n" in capfd.readouterr().out, "what a subtask prints is shown with the task")


def test_subtasks_are_like_tasks(app: ApplicationNode) -> None:
    assert app.submit(copies).result(PATIENCE_S)
    assert app.submit(in_a_thread).result(PATIENCE_S) == 8
    assert app.submit(same_application).result(PATIENCE_S)
    assert app.submit(overruns).result(PATIENCE_S) == TaskTimeout.__name__


def test_what_a_task_leaves_ends_with_it(app: ApplicationNode, cluster: Cluster, workers: int, tmp_path: Path) -> None:
    assert app.submit(leave_sleepers, str(tmp_path), 2 * workers).result(PATIENCE_S) == 2 * workers
    eventually(lambda: is_idle(cluster), "the subtasks have ended")
    future = app.submit(wait_for_sleepers, str(tmp_path), workers)
    eventually(lambda: len([*tmp_path.glob("sleeps-*")]) >= 1, "a subtask runs")
    eventually(future.running, "the task is known to run")
    app.cancel_submits()
    eventually(future.done, "the task was cancelled")
    eventually(lambda: is_idle(cluster), "its subtasks were, too")
    assert app.submit(fibonacci, 5).result(PATIENCE_S) == 5


def is_idle(cluster: Cluster) -> bool:
    tasks = cluster.status()["tasks"]
    return not tasks["waiting"] and not tasks["assigned"]


@on_few_and_many_workers
def test_workers_that_die(app: ApplicationNode, tmp_path: Path) -> None:
    assert app.submit(wait_for_dying, str(tmp_path / "died")).result(PATIENCE_S)
    assert app.submit(fibonacci, 6).result(PATIENCE_S) == 8


@on_few_and_many_workers
def test_tasks_in_threads(app: ApplicationNode, workers: int) -> None:
    threads = app.options(needs=Needs(kind="thread"))
    for how in ("result", "job", "wait"):
        futures = [threads.submit(sum_of_squares, how, 6) for _ in range(workers)]
        assert (how, [future.result(PATIENCE_S) for future in futures]) == (how, [55] * len(futures))


def test_subtasks_count_wherever_they_run(app: ApplicationNode, tmp_path: Path) -> None:
    app.submit(abs, 1).result(PATIENCE_S)
    path = tmp_path / "trace.json"
    before = app.trace(path).tasks
    assert app.submit(fibonacci, 9).result(PATIENCE_S) == 34
    eventually(lambda: app.trace(path).tasks == before + 109, "each is in the trace, once")
    app._client_thread.member.control.close()  # else it stays open for the next question


def test_subtasks_belong_to_the_owner_of_the_task(app: ApplicationNode, cluster: Cluster, tmp_path: Path) -> None:
    future = app.submit(wait_for_another_worker, str(tmp_path))
    eventually(lambda: [*tmp_path.glob("sleeps-*")], "the subtask runs")
    busy = [job for job in app.status()["jobs"] if job["tasks"] > job["done"]]
    app._client_thread.member.control.close()  # else it stays open for the next question
    assert len(busy) == 2
    assert all(job["mine"] for job in busy)
    app.cancel_submits()
    eventually(future.done, "the task was cancelled")
