"""What the standard library documents of executors and futures, held against its own and against ours.

One suite, two executors: `ProcessPoolExecutor`, which shows that the suite asks for nothing special, and an application
of a cluster. Cases follow CPython's `test_concurrent_futures`. What only ours does comes at the end.
"""

import asyncio
import concurrent.futures
import itertools
import logging
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
)
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster
from concurrent_nb.errors import (
    FunctionNotLoadable,
    NotPicklable,
    RemoteError,
    ResultNotLoadable,
    ResultNotPicklable,
)
from tests import leaks, work
from tests.clusters import check_script, eventually
from tests.work import PATIENCE_S

WORKERS = 2
#: enough to keep all workers busy, and whatever an executor hands out ahead
MANY = 8 * WORKERS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    # The standard library's executor pickles calls into a buffer that is still in use when it is collected.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.BytesIO:pytest.PytestUnraisableExceptionWarning"),
]

Make = Callable[[], Executor]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    before = leaks.held()
    with Cluster(workers=WORKERS) as cluster:
        assert cluster.application().submit(pow, 2, 3).result(PATIENCE_S) == 8
        both_at_work(cluster.application())
        yield cluster
    assert leaks.left_since(before) == []


@pytest.fixture(scope="module")
def app(cluster: Cluster) -> ApplicationNode:
    return cluster.application()


@pytest.fixture(scope="module", params=["ProcessPoolExecutor", "ApplicationNode"])
def make(request: pytest.FixtureRequest) -> Make:
    """Return a maker of executors of one kind."""
    if request.param == "ProcessPoolExecutor":
        return lambda: ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork"))
    cluster: Cluster = request.getfixturevalue("cluster")
    assert cluster.connection_file is not None
    path = cluster.connection_file
    return lambda: concurrent_nb.connect(path)


@pytest.fixture(scope="module")
def executor(make: Make) -> Iterator[Executor]:
    """Return an executor that many tests share."""
    before = leaks.held()
    with make() as executor:
        executor.submit(pow, 2, 3).result(PATIENCE_S)
        yield executor
    assert leaks.left_since(before) == []


def both_at_work(executor: Executor) -> None:
    """Return when both workers have answered: from then on no new process comes up."""
    deadline = time.monotonic() + PATIENCE_S
    while len(set(executor.map(work.slow_square, range(100)))) and time.monotonic() < deadline:
        pids = {pid for _, pid in executor.map(work.slow_square, range(100))}
        if len(pids) == WORKERS:
            return
    raise AssertionError("a worker never came up")


class Hold:
    """Tasks that occupy an executor until they are let go."""

    def __init__(self, executor: Executor, folder: Path, count: int = MANY) -> None:
        self.go = folder / "go"
        self.started = [folder / f"started-{number}" for number in range(count)]
        self.futures: list[Future[Any]] = [executor.submit(work.start_and_wait, mark, self.go) for mark in self.started]

    def __enter__(self) -> "Hold":
        work.wait_for(self.started[0])
        return self

    def __exit__(self, *_: object) -> None:
        self.go.touch()
        for future in self.futures:
            if not future.cancelled():
                future.exception(PATIENCE_S)


def has_unfinished(cluster: Cluster, count: int) -> None:
    """Wait until the cluster has so many tasks: cancellations arrive a moment later, and tasks may run before."""

    def unfinished() -> int:
        tasks = cluster.status()["tasks"]
        return int(tasks["waiting"] + tasks["assigned"])

    eventually(lambda: unfinished() == count, f"the cluster has {count} tasks")


# --------------------------------------------------------------------------------------------------------- submitting


def test_submit_gives_a_future_with_the_result(executor: Executor) -> None:
    future = executor.submit(pow, 2, 8)
    assert isinstance(future, Future)
    assert future.result(PATIENCE_S) == 256
    assert future.exception() is None
    assert future.done()
    assert not future.running()
    assert not future.cancelled()


def test_submit_passes_arguments_as_they_are(executor: Executor) -> None:
    assert executor.submit(work.echo, 1, "two", x=[3]).result(PATIENCE_S) == ((1, "two"), {"x": [3]})
    # Names that an implementation may use for itself are free for the task.
    named = executor.submit(work.echo, 1, self=2, fn=3, args=4, kwargs=5, timeout=6)
    assert named.result(PATIENCE_S) == ((1,), {"self": 2, "fn": 3, "args": 4, "kwargs": 5, "timeout": 6})
    assert executor.submit(work.echo).result(PATIENCE_S) == ((), {})


