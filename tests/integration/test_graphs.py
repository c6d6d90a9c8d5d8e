"""Tasks that need the results of others: by every way in which a future becomes an argument, and with what fails."""

import asyncio
import concurrent.futures
import json
import operator
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster
from concurrent_nb.errors import ConfigurationError, DependencyFailed, KeptResultLost, NotPicklable, PoisonTask
from concurrent_nb.nodes.application.kept_futures import KeptFuture
from concurrent_nb.transport import connection_file
from tests.cells import task_of_cell
from tests.clusters import BRISK, eventually, settle, shared_cluster, slave_pids, workers_of
from tests.work import PATIENCE_S

LARGE = 300_000  # numbers: more than travels in a pickle


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with shared_cluster(2, name="graphs", config=BRISK) as cluster:
        yield cluster


@pytest.fixture
def app(cluster: Cluster) -> ApplicationNode:
    return cluster.application()


def after(gate: Path, value: Any = None) -> Any:
    """Return a value once a file exists."""
    while not gate.exists():
        time.sleep(0.01)
    return value


def raise_value_error(text: str = "no") -> None:
    raise ValueError(text)


def add_two(one: Any, two: Any) -> Any:
    return one + two


def negative(value: Any) -> Any:
    return -value


def total(*values: Any) -> Any:
    return sum(values)


def where_it_runs(value: Any) -> tuple[Any, int]:
    return value, os.getpid()


def scaled(array: Any, by: int) -> Any:
    array *= by  # its own copy
    return array


