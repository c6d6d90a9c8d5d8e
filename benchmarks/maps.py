"""Short items through `map`, side by side in one run: ours, multiprocessing.Pool, ProcessPoolExecutor. 2 workers.

    python -m benchmarks.maps [--rounds 5] [--items 100000]

Numbers, texts and None, mixed; one in a thousand raises, and its exception replaces its result. Ours does that itself,
and chooses its chunks. The pools cannot, so they get what a careful user would write: a function that catches
exceptions, and chunks of an eighth of all items. Their exceptions have no remote traceback.

Then items that compute for 20 us and 1 ms, with default chunks (Pool) and tuned ones (ProcessPoolExecutor). Every
round measures each of them once, in turn. Quote the ratios of one run; absolute figures vary with the machine's load.
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import concurrent_nb
from benchmarks.submits import cpu_s, forked_pools, print_cpu_by_hop, read_options
from benchmarks.workloads import pass_time

Mapper = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


def mostly(x: Any) -> Any:
    if type(x) is int and x % 1000 == 7:
        raise ValueError(x)
    return x


def caught(fn: Callable[[Any], Any], x: Any) -> Any:
    try:
        return fn(x)
    except Exception as error:  # noqa: BLE001  (what ours does by itself)
        return error


def mixed(count: int) -> list[Any]:
    return [(n, f"text {n}", n / 2, None)[n % 4] if n % 1000 != 7 else n for n in range(count)]


def rate(mapper: Mapper, fn: Callable[[Any], Any], items: Sequence[Any]) -> float:
    """Items per second from the call to the last result."""
    start = time.perf_counter()
    found = mapper(fn, items)
    took_s = time.perf_counter() - start
    assert len(found) == len(items)
    return len(items) / took_s


def check(mapper: Mapper) -> None:
    items = mixed(3000)
    for item, result in zip(items, mapper(mostly, items), strict=True):
        fails = type(item) is int and item % 1000 == 7
        assert isinstance(result, ValueError) if fails else result == item


def compare(title: str, contenders: dict[str, Mapper], fn: Any, items: Sequence[Any], rounds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, mapper in contenders.items():
            rates[name].append(rate(mapper, fn, items))
    print(f"{title:42}{'items/s, median [range]':>36}{'x PPE':>8}")
    for name, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(found, rates["PPE"], strict=True))
        text = f"{statistics.median(found):,.0f} [{min(found):,.0f}-{max(found):,.0f}]"
        print(f"  {name:40}{text:>36}{ratio:>8.2f}")


def main() -> None:
    options = read_options(__doc__, "--items", 100_000)
    with forked_pools() as (pool, ppe), concurrent_nb.Cluster(workers=2) as cluster:
        app = cluster.application()
        contenders: dict[str, Mapper] = {
            "ours": lambda fn, items: list(app.map(fn, items, return_exceptions=True)),
            "Pool": lambda fn, items: pool.map(functools.partial(caught, fn), items),
            "PPE": lambda fn, items: list(
                ppe.map(functools.partial(caught, fn), items, chunksize=max(1, len(items) // 8))
            ),
        }
        for mapper in contenders.values():
            check(mapper)
        items = mixed(options.items)
        compare(f"{options.items:,} mixed, 1 in 1000 fails", contenders, mostly, items, options.rounds)
        compare("20,000 of 20 us", contenders, pass_time, [20e-6] * 20_000, options.rounds)
        compare("1,000 of 1 ms", contenders, pass_time, [0.001] * 1000, options.rounds)
        before = cpu_s()
        rate(contenders["ours"], mostly, items)
        after = cpu_s()
    print("CPU per mixed item of ours, by hop:")
    print_cpu_by_hop(before, after, options.items)


if __name__ == "__main__":
    main()
