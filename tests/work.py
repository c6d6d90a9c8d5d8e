"""Functions for tasks to run: importable by workers, quick to import, and in step with the test through files."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import concurrent_nb
from concurrent_nb.errors import TooLarge

#: nothing that a test waits for takes longer on a machine that works, in seconds
PATIENCE_S = 60.0
POLL_S = 0.005


def wait_for(path: Path) -> Path:
    """Return when there is a file of this name."""
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody has made {path}")
        time.sleep(POLL_S)
    return path


def write_whole(path: Path, text: str) -> None:
    """Write a file that is never seen half written: who waits for it finds all of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")  # no pattern of a test finds it
    part.write_text(text)
    part.replace(path)


def start_and_wait(started: Path, until: Path) -> int:
    """Make a file, and return this worker's pid when there is another one."""
    write_whole(started, str(os.getpid()))
    wait_for(until)
    return os.getpid()


def pid_after(path: Path) -> int:
    """Return this worker's pid when there is a file of this name."""
    wait_for(path)
    return os.getpid()


def tell_pid_and_stay(folder: Path) -> None:
    """Make a file that is named like this worker's pid, and do not end."""
    (folder / str(os.getpid())).touch()
    time.sleep(10 * PATIENCE_S)


def orchestrate(connection_file: str, count: int) -> tuple[int, list[tuple[int, int]]]:
    """Be an application of a cluster, and wait for its tasks; give this worker's pid and what they gave."""
    import concurrent_nb  # here: most workers need not

    with concurrent_nb.connect(connection_file) as app:
        return os.getpid(), list(app.map(slow_square, range(count)))


def interval(seconds: float) -> tuple[float, float]:
    """Sleep; give when that began and ended, on this machine's monotonic clock."""
    begin = time.monotonic()
    time.sleep(seconds)
    return begin, time.monotonic()


def threads_meant() -> str:
    """Give how many threads libraries are meant to have."""
    return os.environ["OMP_NUM_THREADS"]


def wait_and_fail(until: Path) -> NoReturn:
    """Raise when there is a file of this name."""
    wait_for(until)
    raise ValueError("I was told to")


def touch(path: Path) -> str:
    """Make a file, and give its name."""
    path.touch()
    return path.name


def note(path: Path, text: str) -> None:
    """Add a line to a file."""
    with open(path, "a") as file:
        file.write(text + "\n")


def echo(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def square(x: int) -> int:
    return x * x


def slow_square(x: int) -> tuple[int, int]:
    """Take a millisecond or so; give the square and who made it."""
    time.sleep(0.001)
    return x * x, os.getpid()


def pid_of_worker(_: object = None) -> int:
    return os.getpid()


def environment(name: str) -> str | None:
    return os.environ.get(name)


def add_one(array: Any) -> Any:
    """Change an array in place and give it back."""
    array += 1
    return array


def sum_with(array: Any, number: int) -> int:
    return int(array.sum()) + number


def sleep_in_steps(seconds: float) -> None:
    """Sleep, and let Python raise in between."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(POLL_S)


def make_bytes(size: int) -> bytes:
    return b"r" * size


def say(text: str, to_stderr: bool = False) -> None:
    print(text, file=sys.stderr if to_stderr else sys.stdout)


class Trouble(Exception):
    """An exception with an attribute beside its arguments."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what, code)
        self.code = code
        self.details = {"code": code}


class Unpicklable(Exception):
    """An exception that cannot be pickled."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("I stay here")


class Unloadable(Exception):
    """An exception that pickles, and whose pickle cannot be opened: it forgets an argument."""

    def __init__(self, what: str, more: str) -> None:
        super().__init__(what)


def raise_trouble() -> NoReturn:
    error = Trouble("it is broken", 7)
    error.add_note("and this is a note")
    raise error


def raise_this(error: BaseException) -> NoReturn:
    raise error


def raise_kind(kind: type[BaseException], *args: object) -> NoReturn:
    raise kind(*args)


def raise_unpicklable() -> NoReturn:
    raise Unpicklable("a lock, say")


def raise_unloadable() -> NoReturn:
    raise Unloadable("half of it", "the other half")


def make_generator() -> Iterator[int]:
    yield 1


class CannotGo:
    """An object that cannot be pickled."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("this one does not travel")


def make_cannot_go() -> CannotGo:
    return CannotGo()


class Grenade:
    """Pickles, and raises where its pickle is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _explode, ()


def _explode() -> NoReturn:
    raise RuntimeError("opened")


def make_grenade() -> Grenade:
    return Grenade()


def exit_now(code: int = 0) -> NoReturn:
    """End the process without a word, as a C library may."""
    os._exit(code)


def segfault() -> None:
    """Read what nobody may."""
    import ctypes

    ctypes.string_at(0)


def die_once(marker: Path) -> int:
    """Kill this worker the first time, answer the second time."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return os.getpid()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("I should be dead")


def fail_until(counter: Path, successes_from: int) -> int:
    """Fail until it has been called so often; count calls in a file."""
    note(counter, "called")
    calls = len(counter.read_text().splitlines())
    if calls < successes_from:
        raise ValueError(f"call {calls} of {successes_from}")
    return calls


def loop_in_python() -> None:
    """Never end, but where an exception is raised."""
    while True:
        pass


def sleep_long() -> None:
    """Sleep for longer than any test waits."""
    time.sleep(10 * PATIENCE_S)


def publish_for_ever() -> None:
    """Publish without a pause."""
    while True:
        try:
            concurrent_nb.publish(b"x" * 1000)
        except TooLarge:
            continue


def hold_the_gil() -> None:
    """Sleep in C without letting anything else of Python run."""
    import ctypes

    ctypes.PyDLL(None).sleep(600)


def spin() -> NoReturn:
    """Never end, whatever is raised."""
    while True:
        try:
            while True:
                pass
        except BaseException:  # noqa: BLE001  (this is the point of it)
            continue


def flood(size: int) -> int:
    """Write so many bytes to standard output."""
    line = b"o" * 1023 + b"\n"
    for _ in range(size // len(line)):
        os.write(1, line)
    return size


def sum_in_tasks(number: int) -> int:
    """Return the sum of the squares below a number, each computed by a task of this task."""
    return sum(concurrent_nb.application().map(square, range(number)))
