"""Large buffers on one host: arrays of every kind arrive, nobody sees another's changes, and nothing is left behind."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from concurrent_nb import ApplicationNode, Cluster
from concurrent_nb.errors import MasterLost, NotPicklable
from concurrent_nb.workers.worker_side.task_loop import IDLE_S
from tests import fixtures, leaks
from tests.clusters import (
    BRISK,
    eventually,
    master_pid,
    nothing_left_but_workers,
    shared_cluster,
    slave_pids,
    workers_of,
)
from tests.work import PATIENCE_S, wait_for

MIB = 1024 * 1024


cluster = fixtures.shared_cluster()


@pytest.fixture(scope="module")
def app(cluster: Cluster) -> ApplicationNode:
    return cluster.application()


def echo(thing: Any) -> Any:
    return thing


def first(array: Any) -> float:
    return float(array[0])


def changed(array: Any) -> float:
    array += 1
    return float(array.sum())


def large(value: float = 1.0) -> Any:
    return np.full(MIB // 4, value)


STRUCTURED = np.zeros(50_000, dtype=[("a", "i4"), ("b", "f8", (2,)), ("c", "S5")])
STRUCTURED["c"] = b"three"
ARRAYS: dict[str, Any] = {
    **{
        kind: (np.arange(200_000) % 100).astype(kind)
        for kind in ("?", "i1", "u2", "i4", "f2", "f4", "f8", "c16", ">i8", ">f4")
    },
    "datetime64": np.arange(100_000).astype("datetime64[s]"),
    "text": np.array([f"{n}" for n in range(50_000)]),
    "objects": np.array([None, {"a": 1}, "b"] * 10_000, dtype=object),
    "structured": STRUCTURED,
    "record": STRUCTURED.view(np.recarray),
    "Fortran order": np.asfortranarray(np.arange(250_000.0).reshape(500, 500)),
    "strided": np.arange(400_000.0)[::2],
    "backwards": np.arange(200_000.0)[::-1],
    "transposed slice": np.arange(1_000_000.0).reshape(1000, 1000)[100:700, ::3].T,
    "broadcast": np.broadcast_to(np.arange(1000.0), (500, 1000)),
    "empty": np.empty((0, 100_000)),
    "zero-dimensional": np.array(3.5),
    "masked": np.ma.masked_greater(np.arange(200_000.0), 100_000),
    "read-only": np.frombuffer(bytes(range(250)) * 1000, dtype="u1"),
    "one byte below": np.zeros(64 * 1024 - 1, dtype="u1"),
    "just as large": np.ones(64 * 1024, dtype="u1"),
    "mapped": np.ones(MIB, dtype="u1"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_kind_arrive(app: ApplicationNode, kind: str) -> None:
    array = ARRAYS[kind]
    back = app.submit(echo, array).result(PATIENCE_S)
    assert type(back) is type(array) and back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    if isinstance(array, np.ma.MaskedArray):
        np.testing.assert_array_equal(back.mask, array.mask)
    assert back.flags.f_contiguous == array.flags.f_contiguous or not array.flags.forc


def test_frames_and_things_with_several_buffers_arrive(app: ApplicationNode) -> None:
    frame = pd.DataFrame({"n": range(100_000), "x": np.arange(100_000.0), "text": ["abc"] * 100_000})
    pd.testing.assert_frame_equal(app.submit(echo, frame).result(PATIENCE_S), frame)
    several = {"a": large(1), "b": [large(2), np.arange(10), (bytes(200_000), bytearray(100_000))], "c": "x" * 300_000}
    back = app.submit(echo, several).result(PATIENCE_S)
    assert (back["a"] == 1).all() and (back["b"][0] == 2).all() and back["b"][1].tolist() == list(range(10))
    assert back["b"][2] == (bytes(200_000), bytearray(100_000)) and back["c"] == several["c"]


def test_what_changes_between_two_submits_gives_two_results(app: ApplicationNode) -> None:
    array = large(0)
    futures = []
    for value in range(8):
        array[:] = value
        futures.append(app.submit(first, array))
    assert [future.result(PATIENCE_S) for future in futures] == list(range(8))


def test_results_belong_to_who_asked(app: ApplicationNode) -> None:
    array = large(1)
    one, two = (app.submit(np.copy, array).result(PATIENCE_S) for _ in range(2))
    one[:] = 5
    assert (two == 1).all() and (array == 1).all()
    assert app.submit(first, array).result(PATIENCE_S) == 1
    # Also what was an argument: a task hands back what is its own.
    back = app.submit(echo, array).result(PATIENCE_S)
    back[:] = 7
    assert (array == 1).all() and (app.submit(echo, array).result(PATIENCE_S) == 1).all()


def test_results_that_are_kept_stay_as_they_are(app: ApplicationNode) -> None:
    kept = [app.submit(np.full, MIB // 4, value).result(PATIENCE_S) for value in range(6)]
    for value in range(30):
        app.submit(np.full, MIB // 4, -value).result(PATIENCE_S)
    assert [array[-1] for array in kept] == list(range(6))
    assert all((array == value).all() for value, array in enumerate(kept))


def test_what_a_task_keeps_of_its_arguments_stays_as_it_is(app: ApplicationNode) -> None:
    def keep(array: Any) -> None:
        import builtins

        builtins.__dict__.setdefault("kept", []).append((array, float(array[0])))

    def look() -> list[bool]:
        import builtins

        return [bool((array == value).all()) for array, value in builtins.__dict__.get("kept", [])]

    for value in range(20):
        app.submit(keep, large(value)).result(PATIENCE_S)
        assert app.submit(first, large(-value)).result(PATIENCE_S) == -value
    seen = [app.submit(look).result(PATIENCE_S) for _ in range(20)]
    assert any(seen) and all(map(all, seen))


def test_what_was_put_reaches_every_task_as_it_was(app: ApplicationNode) -> None:
    array, words = large(3), {"words": ["a", "b"]}
    shared, also = app.put(array), app.put(words)
    array[:] = 0
    words["words"].append("c")
    futures = [app.submit(lambda pair, rest: (first(pair[0]), rest), [shared, n], also) for n in range(20)]
    assert [future.result(PATIENCE_S) for future in futures] == [(3, {"words": ["a", "b"]})] * 20
    assert "ndarray" in repr(shared)
    with pytest.raises(NotPicklable, match="generator"):
        app.put(n for n in range(3))


def test_captured_arrays_reach_every_task(app: ApplicationNode) -> None:
    captured = large(2)

    def at(index: int) -> float:
        return float(captured[index])

    assert app.start_job(at, [(n,) for n in range(50)]).results(PATIENCE_S) == [2.0] * 50
    captured[7] = 9
    assert app.start_job(at, [(n,) for n in range(10)]).results(PATIENCE_S) == [2.0] * 7 + [9.0] + [2.0] * 2


def test_memory_is_used_again_and_does_not_grow(app: ApplicationNode) -> None:
    def open_here() -> int:
        return len([fd for fd in leaks.descriptors().values() if "memfd:concurrent_nb" in fd])

    for value in range(3):
        assert app.submit(echo, large(value)).result(PATIENCE_S)[0] == value
    before = open_here()
    for value in range(60):
        assert app.submit(echo, large(value)).result(PATIENCE_S)[0] == value
    gc.collect()
    eventually(lambda: open_here() <= before + 8, "segments are used again")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to see what another process has open")
def test_an_idle_worker_gives_back_the_memory_of_results_that_nobody_holds_any_more() -> None:
    def segments_of(pid: int) -> set[str]:
        links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        return {link for link in links if "concurrent_nb-" in link}

    with Cluster(workers=1, config=BRISK) as cluster:
        app = cluster.application()
        worker = app.submit(os.getpid).result(PATIENCE_S)
        of_others = segments_of(worker)  # what functions take along may lie in memory of the application
        held = [app.submit(large, n).result(PATIENCE_S) for n in range(8)]
        assert segments_of(worker) - of_others
        # It comes to rest while they are held, and hears of their end all the same.
        time.sleep(IDLE_S + 1.0)
        assert segments_of(worker) - of_others
        assert [array[0] for array in held] == list(range(8))
        held.clear()
        gc.collect()
        eventually(lambda: not segments_of(worker) - of_others, "the worker has given it back")


@pytest.mark.parametrize("victim", ["worker", "slave"])
def test_who_dies_takes_no_array_along(victim: str) -> None:
    with Cluster(workers=2, config=BRISK) as cluster:
        app = cluster.application()
        assert app.submit(first, large()).result(PATIENCE_S) == 1
        futures = [app.submit(lambda array, add: array + add, large(n), 1) for n in range(200)]
        for round_ in range(3):
            futures[20 * round_].result(PATIENCE_S)
            slaves = slave_pids(cluster)
            with contextlib.suppress(ProcessLookupError, ValueError):  # the last one is still in the status
                os.kill(min(workers_of(slaves) if victim == "worker" else slaves), signal.SIGKILL)
            eventually(lambda: cluster.status()["slaves"], "a slave is there")
        results = [future.result(PATIENCE_S) for future in futures]
        assert all((result == n + 1).all() for n, result in enumerate(results))


def test_an_application_that_dies_leaves_nothing(tmp_path: Path) -> None:
    with shared_cluster() as cluster:  # its tasks are stopped at once, and a worker may be replaced for that
        program = f"""