def test_submit_needs_a_function_and_takes_it_by_position_only(executor: Executor) -> None:
    submit: Any = executor.submit
    with pytest.raises(TypeError):
        submit()
    with pytest.raises(TypeError):
        submit(fn=pow, x=1)


def test_callables_of_every_kind_can_be_submitted(executor: Executor) -> None:
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], Any]] = [
        (len, ("abc",), 3),  # a builtin
        (int, ("12",), 12),  # a class
        ("a-b".split, ("-",), ["a", "b"]),  # a method of an object
        (dict.fromkeys, ("ab",), {"a": None, "b": None}),  # a class method
        (Path.as_posix, (Path("x"),), "x"),  # an unbound method
        (work.square, (3,), 9),  # a function
    ]
    futures = [executor.submit(function, *arguments) for function, arguments, _ in calls]
    assert [future.result(PATIENCE_S) for future in futures] == [expected for _, _, expected in calls]


def test_an_argument_is_a_copy(executor: Executor) -> None:
    mine = np.zeros(100_000)
    small = np.zeros(10)
    # A task may change its arguments, and what it changes is its own.
    assert executor.submit(work.add_one, small).result(PATIENCE_S).sum() == 10
    for _ in range(3):
        assert executor.submit(work.add_one, mine).result(PATIENCE_S).sum() == 100_000
    assert mine.sum() == small.sum() == 0


def test_many_threads_may_submit_at_once(executor: Executor) -> None:
    results: dict[int, list[int]] = {}

    def use(number: int) -> None:
        futures = [executor.submit(work.square, number * 100 + i) for i in range(25)]
        mapped = list(executor.map(work.square, range(number * 100 + 25, number * 100 + 50)))
        results[number] = [future.result(PATIENCE_S) for future in futures] + mapped

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert results == {number: [(number * 100 + i) ** 2 for i in range(50)] for number in range(8)}


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 1_048_576, 1_048_577, 20 * 1024 * 1024])
def test_bytes_of_any_size_go_and_come(executor: Executor, size: int) -> None:
    assert executor.submit(len, b"a" * size).result(PATIENCE_S) == size
    assert executor.submit(work.make_bytes, size).result(PATIENCE_S) == b"r" * size


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.arange(10), id="small"),
        pytest.param(np.arange(2_000_000, dtype="f8"), id="16 MB"),
        pytest.param(np.arange(1_000_000).reshape(1000, 1000).T, id="Fortran order"),
        pytest.param(np.arange(1_000_000)[::3], id="not contiguous"),
        pytest.param(np.zeros((0, 3)), id="empty"),
        pytest.param(np.array(5.0), id="without dimensions"),
        pytest.param(np.array([("a", 1)], dtype=[("name", "U8"), ("n", "i4")]), id="structured"),
        pytest.param(np.array([{"a": 1}, None], dtype=object), id="objects"),
    ],
)
def test_arrays_go_and_come(executor: Executor, array: Any) -> None:
    ((back,), _) = executor.submit(work.echo, array).result(PATIENCE_S)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_results_are_arrays_that_may_be_changed(executor: Executor) -> None:
    for size in (10, 1_000_000):
        array = executor.submit(np.zeros, size).result(PATIENCE_S)
        array += 1
        assert array.sum() == size


# ---------------------------------------------------------------------------------------------------------------- map


def test_map_gives_results_in_order(executor: Executor) -> None:
    assert list(executor.map(pow, range(50), range(50))) == list(map(pow, range(50), range(50)))


@pytest.mark.parametrize("chunksize", [1, 3, 7, 50, 1000])
def test_map_gives_the_same_whatever_the_chunks(executor: Executor, chunksize: int) -> None:
    assert list(executor.map(pow, range(50), range(50), chunksize=chunksize)) == list(map(pow, range(50), range(50)))


@pytest.mark.parametrize("chunksize", [0, -1])
def test_map_refuses_chunks_of_nothing(executor: Executor, chunksize: int) -> None:
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(work.square, range(3), chunksize=chunksize)


