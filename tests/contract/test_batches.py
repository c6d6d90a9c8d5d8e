"""What `start_job(batch=...)` promises: all that it promises without, and many tasks to a message."""

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster, Needs
from concurrent_nb.errors import (
    ConfigurationError,
    FunctionNotLoadable,
    NotPicklable,
    PoisonTask,
    RemoteTraceback,
    ResultNotLoadable,
    ResultNotPicklable,
    TaskTimeout,
)
from concurrent_nb.nodes.application.job import Job, OutputPiece
from concurrent_nb.outcome import Hit, Status
from tests import fixtures, work
from tests.clusters import eventually
from tests.work import PATIENCE_S

Batch = int | Literal["auto"] | None
#: each by itself, then what must make no difference
SIZES: list[Batch] = [None, 1, 7, 1000, "auto"]


cluster = fixtures.shared_cluster()
leaves_nothing_behind = fixtures.leaves_nothing_behind
app = fixtures.app


def ended(app: ApplicationNode, function: Callable[..., Any], calls: Any, **options: Any) -> Job:
    """Run a job; return it when it has ended, each item once."""
    job = app.start_job(function, [call if type(call) is tuple else (call,) for call in calls], **options)
    assert job.wait(PATIENCE_S)
    assert sorted(future.index for future in job.ended) == list(range(len(job.futures)))
    return job


def ends(job: Job) -> list[Any]:
    """Return each item's value, or its exception."""
    return [None if future.cancelled() else future.exception() or future.result() for future in job.futures]


def kind(number: int) -> Any:
    made: list[Any] = [number, f"text {number}", [number], {"n": number}, None, np.full(3, number), b"bytes"]
    return made[number % len(made)]


@pytest.mark.parametrize("batch", SIZES)
def test_items_of_all_kinds_keep_their_order_and_their_ends(app: ApplicationNode, batch: Batch) -> None:
    def picky(x: Any) -> Any:
        if type(x) is int and x % 21 == 0:
            raise ValueError(x)
        return x

    items = [kind(number) for number in range(100)]
    job = ended(app, picky, items, batch=batch)
    assert (job.counts().done, job.counts().failed) == (95, 5)
    for number, result in enumerate(ends(job)):
        future = job.futures[number]
        assert (future.slave, future.worker > 0, future.attempt) == (job.futures[0].slave, True, 1)
        if number % 21 == 0:
            assert (type(result), result.args, future.status) == (ValueError, (number,), Status.ERROR)
            assert isinstance(result.__cause__, RemoteTraceback)
            frames = [line for line in str(result.__cause__).splitlines() if line.startswith("  File ")]
            assert [frame.endswith("in picky") for frame in frames] == [True]
        else:
            assert np.array_equal(result, items[number])


def test_many_short_items_are_few_tasks(app: ApplicationNode, cluster: Cluster) -> None:
    def done() -> int:
        return sum(slave["done"] for slave in cluster.status()["slaves"])

    before = done()
    assert ended(app, work.square, range(20_000), batch="auto").results() == [n * n for n in range(20_000)]
    ended(app, work.square, range(20_000), batch=100)
    eventually(lambda: done() > before, "tasks are counted")
    assert done() - before < 4_000


def test_items_that_cannot_travel_fail_alone(app: ApplicationNode) -> None:
    def value_of(x: Any) -> Any:
        return {"stay": work.CannotGo(), "explode": work.Grenade()}.get(x, 0) if isinstance(x, str) else x

    found = ends(ended(app, value_of, [1, "stay", "explode", work.Grenade(), 5], batch=5))
    assert [type(one) for one in found] == [int, ResultNotPicklable, ResultNotLoadable, FunctionNotLoadable, int]
    with pytest.raises(NotPicklable):
        app.start_job(value_of, [(1,), (threading.Lock(),)], batch=5)


@pytest.mark.parametrize("size", [100, 200_000])
def test_arrays_go_and_come_among_small_items(app: ApplicationNode, size: int) -> None:
    job = ended(app, work.echo, [1, np.arange(size), 2, np.arange(size)[::2], 3], batch=5)
    found = [args[0] for args, _ in job.results()]
    assert found[::2] == [1, 2, 3]
    assert np.array_equal(found[1], np.arange(size))
    assert np.array_equal(found[3], np.arange(size)[::2])


