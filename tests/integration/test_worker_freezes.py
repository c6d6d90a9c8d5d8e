"""Workers, and what starts them, that are stopped while they have a task: told, killed, replaced."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import ErrorReport, Needs, TaskRef
from tests.integration import pool_driver
from tests.integration.pool_driver import Driver
from tests.work import sleep_long

kind = pool_driver.kinds("fork_server", "spawn")
STOPPED_S = 0.6
THREAD = Needs(kind="thread")


def end_of(driver: Driver, ref: TaskRef) -> str:
    """Wait for a task whose worker dies; return how it has died."""
    driver.wait([ref])
    assert driver.ended[ref].status is Status.DIED
    report = driver.ended[ref].value
    assert isinstance(report, ErrorReport)
    return report.message


def started(driver: Driver, task: Callable[..., object], *args: object, needs: Needs | None = None) -> TaskRef:
    ref = driver.start(task, *args, needs=needs)
    driver.until(lambda: ref in driver.started)
    return ref


def stop_itself() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSTOP)


def compute_in_c(seconds: float) -> int:
    """Hold the GIL, and hear nothing."""
    import itertools
    import time
    from collections import deque

    until, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        deque(itertools.repeat(0, 20_000_000), maxlen=0)
        rounds += 1
    return rounds


def test_a_stopped_worker_is_told_killed_and_replaced(kind: str) -> None:
    with Driver(kind, slots=1, stopped_s=STOPPED_S) as driver:
        pid = driver.run(os.getpid).value
        ref = started(driver, sleep_long)
        os.kill(pid, signal.SIGSTOP)
        assert "has been stopped, as by SIGSTOP, for 1 s and was killed" in end_of(driver, ref)
        told = driver.output[ref][2].decode()
        assert told.startswith(f"concurrent_nb: worker {pid} has been stopped, as by SIGSTOP, for 1 s: it is killed")
        assert driver.run(os.getpid).value != pid
        assert not psutil.pid_exists(pid)


def test_a_task_that_stops_itself_is_blamed_and_its_neighbours_are_not() -> None:
    with Driver("fork_server", slots=2, stopped_s=STOPPED_S) as driver:
        first = driver.assign(driver.add(stop_itself), [()])
        others = driver.assign(driver.add(abs), [(-n,) for n in range(50)])
        driver.wait([*first, *others])
        assert driver.ended[first[0]].status is Status.DIED
        assert [driver.ended[ref].value for ref in others] == list(range(50))


def test_of_a_stopped_process_of_threads_all_running_tasks_are_told() -> None:
    with Driver("fork_server", slots=2, stopped_s=STOPPED_S) as driver:
        refs = [started(driver, sleep_long, needs=THREAD) for _ in range(2)]
        driver.until(lambda: len(driver.started) == 2)
        process = next(iter(driver.pool._main_threads.values())).pid
        os.kill(process, signal.SIGSTOP)
        driver.until(lambda: set(refs) <= set(driver.returned))  # each is a suspect, and runs alone next time
        for ref in refs:
            assert f"worker {process} has been stopped, as by SIGSTOP" in driver.output[ref][2].decode()
        assert not psutil.pid_exists(process)


@pytest.mark.parametrize("slots", [1, 8])
def test_a_stopped_fork_server_is_replaced_with_its_workers(slots: int) -> None:
    with Driver("fork_server", slots=slots, stopped_s=STOPPED_S) as driver:
        worker = driver.run(os.getpid).value
        ref = started(driver, sleep_long)
        server = psutil.Process(worker).ppid()
        driver.until(lambda: all(line.is_ready for line in driver.pool._connections.values()))
        os.kill(server, signal.SIGSTOP)
        assert "was killed because its fork server has been stopped, as by SIGSTOP" in end_of(driver, ref)
        assert f"the fork server of the workers {server} has been stopped" in driver.output[ref][2].decode()
        assert driver.run(pow, 2, 5).value == 32
        assert not driver.degraded


def test_what_computes_or_sleeps_for_longer_is_left_alone() -> None:
    with Driver("fork_server", slots=2, stopped_s=0.2, hung_disk_s=0.2) as driver:
        computes, sleeps = driver.start(compute_in_c, 1.0), driver.start(time.sleep, 1.0)
        driver.wait([computes, sleeps])
        assert [driver.ended[ref].status for ref in (computes, sleeps)] == [Status.OK, Status.OK]
        assert not driver.output


def test_a_worker_that_was_stopped_for_a_moment_goes_on() -> None:
    with Driver("fork_server", slots=1, stopped_s=30.0) as driver:
        pid = driver.run(os.getpid).value
        ref = started(driver, time.sleep, 0.3)
        os.kill(pid, signal.SIGSTOP)
        driver.turn(0.1)
        os.kill(pid, signal.SIGCONT)
        driver.wait([ref])
        assert driver.ended[ref].status is Status.OK
        assert driver.run(os.getpid).value == pid


def wait_as_for_a_disk(file: str) -> None:
    """Be in the state of a process whose disk does not answer: that of the parent of a `vfork`, until its child ends.

    The child has memory of its own here, unlike after the real `vfork`.
    """
    import ctypes
    import os
    import pathlib
    import signal
    import time

    libc = ctypes.CDLL(None, use_errno=True)
    sys_clone, clone_vfork = 56, 0x4000
    if libc.syscall(sys_clone, clone_vfork | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        pathlib.Path(file).touch()
        time.sleep(1000)
        os._exit(0)


needs_vfork = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64" or ctypes.sizeof(ctypes.c_void_p) != 8,
    reason="the number of the system call is that of Linux on x86-64",
)


@needs_vfork
def test_a_hung_disk_is_told_before_its_worker_is_killed(tmp_path: Path) -> None:
    with Driver("fork_server", slots=1, stopped_s=0, hung_disk_s=1.2) as driver:
        ref = started(driver, wait_as_for_a_disk, str(tmp_path / "waits"))
        assert "has waited 1 s for a disk or a network file system that does not answer" in end_of(driver, ref)
        assert b"for a disk" in driver.output[ref][2]
        assert driver.run(pow, 2, 5).value == 32


@needs_vfork
def test_a_worker_that_no_signal_ends_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("concurrent_nb.workers.slave_side.pool.UNKILLABLE_S", 0.5)
    with Driver("fork_server", slots=1, stopped_s=0, hung_disk_s=0.8) as driver:
        pid = driver.run(os.getpid).value
        ref = started(driver, wait_as_for_a_disk, str(tmp_path / "waits"))
        monkeypatch.setattr(driver.pool._launcher, "kill", lambda worker: None)  # as if the kernel did nothing
        assert "for a disk or a network file system that does not answer and was killed" in end_of(driver, ref)
        assert driver.run(os.getpid).value != pid
        driver.until(lambda: not psutil.pid_exists(pid))  # its end, when it comes, disturbs nobody
        assert driver.run(pow, 2, 5).value == 32
