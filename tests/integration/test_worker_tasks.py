"""What workers run, and what becomes of everything that can go wrong in a task."""

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from concurrent_nb.outcome import Hit, Status
from concurrent_nb.wire.messages import ErrorReport, Needs
from concurrent_nb.workers.slave_side.launchers import environment
from tests.integration import pool_driver
from tests.integration.pool_driver import Driver

MIB = 1024 * 1024


kind = pool_driver.kinds("fork_server", "spawn")
driver, single = pool_driver.driver, pool_driver.single


@pytest.fixture
def one() -> Iterator[Driver]:
    """Give a pool of one worker, for what does not depend on how workers are started."""
    with Driver("fork_server", slots=1) as driver:
        yield driver


def report_of(value: object) -> ErrorReport:
    assert isinstance(value, ErrorReport)
    return value


# -------------------------------------------------------------------------------------------------------------- it runs


def test_a_task_runs_in_another_process(driver: Driver) -> None:
    end = driver.run(lambda x, y: (x + y, __import__("os").getpid()), 1, 2)
    assert end.status == Status.OK
    assert end.value[0] == 3
    assert end.value[1] == end.worker != os.getpid()
    assert end.elapsed_s > 0


def test_many_short_tasks_run_in_order_of_their_indexes(driver: Driver) -> None:
    assert [end.value for end in driver.map(lambda x: x * x, [(n,) for n in range(5000)])] == [
        n * n for n in range(5000)
    ]


def test_both_workers_work(driver: Driver) -> None:
    def pid() -> int:
        import os

        time.sleep(0.05)
        return os.getpid()

    assert len({end.value for end in driver.map(pid, [()] * 10)}) == 2


def test_a_function_is_loaded_once_and_dropped(single: Driver) -> None:
    def count(calls: list[int] = []) -> int:  # noqa: B006  (the default is the point: it lives as long as the function)
        calls.append(1)
        return len(calls)

    digest = single.add(count)
    refs = single.assign(digest, [()] * 3)
    single.wait(refs)
    assert [single.ended[ref].value for ref in refs] == [1, 2, 3]
    single.pool.drop_functions([digest])
    single.add(count)
    assert single.run(count).value == 1


def test_more_functions_than_a_worker_keeps(single: Driver) -> None:
    for turn in range(2):
        for number in range(150):
            assert single.run(eval(f"lambda: {number}")).value == number, turn


def test_a_hit_is_reported_as_one(driver: Driver) -> None:
    end = driver.run(Hit, 42)
    assert (end.status, end.value) == (Status.HIT, 42)


def test_arrays_travel_both_ways_and_a_task_may_change_its_own(driver: Driver) -> None:
    array = np.arange(300_000)

    def double(given: Any) -> Any:
        return given * 2

    def change(given: Any) -> Any:
        given *= 2
        return given

    result = driver.run(double, array).value
    np.testing.assert_array_equal(result, array * 2)
    result[0] = 1
    for _ in range(2):
        np.testing.assert_array_equal(driver.run(change, array).value, array * 2)


def test_large_arguments_and_results_both_ways_at_once(driver: Driver) -> None:
    # The worker sends 64 MiB while the slave sends it 64 MiB: neither may wait for the other.
    data = bytes(64 * MIB)
    refs = driver.assign(driver.add(lambda data: (data, len(data))), [(data,)] * 3)
    driver.wait(refs)
    for ref in refs:
        assert driver.ended[ref].value[1] == len(data)
        assert driver.ended[ref].value[0] == data


@pytest.mark.parametrize("needs", [None, Needs(kind="thread")], ids=["process", "thread"])
def test_a_large_result_before_a_slow_task_is_taken_while_that_runs(single: Driver, needs: Needs | None) -> None:
    def answer(kind: str) -> bytes:
        import time

        time.sleep(0.5 if kind == "slow" else 0)
        return bytes(MIB if kind == "large" else 1)

    # The worker's first result that takes shared memory, right after one that was sent
    function = single.add(answer)
    single.assign(function, [("short",)], needs=needs)
    single.until(lambda: not single.pool.unfinished)
    refs = single.assign(function, [(kind,) for kind in ("short", "large", "slow", "large")], needs=needs)
    single.until(lambda: not single.pool.unfinished)
    assert [single.ended[ref].status for ref in refs] == [Status.OK] * 4
    assert [len(single.ended[ref].value) for ref in refs] == [1, MIB, 1, MIB]


