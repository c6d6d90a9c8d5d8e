"""Workers as real processes: how they die, how they are stopped, and that nothing is left of them."""
# ruff: noqa: T201  (what tasks print is a part of what is tested)

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import ErrorReport
from concurrent_nb.workers.slave_side.launchers import ForkServerLauncher, SpawnLauncher, environment
from tests.integration import pool_driver
from tests.integration.pool_driver import Driver
from tests.work import loop_in_python, sleep_long, spin

kind = pool_driver.kinds("fork_server", "spawn", "bare")
driver, single = pool_driver.driver, pool_driver.single


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait_until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    give_up_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {within_s} s"
        time.sleep(0.01)


def report_of(value: object) -> ErrorReport:
    assert isinstance(value, ErrorReport)
    return value


# --------------------------------------------------------------------------------------------------------------- deaths


def close_all_and_go_on() -> None:
    import os
    import time

    os.closerange(0, 1000)
    time.sleep(1000)


@pytest.mark.parametrize(
    ("fatal", "words"),
    [
        (lambda: __import__("os")._exit(3), "ended with exit code 3"),
        (lambda: __import__("os")._exit(0), "ended with exit code 0"),
        (lambda: __import__("ctypes").string_at(0), "died of SIGSEGV"),
        (lambda: __import__("os").kill(__import__("os").getpid(), 9), "died of SIGKILL"),
        (lambda: __import__("os").kill(0, 9), "died of SIGKILL"),
        (lambda: __import__("os").abort(), "died of SIGABRT"),
        (lambda: __import__("os").closerange(3, 1000), "ended with exit code 1"),
        (lambda: __import__("os").closerange(0, 1000), "ended with exit code 120"),
        (close_all_and_go_on, "closed its connection and was killed"),
    ],
    ids=["exit 3", "exit 0", "segfault", "kill", "kill group", "abort", "close all above 2", "close all", "go on"],
)
def test_a_task_that_kills_its_worker_is_named_and_the_worker_replaced(
    driver: Driver, fatal: Callable[[], Any], words: str
) -> None:
    end = driver.run(fatal)
    assert end.status == Status.DIED
    message = report_of(end.value).message
    how = re.escape(f"worker {end.worker} {words}")
    assert re.search(rf"{how}( \(peak memory [^)]*\))? while it ran task 6a6a6a6a/0", message), message
    assert driver.run(lambda: 1).value == 1


def test_a_worker_that_is_killed_from_outside_is_replaced(single: Driver) -> None:
    pid = single.run(os.getpid).value
    os.kill(pid, signal.SIGKILL)
    assert single.run(os.getpid).value != pid


def test_neighbours_of_a_death_are_not_touched(driver: Driver) -> None:
    slow = driver.start(lambda: __import__("time").sleep(0.5) or "fine")
    assert driver.run(lambda: __import__("os")._exit(1)).status == Status.DIED
    driver.wait([slow])
    assert driver.ended[slow].value == "fine"


def test_tasks_before_and_behind_a_death_are_answered(single: Driver) -> None:
    def risky(n: int) -> int:
        if n == 400:
            import os

            os._exit(7)
        return n

    ends = single.map(risky, [(n,) for n in range(800)])
    assert ends[400].status == Status.DIED
    assert [end.value for end in ends if end.status == Status.OK] == [n for n in range(800) if n != 400]


def test_processes_that_a_task_left_die_with_its_worker(single: Driver) -> None:
    def leave() -> tuple[int, int]:
        import os
        import subprocess

        return subprocess.Popen(["sleep", "1000"]).pid, os.getpid()

    child, worker = single.run(leave).value
    assert alive(child)
    os.kill(worker, signal.SIGKILL)
    assert single.run(lambda: 1).value == 1
    wait_until(lambda: not alive(child))