def test_a_future_as_an_argument_stands_for_its_value(app: ApplicationNode, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    one, two = app.submit(after, gate, 1), app.submit(after, gate, 2)
    many = app.submit(dict, a=one, b=[two, {"c": (one, two)}, {one: two}])
    again = app.submit(total, many.then(len), one, one)
    assert not many.done()
    assert not many.running()
    gate.touch()
    assert many.result(PATIENCE_S) == {"a": 1, "b": [2, {"c": (1, 2)}, {1: 2}]}
    assert again.result(PATIENCE_S) == 4
    assert app.submit(total, one, two).result(PATIENCE_S) == 3  # they have ended long ago


def test_large_values_go_from_worker_to_worker(app: ApplicationNode, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ready = app.submit(after, gate, 2)
    array = app.submit(np.full, LARGE, ready)
    doubled = [app.submit(scaled, array, 2) for _ in range(4)]
    both = app.submit(operator.add, doubled[0], array).then(np.sum)
    gate.touch()
    assert both.result(PATIENCE_S) == 6 * LARGE
    assert all((each.result(PATIENCE_S) == 4).all() for each in doubled)
    assert (array.result() == 2).all()


_held: list[Any] = []


def hold(array: Any) -> None:
    """Keep an array in the process, so that its memory cannot be used again."""
    _held[:] = [array]


def test_a_worker_may_close_memory_that_was_sent_to_its_own_slave(app: ApplicationNode, cluster: Cluster) -> None:
    before = workers_of(slave_pids(cluster))
    for _ in range(10):
        app.submit(np.ones, LARGE).then(hold).result(PATIENCE_S)
        assert sum(app.map(abs, range(50))) == 1225
    settle(cluster)
    assert workers_of(slave_pids(cluster)) == before


def test_results_stay_where_they_are_until_the_last_task_that_needs_them(app: ApplicationNode, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    array = app.submit(np.arange, LARGE)
    slow = app.submit(lambda values, _: float(values.sum()), array, app.submit(after, gate))
    array.result(PATIENCE_S)
    del array
    for number in range(20):  # whose results would take its place
        app.submit(np.full, LARGE, number).result(PATIENCE_S)
    gate.touch()
    assert slow.result(PATIENCE_S) == LARGE * (LARGE - 1) / 2


def test_functions_and_jobs_and_maps_take_futures(app: ApplicationNode, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    late = app.submit(after, gate, 10)
    held: list[int] = []

    def add(x: int) -> Any:
        return x + late + len(held)  # type: ignore[operator]

    sums = app.start_job(add, [(1,), (2,)])
    batched = app.start_job(operator.add, [(n, late) for n in range(4)], batch=2)
    mapped: Iterator[Any] = app.map(negative, [late, 3, sums.futures[0]], chunksize=2)
    of_jobs = app.submit(total, app.submit(sum, sums), app.submit(sum, batched))
    gate.touch()
    assert sums.results(PATIENCE_S) == [11, 12]
    assert batched.results(PATIENCE_S) == [10, 11, 12, 13]
    assert list(mapped) == [-10, -3, -11]
    assert of_jobs.result(PATIENCE_S) == 23 + 46
    assert app.submit(list, sums).result(PATIENCE_S) == [11, 12]
    assert app.options(retries=1, name="named").submit(abs, late.then(operator.neg)).result(PATIENCE_S) == 10


def test_a_captured_value_is_new_for_each_task(app: ApplicationNode) -> None:
    numbers = app.submit(list, (1, 2))

    def append(number: int) -> Any:
        numbers.append(number)
        return numbers

    job = app.start_job(append, [(n,) for n in range(4)])
    assert job.results(PATIENCE_S) == [[1, 2, n] for n in range(4)]


def test_trees(app: ApplicationNode) -> None:
    words = [app.submit(str, n) for n in range(30)]
    text = "".join(map(str, range(30)))
    assert app.reduce(operator.add, words).result(PATIENCE_S) == text
    assert app.reduce(add_two, [*words[:3], "x"], fan_in=2).result(PATIENCE_S) == "012x"
    assert app.reduce(operator.add, words[:1]).result(PATIENCE_S) == "0"
    assert concurrent_nb.gather([*words[:2], 7]).result(PATIENCE_S) == ["0", "1", 7]
    for items, fan_in in ((list[int](), 8), ([1], 1)):
        with pytest.raises(ConfigurationError):
            app.reduce(add_two, items, fan_in=fan_in)
    with pytest.raises(ConfigurationError, match="at least one future"):
        concurrent_nb.gather([1, 2])


def test_a_long_chain_and_all_to_all(app: ApplicationNode) -> None:
    number = app.submit(int, 0)
    for _ in range(300):
        number = number.then(operator.add, 1)
    assert number.result(PATIENCE_S) == 300
    first = [app.submit(abs, n) for n in range(40)]
    assert [app.submit(total, *first, n).result(PATIENCE_S) for n in range(40)] == [780 + n for n in range(40)]


def test_what_depends_on_a_failure_ends_at_once(app: ApplicationNode, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    failing = app.submit(after, gate).then(lambda _: raise_value_error("too bad"))
    waiting = app.submit(after, tmp_path / "never")
    near = app.submit(total, failing, waiting)
    far = near.then(abs).then(abs)
    items = app.map(abs, [far, 3], chunksize=1, return_exceptions=True)
    gate.touch()
    for future in (near, far):
        error = future.exception(PATIENCE_S)
        assert isinstance(error, DependencyFailed)
        assert f"task {failing.task}, whose result it needs, has failed: ValueError: too bad" in str(error)
        assert isinstance(error.__cause__, ValueError)
        assert error.task == future.task
    assert isinstance(next(items), DependencyFailed)
    assert next(items) == 3
    late = failing.then(abs).exception(PATIENCE_S)  # after the failure is known here
    assert isinstance(late, DependencyFailed)
    assert isinstance(late.__cause__, ValueError)
    assert not waiting.done()
    stopped = app.submit(total, waiting)
    app._client_thread.cancel(waiting.job_id, (waiting.index,))
    error = stopped.exception(PATIENCE_S)
    assert isinstance(error, DependencyFailed)
    assert isinstance(error.__cause__, concurrent.futures.CancelledError)
    assert "was cancelled" in str(error)


def test_a_blocked_task_can_be_cancelled(app: ApplicationNode, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    late = app.submit(after, gate, 1)
    blocked, other = app.submit(abs, late), app.submit(abs, late)
    job = app.start_job(abs, [(blocked,), (late,)], stop_on_error=True)
    assert blocked.cancel()
    eventually(job.done, "the job ends with the failure of its first task")
    gate.touch()
    assert other.result(PATIENCE_S) == 1
    assert isinstance(job.futures[0].exception(), DependencyFailed)
    assert job.futures[1].cancelled()


def test_deaths_of_workers_cost_no_results(app: ApplicationNode, tmp_path: Path) -> None:
    def die_once(array: Any, marker: Path) -> float:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(array.sum())

    array = app.submit(np.ones, LARGE)
    dying = app.submit(die_once, array, tmp_path / "died")
    assert dying.result(PATIENCE_S) == LARGE
    _, pid = app.submit(where_it_runs, 0).result(PATIENCE_S)
    os.kill(pid, signal.SIGKILL)
    assert array.then(np.sum).result(PATIENCE_S) == LARGE
    error = app.submit(os._exit, 1).then(abs).exception(PATIENCE_S)
    assert isinstance(error, DependencyFailed)
    assert isinstance(error.__cause__, PoisonTask)


def test_futures_of_others_are_refused_at_once(app: ApplicationNode, cluster: Cluster) -> None:
    with concurrent_nb.connect(cluster.connection_file) as other:
        foreign = other.submit(abs, -1)
        with pytest.raises(NotPicklable, match=f"another cluster or application .task {foreign.task}.*call its result"):
            app.submit(abs, foreign).result(PATIENCE_S)
        with pytest.raises(NotPicklable, match="another cluster or application"):
            app.start_job(abs, [(foreign,)])
        with pytest.raises(NotPicklable, match="another cluster or application"):
            app.submit(lambda: foreign).result(PATIENCE_S)
        culprit = app.submit(total, [app.submit(abs, 1), threading.Lock()]).exception(PATIENCE_S)
        assert "is a lock" in str(culprit) or ", a lock" in str(culprit)


def test_a_cell_takes_futures(app: ApplicationNode, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    names = {"late": app.submit(after, gate, 10), "job": app.start_job(after, [(gate, n) for n in range(3)])}
    names["both"] = {"late": names["late"], "job": names["job"]}
    run = app.start_cell(task_of_cell("late + sum(job) + both['late'] + len(both['job'])", names).function)
    looped = task_of_cell("late * k", names, for_text="k in range(3)")
    loop = app.start_job(looped.function, looped.calls)
    gate.touch()
    assert run.result(PATIENCE_S) == 26
    assert loop.results(PATIENCE_S) == [0, 10, 20]
    with concurrent_nb.connect(app_file(app)) as other:
        foreign = task_of_cell("x + 1", {"x": other.submit(abs, 1)}).function
        with pytest.raises(NotPicklable, match="another cluster or application"):
            app.start_cell(foreign)


def app_file(app: ApplicationNode) -> Path:
    """Return the connection file of an application's cluster."""
    return connection_file.path_of(app._cluster_name)


def nested_sum(numbers: int) -> Any:
    app = concurrent_nb.application()
    squares = [app.submit(pow, n, 2) for n in range(numbers)]
    return app.reduce(operator.add, squares, fan_in=3).result()


def test_tasks_start_graphs(app: ApplicationNode) -> None:
    assert app.submit(nested_sum, 20).result(PATIENCE_S) == 2470


def test_what_ends_in_this_process_is_sent_along(app: ApplicationNode) -> None:
    """A result that was acknowledged before its dependent came is given by the application."""
    for _ in range(100):
        value = app.submit(abs, -1)
        followers = [value.then(operator.add, n) for n in range(5)]
        assert [each.result(PATIENCE_S) for each in followers] == [1, 2, 3, 4, 5]


# -------------------------------------------------------------------------------------------------------- kept results


def test_a_kept_result_comes_here_when_it_is_asked_for(app: ApplicationNode) -> None:
    kept = app.options(keep=True)
    array = kept.submit(np.ones, LARGE)
    double = kept.submit(scaled, array, 2)
    assert app.submit(np.sum, double).result(PATIENCE_S) == 2 * LARGE
    assert isinstance(double, KeptFuture)
    assert double.done()
    assert double.is_kept
    assert not double.has_come
    assert double.exception() is None
    value = double.result(PATIENCE_S)
    assert (value == 2).all()
    assert double.result() is value
    assert app.submit(np.sum, [array, double]).result(PATIENCE_S) == 3 * LARGE
    small = kept.submit(pow, 2, 10)
    assert asyncio.run(awaited(small)) == 1024
    failing = kept.submit(raise_value_error)
    with pytest.raises(ValueError, match="no"):
        failing.result(PATIENCE_S)
    assert isinstance(failing.then(abs).exception(PATIENCE_S), DependencyFailed)
    assert list(kept.map(abs, [-1, small])) == [1, 1024]
    in_callback: list[BaseException] = []

    def fetch(future: Any) -> None:
        try:
            future.result()
        except RuntimeError as error:
            in_callback.append(error)

    late = kept.submit(time.sleep, 0.05)
    late.add_done_callback(fetch)
    eventually(lambda: in_callback or late.has_come, "the callback was called")
    assert "another thread" in str(in_callback[0])


async def awaited(future: Any) -> Any:
    return await future


def test_a_freed_result_is_gone_when_no_task_needs_it(app: ApplicationNode, cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    array = app.options(keep=True).submit(np.ones, LARGE)
    user = app.submit(lambda values, _: float(values.sum()), array, app.submit(after, gate))
    eventually(array.done, "it is there")
    assert isinstance(array, KeptFuture)
    array.free()
    gate.touch()
    assert user.result(PATIENCE_S) == LARGE
    with pytest.raises(KeptResultLost, match="was freed"):
        array.result()
    error = app.submit(np.sum, array).exception(PATIENCE_S)
    assert isinstance(error, DependencyFailed)
    assert isinstance(error.__cause__, KeptResultLost)
    other = app.options(keep=True, name="kept for nobody").submit(np.ones, LARGE)
    eventually(other.done, "it is there")
    assert "kept for nobody" in names_of_jobs(cluster)
    del other
    eventually(lambda: "kept for nobody" not in names_of_jobs(cluster), "the job is forgotten with its last result")


def names_of_jobs(cluster: Cluster) -> list[str]:
    return [job["name"] for job in cluster.status()["jobs"]]


def test_statistics_and_traces_show_the_graph_by_function(app: ApplicationNode, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    numbers = app.start_job(after, [(gate, n) for n in range(4)])
    sums = app.start_job(total, [tuple(numbers.futures), (numbers.futures[0], numbers.futures[1])], name="sums")
    eventually(lambda: sums.stats.graph, "the master has them")
    gate.touch()
    assert sums.wait(PATIENCE_S)
    assert sums.stats.graph == [("after", "total", 6)]
    assert "after  to  total  6 edges" in str(sums.stats)
    sums.trace(tmp_path / "trace.json")
    written = (tmp_path / "trace.json").read_text()
    assert '"graph":{"after -> total":6}' in written
    assert '"function_needs":"after"' in written
    assert json.loads(written)["otherData"]["graph"] == {"after -> total": 6}


def printed(value: int, limit: int) -> int:
    """Print the value, and return the next one; raise at a limit."""
    sys.stdout.write(f"link {value}\n")
    if value >= limit:
        raise ValueError(f"the chain breaks at {value}")
    return value + 1


def chain(app: ApplicationNode, count: int, function: Any, *args: Any) -> list[Any]:
    """Return the futures of a chain."""
    futures = [app.submit(function, 0, *args)]
    for _ in range(count - 1):
        futures.append(app.submit(function, futures[-1], *args))
    return futures


def test_what_each_link_of_a_chain_prints_and_raises_is_its_own(
    app: ApplicationNode, capsys: pytest.CaptureFixture[str]
) -> None:
    futures = chain(app, 60, printed, 1000)
    assert [future.result(PATIENCE_S) for future in futures] == list(range(1, 61))
    assert capsys.readouterr().out.splitlines() == [f"link {value}" for value in range(60)]
    futures = chain(app, 60, printed, 40)
    with pytest.raises(ValueError, match="breaks at 40"):
        futures[40].result(PATIENCE_S)
    assert [future.result(PATIENCE_S) for future in futures[:40]] == list(range(1, 41))
    for future in futures[41:]:
        with pytest.raises(DependencyFailed, match="breaks at 40"):
            future.result(PATIENCE_S)


def slower(value: int, at: int, seconds: float) -> int:
    """Return the next value, quickly but for one."""
    if value == at:
        time.sleep(seconds)
    return value + 1


def test_a_link_that_is_slow_or_cancelled_does_not_take_those_before_it_along(app: ApplicationNode) -> None:
    chain(app, 20, slower, -1, 0.0)[-1].result(PATIENCE_S)
    futures = chain(app, 60, slower, 30, 0.5)
    assert futures[29].result(PATIENCE_S) == 30
    assert futures[40].cancel()  # it was sent ahead
    with pytest.raises(DependencyFailed):
        futures[41].result(PATIENCE_S)
    with pytest.raises(DependencyFailed):
        futures[-1].result(PATIENCE_S)
    assert futures[39].result(PATIENCE_S) == 40
    assert app.submit(negative, 3).result(PATIENCE_S) == -3


def die_once_at(value: int, at: int, marker: Path) -> int:
    """Return the next value; kill the worker the first time that one comes."""
    if value == at and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value + 1


def test_the_death_of_a_worker_within_a_line_costs_no_link(app: ApplicationNode, tmp_path: Path) -> None:
    chain(app, 20, die_once_at, -1, tmp_path / "marker")[-1].result(PATIENCE_S)
    futures = chain(app, 200, die_once_at, 100, tmp_path / "marker")
    assert futures[-1].result(PATIENCE_S) == 200
    assert [future.result(PATIENCE_S) for future in futures] == list(range(1, 201))


def grown(array: Any) -> Any:
    return array + 1


def test_a_chain_of_large_values(app: ApplicationNode) -> None:
    futures = [app.submit(grown, np.zeros(LARGE))]
    for _ in range(39):
        futures.append(app.submit(grown, futures[-1]))
    assert float(futures[-1].result(PATIENCE_S).sum()) == 40.0 * LARGE