def test_map_ends_with_the_shortest_iterable(executor: Executor) -> None:
    assert list(executor.map(pow, [2, 3, 4], itertools.repeat(2))) == [4, 9, 16]
    assert list(executor.map(pow, [2, 3, 4], [1])) == [2]
    assert list(executor.map(work.square, [])) == []
    assert list(executor.map(work.square)) == []


@pytest.mark.parametrize("chunksize", [1, 2])
def test_map_raises_where_the_failed_result_would_be(executor: Executor, chunksize: int) -> None:
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5], chunksize=chunksize)
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_map_takes_its_input_at_once_and_starts_although_nobody_reads(executor: Executor, tmp_path: Path) -> None:
    taken: list[int] = []

    def paths() -> Iterator[Path]:
        for number in range(5):
            taken.append(number)
            yield tmp_path / str(number)

    results = executor.map(work.touch, paths())
    assert taken == [0, 1, 2, 3, 4]
    work.wait_for(tmp_path / "4")
    assert list(results) == ["0", "1", "2", "3", "4"]


def test_map_raises_at_once_what_its_input_raises(executor: Executor) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("no more input")

    with pytest.raises(KeyError, match="no more input"):
        executor.map(work.square, broken())


def test_map_hands_out_what_is_done_and_raises_at_the_timeout(executor: Executor, tmp_path: Path) -> None:
    ready = [tmp_path / "a", tmp_path / "b"]
    for path in ready:
        path.touch()
    for timeout_s in (1, 10, 60):  # a busy machine may not get so far in a second
        never = tmp_path / f"not in {timeout_s} s"
        results = executor.map(work.wait_for, [*ready, never], timeout=timeout_s)
        try:
            done = [next(results), next(results)]
        except TimeoutError:
            never.touch()
            continue
        assert done == ready
        with pytest.raises(TimeoutError):
            next(results)
        never.touch()
        return
    pytest.fail("no two of three items were done in a minute")


def test_map_with_a_timeout_of_nothing_raises_if_nothing_is_there(executor: Executor, tmp_path: Path) -> None:
    results = executor.map(work.wait_for, [tmp_path / "go"], timeout=0)
    with pytest.raises(TimeoutError):
        next(results)
    (tmp_path / "go").touch()


def test_map_cancels_what_nobody_will_read(executor: Executor, tmp_path: Path) -> None:
    here, go = tmp_path, tmp_path / "go"
    marks = [tmp_path / f"started-{number}" for number in range(MANY)]
    results = executor.map(work.start_and_wait, marks, [here] + [go] * (MANY - 1))
    assert next(results) == int(marks[0].read_text())
    results.close()  # type: ignore[attr-defined]
    go.touch()
    assert executor.submit(work.square, 4).result(PATIENCE_S) == 16
    assert not marks[-1].exists()


