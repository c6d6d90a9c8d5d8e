"""What `map` promises beyond the standard library: items packed into tasks, and yet each with an end of its own."""

import copy
import gc
import itertools
import os
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster, errors
from tests import fixtures, work
from tests.clusters import check_script, eventually
from tests.work import PATIENCE_S

cluster = fixtures.shared_cluster()
leaves_nothing_behind = fixtures.leaves_nothing_behind
app = fixtures.app


def outcomes(app: ApplicationNode, function: Any, items: Any, **options: Any) -> list[Any]:
    return list(app.map(function, items, timeout=PATIENCE_S, return_exceptions=True, **options))


class Point:
    """Changeable, so it cannot be packed with others."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    __hash__ = None  # type: ignore[assignment]


def kinds(number: int) -> Any:
    """Return a value of another type for each number."""
    made: list[Any] = [
        number,
        f"text {number}",
        number / 2,
        None,
        [number],
        {"n": number},
        (number, "t"),
        Point(number),
    ]
    made += [b"bytes", np.full(3, number), {number}, True]
    return made[number % len(made)]


@pytest.mark.parametrize("chunksize", [None, 1, 7, 1000])
@pytest.mark.parametrize("buffersize", [None, 50])
def test_items_of_all_kinds_keep_their_order_and_their_ends(
    app: ApplicationNode, chunksize: int | None, buffersize: int | None
) -> None:
    def picky(x: Any) -> Any:
        if type(x) is int and x % 36 == 0:
            raise ValueError(x)
        return x

    found = outcomes(app, picky, map(kinds, range(500)), chunksize=chunksize, buffersize=buffersize)
    assert len(found) == 500
    for number, result in enumerate(found):
        expected = kinds(number)
        if number % 36 == 0:
            assert (type(result), result.args) == (ValueError, (number,))
            assert "in picky" in str(result.__cause__)
        elif isinstance(expected, np.ndarray):
            assert np.array_equal(result, expected)
        else:
            assert result == expected


def test_many_short_items_are_few_tasks(app: ApplicationNode, cluster: Cluster) -> None:
    before = sum(slave["done"] for slave in cluster.status()["slaves"])
    assert list(app.map(work.square, range(50_000))) == [n * n for n in range(50_000)]
    eventually(lambda: sum(slave["done"] for slave in cluster.status()["slaves"]) > before, "tasks are counted")
    assert sum(slave["done"] for slave in cluster.status()["slaves"]) - before < 5_000


def test_slow_items_run_at_the_same_time(app: ApplicationNode, tmp_path: Path) -> None:
    # The two wait for each other, so they end only if neither stands behind the other.
    a, b = tmp_path / "a", tmp_path / "b"
    assert len(list(app.map(work.start_and_wait, [a, b], [b, a], timeout=PATIENCE_S))) == 2


def test_an_error_tells_the_users_own_lines_and_where_it_was(app: ApplicationNode) -> None:
    def reciprocal(x: int) -> float:
        return 1 / x

    found = outcomes(app, reciprocal, [1, 0, 2], chunksize=3)
    alone = app.submit(reciprocal, 0).exception(PATIENCE_S)
    assert [found[0], found[2]] == [1.0, 0.5]
    assert isinstance(found[1], ZeroDivisionError)
    assert isinstance(found[1].__cause__, errors.RemoteTraceback)
    assert alone is not None
    assert str(found[1].__cause__) == str(alone.__cause__)


def test_the_first_error_is_raised_in_its_place_and_is_the_end(app: ApplicationNode) -> None:
    results = app.map(divmod, [6, 6, 6], [2, 0, 3], chunksize=3)
    assert next(results) == (3, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_items_that_cannot_travel_fail_alone(app: ApplicationNode) -> None:
    def value_of(x: Any) -> Any:
        return {"stay": work.CannotGo(), "explode": work.Grenade()}.get(x, 0) if isinstance(x, str) else x

    items = [1, threading.Lock(), "stay", "explode", work.Grenade(), 6]
    for chunksize in (None, 6):
        found = outcomes(app, value_of, items, chunksize=chunksize)
        expected = [
            int,
            errors.NotPicklable,
            errors.ResultNotPicklable,
            errors.ResultNotLoadable,
            errors.FunctionNotLoadable,
            int,
        ]
        assert [type(one) for one in found] == expected
        assert [found[0], found[5]] == [1, 6]


def test_a_function_that_cannot_travel_is_refused(app: ApplicationNode) -> None:
    lock = threading.Lock()
    with pytest.raises(errors.NotPicklable):
        app.map(lambda x: lock, range(3))


def one_more(thing: Any) -> Any:
    return thing + 1


@pytest.mark.parametrize("size", [100, 20_000, 200_000])
def test_arrays_go_and_come_among_small_items(app: ApplicationNode, size: int) -> None:
    items = [1, np.arange(size), 2, np.arange(size)[::2], 3]
    for chunksize in (None, 2, 5):
        found = list(app.map(one_more, items, chunksize=chunksize))
        assert found[::2] == [2, 3, 4]
        assert np.array_equal(found[1], np.arange(size) + 1)
        assert np.array_equal(found[3], np.arange(size)[::2] + 1)
        found[1] += 1  # results are their own


def test_an_item_is_what_it_was_when_it_was_read(app: ApplicationNode) -> None:
    def rows() -> Iterator[list[int]]:
        row = [0]
        for number in range(100):
            row[0] = number
            yield row

    assert list(app.map(sum, rows())) == list(range(100))


def test_no_item_sees_what_another_has_changed(app: ApplicationNode) -> None:
    def push(items: list[int]) -> list[int]:
        items.append(1)
        return items

    shared: list[int] = []
    found = list(app.map(push, [shared] * 20, chunksize=20))
    assert found == [[1]] * 20
    assert len({id(one) for one in found}) == 20
    assert shared == []


def test_whoever_kills_his_worker_takes_no_neighbour_along(app: ApplicationNode) -> None:
    def deadly(x: int) -> int:
        if x == 37:
            os._exit(3)
        return x

    found = outcomes(app, deadly, range(60), chunksize=60)
    assert isinstance(found[37], errors.PoisonTask)
    assert found[:37] + found[38:] == [n for n in range(60) if n != 37]


def test_a_worker_that_dies_once_costs_no_result(app: ApplicationNode, tmp_path: Path) -> None:
    found = outcomes(app, work.die_once, [tmp_path / f"{n // 10}" for n in range(30)], chunksize=10)
    assert all(isinstance(pid, int) for pid in found)


def test_an_item_that_raises_an_interrupt_fails_alone(app: ApplicationNode) -> None:
    def odd(x: int) -> int:
        if x == 5:
            raise KeyboardInterrupt("mine")
        return x

    found = outcomes(app, odd, range(10), chunksize=10)
    assert type(found[5]) is KeyboardInterrupt
    assert found[:5] + found[6:] == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_what_items_print_comes_out_here(app: ApplicationNode, capsys: pytest.CaptureFixture[str]) -> None:
    list(app.map(work.say, [f"line {n}" for n in range(200)]))
    assert sorted(capsys.readouterr().out.split("\n")) == sorted(["", *(f"line {n}" for n in range(200))])


@pytest.mark.parametrize("buffersize", [1, 2, 10, 1000])
def test_an_endless_input_is_read_only_so_far_ahead(app: ApplicationNode, buffersize: int) -> None:
    read: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    results = app.map(work.square, endless(), buffersize=buffersize)
    assert len(read) == buffersize
    for number, result in enumerate(itertools.islice(results, 50 + 10 * buffersize)):
        assert result == number * number
        assert len(read) <= number + 1 + buffersize
    results.close()  # type: ignore[attr-defined]


def test_what_the_input_raises_later_comes_where_it_is_read(app: ApplicationNode) -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise KeyError("no more input")

    results = app.map(work.square, broken(), buffersize=2)
    with pytest.raises(KeyError, match="no more input"):
        list(results)
    assert list(results) == []


def test_a_slow_input_is_worked_on_while_it_is_read(app: ApplicationNode, tmp_path: Path) -> None:
    def paths() -> Iterator[Path]:
        for number in range(5):
            path = tmp_path / str(number)
            yield path
            work.wait_for(path)  # the item has run before the next one is read

    assert list(app.map(work.touch, paths())) == ["0", "1", "2", "3", "4"]


def test_closing_cancels_and_lets_everything_go(app: ApplicationNode) -> None:
    results = app.map(time.sleep, [0.001] * 10_000)
    next(results)
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
    assert time.monotonic() - started < 5  # of the ten seconds that all would take
    reference = weakref.ref(results)
    del results
    gc.collect()
    assert reference() is None


def test_a_map_that_nobody_reads_runs_to_its_end(app: ApplicationNode, tmp_path: Path) -> None:
    app.map(work.touch, [tmp_path / str(number) for number in range(100)])
    eventually(lambda: len(list(tmp_path.iterdir())) == 100, "all items have run")


def test_shutdown_waits_for_all_items_of_a_map(cluster: Cluster) -> None:
    assert cluster.connection_file is not None
    with concurrent_nb.connect(cluster.connection_file) as app:
        results = app.map(work.square, range(20_000))
    assert list(results) == [n * n for n in range(20_000)]


def test_shutdown_may_cancel_the_items_that_do_not_run(cluster: Cluster) -> None:
    assert cluster.connection_file is not None
    app = concurrent_nb.connect(cluster.connection_file)
    results = app.map(time.sleep, [0.005] * 20_000, return_exceptions=True)
    app.shutdown(cancel_futures=True)
    found = list(results)
    assert len(found) == 20_000
    assert {type(one) for one in found} <= {type(None), CancelledError}
    assert sum(one is None for one in found) < 10_000


def test_after_a_shutdown_an_input_is_read_no_further(cluster: Cluster) -> None:
    assert cluster.connection_file is not None
    app = concurrent_nb.connect(cluster.connection_file)
    results = app.map(work.square, itertools.count(), buffersize=4)
    app.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        list(results)


def test_an_application_that_is_closed_ends_its_maps(cluster: Cluster) -> None:
    assert cluster.connection_file is not None
    app = concurrent_nb.connect(cluster.connection_file)
    results = app.map(time.sleep, [0.05] * 1000, return_exceptions=True)
    app.close()
    assert len(list(results)) == 1000


MAIN = """
    import sys
    import concurrent_nb

    class Point:
        def __init__(self, x):
            self.x = x

    class Mine(Exception):
        pass

    def scaled(point):
        if point.x == 7:
            raise Mine(point.x)
        return Point(point.x * 2)

    with concurrent_nb.connect(sys.argv[1]) as app:
        found = list(app.map(scaled, map(Point, range(200)), return_exceptions=True))
        assert type(found[7]) is Mine and "in scaled" in str(found[7].__cause__)
        del found[7]
        assert all(type(point) is Point for point in found)
        assert [point.x for point in found] == [2 * n for n in range(200) if n != 7]
        print("fine")
"""


def test_objects_and_errors_of_main_come_back_as_what_they_were(cluster: Cluster, tmp_path: Path) -> None:
    check_script(MAIN, tmp_path, cluster)


def test_values_of_every_kind_come_back_as_they_went(app: ApplicationNode) -> None:
    """Atoms and tuples of atoms travel in rows, all else in pickles of its own, failures in a third way."""
    kinds = [
        1,
        (),
        (1, "two"),
        (2, b"no failure"),
        {2: b"nor this"},
        [3],
        (4, (5,)),
        None,
        ValueError("a value"),
        "six",
    ]
    values = kinds * 40
    back = list(app.map(copy.copy, values, chunksize=7))
    assert [*map(repr, back)] == [*map(repr, values)]
    assert [*map(type, back)] == [*map(type, values)]