def test_a_fork_that_returns_from_the_task_is_not_a_second_worker(single: Driver) -> None:
    ref = single.start(lambda: print("parent" if __import__("os").fork() else "child"))
    single.wait([ref])
    assert [end.value for end in single.map(abs, [(n,) for n in range(1000)])] == list(range(1000))
    assert b"parent" in single.output[ref][1]


def test_daemons_that_a_task_left_die_with_the_pool() -> None:
    def leave() -> int:
        import subprocess

        shell = ["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]
        return int(subprocess.run(shell, stdout=subprocess.PIPE, start_new_session=True, check=True).stdout)

    with Driver("fork_server", slots=1) as driver:
        daemon = driver.run(leave).value
        assert alive(daemon)
    assert not alive(daemon)


def test_a_child_that_holds_the_sockets_does_not_hide_a_death(single: Driver) -> None:
    def fork_and_die() -> None:
        import os
        import time

        if os.fork() == 0:
            time.sleep(1000)
        os._exit(5)

    begun = time.monotonic()
    assert single.run(fork_and_die).status == Status.DIED
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("raised", "code"), [(SystemExit(3), 3), (SystemExit(), 0), (SystemExit("why"), 1), (ValueError("why"), 1)]
)
def test_a_process_that_a_task_forks_ends_as_a_program_does(single: Driver, raised: BaseException, code: int) -> None:
    def fork_and_wait() -> tuple[int, str]:
        import os
        import tempfile

        with tempfile.TemporaryFile("w+") as said:
            pid = os.fork()
            if pid == 0:
                os.dup2(said.fileno(), 2)
                raise raised
            ended = os.waitpid(pid, 0)[1]
            said.seek(0)
            return os.waitstatus_to_exitcode(ended), said.read()

    ended, said = single.run(fork_and_wait).value
    assert ended == code
    assert ("why" in said) == ("why" in str(raised))
    assert ("Traceback" in said) == isinstance(raised, ValueError)


def test_a_task_that_closes_the_standard_streams_leaves_them_to_the_next(single: Driver) -> None:
    def is_open() -> list[bool]:
        import os

        return [os.path.exists(f"/proc/self/fd/{fd}") for fd in range(3)]

    single.run(__import__("os").closerange, 0, 3)
    assert single.run(is_open).value == [True, True, True]


# ------------------------------------------------------------------------------------------------- deadlines and cancel


def hang_in_c() -> None:
    import collections
    import itertools

    collections.deque(itertools.repeat(0), maxlen=0)


def hang_in_a_child() -> None:
    import subprocess

    subprocess.run(["sleep", "1000"], check=True)


def hang_frozen() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize("hang", [loop_in_python, sleep_long, hang_in_a_child, hang_in_c, spin, hang_frozen])
def test_a_task_over_its_deadline_is_stopped(kind: str, hang: Callable[[], None]) -> None:
    with Driver(kind, slots=1, grace_s=0.3) as driver:
        pid = driver.run(os.getpid).value
        end = driver.run(hang, timeout_s=0.3)
        assert end.status == Status.TIMEOUT
        assert 0.25 < end.elapsed_s < 20
        assert "ran longer than its timeout of 0.3 s" in report_of(end.value).message
        # Who listens keeps his worker, who does not gets a new one.
        assert (driver.run(os.getpid).value == pid) == (hang not in (hang_in_c, spin, hang_frozen))


@pytest.mark.parametrize("hang", [loop_in_python, sleep_long, hang_in_c])
def test_a_running_task_can_be_stopped(kind: str, hang: Callable[[], None]) -> None:
    with Driver(kind, grace_s=0.3) as driver:
        ref = driver.start(hang)
        driver.until(lambda: ref in driver.started)
        driver.withdraw([ref], stop=True)
        driver.wait([ref])
        assert driver.ended[ref].status == Status.CANCELLED
        assert driver.run(lambda: 1).value == 1