import sys, time, numpy as np, concurrent_nb
from pathlib import Path
app = concurrent_nb.connect({str(cluster.connection_file)!r})
futures = [app.submit(lambda array: array + 1, np.full(1 << 18, float(n))) for n in range(100)]
futures[0].result()
Path({str(tmp_path / "going")!r}).touch()
time.sleep(60)
"""
        app = cluster.application()
        assert app.submit(first, large(3)).result(PATIENCE_S) == 3
        with nothing_left_but_workers(cluster):
            process = subprocess.Popen([sys.executable, "-c", program])
            wait_for(tmp_path / "going")
            process.kill()
            process.wait()
            array = large(4)
            assert (app.submit(echo, array).result(PATIENCE_S) == 4).all()


def test_without_shared_memory_arrays_travel() -> None:
    with Cluster(workers=2, config={"MasterNode": {"share_memory": False}}) as cluster:
        app = cluster.application()
        array = large(5)
        shared = app.put(array)
        futures = [app.submit(lambda one, two: one + two, array, shared) for _ in range(5)]
        array[:] = 0
        assert all((future.result(PATIENCE_S) == 10).all() for future in futures)
        for kind in ("structured", "Fortran order", "empty"):
            np.testing.assert_array_equal(app.submit(echo, ARRAYS[kind]).result(PATIENCE_S), ARRAYS[kind])
        for given in (array, shared):
            assert app.submit(changed, given).result(PATIENCE_S) == app.submit(changed, given).result(PATIENCE_S)


def test_a_master_that_dies_leaves_nothing() -> None:
    with Cluster(workers=2, config=BRISK) as cluster:
        app = cluster.application()
        futures = [app.submit(lambda array: array + 1, large(n)) for n in range(100)]
        assert futures[10].result(PATIENCE_S)[0] == 11
        kept = futures[11].result(PATIENCE_S)
        os.kill(master_pid(cluster), signal.SIGKILL)
        with pytest.raises(MasterLost):
            app.submit(first, large()).result(PATIENCE_S)
        for future in futures:
            assert isinstance(future.exception(PATIENCE_S), MasterLost | None)
        assert (kept == 12).all()
