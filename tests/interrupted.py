"""A program that is interrupted at any moment of its calls, for tests of the stop button.

`python -m tests.interrupted FILE submit` submits to the cluster of a connection file, and `... map` maps. It prints
"fine" if every call was either interrupted or right.
"""

import faulthandler
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import concurrent_nb
from concurrent_nb import ApplicationNode, TaskFuture
from tests import work

#: the program has hung after so many seconds
HUNG_S = 50.0
#: interrupts are sent for so many seconds, at most
WITHIN_S = 40.0

CHANCE = random.Random(1)


class Interrupts:
    """Raises KeyboardInterrupt in calls, at any moment."""

    def __init__(self) -> None:
        self.count = 0
        self._armed = False
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background has it ignored
        signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT) if self._armed else None)

    def call(self, function: Callable[[], None], after_s: float) -> None:
        """Call a function, and interrupt it after this time if it has not returned."""
        signal.setitimer(signal.ITIMER_REAL, after_s)
        try:
            self._armed = True
            try:
                function()
            finally:
                self._armed = False
        except KeyboardInterrupt:
            self.count += 1
        signal.setitimer(signal.ITIMER_REAL, 0)


def submit(app: ApplicationNode, interrupts: Interrupts) -> None:
    """Submit tasks; those that were submitted end."""
    futures: list[tuple[int, TaskFuture[int]]] = []

    def calls() -> None:
        for n in range(200):
            futures.append((n, app.submit(work.square, n)))

    interrupts.call(calls, CHANCE.uniform(0.00005, 0.002))
    assert all(future.result(20) == n * n for n, future in futures)


def map_items(app: ApplicationNode, interrupts: Interrupts) -> None:
    """Map items; the results that came are right."""
    buffersize = CHANCE.choice([None, 1, 50])
    found: list[int] = []

    def calls() -> None:
        for result in app.map(work.square, range(3000), buffersize=buffersize):
            found.append(result)

    interrupts.call(calls, CHANCE.uniform(0.0001, 0.01))
    assert found == [n * n for n in range(len(found))]


def main(file: str, what: str) -> None:
    """Interrupt one kind of calls many times."""
    faulthandler.dump_traceback_later(HUNG_S, exit=True)
    interrupts = Interrupts()
    one_round, wanted = (submit, 100) if what == "submit" else (map_items, 60)
    with concurrent_nb.connect(Path(file)) as app:
        deadline = time.monotonic() + WITHIN_S
        while interrupts.count < wanted and time.monotonic() < deadline:
            one_round(app, interrupts)
        assert list(app.map(work.square, range(3000))) == [n * n for n in range(3000)]
    print("fine" if interrupts.count >= wanted else f"only {interrupts.count} interrupts")  # noqa: T201  (its answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
