"""A task system of no-op tasks from a generator, beside `map(chunksize=1)` in the same run; and its memory.

    python benchmarks/task_systems.py [--rounds 5] [--tasks 100000] [--long 1000000]

Prints tasks per second of both, their ratio, and by how many MiB master and system host have grown from a tenth of the
long run to its end. Quote ratios of one run; absolute figures vary with the machine's load.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import psutil

import concurrent_nb
from concurrent_nb import ITaskSystem, Task
from concurrent_nb.tasks.system import MasterHandle
from concurrent_nb.transport import connection_file

MIB = 1 << 20


class Noop(Task):
    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self) -> int:
        return self.n


class Noops(ITaskSystem):
    """Adds up the results of no-op tasks; records the memory of its own process and of the master."""

    def __init__(self, count: int, master_pid: int) -> None:
        self.count = count
        self.pids = {"master": master_pid}

    def init_system(self, master: MasterHandle) -> None:
        self.pids["host"] = psutil.Process().pid
        self.total = self.seen = 0
        self.began_s = time.perf_counter()

    def generate_tasks(self, master: MasterHandle) -> Iterator[Task]:
        return (Noop(n) for n in range(self.count))

    def task_finished(self, master: MasterHandle, task: Task, result: Any, error: BaseException | None) -> None:
        if error is not None:
            raise error
        self.total += result
        self.seen += 1
        if self.seen == self.count // 10:
            self.early = self.memory()

    def gather_result(self, master: MasterHandle) -> Any:
        assert self.total == sum(range(self.count))
        took_s = time.perf_counter() - self.began_s
        late = self.memory()
        return took_s, {name: (late[name] - self.early[name]) / MIB for name in late}

    def memory(self) -> dict[str, int]:
        return {name: psutil.Process(pid).memory_info().rss for name, pid in self.pids.items()}


def identity(n: int) -> int:
    return n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--long", type=int, default=1_000_000)
    chosen = parser.parse_args()
    with concurrent_nb.Cluster(workers=2) as cluster:
        app = cluster.application()
        assert cluster.connection_file is not None
        master_pid = connection_file.read(cluster.connection_file).pid
        list(app.map(identity, range(1000)))
        ratios = []
        for _ in range(chosen.rounds):
            system_s, _ = app.push_tasksystem(Noops(chosen.tasks, master_pid)).result()
            start = time.perf_counter()
            assert sum(app.map(identity, range(chosen.tasks), chunksize=1)) == sum(range(chosen.tasks))
            map_s = time.perf_counter() - start
            ratios.append(map_s / system_s)
            print(f"system {chosen.tasks / system_s:,.0f}/s, map {chosen.tasks / map_s:,.0f}/s, {ratios[-1]:.2f} x")
        if ratios:
            print(f"median {statistics.median(ratios):.2f} x map")
        if chosen.long:
            took_s, grown = app.push_tasksystem(Noops(chosen.long, master_pid)).result()
            by = ", ".join(f"{name} {mib:+.1f} MiB" for name, mib in grown.items())
            print(f"{chosen.long:,} tasks in {took_s:.0f} s, {chosen.long / took_s:,.0f}/s; grown since a tenth: {by}")


if __name__ == "__main__":
    main()