def test_map_keeps_no_result_alive(executor: Executor) -> None:
    import weakref

    for array in executor.map(np.zeros, [10] * 10):
        reference = weakref.ref(array)
        del array
        deadline = time.monotonic() + PATIENCE_S
        while reference() is not None:  # the thread that brought it may be about to drop it
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_an_argument_is_not_kept_alive_after_its_task(executor: Executor) -> None:
    import weakref

    argument = np.zeros(10)
    reference = weakref.ref(argument)
    executor.submit(len, argument).result(PATIENCE_S)
    del argument
    executor.submit(len, ()).result(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while reference() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


# ---------------------------------------------------------------------------------------------------- waiting for many


def test_as_completed_gives_each_future_once_as_it_ends(executor: Executor, tmp_path: Path) -> None:
    go = tmp_path / "go"
    late: Future[Any] = executor.submit(work.wait_for, go)
    early: list[Future[Any]] = [executor.submit(work.square, n) for n in range(3)]
    order = as_completed([late, *early, early[0]], timeout=PATIENCE_S)
    first = [next(order) for _ in early]
    assert set(first) == set(early)
    go.touch()
    assert list(order) == [late]


def test_as_completed_raises_at_the_timeout_and_says_how_many_are_left(executor: Executor, tmp_path: Path) -> None:
    done: Future[Any] = executor.submit(work.square, 2)
    done.result(PATIENCE_S)
    late: Future[Any] = executor.submit(work.wait_for, tmp_path / "go")
    order = as_completed([done, late], timeout=0.05)
    assert next(order) == done
    with pytest.raises(TimeoutError, match=r"1 \(of 2\) futures unfinished"):
        next(order)
    (tmp_path / "go").touch()


def test_as_completed_gives_cancelled_futures_too(executor: Executor, tmp_path: Path) -> None:
    with Hold(executor, tmp_path) as hold:
        last = hold.futures[-1]
        waiting = as_completed([last, hold.futures[0]], timeout=PATIENCE_S)
        assert last.cancel()
        hold.go.touch()
        assert set(waiting) == {last, hold.futures[0]}
        assert last.cancelled()


def test_wait_until_the_first_has_ended(executor: Executor, tmp_path: Path) -> None:
    late: Future[Any] = executor.submit(work.wait_for, tmp_path / "go")
    early: Future[Any] = executor.submit(work.square, 6)
    done, left = concurrent.futures.wait([late, early], timeout=PATIENCE_S, return_when=FIRST_COMPLETED)
    assert (done, left) == ({early}, {late})
    (tmp_path / "go").touch()


def test_wait_until_the_first_exception(executor: Executor, tmp_path: Path) -> None:
    fine: Future[Any] = executor.submit(work.square, 6)
    fine.result(PATIENCE_S)
    failing: Future[Any] = executor.submit(work.wait_and_fail, tmp_path / "fail")
    late: Future[Any] = executor.submit(work.wait_for, tmp_path / "go")
    (tmp_path / "fail").touch()
    futures = [fine, failing, late]
    done, left = concurrent.futures.wait(futures, timeout=PATIENCE_S, return_when=FIRST_EXCEPTION)
    assert (done, left) == ({fine, failing}, {late})
    (tmp_path / "go").touch()


def test_wait_until_all_have_ended_in_whatever_way(executor: Executor, tmp_path: Path) -> None:
    with Hold(executor, tmp_path) as hold:
        failing: Future[Any] = executor.submit(divmod, 1, 0)
        hold.futures[-1].cancel()
        waiter = threading.Timer(0.05, hold.go.touch)
        waiter.start()
        done, left = concurrent.futures.wait([*hold.futures, failing, failing], PATIENCE_S, return_when=ALL_COMPLETED)
        waiter.join()
    assert (done, left) == ({*hold.futures, failing}, set())


def test_wait_gives_what_has_ended_by_the_timeout(executor: Executor, tmp_path: Path) -> None:
    fine: Future[Any] = executor.submit(work.square, 6)
    fine.result(PATIENCE_S)
    late: Future[Any] = executor.submit(work.wait_for, tmp_path / "go")
    done, left = concurrent.futures.wait([fine, late], timeout=0.05)
    assert (done, left) == ({fine}, {late})
    (tmp_path / "go").touch()


def test_futures_of_two_executors_can_be_waited_for_together(executor: Executor) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        futures = [executor.submit(work.square, 6), other.submit(work.square, 7)]
        done, left = concurrent.futures.wait(futures, timeout=PATIENCE_S)
        assert {future.result() for future in done} == {36, 49}
        assert not left


# ------------------------------------------------------------------------------------------------------------ futures


def test_result_and_exception_raise_at_the_timeout_and_the_task_goes_on(executor: Executor, tmp_path: Path) -> None:
    future = executor.submit(work.wait_for, tmp_path / "go")
    with pytest.raises(TimeoutError):
        future.result(timeout=0)
    with pytest.raises(TimeoutError):
        future.result(timeout=0.05)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0.05)
    assert not future.done()
    (tmp_path / "go").touch()
    assert future.result(PATIENCE_S) == tmp_path / "go"


def test_a_task_that_runs_says_so_and_cannot_be_cancelled(executor: Executor, tmp_path: Path) -> None:
    with Hold(executor, tmp_path, count=1) as hold:
        (future,) = hold.futures
        deadline = time.monotonic() + PATIENCE_S
        while not future.running():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert future.cancel() is False
        assert future.running()
        assert not future.done()
    assert future.result() == int(hold.started[0].read_text())
    assert not future.running()
    assert future.cancel() is False


