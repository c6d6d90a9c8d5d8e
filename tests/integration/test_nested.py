"""Tasks that submit tasks to their own cluster and wait for them."""

import asyncio
import concurrent.futures
import time
import types

import pytest

import concurrent_nb
from concurrent_nb import Cluster
from concurrent_nb.errors import ConfigurationError
from tests.clusters import BRISK, eventually
from tests.work import PATIENCE_S

WORKERS = 2
NAME = "nested"


def sum_of_squares(how: str, count: int) -> int:
    """Submit tasks from a task, and wait for them in one of the ways that there are."""
    app = concurrent_nb.connect(NAME)
    try:
        if how == "map":
            return sum(app.map(pow, range(count), [2] * count))
        futures = [app.submit(pow, number, 2) for number in range(count)]
        if how == "wait":
            concurrent.futures.wait(futures)
        elif how == "as_completed":
            return sum(future.result() for future in concurrent.futures.as_completed(futures))
        elif how == "poll":
            while not all(future.done() for future in futures):
                time.sleep(0.01)
        elif how == "await":

            async def gather() -> list[int]:
                return await asyncio.gather(*futures)

            return sum(asyncio.run(gather()))
        return sum(future.result() for future in futures)
    finally:
        app.shutdown()


def fibonacci(number: int) -> int:
    """Compute a Fibonacci number with two tasks for each that is not known."""
    if number < 2:
        return number
    app = concurrent_nb.connect(NAME)
    try:
        return sum(future.result() for future in [app.submit(fibonacci, number - less) for less in (1, 2)])
    finally:
        app.shutdown()


@concurrent_nb.task
def factorial(number: int, how: str = "call") -> int:
    """Compute a factorial; submit the recursive call in one of several ways."""
    if number < 2:
        return 1
    if how == "call":
        return number * factorial(number - 1)
    if how == "submit":
        return number * factorial.submit(number - 1).result()
    if how == "map":
        return number * factorial.map([number - 1]).results()[0]
    if how == "options":
        return number * factorial.options(retries=1).submit(number - 1).result()
    if how == "task":
        return number * concurrent_nb.task(abs).submit(number - 1).result()
    with concurrent_nb.connect(NAME) as app:
        return number * app.submit(factorial, number - 1, how).result()


def test_a_task_function_in_a_task_is_called_or_submitted_by_the_name_of_the_cluster() -> None:
    fact = factorial.function
    by_value = concurrent_nb.task(types.FunctionType(fact.__code__, {**fact.__globals__, "__name__": "__main__"}))
    assert isinstance(by_value.function, types.FunctionType)
    by_value.function.__defaults__ = fact.__defaults__
    by_value.function.__globals__["factorial"] = by_value
    by_value.function.__module__ = "__main__"
    with Cluster(workers=WORKERS, name=NAME, config=BRISK) as cluster:
        app = cluster.application()
        for how in ("call", "connect"):
            assert app.submit(by_value, 4, how).result(PATIENCE_S) == 24
        for how in ("submit", "map", "options", "task"):
            with pytest.raises(ConfigurationError, match=r"call it, f\(x\), or submit it .*connect\("):
                app.submit(by_value, 4, how).result(PATIENCE_S)


def test_as_many_waiting_tasks_as_workers_do_not_stand_still() -> None:
    with Cluster(workers=WORKERS, name=NAME, config=BRISK) as cluster:
        app = cluster.application()
        for how in ("result", "map", "wait", "as_completed", "poll", "await"):
            futures = [app.submit(sum_of_squares, how, 6) for _ in range(2 * WORKERS)]
            assert (how, [future.result(PATIENCE_S) for future in futures]) == (how, [55] * len(futures))
        assert app.submit(fibonacci, 5).result(PATIENCE_S) == 5
        eventually(
            lambda: [slave["slots"] for slave in cluster.status()["slaves"]] == [WORKERS], "the slots are given back"
        )
