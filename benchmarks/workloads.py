"""The functions that tasks run, and their inputs.

Workers import this module by its name, and its import is part of a cluster's start, so heavy imports are in the
functions.
"""

import hashlib
import itertools
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

MIB = 2**20

MANDEL_WIDTH, MANDEL_HEIGHT, MANDEL_ITERATIONS = 1536, 1024, 20
MD5_TOP, MD5_TASKS = 2_000_000, 128
#: one of this many inputs of `mixed` fails
FAILS_EVERY = 1000


def noop(x: Any) -> Any:
    return x


def checked(x: Any) -> Any:
    """Return the argument; raise for a negative whole number."""
    if isinstance(x, int) and x < 0:
        raise ValueError(f"{x} is negative")
    return x


def mixed(count: int) -> list[Any]:
    """Return inputs of several types for `checked`; one of FAILS_EVERY fails."""
    kinds: tuple[Callable[[int], Any], ...] = (int, float, "item {}".format, lambda n: (n, str(n)), lambda n: None)
    return [-n if n % FAILS_EVERY == FAILS_EVERY - 1 else kinds[n % len(kinds)](n) for n in range(count)]


class Failure(NamedTuple):
    """An exception as a value. Plain exceptions would not work: Ray's pool raises those that are results."""

    error: Exception


def kept(function: Callable[[Any], Any], x: Any) -> Any:
    """Call the function; return an exception as a Failure. For APIs whose map ends at the first error."""
    try:
        return function(x)
    except Exception as error:  # noqa: BLE001  (it is the value)
        return Failure(error)


def who(seconds: float) -> int:
    """Occupy a worker for a moment; return its pid."""
    time.sleep(seconds)
    return os.getpid()


def gate(path: str) -> None:
    """Occupy a worker until a file of that name exists, so that a queue builds up."""
    while not os.path.exists(path):
        time.sleep(0.02)


def plus_one(array: Any) -> Any:
    """Return a new array of the same size, so that the way back cannot reuse the argument."""
    return array + 1


def touch(array: Any) -> int:
    """Read a little of a large array; return something small."""
    return int(array.nbytes) + int(array[0]) + int(array[-1])


def burn(seconds: float) -> int:
    """Use `seconds` of this thread's processor time; other load on the core makes it take longer."""
    end = time.thread_time() + seconds
    turns = 0
    while time.thread_time() < end:
        turns += 1
    return turns


def pass_time(duration_s: float) -> float:
    """Keep a core busy for a time; return it."""
    end = time.perf_counter() + duration_s
    while time.perf_counter() < end:
        pass
    return duration_s


def mandel_column(x: int) -> Any:
    """Column `x` of the Mandelbrot picture, in plain Python."""
    import numpy as np

    column = bytearray(MANDEL_HEIGHT)
    re = -2.0 + 3.0 * x / MANDEL_WIDTH
    for y in range(MANDEL_HEIGHT):
        c = complex(re, -1.0 + 2.0 * y / MANDEL_HEIGHT)
        z = 0j
        n = 0
        while n < MANDEL_ITERATIONS:
            z = z * z + c
            if z.real * z.real + z.imag * z.imag >= 4.0:
                break
            n += 1
        column[y] = n
    return np.frombuffer(column, dtype=np.uint8)


def md5_ranges() -> list[tuple[int, int]]:
    """Cut 1..MD5_TOP into ranges (first, one past the last)."""
    edges = [1 + MD5_TOP * k // MD5_TASKS for k in range(MD5_TASKS + 1)]
    return list(itertools.pairwise(edges))


def md5_search(span: tuple[int, int]) -> list[int]:
    """Search a range to its end, for a hash that does not occur."""
    wanted = "0" * 32
    return [n for n in range(*span) if hashlib.md5(str(n).encode()).hexdigest() == wanted]