def test_a_pending_task_can_be_cancelled_and_never_runs(
    executor: Executor, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with Hold(executor, tmp_path) as hold:
        future, mark = hold.futures[-1], hold.started[-1]
        assert not future.running()
        assert future.cancel() is True
        assert future.cancelled()
        assert future.done()
        assert future.cancel() is True
        with pytest.raises(CancelledError):
            future.result(0)
        with pytest.raises(CancelledError):
            future.exception(0)
        if isinstance(executor, ApplicationNode):
            has_unfinished(request.getfixturevalue("cluster"), MANY - 1)
    assert not mark.exists()
    assert executor.submit(work.square, 5).result(PATIENCE_S) == 25
    assert not mark.exists()


def test_who_waits_for_a_future_hears_of_its_cancellation(executor: Executor, tmp_path: Path) -> None:
    raised: list[BaseException] = []
    with Hold(executor, tmp_path) as hold:
        future = hold.futures[-1]

        def wait() -> None:
            try:
                future.result(PATIENCE_S)
            except CancelledError as error:
                raised.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        future.cancel()
        thread.join(PATIENCE_S)
    assert len(raised) == 1


def test_callbacks_are_called_in_order_with_the_future_each_once(executor: Executor, tmp_path: Path) -> None:
    future = executor.submit(work.wait_for, tmp_path / "go")
    calls: list[tuple[int, Any]] = []
    over = threading.Event()
    for number in range(5):
        future.add_done_callback(lambda ended, number=number: calls.append((number, ended)))  # type: ignore[misc]
    future.add_done_callback(lambda ended: over.set())
    (tmp_path / "go").touch()
    assert over.wait(PATIENCE_S)
    assert calls == [(number, future) for number in range(5)]
    # One that comes late is called at once.
    future.add_done_callback(lambda ended: calls.append((5, ended)))
    assert calls[5:] == [(5, future)]


def test_callbacks_see_exceptions_and_cancellations(executor: Executor, tmp_path: Path) -> None:
    seen: list[object] = []
    failing = executor.submit(divmod, 1, 0)
    called = threading.Event()
    failing.add_done_callback(lambda future: (seen.append(type(future.exception())), called.set()))  # type: ignore[func-returns-value]
    assert called.wait(PATIENCE_S)
    with Hold(executor, tmp_path) as hold:
        hold.futures[-1].add_done_callback(lambda future: seen.append(future.cancelled()))
        hold.futures[-1].cancel()
    assert seen == [ZeroDivisionError, True]


def test_a_callback_that_raises_is_logged_and_breaks_nothing(
    executor: Executor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    future = executor.submit(work.wait_for, tmp_path / "go")
    called = threading.Event()

    def broken(_: object) -> None:
        raise RuntimeError("this callback is broken")

    future.add_done_callback(broken)
    future.add_done_callback(lambda _: called.set())
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        (tmp_path / "go").touch()
        assert called.wait(PATIENCE_S)
    assert "this callback is broken" in caplog.text
    assert executor.submit(work.square, 3).result(PATIENCE_S) == 9


def test_a_callback_may_submit(executor: Executor) -> None:
    results: list[int] = []
    over = threading.Event()

    def go_on(future: "Future[int]") -> None:
        results.append(future.result())
        if len(results) == 20:
            over.set()
        else:
            executor.submit(work.square, len(results)).add_done_callback(go_on)

    executor.submit(work.square, 0).add_done_callback(go_on)
    assert over.wait(PATIENCE_S)
    assert results == [n * n for n in range(20)]


# --------------------------------------------------------------------------------------------------------- exceptions


def test_an_exception_keeps_its_type_arguments_attributes_and_notes(executor: Executor) -> None:
    error = executor.submit(work.raise_trouble).exception(PATIENCE_S)
    assert type(error) is work.Trouble
    assert error.args == ("it is broken", 7)
    assert error.code == 7
    assert error.details == {"code": 7}
    assert error.__notes__ == ["and this is a note"]


def test_an_exception_has_the_remote_traceback_as_its_cause(executor: Executor) -> None:
    future = executor.submit(work.raise_trouble)
    with pytest.raises(work.Trouble) as caught:
        future.result(PATIENCE_S)
    remote = str(caught.value.__cause__)
    assert "Traceback (most recent call last)" in remote
    assert "in raise_trouble" in remote
    assert "raise error" in remote
    assert "Trouble: ('it is broken', 7)" in remote


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, BaseException])
def test_exceptions_that_end_programs_reach_the_caller_and_end_nothing_else(
    executor: Executor, kind: type[BaseException]
) -> None:
    error = executor.submit(work.raise_kind, kind, 3).exception(PATIENCE_S)
    assert type(error) is kind
    assert error.args == (3,)
    assert executor.submit(work.square, 3).result(PATIENCE_S) == 9


