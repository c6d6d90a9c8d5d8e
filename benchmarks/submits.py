"""Single submits, side by side in one run: ours, multiprocessing.Pool, ProcessPoolExecutor. 2 workers, no-op tasks.

    python benchmarks/submits.py [--rounds 5] [--tasks 10000]

Every round measures each of them once, in turn. Quote the ratios of one run; absolute figures vary with the machine's
load. Ours runs with all defaults: CURVE, acknowledgements, an embedded cluster with its own processes.
"""

import argparse
import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psutil

import concurrent_nb

Submit = Callable[..., Any]


def noop(x: int) -> int:
    return x


def throughput(submit: Submit, count: int) -> float:
    """Tasks per second from the first submit to the last result."""
    start = time.perf_counter()
    handles = [submit(noop, number) for number in range(count)]
    assert [handle.result() for handle in handles] == list(range(count))
    return count / (time.perf_counter() - start)


def latency_us(submit: Submit, count: int = 300) -> float:
    """Median time of one submit and its result, each alone."""
    times = []
    for number in range(count):
        start = time.perf_counter()
        submit(noop, number).result()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def cpu_s() -> dict[int, tuple[float, str]]:
    """Return the CPU seconds of this process and its descendants."""
    me = psutil.Process()
    found = {}
    for process in [me, *me.children(recursive=True)]:
        try:
            times, name = process.cpu_times(), role_of(process)
        except psutil.Error:
            continue
        found[process.pid] = times.user + times.system, name
    return found


def read_options(description: str | None, count: str, default: int) -> argparse.Namespace:
    """Return the options of the command line: the number of rounds, and one other number."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(count, type=int, default=default)
    return parser.parse_args()


def print_cpu_by_hop(before: dict[int, tuple[float, str]], after: dict[int, tuple[float, str]], tasks: int) -> None:
    """Print how much CPU each process has used for a task, in the time between two results of `cpu_s`."""
    for pid, (seconds, name) in sorted(after.items()):
        spent = seconds - before.get(pid, (0.0, ""))[0]
        if spent > 0:
            print(f"  {name:8}{spent / tasks * 1e6:8.2f} us")


def role_of(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    for role in ("nodes master", "nodes slave", "nodes.worker"):
        if role in line:
            return role.rpartition(" ")[2].rpartition(".")[2]
    return "client"


class PoolSubmit:
    """multiprocessing.Pool with an executor's submit."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def __call__(self, fn: Callable[..., Any], *args: Any) -> Any:
        handle = self.pool.apply_async(fn, args)
        handle.result = handle.get
        return handle


@contextlib.contextmanager
def forked_pools() -> Iterator[tuple[Any, ProcessPoolExecutor]]:
    """Run a `multiprocessing.Pool` and a ProcessPoolExecutor, each of two processes, that are forked already."""
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool, ProcessPoolExecutor(2, mp_context=context) as executor:
        executor.submit(abs, 1).result()
        yield pool, executor
        pool.terminate()
        pool.join()


def main() -> None:
    options = read_options(__doc__, "--tasks", 10_000)
    with forked_pools() as (pool, ppe), concurrent_nb.Cluster(workers=2) as cluster:
        ours = cluster.application()
        contenders: dict[str, Submit] = {"ours": ours.submit, "Pool": PoolSubmit(pool), "PPE": ppe.submit}
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        lone: dict[str, list[float]] = {name: [] for name in contenders}
        for submit in contenders.values():
            throughput(submit, 500)
        for _ in range(options.rounds):
            for name, submit in contenders.items():
                rates[name].append(throughput(submit, options.tasks))
                lone[name].append(latency_us(submit))
        before = cpu_s()
        throughput(ours.submit, options.tasks)
        after = cpu_s()
    print(f"{'':6}{'submits/s, median [range]':>36}{'x Pool':>10}{'lone p50 us, median [range]':>36}{'x PPE':>10}")
    for name in contenders:
        rate, alone = rates[name], lone[name]
        over_pool = statistics.median(a / b for a, b in zip(rate, rates["Pool"], strict=True))
        over_ppe = statistics.median(a / b for a, b in zip(alone, lone["PPE"], strict=True))
        rate_text = f"{statistics.median(rate):,.0f} [{min(rate):,.0f}-{max(rate):,.0f}]"
        lone_text = f"{statistics.median(alone):,.0f} [{min(alone):,.0f}-{max(alone):,.0f}]"
        print(f"{name:6}{rate_text:>36}{over_pool:>10.2f}{lone_text:>36}{over_ppe:>10.2f}")
    print("CPU per no-op of ours, by hop:")
    print_cpu_by_hop(before, after, options.tasks)


if __name__ == "__main__":
    main()
