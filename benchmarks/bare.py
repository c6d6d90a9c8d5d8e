"""Two processes that run a function on items in a plain loop: no framework is faster.

Each takes the next item when it has finished one, which costs a few microseconds, so that a disturbed core delays the
other one no more than with a framework. (With fixed shares a framework can be faster, and was, by up to 30 %.)

with Bare() as bare:
    seconds = bare.run("md5_search", ranges)
"""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from benchmarks import workloads


class Bare:
    """The processes, started and warm, while the `with` block lasts."""

    def __init__(self, processes: int = 2) -> None:
        self._count = processes
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.bare"]
        for _ in range(self._count):
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
        self.run("mandel_column", range(2))  # imports what it needs
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.communicate()  # closes its standard input, at which it ends

    def run(self, function: str, items: Sequence[Any]) -> float:
        """Return the seconds that it takes all processes to run a function of `workloads` on every item."""
        with tempfile.NamedTemporaryFile() as taken:
            taken.write(bytes(8))
            taken.flush()
            work = json.dumps([function, list(items), taken.name])
            started = time.perf_counter()
            for process in self._processes:
                assert process.stdin is not None
                process.stdin.write(work + "\n")
            for process in self._processes:
                assert process.stdout is not None
                if process.stdout.readline() != "done\n":
                    raise RuntimeError(f"a bare process that ran {function} ended with exit code {process.wait()}")
            return time.perf_counter() - started


def positions(counter: int, count: int) -> Iterator[int]:
    """Yield the positions of items that no other process has taken; `counter` is an open file."""
    while True:
        fcntl.flock(counter, fcntl.LOCK_EX)
        position = int.from_bytes(os.pread(counter, 8, 0), "little")
        os.pwrite(counter, (position + 1).to_bytes(8, "little"), 0)
        fcntl.flock(counter, fcntl.LOCK_UN)
        if position >= count:
            return
        yield position


def main() -> None:
    """Carry out the command in each line of standard input, until it ends."""
    for line in sys.stdin:
        name, items, taken = json.loads(line)
        function = getattr(workloads, name)
        with open(taken, "r+b", buffering=0) as counter:
            results = [function(items[position]) for position in positions(counter.fileno(), len(items))]
        sys.stdout.write("done\n")
        sys.stdout.flush()
        del results


if __name__ == "__main__":
    main()