def test_a_group_of_exceptions_arrives_whole(executor: Executor) -> None:
    group = ExceptionGroup("two", [ValueError(1), ExceptionGroup("inner", [KeyError("k")])])
    error = executor.submit(work.raise_this, group).exception(PATIENCE_S)
    assert isinstance(error, ExceptionGroup)
    assert repr(error) == repr(group)


def test_sys_exit_in_a_task_ends_the_task_alone(executor: Executor) -> None:
    with pytest.raises(SystemExit) as caught:
        executor.submit(sys.exit, 3).result(PATIENCE_S)
    assert caught.value.code == 3
    assert list(executor.map(work.square, range(4))) == [0, 1, 4, 9]


def test_what_cannot_be_pickled_ends_its_future_and_no_other(executor: Executor) -> None:
    refused: list[Future[Any]] = [
        executor.submit(work.echo, threading.Lock()),
        executor.submit(work.echo, work.CannotGo()),
        executor.submit(work.make_cannot_go),
        executor.submit(work.make_generator),
        executor.submit(work.raise_unpicklable),
    ]
    fine = executor.submit(work.square, 3)
    for future in refused:
        assert isinstance(future.exception(PATIENCE_S), Exception)
        assert future.done()
    assert fine.result(PATIENCE_S) == 9


# ---------------------------------------------------------------------------------------------------------- the end


def test_after_shutdown_nothing_is_taken(make: Make) -> None:
    executor = make()
    future = executor.submit(pow, 2, 5)
    executor.shutdown()
    assert future.done()
    assert future.result() == 32
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(pow, 2, 5)
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.map(work.square, [1])
    executor.shutdown()
    executor.shutdown(wait=False, cancel_futures=True)


def test_shutdown_of_an_executor_that_did_nothing(make: Make) -> None:
    make().shutdown()
    with make():
        pass


def test_the_end_of_a_with_waits_for_what_was_submitted(make: Make) -> None:
    with make() as executor:
        futures = [executor.submit(time.sleep, 0.02) for _ in range(MANY)]
        results = executor.map(work.square, range(10))
    assert all(future.done() for future in futures)
    assert list(results) == [n * n for n in range(10)]
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(pow, 2, 5)


def test_the_end_of_a_with_waits_when_it_raises_too(make: Make) -> None:
    futures: list[Future[None]] = []

    def use(executor: Executor) -> None:
        with executor:
            futures.extend(executor.submit(time.sleep, 0.02) for _ in range(MANY))
            raise KeyError("mine")

    with pytest.raises(KeyError):
        use(make())
    assert all(future.done() for future in futures)


def test_shutdown_without_waiting_lets_everything_finish(make: Make, tmp_path: Path) -> None:
    executor = make()
    futures = [executor.submit(work.start_and_wait, tmp_path / f"{n}", tmp_path / "go") for n in range(MANY)]
    executor.shutdown(wait=False)
    assert not any(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(pow, 2, 5)
    (tmp_path / "go").touch()
    assert all(future.result(PATIENCE_S) for future in futures)
    executor.shutdown()


def test_shutdown_may_cancel_what_has_not_started(make: Make, tmp_path: Path) -> None:
    executor = make()
    hold = Hold(executor, tmp_path)
    with hold:
        deadline = time.monotonic() + PATIENCE_S
        while not hold.futures[0].running():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        executor.shutdown(wait=False, cancel_futures=True)
        while not hold.futures[-1].done():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert not hold.futures[0].done()
    executor.shutdown()
    assert all(future.done() for future in hold.futures)
    assert hold.futures[-1].cancelled()
    assert not hold.started[-1].exists()
    # Whatever ran was let finish.
    assert hold.futures[0].result() == int(hold.started[0].read_text())


PROGRAM = """
    import sys, time
    from concurrent.futures import ProcessPoolExecutor
    import concurrent_nb

    def late(n):
        time.sleep(0.2)
        return n

    if __name__ == "__main__":
        executor = {executor}
        executor.submit(late, 1).add_done_callback(lambda future: print("done", future.result(), flush=True))
        print("end of main", flush=True)
"""


@pytest.mark.parametrize("kind", ["ProcessPoolExecutor", "ApplicationNode"])
def test_the_end_of_a_program_waits_for_what_was_submitted(kind: str, cluster: Cluster) -> None:
    makers = {
        "ProcessPoolExecutor": "ProcessPoolExecutor(1)",
        "ApplicationNode": f"concurrent_nb.connect({str(cluster.connection_file)!r})",
    }
    program = textwrap.dedent(PROGRAM).format(executor=makers[kind])
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.stdout.splitlines() == ["end of main", "done 1"]
    assert ended.returncode == 0, ended.stderr


def test_asyncio_takes_it_as_an_executor(executor: Executor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*[loop.run_in_executor(executor, work.square, n) for n in range(10)])

    assert asyncio.run(main()) == [n * n for n in range(10)]


# ------------------------------------------------------------------------------------------------------- only ours


def test_map_of_ours_decides_on_chunks_if_nobody_else_does(app: ApplicationNode) -> None:
    assert list(app.map(work.square, range(50), chunksize=None)) == [n * n for n in range(50)]


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_with_a_buffer_reads_an_endless_input_only_so_far_ahead(app: ApplicationNode, chunksize: int) -> None:
    taken = itertools.count()
    counted: list[int] = []

    def endless() -> Iterator[int]:
        for number in taken:
            counted.append(number)
            yield number

    results = app.map(work.square, endless(), buffersize=4, chunksize=chunksize)
    assert len(counted) == 4 * chunksize
    assert list(itertools.islice(results, 20)) == [n * n for n in range(20)]
    assert len(counted) <= 20 + 5 * chunksize
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("buffersize", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), ("4", TypeError)]
)
def test_map_refuses_a_buffer_that_makes_no_sense(
    app: ApplicationNode, buffersize: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="buffersize must be"):
        app.map(work.square, range(3), buffersize=buffersize)


