"""What tasks print, and whose it is. With real processes."""
# ruff: noqa: T201  (what tasks print is a part of what is tested)

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from concurrent_nb.outcome import Status
from tests.integration import pool_driver
from tests.integration.pool_driver import Driver

MIB = 1024 * 1024


kind = pool_driver.kinds("fork_server", "spawn")
driver, single = pool_driver.driver, pool_driver.single


def test_output_of_every_kind_is_its_tasks(driver: Driver) -> None:
    def speak(n: int) -> None:
        import ctypes
        import sys

        print("print", n)
        print("no newline", n, end="", flush=True)
        sys.stderr.write(f"error {n}\n")
        os.write(1, f"write {n}\n".encode())
        os.system(f"echo system {n}; echo system error {n} >&2")
        subprocess.run(["echo", "subprocess", str(n)], check=True)
        ctypes.CDLL(None).printf(b"c %d", n)

    refs = driver.assign(driver.add(speak), [(n,) for n in range(20)])
    driver.wait(refs)
    for n, ref in enumerate(refs):
        assert driver.output[ref][1].decode() == (
            f"print {n}\nno newline {n}write {n}\nsystem {n}\nsubprocess {n}\nc {n}"
        )
        assert driver.output[ref][2].decode() == f"error {n}\nsystem error {n}\n"


def test_the_hang_up_of_a_former_pipe_is_not_taken_for_the_workers(single: Driver) -> None:
    # Given a poll that has found the pipes of a dead worker hung up, and a new worker whose pipes have their numbers
    def speak() -> None:
        print("x" * MIB)

    watched = set(single.pool.fds())
    for fd in watched:
        single.pool.ready(fd, select.POLLHUP, time.monotonic())
    # Then the new one's are still read
    assert set(single.pool.fds()) == watched
    (ref,) = single.assign(single.add(speak), [()])
    single.wait([ref])
    assert len(single.output[ref][1]) >= MIB


def test_output_of_short_tasks_in_a_pack_is_told_apart(driver: Driver) -> None:
    def speak(n: int) -> None:
        if n % 3:
            print(n)
        if n % 7 == 0:
            __import__("sys").stderr.write(str(n))

    refs = driver.assign(driver.add(speak), [(n,) for n in range(3000)])
    driver.wait(refs)
    for n, ref in enumerate(refs):
        assert driver.output[ref][1] == (f"{n}\n".encode() if n % 3 else b"")
        assert driver.output[ref][2] == (str(n).encode() if n % 7 == 0 else b"")


def test_output_is_live(driver: Driver) -> None:
    def speak() -> None:

        print("now", flush=True)
        time.sleep(1000)

    ref = driver.start(speak)
    driver.until(lambda: driver.output[ref][1] == b"now\n")
    driver.withdraw([ref], stop=True)
    driver.wait([ref])


def test_output_over_the_limit_is_cut_and_the_task_goes_on(single: Driver) -> None:
    def shout() -> str:

        for _ in range(160):
            os.write(1, b"x" * 65536)
        print("the end")
        return "done"

    ref = single.start(shout)
    single.wait([ref])
    assert single.ended[ref].value == "done"
    text = single.output[ref][1]
    assert text.startswith(b"x" * MIB)
    assert text[MIB:] == b"\n[output cut at 1 MiB]\n"


def test_the_last_words_of_a_dying_task_arrive(single: Driver) -> None:
    def die() -> None:
        import ctypes

        print("farewell")
        ctypes.string_at(0)

    ref = single.start(die)
    single.wait([ref])
    assert single.output[ref][1] == b"farewell\n"
    assert b"Segmentation fault" in single.output[ref][2]


def test_output_between_tasks_goes_to_the_log(single: Driver, caplog: pytest.LogCaptureFixture) -> None:
    def later() -> None:
        import threading

        threading.Timer(0.2, lambda: print("too late", flush=True)).start()

    with caplog.at_level("INFO"):
        ref = single.start(later)
        single.until(lambda: "too late" in caplog.text)
    assert ref not in single.output


def break_stdout_by_closing() -> None:
    __import__("sys").stdout.close()
    __import__("os").close(1)


def break_stdout_by_redirecting() -> None:

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    print("nobody sees this")


def break_stdout_by_replacing() -> None:
    import io

    sys.stdout = sys.stderr = io.StringIO()
    print("nobody sees this")


def break_stdout_by_deleting() -> None:
    del __import__("sys").stdout


def break_stdout_by_not_blocking() -> None:
    __import__("os").set_blocking(1, False)


@pytest.mark.parametrize(
    "break_it",
    [
        break_stdout_by_closing,
        break_stdout_by_redirecting,
        break_stdout_by_replacing,
        break_stdout_by_deleting,
        break_stdout_by_not_blocking,
    ],
)
def test_a_task_that_breaks_its_output_does_not_break_the_next(single: Driver, break_it: Callable[[], None]) -> None:
    end = single.run(break_it)
    assert end.status == Status.OK
    ref = single.start(lambda: (print("fine"), __import__("os").system("echo too")))
    single.wait([ref])
    assert single.ended[ref].worker == end.worker
    assert single.output[ref][1] == b"fine\ntoo\n"


def test_a_task_that_breaks_its_surroundings_does_not_break_the_next(single: Driver) -> None:
    def break_them() -> None:
        import sys

        os.chdir("/")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.setrecursionlimit(50)

    def look() -> tuple[str, int, bool]:
        import sys

        return os.getcwd(), sys.getrecursionlimit(), callable(signal.getsignal(signal.SIGINT))

    before = single.run(look).value
    single.run(break_them)
    assert single.run(look).value == before