def test_the_first_error_ends_the_job(app: ApplicationNode) -> None:
    def fail_at(n: int) -> int:
        time.sleep(0.001)
        if n == 12:
            raise ValueError(n)
        return n

    job = ended(app, fail_at, range(2000), batch=5, stop_on_error=True)
    assert job.first_error is job.futures[12]
    assert job.futures[11].result() == 11
    assert job.futures[13].cancelled()  # it stood behind the error
    assert job.counts().cancelled > 1000


def test_a_hit_ends_the_job_and_what_stands_behind_it_never_runs(app: ApplicationNode, tmp_path: Path) -> None:
    def search(n: int) -> object:
        (tmp_path / str(n)).touch()
        time.sleep(0.001)
        return Hit(n) if n == 17 else n

    job = ended(app, search, range(3000), batch=10, until=True)
    assert job.hit is job.futures[17]
    assert (job.hit.result(), job.hit.status, job.futures[16].result()) == (17, Status.HIT, 16)
    assert [future.cancelled() for future in job.futures[18:20]] == [True, True]
    assert not (tmp_path / "18").exists()
    assert job.counts().failed == 0
    assert job.counts().cancelled > 1000


def test_stopping_keeps_what_has_finished(app: ApplicationNode, tmp_path: Path) -> None:
    job = app.start_job(_mark_and_stay, [(tmp_path, n) for n in range(40)], batch=10)
    eventually(lambda: {"3", "13"} <= {path.name for path in tmp_path.iterdir()}, "both workers stay in an item")
    eventually(lambda: job.counts().running == 2, "both batches are known to run")
    assert not job.futures[5].cancel()  # its batch runs
    job.cancel()
    assert job.wait(PATIENCE_S)
    assert [future.index for future in job.futures if not future.cancelled()] == [0, 1, 2, 10, 11, 12]
    assert job.futures[3].elapsed_s > 0  # it was stopped
    assert job.futures[4].elapsed_s == 0  # it never ran
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [0, 1, 2, 3, 10, 11, 12, 13]


def _mark_and_stay(folder: Path, n: int) -> None:
    (folder / str(n)).touch()
    if n % 10 == 3:
        time.sleep(1000)


