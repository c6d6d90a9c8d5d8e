"""Tasks of several cores as real processes: how many threads they have, and who runs meanwhile."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import Needs
from tests.integration.pool_driver import Driver, End
from tests.work import sleep_long

#: what `launcher` of the driver gives each worker's libraries
SHARE = 1


@pytest.fixture(params=["fork_server", "spawn"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """Give a pool of two workers."""
    with Driver(str(request.param)) as driver:
        yield driver


@pytest.fixture
def single() -> Iterator[Driver]:
    with Driver(slots=1) as driver:
        yield driver


def numbers_of_threads() -> tuple[str, set[int]]:
    """Say what the environment says, and what numpy's libraries do."""
    import_module("numpy")
    info = import_module("threadpoolctl").threadpool_info()
    return os.environ["OMP_NUM_THREADS"], {library["num_threads"] for library in info}


def loaded_before() -> bool:
    return "numpy" in sys.modules


def spoil_the_environment() -> None:
    os.environ["OMP_NUM_THREADS"] = "77"
    del os.environ["MKL_NUM_THREADS"]


def read_the_environment() -> tuple[str | None, str | None]:
    return os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS")


def interval(seconds: float) -> tuple[float, float]:
    begin = time.monotonic()
    time.sleep(seconds)
    return begin, time.monotonic()


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.005)


def meet(mine: Path, theirs: Path) -> None:
    mine.touch()
    wait_for(theirs)


def overlap(one: End, others: Sequence[End]) -> bool:
    begin, end = one.value
    return any(other.value[0] < end and begin < other.value[1] for other in others)


def test_libraries_have_as_many_threads_as_the_task_has_cores_and_then_their_share(single: Driver) -> None:
    # A slave of one slot has its only worker for it, whatever number of threads that is.
    assert single.run(numbers_of_threads, needs=Needs(cores=0)).value == (str(cores()), {cores()})
    assert single.run(numbers_of_threads).value == (str(SHARE), {SHARE})
    assert single.run(loaded_before).value
    assert single.run(numbers_of_threads, needs=Needs(cores=3)).value == ("3", {3})
    assert single.run(numbers_of_threads).value == (str(SHARE), {SHARE})


def test_the_threads_are_put_back_after_an_error_a_stop_and_a_task_that_changes_them(single: Driver) -> None:
    assert single.run(spoil_the_environment, needs=Needs(cores=0)).status is Status.OK
    assert single.run(read_the_environment).value == (str(SHARE), str(SHARE))
    assert single.run(sleep_long, needs=Needs(cores=0), timeout_s=0.2).status is Status.TIMEOUT
    assert single.run(numbers_of_threads).value == (str(SHARE), {SHARE})


def cores() -> int:
    return len(os.sched_getaffinity(0))


def test_a_task_of_all_cores_runs_alone(driver: Driver) -> None:
    small, large = driver.add(interval), Needs(cores=2)
    refs = driver.assign(small, [(0.02,)] * 4)
    alone = driver.assign(small, [(0.05,)] * 2, needs=large)
    refs += driver.assign(small, [(0.02,)] * 4)
    driver.wait(refs + alone)
    ends = [driver.ended[ref] for ref in alone]
    assert not overlap(ends[0], [ends[1], *(driver.ended[ref] for ref in refs)])
    assert not overlap(ends[1], [ends[0], *(driver.ended[ref] for ref in refs)])


def test_a_task_of_all_cores_does_not_wait_for_the_end_of_the_queue(driver: Driver) -> None:
    refs = driver.assign(driver.add(interval), [(0.005,)] * 400)
    driver.until(lambda: driver.ended)
    (wide,) = driver.assign(driver.add(interval), [(0.001,)], needs=Needs(cores=0))
    driver.wait([wide])
    assert sum(ref in driver.ended for ref in refs) < 300
    driver.wait(refs)


def test_what_is_withdrawn_before_it_found_its_slots_gives_them_up(driver: Driver, tmp_path: Path) -> None:
    blocking = driver.start(wait_for, tmp_path / "end")
    driver.until(lambda: blocking in driver.started)
    wide = driver.start(sleep_long, needs=Needs(cores=2))
    small = driver.start(cores)
    driver.turn(0.1)
    assert small not in driver.ended  # the other worker is kept for the wide one
    driver.withdraw([wide], stop=False)
    driver.wait([small])
    assert driver.returned == [wide]
    (tmp_path / "end").touch()
    driver.wait([blocking])


def test_a_task_of_all_cores_whose_worker_dies_gives_its_slots_up(driver: Driver, tmp_path: Path) -> None:
    end = driver.run(os.abort, needs=Needs(cores=2))
    assert end.status is Status.DIED
    one, other = tmp_path / "one", tmp_path / "other"
    driver.wait(driver.assign(driver.add(meet), [(one, other), (other, one)]))  # which only both at once can end


def test_where_threadpoolctl_is_missing_the_task_says_so(tmp_path: Path) -> None:
    (tmp_path / "threadpoolctl.py").write_text("raise ImportError('no such thing')")
    from tests.integration.pool_driver import launcher

    with Driver(
        launcher("fork_server", PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    ) as driver:
        end = driver.run(cores, needs=Needs(cores=2))
        assert end.status is Status.NOT_LOADABLE
        assert "no such thing" in end.value.message
        assert driver.run(cores).status is Status.OK
