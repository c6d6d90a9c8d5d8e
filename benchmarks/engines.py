"""Throughput through the engines dask and ray, against their own clients. 2 workers, no-op tasks, one run.

    python -m benchmarks.engines [--rounds 3] [--tasks 2000] [--results FILE.md] [dask] [ray]

Every round measures the client and the engine in turn, on the same scheduler. Promised: one submit each at least 0.9 x
the client's, `map` at least 5 x the client's submits.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import concurrent_nb
from benchmarks import report
from benchmarks.peers import Contender, Dask, Ray

CLIENT: Final = "its own client, one submit each"
#: what is promised of each ratio to that
AT_LEAST: Final = {"engine, one submit each": 0.9, "engine, map": 5.0}


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


def measure(name: str, start: Any, rounds: int, count: int) -> list[list[str]]:
    """Measure an engine; return rows: engine, what, tasks/s, ratio to its client, what is promised, whether kept."""
    figures: dict[str, list[float]] = {}
    items = range(count)
    with start(2) as (contender, where):
        for is_measured in [False, *[True] * rounds]:  # the first round warms up
            # One after the other, because Ray's actors keep the CPUs that its own tasks need.
            measured = {CLIENT: rate(lambda: contender.each(noop, items), count)}
            with concurrent_nb.connect(where) as app:
                list(app.map(noop, range(100)))
                measured["engine, one submit each"] = rate(partial(submits, app, items), count)
                measured["engine, map"] = rate(partial(app.map, noop, items), count)
            for what, value in measured.items() if is_measured else ():
                figures.setdefault(what, []).append(value)
    rows = []
    for what, values in figures.items():
        ratio = statistics.median(value / client for value, client in zip(values, figures[CLIENT], strict=True))
        at_least = AT_LEAST.get(what)
        verdict = ["", ""] if at_least is None else [f"≥ {at_least} x", "met" if ratio >= at_least else "missed"]
        rows.append([name, what, f"{statistics.median(values):,.0f}", f"{ratio:.2f} x", *verdict])
        print("{:5} {:32} {:>10} tasks/s {:>10} {:>8} {}".format(*rows[-1]), flush=True)
    return rows


ENGINES = {"dask": dask, "ray": ray}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help="dask, ray; both if none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--results", type=Path, help="put the table into this report, as a section")
    options = parser.parse_args()
    names = options.engines or ENGINES
    rows = [row for name in names for row in measure(name, ENGINES[name], options.rounds, options.tasks)]
    if options.results is not None:
        about = report.about_section("engines", sys.argv[1:])
        words = f"{options.tasks:,} no-ops, 2 workers; medians of rounds, a ratio is the median of their ratios."
        head = ("engine", "what", "tasks/s", "of its own client", "promised", "is")
        text = f"{about} {words}\n\n{report.table(head, rows, (2, 3))}"
        report.write_section(options.results, "Engines: through ours and by their own clients", text)


if __name__ == "__main__":
    main()
