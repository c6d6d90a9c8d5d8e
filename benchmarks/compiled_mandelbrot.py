"""The Mandelbrot set on a cluster of this machine: pure Python, Cython, and Cython with OpenMP, locally too.

    python benchmarks/compiled_mandelbrot.py [--workers N]

Prints times and the two promised ratios: compiled at least 40 times as fast as pure Python, both on the cluster, and a
task with OpenMP at most 1.4 times as slow as the same function called locally with as many threads.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from concurrent_nb import Cluster
from concurrent_nb.shipping.compiled.build import cython_version, make
from concurrent_nb.shipping.compiled.cache import Cache
from concurrent_nb.shipping.compiled.function import CythonFunction
from concurrent_nb.shipping.compiled.recipe import Recipe

WIDTH, HEIGHT, ITERATIONS = 1536, 1024, 20

CODE = """
# cython: boundscheck=False, wraparound=False, cdivision=True
import numpy as np
from cython.parallel cimport prange

cdef int escape(double cr, double ci, int iterations) noexcept nogil:
    cdef double zr = 0, zi = 0, t
    cdef int n
    for n in range(iterations):
        t = zr * zr - zi * zi + cr
        zi = 2 * zr * zi + ci
        zr = t
        if zr * zr + zi * zi >= 4:
            return n
    return iterations

def columns(int first, int last, int width, int height, int iterations):
    result = np.empty((last - first, height), np.uint8)
    cdef unsigned char[:, :] out = result
    cdef int x, y
    for x in range(first, last):
        for y in range(height):
            out[x - first, y] = escape(-2 + 3.0 * x / width, -1 + 2.0 * y / height, iterations)
    return result

def picture(int width, int height, int iterations):
    result = np.empty((width, height), np.uint8)
    cdef unsigned char[:, :] out = result
    cdef int x, y
    for x in prange(width, nogil=True, schedule="dynamic"):
        for y in range(height):
            out[x, y] = escape(-2 + 3.0 * x / width, -1 + 2.0 * y / height, iterations)
    return result
"""


def python_column(x: int, width: int, height: int, iterations: int) -> Any:
    import numpy as np

    column = np.empty(height, np.uint8)
    cr = -2 + 3.0 * x / width
    for y in range(height):
        ci = -1 + 2.0 * y / height
        zr = zi = 0.0
        for n in range(iterations):
            zr, zi = zr * zr - zi * zi + cr, 2 * zr * zi + ci
            if zr * zr + zi * zi >= 4:
                column[y] = n
                break
        else:
            column[y] = iterations
    return column


def compiled(openmp: bool) -> dict[str, CythonFunction]:
    build, _ = make(Recipe(CODE, ("-O3",), openmp, cython_version()), "", Cache())
    return {name: CythonFunction(build, name) for name in build.functions}


def best(run: Callable[[], Any], times: int) -> tuple[float, Any]:
    """Return the shortest time of several calls, and the last value."""
    shortest = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        value = run()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    size = (WIDTH, HEIGHT, ITERATIONS)
    with Cluster(workers=options.workers) as cluster:
        app = cluster.application()

        def job(function: Callable[..., Any], calls: Sequence[tuple[int, ...]]) -> Any:
            started = app.start_job(function, calls)
            return np.concatenate([np.atleast_2d(future.result()) for future in started.futures])

        alone, together = compiled(False), compiled(True)
        columns, picture = alone["columns"], together["picture"]
        app.submit(columns, 0, 1, *size).result()  # the slave has joined, and has the function
        python_s, expected = best(lambda: job(python_column, [(x, *size) for x in range(WIDTH)]), 1)
        step = 64
        parts = [(x, min(x + step, WIDTH), *size) for x in range(0, WIDTH, step)]
        cython_s, found = best(lambda: job(columns, parts), 7)
        here_s = there_s = float("inf")
        for _ in range(15):  # in turn, because other load on the machine changes
            took_s, pictured = best(lambda: picture(*size), 1)
            here_s = min(here_s, took_s)
            took_s, sent = best(lambda: app.submit(picture, *size).result(), 1)
            there_s = min(there_s, took_s)
    for array in (found, pictured, sent):
        assert np.array_equal(array, expected)
    print(f"pure Python on the cluster, a task per column        {python_s * 1000:8.1f} ms")
    print(f"Cython on the cluster, {len(parts)} tasks                      {cython_s * 1000:8.1f} ms")
    print(f"Cython with OpenMP, called here                      {here_s * 1000:8.1f} ms")
    print(f"Cython with OpenMP, one task                         {there_s * 1000:8.1f} ms")
    print(f"compiled is {python_s / cython_s:.0f} times as fast as pure Python (promised: 40)")
    print(f"a task with OpenMP takes {there_s / here_s:.2f} times as long as the call here (promised: 1.4)")


if __name__ == "__main__":
    main()