def test_lambdas_closures_and_local_classes_travel(app: ApplicationNode) -> None:
    factor = 3

    class Local:
        def __init__(self, value: int) -> None:
            self.value = value

        def tripled(self) -> int:
            return self.value * factor

    assert app.submit(lambda x: x * factor, 5).result(PATIENCE_S) == 15
    assert list(app.map(lambda x: x + factor, range(3))) == [3, 4, 5]
    assert app.submit(Local(5).tripled).result(PATIENCE_S) == 15
    back = app.submit(lambda: Local(8)).result(PATIENCE_S)
    assert isinstance(back, Local)
    assert back.tripled() == 24
    factor = 4  # a closure is what it is when it is submitted
    assert app.submit(lambda x: x * factor, 5).result(PATIENCE_S) == 20
    assert app.submit(lambda give: give(2), lambda x: x + 1).result(PATIENCE_S) == 3


MAIN = """
    import dataclasses, enum, sys
    import concurrent_nb

    FACTOR = 7
    calls = []

    class Color(enum.Enum):
        RED = 1

    @dataclasses.dataclass
    class Point:
        x: int
        def scaled(self):
            return Point(self.x * FACTOR)

    class Mine(Exception):
        pass

    def scale(point):
        calls.append(point)
        return point.scaled(), Color.RED, len(calls)

    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    def fail():
        raise Mine("of main")

    with concurrent_nb.connect(sys.argv[1]) as app:
        point, color, count = app.submit(scale, Point(6)).result(60)
        assert type(point) is Point and point == Point(42), point
        assert color is Color.RED
        assert count == 1 and calls == []
        FACTOR = 8
        assert app.submit(scale, Point(6)).result(60)[0] == Point(48)
        assert app.submit(fib, 10).result(60) == 55
        error = app.submit(fail).exception(60)
        assert type(error) is Mine and error.args == ("of main",)
        assert "in fail" in str(error.__cause__)
        print("fine")
"""


def test_functions_and_classes_of_main_travel_and_come_back_as_what_they_were(cluster: Cluster, tmp_path: Path) -> None:
    check_script(MAIN, tmp_path, cluster)


def test_what_cannot_be_pickled_is_refused_by_name(app: ApplicationNode) -> None:
    argument = app.submit(work.echo, threading.Lock()).exception(PATIENCE_S)
    assert isinstance(argument, NotPicklable)
    assert "echo" in str(argument)
    assert "lock" in str(argument)

    result = app.submit(work.make_cannot_go).exception(PATIENCE_S)
    assert isinstance(result, ResultNotPicklable)
    assert "CannotGo" in str(result)
    assert "this one does not travel" in str(result)

    lock = threading.Lock()
    function = app.submit(lambda: lock).exception(PATIENCE_S)
    assert isinstance(function, NotPicklable)
    assert "lock" in str(function)
    with pytest.raises(NotPicklable):
        next(app.map(lambda x: lock, range(3)))
    mixed: list[Any] = [1, threading.Lock(), 3]
    with pytest.raises(NotPicklable):
        list(app.map(work.square, mixed))


