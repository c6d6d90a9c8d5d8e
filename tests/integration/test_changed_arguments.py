"""Code that changes its arguments works for any size, and what a task changes is its own."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from concurrent_nb import ApplicationNode, Cluster, Needs
from tests.cells import task_of_cell
from tests.clusters import shared_cluster
from tests.work import PATIENCE_S

#: in the pickle, copied from shared memory, mapped from it
SIZES = [100, 40_000, 400_000]
THREAD = Needs(kind="thread")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with shared_cluster() as cluster:
        # The process of tasks in threads is there from now on.
        cluster.application().start_job(abs, [(1,)], needs=THREAD).results(PATIENCE_S)
        yield cluster


@pytest.fixture(scope="module")
def app(cluster: Cluster) -> ApplicationNode:
    return cluster.application()


@dataclasses.dataclass
class Measured:
    values: Any
    weights: Any


def add(array: Any) -> Any:
    array += 1
    return array


def add_to(array: Any, more: float) -> float:
    array += more
    return float(array[0])


def sort(array: Any) -> Any:
    array.sort()
    return array


def set_first(array: Any) -> Any:
    array[0] = 5
    return array[:10]


def set_in_frame(frame: Any) -> Any:
    frame.iloc[0, 0] = 7.0
    frame.loc[1, "y"] = 5.0
    frame["x"] = frame["x"] + 1
    return frame


def set_in_series(series: Any) -> Any:
    series.iloc[0] = 5
    return series


def change_attributes(measured: Any) -> Any:
    measured.values *= 2
    measured.weights[:] = measured.values
    return measured.values, measured.weights


def set_field(records: Any) -> Any:
    records["a"][0] = 9
    return records


def mask_first(masked: Any) -> Any:
    masked[0] = np.ma.masked
    masked[1] = 3
    return masked.sum(), masked.mask.sum()


def change_item(things: Any) -> Any:
    things[0][0] = 5
    return things[0], things[1]


def change_bytes(data: Any) -> Any:
    data[:3] = b"abc"
    return data[:10]


#: what a task does with its argument, and how that is made of a size
CHANGES: dict[str, tuple[Callable[[Any], Any], Callable[[int], Any]]] = {
    "+=": (add, lambda n: np.arange(float(n))),
    "sort": (sort, lambda n: np.arange(float(n))[::-1].copy()),
    "[0] =": (set_first, np.zeros),
    "strided": (add, lambda n: np.arange(2.0 * n)[::2]),
    "Fortran order": (add, lambda n: np.asfortranarray(np.ones((n // 10, 10)))),
    "structured": (set_field, lambda n: np.zeros(n, dtype=[("a", "i8"), ("b", "f4")])),
    "objects": (set_first, lambda n: np.array([None, "b"] * (n // 2), dtype=object)),
    "masked": (mask_first, lambda n: np.ma.masked_greater(np.arange(float(n)), n // 2)),
    "data frame": (set_in_frame, lambda n: pd.DataFrame({"x": np.arange(float(n)), "y": np.arange(float(n))})),
    "series": (set_in_series, lambda n: pd.Series(np.arange(n))),
    "data class": (change_attributes, lambda n: Measured(np.ones(n), np.zeros(n))),
    "the same twice": (change_item, lambda n: [np.zeros(n)] * 2),
    "bytearray": (change_bytes, lambda n: bytearray(8 * n)),
}


def same(one: Any, two: Any) -> bool:
    if isinstance(one, tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, pd.DataFrame | pd.Series):
        return bool(one.equals(two))
    return bool(np.all(one == two))


@pytest.mark.parametrize("kind", CHANGES)
def test_a_task_may_change_its_argument(app: ApplicationNode, kind: str) -> None:
    change, make = CHANGES[kind]
    for size in SIZES:
        expected = change(make(size))
        given = make(size)
        put = app.put(given)
        results = [
            *(app.submit(change, it).result(PATIENCE_S) for it in (given, given, put, put)),
            *app.map(change, [given] * 3, timeout=PATIENCE_S),
            *app.map(change, [put] * 3, chunksize=3, timeout=PATIENCE_S),
            *app.start_job(change, [(given,)] * 3, batch=3).results(PATIENCE_S),
        ]
        assert [same(result, expected) for result in results] == [True] * 13, size
        # Nobody has changed what is here; and what comes back is one's own.
        assert same(change(given), expected) and same(change(make(size)), expected)
        if kind != "masked":
            change(app.submit(lambda thing: thing, make(size)).result(PATIENCE_S))


def test_a_second_attempt_sees_what_the_first_has_seen(app: ApplicationNode, tmp_path: Path) -> None:
    def fail_at_first(array: Any, path: Path) -> float:
        array += 1
        if not path.exists():
            path.touch()
            raise OSError("the first time")
        return float(array[0])

    for size in SIZES:
        job = app.start_job(fail_at_first, [(np.zeros(size), tmp_path / f"{size}")], retries=1)
        assert job.results(PATIENCE_S) == [1.0]


def test_tasks_in_threads_may_change_their_arguments(app: ApplicationNode) -> None:
    for size in SIZES:
        given = np.zeros(size)
        job = app.start_job(lambda array: add(array)[-1], [(given,)] * 8, needs=THREAD)
        assert job.results(PATIENCE_S) == [1.0] * 8


def test_what_a_task_changes_of_captured_arrays_is_its_own(app: ApplicationNode) -> None:
    for size in SIZES:
        array, strided = np.zeros(size), np.zeros(2 * size)[::2]
        things: dict[str, Any] = {"array": array, "measured": Measured(np.zeros(size), [np.zeros(size)])}

        def change(index: int, given: Any = None) -> list[float]:
            mine = things["measured"].weights[0]  # noqa: B023  (it is sent at once)
            for it in (array, strided, mine):  # noqa: B023
                it += index
            return [float(it[-1]) for it in (array, strided, mine)]  # noqa: B023

        expected = [[float(index)] * 3 for index in range(12)]
        constant = functools.partial(add_to, np.zeros(size))
        assert list(app.map(change, range(12), timeout=PATIENCE_S)) == expected
        assert list(app.map(change, range(12), chunksize=5, timeout=PATIENCE_S)) == expected
        assert app.start_job(change, [(n,) for n in range(12)], batch=4).results(PATIENCE_S) == expected
        assert app.start_job(change, [(n,) for n in range(12)], needs=THREAD).results(PATIENCE_S) == expected
        assert [app.submit(constant, n).result(PATIENCE_S) for n in range(6)] == list(range(6))
        assert list(app.map(constant, range(12), chunksize=5, timeout=PATIENCE_S)) == list(range(12))
        assert array.sum() == strided.sum() == 0


def test_results_that_are_captured_arrays_are_as_they_were_when_each_was_given(app: ApplicationNode) -> None:
    for size in SIZES:
        array = np.zeros(size)

        def change(index: int) -> Any:
            array[:] += index  # noqa: B023  (it is sent at once)
            return array if index % 2 else array[: len(array) // 2]  # noqa: B023

        for results in (
            app.map(change, range(12), chunksize=6, timeout=PATIENCE_S),
            app.start_job(change, [(n,) for n in range(12)], batch=6).results(PATIENCE_S),
        ):
            assert [(it[0], it[-1]) for it in results] == [(n, n) for n in range(12)]


def test_a_worker_may_use_the_same_memory_for_each_result(app: ApplicationNode) -> None:
    """Of a chunk, too, whose results are sent together."""

    def fill(index: int) -> Any:
        import builtins

        scratch = builtins.__dict__.setdefault("scratch", np.zeros(20_000))
        scratch[:] = index
        return scratch

    for results in (
        app.map(fill, range(16), chunksize=8, timeout=PATIENCE_S),
        app.map(fill, range(200), timeout=PATIENCE_S),
        app.start_job(fill, [(n,) for n in range(16)], batch=8).results(PATIENCE_S),
    ):
        assert [result[0] - n for n, result in enumerate(results)] in ([0] * 16, [0] * 200)


def test_without_shared_memory_captured_arrays_are_a_tasks_own_or_the_error_says_what_to_do() -> None:
    with Cluster(workers=1, config={"MasterNode": {"share_memory": False}}) as cluster:
        app = cluster.application()
        for size in SIZES:
            array = np.zeros(size)

            def change(index: int) -> float:
                array[:] += index  # noqa: B023  (it is sent at once)
                return float(array[0])  # noqa: B023

            job = app.start_job(change, [(n,) for n in range(3)])
            if size == SIZES[-1] and isinstance(error := job.futures[0].exception(PATIENCE_S), ValueError):
                assert "hand them over as arguments" in error.__notes__[0]
            else:
                assert job.results(PATIENCE_S) == [0, 1, 2]


def test_a_cell_may_use_an_array_that_is_larger_than_any_pickle_may_be(app: ApplicationNode) -> None:
    names = {"__name__": "__main__", "big": np.ones(34 << 20)}  # 272 MiB
    task = task_of_cell("big[i] += i\nbig[: i + 1].sum(), big[-1]", names, for_text="i in range(4)")
    assert app.start_job(task.function, task.calls).results(PATIENCE_S) == [(1 + 2 * i, 1) for i in range(4)]
    assert names["big"][3] == 1  # type: ignore[index]


def test_what_was_put_may_be_captured(app: ApplicationNode) -> None:
    for size in SIZES:
        names = {"__name__": "__main__", "put": app.put(np.zeros(size))}
        task = task_of_cell("put += 1\nput[-1]", names, for_text="i in range(4)")
        assert app.start_job(task.function, task.calls).results(PATIENCE_S) == [1] * 4


def test_what_was_read_only_stays_so(app: ApplicationNode) -> None:
    for size in SIZES:
        given = np.zeros(size)
        given.flags.writeable = False
        for it in (given, app.put(given), [given]):
            with pytest.raises(ValueError, match="read-only"):
                app.submit(lambda it: add(it[0] if isinstance(it, list) else it), it).result(PATIENCE_S)
        assert not app.submit(lambda array: array, given).result(PATIENCE_S).flags.writeable


def test_a_task_hands_back_what_it_has_changed_in_part(app: ApplicationNode) -> None:
    """A task keeps a mapping of which some pages are its own and others are shared: those must not be used again."""

    def keep(array: Any) -> None:
        import builtins

        array[: len(array) // 2] += 1
        builtins.__dict__.setdefault("kept_changed", []).append((array, float(array[-1])))

    def look() -> list[bool]:
        import builtins

        kept = builtins.__dict__.get("kept_changed", [])
        return [array[0] == value + 1 and array[-1] == value for array, value in kept]

    for value in range(10):
        app.submit(keep, np.full(400_000, float(value))).result(PATIENCE_S)
        assert app.submit(lambda array: array[0], np.full(400_000, -1.0)).result(PATIENCE_S) == -1
    seen = [app.submit(look).result(PATIENCE_S) for _ in range(20)]
    assert any(seen) and all(map(all, seen))
