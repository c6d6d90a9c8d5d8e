"""Workers as real processes: what tasks do to them, and what becomes of it. Every test runs with each launcher."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from concurrent_nb.outcome import Hit, Status
from concurrent_nb.wire.messages import ErrorReport
from concurrent_nb.workers.pool import Pool
from concurrent_nb.workers.processes import SpawnLauncher, TemplateLauncher, environment
from tests.integration.pool_driver import Driver

KINDS = ["template", "spawn", "bare"]
MIB = 1024 * 1024


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def driver(kind: str) -> Iterator[Driver]:
    with Driver(kind) as driver:
        yield driver


@pytest.fixture
def single(kind: str) -> Iterator[Driver]:
    """Give a pool of one worker."""
    with Driver(kind, slots=1) as driver:
        yield driver


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


# ------------------------------------------------------------------------------------------------------------- it runs


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
        import time

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


def test_arrays_travel_both_ways_and_are_writable(driver: Driver) -> None:
    array = np.arange(300_000)

    def double(given: Any) -> Any:
        given *= 2
        return given

    np.testing.assert_array_equal(driver.run(double, array).value, array * 2)
    assert array[1] == 1


def test_large_arguments_and_results_both_ways_at_once(driver: Driver) -> None:
    # The worker sends 64 MiB while the slave sends it 64 MiB: neither may wait for the other.
    data = bytes(64 * MIB)
    refs = driver.assign(driver.add(lambda data: (data, len(data))), [(data,)] * 3)
    driver.wait(refs)
    for ref in refs:
        assert driver.ended[ref].value[1] == len(data)
        assert driver.ended[ref].value[0] == data


def test_buffers_of_a_function_are_shared_and_read_only(single: Driver) -> None:
    import hashlib

    import cloudpickle

    array = np.zeros(100_000)
    buffers: list[Any] = []

    def write() -> None:
        array[0] = 1

    body = cloudpickle.dumps(write, 5, buffer_callback=lambda buffer: buffers.append(buffer.raw()))
    assert buffers
    digest = hashlib.sha256(body).digest()
    single.pool.add_function(digest, body, buffers)
    (ref,) = single.assign(digest, [()])
    single.wait([ref])
    assert "read-only" in report_of(single.ended[ref].value).message


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
    env = environment(4, 8, {"OMP_NUM_THREADS": "5"})
    assert env["OMP_NUM_THREADS"] == "5"
    assert env["OPENBLAS_NUM_THREADS"] == env["MKL_NUM_THREADS"] == "2"
    assert environment(4, 1, {})["NUMBA_NUM_THREADS"] == "1"


def test_a_worker_looks_like_a_fresh_interpreter(driver: Driver) -> None:
    def look() -> dict[str, Any]:
        import os
        import signal
        import sys

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
    assert fds <= 12


# -------------------------------------------------------------------------------------------------------------- errors


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
    """Can be pickled, and not unpickled."""

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
        (Demanding(1, 2), "Demanding", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_a_task_raises_is_its_error(
    single: Driver, error: BaseException, type_name: str, travels: bool
) -> None:
    kind = type(error)
    args = error.args if kind is not Demanding else (1, 2)
    end = single.run(lambda: raise_(kind(*args)))
    assert end.status == Status.ERROR
    report = report_of(end.value)
    assert report.type_name.rpartition(".")[2] == type_name
    assert bool(report.exception) == travels
    # and the worker lives on
    assert single.run(os.getpid).value == end.worker


def test_exceptions_that_do_not_travel_are_told_as_text(single: Driver) -> None:
    end = report_of(single.run(lambda: raise_(Unpicklable("sorry"))).value)
    assert (end.message, end.exception) == ("sorry", b"")
    end = report_of(single.run(lambda: raise_(Silent())).value)
    assert end.message == "<str() of this Silent raised ValueError>"
    assert "Silent" in end.traceback


def test_a_traceback_begins_in_the_task(single: Driver) -> None:
    def inner() -> None:
        raise RuntimeError("deep")

    def outer() -> None:
        inner()

    lines = report_of(single.run(outer).value).traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "in outer" in lines[1]
    assert not any("/concurrent_nb/" in line for line in lines)
    assert lines[-1] == "RuntimeError: deep"


def test_a_recursion_without_end_is_an_error(single: Driver) -> None:
    def forever() -> Any:
        return forever()

    report = report_of(single.run(forever).value)
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
def test_a_result_that_cannot_be_pickled_is_described(
    single: Driver, make: Callable[[], Any], words: list[str]
) -> None:
    end = single.run(make)
    assert end.status == Status.NOT_PICKLABLE
    message = report_of(end.value).message
    assert len(message) < 1000
    for word in words:
        assert word in message
    assert single.run(os.getpid).value == end.worker


def test_results_that_refer_to_themselves_or_are_code_travel(single: Driver) -> None:
    def circular() -> Any:
        me: list[Any] = []
        me.append(me)
        return me

    value = single.run(circular).value
    assert value[0] is value
    assert single.run(lambda: lambda x: x + 1).value(1) == 2
    assert single.run(lambda: __import__("json")).value is __import__("json")


def test_what_cannot_be_loaded_says_why(single: Driver) -> None:
    import pickle

    missing = pickle.dumps(os.getpid).replace(b"posix", b"posiy")
    (ref,) = single.assign(single.add_pickled(missing), [()])
    single.wait([ref])
    end = single.ended[ref]
    assert end.status == Status.NOT_LOADABLE
    assert "No module named 'posiy'" in report_of(end.value).message

    (ref,) = single.assign(single.add_pickled(pickle.dumps(3)), [()])
    single.wait([ref])
    assert "has to be callable, this is a int" in report_of(single.ended[ref].value).message

    (ref,) = single.assign(b"never sent".ljust(32), [()])
    single.wait([ref])
    assert single.ended[ref].status == Status.NOT_LOADABLE


# -------------------------------------------------------------------------------------------------------------- deaths


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
        (lambda: __import__("os").closerange(0, 1000), "ended with exit code 1"),
    ],
    ids=["exit 3", "exit 0", "segfault", "kill", "kill group", "abort", "close all above 2", "close all"],
)
def test_a_task_that_kills_its_worker_is_named_and_the_worker_replaced(
    driver: Driver, fatal: Callable[[], Any], words: str
) -> None:
    end = driver.run(fatal)
    assert end.status == Status.DIED
    message = report_of(end.value).message
    assert f"worker {end.worker} {words} while it ran task 6a6a6a6a/0" in message
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


# ------------------------------------------------------------------------------------------------ deadlines and cancel


def hang_in_python() -> None:
    while True:
        pass


def hang_in_sleep() -> None:
    import time

    time.sleep(1000)


def hang_in_c() -> None:
    import collections
    import itertools

    collections.deque(itertools.repeat(0), maxlen=0)


def hang_on() -> None:
    while True:
        try:
            while True:
                pass
        except BaseException:  # noqa: BLE001  (it is what the test is about)
            pass


def hang_in_a_child() -> None:
    import subprocess

    subprocess.run(["sleep", "1000"], check=True)


@pytest.mark.parametrize("hang", [hang_in_python, hang_in_sleep, hang_in_a_child, hang_in_c, hang_on])
def test_a_task_over_its_deadline_is_stopped(kind: str, hang: Callable[[], None]) -> None:
    with Driver(kind, slots=1, grace_s=0.3) as driver:
        pid = driver.run(os.getpid).value
        end = driver.run(hang, timeout_s=0.3)
        assert end.status == Status.TIMEOUT
        assert 0.25 < end.elapsed_s < 20
        assert "ran longer than its timeout of 0.3 s" in report_of(end.value).message
        # Who listens keeps his worker, who does not gets a new one.
        assert (driver.run(os.getpid).value == pid) == (hang not in (hang_in_c, hang_on))


@pytest.mark.parametrize("hang", [hang_in_python, hang_in_sleep, hang_in_c])
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
    refs = driver.assign(driver.add(hang_in_sleep), [()] * 1000)
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


# -------------------------------------------------------------------------------------------------------------- output


def test_output_of_every_kind_is_its_tasks(driver: Driver) -> None:
    def speak(n: int) -> None:
        import ctypes
        import os
        import subprocess
        import sys

        print("print", n)
        print("no newline", n, end="")
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
        import time

        print("now", flush=True)
        time.sleep(1000)

    ref = driver.start(speak)
    driver.until(lambda: driver.output[ref][1] == b"now\n")
    driver.withdraw([ref], stop=True)
    driver.wait([ref])


def test_output_over_the_limit_is_cut_and_the_task_goes_on(single: Driver) -> None:
    def shout() -> str:
        import os

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
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    print("nobody sees this")


def break_stdout_by_replacing() -> None:
    import io
    import sys

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
    ref = single.start(lambda: print("fine") or __import__("os").system("echo too"))
    single.wait([ref])
    assert single.ended[ref].worker == end.worker
    assert single.output[ref][1] == b"fine\ntoo\n"


def test_a_task_that_breaks_its_surroundings_does_not_break_the_next(single: Driver) -> None:
    def break_them() -> None:
        import os
        import signal
        import sys

        os.chdir("/")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.setrecursionlimit(50)

    def look() -> tuple[str, int, bool]:
        import os
        import signal
        import sys

        return os.getcwd(), sys.getrecursionlimit(), callable(signal.getsignal(signal.SIGINT))

    before = single.run(look).value
    single.run(break_them)
    assert single.run(look).value == before


# -------------------------------------------------------------------------------------------------- the pool's own end


def test_the_pool_ends_with_everything_at_work(kind: str) -> None:
    driver = Driver(kind)
    driver.assign(driver.add(hang_in_sleep), [()] * 10)
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
    driver.assign(driver.add(hang_in_sleep), [()] * 100)
    driver.until(lambda: len(driver.started) == 2)
    driver.pool.reset(time.monotonic())
    assert driver.run(lambda: 1).value == 1
    assert len(driver.ended) == 1


def test_a_template_that_is_killed_is_replaced() -> None:
    with Driver("template") as driver:
        ref = driver.start(hang_in_sleep)
        driver.until(lambda: ref in driver.started)
        worker = driver.pool._lines[1].pid or driver.pool._lines[2].pid
        template = psutil.Process(worker).ppid()
        os.kill(template, signal.SIGKILL)
        driver.wait([ref])
        assert driver.ended[ref].status == Status.DIED
        assert "its template died of SIGKILL" in report_of(driver.ended[ref].value).message
        assert driver.run(lambda: 1).value == 1
        wait_until(lambda: not alive(worker))


@pytest.mark.parametrize("kind", ["template", "spawn"])
def test_workers_that_cannot_start_are_given_up(kind: str, tmp_path: Path) -> None:
    # given: an environment in which a worker ends as soon as it begins
    broken = (sys.executable, "-c", "print('no such library'); raise SystemExit(4)")
    env = environment(1, 1, os.environ)
    launcher = TemplateLauncher(env, broken) if kind == "template" else SpawnLauncher(env, broken)
    driver = Driver.__new__(Driver)
    driver.__dict__.update(vars(Driver(kind, 1)) | {})  # replaced below
    driver.pool.close()
    driver.pool = Pool(1, launcher)
    driver.pool.start(time.monotonic())
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
from tests.integration.pool_driver import Driver

def leave():
    import collections, itertools, os, subprocess
    child = subprocess.Popen(["sleep", "1000"])
    print(os.getpid(), child.pid, flush=True)
    collections.deque(itertools.repeat(0), maxlen=0)

driver = Driver(sys.argv[1])
refs = driver.assign(driver.add(leave), [()] * 2)
driver.until(lambda: all(driver.output[ref][1].endswith(b"\\n") for ref in refs))
print(*(driver.output[ref][1].decode().strip() for ref in refs), flush=True)
time.sleep(1000)
"""


def test_nothing_survives_a_slave_that_is_killed(kind: str) -> None:
    # given: a slave whose workers hold their interpreters and have children
    with subprocess.Popen([sys.executable, "-c", OWNER, kind], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 4
        pids += [child.pid for child in psutil.Process(owner.pid).children(recursive=True)]
        assert all(map(alive, pids))
        # when
        owner.kill()
        # then
        wait_until(lambda: not any(map(alive, pids)), within_s=3)


def test_the_slave_stays_light() -> None:
    code = "import sys, concurrent_nb.workers.pool; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"cloudpickle", "tornado", "numpy", "asyncio", "multiprocessing", "zmq"} & set(modules)
