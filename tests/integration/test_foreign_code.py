"""What the user's own process does in our threads: nothing of it ends the application or loses an answer."""

import contextlib
import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from concurrent_nb import ApplicationNode, Cluster, Task
from concurrent_nb.errors import RemoteError, ResultNotLoadable
from concurrent_nb.nodes.application import client_thread
from tests import clusters, fixtures
from tests.work import PATIENCE_S

cluster = fixtures.shared_cluster()


@pytest.fixture
def app(cluster: Cluster) -> Iterator[ApplicationNode]:
    """Give the application, and see that it still works when the test is over."""
    app = cluster.application()
    yield app
    assert app.submit(pow, 2, 10).result(PATIENCE_S) == 1024


def says(text: str, times: int = 1) -> int:
    for _ in range(times):
        sys.stdout.write(f"{text}\n")
    return len(text)


class Hostile:
    """Raises something when it comes home."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return _raise, (self.kind,)


class SetState:
    """Raises in its own code when it comes home, and not when a worker unpickles it."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        if os.getpid() != state["pid"]:
            raise GeneratorExit("no state for you")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")

    __repr__ = __str__


class Stubborn(Exception):
    """Raises when it is unpickled anywhere but where it was made."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        if pid != os.getpid():
            raise KeyboardInterrupt("not here")

    def __reduce__(self) -> tuple[Any, ...]:
        return Stubborn, self.args


class Guarded(Exception):
    """Takes no attributes."""

    def __setattr__(self, name: str, value: object) -> None:
        raise SystemExit(f"no {name}")


class Liar:
    """Its class is a property that raises."""

    @property
    def __class__(self) -> Any:
        raise SystemExit("no class")

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise SystemExit("no class")


def _raise(kind: type[BaseException]) -> None:
    raise kind("while it is unpickled")


def gives(make: Callable[..., Any], *args: Any) -> Any:
    return make(*args)


def raises(make: Callable[..., BaseException], *args: Any) -> None:
    raise make(*args)


def raises_stubborn() -> None:
    raise Stubborn(os.getpid())


def raises_without_module() -> None:
    kind = type("Nameless", (Exception,), {})
    kind.__module__ = None  # type: ignore[assignment]
    raise kind("from nowhere")


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, Unspeakable])
def test_a_result_that_raises_when_it_is_opened_is_a_clear_error(
    kind: type[BaseException], app: ApplicationNode
) -> None:
    single = app.submit(gives, Hostile, kind).exception(PATIENCE_S)
    assert isinstance(single, ResultNotLoadable) and "cannot be unpickled here" in str(single)
    assert isinstance(single.__cause__, kind)
    job = app.start_job(gives, [(Hostile, kind), (int, "7"), (Hostile, kind)], batch=3)
    assert job.wait(PATIENCE_S)
    first, second, third = job.futures
    assert isinstance(first.exception(), ResultNotLoadable) and isinstance(third.exception(), ResultNotLoadable)
    assert second.result() == 7
    if kind is not KeyboardInterrupt:  # that is the stop button's in the thread that reads
        mapped = app.map(gives, [Hostile, int], [kind, "7"], return_exceptions=True, chunksize=2, timeout=PATIENCE_S)
        error, seven = mapped
        assert isinstance(error, ResultNotLoadable) and seven == 7


def test_a_result_whose_own_code_raises_is_a_clear_error(app: ApplicationNode) -> None:
    error = app.submit(SetState).exception(PATIENCE_S)
    assert isinstance(error, ResultNotLoadable) and "GeneratorExit: no state for you" in str(error)


def test_exceptions_that_misbehave_end_their_tasks_all_the_same(app: ApplicationNode) -> None:
    assert type(app.submit(raises, Unspeakable).exception(PATIENCE_S)) is Unspeakable
    stubborn = app.submit(raises_stubborn).exception(PATIENCE_S)
    assert isinstance(stubborn, RemoteError) and "Stubborn" in str(stubborn)
    assert app.submit(raises, Guarded).exception(PATIENCE_S) is not None
    assert "from nowhere" in str(app.submit(raises_without_module).exception(PATIENCE_S))
    liar = app.submit(gives, Liar)
    assert liar.exception(PATIENCE_S) is not None or type(liar.result()) is Liar


def test_tasks_print_into_streams_that_fail(app: ApplicationNode, caplog: pytest.LogCaptureFixture) -> None:
    closed = io.StringIO()
    closed.close()
    with open("/dev/full", "w") as full, pytest.MonkeyPatch.context() as patch:
        for stream in (closed, None, object(), full):
            patch.setattr(sys, "stdout", stream)
            assert app.submit(says, "lost").result(PATIENCE_S) == 4
        patch.setattr(sys, "stdout", io.StringIO())
        with contextlib.suppress(OSError):
            full.close()
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 3


def test_results_overtake_output_that_is_not_read_for_long_and_it_is_there_when_it_is_read(
    app: ApplicationNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_thread, "OVERTAKE_S", 1.0)
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as reader, open(writing, "w", encoding="utf-8") as writer:
        monkeypatch.setattr(sys, "stdout", writer)
        futures = [app.submit(says, f"{number:0500}", 4) for number in range(200)]
        assert [future.result(PATIENCE_S) for future in futures] == [500] * 200
        lines = [int(reader.readline()) for _ in range(800)]
    assert sorted(lines) == sorted([*range(200)] * 4)


def test_results_wait_for_output_that_is_read_late_and_nothing_else_does(
    app: ApplicationNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as reader, open(writing, "w", encoding="utf-8") as writer:
        monkeypatch.setattr(sys, "stdout", writer)
        job = app.start_job(says, [(f"{number:0500}", 4) for number in range(200)], prints=True, batch=10)
        with pytest.raises(TimeoutError):
            job.results(4.0)
        silent = app.start_job(pow, [(2, 3)])
        silent.cancel()  # which the application's thread has to do
        lines = [int(reader.readline()) for _ in range(800)]
        assert job.results(PATIENCE_S) == [500] * 200
        assert silent.wait(PATIENCE_S)
    assert sorted(lines) == sorted([*range(200)] * 4)


def test_output_of_a_task_is_there_before_its_result(app: ApplicationNode, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    for number in range(50):
        app.submit(says, f"number {number}").result(PATIENCE_S)
        assert stream.getvalue().endswith(f"number {number}\n")


def test_callbacks_and_receivers_that_raise_anything(app: ApplicationNode, caplog: pytest.LogCaptureFixture) -> None:
    ended: list[object] = []

    class Receiver:
        def task_finished(self, task: Task, result: object, error: BaseException | None) -> None:
            ended.append(result)
            raise SystemExit("a receiver")

    app.call_back(Receiver())
    try:
        for kind in (SystemExit, GeneratorExit, KeyboardInterrupt):
            future = app.push_task(Loud(kind))
            if kind is not KeyboardInterrupt:  # which is the stop button's, if the task has ended by now
                future.add_done_callback(lambda future, kind=kind: _raise(kind))  # type: ignore[misc]
            assert future.result(PATIENCE_S) == "done"
        clusters.eventually(lambda: len(ended) == 3, "the receiver is told of all tasks")
    finally:
        app.call_back(None)
    kinds = {type(record.exc_info[1]).__name__ for record in caplog.records if record.exc_info and record.exc_info[1]}
    assert kinds >= {"SystemExit", "GeneratorExit"}


class Loud(Task):
    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __call__(self) -> str:
        return "done"

    def finished(self, result: object, error: BaseException | None) -> None:
        raise self.kind("a task that is told of its end")


def test_presenters_and_handlers_of_loggers_that_raise(app: ApplicationNode, capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit("a handler")

    handler = Broken()
    logging.getLogger("concurrent_nb").addHandler(handler)
    logging.getLogger("concurrent.futures").addHandler(handler)
    app.present_errors(lambda future, error: _raise(KeyboardInterrupt))
    app.present_displays(lambda display: _raise(SystemExit))
    try:
        assert isinstance(app.submit(raises, ValueError, "own").exception(PATIENCE_S), ValueError)
        assert app.submit(shows).result(PATIENCE_S) == 1
        future = app.submit(pow, 2, 3)
        future.add_done_callback(lambda future: _raise(SystemExit))
        assert future.result(PATIENCE_S) == 8
    finally:
        app.present_errors(None)
        app.present_displays(None)
        logging.getLogger("concurrent_nb").removeHandler(handler)
        logging.getLogger("concurrent.futures").removeHandler(handler)
    assert "SystemExit: a handler" in capfd.readouterr().err


@pytest.mark.parametrize(
    "wait",
    [
        lambda app: app.submit(pow, 2, 3).result(),
        lambda app: app.submit(pow, 2, 3).exception(PATIENCE_S),
        lambda app: list(app.map(abs, [1])),
        lambda app: list(app.map(abs, [1], chunksize=1)),
    ],
)
def test_a_callback_that_waits_for_a_task_is_refused(
    app: ApplicationNode, wait: Callable[[ApplicationNode], Any]
) -> None:
    """It would wait in the thread that receives the results, for ever."""
    errors: SimpleQueue[BaseException | None] = SimpleQueue()

    def waits(future: Future[int]) -> None:
        try:
            wait(app)
        except RuntimeError as error:
            errors.put(error)
        else:
            errors.put(None)

    app.submit(time.sleep, 0.1).add_done_callback(waits)
    assert "may not wait for another task" in str(errors.get(timeout=PATIENCE_S))
    assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8


def shows() -> int:
    import concurrent_nb

    concurrent_nb.display("something")
    return 1


def test_a_script_whose_output_is_cut_off_ends_well(tmp_path: Path) -> None:
    script = tmp_path / "cut_off.py"
    script.write_text(
        "import concurrent_nb, os, sys\n"
        "def f(x): print('y' * 900); return x\n"
        "with concurrent_nb.Cluster(workers=1) as cluster:\n"
        "    app = cluster.application()\n"
        "    sys.stdout.write('first\\n'); sys.stdout.flush()\n"
        "    sys.stdin.readline()  # the reader has gone by now\n"
        "    results = [future.result(60) for future in [app.submit(f, x) for x in range(300)]]\n"
        "    os.write(2, f'RESULTS {results == list(range(300))}\\n'.encode())\n"
    )
    run = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "first\n"
    run.stdout.close()
    run.stdout = None
    _, said = run.communicate("\n", timeout=PATIENCE_S)
    assert "RESULTS True" in said
    assert said.count("cannot be written, and is dropped") == 1 and "BrokenPipeError" in said
