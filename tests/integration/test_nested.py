"""Tasks that submit tasks to their own cluster and wait for them."""

import asyncio
import concurrent.futures
import time

import concurrent_nb
from concurrent_nb import Cluster
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