def test_items_end_while_their_batch_goes_on(app: ApplicationNode, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def slow(n: int) -> int:
        if n == 3:
            work.wait_for(go)
        time.sleep(0.15)
        return n

    job = app.start_job(slow, [(n,) for n in range(6)], batch=6)
    eventually(lambda: job.counts().done >= 2, "the first items have ended")
    assert job.counts().running == 1
    assert not job.futures[3].done()
    first = job.futures[0]
    assert (first.result(0), first.attempt, bool(first.slave), first.worker > 0) == (0, 1, True, True)
    go.touch()
    assert job.results(PATIENCE_S) == [0, 1, 2, 3, 4, 5]
    assert len(job.ended) == 6


def test_single_items_that_wait_can_be_cancelled(app: ApplicationNode, tmp_path: Path) -> None:
    go = tmp_path / "go"
    calls = [(tmp_path / str(n), go) for n in range(40)]
    job = app.start_job(work.start_and_wait, calls, batch=5)
    eventually(lambda: job.counts().running == 2, "two batches run")
    assert all(future.cancel() for future in job.futures[30:40:3])
    go.touch()
    assert job.wait(PATIENCE_S)
    assert [future.index for future in job.futures if future.cancelled()] == [30, 33, 36, 39]
    assert job.counts().done == 36
    assert not (tmp_path / "30").exists()


def test_an_item_has_its_time_for_itself(app: ApplicationNode) -> None:
    def sleep(n: int) -> int:
        time.sleep(1000 if n == 4 else 0.1)
        return n

    job = ended(app, sleep, range(10), batch=10, timeout_s=0.5)
    assert isinstance(job.futures[4].exception(), TaskTimeout)
    assert "/4 ran longer" in str(job.futures[4].exception())
    assert [future.result() for future in job.futures if future.index != 4] == [0, 1, 2, 3, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("batch", SIZES)
def test_retries_are_for_the_items_that_fail(app: ApplicationNode, tmp_path: Path, batch: Batch) -> None:
    def once(n: int) -> int:
        path = tmp_path / str(n)
        with path.open("a") as file:
            file.write("x")
        if n % 4 == 0 and path.stat().st_size < 3:
            raise ValueError(n)
        return n

    job = ended(app, once, range(14), batch=batch, retries=2, stop_on_error=True)
    assert job.results() == list(range(14))
    assert [future.attempt for future in job.futures] == [3 if n % 4 == 0 else 1 for n in range(14)]
    assert [(tmp_path / str(n)).stat().st_size for n in range(14)] == [3 if n % 4 == 0 else 1 for n in range(14)]
    job = ended(app, work.raise_kind, [ValueError] * 8, batch=batch, retries=1)
    assert [future.attempt for future in job.futures] == [2] * 8


def test_whoever_kills_his_worker_takes_no_neighbour_along(app: ApplicationNode) -> None:
    def deadly(x: int) -> int:
        if x == 37:
            os._exit(3)
        return x

    found = ends(ended(app, deadly, range(60), batch=60))
    assert isinstance(found[37], PoisonTask)
    assert re.search(r"3 times the worker or the slave of task [0-9a-f]{8}/37 died", str(found[37]))
    assert found[:37] + found[38:] == [n for n in range(60) if n != 37]


def test_a_worker_that_dies_once_costs_no_result(app: ApplicationNode, tmp_path: Path) -> None:
    job = ended(app, work.die_once, [tmp_path / f"{n // 10}" for n in range(30)], batch=10)
    assert all(isinstance(pid, int) for pid in job.results())


def test_an_item_that_raises_an_interrupt_fails_alone(app: ApplicationNode) -> None:
    def odd(x: int) -> int:
        if x == 5:
            raise KeyboardInterrupt("mine")
        return x

    found = ends(ended(app, odd, range(10), batch=10))
    assert type(found[5]) is KeyboardInterrupt
    assert found[:5] + found[6:] == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_what_an_item_prints_and_says_is_its_own(app: ApplicationNode) -> None:
    def talk(n: int) -> None:
        work.say(f"out {n}")
        work.say(f"err {n}", to_stderr=True)
        concurrent_nb.publish(n)
        concurrent_nb.display(f"shown {n}")

    job = ended(app, talk, range(30), batch=7, watched=True)
    written: dict[tuple[int, int], str] = {}
    shown = {}
    for piece in job.take_output():
        if isinstance(piece, OutputPiece):
            key = piece.index, piece.stream
            written[key] = written.get(key, "") + piece.text
        else:
            shown[piece.index] = piece.display.data["text/plain"]
    expected = {(n, stream): f"{name} {n}\n" for n in range(30) for stream, name in ((1, "out"), (2, "err"))}
    assert written == expected
    assert shown == {n: repr(f"shown {n}") for n in range(30)}
    published = {note.index: note.content.value for note in job.take_notes()}  # type: ignore[union-attr]
    assert published == {n: n for n in range(30)}


def test_what_is_printed_at_once_has_no_marks(app: ApplicationNode, capsys: pytest.CaptureFixture[str]) -> None:
    ended(app, work.say, [f"line {n}" for n in range(50)], batch=10, prints=True)
    assert sorted(capsys.readouterr().out.split("\n")) == sorted(["", *(f"line {n}" for n in range(50))])


def test_shutdown_waits_for_all_items_and_may_cancel_those_that_do_not_run(cluster: Cluster) -> None:
    assert cluster.connection_file is not None
    for batch in (100, "auto"):
        with concurrent_nb.connect(cluster.connection_file) as app:
            squares = app.start_job(work.square, [(n,) for n in range(5000)], batch=batch)
        assert squares.results(0) == [n * n for n in range(5000)]
        app = concurrent_nb.connect(cluster.connection_file)
        job = app.start_job(time.sleep, [(0.005,)] * 20_000, batch=batch)
        app.shutdown(cancel_futures=True)
        assert job.wait(0)
        assert job.counts().done < 10_000
        assert job.counts().done + job.counts().cancelled == 20_000
        with pytest.raises(RuntimeError, match="shutdown"):
            app.start_job(work.square, [(1,)], batch=5)


@pytest.mark.parametrize("batch", [0, -1, 2.5, True, "many", "5"])
def test_what_is_no_size_is_refused(app: ApplicationNode, batch: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"batch is .*, it must be a whole number of at least 1"):
        app.start_job(work.square, [(1,)], batch=batch)


def test_tasks_in_threads_do_not_travel_in_batches(app: ApplicationNode) -> None:
    with pytest.raises(ConfigurationError, match="tasks in threads do not travel in batches"):
        app.start_job(work.square, [(1,), (2,)], batch=2, needs=Needs(kind="thread"))


def test_a_batch_of_nothing_has_ended(app: ApplicationNode) -> None:
    for batch in SIZES:
        assert app.start_job(work.square, [], batch=batch).results(PATIENCE_S) == []
