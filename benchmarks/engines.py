"""Throughput through the engines dask and ray, against their own clients. 2 workers, no-op tasks, one run.

    python -m benchmarks.engines [--rounds 3] [--tasks 2000] [dask] [ray]

Every round measures the client and the engine in turn, on the same scheduler. Promised: one submit each at least 0.9 x
the client's, `map` at least 5 x the client's submits.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import concurrent_nb
from benchmarks.peers import Contender, Dask, Ray

#: what is promised of each ratio
SUBMIT_AT_LEAST = 0.9
MAP_AT_LEAST = 5.0


def noop(x: int) -> int:
    return x


def submits(app: concurrent_nb.ApplicationNode, items: range) -> list[int]:
    """Run a task of its own for each item."""
    return [future.result() for future in [app.submit(noop, n) for n in items]]


def rate(run: Callable[[], Any], count: int) -> float:
    """Return tasks per second of a run that returns its results."""
    start = time.perf_counter()
    assert list(run()) == list(range(count))
    return count / (time.perf_counter() - start)


@contextmanager
def dask(workers: int) -> Iterator[tuple[Contender, Any]]:
    """Start Dask; yield its client as a contender, and where the engine connects."""
    contender = Dask()
    contender.start(workers)
    try:
        yield contender, contender.client
    finally:
        contender.stop()


@contextmanager
def ray(workers: int) -> Iterator[tuple[Contender, Any]]:
    """Start Ray; yield it as a contender, and where the engine connects."""
    contender = Ray()
    contender.start(workers)
    try:
        yield contender, "ray"
    finally:
        contender.stop()


def measure(name: str, start: Any, rounds: int, count: int) -> bool:
    """Measure one engine; return whether it keeps what is promised."""
    figures: dict[str, list[float]] = {}
    items = range(count)
    with start(2) as (contender, where):
        for is_measured in [False, *[True] * rounds]:  # the first round warms up
            # One after the other, because Ray's actors keep the CPUs that its own tasks need.
            measured = {"client, one submit each": rate(lambda: contender.each(noop, items), count)}
            with concurrent_nb.connect(where) as app:
                list(app.map(noop, range(100)))
                measured["engine, one submit each"] = rate(partial(submits, app, items), count)
                measured["engine, map"] = rate(partial(app.map, noop, items), count)
            for what, value in measured.items() if is_measured else ():
                figures.setdefault(what, []).append(value)
    medians = {what: statistics.median(values) for what, values in figures.items()}
    client = medians["client, one submit each"]
    for what, value in medians.items():
        print(f"{name:5} {what:25} {value:10,.0f} tasks/s   {value / client:8.2f} x")
    return (
        medians["engine, one submit each"] >= SUBMIT_AT_LEAST * client
        and medians["engine, map"] >= MAP_AT_LEAST * client
    )


ENGINES = {"dask": dask, "ray": ray}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help="dask, ray; both if none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=2000)
    options = parser.parse_args()
    kept = {name: measure(name, ENGINES[name], options.rounds, options.tasks) for name in options.engines or ENGINES}
    for name, is_kept in kept.items():
        print(f"{name}: {'as promised' if is_kept else 'NOT as promised'}")


if __name__ == "__main__":
    main()
