"""Hosts as real processes: they come beside the workers, end with their task, and are stopped as any task is."""
# ruff: noqa: T201  (what tasks print is a part of what is tested)

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import HOSTS_MAX, Needs
from tests.integration.pool_driver import Driver
from tests.work import sleep_long, write_whole

HOST = Needs(kind="system_host")


@pytest.fixture(params=["fork_server", "spawn", "bare"])
def single(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """Give a pool of one worker."""
    with Driver(str(request.param), slots=1) as driver:
        yield driver


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait_for(path: Path) -> str:
    """Live until a file is there, and return what is in it. For tasks."""
    while not path.exists():
        time.sleep(0.005)
    return f"{os.getpid()} {path.read_text()}"


def pid() -> int:
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ignore_interrupts() -> None:
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(600)


def start_a_child() -> tuple[int, int]:
    print("born")
    return os.getpid(), subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


def until_gone(driver: Driver, *pids: int) -> None:
    driver.until(lambda: not any(map(alive, pids)))


def test_a_host_lives_beside_the_only_worker_which_goes_on(single: Driver, tmp_path: Path) -> None:
    host = single.start(wait_for, tmp_path / "end", needs=HOST)
    workers = {end.worker for end in single.map(pid, [()] * 20)}
    assert len(workers) == 1
    assert host not in single.ended
    write_whole(tmp_path / "end", "now")
    single.wait([host])
    number, word = single.ended[host].value.split()
    assert word == "now"
    assert {int(number)} == {single.ended[host].worker}
    assert int(number) not in workers
    until_gone(single, int(number))
    assert {end.worker for end in single.map(pid, [()] * 3)} == workers


def test_hosts_that_begin_later_than_others_wait_where_there_are_too_many(single: Driver, tmp_path: Path) -> None:
    digest = single.add(wait_for)
    hosts = single.assign(digest, [(tmp_path / str(n),) for n in range(HOSTS_MAX + 2)], needs=HOST)
    single.until(lambda: len(single.started) == HOSTS_MAX)
    for n in range(HOSTS_MAX + 2):
        write_whole(tmp_path / str(n), str(n))
    single.wait(hosts)
    values = [single.ended[ref].value.split() for ref in hosts]
    assert [value[1] for value in values] == [str(n) for n in range(HOSTS_MAX + 2)]
    assert len({value[0] for value in values}) == HOSTS_MAX + 2  # each had a process of its own
    until_gone(single, *(int(value[0]) for value in values))


def test_what_a_host_leaves_behind_goes_with_it_and_what_it_printed_comes(single: Driver) -> None:
    ref = single.start(start_a_child, needs=HOST)
    single.wait([ref])
    until_gone(single, *single.ended[ref].value)
    assert single.output[ref][1] == b"born\n"


def test_a_host_is_stopped_as_any_task(single: Driver) -> None:
    host = single.start(sleep_long, needs=HOST)
    single.until(lambda: host in single.started)
    single.withdraw([host], stop=False)
    assert single.run(pid).status is Status.OK
    assert host not in single.ended
    assert not single.returned
    single.withdraw([host], stop=True)
    single.wait([host])
    assert single.ended[host].status is Status.CANCELLED
    until_gone(single, single.ended[host].worker)


def test_a_host_that_does_not_care_is_killed_alone() -> None:
    with Driver(slots=1, grace_s=0.1) as driver:
        worker = driver.run(pid).value
        ends = [driver.run(ignore_interrupts, timeout_s=0.2, needs=HOST) for _ in range(2)]
        assert [end.status for end in ends] == [Status.TIMEOUT] * 2
        assert driver.run(pid).value == worker
        until_gone(driver, *(end.worker for end in ends))


def test_a_host_that_dies_is_blamed_and_no_worker_comes_in_its_place(single: Driver) -> None:
    worker = single.run(pid).value
    end = single.run(die, needs=HOST)
    assert end.status is Status.DIED
    assert "SIGKILL" in end.value.message
    assert {single.run(pid).value for _ in range(5)} == {worker}


def test_a_pool_that_drains_lets_its_host_end_and_takes_no_other(single: Driver, tmp_path: Path) -> None:
    host = single.start(wait_for, tmp_path / "end", needs=HOST)
    single.until(lambda: host in single.started)
    single.pool.drain(time.monotonic())
    late = single.start(pid, needs=HOST)
    single.until(lambda: single.returned == [late])
    write_whole(tmp_path / "end", "now")
    single.wait([host])
    assert single.ended[host].status is Status.OK


def test_a_reset_pool_kills_its_hosts_and_goes_on(single: Driver) -> None:
    host = single.start(sleep_long, needs=HOST)
    single.until(lambda: host in single.started)
    single.pool.reset(time.monotonic())
    assert single.run(pid).status is Status.OK
    assert single.run(pid, needs=HOST).status is Status.OK
    assert host not in single.ended


def test_a_pool_that_closes_leaves_no_host() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with Driver(slots=1) as driver:
        hosts = driver.assign(driver.add(ignore_interrupts), [()] * 2, needs=HOST)
        driver.until(lambda: set(hosts) <= set(driver.started))
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
