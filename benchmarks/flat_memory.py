"""The DNA samples with more than 10,000 tasks, and the memory of the application and the master while they run.

    python -m benchmarks.flat_memory [--nucleotides 20000] [--naive 10000] [--workers 2]

Computes the coordinates of a sequence with one step per task, so in two phases of as many tasks as it has steps, then
the thesis's own split, whose tasks grow with their number (6.4 GB each way for 10,000 nucleotides). Prints the memory
that only these processes have (USS) before, at most, and after. Ends with exit code 1 if it has grown by more than
100 MiB, which is a few percent of the 3 GB that the original needed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import psutil

import concurrent_nb
from concurrent_nb import ITaskSystem
from concurrent_nb.samples.dna import helix
from concurrent_nb.samples.dna.dna_tasks import CoordinatesSystem, Dna, NaiveSystem, naive_checksum
from concurrent_nb.samples.dna.wedge_models import MODELS, THESIS

MIB: Final = 1 << 20
GROWTH_MAX_MIB: Final = 100
#: seconds between two looks
LOOK_S: Final = 0.1


def held() -> dict[str, float]:
    """Return the memory of this process and of the master, in MiB."""
    here = psutil.Process()
    masters = [each for each in here.children(recursive=True) if "nodes master" in " ".join(each.cmdline())]
    found = {"application": here, "master": masters[0]}
    return {name: process.memory_full_info().uss / MIB for name, process in found.items()}


def watched(app: concurrent_nb.ApplicationNode, system: ITaskSystem, name: str) -> tuple[object, bool]:
    """Run a system; print what it took; return its result, and whether the memory stayed flat."""
    before, most, began_s = held(), held(), time.perf_counter()
    run = app.push_tasksystem(system)
    while not run.wait(LOOK_S):
        most = {process: max(most[process], value) for process, value in held().items()}
    result = run.result()
    print(f"{name}: {run.counts().done:,} tasks in {time.perf_counter() - began_s:.1f} s")
    after, is_flat = held(), True
    for process in before:
        seen = f"{before[process]:6.1f} MiB before, {most[process]:6.1f} at most, {after[process]:6.1f} after"
        print(f"  {process:<12} {seen}")
        is_flat = is_flat and most[process] - before[process] < GROWTH_MAX_MIB
    return result, is_flat


def coordinates_are_right(points: object, dna: Dna) -> bool:
    """Compare with the points that one process computes."""
    return bool(np.abs(np.asarray(points) - helix.coordinates(dna.sequence, MODELS[dna.model])).max() < 1e-6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run with these arguments; return the exit code."""
    parser = argparse.ArgumentParser(description="memory of application and master with more than 10,000 tasks")
    parser.add_argument("--nucleotides", type=int, default=20_000, help="of the scan's sequence")
    parser.add_argument("--naive", type=int, default=10_000, help="nucleotides of the thesis's own split")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    scan = Dna((THESIS * (options.nucleotides // len(THESIS) + 1))[: options.nucleotides], "trifonov", factor=1)
    naive = Dna((THESIS * (options.naive // len(THESIS) + 1))[: options.naive], "trifonov", factor=1)
    work: list[tuple[str, ITaskSystem, Callable[[object], bool]]] = [
        ("coordinates", CoordinatesSystem(scan), lambda points: coordinates_are_right(points, scan)),
        ("naive", NaiveSystem(naive), lambda totals: abs(totals.checksum / naive_checksum(naive) - 1) < 1e-9),  # type: ignore[attr-defined]
    ]
    is_right = True
    with concurrent_nb.Cluster(workers=options.workers) as cluster:
        app = cluster.application()
        app.submit(abs, 1).result()
        for name, system, check in work:
            result, is_flat = watched(app, system, name)
            is_right = is_right and is_flat and check(result)
    print("flat and right" if is_right else "NOT flat, or not right")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
