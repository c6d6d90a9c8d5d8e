"""Principal components of a matrix that is larger than the memory of its workers.

    python -m benchmarks.out_of_core [--gib 4] [--limit-mib 512] [--workers 2] [--method tsqr]
        [--block-rows 8192] [--folder FOLDER]

Makes a .npy file, starts a cluster whose workers may not use more address space than the limit (RLIMIT_AS: code,
libraries and stacks count too, so that an allocation above it raises MemoryError), computes the components, and prints
the time and the peak memory of each process. Ends with exit code 1 if they are not those that the data were made from.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

import concurrent_nb
from concurrent_nb.samples.data_analysis.analysis_plans import PCA_METHODS, PcaPlan, RandomisedPcaPlan
from concurrent_nb.samples.data_analysis.pca import Pca
from concurrent_nb.samples.data_analysis.row_blocks import NpyRows, SyntheticRows
from concurrent_nb.samples.phased_plan import PhasedPlan, run_plan

MIB = 1 << 20
COLUMNS = 512
COMPONENTS = 5


def limit_memory(limit_bytes: int) -> None:
    """Let this process use no more address space than this."""
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def make_file(path: Path, rows: int, block_rows: int) -> SyntheticRows:
    """Write the matrix, block by block; return what it was made from."""
    made = SyntheticRows(rows, COLUMNS, block_rows, rank=COMPONENTS)
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (rows, COLUMNS)}
        np.lib.format.write_array_header_1_0(file, header)
        for number in range(made.count):
            made.block(number).astype("<f8", copy=False).tofile(file)
    return made


def plan_for(path: Path, method: str, block_rows: int) -> PhasedPlan:
    """Return the plan of a method."""
    blocks = NpyRows(path, block_rows)
    return RandomisedPcaPlan(blocks, COMPONENTS) if method == "randomised" else PcaPlan(blocks, COMPONENTS, method)


def peaks() -> list[str]:
    """Return a line for each process of the cluster: the most memory that it has had (VmHWM) and addressed (VmPeak)."""
    lines = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            command = " ".join(process.cmdline())
            status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        except (psutil.Error, OSError):
            continue
        found = (word for word in ("nodes master", "nodes slave", "worker.process") if word in command)
        peak, addressed = (int(status[key].split()[0]) // 1024 for key in ("VmHWM", "VmPeak"))
        lines.append(f"  {next(found, 'this process'):<15} {peak:>5} MiB resident, {addressed:>5} MiB addressed")
    return lines


def is_right(found: Pca, made: SyntheticRows) -> bool:
    """Compare with the covariance that the data were drawn from; of N rows it deviates by about 1 / sqrt(N)."""
    return bool(np.allclose(found.explained_variance, made.variances, rtol=10 / made.rows**0.5))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run with these arguments; return the exit code."""
    parser = argparse.ArgumentParser(description="PCA of a matrix that is larger than the memory of its workers")
    parser.add_argument("--gib", type=float, default=4.0, help="size of the matrix")
    parser.add_argument("--limit-mib", type=int, default=512, help="limit of each worker's address space")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--method", choices=PCA_METHODS, default="tsqr")
    parser.add_argument("--block-rows", type=int, default=8192, help="rows of a block; 8192 are 32 MiB")
    parser.add_argument("--folder", help="where the matrix is written, and removed in the end")
    options = parser.parse_args(arguments)
    rows = int(options.gib * 1024 * MIB) // (8 * COLUMNS)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "matrix.npy"
        made = make_file(path, rows, min(options.block_rows, 8192))
        print(f"{rows} x {COLUMNS} numbers, {path.stat().st_size / 1024 / MIB:.2f} GiB")
        limit_bytes = options.limit_mib * MIB
        with concurrent_nb.Cluster(
            workers=options.workers, initializer=limit_memory, initargs=(limit_bytes,)
        ) as cluster:
            began = time.perf_counter()
            found = run_plan(cluster.application(), plan_for(path, options.method, options.block_rows))
            took_s = time.perf_counter() - began
            print(f"{options.method}: {took_s:.1f} s, {options.workers} workers of {options.limit_mib} MiB each")
            print("\n".join(peaks()))
    print("explained variance", " ".join(f"{each:.4f}" for each in found.explained_variance))
    if not is_right(found, made):
        print("WRONG: the data were made from others", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