def test_an_exception_that_cannot_travel_is_told_in_words(app: ApplicationNode) -> None:
    error = app.submit(work.raise_unpicklable).exception(PATIENCE_S)
    assert isinstance(error, RemoteError)
    assert error.type_name == "tests.work.Unpicklable"
    assert error.type_name in str(error)
    assert "in raise_unpicklable" in str(error.__cause__)
    assert error.task
    assert error.slave
    assert error.worker


def test_an_exception_with_an_init_of_its_own_arrives_as_itself(app: ApplicationNode) -> None:
    error = app.submit(work.raise_unloadable).exception(PATIENCE_S)
    assert type(error) is work.Unloadable
    assert "in raise_unloadable" in str(error.__cause__)


def test_a_result_whose_pickle_cannot_be_opened_ends_its_future(app: ApplicationNode) -> None:
    error = app.submit(work.make_grenade).exception(PATIENCE_S)
    assert isinstance(error, ResultNotLoadable)
    assert "RuntimeError: opened" in str(error)
    assert app.submit(work.square, 3).result(PATIENCE_S) == 9


def test_an_argument_whose_pickle_cannot_be_opened_ends_its_future(app: ApplicationNode) -> None:
    error = app.submit(work.echo, work.Grenade()).exception(PATIENCE_S)
    assert isinstance(error, FunctionNotLoadable)
    assert "RuntimeError: opened" in str(error)
    assert app.submit(work.square, 3).result(PATIENCE_S) == 9


def test_a_future_tells_who_ran_it(app: ApplicationNode, cluster: Cluster) -> None:
    future = app.submit(work.pid_of_worker)
    assert future.result(PATIENCE_S) == future.worker
    assert future.slave == cluster.status()["slaves"][0]["name"]
    assert future.attempt == 1
    assert future.elapsed_s > 0


def test_futures_can_be_awaited(app: ApplicationNode) -> None:
    async def main() -> tuple[int, list[int], object]:
        one = await app.submit(work.square, 3)
        many = await asyncio.gather(*[app.submit(work.square, n) for n in range(500)])
        (error,) = await asyncio.gather(app.submit(divmod, 1, 0), return_exceptions=True)
        return one, many, error

    one, many, error = asyncio.run(main())
    assert one == 9
    assert many == [n * n for n in range(500)]
    assert isinstance(error, ZeroDivisionError)


def test_cancelling_who_awaits_a_task_that_waits_cancels_the_task(
    app: ApplicationNode, cluster: Cluster, tmp_path: Path
) -> None:
    async def main() -> "Future[str]":
        future = app.submit(work.touch, tmp_path / "ran")

        async def wait() -> str:
            return str(await future)

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return future

    with Hold(app, tmp_path):
        future = asyncio.run(main())
        assert future.cancelled()
        has_unfinished(cluster, MANY)
    app.submit(work.square, 3).result(PATIENCE_S)
    assert not (tmp_path / "ran").exists()


def test_a_timeout_of_who_awaits_leaves_others_alone(app: ApplicationNode, tmp_path: Path) -> None:
    async def main() -> int:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(app.submit(work.wait_for, tmp_path / "go"), 0.1)
        return int(await app.submit(work.square, 4))

    assert asyncio.run(main()) == 16
    (tmp_path / "go").touch()


def test_the_stop_button_at_any_moment_of_a_submit_breaks_nothing(cluster: Cluster) -> None:
    command = [sys.executable, "-m", "tests.interrupted", str(cluster.connection_file), "submit"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (ended.stdout, ended.returncode) == ("fine\n", 0), ended.stderr


def test_an_application_cannot_be_used_after_a_fork(app: ApplicationNode) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:  # the child: report what happened, and leave without running anything of pytest's
        answer = b"it was taken"
        try:
            app.submit(pow, 2, 3)
        except RuntimeError as error:
            answer = str(error).encode()
        finally:
            os.write(write, answer)
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    assert b"before a fork" in answer
    assert b"make a new one" in answer
    assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