def test_a_task_can_clean_up_when_it_is_stopped(single: Driver, tmp_path: Path) -> None:
    def clean(path: str) -> None:
        import pathlib
        import time

        try:
            time.sleep(1000)
        finally:
            pathlib.Path(path).write_text("clean")

    ref = single.start(clean, str(tmp_path / "left"))
    single.until(lambda: ref in single.started)
    single.withdraw([ref], stop=True)
    single.wait([ref])
    assert single.ended[ref].status == Status.CANCELLED
    assert (tmp_path / "left").read_text() == "clean"


def test_a_stray_interrupt_disturbs_nobody(single: Driver) -> None:
    pid = single.run(os.getpid).value
    ref = single.start(lambda: __import__("time").sleep(0.3) or "slept")
    single.until(lambda: ref in single.started)
    os.kill(pid, signal.SIGINT)
    single.wait([ref])
    assert single.ended[ref].value == "slept"
    os.kill(pid, signal.SIGINT)
    assert single.run(os.getpid).value == pid


def test_a_withdrawn_task_that_runs_is_left_alone(single: Driver) -> None:
    ref = single.start(lambda: __import__("time").sleep(0.3) or "done")
    behind = single.start(lambda: 1)
    single.until(lambda: ref in single.started)
    single.withdraw([ref, behind], stop=False)
    single.wait([ref])
    assert single.ended[ref].value == "done"
    assert single.returned == [behind]


def test_many_tasks_are_cancelled_at_once(driver: Driver) -> None:
    refs = driver.assign(driver.add(sleep_long), [()] * 1000)
    driver.until(lambda: len(driver.started) == 2)
    driver.withdraw(refs, stop=True)
    driver.wait(refs)
    assert {driver.ended[ref].status for ref in refs} == {Status.CANCELLED}
    assert driver.run(lambda: 1).value == 1


def test_what_stands_behind_a_slow_task_runs_elsewhere(driver: Driver) -> None:
    def sometimes_slow(n: int) -> int:
        if n == 3000:
            import time

            time.sleep(1000)
        return n

    refs = driver.assign(driver.add(sometimes_slow), [(n,) for n in range(6000)])
    rest = [ref for ref in refs if ref.index != 3000]
    driver.wait(rest)
    assert refs[3000] in driver.started
    driver.withdraw([refs[3000]], stop=True)
    driver.wait(refs)


def test_what_stands_behind_a_task_that_hears_nothing_runs_elsewhere(driver: Driver) -> None:
    # It computes in C and holds the interpreter, so it could not answer a message.
    learn = driver.add(lambda hang: hang and __import__("collections").deque(__import__("itertools").repeat(0), 0))
    driver.wait(driver.assign(learn, [(False,)] * 500))
    refs = driver.assign(learn, [(n == 0,) for n in range(200)])
    driver.wait(refs[1:])
    driver.withdraw(refs[:1], stop=True)
    driver.wait(refs)


# --------------------------------------------------------------------------------------------------- the pool's own end


def test_the_pool_ends_with_everything_at_work(kind: str) -> None:
    driver = Driver(kind)
    driver.assign(driver.add(sleep_long), [()] * 10)
    driver.until(lambda: len(driver.started) == 2)
    begun = time.monotonic()
    driver.close()
    assert time.monotonic() - begun < 10


def test_the_pool_ends_while_tasks_hear_nothing(kind: str) -> None:
    with Driver(kind) as driver:
        driver.assign(driver.add(hang_in_c), [()] * 2)
        driver.until(lambda: len(driver.started) == 2)


def test_the_pool_ends_before_it_has_begun(kind: str) -> None:
    Driver(kind).close()


def test_a_reset_forgets_what_ran_and_goes_on(driver: Driver) -> None:
    driver.assign(driver.add(sleep_long), [()] * 100)
    driver.until(lambda: len(driver.started) == 2)
    driver.pool.reset(time.monotonic())
    assert driver.run(lambda: 1).value == 1
    assert len(driver.ended) == 1


