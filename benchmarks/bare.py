"""Two processes that run a function on their share of the items in a plain loop: no framework is faster.

with Bare() as bare:
    seconds = bare.run("md5_search", ranges)
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
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
        shares = [json.dumps([function, list(items[first :: self._count])]) for first in range(self._count)]
        started = time.perf_counter()
        for process, share in zip(self._processes, shares, strict=True):
            assert process.stdin is not None
            process.stdin.write(share + "\n")
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline() != "done\n":
                raise RuntimeError(f"a bare process that ran {function} ended with exit code {process.wait()}")
        return time.perf_counter() - started


def main() -> None:
    """Do what each line of standard input says, until it ends."""
    for line in sys.stdin:
        name, items = json.loads(line)
        function = getattr(workloads, name)
        results = [function(item) for item in items]
        sys.stdout.write("done\n")
        sys.stdout.flush()
        del results


if __name__ == "__main__":
    main()
