"""The master opens no pickle, whatever passes through it: Python itself watches a real master and would tell.

An audit hook in the master's process notes every `pickle.find_class` (and `marshal.loads`), and ends the process. What
is sent through it are pickles that name functions, so that to open one raises that event, and that say who opened them.
"""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode
from concurrent_nb.errors import FunctionNotLoadable, ResultNotLoadable
from concurrent_nb.outcome import Hit
from tests import work
from tests.clusters import eventually, running, status_of, workers_of
from tests.work import PATIENCE_S

#: runs `concurrent-nb` with the hook; the first argument is where it notes what it sees
WATCHED = """
    import os, sys

    notes = sys.argv.pop(1)

    def hook(event, arguments):
        if event in ("pickle.find_class", "marshal.loads") and not importing():
            with open(notes, "a") as file:
                print(event, *map(str, arguments[:2]), file=file)
            os._exit(66)

    def importing():  # Python keeps its own compiled modules with marshal
        frame = sys._getframe(2)
        return frame.f_globals.get("__name__", "").startswith(("importlib", "_frozen_importlib", "zipimport"))

    sys.addaudithook(hook)
    if sys.argv[1] == "prove":
        import pickle
        pickle.loads(b"cos\\nsystem\\n(S'true'\\ntR.")
    from concurrent_nb.cli.main import main
    sys.exit(main(sys.argv[1:]))
"""


class Opened:
    """Tells a file who opened its pickle, by way of the shell; `what` is where it was hidden."""

    def __init__(self, notes: Path, what: str) -> None:
        self.notes, self.what = notes, what

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo {self.what} $PPID >> {self.notes}",)


class OpenedFunction(Opened):
    """The same, as a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _function, (str(self.notes), self.what)

    def __call__(self) -> None:
        raise AssertionError("what is run is what my pickle gives")


def _function(notes: str, what: str) -> Any:
    note(Path(notes), what)
    return work.square


class OpenedError(Exception):
    """The same, as an exception."""

    def __init__(self, notes: Path) -> None:
        super().__init__(notes)
        self.notes = notes

    def __reduce__(self) -> tuple[Any, ...]:
        return _error, (self.notes,)


def _error(notes: Path) -> Exception:
    note(notes, "exception")
    return ValueError("from a pickle")


def note(notes: Path, what: str) -> None:
    work.note(notes, f"{what} {os.getpid()}")


def make_opened(notes: Path, what: str) -> list[Any]:
    return [Opened(notes, what), np.zeros(100_000)]


def raise_opened(notes: Path) -> None:
    raise OpenedError(notes)


def hit_opened(notes: Path, n: int) -> Any:
    work.say(f"task {n} says something")
    return Hit(Opened(notes, "hit")) if n == 5 else None


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    """Give a `concurrent-nb` with the hook."""
    script = tmp_path / "watched.py"
    script.write_text(textwrap.dedent(WATCHED))
    return script


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    """Give the file where the hook notes what it sees."""
    return tmp_path / "seen"


@pytest.fixture
def cluster(watched: Path, seen: Path) -> Iterator[tuple[ApplicationNode, int, set[int]]]:
    """Run a master under watch, and a slave; give an application, the master's pid, and those of the workers."""
    program = [sys.executable, str(watched), str(seen), "master", "--name", "watched"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as master:
        try:
            assert master.stdout is not None
            assert "is running" in master.stdout.readline()
            arguments = ("slave", "--connect", "watched", "--workers", "2")
            with running(*arguments, says="has joined") as slave, concurrent_nb.connect("watched") as app:
                eventually(lambda: len(workers_of([slave.pid])) == 2, "there are workers")
                yield app, master.pid, workers_of([slave.pid])
        finally:
            master.terminate()
            _, errors = master.communicate(timeout=PATIENCE_S)
    assert master.returncode == 0
    assert "Traceback" not in errors


def test_poisoned_pickles_pass_through_the_master_unopened(
    cluster: tuple[ApplicationNode, int, set[int]], seen: Path, tmp_path: Path
) -> None:
    app, master, workers = cluster
    opened = tmp_path / "opened"
    # When pickles that do something travel in functions, arguments, results and exceptions, small and large,
    function: Any = OpenedFunction(opened, "function")
    assert app.submit(function, 7).result(PATIENCE_S) == 49
    app.submit(work.echo, Opened(opened, "argument"), np.zeros(100_000)).result(PATIENCE_S)
    app.submit(work.echo, key=Opened(opened, "keyword")).result(PATIENCE_S)
    app.submit(make_opened, opened, "result").result(PATIENCE_S)
    assert str(app.submit(raise_opened, opened).exception(PATIENCE_S)) == "from a pickle"
    list(app.map(work.echo, [Opened(opened, "chunk")] * 6, chunksize=3))
    # ... in jobs of every kind,
    job = app.start_job(hit_opened, [(opened, n) for n in range(100)], until=True, retries=1, timeout_s=PATIENCE_S)
    assert job.wait(PATIENCE_S)
    assert job.hit is not None
    job = app.start_job(raise_opened, [(opened,)] * 20, stop_on_error=True)
    job.cancel()
    assert job.wait(PATIENCE_S)
    # ... and those that explode
    assert isinstance(app.submit(work.echo, work.Grenade()).exception(PATIENCE_S), FunctionNotLoadable)
    assert isinstance(app.submit(work.make_grenade).exception(PATIENCE_S), ResultNotLoadable)
    # Then workers and we have opened them, and nobody else
    lines = [line.split() for line in opened.read_text().splitlines()]
    assert {what for what, _ in lines} == {
        "function",
        "argument",
        "keyword",
        "result",
        "exception",
        "chunk",
        "hit",
    }
    assert {int(pid) for _, pid in lines} <= workers | {os.getpid()}
    # ... and Python has seen no pickle opened in the master, which has had all of it, and lives.
    assert master not in {int(pid) for _, pid in lines}
    assert not seen.exists()
    assert status_of("watched")["clients"][0]["done"] > 20


def test_the_watch_notices_a_pickle_that_is_opened(watched: Path, seen: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(watched), str(seen), "prove"], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ended.returncode == 66
    assert seen.read_text() == "pickle.find_class os system\n"