def test_a_fork_server_that_is_killed_is_replaced() -> None:
    with Driver("fork_server") as driver:
        ref = driver.start(sleep_long)
        driver.until(lambda: ref in driver.started)
        worker = driver.pool._connections[1].pid or driver.pool._connections[2].pid
        fork_server = psutil.Process(worker).ppid()
        os.kill(fork_server, signal.SIGKILL)
        driver.wait([ref])
        assert driver.ended[ref].status == Status.DIED
        assert "its fork server died of SIGKILL" in report_of(driver.ended[ref].value).message
        assert driver.run(lambda: 1).value == 1
        wait_until(lambda: not alive(worker))


def end_of_worker(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)


def end_of_fork_server(pid: int) -> None:
    os.kill(psutil.Process(pid).ppid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("kind", "end"), [("fork_server", end_of_worker), ("fork_server", end_of_fork_server), ("spawn", end_of_worker)]
)
def test_a_death_by_sigterm_is_reported_after_the_slave_would_have_had_it_too(
    kind: str, end: Callable[[int], None]
) -> None:
    with Driver(kind, slots=1) as driver:
        pid = driver.run(os.getpid).value
        ref = driver.start(sleep_long)
        driver.until(lambda: ref in driver.started)
        end(pid)
        driver.until(lambda: driver.pool._terminated)
        assert ref not in driver.ended
        driver.wait([ref])
        assert driver.ended[ref].status == Status.DIED
        assert "died of SIGTERM" in report_of(driver.ended[ref].value).message
        assert driver.run(lambda: 1).value == 1


@pytest.mark.parametrize("kind", ["fork_server", "spawn"])
def test_workers_that_cannot_start_are_given_up(kind: str, tmp_path: Path) -> None:
    # given: an environment in which a worker ends as soon as it begins
    broken = (sys.executable, "-c", "print('no such library'); raise SystemExit(4)")
    env = environment(1, 1, os.environ)
    launcher = ForkServerLauncher(env, broken) if kind == "fork_server" else SpawnLauncher(env, broken)
    driver = Driver(launcher, slots=1)
    try:
        (ref,) = driver.assign(b"f" * 32, [()])
        driver.until(lambda: driver.degraded)
        assert "exit code 4" in driver.degraded
        assert "no such library" in driver.degraded
        assert driver.returned == [ref]
    finally:
        driver.close()


OWNER = """
import sys, time
from concurrent_nb.wire.messages import Needs
from tests.integration.pool_driver import Driver

def leave():
    import collections, itertools, os, subprocess
    child = subprocess.Popen(["sleep", "1000"])
    print(os.getpid(), child.pid, flush=True)
    collections.deque(itertools.repeat(0), maxlen=0)

driver = Driver(sys.argv[1])
refs = driver.assign(driver.add(leave), [()] * int(sys.argv[3]), needs=Needs(kind=sys.argv[2]))
driver.until(lambda: all(driver.output[ref][1].endswith(b"\\n") for ref in refs))
print(*(driver.output[ref][1].decode().strip() for ref in refs), flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize(("place", "count"), [("process", 2), ("thread", 1)])
def test_nothing_survives_a_slave_that_is_killed(kind: str, place: str, count: int) -> None:
    # given: a slave whose workers hold their interpreters and have children
    command = [sys.executable, "-c", OWNER, kind, place, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 2 * count
        pids += [child.pid for child in psutil.Process(owner.pid).children(recursive=True)]
        assert all(map(alive, pids))
        # when
        owner.kill()
        # then
        wait_until(lambda: not any(map(alive, pids)), within_s=3)


def test_the_slave_stays_light() -> None:
    code = "import sys, concurrent_nb.workers.slave_side.pool; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"cloudpickle", "tornado", "numpy", "asyncio", "multiprocessing", "zmq"} & set(modules)
