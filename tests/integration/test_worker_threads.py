"""Tasks in threads as real processes: at the same time in one process, each with its own prints, errors and end."""
# ruff: noqa: T201  (what tasks print is a part of what is tested)

import contextlib
import hashlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from concurrent_nb.outcome import Hit, Status
from concurrent_nb.wire.messages import Needs, TaskRef
from tests.integration.pool_driver import Driver
from tests.work import hold_the_gil, loop_in_python, sleep_long

THREAD = Needs(kind="thread")
SLOTS = 2


@pytest.fixture(params=["fork_server", "spawn"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    with Driver(str(request.param), grace_s=0.3) as driver:
        yield driver


@pytest.fixture
def one() -> Iterator[Driver]:
    """Give a pool for what does not depend on how workers are started."""
    with Driver("fork_server", slots=SLOTS, grace_s=0.3) as driver:
        yield driver


def run(driver: Driver, function: Callable[..., Any], *args: Any) -> Any:
    return driver.run(function, *args, needs=THREAD)


def start(driver: Driver, function: Callable[..., Any], *args: Any, timeout_s: float | None = None) -> TaskRef:
    return driver.start(function, *args, timeout_s=timeout_s, needs=THREAD)


def start_and_see(driver: Driver, function: Callable[..., Any], *args: Any) -> TaskRef:
    """Start a task, and return when it is known to run."""
    ref = start(driver, function, *args)
    driver.until(lambda: ref in driver.started)
    return ref


# ------------------------------------------------------------------------------------------------------------ for tasks


def pid() -> int:
    return os.getpid()


def wait_for(path: Path) -> int:
    while not path.exists():
        time.sleep(0.005)
    return os.getpid()


def meet(mine: Path, theirs: Path) -> int:
    mine.touch()
    return wait_for(theirs)


def interval(seconds: float) -> tuple[float, float]:
    begin = time.monotonic()
    time.sleep(seconds)
    return begin, time.monotonic()


def say_in_turns(name: str, mine: Path, theirs: Path) -> None:
    print(f"{name} one")
    meet(mine / "1", theirs / "1")
    print(f"{name} two", end="")
    sys.stderr.write(f"{name} wrong")
    meet(mine / "2", theirs / "2")
    print(f", {name} three")


def print_number(n: int) -> None:
    if n % 3:
        print("n", n)


def wrong() -> None:
    raise ValueError("so wrong")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ------------------------------------------------------------------------------------------------- at the same time


def test_two_tasks_run_at_the_same_time_in_one_process(driver: Driver, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    refs = driver.assign(driver.add(meet), [(one, other), (other, one)], needs=THREAD)
    driver.wait(refs)
    ends = [driver.ended[ref] for ref in refs]
    assert [end.status for end in ends] == [Status.OK] * 2
    (worker,) = {end.value for end in ends} | {end.worker for end in ends}
    assert worker not in {driver.run(pid).value for _ in range(5)}


def test_many_short_tasks_run_in_order_of_their_indexes(driver: Driver) -> None:
    refs = driver.assign(driver.add(lambda x: x * x), [(n,) for n in range(3000)], needs=THREAD)
    driver.wait(refs)
    assert [driver.ended[ref].value for ref in refs] == [n * n for n in range(3000)]
    assert len({driver.ended[ref].worker for ref in refs}) == 1


def test_together_with_others_they_never_take_more_than_the_slots(driver: Driver) -> None:
    digest = driver.add(interval)
    refs: list[TaskRef] = []
    for needs in [THREAD, None, Needs(cores=2), THREAD, None] * 2:
        refs += driver.assign(digest, [(0.004,)] * 8, needs=needs)
    driver.wait(refs)
    moments = sorted(
        (moment, change) for ref in refs for moment, change in zip(driver.ended[ref].value, (1, -1), strict=True)
    )
    at_once = [sum(change for _, change in moments[: place + 1]) for place in range(len(moments))]
    assert max(at_once) == SLOTS


def test_large_things_travel_both_ways_in_shared_memory(driver: Driver) -> None:
    def shout(array: Any) -> tuple[bool, Any]:
        array += 1  # which the others do not see
        return array.flags.writeable, array

    array = np.arange(1 << 20)
    refs = driver.assign(driver.add(shout), [(array,)] * 4, needs=THREAD)
    driver.wait(refs)
    for ref in refs:
        writeable, result = driver.ended[ref].value
        assert writeable
        assert (result == array + 1).all()


def test_tasks_end_as_in_processes(one: Driver) -> None:
    assert run(one, lambda: Hit(3)).status is Status.HIT
    end = run(one, wrong)
    assert end.status is Status.ERROR
    assert "so wrong" in end.value.message
    assert "in wrong" in end.value.traceback
    assert run(one, threading.Lock).status is Status.NOT_PICKLABLE
    assert run(one, sys.exit, 3).status is Status.ERROR
    (ref,) = one.assign(one.add_pickled(b"nonsense"), [()], needs=THREAD)
    one.wait([ref])
    assert one.ended[ref].status is Status.NOT_LOADABLE
    assert run(one, lambda: hashlib.sha256(bytes(1 << 20)).hexdigest()[:4]).value == "30e1"
    assert run(one, pid).status is Status.OK


# ------------------------------------------------------------------------------------------------------ what they print


def test_what_two_tasks_print_at_the_same_time_is_told_apart(driver: Driver, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    digest = driver.add(say_in_turns)
    calls = [("a", tmp_path / "a", tmp_path / "b"), ("b", tmp_path / "b", tmp_path / "a")]
    refs = driver.assign(digest, calls, needs=THREAD)
    driver.wait(refs)
    for ref, name in zip(refs, "ab", strict=True):
        assert driver.output[ref][1] == f"{name} one\n{name} two, {name} three\n".encode()
        assert driver.output[ref][2] == f"{name} wrong".encode()


def test_what_short_tasks_print_is_told_apart(driver: Driver) -> None:
    refs = driver.assign(driver.add(print_number), [(n,) for n in range(500)], needs=THREAD)
    driver.wait(refs)
    assert [driver.output[ref][1] for ref in refs] == [b"n %d\n" % n if n % 3 else b"" for n in range(500)]


def test_what_is_written_to_the_descriptor_is_nobodys(one: Driver, caplog: pytest.LogCaptureFixture) -> None:
    ref = start(one, lambda: os.write(1, b"by nobody\n"))
    with caplog.at_level(logging.INFO, "concurrent_nb"):
        one.until(lambda: ref in one.ended and "by nobody" in caplog.text)
    assert one.output[ref][1] == b""


def test_a_task_that_breaks_its_streams_does_not_break_the_next(one: Driver) -> None:
    def close() -> None:
        sys.stdout.close()
        sys.stderr = None

    def spoil() -> None:
        del sys.stdout
        os.chdir("/")

    def where() -> str:
        print("here")
        return os.getcwd()

    for broken in (close, spoil):
        assert run(one, broken).status is Status.OK
        for _ in range(SLOTS):
            ref = start(one, where)
            one.wait([ref])
            assert one.ended[ref].value == os.getcwd()
            assert one.output[ref][1] == b"here\n"


# -------------------------------------------------------------------------------------------------------- how they stop


def test_a_task_of_python_is_stopped_alone(driver: Driver, tmp_path: Path) -> None:
    neighbour = start_and_see(driver, wait_for, tmp_path / "end")
    ends = [driver.run(loop_in_python, timeout_s=0.1, needs=THREAD) for _ in range(3)]
    assert [end.status for end in ends] == [Status.TIMEOUT] * 3
    stopped = start_and_see(driver, loop_in_python)
    driver.withdraw([stopped], stop=True)
    driver.wait([stopped])
    assert driver.ended[stopped].status is Status.CANCELLED
    worker = run(driver, pid).value
    (tmp_path / "end").touch()
    driver.wait([neighbour])
    assert {end.worker for end in ends} == {driver.ended[neighbour].value} == {worker}
    assert not driver.returned


def test_a_task_can_clean_up_when_it_is_stopped(one: Driver, tmp_path: Path) -> None:
    def careful(path: Path) -> None:
        try:
            while True:
                time.sleep(0.001)
        finally:
            print("bye")
            path.touch()

    ref = start_and_see(one, careful, tmp_path / "clean")
    one.withdraw([ref], stop=True)
    one.wait([ref])
    assert one.ended[ref].status is Status.CANCELLED
    assert one.output[ref][1] == b"bye\n"
    assert (tmp_path / "clean").exists()


@pytest.mark.parametrize("stubborn", [sleep_long, hold_the_gil])
def test_what_hears_nothing_is_killed_and_its_neighbour_is_not_blamed(
    driver: Driver, tmp_path: Path, stubborn: Callable[[], None]
) -> None:
    process = run(driver, pid).value
    neighbour = start_and_see(driver, wait_for, tmp_path / "end")
    end = driver.run(stubborn, timeout_s=0.1, needs=THREAD)
    assert (end.status, end.worker) == (Status.TIMEOUT, process)
    driver.until(lambda: driver.returned)
    assert driver.returned == [neighbour]
    assert neighbour not in driver.ended
    assert run(driver, pid).value not in (process, None)


def test_stops_at_every_moment_hit_nobody_else(one: Driver) -> None:
    def work(n: int) -> int:
        return sum(range(n))

    digest = one.add(work)
    refs = one.assign(digest, [(n % 5000,) for n in range(4000)], needs=THREAD)
    stopped = refs[::7]
    for at in range(0, len(stopped), 10):
        one.withdraw(stopped[at : at + 10], stop=True)
        one.turn(0.001)
    one.wait(refs)
    assert not one.returned
    for n, ref in enumerate(refs):
        end = one.ended[ref]
        if ref not in stopped or end.status is not Status.CANCELLED:
            assert (end.status, end.value) == (Status.OK, sum(range(n % 5000)))


# --------------------------------------------------------------------------------------------------------- how they die


def test_a_process_that_is_killed_while_several_run_is_nobodys_fault(driver: Driver, tmp_path: Path) -> None:
    process = run(driver, pid).value
    digest = driver.add(wait_for)
    refs = driver.assign(digest, [(tmp_path / "never",)] * 2, needs=THREAD)
    driver.until(lambda: set(refs) <= set(driver.started))
    os.kill(process, signal.SIGKILL)
    driver.until(lambda: len(driver.returned) == 2)
    assert set(driver.returned) == set(refs)
    assert run(driver, pid).value != process


def test_who_was_alone_is_blamed(driver: Driver) -> None:
    end = run(driver, die)
    assert end.status is Status.DIED
    assert "died of SIGKILL" in end.value.message
    assert run(driver, pid).status is Status.OK


def test_a_task_that_closes_everything_ends_the_process(one: Driver) -> None:
    process = run(one, pid).value
    end = run(one, os.closerange, 3, 1000)
    assert end.status is Status.DIED
    assert run(one, pid).value != process


def test_an_import_that_was_cut_short_costs_the_neighbours_an_attempt(one: Driver, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "__init__.py").write_text("import half.part\nwhile True:\n    pass\n")
    (tmp_path / "half" / "part.py").touch()

    def load(folder: str) -> None:
        sys.path.insert(0, folder)
        __import__("half")

    process = run(one, pid).value
    neighbour = start_and_see(one, wait_for, tmp_path / "end")
    end = one.run(load, str(tmp_path), timeout_s=0.2, needs=THREAD)
    assert end.status is Status.TIMEOUT
    one.until(lambda: one.returned)
    assert one.returned == [neighbour]
    assert run(one, pid).value != process


def test_a_fork_that_returns_from_the_task_is_not_a_second_worker(one: Driver) -> None:
    assert [run(one, lambda: min(os.fork(), 1)).value for _ in range(5)] == [1] * 5


# --------------------------------------------------------------------------------------------------- the pool's own end


@pytest.mark.parametrize("function", [loop_in_python, sleep_long, hold_the_gil, pid])
def test_a_pool_that_closes_leaves_nothing(function: Callable[[], object]) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with Driver(grace_s=0.1) as driver:
        refs = driver.assign(driver.add(function), [()] * 4, needs=THREAD)
        driver.until(lambda: driver.started or len(driver.ended) == len(refs))
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_a_reset_pool_kills_threads_and_goes_on(driver: Driver) -> None:
    process = run(driver, pid).value
    ref = start_and_see(driver, sleep_long)
    driver.pool.reset(time.monotonic())
    assert run(driver, pid).value != process
    assert ref not in driver.ended
    assert driver.run(pid).status is Status.OK


def test_a_pool_that_drains_lets_threads_end(one: Driver, tmp_path: Path) -> None:
    ref = start_and_see(one, wait_for, tmp_path / "end")
    one.pool.drain(time.monotonic())
    late = start(one, pid)
    one.until(lambda: one.returned == [late])
    (tmp_path / "end").touch()
    one.wait([ref])
    assert one.ended[ref].status is Status.OK


def test_a_fork_server_that_is_killed_takes_threads_along_and_is_replaced(tmp_path: Path) -> None:
    with Driver("fork_server") as driver:
        worker = run(driver, pid).value
        fork_server = psutil.Process(worker).ppid()
        ref = start_and_see(driver, wait_for, tmp_path / "end")
        with contextlib.suppress(ProcessLookupError):
            os.kill(fork_server, signal.SIGKILL)
        driver.wait([ref])
        assert driver.ended[ref].status is Status.DIED
        assert run(driver, pid).status is Status.OK