def test_a_result_is_not_held_while_the_last_task_runs(
    one: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concurrent_nb.workers.slave_side.pool.SLOW_S", math.inf)  # the slave does not look for it

    def run(duration_s: float, gate: str) -> None:
        time.sleep(duration_s)
        while gate and not os.path.exists(gate):
            time.sleep(0.01)

    gate = tmp_path / "gate"
    first, second, last = refs = one.assign(one.add(run), [(0.002, ""), (0.01, ""), (0.0, str(gate))])
    one.wait([first, second])
    assert last not in one.ended
    gate.touch()
    one.wait(refs)


def test_what_a_task_changes_of_its_functions_buffers_is_its_own(single: Driver) -> None:
    import hashlib

    import cloudpickle

    array = np.zeros(100_000)
    buffers: list[Any] = []

    def write() -> float:
        array[0] += 1
        return float(array[0])

    body = cloudpickle.dumps(write, 5, buffer_callback=lambda buffer: buffers.append(buffer.raw()))
    assert buffers
    digest = hashlib.sha256(body).digest()
    single.pool.add_function(digest, body, buffers)
    refs = single.assign(digest, [()] * 3)
    single.wait(refs)
    assert [single.ended[ref].value for ref in refs] == [1.0] * 3


def test_a_task_can_fork_and_has_no_threads_beside_it(driver: Driver) -> None:
    def use_multiprocessing() -> tuple[int, int]:
        import multiprocessing
        import threading

        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.apply(abs, (-3,)), threading.active_count()

    threads = driver.run(__import__("threading").active_count).value
    assert threads == 1
    assert driver.run(use_multiprocessing).value[0] == 3


def test_workers_share_the_cores_out_among_their_libraries() -> None:
    env = environment(4, 8, {"MKL_NUM_THREADS": "5"})
    assert env["MKL_NUM_THREADS"] == "5"
    assert env["OPENBLAS_NUM_THREADS"] == env["OMP_NUM_THREADS"] == "2"
    env = environment(4, 8, {"OMP_NUM_THREADS": "5"})
    assert env["OMP_NUM_THREADS"] == "5"
    assert "OPENBLAS_NUM_THREADS" not in env  # it takes what OMP_NUM_THREADS says
    assert env["NUMBA_NUM_THREADS"] == "2"
    assert environment(4, 1, {})["NUMBA_NUM_THREADS"] == "1"


def test_a_worker_looks_like_a_fresh_interpreter(driver: Driver) -> None:
    def look() -> dict[str, Any]:
        import os

        return {
            "main": sorted(name for name in vars(sys.modules["__main__"]) if not name.startswith("__")),
            "argv": sys.argv,
            "stdin": sys.stdin.read(),
            "session": os.getsid(0) == os.getpid(),
            "heavy": sorted({"numpy", "tornado", "zmq", "asyncio", "multiprocessing"} & set(sys.modules)),
            "sigterm": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
            "sigchld": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
            "fds": len(os.listdir("/proc/self/fd")),
        }

    seen = driver.run(look).value
    fds = seen.pop("fds")
    assert seen == {
        "main": [],
        "argv": [""],
        "stdin": "",
        "session": True,
        "heavy": [],
        "sigterm": True,
        "sigchld": True,
    }
    assert fds <= 13


# --------------------------------------------------------------------------------------------------------------- errors


class Unpicklable(Exception):
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("no")


class Silent(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError("hidden")

    __repr__ = __str__


class Demanding(Exception):
    """Cannot be made of its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("needs two")


class Base(BaseException):
    """Is no Exception."""


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "type_name", "travels"),
    [
        (ValueError("bad"), "ValueError", True),
        (SystemExit(3), "SystemExit", True),
        (KeyboardInterrupt(), "KeyboardInterrupt", True),
        (GeneratorExit(), "GeneratorExit", True),
        (Base("base"), "Base", True),
        (Demanding(1, 2), "Demanding", True),
        (Unpicklable(), "Unpicklable", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_a_task_raises_is_its_error(one: Driver, error: BaseException, type_name: str, travels: bool) -> None:
    kind = type(error)
    args = error.args if kind is not Demanding else (1, 2)
    end = one.run(lambda: raise_(kind(*args)))
    assert end.status == Status.ERROR
    report = report_of(end.value)
    assert report.type_name.rpartition(".")[2] == type_name
    assert bool(report.exception) == travels
    # and the worker lives on
    assert one.run(os.getpid).value == end.worker


def test_exceptions_that_do_not_travel_are_told_as_text(one: Driver) -> None:
    end = report_of(one.run(lambda: raise_(Unpicklable("sorry"))).value)
    assert (end.message, end.exception) == ("sorry", b"")
    end = report_of(one.run(lambda: raise_(Silent())).value)
    assert end.message == "<str() of this Silent raised ValueError>"
    assert "Silent" in end.traceback


def test_a_traceback_begins_in_the_task(one: Driver) -> None:
    def inner() -> None:
        raise RuntimeError("deep")

    def outer() -> None:
        inner()

    lines = report_of(one.run(outer).value).traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "in outer" in lines[1]
    assert not any("/concurrent_nb/" in line for line in lines)
    assert lines[-1] == "RuntimeError: deep"


def test_a_recursion_without_end_is_an_error(one: Driver) -> None:
    def forever() -> Any:
        return forever()

    report = report_of(one.run(forever).value)
    assert report.type_name == "RecursionError"
    assert len(report.traceback) < 100_000


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: (n for n in range(3)), ["generator", "return a list of its items"]),
        (lambda: __import__("threading").Lock(), ["lock", "cannot be pickled"]),
        (lambda: __import__("socket").socket(), ["socket"]),
        (lambda: __import__("functools").reduce(lambda inner, _: [inner], range(100_000), []), ["nested too deeply"]),
        (lambda: Unpicklable("x" * 10_000), ["Unpicklable", "..."]),
        (lambda: [Silent()] and Unpicklable(Silent()), ["whose repr() raised ValueError"]),
    ],
    ids=["generator", "lock", "socket", "deep", "reduce raises", "repr raises"],
)
def test_a_result_that_cannot_be_pickled_is_described(one: Driver, make: Callable[[], Any], words: list[str]) -> None:
    end = one.run(make)
    assert end.status == Status.NOT_PICKLABLE
    message = report_of(end.value).message
    assert len(message) < 1000
    for word in words:
        assert word in message
    assert one.run(os.getpid).value == end.worker


def test_results_that_are_code_travel(one: Driver) -> None:
    assert one.run(lambda: {"me": [1, (2,)]}).value == {"me": [1, (2,)]}
    assert one.run(lambda: lambda x: x + 1).value(1) == 2
    assert one.run(lambda: __import__("json")).value is __import__("json")


def test_what_cannot_be_loaded_says_why(one: Driver) -> None:
    import pickle

    missing = pickle.dumps(os.getpid).replace(b"posix", b"posiy")
    (ref,) = one.assign(one.add_pickled(missing), [()])
    one.wait([ref])
    end = one.ended[ref]
    assert end.status == Status.NOT_LOADABLE
    assert "No module named 'posiy'" in report_of(end.value).message

    (ref,) = one.assign(one.add_pickled(pickle.dumps(3)), [()])
    one.wait([ref])
    assert "must be callable, this is a int" in report_of(one.ended[ref].value).message

    (ref,) = one.assign(b"never sent".ljust(32), [()])
    one.wait([ref])
    assert one.ended[ref].status == Status.NOT_LOADABLE
